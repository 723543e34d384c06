"""Declarations: what is taken, and every wrong option with its way out."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from strategies import virtual

import hyperslab as hs
from hyperslab.errors import PlanError
from hyperslab.planning.declare import ORIGIN, footprint_box
from hyperslab_workers.access import Privilege
from hyperslab_workers.box import Box
from hyperslab_workers.reduction import OPERATIONS


def array(shape=(4, 5, 6), dtype="f4", **changes) -> hs.Array:
    """An array of which nothing exists but the reference: declarations look no further."""
    return hs.Array(virtual(shape, dtype, **changes))


def said(call, *args, **options) -> str:
    with pytest.raises(PlanError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_the_four_privileges():
    a = array()
    assert hs.read(a).privilege is Privilege.READ
    assert hs.write(a).privilege is Privilege.WRITE
    assert hs.update(a).privilege is Privilege.UPDATE
    assert hs.accumulate(a).privilege is Privilege.ACCUMULATE


def test_a_plain_declaration_says_nothing_special():
    d = hs.read(array())
    assert (d.axes, d.halo, d.boundary, d.whole) == (None, ((0, 0),) * 3, "clip", False)
    assert not d.any_order


@pytest.mark.parametrize(
    ("halo", "widths"),
    [
        (0, ((0, 0),) * 3),
        (2, ((2, 2),) * 3),
        (np.int64(2), ((2, 2),) * 3),
        ((0, 1, 2), ((0, 0), (1, 1), (2, 2))),
        ([0, (1, 2), [3, 4]], ((0, 0), (1, 2), (3, 4))),
        (((0, 0), (1, 0), (0, np.int8(1))), ((0, 0), (1, 0), (0, 1))),
    ],
)
def test_halos_are_given_for_all_axes_or_for_each(halo, widths):
    found = hs.read(array(), halo=halo).halo
    assert found == widths
    assert all(type(width) is int for pair in found for width in pair)


@pytest.mark.parametrize(
    "halo",
    [-1, (1, 1), (1, 1, 1, 1), (1, 1, -1), (1, 1, (1, -1)), (1, 1, (1, 2, 3)), (1, 1, (1,)),
     1.5, (1, 1, 1.5), "111", (1, 1, "11"), None, (1, 1, None), {0: 1}],
)  # fmt: skip
def test_a_wrong_halo_is_refused_with_what_to_give(halo):
    text = said(hs.read, array(), halo=halo)
    assert f"halo={halo!r}" in text
    assert "3 axes" in text
    assert "none negative" in text


def test_an_array_without_axes_takes_no_halo_but_every_halo_number():
    assert hs.read(array(()), halo=3).halo == ()


@pytest.mark.parametrize(
    "boundary", ["clip", "nearest", "reflect", "wrap", 0, -1.5, math.nan, True]
)
def test_boundaries_are_a_name_or_a_number(boundary):
    found = hs.read(array(), halo=1, boundary=boundary).boundary
    assert found == boundary or math.isnan(found)


@pytest.mark.parametrize(
    ("boundary", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int16(3), 3),
        (Fraction(1, 2), 0.5),
        (Decimal("0.5"), 0.5),
        (np.complex64(1j), 1j),
    ],
)
def test_numbers_of_all_kinds_become_plain_ones(boundary, plain):
    found = hs.read(array(), halo=1, boundary=boundary).boundary
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize("boundary", ["edge", "mirror", "", None, [0], np.zeros(3)])
def test_a_wrong_boundary_is_refused_with_the_right_ones(boundary):
    text = said(hs.read, array(), halo=1, boundary=boundary)
    assert f"boundary={boundary!r}" in text
    assert "clip, nearest, reflect, wrap" in text
    assert "number" in text


@pytest.mark.parametrize("boundary", ["nearest", "reflect", "wrap"])
def test_an_empty_array_has_nothing_to_continue_with(boundary):
    empty = array((0, 3))
    assert "at least one element" in said(hs.read, empty, halo=1, boundary=boundary)
    hs.read(empty, halo=1, boundary="clip")
    hs.read(empty, halo=1, boundary=0)
    hs.read(empty, boundary=boundary)


@pytest.mark.parametrize("declare", [hs.read, hs.write, hs.update])
def test_axes_are_named_for_each_array_axis(declare):
    assert declare(array(), axes=(2, None, np.int64(0))).axes == (2, None, 0)
    assert declare(array(), axes=[0, -1, 1]).axes == (0, -1, 1)


@pytest.mark.parametrize("declare", [hs.read, hs.write, hs.update])
@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 2, 3), (), (0, 1, 2.0), (0, 1, "2"), 1])
def test_wrong_axes_are_refused_with_what_to_give(declare, axes):
    text = said(declare, array(), axes=axes)
    assert f"axes={axes!r}" in text
    assert "domain axis" in text
    assert "None" in text


def test_whole_excludes_what_it_makes_meaningless():
    assert hs.read(array(), whole=True).whole
    assert "axes=" in said(hs.read, array(), whole=True, axes=(0, 1, 2))
    assert "halo=" in said(hs.read, array(), whole=True, halo=1)


@pytest.mark.parametrize("declare", [hs.read, hs.write, hs.update, hs.accumulate])
def test_what_is_no_array_is_refused_with_how_to_get_one(declare):
    for value in (np.zeros(3), [1, 2], "t2m.npy", None, 3):
        text = said(declare, value)
        assert f"{declare.__name__}()" in text
        assert type(value).__name__ in text
        assert "hs.from_array" in text
    assert "give the array itself" in said(declare, hs.read(array()))


@pytest.mark.parametrize("declare", [hs.write, hs.update, hs.accumulate])
def test_what_is_open_for_reading_is_not_changed(declare):
    text = said(declare, array(writable=False, path="/data/era5.npy"))
    assert f"{declare.__name__}()" in text
    assert "'/data/era5.npy'" in text
    assert 'mode="r+"' in text
    hs.read(array(writable=False))


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_is_taken(op):
    assert hs.accumulate(array(), op).op == op


@pytest.mark.parametrize("op", ["sum", "", None, "Add", np.add])
def test_an_unknown_operation_is_refused_with_the_known_ones(op):
    text = said(hs.accumulate, array(), op)
    assert f"op={op!r}" in text
    assert "add, multiply, minimum, maximum, logical_and, logical_or" in text


@pytest.mark.parametrize(("op", "dtype"), [("minimum", "c8"), ("add", "M8[s]"), ("add", "S4")])
def test_an_operation_without_identity_is_refused_for_that_type(op, dtype):
    text = said(hs.accumulate, array((3,), dtype), op)
    assert f"op={op!r}" in text
    assert str(np.dtype(dtype)) in text


def test_the_order_of_merging():
    assert hs.accumulate(array(), order="any").any_order
    text = said(hs.accumulate, array(), order="random")
    assert "order='random'" in text
    assert '"region" or "any"' in text


@pytest.mark.parametrize("footprint", [3, (slice(None),), "all"])
def test_a_footprint_is_a_function(footprint):
    text = said(hs.accumulate, array(), footprint=footprint)
    assert f"footprint={footprint!r}" in text
    assert "a function" in text


REGION = Box((4, 0), (8, 3))


def box_of(returned, shape=(10, 20)) -> Box:
    return footprint_box(hs.accumulate(array(shape), footprint=lambda _: returned), REGION)


def test_a_footprint_is_asked_with_the_slices_of_the_region():
    asked = []
    hs_accumulate = hs.accumulate(array((10,)), footprint=lambda r: asked.append(r) or np.s_[:])
    footprint_box(hs_accumulate, REGION)
    assert asked == [(slice(4, 8), slice(0, 3))]


@pytest.mark.parametrize(
    ("returned", "box"),
    [
        (np.s_[2:5, 3:4], Box((2, 3), (5, 4))),
        (np.s_[2:5], Box((2, 0), (5, 20))),
        ((), Box((0, 0), (10, 20))),
        (np.s_[:, 7:], Box((0, 7), (10, 20))),
        (np.s_[8:99], Box((8, 0), (10, 20))),
        (np.s_[5:5], Box((5, 0), (5, 20))),
        (np.s_[5:2], Box((5, 0), (5, 20))),
        ((slice(np.int64(2), np.int64(5)),), Box((2, 0), (5, 20))),
        (Box((1, 2), (3, 4)), Box((1, 2), (3, 4))),
    ],
)
def test_a_footprint_is_a_part_of_the_array(returned, box):
    assert box_of(returned) == box


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (3, ["3", "2 slices"]),
        (None, ["None", "2 slices"]),
        ([slice(1, 2)], ["2 slices"]),
        (np.s_[1, 2:3], ["2 slices"]),
        (np.s_[1:2, 1:2, 1:2], ["2 slices"]),
        (np.s_[...], ["Ellipsis", "2 slices"]),
        (np.s_[1.5:3], ["slice(1.5, 3, None)", "2 slices"]),
        (np.s_["a":"b"], ["2 slices"]),
        (np.s_[1:5:0], ["slice(1, 5, 0)", "2 slices"]),
        (np.s_[1:9:2], ["a step of 2", "without a step"]),
        (np.s_[9:1:-1], ["a step of -1", "without a step"]),
        (np.s_[-1:4], ["slice(-1, 4, None)", "axis 0", "max(start, 0)"]),
        (np.s_[0:4, 3:-1], ["axis 1", "count from the end"]),
        (Box((0, 0), (11, 20)), ["[0:11, 0:20]", "(10, 20)"]),
        (Box((-1, 0), (5, 20)), ["[-1:5, 0:20]", "(10, 20)"]),
        (Box((0,), (5,)), ["[0:5]", "(10, 20)"]),
    ],
)
def test_a_footprint_that_is_no_part_of_the_array_is_refused(returned, words):
    text = said(box_of, returned)
    assert "footprint= returned" in text
    assert "region [4:8, 0:3]" in text
    assert all(word in text for word in words), text


def test_a_footprint_that_raises_is_told_with_its_region():
    def footprint(region):
        return region[2]

    text = said(footprint_box, hs.accumulate(array(), footprint=footprint), REGION)
    assert "footprint= raised IndexError for region [4:8, 0:3]: tuple index out of range" in text
    assert "2 slices" in text


def test_origin_says_what_it_is():
    assert hs.ORIGIN is ORIGIN
    assert repr(ORIGIN) == "hyperslab.ORIGIN"


def test_a_declaration_cannot_be_changed():
    with pytest.raises(AttributeError):
        hs.read(array()).halo = ()
