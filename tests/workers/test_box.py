"""Boxes and grids against NumPy: which elements a box selects is the only truth about it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes, halos, regions, shapes

from hyperslab_workers.box import Box, Grid


def marked(shape: tuple[int, ...], box: Box) -> np.ndarray:
    """Which elements of an array lie in a box."""
    mask = np.zeros(shape, bool)
    mask[box.slices] = True
    return mask


@given(st.data())
def test_a_box_selects_what_its_shape_and_size_say(data):
    shape = data.draw(shapes())
    box = data.draw(boxes(shape))
    selected = np.empty(shape)[box.slices]
    assert box.ndim == len(shape)
    assert box.shape == selected.shape
    assert box.size == selected.size
    assert Box.of_shape(shape).contains(box)
    assert pickle.loads(pickle.dumps(box)) == box


@given(st.data())
def test_intersection_meeting_and_containment_are_those_of_the_elements(data):
    shape = data.draw(shapes())
    a, b = data.draw(boxes(shape)), data.draw(boxes(shape))
    in_a, in_b = marked(shape, a), marked(shape, b)
    common = a.intersect(b)
    assert common.size == np.count_nonzero(in_a & in_b)
    if common.size:
        assert np.array_equal(marked(shape, common), in_a & in_b)
    assert a.meets(b) == b.meets(a) == bool((in_a & in_b).any())
    assert a.contains(b) == bool((in_a | ~in_b).all())


@given(st.data())
def test_growing_adds_the_halo_on_each_side(data):
    shape = data.draw(shapes())
    box, halo = data.draw(boxes(shape)), data.draw(halos(len(shape)))
    grown = box.grow(halo)
    for axis, (before, after) in enumerate(halo):
        assert grown.lo[axis] == box.lo[axis] - before
        assert grown.hi[axis] == box.hi[axis] + after
    assert grown.contains(box)


def test_a_box_with_ends_the_wrong_way_round_is_empty():
    box = Box((3, 0), (1, 5))
    assert box.shape == (0, 5)
    assert box.size == 0
    assert not box.meets(box)
    assert Box((0, 0), (1, 1)).contains(box)


def test_a_box_without_axes_has_one_element():
    box = Box.of_shape(())
    assert (box.shape, box.size, box.slices, str(box)) == ((), 1, (), "[]")
    assert box.meets(box)
    assert box.contains(box)


def test_boxes_of_different_rank_are_not_compared_in_silence():
    with pytest.raises(ValueError, match=r"(shorter|longer) than"):
        Box((0,), (1,)).intersect(Box((0, 0), (1, 1)))


@given(st.data())
def test_a_grid_covers_every_element_exactly_once(data):
    shape = data.draw(shapes())
    grid = Grid(shape, data.draw(regions(shape)))
    count = np.zeros(shape, int)
    for box in grid:
        assert 0 not in box.shape, "no region is empty"
        count[box.slices] += 1
    assert (count == 1).all()
    assert len(grid) == np.prod(grid.counts, dtype=int)
    assert len(list(grid)) == len(grid)


@given(st.data())
def test_regions_are_numbered_in_c_order(data):
    shape = data.draw(shapes(min_side=1))
    grid = Grid(shape, data.draw(regions(shape)))
    starts = [box.lo for box in grid]
    assert starts == sorted(starts)
    for index, box in enumerate(grid):
        position = np.unravel_index(index, grid.counts) if shape else ()
        expected = tuple(int(p) * r for p, r in zip(position, grid.region, strict=True))
        assert box.lo == expected
        assert grid.box(index) == box


def test_a_region_far_into_a_huge_grid_is_arithmetic():
    grid = Grid((10**9, 10**6), (1000, 10**6))
    assert len(grid) == 10**6
    assert grid.box(len(grid) - 1) == Box((10**9 - 1000, 0), (10**9, 10**6))


@pytest.mark.parametrize("index", [-1, 3])
def test_a_region_that_does_not_exist_is_an_error(index):
    with pytest.raises(IndexError, match=f"region {index} of 3"):
        Grid((5,), (2,)).box(index)


@pytest.mark.parametrize("region", [(2,), (2, 0), (2, -1), (1, 1, 1)])
def test_a_region_that_does_not_fit_the_domain_is_refused(region):
    with pytest.raises(ValueError, match=r"does not fit a domain of shape \(4, 4\)"):
        Grid((4, 4), region)
