"""Making array files: complete under their name or not there at all, disk reserved up front.

A file that exists is never opened for writing here: who has it mapped keeps the old one,
whereas to truncate it would be a SIGBUS for them at their next touch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyperslab.arrays.file import checked_nbytes, checked_order, checked_shape, expanded, text_path
from hyperslab.arrays.npy import checked_dtype, encode_header
from hyperslab.errors import ArrayFileError
from hyperslab.whole_file import write_whole
from hyperslab_workers import host
from hyperslab_workers.mapping import sparing

__all__ = ["create_file"]

_NO_RESERVATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a C library answers that leaves it to the program to write zeros."""


def create_file(
    path: str | os.PathLike[str],
    shape: int | Iterable[int],
    dtype: Any,
    *,
    order: str = "C",
    overwrite: bool = False,
    sparse: bool = False,
) -> str:
    """Make a ``.npy`` file of zeros and return its absolute path.

    Raises
    ------
    ArrayFileError
        It exists, cannot be made there, or does not fit on the disk. No file is left, and an
        existing one is as it was.
    """
    name = text_path(path)
    checked_order(order)
    element, lengths = expanded(
        checked_dtype(dtype, f"the array for {name!r}"), checked_shape(shape, repr(name))
    )
    header = encode_header(lengths, element, order)
    size = len(header) + checked_nbytes(lengths, element, repr(name))

    def fill(fd: int) -> None:
        _fill(fd, header, size, sparse)

    try:
        # Replacing goes to where a link leads, as opening for writing would; a new name must be
        # free, even of a link that leads nowhere.
        target = os.path.realpath(name) if overwrite else name
        mode = _checked_target(name, target, overwrite)
        sparing(lambda: write_whole(target, fill, replace=overwrite, permissions=mode))
    except FileExistsError:
        raise _exists(name) from None
    except (OSError, ValueError) as error:
        raise _cannot_create(name, size, sparse, error) from None
    return name


def _checked_target(name: str, target: str, overwrite: bool) -> int | None:
    """The permissions of the file that will be replaced; None if there is none."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        if not Path(target).parent.is_dir():
            raise ArrayFileError(
                f"{name!r} cannot be made: the directory {str(Path(target).parent)!r} does not "
                "exist; make it first"
            ) from None
        return None
    if overwrite and not stat.S_ISREG(status.st_mode):
        raise ArrayFileError(
            f"{name!r} is a directory, a pipe or a device, which overwrite=True does not replace; "
            "give another name"
        )
    if not overwrite:
        raise _exists(name)
    if not os.access(target, os.W_OK):
        # A rename would ask the directory only, and take no notice of it.
        raise ArrayFileError(
            f"{name!r} is write-protected, and overwrite=True does not go around that; change its "
            "permissions, or choose another name"
        )
    return stat.S_IMODE(status.st_mode)


def _fill(fd: int, header: bytes, size: int, sparse: bool) -> None:
    """Header, and blocks for the rest."""
    if sparse:
        os.ftruncate(fd, size)
    else:
        _reserve(fd, size)
    written = os.pwrite(fd, header, 0)
    if written != len(header):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _reserve(fd: int, size: int) -> None:
    # Asked first, because a reservation that fails has by then taken what there was, and
    # other programs meet a full disk in the meantime.
    room = os.fstatvfs(fd)
    if room.f_blocks and size > room.f_bavail * room.f_frsize:  # no blocks: no limit is told
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise
        # glibc emulates what the file system lacks; other C libraries do not.
        zeros = memoryview(bytes(2**20))
        position = 0
        while position < size:
            position += os.pwrite(fd, zeros[: size - position], position)


def _exists(name: str) -> ArrayFileError:
    return ArrayFileError(
        f"{name!r} exists already; give overwrite=True to replace it, open it with mode='r+' to "
        "write into it, or choose another name"
    )


def _cannot_create(
    name: str, size: int, sparse: bool, error: OSError | ValueError
) -> ArrayFileError:
    if not isinstance(error, OSError):
        return ArrayFileError(f"{name!r} cannot be made ({error}); check the path")
    directory = str(Path(name).parent)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        available = "unknown"
        with contextlib.suppress(OSError):
            room = os.statvfs(directory)
            available = f"{room.f_bavail * room.f_frsize:,} bytes"
        remedy = (
            f"it needs {size:,} bytes and {available} are available in {directory!r} "
            f"({'your quota may be lower' if error.errno == errno.EDQUOT else 'less any quota'})."
            " Free some space, or create it on another disk"
        )
        if not sparse:
            remedy += "; sparse=True takes space only for what is written, at the risk of a full "
            remedy += "disk later"
    elif error.errno == errno.EFBIG:
        remedy = (
            f"it needs {size:,} bytes, more than one file may have here; raise the limit with "
            "'ulimit -f unlimited', or use a file system for larger files"
        )
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = f"you may not write in {directory!r}; choose another, or get the right to"
    elif host.short_of_descriptors(error):
        remedy = host.remedy(error)
    else:
        remedy = f"check the disk and the directory {directory!r}"
    return ArrayFileError(f"{name!r} cannot be made ({error.strerror}): {remedy}")
