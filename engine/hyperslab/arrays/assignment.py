"""Assignment to an array in a file, by NumPy's rules: cast, broadcast, written in chunks.

Nothing of the array's own size is ever in memory, so ``a[...] = 0`` works on any file, and so
does an assignment from the file itself::

    values ──► elsewhere? ──────────────────────► chunk by chunk
               in the target's file?
                 ├─ a few MiB ──► copied ───────► chunk by chunk
                 ├─ an order is safe ───────────► chunk by chunk in that order
                 ├─ between the target's ───────► chunk by chunk
                 └─ neither ──► scratch file ───► chunk by chunk
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hyperslab.arrays.creation import create_file
from hyperslab.arrays.file import open_file
from hyperslab.arrays.indexing import contiguous_strides
from hyperslab.arrays.overlap import (
    Source,
    chunk_grid,
    distinct,
    in_file_order,
    ordered,
    safe_direction,
)
from hyperslab.errors import ArrayFileError
from hyperslab_workers import mapping
from hyperslab_workers.array_ref import ArrayRef

__all__ = ["assign", "locked"]

_CHUNK_BYTES = 2**20
"""Bytes that are prepared in memory at a time. Chunks of 4 MiB took three to four times as long
where values are cast or broadcast: they leave the processor's cache before they are written."""

_COPIED_WHOLE = 2**21
"""Bytes of values from the target's own file that are simply copied first."""

_PATIENCE: Any = 10_000  # NumPy's type information knows of its two special values only.
"""Steps that NumPy may take to find out whether two views have an element in common."""


def assign(target: ArrayRef, value: Any) -> None:
    """Write a value, broadcast to the shape of `target` and cast to its type.

    Raises
    ------
    ArrayFileError
        The array was opened for reading, the file changed, or the disk is full; or the value
        lies in the same file, in another order, and the scratch directory has no room for it.
    LockTimeout, HyperslabError
        The array is shared, and its lock cannot be taken (see :func:`locked`).
    ValueError, TypeError, OverflowError
        Where NumPy's assignment raises them.
    """
    mapping.require_writable(target)
    mapping.verify(target)
    values = _broadcast(_as_values(value, target), target.shape)
    with contextlib.nullcontext() if _may_write(target) else locked(target, write=True):
        first = _overlaps(values, target)
        if first is None:
            _copy(target, values)
        else:
            _move(target, values, first)


@contextlib.contextmanager
def locked(ref: ArrayRef, *, write: bool, timeout: float | None = None) -> Iterator[None]:
    """Hold the file's reader-writer lock over the extent of an array.

    Raises
    ------
    LockTimeout
        It was not free in time.
    HyperslabError
        This thread holds a lock already.
    """
    # Imported when it is needed: most arrays are never locked.
    from hyperslab_workers.locks import Guard, hold_all, lock_for

    with hold_all([Guard(lock_for(ref), ref.extent(), write)], timeout):
        yield


def _may_write(target: ArrayRef) -> bool:
    """Whether no lock is to be taken: the file is nobody else's, or this thread holds it."""
    if not target.shared:
        return True
    from hyperslab_workers.locks import Guard, holds, lock_for

    # Locks do not nest, so what the thread holds must do.
    return holds(Guard(lock_for(target), target.extent(), exclusive=True))


def _as_values(value: Any, target: ArrayRef) -> np.ndarray:
    """What is assigned as a NumPy array; of no known type, in the type of the target."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value)
    # As NumPy does: so 300 is too large for uint8, and a tuple is one structured element.
    return np.asarray(value, dtype=target.dtype)


def _broadcast(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    # Assignment, unlike other broadcasting, drops leading axes of length 1.
    squeezed = values
    while squeezed.ndim > len(shape) and squeezed.shape[0] == 1:
        squeezed = squeezed[0]
    try:
        return np.broadcast_to(squeezed, shape)
    except ValueError:
        raise ValueError(
            f"could not broadcast input array from shape {values.shape} into shape {shape}"
        ) from None


def _overlaps(values: np.ndarray, target: ArrayRef) -> int | None:
    """Where in the file the values begin, if they lie within what is about to be written.

    NumPy compares addresses, which does not find the same file mapped twice.
    """
    origin = None if 0 in target.shape else mapping.origin_of(values)
    if origin is None:
        return None
    identity, (first, last) = origin
    low, high = target.extent()
    if identity != target.identity or first >= high or low >= last:
        return None
    return first


def _copy(target: ArrayRef, values: np.ndarray) -> None:
    """Write values that no write changes."""
    for box in chunk_grid(target, _CHUNK_BYTES):
        # With an ellipsis, because a full index without one gives a scalar.
        key: Any = (*box.slices, ...)
        mapping.write_back(target, box, values[key])


def _move(target: ArrayRef, values: np.ndarray, first: int) -> None:
    """Write values that lie in the file themselves, from byte `first` on: each is read first."""
    few = distinct(values)
    if few.nbytes <= _COPIED_WHOLE:
        _copy(target, np.broadcast_to(few.copy(), target.shape))
        return
    target, values = in_file_order(target, values)
    source = Source.at(first, values)
    grid = chunk_grid(target, _CHUNK_BYTES)
    direction = safe_direction(target, source, grid)
    if direction:
        for box in ordered(grid, direction):
            key: Any = (*box.slices, ...)
            mapping.write_back(target, box, values[key].copy())
    elif not _may_meet(target, source):
        _copy(target, values)
    else:
        with _in_scratch(distinct(values), target) as copied:
            _copy(target, np.broadcast_to(copied, target.shape))


def _may_meet(target: ArrayRef, source: Source) -> bool:
    """Whether the two have a byte in common; also where that takes too long to find out.

    False for the columns or the fields of one array, which lie between each other.
    """
    element = np.dtype((np.void, source.itemsize))
    ref = dataclasses.replace(
        target, offset=source.offset, strides=source.strides, dtype=element, writable=False
    )
    read, written = mapping.view(ref), mapping.view(dataclasses.replace(target, writable=False))
    try:
        return np.shares_memory(read, written, max_work=_PATIENCE)
    except np.exceptions.TooHardError:
        return True


@contextlib.contextmanager
def _in_scratch(values: np.ndarray, target: ArrayRef) -> Iterator[np.ndarray]:
    """The values in the target's type, out of the way in a file of their own.

    Rejected: exchanging pairs of blocks in the file itself, which needs no room: it serves whole
    mirror images and square transposes, and nothing else that comes here.
    """
    from hyperslab.session import session_directory

    size = values.size * target.dtype.itemsize
    path = session_directory() / f"moved-{os.urandom(8).hex()}"
    ref: ArrayRef | None = None
    try:
        try:
            # As bytes: not every type that a view can have can be described in a header.
            create_file(path, size, "u1")
        except ArrayFileError as error:
            raise ArrayFileError(
                f"what is assigned to {target.path!r} lies in the same file, in an order that "
                f"takes a scratch copy of {size:,} bytes; nothing was written. Give "
                "HYPERSLAB_SCRATCH a directory with room for it, or assign in parts that do not "
                f"overlap. {error}"
            ) from None
        strides = contiguous_strides(values.shape, target.dtype.itemsize, "C")
        ref = dataclasses.replace(
            open_file(path, "r+"), dtype=target.dtype, shape=values.shape, strides=strides
        )
        _copy(ref, values)
        yield mapping.view(ref)
    finally:
        Path(path).unlink(missing_ok=True)
        if ref is not None:
            mapping.release(ref)
