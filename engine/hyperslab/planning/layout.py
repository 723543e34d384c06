"""Memory layouts: what a kernel's arguments look like to the compiler.

The compiler uses vector instructions along an axis whose elements it knows to be neighbours in
memory: the last of an array in C order, the first of one in Fortran order, and of a view that is
not contiguous as a whole, such as a band of latitudes, the axis that is named to it. One signature
has to serve all regions of a job, so an argument counts as contiguous, or an axis as one of
neighbours, where it is in the view of every kind of region.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from hyperslab.planning import partition
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import ArgumentType, ArrayType, TupleType, type_of
from hyperslab_workers.kernel.types import longest_axis, unit_axes
from hyperslab_workers.reduction import is_exact
from hyperslab_workers.task import Argument, Origin, Value

__all__ = ["argument_type", "buffer_order", "equal_lengths", "stores_through_map"]

_LONG_RUN = 1024
"""Bytes of neighbouring elements from which strided rows cost no more than contiguous ones."""


def buffer_order(argument: Argument) -> Literal["C", "F"]:
    """The memory order for private copies of an array: that of its file."""
    if not isinstance(argument, Access):
        return "C"
    array = argument.array
    strides = [abs(s) for s, n in zip(array.strides, array.shape, strict=True) if n > 1]
    return "F" if len(strides) > 1 and strides == sorted(strides) else "C"


def argument_type(
    argument: Argument, order: Literal["C", "F"], grid: Grid, through_map: bool = False
) -> ArgumentType:
    """The machine type of an argument, for all regions of a grid.

    With `through_map` the type serves private copies and the file's own pages alike.
    """
    if isinstance(argument, Origin):
        return TupleType(len(grid.shape))
    if isinstance(argument, Value):
        kind = type_of(argument.value)
        return dataclasses.replace(kind, mutable=False) if isinstance(kind, ArrayType) else kind
    array = argument.array
    itemsize = array.dtype.itemsize
    orders, units = {"C", "F"}, set(range(array.ndim))
    longest = (0,) * array.ndim
    for region in partition.representatives(grid, argument) if len(grid) else ():
        box = argument.box(region)
        longest = tuple(map(max, longest, box.shape))
        for strides in _strides_seen(argument, box, order, through_map):
            orders &= _orders(box.shape, strides, itemsize)
            units &= unit_axes(box.shape, strides, itemsize)
    mutable = argument.privilege is not Privilege.READ
    if orders:
        return ArrayType(array.dtype, array.ndim, "C" if "C" in orders else "F", mutable)
    return ArrayType(array.dtype, array.ndim, "A", mutable, longest_axis(units, longest))


def stores_through_map(argument: Argument, order: Literal["C", "F"], grid: Grid) -> bool:
    """Whether a kernel may as well store into the file's own pages as into a private copy.

    One machine code serves both, so it must not become slower for it: both are contiguous, or
    elements are neighbours along one axis in both, in runs that are worth it.
    """
    if not isinstance(argument, Access) or argument.privilege is not Privilege.WRITE:
        return False
    if not argument.array.aligned or not len(grid):
        return False
    kind = argument_type(argument, order, grid, through_map=True)
    assert isinstance(kind, ArrayType)
    if kind.layout != "A":
        return True
    axis = kind.unit_axis
    run = (
        0 if axis is None else argument.box(grid.box(0)).shape[axis] * argument.array.dtype.itemsize
    )
    return run >= _LONG_RUN


def _strides_seen(
    access: Access, box: Box, order: Literal["C", "F"], through_map: bool
) -> Iterator[tuple[int, ...]]:
    """The strides that the kernel may see at that box: the file's, or a private copy's."""
    array = access.array
    if through_map or (access.privilege is Privilege.READ and not access.copied(box)):
        yield array.strides
    if access.privilege is Privilege.READ and not access.copied(box):
        return
    if access.placement in (Placement.DIRECT, Placement.PRIVATE):
        # Of integers the budget decides between the two, and it must not change the machine
        # code: that of another layout may round other arguments differently.
        either = is_exact(array.dtype)
        if either or access.placement is Placement.DIRECT:
            yield array.strides
        if either or access.placement is Placement.PRIVATE:
            yield _contiguous(box.shape, array.dtype.itemsize, "C")
    else:
        yield _contiguous(box.shape, array.dtype.itemsize, order)


def _contiguous(shape: tuple[int, ...], itemsize: int, order: Literal["C", "F"]) -> tuple[int, ...]:
    """The strides of a buffer in that memory order."""
    axes = range(len(shape)) if order == "F" else range(len(shape) - 1, -1, -1)
    strides, step = [0] * len(shape), itemsize
    for axis in axes:
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def _orders(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> set[str]:
    """The memory orders in which a view is contiguous, by NumPy's own rule."""
    if 0 in shape:
        return {"C", "F"}
    orders = set()
    for order, axes in (("C", range(len(shape) - 1, -1, -1)), ("F", range(len(shape)))):
        expected = itemsize
        for axis in axes:
            if shape[axis] != 1 and strides[axis] != expected:
                break
            expected *= shape[axis]
        else:
            orders.add(order)
    return orders


def equal_lengths(
    arguments: Sequence[Argument], grid: Grid
) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """The axes of arguments that are equally long in every region.

    Groups of (argument, axis, delta) whose ``shape[axis] - delta`` agree, delta being the halo.
    Told to the compiler, they let it see that an index within one array is within the others,
    so that bounds checks cost nothing where they cannot fail. A check that stays behind an
    ``if`` costs more than itself: the loop must branch where it would have computed both sides
    and chosen, which on unpredictable data is some twenty times slower.

    Axes agree that follow one domain axis, or that have one length in all regions: those shown
    whole, and those that follow a domain axis which the grid does not split. So a file read in
    slabs of time agrees with what is accumulated for each place.
    """
    split = [count > 1 for count in grid.counts]
    groups: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for position, argument in enumerate(arguments):
        if isinstance(argument, Value) and isinstance(argument.value, np.ndarray):
            for axis, length in enumerate(argument.value.shape):
                groups.setdefault(("constant", length), []).append((position, axis, 0))
        # Of an argument with a footprint only the user's function knows the shape.
        if not isinstance(argument, Access) or argument.placement is Placement.MERGE:
            continue
        clip, parent = argument.boundary == "clip", argument.boundary == "parent"
        for axis, (of, (before, after)) in enumerate(
            zip(argument.axes, argument.halo, strict=True)
        ):
            if of is None or not split[of]:
                key, delta = ("constant", argument.array.shape[axis]), before + after
                groups.setdefault(key, []).append((position, axis, 0 if clip or parent else delta))
            elif not (clip and before + after):  # a clipped halo is shorter at the edges
                groups.setdefault(("domain", of), []).append((position, axis, before + after))
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
