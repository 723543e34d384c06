"""The directory of lock files behind one data file, and its life.

Programs that know nothing of each other own the directory together (see ``owned``), so it may be
removed only when none of them uses it. Each process that uses it keeps its ``users`` file open
under a shared ``flock``; who leaves tries for the exclusive one and, having it, knows to be the
last::

    enter:  open users -> shared flock -> is it still the file at that path? -> use
                                          no: somebody removed it meanwhile; start again
    leave:  drop it -> exclusive flock, without waiting -> remove files, users, directory
                       refused: somebody else is using it, and will remove it

A process that is killed drops its ``flock`` and leaves the directory behind; :func:`sweep_root`
removes directories that nobody uses. The stripes in it cannot use ``flock``: they go through
fasteners.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Container
from pathlib import Path

from hyperslab_workers import owned
from hyperslab_workers.descriptors import open_apart
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
                directory = owned.keep(path)
                undo.callback(os.close, directory)
                users = open_lock_file(_mark(path), file_mode)
                undo.callback(os.close, users)
            except (FileNotFoundError, BlockingIOError):
                return None
            if not (owned.flock(users, fcntl.LOCK_SH) and owned.is_at(users, _mark(path))):
                return None
            layout = os.pread(users, 100, 0)
            if not layout:
                alone = owned.flock(users, fcntl.LOCK_EX) and owned.is_at(users, _mark(path))
                if alone and not os.fstat(users).st_size:
                    os.pwrite(users, b"%d %d\n" % (stripes, stripe_bytes), 0)
                return None  # Once more, under a shared lock.
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
        # Taken first: whoever leaves in the middle of this, from a signal handler or a finalizer,
        # must find nothing to do, and no descriptor that may by then be another file's.
        fds, self._fds = self._fds, (-1, -1)
        users = fds[0]
        if users < 0:
            return
        try:
            # Let go before trying: of two that leave at once and both keep their shared lock,
            # neither would get the exclusive one, and the directory would stay.
            fcntl.flock(users, fcntl.LOCK_UN)
            if owned.flock(users, fcntl.LOCK_EX) and owned.is_at(users, _mark(self.path)):
                _remove(self.path)
        finally:
            _close(fds)

    def abandon(self) -> None:
        """Close without unlocking: in a forked child, where the lock is the parent's."""
        fds, self._fds = self._fds, (-1, -1)
        if fds[0] >= 0:
            _close(fds)


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
            with owned.unowned(_mark(path)) as users:
                removed += users is not None and _remove(path)
        except FileNotFoundError:
            # Its maker or its remover died half-way. Only rmdir: it fails if somebody is
            # making a new `users` file at this moment.
            with contextlib.suppress(OSError):
                directory.rmdir()
                removed += 1
        except OSError:
            continue  # Another user's, in a shared root: theirs to sweep.
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
        fd = open_apart(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return open_apart(path, flags)
    with contextlib.suppress(OSError):
        os.fchmod(fd, mode)  # Whatever the umask: a shared root's users must get in.
    return fd


def _mark(directory: str) -> str:
    return os.path.join(directory, _USERS)


def _close(fds: tuple[int, int]) -> None:
    for fd in fds:
        os.close(fd)


def _remove(directory: str) -> bool:
    """Remove a directory whose `users` file this process has locked exclusively.

    `users` goes last, so that a removal cut short leaves a directory that is whole or empty.
    Only files of ours go: whatever else somebody put there keeps the directory.
    """
    path = Path(directory)
    try:
        # By its descriptor: in a shared root others could put a link in its place meanwhile.
        inside = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for name in os.listdir(inside):
                if _LOCK_FILE_NAME.fullmatch(name):
                    os.unlink(name, dir_fd=inside)
            os.unlink(_USERS, dir_fd=inside)
        finally:
            os.close(inside)
        path.rmdir()
    except OSError:
        return False  # In a shared root with foreign permissions: its owner sweeps it.
    if is_own_root(str(path.parent)):
        with contextlib.suppress(OSError):  # Not empty, as a rule.
            path.parent.rmdir()
    return True
