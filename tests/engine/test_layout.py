"""What the compiler is promised of the arguments holds in every region, and is worth telling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import array, bind_all, plan
from strategies import boundaries, halos, orders, regions, shapes

import hyperslab as hs
from hyperslab.planning.layout import equal_lengths
from hyperslab.planning.plan import Plan
from hyperslab_workers.access import Placement
from hyperslab_workers.kernel.types import unit_axes


def arguments_of(made: Plan):
    """What the kernel is called with, region by region."""
    bindings = bind_all(made)
    for task in made:
        for binding in bindings:
            binding.begin_task()
        for index in range(task.start, task.stop):
            boxes = iter(task.footprints[index - task.start] if task.footprints else ())
            region = made.grid.box(index)
            for binding in bindings:
                binding.locate(region, next(boxes, None) if binding.guards_commit else None)
            yield [binding.prepare(region) for binding in bindings]


@st.composite
def jobs(draw):
    """Views of arrays in real files, declared in every way; some axes of the domain stay whole."""
    domain = draw(shapes(max_dims=3, min_side=draw(st.integers(0, 1))))
    arguments = []
    for _ in range(draw(st.integers(1, 3))):
        values = np.zeros(tuple(n + 1 for n in domain), draw(st.sampled_from(["f4", "i8"])))
        file = hs.from_array(np.asarray(values, order=draw(orders)))
        view = file[tuple(slice(draw(st.integers(0, 1)), None) for _ in domain)]
        view = view[tuple(slice(0, n) for n in domain)]
        axes = tuple(range(len(domain)))
        if draw(st.booleans()):
            view, axes = view.T, axes[::-1]
        how = draw(st.sampled_from(["read", "halo", "write", "sum", "footprint", "whole", "sent"]))
        if how == "read":
            arguments.append(hs.read(view, axes=axes))
        elif how == "halo" and 0 not in domain:
            widths, boundary = draw(halos(len(domain))), draw(boundaries.filter(lambda b: b != 0.5))
            arguments.append(hs.read(view, axes=axes, halo=widths, boundary=boundary))
        elif how == "write":
            arguments.append(hs.write(view, axes=axes))
        elif how == "sum":
            arguments.append(hs.accumulate(view))
        elif how == "footprint":
            arguments.append(
                hs.accumulate(view, footprint=lambda r, a=axes: tuple(r[i] for i in a))
            )
        elif how == "whole":
            arguments.append(hs.read(view, whole=True))
        else:
            arguments.append(np.asarray(view))
    region = tuple(draw(st.sampled_from([n, None])) for n in draw(regions(domain)))
    return domain, arguments, region


@settings(max_examples=80)
@given(jobs())
def test_every_promise_holds_in_every_region(job):
    domain, arguments, region = job
    made = plan(*arguments, over=domain, region=region)
    for values in arguments_of(made):
        for value, kind in zip(values, made.types, strict=True):
            assert kind.layout != "C" or value.flags.c_contiguous
            assert kind.layout != "F" or value.flags.f_contiguous
            if kind.unit_axis is not None:
                found = unit_axes(value.shape, value.strides, value.itemsize)
                assert kind.unit_axis in found
        for group in equal_lengths(made.arguments, made.grid):
            lengths = {values[p].shape[axis] - delta for p, axis, delta in group}
            assert len(lengths) == 1
    for declared in arguments:
        if not isinstance(declared, np.ndarray):
            declared.array.close()


@pytest.mark.parametrize(
    ("make", "region", "axis"),
    [
        (lambda: array((9, 50, 40))[:, 10:20], (3, None, None), 2),
        (lambda: array((9, 50, 40))[:, 10:20, 5:25], (3, None, None), 2),
        (lambda: array((9, 50, 40)), (3, 10, None), 2),
        (lambda: array((9, 50, 40), order="F"), (3, None, None), 0),
        (lambda: array((9, 50, 40), order="F")[:, 10:20], (3, None, None), 0),
        (lambda: array((9, 50, 40))[::-1], (3, None, None), 2),
        (lambda: hs.read(array((50, 40)), halo=1), (5, 10), 1),
        (lambda: hs.read(array((50, 40)), halo=1, boundary="wrap"), (5, 10), 1),
        # No two elements along an axis are neighbours, or not in all regions.
        (lambda: array((9, 50, 40))[:, :, ::2], (3, None, None), None),
        (lambda: array((9, 50, 40))[:, :, ::-1], (3, None, None), None),
        # The time axis of a region has one element: that it is a neighbour of itself helps nobody.
        (lambda: array((9, 50, 40))[:, :20, ::2], (1, None, None), None),
    ],
)
def test_the_axis_of_neighbours(make, region, axis):
    kind = plan(make(), region=region).types[0]
    assert (kind.layout, kind.unit_axis) == ("A", axis)


def test_a_view_turned_so_that_its_neighbours_lie_along_the_middle_axis():
    turned = hs.read(array((50, 40)).T, axes=(1, 0))
    assert plan(turned, over=(50, 40), region=(5, 10)).types[0].unit_axis == 0


def test_contiguous_arguments_need_no_axis():
    kind = plan(array((50, 40)), region=(5, None)).types[0]
    assert (kind.layout, kind.unit_axis) == ("C", None)


@pytest.mark.parametrize("boundary", ["nearest", "reflect", "wrap", 0.0])
@pytest.mark.parametrize("width", [3, 15, 25, (15, 0), (0, 25), 70])
def test_a_halo_wider_than_a_region(width, boundary):
    """Some regions beyond the first and the last are padded copies, those between the map."""
    field = hs.from_array(np.zeros((7, 60)))
    made = plan(hs.read(field, halo=(0, width), boundary=boundary), region=(None, 10))
    (kind,) = made.types
    for (value,) in arguments_of(made):
        assert kind.layout != "C" or value.flags.c_contiguous
        assert kind.unit_axis is None or value.strides[kind.unit_axis] == value.itemsize
    field.close()


def test_the_budget_does_not_change_what_is_compiled():
    """Integers may be gathered in the file or in private: both ways run the same code."""
    strided = array((2000, 1500), "i8")[:, ::2]
    narrow = array((2000, 1500), "i8")[:, :1400]
    t = array((2000, 361, 720))
    rich, poor = (
        plan(t, hs.accumulate(strided), hs.accumulate(narrow), memory=memory)
        for memory in ("100GB", "250MB")
    )
    assert [a.placement for a in rich.arguments[1:]] == [Placement.PRIVATE] * 2
    assert [a.placement for a in poor.arguments[1:]] == [Placement.DIRECT] * 2
    assert rich.types == poor.types
    assert [kind.unit_axis for kind in rich.types[1:]] == [None, 1]


T, PLACES = (2000, 361, 720), (361, 720)


def lengths(*arguments, region=(10, None, None), over=T):
    made = plan(*arguments, region=region, over=over)
    return set(equal_lengths(made.arguments, made.grid))


def test_what_is_accumulated_for_each_place_is_as_wide_as_the_slabs():
    both = {((0, 1, 0), (1, 0, 0)), ((0, 2, 0), (1, 1, 0))}
    assert lengths(array(T), hs.accumulate(array(PLACES, "i8"))) == both
    assert lengths(array(T), hs.read(array(PLACES), whole=True)) == both
    assert lengths(array(T), np.zeros((361, 7))) == {((0, 1, 0), (1, 0, 0))}


def test_a_split_axis_is_as_long_as_nothing_whole():
    counts = hs.accumulate(array(PLACES, "i8"))
    assert lengths(array(T), counts, region=(10, 20, None)) == {((0, 2, 0), (1, 1, 0))}
    assert lengths(array(T), counts, region=(10, 20, 30)) == set()
    assert lengths(array(T), array(T), region=(10, 20, 30)) == {
        ((0, axis, 0), (1, axis, 0)) for axis in range(3)
    }


def test_lengths_with_a_halo():
    clipped = hs.read(array(T), halo=(0, 1, 1))
    wrapped = hs.read(array(T), halo=(0, 1, 1), boundary="wrap")
    out = hs.write(array(T))
    time = ((0, 0, 0), (1, 0, 0))
    # Of a whole axis a clipped halo shows nothing more, any other one two elements.
    assert lengths(clipped, out) == {time, ((0, 1, 0), (1, 1, 0)), ((0, 2, 0), (1, 2, 0))}
    assert lengths(wrapped, out) == {time, ((0, 1, 2), (1, 1, 0)), ((0, 2, 2), (1, 2, 0))}
    # Of a split one it is shorter at the edges.
    assert lengths(clipped, out, region=(10, 20, None)) == {time, ((0, 2, 0), (1, 2, 0))}


def test_a_footprint_has_any_shape():
    into = hs.accumulate(array(PLACES, "i8"), footprint=lambda region: region[1:])
    assert lengths(array(T), into) == set()
