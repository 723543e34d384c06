"""The per-process table of mapped files.

A file is mapped whole and once: a slice of a kept map costs a tenth of a microsecond, a new
map six to seventeen and the page faults again. The table is keyed by device, inode, birth and size,
never by path: a path that leads to a new file must not be answered with the old one's pages.

Any thread looks up without a lock, and the garbage collector may run a finalizer that drops maps
at any allocation, this module's own included. So only single operations of a plain dict touch
the table, which nothing can cut in two, and whatever goes through it goes through ``list(_files)``,
which copies the keys in one such operation. The lock is for those who add: one map for each file.
An ``OrderedDict`` that moves what is used to its end was rejected: it is changed by every look-up,
under whoever walks through it.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from hyperslab_workers import forks, host
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.errors import ArrayFileError
from hyperslab_workers.file_identity import FileStatus, file_status
from hyperslab_workers.host import short_of_descriptors

__all__ = [
    "FileMap",
    "MappedFile",
    "check_length",
    "forget_all",
    "kept",
    "mapped",
    "release",
    "sparing",
    "verify",
    "verify_still",
    "writing_failed",
]

_KEPT_FILES = 64
"""Maps kept open; each costs up to two file descriptors of usually 1024."""

# A map needs no descriptor once it was made, and Python keeps a copy of one up to 3.12.
_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}

_Key = tuple[int, int, int, int, bool]


class FileMap(mmap.mmap):
    """A map that knows its file, so that an array can be traced back to where it lies."""

    identity: tuple[int, int]
    """Device and inode."""

    born: int
    """Birth time of the file, 0 where it is not known."""


class MappedFile:
    """One file, mapped whole, and for writing its descriptor beside it.

    It closes the descriptor when the last user lets go, not when the table drops it: a
    descriptor closed under another thread's ``pwrite`` could by then be another file.
    """

    __slots__ = ("_close", "data", "fd", "map", "path", "used")

    used: int
    """When it was last looked up, in look-ups of this process: the one longest ago goes first."""

    def __init__(self, ref: ArrayRef, writable: bool) -> None:
        # Bound here, because at interpreter exit the os module may be gone before the table.
        self._close: Callable[[int], None] = os.close
        self.fd = -1
        self.path = ref.path
        self.used = next(_look_ups)
        try:
            # O_NONBLOCK: what has become a FIFO in the meantime is an error, not a wait.
            flags = os.O_RDWR if writable else os.O_RDONLY
            flags |= os.O_NONBLOCK
            self.fd = sparing(lambda: open_apart(ref.path, flags))
            _check(ref, file_status(self.fd))
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self.map = sparing(lambda: FileMap(self.fd, ref.file_size, access=access, **_UNTRACKED))
        except OSError as error:
            raise _mapping_failed(ref, error) from None
        self.map.identity = ref.identity
        self.map.born = ref.born
        # np.frombuffer holds the buffer, np.ndarray(buffer=map) alone would not: with it,
        # closing a map under a live view is refused instead of being a crash at next touch.
        self.data: np.ndarray = np.frombuffer(self.map, np.uint8)
        if not writable:
            self._close_fd()

    def view(self, ref: ArrayRef, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """The elements from `offset` on, in the array's type and strides."""
        return np.ndarray(shape, ref.dtype, self.data, offset, ref.strides)

    def position(self, view: np.ndarray) -> int:
        """Where in the file element 0 of one of its views lies."""
        start: int = self.data.__array_interface__["data"][0]
        address: int = view.__array_interface__["data"][0]
        return address - start

    def _close_fd(self) -> None:
        # Forgotten first: Ctrl-C may come between the two, and what is closed twice may by then
        # be another file.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._close(fd)

    __del__ = _close_fd


_Made = TypeVar("_Made")


def sparing(make: Callable[[], _Made]) -> _Made:
    """Make something that takes a descriptor; where they have run short, kept maps are let go.

    Parameters
    ----------
    make : callable
        Makes it, or raises an ``OSError``. Called twice at most.
    """
    try:
        return make()
    except OSError as error:
        if not short_of_descriptors(error):
            raise
    forget_all()
    return make()


_files: dict[_Key, MappedFile] = {}
_look_ups = itertools.count()
# Held by who adds to the table. Reentrant: a signal handler, or a destructor of the user's, may
# look an array up while this thread is adding one. Never taken to drop: a finalizer that waited
# for it could be running in a thread that holds what its owner waits for. In a forked child it is
# free, and inherited maps and descriptors stay good.
_lock = forks.lock()


def verify(ref: ArrayRef) -> None:
    """Check that the path still leads to the file that was opened, at its size.

    One ``statx``, about 5 µs: meant to be called once for each task.

    Raises
    ------
    ArrayFileError
        The file is gone, was replaced by another one, or grew or shrank (a raw file may grow).
    """
    try:
        _check(ref, file_status(ref.path))
    except OSError as error:
        raise _mapping_failed(ref, error) from None


def verify_still(ref: ArrayRef) -> None:
    """Check once more, when all is done, what :func:`verify` has checked before.

    One ``stat``, a microsecond: meant to be called at the end of every job.

    Raises
    ------
    ArrayFileError
        As for :func:`verify`.
    """
    try:
        status = os.stat(ref.path)
    except OSError:
        pass
    else:
        found = (status.st_dev, status.st_ino, status.st_size)
        if found == (ref.device, ref.inode, ref.file_size):
            return
    verify(ref)


def check_length(ref: ArrayRef, size: int) -> None:
    """Refuse a file that is shorter than it was: a write would make it long again, with a hole.

    Raises
    ------
    ArrayFileError
        It is.
    """
    if size < ref.file_size:
        raise _changed_size(ref, size)


def mapped(ref: ArrayRef, writable: bool) -> MappedFile:
    """The kept map of a file that is not empty, made now if there is none.

    Raises
    ------
    ArrayFileError
        It has to be made, and the path no longer leads to that file, or it cannot be mapped.
    """
    key = (ref.device, ref.inode, ref.born, ref.file_size, writable)
    file = _files.get(key)
    if file is None:
        with _lock:
            file = _files.get(key)
            if file is None:
                _drop_removed()
                file = _files.setdefault(key, MappedFile(ref, writable))
                _drop_unused()
    # Another thread may have dropped it since: it is in hand, so that does not matter.
    file.used = next(_look_ups)
    return file


def _drop_removed() -> None:
    """Drop the maps of files that are no longer at their path.

    The system keeps the disk space of a removed file as long as anybody maps it: without
    this, workers of a warm engine would hold every scratch file of the jobs before.
    """
    for key in list(_files):
        file = _files.get(key)
        if file is None:
            continue
        try:
            status = file_status(file.path)
        except OSError:
            _files.pop(key, None)
        else:
            if not _is(status, *file.map.identity, file.map.born):
                _files.pop(key, None)


def _drop_unused() -> None:
    """Drop the maps that were not used for longest, down to what is kept."""
    files = [(file.used, key) for key in list(_files) if (file := _files.get(key)) is not None]
    for _, key in sorted(files)[:-_KEPT_FILES]:
        _files.pop(key, None)


def kept(ref: ArrayRef) -> list[MappedFile]:
    """The maps of that file that exist, read-only and writable."""
    name = (ref.device, ref.inode, ref.born, ref.file_size)
    keys = [(*name, writable) for writable in (False, True)]
    return [file for key in keys if (file := _files.get(key)) is not None]


def release(ref: ArrayRef) -> None:
    """Drop the maps of that file; views of them stay valid, and keep theirs alive."""
    for key in list(_files):
        if key[:2] == ref.identity:
            _files.pop(key, None)


def forget_all() -> None:
    """Drop all maps; views of them stay valid, and keep theirs alive."""
    _files.clear()


def _is(status: FileStatus, device: int, inode: int, born: int) -> bool:
    """Whether it is that file; a birth time that is not known agrees with any."""
    if (status.device, status.inode) != (device, inode):
        return False
    return not born or not status.born or born == status.born


def _check(ref: ArrayRef, status: FileStatus) -> None:
    if not _is(status, ref.device, ref.inode, ref.born):
        raise ArrayFileError(
            f"{ref.path!r} is no longer the file that was opened: it was inode {ref.inode} on "
            f"device {ref.device}, now inode {status.inode} on device {status.device}"
            f"{', made later,' if status.inode == ref.inode else ''} stands "
            "there. It was replaced or moved; open it again"
        )
    if status.size < ref.file_size or (status.size > ref.file_size and not ref.grows):
        raise _changed_size(ref, status.size)


def _changed_size(ref: ArrayRef, size: int) -> ArrayFileError:
    return ArrayFileError(
        f"{ref.path!r} changed its size: it had {ref.file_size:,} bytes when it was opened "
        f"and has {size:,} now. Another program grew or truncated it; open it again, and check "
        "its content"
    )


def _mapping_failed(ref: ArrayRef, error: OSError) -> ArrayFileError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            remedy = "it was removed or renamed since it was opened; open it where it is now"
        case errno.ENOMEM:
            remedy = (
                f"mapping its {ref.file_size:,} bytes takes that much address space (not "
                "memory); raise the limit with 'ulimit -v unlimited'"
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            remedy = "its permissions changed, or differ on this machine; check them"
        case errno.ENODEV:
            remedy = "its file system cannot map files; copy it to a local disk"
        case errno.EMFILE | errno.ENFILE:
            remedy = host.remedy(error)
        case _:
            remedy = "check the disk or the network file system"
    return ArrayFileError(f"{ref.path!r} cannot be mapped ({error.strerror}): {remedy}")


def writing_failed(ref: ArrayRef, error: OSError) -> ArrayFileError:
    """The error for a write that the system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = (
            "free some space or raise the quota. A file made with sparse=True, or by another "
            "program, may have no disk reserved; create() without sparse= reserves it up front"
        )
    elif error.errno == errno.EFBIG:
        remedy = "the limit for one file is reached; raise it with 'ulimit -f unlimited'"
    else:
        remedy = "part of the data may be missing; check the disk and write it again"
    return ArrayFileError(f"{ref.path!r} cannot be written ({error.strerror}): {remedy}")
