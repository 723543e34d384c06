"""Files as arrays: reads through the map, writes past it.

::

    ArrayRef ──► maps.mapped ──► view         slices of the kept whole-file map
                      │    └───► gather       a box with its halo, copied out
                      └────────► write_back   pwrite of long runs, the map for short ones

Rejected: writing everything through the map. On pages that are not in memory yet ``pwrite``
moved two to three times the bytes per second, network file systems see whole writes, and a
full disk is an error there, where a store into a map is a SIGBUS.
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
import mmap
import os
from collections.abc import Callable

import numpy as np

from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box
from hyperslab_workers.errors import ArrayFileError
from hyperslab_workers.mapping import padding
from hyperslab_workers.mapping.maps import (
    FileMap,
    MappedFile,
    check_length,
    forget_all,
    kept,
    mapped,
    release,
    verify,
    writing_failed,
)

__all__ = [
    "advise_dontneed",
    "flush",
    "forget_all",
    "gather",
    "origin_of",
    "release",
    "require_writable",
    "run_writer",
    "verify",
    "view",
    "write_back",
]

_LONG_RUN = 16 * 1024
"""Bytes from which a run is worth a system call of its own rather than stores into the map."""

_COPIED = 256 * 2**10
"""Bytes that are copied at a time where values have to be brought into another order."""

_MANY_BLOCKS = 512
"""Pieces from which a reflected or wrapped box is gathered by index arrays instead."""

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, which the mmap module of Python 3.11 does not name


def view(ref: ArrayRef, box: Box | None = None, *, writable: bool = False) -> np.ndarray:
    """A box of the array as a NumPy view of the file's pages; nothing is read yet.

    Parameters
    ----------
    ref : ArrayRef
        The array.
    box : Box, optional
        The part wanted, within the array's bounds; default all of it.
    writable : bool
        Whether stores into the view reach the file. The view keeps its map alive on its own.

    Returns
    -------
    numpy.ndarray
        Of the box's shape and the file's dtype; read-only unless `writable`.

    Raises
    ------
    ArrayFileError
        The path no longer leads to that file, or its size changed; or `writable` was asked
        of a reference that was opened for reading.
    IndexError
        The box reaches beyond the array.
    """
    if writable:
        require_writable(ref)
    verify(ref)
    offset, shape = _locate(ref, box)
    if 0 in shape:
        # An empty file cannot be mapped, and need not be.
        empty: np.ndarray = np.empty(shape, ref.dtype)
        empty.flags.writeable = writable
        return empty
    return mapped(ref, writable).view(ref, offset, shape)


def gather(ref: ArrayRef, box: Box, boundary: str | float | int, out: np.ndarray) -> None:
    """Copy a box, which may reach beyond the array's edges, into `out`.

    The file's identity is not checked again: see :func:`verify`.

    Parameters
    ----------
    ref : ArrayRef
        The array.
    box : Box
        The part wanted; ``lo`` may be negative and ``hi`` beyond the shape, by any amount.
    boundary : {"nearest", "reflect", "wrap"} or number
        What stands outside: the edge repeated, the array mirrored about its edge elements
        (which are not repeated), the array continued periodically, or that number.
    out : numpy.ndarray
        Of the box's shape; any memory order, any dtype that the array's can be cast to.

    Raises
    ------
    PlanError
        The boundary is not known, or an axis of length 0 leaves nothing to repeat.
    ValueError
        `out` has another shape than the box.
    """
    if out.shape != box.shape:
        raise ValueError(f"out has shape {out.shape}, the box {box} has {box.shape}")
    if out.size == 0:
        return
    runs = [
        padding.runs(lo, hi, length, boundary)
        for lo, hi, length in zip(box.lo, box.hi, ref.shape, strict=True)
    ]
    if ref.size == 0:
        # Runs of an empty axis exist for a constant only.
        out[...] = boundary
        return
    source = mapped(ref, False).view(ref, ref.offset, ref.shape)
    if isinstance(boundary, str) and math.prod(map(len, runs)) > _MANY_BLOCKS:
        # A halo many times wider than the array: one indexed read beats a thousand slivers.
        indices = [padding.indices(axis, n) for axis, n in zip(runs, out.shape, strict=True)]
        # In parts: an indexed read is a copy, and nobody has counted a second one of the whole.
        step = max(_COPIED * out.shape[0] // out.nbytes, 1)
        for first in range(0, out.shape[0], step):
            part = slice(first, first + step)
            out[part] = source[np.ix_(indices[0][part], *indices[1:])]
        return
    for block in itertools.product(*runs):
        where = tuple([target for target, _ in block])
        what = tuple([origin for _, origin in block if origin is not None])
        out[where] = source[what] if len(what) == len(block) else boundary


def write_back(ref: ArrayRef, box: Box, values: np.ndarray) -> None:
    """Write `values` into a box of the array.

    Long runs go by ``pwrite``. Short ones go through the map; where the file is sparse, their
    pages are first asked for in a way that reports a full disk. The file's identity is not
    checked again: see :func:`verify`. Its length is, because a write beyond the end of a file that
    was truncated makes it as long as it was, and nobody would see any more what it has lost.

    Parameters
    ----------
    ref : ArrayRef
        The array, opened for writing.
    box : Box
        The part written, within the array's bounds.
    values : numpy.ndarray
        Of the box's shape, not overlapping that part of the file. Memory that lies in the
        file's order is written as it is; any other is copied once, in small parts. Another
        dtype is cast as NumPy's assignment casts.

    Raises
    ------
    ArrayFileError
        The reference is read-only, the file was truncated, the disk is full, or the disk failed.
    ValueError
        `values` has another shape than the box.
    IndexError
        The box reaches beyond the array.
    """
    require_writable(ref)
    if values.shape != box.shape:
        raise ValueError(f"values have shape {values.shape}, the box {box} has {box.shape}")
    offset, shape = _locate(ref, box)
    if 0 in shape:
        return
    file = mapped(ref, True)
    if values.dtype != ref.dtype:
        values = values.astype(ref.dtype, order="K")
    if values.flags.c_contiguous and _is_one_run(ref, shape):
        # The usual case by far, a slab of a C-ordered array, at a third of the cost.
        _pwrite(ref, file, values, [offset])
        return
    target = file.view(ref, offset, shape)
    target, values = _in_file_order(target, values)
    run_axis, run_bytes = _contiguous_tail(target)
    if run_axis == 0 or run_bytes >= _LONG_RUN:
        _pwrite_runs(ref, file, target, values)
        return
    status = os.fstat(file.fd)
    check_length(ref, status.st_size)
    sparse = status.st_blocks * 512 < status.st_size
    if sparse and not _populate(ref, file, target):
        _pwrite_runs(ref, file, target, values)
    else:
        target[...] = values


def flush(ref: ArrayRef, box: Box | None = None) -> None:
    """Wait until the bytes of a box are on the disk.

    Needed against loss of power only: other processes see stores at once, and what a killed
    process has stored is not lost.

    Raises
    ------
    ArrayFileError
        The disk failed or is full.
    """
    first, last = ref.extent(box)
    if first == last:
        return
    start = first - first % mmap.PAGESIZE
    try:
        mapped(ref, ref.writable).map.flush(start, last - start)
    except OSError as error:
        raise writing_failed(ref, error) from None


def advise_dontneed(ref: ArrayRef, box: Box | None = None) -> None:
    """Let go of the memory that shows a box; the next touch brings it back from the file.

    Only whole pages inside the box's extent are dropped. Nothing is lost: changed pages stay
    in the system's page cache until they are written.
    """
    first, last = ref.extent(box)
    start = first + -first % mmap.PAGESIZE
    stop = last - last % mmap.PAGESIZE
    if start < stop:
        for file in kept(ref):
            file.map.madvise(mmap.MADV_DONTNEED, start, stop - start)


def require_writable(ref: ArrayRef) -> None:
    """Refuse a reference that was opened for reading.

    Raises
    ------
    ArrayFileError
        It was.
    """
    if not ref.writable:
        raise ArrayFileError(
            f"{ref.path!r} was opened for reading only (mode='r'); open it with mode='r+' to "
            "write to it"
        )


def origin_of(values: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where an array lies, if it is a view of a file mapped here, or of an ``np.memmap``.

    Returns
    -------
    tuple or None
        The file's ``(device, inode)`` and the extent ``(first, last)`` in bytes; None for
        memory that is no map of a file, as far as NumPy can tell.
    """
    base: object = values
    whole = values
    while isinstance(base, np.ndarray | memoryview):
        if isinstance(base, np.ndarray):
            whole, base = base, base.base
        else:
            base = base.obj
    if isinstance(base, FileMap):
        identity, position = base.identity, 0
    elif isinstance(base, mmap.mmap) and isinstance(whole, np.memmap) and whole.filename:
        try:
            status = os.stat(whole.filename)
        except OSError:
            return None  # Removed; whether it has another name cannot be told.
        identity, position = (status.st_dev, status.st_ino), whole.offset
    else:
        return None
    position -= whole.__array_interface__["data"][0]
    low, high = np.lib.array_utils.byte_bounds(values)
    return identity, (low + position, high + position)


def _locate(ref: ArrayRef, box: Box | None) -> tuple[int, tuple[int, ...]]:
    """Position in the file of the first element of a box, and the box's shape."""
    if box is None:
        return ref.offset, ref.shape
    offset, lengths, inside = ref.offset, [], len(box.lo) == len(ref.shape)
    # One plain loop rather than Box.contains: every region of every task comes through here.
    for lo, hi, length, stride in zip(box.lo, box.hi, ref.shape, ref.strides, strict=False):
        inside = inside and lo >= 0 and hi <= length
        lengths.append(hi - lo if hi > lo else 0)
        offset += lo * stride
    if not inside and (0 not in lengths or len(box.lo) != len(ref.shape)):
        raise IndexError(f"the box {box} reaches beyond an array of shape {ref.shape}")
    return offset, tuple(lengths)


def _is_one_run(ref: ArrayRef, shape: tuple[int, ...]) -> bool:
    """Whether a box of that shape lies in the file without gaps, in C order."""
    run = ref.dtype.itemsize
    for length, stride in zip(reversed(shape), reversed(ref.strides), strict=True):
        if length != 1 and stride != run:
            return False
        run *= length
    return True


def _in_file_order(target: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays with axes and directions such that C order of `target` is the file's."""
    target, values = target.squeeze(), values.squeeze()
    axes = sorted(range(target.ndim), key=lambda axis: -abs(target.strides[axis]))
    target, values = target.transpose(axes), values.transpose(axes)
    if any(stride < 0 for stride in target.strides):
        forwards = tuple([slice(None, None, -1 if s < 0 else 1) for s in target.strides])
        target, values = target[forwards], values[forwards]
    return target, values


def _contiguous_tail(target: np.ndarray) -> tuple[int, int]:
    """The first axis from which on `target` has no gaps, and how many bytes lie there."""
    axis, run = target.ndim, target.dtype.itemsize
    while axis > 0 and target.strides[axis - 1] == run:
        axis -= 1
        run *= target.shape[axis]
    return axis, run


def _offsets(file: MappedFile, target: np.ndarray, axes: int) -> list[int]:
    """Positions in the file of all combinations of the first `axes` indices, in C order."""
    offsets = np.array([file.position(target)], np.int64)
    for axis in range(axes):
        steps = np.arange(target.shape[axis], dtype=np.int64) * target.strides[axis]
        offsets = (offsets[:, None] + steps).reshape(-1)
    found: list[int] = offsets.tolist()
    return found


def _pwrite_runs(ref: ArrayRef, file: MappedFile, target: np.ndarray, values: np.ndarray) -> None:
    """Write values to where `target` lies, both in the file's order."""
    if values.flags.c_contiguous or values.nbytes <= _COPIED:
        _pwrite(ref, file, values, _offsets(file, target, _contiguous_tail(target)[0]))
    elif len(values) == 1:
        _pwrite_runs(ref, file, target[0], values[0])
    else:
        # Each part has to be copied: a copy of the whole would take as much memory again.
        step = max(_COPIED * len(values) // values.nbytes, 1)
        for first in range(0, len(values), step):
            part = slice(first, first + step)
            _pwrite_runs(ref, file, target[part], values[part])


def _pwrite(ref: ArrayRef, file: MappedFile, values: np.ndarray, offsets: list[int]) -> None:
    """Write the values, cut into equal runs in C order, each to its position in the file."""
    # As bytes, because datetimes and the like do not export a buffer.
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    run = len(data) // len(offsets)
    for index, offset in enumerate(offsets):
        _write_run(ref, file, data[index * run : (index + 1) * run], offset)


def _write_run(ref: ArrayRef, file: MappedFile, rest: memoryview, offset: int) -> None:
    try:
        # Nobody reads from where the descriptor stands; of all that tell the size this is fastest.
        check_length(ref, os.lseek(file.fd, 0, os.SEEK_END))
        # A signal, a quota or the call's limit of 2 GiB may leave a write short.
        while (written := os.pwrite(file.fd, rest, offset)) < len(rest):
            rest, offset = rest[written:], offset + written
    except OSError as error:
        raise writing_failed(ref, error) from None


def run_writer(ref: ArrayRef, values: np.ndarray) -> Callable[[int], None] | None:
    """What writes the memory of `values`, whatever it holds then, to a position in the file.

    For boxes of one shape that lie in the file without gaps; None where they do not, or where
    the memory does not lie in the file's order. The file's identity is not checked.

    Raises
    ------
    ArrayFileError
        The reference is read-only, or the file cannot be mapped.
    """
    require_writable(ref)
    if not values.flags.c_contiguous or not _is_one_run(ref, values.shape) or not values.size:
        return None
    file, data = mapped(ref, True), values.reshape(-1).view(np.uint8).data
    return functools.partial(_write_run, ref, file, data)


def _populate(ref: ArrayRef, file: MappedFile, target: np.ndarray) -> bool:
    """Have the file system provide every page that stores into `target` will touch.

    Returns False where the kernel cannot (before Linux 5.14). Rejected: ``posix_fallocate``
    of the same ranges, which where it is emulated reads and rewrites bytes that another
    process may be writing.
    """
    # Axes that step by less than a page leave no page out: one call covers them.
    small = [axis for axis, stride in enumerate(target.strides) if stride <= mmap.PAGESIZE]
    outer = small[0] if small else target.ndim
    inner = zip(target.shape[outer:], target.strides[outer:], strict=True)
    length = sum((n - 1) * stride for n, stride in inner) + target.dtype.itemsize
    try:
        for first in _offsets(file, target, outer):
            start = first - first % mmap.PAGESIZE
            file.map.madvise(_POPULATE_WRITE, start, first + length - start)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        if error.errno == errno.EFAULT:
            # What would have been a SIGBUS at the store.
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise writing_failed(ref, error) from None
    return True
