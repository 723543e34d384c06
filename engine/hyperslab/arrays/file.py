"""Opening files as arrays: which format, and whether the file is what it is taken for.

Only the header is read, whatever the size of the file.
"""

from __future__ import annotations

import math
import operator
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from hyperslab.arrays.indexing import contiguous_strides
from hyperslab.arrays.npy import MAGIC, NpyHeader, checked_dtype, read_header
from hyperslab.errors import ArrayFileError, HyperslabError
from hyperslab_workers import host
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.file_identity import file_status
from hyperslab_workers.mapping import sparing

__all__ = [
    "checked_nbytes",
    "checked_order",
    "checked_shape",
    "expanded",
    "open_file",
    "text_path",
]

_MODES = ("r", "r+")

_OTHER_FORMATS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 (or netCDF-4) file", "read it with h5py or xarray"),
    (b"CDF\x01", "a netCDF-3 file", "read it with xarray or netCDF4"),
    (b"CDF\x02", "a netCDF-3 file", "read it with xarray or netCDF4"),
    (b"CDF\x05", "a netCDF-3 file", "read it with xarray or netCDF4"),
    (b"PK\x03\x04", "an .npz or other zip archive", "read it with np.load"),
    (b"\x1f\x8b", "a gzip-compressed file", "unpack it with gunzip"),
    (b"BZh", "a bzip2-compressed file", "unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "an xz-compressed file", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", "unpack it with unzstd"),
    (b"GRIB", "a GRIB file", "read it with cfgrib"),
    (b"SIMPLE  =", "a FITS file", "read it with astropy"),
    (b"MATLAB 5.0", "a MATLAB file", "read it with scipy.io.loadmat"),
    (b"II*\x00", "a TIFF file", "read it with tifffile"),
    (b"MM\x00*", "a TIFF file", "read it with tifffile"),
    (b"PAR1", "a Parquet file", "read it with pyarrow"),
    (b"\x80\x04\x95", "a Python pickle", "load it where it comes from"),
    (b"\x80\x05\x95", "a Python pickle", "load it where it comes from"),
)
"""First bytes, name, and how to read it elsewhere: named in errors, never opened here."""

_LONGEST_FILE = 2**63 - 1

_RAW_HINT = (
    'If it is a raw file, say what it holds: dtype="<f4", shape=(…), and offset= for a header '
    "to be skipped"
)


def open_file(
    path: str | os.PathLike[str],
    mode: str,
    *,
    dtype: Any = None,
    shape: int | Iterable[int] | None = None,
    offset: int = 0,
    order: str | None = None,
    shared: bool = False,
    lock_dir: str | os.PathLike[str] | None = None,
) -> ArrayRef:
    """Find out what array a file holds, and check that the file can hold it.

    Raises
    ------
    ArrayFileError
        It cannot be opened, or is not what was asked for.
    """
    name = text_path(path)
    if mode not in _MODES:
        remedy = (
            "to make a new file use create(path, shape, dtype), with overwrite=True to replace one"
            if str(mode).startswith("w")
            else 'give "r" to read or "r+" to read and write'
        )
        raise ArrayFileError(f"mode={mode!r} cannot open {name!r}: {remedy}")
    offset = _checked_offset(offset)
    with _opened(name, mode) as file:
        status = file_status(file.fileno())
        start = file.read(len(MAGIC))
        file.seek(0)
        header = read_header(file, name) if start == MAGIC else None
        if header is not None and 0 < offset < header.data_offset:
            raise ArrayFileError(
                f"offset={offset} lies inside the .npy header of {name!r}, which ends at byte "
                f"{header.data_offset}; leave offset= out to open the array that it describes"
            )
        if header is not None and offset == 0:
            _check_agreement(name, header, dtype, shape, order)
            _check_npy_size(name, header, status.size, file)
            grows = False
        else:
            header = _raw_header(name, file, status.size, dtype, shape, offset, order or "C")
            # What is appended later is no business of ours: recorders write on while the first
            # frames are analysed.
            grows = True
    return ArrayRef(
        path=name,
        device=status.device,
        inode=status.inode,
        file_size=status.size,
        offset=header.data_offset,
        dtype=header.dtype,
        shape=header.shape,
        strides=contiguous_strides(header.shape, header.dtype.itemsize, header.order),
        writable=mode == "r+",
        shared=bool(shared),
        lock_dir=None if lock_dir is None else text_path(lock_dir),
        born=status.born,
        grows=grows,
    )


def text_path(path: str | os.PathLike[str]) -> str:
    """The absolute path as text; links are not followed, so that messages show what was given."""
    try:
        return host.absolute(path)
    except HyperslabError as error:
        raise ArrayFileError(str(error)) from None


def checked_shape(shape: int | Iterable[int], what: str) -> tuple[int, ...]:
    """A shape as a tuple of Python integers.

    Raises
    ------
    ArrayFileError
        It is no shape, or has a negative length.
    """
    try:
        lengths = shape if isinstance(shape, Iterable) else (shape,)
        checked = tuple(operator.index(n) for n in lengths)
    except TypeError:
        raise ArrayFileError(
            f"shape={shape!r} of {what} is no shape; give whole numbers, such as (2048, 361, 720)"
        ) from None
    if any(n < 0 for n in checked):
        raise ArrayFileError(
            f"shape={checked} of {what} has a negative length; every length is at least 0"
        )
    if len(checked) > 64:
        raise ArrayFileError(f"shape of {what} has {len(checked)} axes; NumPy allows 64 at most")
    return checked


def expanded(dtype: np.dtype, shape: tuple[int, ...]) -> tuple[np.dtype, tuple[int, ...]]:
    """Move the axes of a subarray type, such as ``("f4", (3,))``, into the shape, as NumPy does."""
    return dtype.base, shape + dtype.shape


def checked_nbytes(shape: tuple[int, ...], dtype: np.dtype, what: str) -> int:
    """The bytes that an array takes.

    Raises
    ------
    ArrayFileError
        They are more than any file or array can have.
    """
    # Lengths of 0 count as 1: NumPy refuses shapes that way, too.
    if math.prod([max(n, 1) for n in shape]) * dtype.itemsize > _LONGEST_FILE:
        raise ArrayFileError(
            f"shape {shape} of {dtype} for {what} is more than {_LONGEST_FILE:,} bytes, the most "
            "that a file or an array can have; check the shape"
        )
    return math.prod(shape) * dtype.itemsize


def checked_order(order: str) -> str:
    """ "C" or "F".

    Raises
    ------
    ArrayFileError
        It is neither.
    """
    if order not in ("C", "F"):
        raise ArrayFileError(
            f'order={order!r} is not known; give "C" (last axis contiguous) or "F" (first axis '
            "contiguous)"
        )
    return order


def _opened(path: str, mode: str) -> BinaryIO:
    """The file, which is a regular one, open for reading; and for writing only as a check."""
    try:
        # Before the open, because opening a FIFO waits for a writer, and a device may act.
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(path, status.st_mode)
        kind = "r+b" if mode == "r+" else "rb"
        return cast(BinaryIO, sparing(lambda: open(path, kind, buffering=0, opener=open_apart)))
    except FileNotFoundError:
        raise ArrayFileError(
            f"{path!r} does not exist; check the name, or make it with create(path, shape, dtype)"
        ) from None
    except PermissionError:
        remedy = "ask its owner for the right to " + ("write it" if mode == "r+" else "read it")
        if mode == "r+" and os.access(path, os.R_OK):
            remedy = 'it can be read: open it with mode="r", or get the right to write it'
        raise ArrayFileError(f"{path!r} cannot be opened with mode={mode!r}: {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArrayFileError(
            f"{path!r} cannot be opened with mode={mode!r} ({reason}): {host.remedy(error)}"
        ) from None


def _not_a_file(path: str, mode: int) -> ArrayFileError:
    if stat.S_ISDIR(mode):
        marks = (".zarray", ".zgroup", "zarr.json")
        if any(Path(path, mark).exists() for mark in marks):
            return ArrayFileError(
                f"{path!r} is a zarr store, a directory of chunks; read it with zarr, and save "
                "what is needed with np.save"
            )
        return ArrayFileError(f"{path!r} is a directory; give the file in it that holds the array")
    kind = next(
        (name for test, name in ((stat.S_ISFIFO, "a FIFO (named pipe)"),
                                 (stat.S_ISSOCK, "a socket"),
                                 (stat.S_ISCHR, "a device"),
                                 (stat.S_ISBLK, "a device")) if test(mode)),
        "no regular file",
    )  # fmt: skip
    return ArrayFileError(
        f"{path!r} is {kind}, which cannot be mapped; copy its data into a file on disk first"
    )


def _check_agreement(
    path: str, header: NpyHeader, dtype: Any, shape: int | Iterable[int] | None, order: str | None
) -> None:
    """What was given besides must be what the header says: neither may win in silence."""
    given: list[tuple[str, object, object]] = []
    if dtype is not None:
        given.append(("dtype", checked_dtype(dtype, f"the array in {path!r}"), header.dtype))
    if shape is not None:
        given.append(("shape", checked_shape(shape, repr(path)), header.shape))
    if order is not None and len(header.shape) > 1:
        given.append(("order", checked_order(order), header.order))
    for name, wanted, found in given:
        if wanted != found:
            raise ArrayFileError(
                f"{path!r} is a .npy file with {name} {found}, not {wanted} as was asked; leave "
                f"{name}= out. To look at its bytes as raw, give offset={header.data_offset} "
                "or more as well"
            )


def _check_npy_size(path: str, header: NpyHeader, size: int, file: BinaryIO) -> None:
    needed = header.data_offset + checked_nbytes(header.shape, header.dtype, repr(path))
    array = f"shape {header.shape} of {header.dtype}"
    if size < needed:
        raise ArrayFileError(
            f"{path!r} is truncated: its header says {array}, which takes {needed:,} bytes, and "
            f"it has {size:,}. Copying or writing it broke off; get it again"
        )
    if size > needed:
        # Never harmless: it may be a second array, or a header that was overwritten.
        file.seek(needed)
        more = (
            "further arrays follow, as np.save writes into one open file"
            if file.read(len(MAGIC)) == MAGIC
            else "its header may have been damaged, or something was appended"
        )
        raise ArrayFileError(
            f"{path!r} is longer than its header says: {array} takes {needed:,} bytes, and it has "
            f"{size:,}; {more}. To use the array all the same, open it as raw: "
            f"dtype={header.dtype.str!r}, shape={header.shape}, order={header.order!r}, "
            f"offset={header.data_offset}"
        )


def _raw_header(
    path: str,
    file: BinaryIO,
    size: int,
    dtype: Any,
    shape: int | Iterable[int] | None,
    offset: int,
    order: str,
) -> NpyHeader:
    """What the caller says of a file that does not say it itself."""
    checked_order(order)
    if dtype is None:
        raise ArrayFileError(_unknown(path, file, size))
    element = checked_dtype(dtype, f"the array in {path!r}")
    if shape is None:
        rest, unit = size - offset, element.itemsize
        if rest <= 0 or rest % unit:
            raise ArrayFileError(
                f"{path!r} has {max(rest, 0):,} bytes from offset={offset} on, which is no whole, "
                f"positive number of elements of {element} ({unit} bytes each); check dtype= and "
                "offset=, or give shape="
            )
        lengths: tuple[int, ...] = (rest // unit,)
    else:
        lengths = checked_shape(shape, repr(path))
    element, lengths = expanded(element, lengths)
    needed = offset + checked_nbytes(lengths, element, repr(path))
    if size < needed:
        raise ArrayFileError(
            f"{path!r} is too short: shape {lengths} of {element} from offset={offset} on takes "
            f"{needed:,} bytes, and it has {size:,}; check shape=, dtype= and offset=. It is not "
            "made longer here: create() makes new files"
        )
    return NpyHeader(lengths, element, order, offset)


def _unknown(path: str, file: BinaryIO, size: int) -> str:
    if size == 0:
        return (
            f"{path!r} is empty (0 bytes): there is no array in it. Whatever should have written "
            "it did not; make a new one with create(path, shape, dtype, overwrite=True)"
        )
    file.seek(0)
    start = file.read(16)
    for first, name, remedy in _OTHER_FORMATS:
        if start.startswith(first):
            return (
                f"{path!r} is {name}, not a .npy file; {remedy}, and save what is needed with "
                "np.save"
            )
    return f"{path!r} is not a .npy file (it does not start with {MAGIC!r}). {_RAW_HINT}"


def _checked_offset(offset: int) -> int:
    try:
        checked = operator.index(offset)
    except TypeError:
        checked = -1
    if checked < 0:
        raise ArrayFileError(f"offset={offset!r} is no position in a file; give bytes, 0 or more")
    return checked
