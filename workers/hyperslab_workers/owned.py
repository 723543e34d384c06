"""Directories that somebody owns: one process alone, or several together.

A file in the directory is its *mark*. Who owns the directory keeps the mark open under a
``flock``, shared or exclusive, which the system drops when the process ends, whatever way it
goes. So whether anybody still owns a directory is asked of its mark, and never of a process
number, which the system may have given to somebody else since::

    own:    open the mark -> flock -> is it still the file at its path? -> own
    sweep:  open the mark -> exclusive flock, without waiting -> still the file at its path?
            -> it is nobody's: remove the directory

Why ``flock`` and not a POSIX lock: ``flock`` belongs to the open file, so neither another
``open``/``close`` in this process nor a forked child that closes its copy can drop it.
(``F_OFD_SETLK`` has the same ownership but needs a hand-packed C struct.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

__all__ = ["MARK_FLAGS", "flock", "is_at", "keep", "unowned"]

MARK_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How a mark is opened: a link is not followed, and a FIFO in its place is not waited for."""


def flock(fd: int, kind: int) -> bool:
    """Lock an open file, ``LOCK_SH`` or ``LOCK_EX``, without waiting; False if it is taken.

    To change the kind is not atomic: for a moment nothing is locked.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(mark: int, path: str) -> bool:
    """Whether the open mark is still the file at its path.

    A lock on a file that was removed, or replaced, between the opening and the lock is a lock
    on nothing.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(found, os.fstat(mark))


def keep(directory: str) -> int:
    """Keep cleaners of old files away from a directory, until the descriptor is closed.

    A job may run for weeks, and systemd-tmpfiles removes from /tmp what is older than ten days,
    except in directories that somebody has locked.

    Raises
    ------
    BlockingIOError
        A cleaner is at the directory this moment.
    OSError
        The directory is gone, cannot be read, or lies where there are no locks.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def unowned(path: str) -> Iterator[int | None]:
    """Take the directory of a mark from nobody, for the duration of a ``with`` block.

    Parameters
    ----------
    path : str
        The mark.

    Yields
    ------
    int or None
        The mark, open and locked against all others, so that the directory can be removed; None
        if somebody owns the directory.

    Raises
    ------
    FileNotFoundError
        There is no mark: the directory is being made or removed, or that was cut short.
    OSError
        The mark cannot be opened, or is no file.
    """
    mark = os.open(path, MARK_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(mark).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        yield mark if flock(mark, fcntl.LOCK_EX) and is_at(mark, path) else None
    finally:
        os.close(mark)
