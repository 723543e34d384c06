"""Which file it is: device, inode and birth time.

A device and inode number name a file only as long as it exists: the number of a removed file is
given to the next one, often at once. Its birth time tells the two apart. Python has no
``os.statx`` before 3.15, so it is asked of the C library; where that, the file system or a
container's filter does not tell it, it is 0, which agrees with any.

Modification time was rejected: it changes with every store.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import Any, NamedTuple

__all__ = ["FileStatus", "file_status"]

_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_BTIME = 0x800
_WANTED = 0x7FF | _BTIME

# struct statx of <linux/stat.h>, up to the device: mask, inode, size, birth time, device.
_STATX = struct.Struct("=I28xQQ32xqI44xII")
_ROOM = 256


class FileStatus(NamedTuple):
    """What tells one file from another, and its size."""

    device: int
    inode: int
    size: int
    born: int
    """Nanoseconds since 1970; 0 where it is not known."""


@functools.cache
def _statx() -> Any:
    try:
        function = ctypes.CDLL(None, use_errno=True).statx
    except (AttributeError, OSError):
        return None
    function.argtypes = (
        *(ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_char_p),
    )
    return function


def file_status(file: str | int) -> FileStatus:
    """The identity and size of a file, by its path (links are followed) or descriptor.

    Raises
    ------
    OSError
        There is no such file, or it cannot be reached.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as one:
    ...     file_status(one.name) == file_status(one.fileno())
    True
    """
    statx = _statx()
    if statx is not None:
        room = ctypes.create_string_buffer(_ROOM)
        if isinstance(file, int):
            failed = statx(file, b"", _AT_EMPTY_PATH, _WANTED, room)
        else:
            failed = statx(_AT_FDCWD, os.fsencode(file), 0, _WANTED, room)
        if not failed:
            mask, inode, size, seconds, nanoseconds, major, minor = _STATX.unpack_from(room)
            born = seconds * 10**9 + nanoseconds if mask & _BTIME else 0
            return FileStatus(os.makedev(major, minor), inode, size, born)
    # Also after a refusal: filters of older containers know no statx, and os.stat says better
    # than a number what is wrong otherwise.
    status = os.stat(file)
    return FileStatus(status.st_dev, status.st_ino, status.st_size, 0)
