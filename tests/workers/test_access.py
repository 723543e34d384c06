"""Accesses: the boxes that go with the regions of a domain."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import access, boundaries, halos, orders, regions, shapes, virtual

from hyperslab_workers.access import BOUNDARIES, Placement, Privilege
from hyperslab_workers.box import Box, Grid


@st.composite
def followed(draw):
    """A domain cut into regions, and an access whose array follows some of its axes."""
    domain = draw(shapes())
    grid = Grid(domain, draw(regions(domain)))
    axes = draw(st.permutations(range(len(domain))))
    axes = [axis if draw(st.integers(0, 3)) else None for axis in axes[: draw(st.integers(0, 4))]]
    shape = tuple(draw(st.integers(0, 4)) if axis is None else domain[axis] for axis in axes)
    return grid, access(
        virtual(shape, order=draw(orders)),
        axes=tuple(axes),
        halo=draw(st.just(((0, 0),) * len(axes)) | halos(len(axes))),
        boundary=draw(boundaries),
    )


@given(followed())
def test_the_boxes_of_all_regions_cover_the_array(case):
    grid, a = case
    covered = np.zeros(a.array.shape, bool)
    for region in grid:
        box = a.box(region).intersect(Box.of_shape(a.array.shape))
        covered[box.slices] = True
    # A domain without elements has no region, and leaves its arrays alone.
    assert covered.all() or not len(grid)


@given(followed())
def test_a_box_is_the_region_seen_from_the_array_and_its_halo(case):
    grid, a = case
    for region in grid:
        box = a.box(region)
        for n, axis, (before, after), lo, hi in zip(
            a.array.shape, a.axes, a.halo, box.lo, box.hi, strict=True
        ):
            first, last = (0, n) if axis is None else (region.lo[axis], region.hi[axis])
            if a.boundary == "clip":
                assert (lo, hi) == (max(first - before, 0), min(last + after, n))
            else:
                assert (lo, hi) == (first - before, last + after)


@given(followed())
def test_has_halo_says_whether_more_than_the_region_is_seen(case):
    _, a = case
    assert a.has_halo == bool(np.any(a.halo))


def test_boundaries_are_the_five_with_a_name():
    assert BOUNDARIES == ("clip", "nearest", "reflect", "wrap", "parent")


@pytest.mark.parametrize("shape", [(7,), (10**9, 10**6), (5000,) * 4])
def test_an_access_weighs_little_whatever_the_array(shape):
    a = access(
        virtual(shape, "f8"),
        Privilege.ACCUMULATE,
        (None,) * len(shape),
        op="add",
        placement=Placement.MERGE,
    )
    packed = pickle.dumps(a, protocol=5)
    assert len(packed) < 1500
    assert pickle.loads(packed) == a
