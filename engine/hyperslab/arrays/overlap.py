"""In which order a view of a file can be copied to another view of the same file: pure.

As ``memmove`` does it: what is read must not have been written yet. The target's bytes are
written in chunks, each of which is read whole before it is written, from the first byte of the
file to the last, or from the last to the first::

    a[:-1] = a[1:]     every chunk is read above where it is written: upwards
    a[1:] = a[:-1]     every chunk is read below where it is written: downwards
    a[...] = a[::-1]   some are read above and some below: neither

It is asked of chunks, not of elements: rows that are mirrored in themselves are safe if no chunk
ends within one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box, Grid

__all__ = ["Source", "chunk_grid", "distinct", "in_file_order", "ordered", "safe_direction"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where what is assigned lies in the target's file; its shape is the target's."""

    offset: int
    """Position in the file, in bytes, of element ``(0, ..., 0)``."""

    strides: tuple[int, ...]
    """Step in bytes along each axis; 0 where it is broadcast."""

    itemsize: int
    """Bytes of one element."""

    @classmethod
    def at(cls, first: int, values: np.ndarray) -> Source:
        """Of values whose lowest byte lies at that position in the file."""
        back = sum((n - 1) * s for n, s in zip(values.shape, values.strides, strict=True) if s < 0)
        return cls(first - back, values.strides, values.itemsize)


def in_file_order(target: ArrayRef, values: np.ndarray) -> tuple[ArrayRef, np.ndarray]:
    """Both with axes and directions such that C order of the target is the file's.

    Parameters
    ----------
    target : ArrayRef
        A view without an element in common with itself.
    values : numpy.ndarray
        Of its shape.
    """
    axes = sorted(range(target.ndim), key=lambda axis: -abs(target.strides[axis]))
    backwards = [axis for axis in axes if target.strides[axis] < 0]
    forwards: Any = tuple([slice(None, None, -1 if s < 0 else 1) for s in target.strides])
    start = sum((target.shape[axis] - 1) * target.strides[axis] for axis in backwards)
    turned = dataclasses.replace(
        target,
        offset=target.offset + start,
        shape=tuple([target.shape[axis] for axis in axes]),
        strides=tuple([abs(target.strides[axis]) for axis in axes]),
    )
    return turned, values[(*forwards, ...)].transpose(axes)


def chunk_grid(target: ArrayRef, room: int) -> Grid:
    """Boxes that cover an array, of about `room` bytes and as few runs in the file as can be."""
    region = [1] * target.ndim
    left = max(room // target.dtype.itemsize, 1)
    for axis in sorted(range(target.ndim), key=lambda axis: abs(target.strides[axis])):
        region[axis] = max(min(target.shape[axis], left), 1)
        left = max(left // region[axis], 1)
    return Grid(target.shape, tuple(region))


def safe_direction(target: ArrayRef, source: Source, grid: Grid) -> int:
    """Which way through the chunks never reads what has been written.

    Parameters
    ----------
    target : ArrayRef
        In the file's order (see :func:`in_file_order`).
    source : Source
        Where the values for it lie.
    grid : Grid
        Its chunks, from :func:`chunk_grid`.

    Returns
    -------
    int
        1 for upwards, -1 for downwards, 0 if neither is known to be safe.

    Examples
    --------
    >>> ref = ArrayRef("a", 0, 0, 80, 8, np.dtype("f8"), (9,), (8,))
    >>> [safe_direction(ref, Source(*s, 8), Grid((9,), (2,))) for s in ((0, (8,)), (72, (-8,)))]
    [-1, 0]
    """
    if not _is_nested(target):
        return 0
    # How far at least the first byte that a chunk reads lies above the first that it writes, and
    # how far at most the last above the last. Both are sums over the axes of what changes evenly
    # from chunk to chunk: the first and the last chunk of each axis tell.
    lowest = source.offset - target.offset
    highest = lowest + source.itemsize - target.dtype.itemsize
    steps = zip(target.shape, grid.region, target.strides, source.strides, strict=True)
    for length, region, to, of in steps:
        ends = [(0, min(region, length)), ((length - 1) // region * region, length)]
        lowest += min((lo if of >= 0 else hi - 1) * of - lo * to for lo, hi in ends)
        highest += max((hi - 1 if of >= 0 else lo) * of - (hi - 1) * to for lo, hi in ends)
    if lowest >= 0:
        return 1
    return -1 if highest <= 0 else 0


def ordered(grid: Grid, direction: int) -> Iterator[Box]:
    """The boxes of a grid, from its first to its last or back."""
    numbers = range(len(grid))
    return (grid.box(number) for number in (numbers if direction > 0 else reversed(numbers)))


def distinct(values: np.ndarray) -> np.ndarray:
    """The values without what broadcasting repeats: axes of that kind have length 1."""
    axes = zip(values.shape, values.strides, strict=True)
    key: Any = tuple([slice(0, 1 if step == 0 else length) for length, step in axes])
    return values[(*key, ...)]


def _is_nested(target: ArrayRef) -> bool:
    """Whether each axis steps over all that the axes after it reach: no chunk is within another."""
    reach = target.dtype.itemsize
    for length, stride in zip(reversed(target.shape), reversed(target.strides), strict=True):
        if length > 1:
            if stride < reach:
                return False
            reach += (length - 1) * stride
    return True
