"""File descriptors that nobody takes for the standard streams.

A program that was started with its standard streams closed (a daemon, a job of cron) gets the
numbers 0 to 2 for the next files that it opens, and whatever prints to "the standard output" then
prints into them: a kernel's ``print`` overwrote the header of the array it was writing.
"""

from __future__ import annotations

import fcntl
import os

__all__ = ["open_apart"]

_FIRST = 3


def open_apart(
    path: str | os.PathLike[str], flags: int, mode: int = 0o777, *, dir_fd: int | None = None
) -> int:
    """Open a file as :func:`os.open` does, never as descriptor 0, 1 or 2.

    The descriptor is closed in programs that are started from here.

    Examples
    --------
    >>> fd = open_apart("/dev/null", os.O_RDONLY)
    >>> fd > 2, os.get_inheritable(fd)
    (True, False)
    >>> os.close(fd)
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    if fd >= _FIRST:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(fd)
