"""Assignment to an array in a file, by NumPy's rules: cast, broadcast, written in chunks.

Nothing of the array's own size is ever in memory, so ``a[...] = 0`` works on any file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from hyperslab_workers import mapping
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box, Grid

__all__ = ["assign", "locked"]

_CHUNK_BYTES = 2**20
"""Bytes that are prepared in memory at a time. Chunks of 4 MiB took three to four times as long
where values are cast or broadcast: they leave the processor's cache before they are written."""

_thread = threading.local()


def assign(target: ArrayRef, value: Any) -> None:
    """Write a value, broadcast to the shape of `target` and cast to its type.

    Raises
    ------
    ArrayFileError
        The array was opened for reading, the file changed, or the disk is full.
    ValueError, TypeError, OverflowError
        Where NumPy's assignment raises them.
    """
    mapping.require_writable(target)
    mapping.verify(target)
    values = _broadcast(_independent(_as_values(value, target), target), target.shape)
    with contextlib.nullcontext() if _may_write(target) else locked(target, write=True):
        for box in _chunks(target):
            # With an ellipsis, because a full index without one gives a scalar.
            key: Any = (*box.slices, ...)
            mapping.write_back(target, box, values[key])


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

    extent = ref.extent()
    with hold_all([Guard(lock_for(ref), extent, write)], timeout):
        if not write:
            yield
            return
        held = _thread.__dict__.setdefault("held", [])
        held.append((os.getpid(), ref.identity, extent))
        try:
            yield
        finally:
            held.pop()


def _may_write(target: ArrayRef) -> bool:
    """Whether no lock is to be taken: the file is nobody else's, or this thread holds it."""
    if not target.shared:
        return True
    first, last = target.extent()
    # Locks do not nest, so what the thread holds must do; a forked child holds nothing.
    return any(
        (pid, file) == (os.getpid(), target.identity) and low <= first and last <= high
        for pid, file, (low, high) in _thread.__dict__.get("held", ())
    )


def _as_values(value: Any, target: ArrayRef) -> np.ndarray:
    """What is assigned as a NumPy array; of no known type, in the type of the target."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value)
    # As NumPy does: so 300 is too large for uint8, and a tuple is one structured element.
    return np.asarray(value, dtype=target.dtype)


def _independent(values: np.ndarray, target: ArrayRef) -> np.ndarray:
    """The values, copied if they lie in the bytes that are about to be written.

    NumPy does so by comparing addresses, which does not find the same file mapped twice.
    """
    origin = mapping.origin_of(values)
    if origin is None:
        return values
    identity, (first, last) = origin
    low, high = target.extent()
    if identity == target.identity and first < high and low < last:
        return values.copy()
    return values


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


def _chunks(ref: ArrayRef) -> Iterator[Box]:
    """Boxes that cover the array, each of few bytes and as few runs in the file as can be."""
    region = [1] * ref.ndim
    room = max(_CHUNK_BYTES // ref.dtype.itemsize, 1)
    for axis in sorted(range(ref.ndim), key=lambda axis: abs(ref.strides[axis])):
        region[axis] = max(min(ref.shape[axis], room), 1)
        room = max(room // region[axis], 1)
    return iter(Grid(ref.shape, tuple(region)))
