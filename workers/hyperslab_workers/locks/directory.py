"""The directory of lock files behind one data file, and its life.

Programs that know nothing of each other own the directory together (see ``owned``), so it may be
removed only when none of them uses it. Each process that uses it keeps its ``users`` file open
under a shared ``flock``; who leaves tries for the exclusive one and, having it, knows to be the
last::

    enter:  open the directory -> open users -> shared flock -> is it still the file at its name?
            -> use                                 no: somebody removed it meanwhile; start again
    leave:  drop it -> exclusive flock, without waiting -> remove files, users, directory
                       refused: somebody else is using it, and will remove it

A process that is killed drops its ``flock`` and leaves the directory behind; :func:`sweep_root`
removes directories that nobody uses. The stripes in it cannot use ``flock``: they go through
fasteners.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Container

from hyperslab_workers import owned
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.locks.root import PROBE_SECONDS, PROBES, is_own_root, open_root

__all__ = ["LockDirectory", "sweep_root"]

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
    """

    __slots__ = ("_fds", "_file_mode", "path", "stripe_bytes", "stripes")

    def __init__(
        self, path: str, stripes: int, stripe_bytes: int, file_mode: int, fds: tuple[int, int]
    ) -> None:
        self.path = path
        self.stripes = stripes
        self.stripe_bytes = stripe_bytes
        self._file_mode = file_mode
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
            If it cannot be made or written to, or is no directory.
        """
        with contextlib.ExitStack() as undo:
            try:
                directory, file_mode = _opened(path)
                undo.callback(os.close, directory)
                owned.keep(directory)
                users = _open_lock_file(_USERS, file_mode, directory)
                undo.callback(os.close, users)
            except (FileNotFoundError, BlockingIOError):
                return None
            if not (owned.flock(users, fcntl.LOCK_SH) and owned.is_at(users, _USERS, directory)):
                return None
            layout = os.pread(users, 100, 0)
            if not layout:
                alone = owned.flock(users, fcntl.LOCK_EX) and owned.is_at(users, _USERS, directory)
                if alone and not os.fstat(users).st_size:
                    os.pwrite(users, b"%d %d\n" % (stripes, stripe_bytes), 0)
                return None  # Once more, under a shared lock.
            match = re.fullmatch(rb"(\d{1,18}) (\d{1,18})\n", layout)
            if match is None or not int(match[1]) or not int(match[2]):
                raise HyperslabError(
                    f"the lock directory {path} does not belong to this version of hyperslab"
                    f" (its file 'users' holds {layout!r}, not two numbers). Remove the directory"
                    " when no program is using it"
                )
            undo.pop_all()
            return cls(path, int(match[1]), int(match[2]), file_mode, (users, directory))

    def open(self, name: str) -> int:
        """Open a lock file in it, which is made where it is missing.

        Returns
        -------
        int
            File descriptor. Closing it drops every POSIX lock this process has on the file.

        Raises
        ------
        FileNotFoundError
            The directory was removed.
        OSError
            It cannot be opened, or is no lock file.
        """
        return _open_lock_file(name, self._file_mode, self._fds[1])

    def leave(self) -> None:
        """Stop using the directory; the last to leave removes it. Lock files must be closed."""
        # Taken first: whoever leaves in the middle of this, from a signal handler or a finalizer,
        # must find nothing to do, and no descriptor that may by then be another file's.
        fds, self._fds = self._fds, (-1, -1)
        users, directory = fds
        if users < 0:
            return
        try:
            # Let go before trying: of two that leave at once and both keep their shared lock,
            # neither would get the exclusive one, and the directory would stay.
            fcntl.flock(users, fcntl.LOCK_UN)
            if owned.flock(users, fcntl.LOCK_EX) and owned.is_at(users, _USERS, directory):
                _remove(directory, self.path)
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
        # A default root in /tmp may be a trap: it has to be ours.
        fd = owned.open_own(root) if is_own_root(root) else open_apart(root, owned.DIRECTORY_FLAGS)
    except OSError:
        return 0
    try:
        removed = 0
        for name in os.listdir(fd):
            path = f"{root}/{name}"
            if _DIRECTORY_NAME.fullmatch(name) and path not in keep:
                removed += _sweep(name, fd, path)
            elif name.startswith(PROBES):
                _remove_old_probe(name, fd)
        return removed
    except OSError:
        return 0  # Another user's, or removed at this moment.
    finally:
        os.close(fd)


def _sweep(name: str, root: int, path: str) -> bool:
    try:
        directory = open_apart(name, owned.DIRECTORY_FLAGS, dir_fd=root)
    except OSError:
        return False
    try:
        with owned.unowned(directory, _USERS) as free:
            return free and _remove(directory, path)
    except OSError:
        return False  # Another user's, in a shared root: theirs to sweep.
    finally:
        os.close(directory)


def _remove_old_probe(name: str, root: int) -> None:
    with contextlib.suppress(OSError):
        if time.time() - os.lstat(name, dir_fd=root).st_mtime > 3 * PROBE_SECONDS:
            os.unlink(name, dir_fd=root)


def _opened(path: str) -> tuple[int, int]:
    """The lock directory, made where it is missing, and permission bits for the files in it.

    The permissions are those of the root: private under a default root; under a root that
    several users share (say mode 2770), the lock directory and its files are theirs as well.
    """
    parent, name = os.path.split(path)
    root = open_root(parent)
    try:
        # Without the sticky bit, which would keep the last user from removing another's files.
        mode = stat.S_IMODE(os.fstat(root).st_mode) & ~stat.S_ISVTX
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=root)
        except FileExistsError:
            made = False
        directory = open_apart(name, owned.DIRECTORY_FLAGS, dir_fd=root)
    finally:
        os.close(root)
    if made:
        with contextlib.suppress(OSError):
            os.fchmod(directory, mode)
    return directory, mode & 0o666


def _open_lock_file(name: str, mode: int, directory: int) -> int:
    """Open a lock file to read and write, and make it, with `mode`, where it is missing."""
    try:
        fd = open_apart(name, owned.MARK_FLAGS | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
    except FileExistsError:
        fd = open_apart(name, owned.MARK_FLAGS, dir_fd=directory)
        status = os.fstat(fd)
        # A second name would be one that somebody gave to a file of ours elsewhere.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(fd)
            raise OSError(errno.EINVAL, "no lock file of hyperslab", name) from None
        return fd
    with contextlib.suppress(OSError):
        os.fchmod(fd, mode)  # Whatever the umask: a shared root's users must get in.
    return fd


def _close(fds: tuple[int, int]) -> None:
    for fd in fds:
        os.close(fd)


def _remove(directory: int, path: str) -> bool:
    """Remove an open directory whose `users` file this process has locked exclusively.

    `users` goes last, so that a removal cut short leaves a directory that is whole or empty.
    Only files of ours go: whatever else somebody put there keeps the directory.
    """
    try:
        for name in os.listdir(directory):
            if _LOCK_FILE_NAME.fullmatch(name):
                os.unlink(name, dir_fd=directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_USERS, dir_fd=directory)
        if owned.is_at(directory, path):
            os.rmdir(path)
    except OSError:
        return False  # In a shared root with foreign permissions: its owner sweeps it.
    root = os.path.dirname(path)
    if is_own_root(root):
        with contextlib.suppress(OSError):  # Not empty, as a rule.
            os.rmdir(root)
    return True
