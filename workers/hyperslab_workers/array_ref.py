"""A reference to an array in a file: what crosses between processes instead of data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hyperslab_workers.box import Box

__all__ = ["ArrayRef"]


@dataclass(frozen=True, slots=True)
class ArrayRef:
    """Where an array, or a strided view of one, lies in a file.

    The file's identity (device, inode, birth time, size) travels with its path, so that a file that
    was replaced or truncated in between is an error and never silently other data.
    """

    path: str
    """Absolute path of the file."""

    device: int
    """Device number of the file when it was opened."""

    inode: int
    """Inode number of the file when it was opened."""

    file_size: int
    """Size of the file in bytes when it was opened."""

    offset: int
    """Position in the file, in bytes, of element ``(0, ..., 0)``."""

    dtype: np.dtype
    """Type of one element."""

    shape: tuple[int, ...]
    """Length of each axis."""

    strides: tuple[int, ...]
    """Step in bytes along each axis; negative or zero as in NumPy."""

    writable: bool = False
    """Whether the handle was opened for writing."""

    shared: bool = False
    """Whether other programs may write the file meanwhile: every touch takes its lock."""

    lock_dir: str | None = None
    """Directory of the file's lock, or None for the job's default."""

    born: int = 0
    """Birth time of the file in nanoseconds; 0 where the file system does not tell it."""

    grows: bool = False
    """Whether more bytes than `file_size` are fine: of a raw file to which others append."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps between them."""
        return self.size * self.dtype.itemsize

    @property
    def aligned(self) -> bool:
        """Whether every element lies at a multiple of its type's alignment."""
        unit = self.dtype.alignment
        return all(step % unit == 0 for step in (self.offset, *self.strides))

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: equal for every path to one file."""
        return (self.device, self.inode)

    def extent(self, box: Box | None = None) -> tuple[int, int]:
        """The bytes ``[first, last)`` of the file between which `box` lies.

        A strided box does not fill its extent; an empty one has the extent ``(offset, offset)``.
        """
        if box is None:
            box = Box.of_shape(self.shape)
        if box.size == 0:
            return (self.offset, self.offset)
        first = last = self.offset
        for lo, hi, stride in zip(box.lo, box.hi, self.strides, strict=True):
            ends = (lo * stride, (hi - 1) * stride)
            first += min(ends)
            last += max(ends)
        return (first, last + self.dtype.itemsize)
