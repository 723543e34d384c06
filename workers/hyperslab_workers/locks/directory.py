"""The directory of lock files behind one data file, and its life.

Programs that know nothing of each other share the directory, so it may be removed only when
none of them uses it. Each process that uses it keeps its ``users`` file open under a shared
``flock``; who leaves tries for the exclusive one and, having it, knows to be the last::

    enter:  open users -> shared flock -> is it still the file at that path? -> use
                                          no: somebody removed it meanwhile; start again
    leave:  drop it -> exclusive flock, without waiting -> remove files, users, directory
                       refused: somebody else is using it, and will remove it

A process that is killed drops its ``flock`` and leaves the directory behind; :func:`sweep`
removes directories that nobody uses.

Why ``flock`` here and POSIX locks in the stripes: ``flock`` belongs to the open file, so
neither another ``open``/``close`` in this process nor a forked child that closes its copy can
drop it. (``F_OFD_SETLK`` has the same ownership but needs a hand-packed C struct.) It is of no
use for the stripes, which go through fasteners.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Container
from pathlib import Path

from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.locks.root import is_own_root, make_directory

__all__ = ["LockDirectory", "open_lock_file", "sweep_root"]

_USERS = "users"
_DIRECTORY_NAME = re.compile(r"[0-9a-f]+-[0-9a-f]+")
_LOCK_FILE_NAME = re.compile(r"\d+\.(gate|rw)")


class LockDirectory:
    """A lock directory that this process is using.

    Attributes
    ----------
    path : str
        The directory.
    stripes, stripe_bytes : int
        The layout in force: that of whoever made the directory. A process that opened the
        data file after it was resized would compute another one, and two processes with
        different layouts would not exclude each other.
    file_mode : int
        Permission bits of the files in it.
    """

    __slots__ = ("_fds", "file_mode", "path", "stripe_bytes", "stripes")

    def __init__(
        self, path: str, stripes: int, stripe_bytes: int, file_mode: int, fds: tuple[int, int]
    ) -> None:
        self.path = path
        self.stripes = stripes
        self.stripe_bytes = stripe_bytes
        self.file_mode = file_mode
        self._fds = fds

    @classmethod
    def enter(cls, path: str, stripes: int, stripe_bytes: int) -> LockDirectory | None:
        """Use the directory `path`; make it, with the layout given, where it does not exist.

        Returns
        -------
        LockDirectory or None
            None if another process is just making or removing it: try again in a moment.

        Raises
        ------
        HyperslabError
            If its layout cannot be read, or its root cannot be used (see ``root``).
        OSError
            If it cannot be made or written to.
        """
        with contextlib.ExitStack() as undo:
            try:
                file_mode = make_directory(path)
                # A shared flock on the directory itself keeps systemd-tmpfiles, which removes
                # old files from /tmp, away from the lock files of a job that runs for weeks.
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                undo.callback(os.close, directory)
                users = open_lock_file(os.path.join(path, _USERS), file_mode)
                undo.callback(os.close, users)
            except FileNotFoundError:
                return None
            if not (_flock(directory, fcntl.LOCK_SH) and _flock(users, fcntl.LOCK_SH)):
                return None
            if not _is_at(users, path):
                return None
            layout = os.pread(users, 100, 0)
            if not layout:
                if _flock(users, fcntl.LOCK_EX) and _is_at(users, path) and not _size(users):
                    os.pwrite(users, b"%d %d\n" % (stripes, stripe_bytes), 0)
                return None  # Once more, under a shared lock: changing the kind is not atomic.
            match = re.fullmatch(rb"(\d+) (\d+)\n", layout)
            if match is None or not int(match[1]) or not int(match[2]):
                raise HyperslabError(
                    f"the lock directory {path} does not belong to this version of hyperslab"
                    f" (its file 'users' holds {layout!r}, not two numbers). Remove the directory"
                    " when no program is using it"
                )
            undo.pop_all()
            return cls(path, int(match[1]), int(match[2]), file_mode, (users, directory))

    def leave(self) -> None:
        """Stop using the directory; the last to leave removes it. Lock files must be closed."""
        users = self._fds[0]
        if users < 0:
            return
        try:
            # Let go before trying: of two that leave at once and both keep their shared lock,
            # neither would get the exclusive one, and the directory would stay.
            fcntl.flock(users, fcntl.LOCK_UN)
            if _flock(users, fcntl.LOCK_EX) and _is_at(users, self.path):
                _remove(self.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without unlocking: in a forked child, where the lock is the parent's."""
        fds, self._fds = self._fds, (-1, -1)
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def sweep_root(root: str, keep: Container[str] = ()) -> int:
    """Remove the lock directories under `root` that no process uses.

    Parameters
    ----------
    root : str
        A lock root; it need not exist.
    keep : container of str
        Directories to leave alone: those this process uses. On NFS, where the kernel turns
        ``flock`` into a POSIX lock, looking at our own would drop it.

    Returns
    -------
    int
        How many were removed.
    """
    try:
        found = list(Path(root).iterdir())
    except OSError:
        return 0
    removed = 0
    for directory in found:
        path = str(directory)
        if not _DIRECTORY_NAME.fullmatch(directory.name) or path in keep or directory.is_symlink():
            continue
        try:
            users = os.open(os.path.join(path, _USERS), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Its maker or its remover died half-way. Only rmdir: it fails if somebody is
            # making a new `users` file at this moment.
            with contextlib.suppress(OSError):
                directory.rmdir()
                removed += 1
            continue
        except OSError:
            continue  # Another user's, in a shared root: theirs to sweep.
        try:
            if _flock(users, fcntl.LOCK_EX) and _is_at(users, path):
                removed += _remove(path)
        finally:
            os.close(users)
    return removed


def open_lock_file(path: str, mode: int) -> int:
    """Open a lock file for reading and writing, and make it with `mode` where it is missing.

    Returns
    -------
    int
        File descriptor. Closing it drops every POSIX lock this process has on the file.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags)
    with contextlib.suppress(OSError):
        os.fchmod(fd, mode)  # Whatever the umask: a shared root's users must get in.
    return fd


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(users: int, directory: str) -> bool:
    """Whether the open `users` file is still the one at its path."""
    try:
        found = Path(directory, _USERS).lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(users))


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _remove(directory: str) -> bool:
    """Remove a directory whose `users` file this process has locked exclusively.

    `users` goes last, so that a removal cut short leaves a directory that is whole or empty.
    Only files of ours go: whatever else somebody put there keeps the directory.
    """
    path = Path(directory)
    try:
        for file in path.iterdir():
            if _LOCK_FILE_NAME.fullmatch(file.name):
                file.unlink()
        (path / _USERS).unlink()
        path.rmdir()
    except OSError:
        return False  # In a shared root with foreign permissions: its owner sweeps it.
    if is_own_root(str(path.parent)):
        with contextlib.suppress(OSError):  # Not empty, as a rule.
            path.parent.rmdir()
    return True
