"""Basic indexing as arithmetic on offsets, shapes and strides: pure, nothing is read."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np

__all__ = ["Layout", "contiguous_strides", "index_layout", "memory_order"]

Layout = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Offset in bytes of element ``(0, ..., 0)``, shape, strides in bytes."""


def contiguous_strides(shape: tuple[int, ...], itemsize: int, order: str) -> tuple[int, ...]:
    """Strides in bytes of an array without gaps, in "C" or "F" order.

    Examples
    --------
    >>> contiguous_strides((2, 3), 4, "C"), contiguous_strides((2, 3), 4, "F")
    ((12, 4), (4, 8))
    """
    strides = []
    step = itemsize
    for length in shape if order == "F" else reversed(shape):
        strides.append(step)
        # An axis of length 0 would make all further strides 0; NumPy's do not either.
        step *= max(length, 1)
    return tuple(strides if order == "F" else reversed(strides))


def memory_order(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> str | None:
    """ "C" or "F" for an array without gaps ("C" where it is both), None for any other."""
    if 0 in shape:
        return "C"
    for order in ("C", "F"):
        wanted = contiguous_strides(shape, itemsize, order)
        if all(n == 1 or s == w for n, s, w in zip(shape, strides, wanted, strict=True)):
            return order
    return None


def index_layout(key: object, layout: Layout) -> Layout:
    """The layout of ``a[key]`` from that of ``a``, by NumPy's rules for basic indexing.

    Parameters
    ----------
    key : int, slice, Ellipsis, None, or tuple of them
        What stands between the brackets.
    layout : Layout
        Of the array.

    Raises
    ------
    IndexError
        Out of bounds, too many indices, or not basic indexing.

    Examples
    --------
    >>> index_layout((slice(None, None, -1), 1), (0, (4, 3), (12, 4)))
    (40, (4,), (-12,))
    """
    offset, shape, strides = layout
    entries = list(key) if isinstance(key, tuple) else [key]
    # By identity: == with an array in the key would compare its elements.
    ellipses = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if used > len(shape):
        raise IndexError(
            f"too many indices for array: array is {len(shape)}-dimensional, "
            f"but {used} were indexed"
        )
    rest = [slice(None)] * (len(shape) - used)
    at = ellipses[0] if ellipses else len(entries)
    entries[at : at + 1] = rest

    new_shape, new_strides = [], []
    axis = 0
    for entry in entries:
        if entry is None:
            new_shape.append(1)
            new_strides.append(0)
            continue
        length, stride = shape[axis], strides[axis]
        if isinstance(entry, slice):
            first, last, step = entry.indices(length)
            count = len(range(first, last, step))
            # Of an empty slice no element is ever touched: its offset must stay in the file.
            offset += first * stride if count else 0
            new_shape.append(count)
            new_strides.append(stride * step)
        else:
            offset += _index(entry, axis, length) * stride
        axis += 1
    return offset, tuple(new_shape), tuple(new_strides)


def _index(entry: object, axis: int, length: int) -> int:
    # A bool is an int to Python, but to NumPy it is a mask; so is a 0-d array of bool.
    if isinstance(entry, SupportsIndex) and not isinstance(entry, bool | np.bool_):
        try:
            index = operator.index(entry)
        except TypeError:
            pass
        else:
            if not -length <= index < length:
                raise IndexError(
                    f"index {index} is out of bounds for axis {axis} with size {length}"
                )
            return index + length if index < 0 else index
    raise IndexError(
        f"{type(entry).__name__} cannot index an array in a file: a view takes integers, slices, "
        "... and None (np.newaxis). To pick elements by lists, masks or index arrays, read "
        "first: np.asarray(a)[...]"
    )
