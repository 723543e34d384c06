"""Directories that somebody owns: one process alone, or several together.

A file in the directory is its *mark*. Who owns the directory keeps the mark open under a
``flock``, shared or exclusive, which the system drops when the process ends, whatever way it
goes. So whether anybody still owns a directory is asked of its mark, and never of a process
number, which the system may have given to somebody else since::

    own:    make or open the directory -> shared flock on it -> open the mark -> flock
            -> is it still the file at its name? -> own
    sweep:  open the directory -> open the mark -> exclusive flock, without waiting
            -> still the file at its name? -> it is nobody's: remove what is in it, the mark last
            no mark -> exclusive flock on the directory itself -> the same

Why ``flock`` and not a POSIX lock: ``flock`` belongs to the open file, so neither another
``open``/``close`` in this process nor a forked child that closes its copy can drop it.
(``F_OFD_SETLK`` has the same ownership but needs a hand-packed C struct.)

In ``/tmp`` anybody can make a directory with any name, and where others may write, they can put
another one in place of ours at any time. So a directory is judged by its *open descriptor* (type,
owner, mode), which nobody can exchange, and what is in it is reached from there. Opening follows
no link and waits for nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from hyperslab_workers.descriptors import open_apart

__all__ = [
    "DIRECTORY_FLAGS",
    "MARK_FLAGS",
    "PATH_FLAGS",
    "clear",
    "fault_of",
    "flock",
    "is_at",
    "keep",
    "names_in",
    "open_own",
    "read_own",
    "unowned",
]

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
"""How a directory is opened to be listed and locked."""

PATH_FLAGS = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
"""How what stands at a path is opened to be looked at; needs no right to read it."""

MARK_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How a mark is opened: a link is not followed, and a FIFO in its place is not waited for."""


def fault_of(status: os.stat_result) -> str:
    """Why a file or directory is not this user's alone, in words; ``""`` if it is.

    Examples
    --------
    >>> fault_of(os.stat("/proc/self")), fault_of(os.lstat("/proc/self"))
    ('', 'is a symbolic link')
    """
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid} and you are user {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        return f"has mode {mode:04o}, so that others can write to it"
    return ""


def open_own(path: str, dir_fd: int | None = None) -> int:
    """Open a directory that must be this user's alone.

    Raises
    ------
    OSError
        It is not, or cannot be opened; ``PermissionError`` says whose it is.
    """
    fd = open_apart(path, DIRECTORY_FLAGS, dir_fd=dir_fd)
    if fault := fault_of(os.fstat(fd)):
        os.close(fd)
        raise PermissionError(errno.EPERM, f"it {fault}", path)
    return fd


def read_own(path: str, dir_fd: int | None = None) -> bytes:
    """Read a file that must be this user's alone: what is unpickled or linked decides what is run.

    Raises
    ------
    OSError
        It is not, or cannot be read; ``PermissionError`` says whose it is.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = open_apart(path, flags, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        fault = fault_of(status)
        if fault or not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EPERM, f"it {fault or 'is no regular file'}", path)
        data = bytearray()
        # One byte more than there should be, to see the end at once.
        while part := os.read(fd, max(status.st_size - len(data), 0) + 1):
            data += part
    finally:
        os.close(fd)
    return bytes(data)


def names_in(directory: int) -> list[str]:
    """What an open directory holds, also one that was opened as a path alone."""
    listing = open_apart(".", DIRECTORY_FLAGS, dir_fd=directory)
    try:
        return os.listdir(listing)
    finally:
        os.close(listing)


def flock(fd: int, kind: int) -> bool:
    """Lock an open file, ``LOCK_SH`` or ``LOCK_EX``, without waiting; False if it is taken.

    To change the kind is not atomic: for a moment nothing is locked.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: str, dir_fd: int | None = None) -> bool:
    """Whether what is open is still what stands at its path.

    A lock on a file that was removed, or replaced, between the opening and the lock is a lock
    on nothing.
    """
    try:
        found = os.lstat(path, dir_fd=dir_fd)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(found, os.fstat(fd))


def keep(directory: int) -> None:
    """Keep cleaners of old files away from an open directory, until it is closed.

    A job may run for weeks, and systemd-tmpfiles removes from /tmp what is older than ten days,
    except in directories that somebody has locked. Nor is such a directory swept before it has
    a mark.

    Raises
    ------
    BlockingIOError
        A cleaner is at the directory this moment.
    OSError
        It lies where there are no locks.
    """
    fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def unowned(directory: int, mark: str) -> Iterator[bool]:
    """Take a directory from nobody, for the duration of a ``with`` block.

    Parameters
    ----------
    directory : int
        The directory, open for this alone.
    mark : str
        Name of its mark.

    Yields
    ------
    bool
        True if it is nobody's, and locked against all others, so that it can be cleared; False
        if somebody owns it, is making it, or is removing it.

    Raises
    ------
    OSError
        The mark cannot be opened, or is no file; or there is none, and no locks either.
    """
    try:
        fd = open_apart(mark, MARK_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        # Who made it, or was removing it, died before the end; or is at it, and has it locked.
        yield flock(directory, fcntl.LOCK_EX)
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", mark)
        yield flock(fd, fcntl.LOCK_EX) and is_at(fd, mark, directory)
    finally:
        os.close(fd)


def clear(directory: int, mark: str) -> None:
    """Remove everything in an open directory, as far as that can be.

    The mark goes last, so that what is cut short is gone on with by the next one who sweeps.
    """
    for name in os.listdir(directory):
        if name == mark:
            continue
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            import shutil

            shutil.rmtree(name, ignore_errors=True, dir_fd=directory)
        except OSError:
            continue
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mark, dir_fd=directory)
