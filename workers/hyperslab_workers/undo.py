"""What a region was before it was changed, kept where the death of its worker does not reach it.

::

    kernel ──► buffer        keep: file ──► undo        mark WRITING        buffer ──► file
                                              │
    the worker dies, or the write fails ──────┴──► restore ──► as if the region had not begun

One place for each thread that performs tasks, a mapped file in scratch with room for one region:
what is kept is only needed from the mark on the board until the next one. The stores of a killed
process are not lost, and are made in their order, so a place that says what it holds holds it.

Only for regions that nobody else touches meanwhile. Where a lock is what keeps others away, it
falls with its holder, and what they have done since must not be undone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from hyperslab_workers import mapping
from hyperslab_workers.access import Access
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.errors import ArrayFileError
from hyperslab_workers.host import remedy
from hyperslab_workers.owned import read_own
from hyperslab_workers.task import Program

__all__ = ["Undo", "restore", "undo_path"]

_HEAD = struct.Struct("<QQQ40x")
"""Ticket of the task, its region, and the number of bytes that follow; 0 bytes: nothing is held."""

_PAGE = mmap.PAGESIZE


def undo_path(board: str, worker: int) -> str:
    """The place of a worker, beside the board on which it says what it is doing."""
    return f"{board}-undo-{worker}"


def changed_in(program: Program, region: int) -> Iterator[tuple[ArrayRef, Box]]:
    """The parts of arrays that a region changes."""
    box = program.grid.box(region)
    for argument in program.arguments:
        if isinstance(argument, Access) and argument.changes and argument.placement is None:
            yield argument.array, argument.box(box).intersect(Box.of_shape(argument.array.shape))


class Undo:
    """The place of one thread.

    Parameters
    ----------
    path : str or None
        A file that others can read when this process is gone; None for memory of its own.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._map: Any = None
        self._bytes: np.ndarray = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes taken."""
        return self._bytes.nbytes

    def keep(self, program: Program, ticket: int, region: int) -> None:
        """Keep what the region is about to change.

        Raises
        ------
        ArrayFileError
            There is no room for it; nothing was changed.
        """
        parts = list(changed_in(program, region))
        size = sum(box.size * ref.dtype.itemsize for ref, box in parts)
        self._make_room(_HEAD.size + size)
        _HEAD.pack_into(self._map, 0, ticket, region, 0)
        for kept, (ref, box) in zip(_divide(self._bytes, parts), parts, strict=True):
            np.copyto(kept, mapping.view(ref, box))
        _HEAD.pack_into(self._map, 0, ticket, region, size)

    def take_back(self, program: Program, ticket: int, region: int) -> bool:
        """Make the region what it was; False where that is not held.

        Raises
        ------
        ArrayFileError
            A file cannot be written.
        """
        return _write(self._bytes, program, ticket, region)

    def let_go(self, most: int) -> None:
        """Give the room back, unless it is no more than so many bytes."""
        if self.nbytes > most:
            self._bytes, self._map = np.empty(0, np.uint8), None
            if self._path is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self._path, 0)

    def _make_room(self, size: int) -> None:
        if size <= self.nbytes:
            return
        size = -(-size // _PAGE) * _PAGE
        self._bytes, self._map = np.empty(0, np.uint8), None
        try:
            self._map = mmap.mmap(-1, size) if self._path is None else _mapped(self._path, size)
        except OSError as error:
            raise ArrayFileError(
                f"there is no room in scratch for {size:,} bytes of a region before it is changed "
                f"({error.strerror}): {remedy(error)}"
            ) from None
        self._bytes = np.frombuffer(self._map, np.uint8)


def restore(path: str, program: Program, ticket: int, region: int) -> bool:
    """Make a region what it was before the worker died that was changing it.

    Returns
    -------
    bool
        Whether the place held it.

    Raises
    ------
    ArrayFileError
        A file cannot be written.
    """
    try:
        held = read_own(path)
    except OSError:
        return False
    return _write(np.frombuffer(held, np.uint8), program, ticket, region)


def _write(held: np.ndarray, program: Program, ticket: int, region: int) -> bool:
    if held.nbytes < _HEAD.size:
        return False
    parts = list(changed_in(program, region))
    size = sum(box.size * ref.dtype.itemsize for ref, box in parts)
    if not size or _HEAD.unpack_from(held.data) != (ticket, region, size):
        return False
    for kept, (ref, box) in zip(_divide(held, parts), parts, strict=True):
        mapping.write_back(ref, box, kept)
    return True


def _divide(held: np.ndarray, parts: Iterable[tuple[ArrayRef, Box]]) -> Iterator[np.ndarray]:
    """Where in a place each part lies."""
    at = _HEAD.size
    for ref, box in parts:
        yield np.ndarray(box.shape, ref.dtype, held, at)
        at += box.size * ref.dtype.itemsize


def _mapped(path: str, size: int) -> mmap.mmap:
    fd = open_apart(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Reserved: a store into a hole of a full disk would be a SIGBUS.
        os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
