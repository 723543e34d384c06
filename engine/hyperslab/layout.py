"""Memory layouts: what a kernel's arguments look like to the compiler.

A contiguous array lets the compiler use vector instructions freely, a strided one runs at half
the speed on small blocks. One signature has to serve all regions of a job, so an argument
counts as contiguous where the view of every kind of region is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from hyperslab import partition
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import ArgumentType, ArrayType, TupleType, type_of
from hyperslab_workers.reduction import is_exact
from hyperslab_workers.task import Argument, Origin, Value

__all__ = ["argument_type", "buffer_order", "equal_lengths"]


def buffer_order(argument: Argument) -> Literal["C", "F"]:
    """The memory order for private copies of an array: that of its file."""
    if not isinstance(argument, Access):
        return "C"
    array = argument.array
    strides = [abs(s) for s, n in zip(array.strides, array.shape, strict=True) if n > 1]
    return "F" if len(strides) > 1 and strides == sorted(strides) else "C"


def argument_type(argument: Argument, order: Literal["C", "F"], grid: Grid) -> ArgumentType:
    """The machine type of an argument, for all regions of a grid."""
    if isinstance(argument, Origin):
        return TupleType(len(grid.shape))
    if isinstance(argument, Value):
        kind = type_of(argument.value)
        return dataclasses.replace(kind, mutable=False) if isinstance(kind, ArrayType) else kind
    array = argument.array
    orders = {"C", "F"}
    for region in partition.representatives(grid) if len(grid) else ():
        box = argument.box(region)
        outside = not Box.of_shape(array.shape).contains(box)
        copied = (argument.has_halo and outside) or not array.aligned
        if argument.privilege is Privilege.READ and not copied:
            orders &= _orders(box.shape, array.strides, array.dtype.itemsize)
        elif argument.placement in (Placement.DIRECT, Placement.PRIVATE):
            # Of integers the budget decides between the two, and it must not change the machine
            # code: that of another layout may round other arguments differently.
            either = is_exact(array.dtype)
            if either or argument.placement is Placement.DIRECT:
                orders &= _orders(array.shape, array.strides, array.dtype.itemsize)
            if either or argument.placement is Placement.PRIVATE:
                orders &= _own_orders(box, "C")
        else:
            orders &= _own_orders(box, order)
    layout = "C" if "C" in orders else "F" if "F" in orders else "A"
    return ArrayType(array.dtype, array.ndim, layout, argument.privilege is not Privilege.READ)


def _own_orders(box: Box, order: str) -> set[str]:
    """The memory orders in which a buffer of that order is contiguous."""
    return {order} if sum(n > 1 for n in box.shape) > 1 else {"C", "F"}


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
    arguments: Sequence[Argument], domain_axes: int
) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """The axes of arguments that are equally long in every region.

    Groups of (argument, axis, delta) whose ``shape[axis] - delta`` agree, delta being the halo.
    Told to the compiler, they let it see that an index within one array is within the others,
    so that bounds checks cost nothing where they cannot fail.
    """
    groups = []
    for followed in range(domain_axes):
        group = tuple(
            (position, axis, before + after)
            for position, argument in enumerate(arguments)
            if isinstance(argument, Access)
            for axis, (of, (before, after)) in enumerate(
                zip(argument.axes, argument.halo, strict=True)
            )
            # A clipped halo is shorter at the edges.
            if of == followed and (argument.boundary != "clip" or not before + after)
        )
        if len(group) > 1:
            groups.append(group)
    return tuple(groups)
