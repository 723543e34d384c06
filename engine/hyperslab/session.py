"""The process's scratch directory: where jobs, machine code and scratch arrays live.

One directory for each process and scratch root, made when it is first needed and removed at
exit. A process that was killed cannot remove its own: its workers' watchdog does, and where
they were killed too, the next process to use the same root sweeps it away (see ``owned``).

The table is looked up without a lock, and gone through by copies of its keys: a signal handler
or the garbage collector may ask for a directory in the middle of each function.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import NamedTuple

from hyperslab.errors import ArrayFileError, HyperslabError
from hyperslab_workers import forks, owned
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.farewell import (
    before_child_ends,
    is_sure,
    note_exit,
    remove_after_end,
    threads_remain,
)
from hyperslab_workers.host import absolute, remedy, since_start, temporary_directory
from hyperslab_workers.mapping import sparing
from hyperslab_workers.scratch import OWNER, list_sessions, remove_abandoned

__all__ = ["scratch_root", "session_directory"]

_PREFIX = "hyperslab-session-"
_SETTINGS = "scratch= or HYPERSLAB_SCRATCH"


class _Session(NamedTuple):
    directory: Path
    fds: list[int]
    """The directory, and then what says that it has an owner: closed, it says so no longer."""

    @property
    def is_there(self) -> bool:
        """Whether what stands at its path is still the directory that was made."""
        try:
            return owned.is_at(self.fds[0], str(self.directory))
        except (IndexError, OSError):
            return False  # Another thread has just let go of it.

    def remove(self) -> None:
        # The mark is let go first: to list a directory takes a descriptor, and where no more files
        # can be opened there is no other. Who takes it for abandoned meanwhile removes it too.
        self._close(1)
        with contextlib.suppress(OSError, IndexError):
            owned.clear(self.fds[0], OWNER)
        with contextlib.suppress(OSError):
            self.directory.rmdir()
        self.abandon()

    def abandon(self) -> None:
        """Close without removing: what is left belongs to whoever else has it open."""
        self._close(0)

    def _close(self, first: int) -> None:
        while len(self.fds) > first:
            with contextlib.suppress(OSError, IndexError):
                os.close(self.fds.pop())


_lock = forks.lock(whole=True)
_sessions: dict[tuple[int, str], _Session] = {}


def scratch_root(scratch: str | os.PathLike[str] | None = None) -> str:
    """Where scratch directories are made, links not followed; as in :func:`session_directory`.

    Raises
    ------
    ArrayFileError
        None is named, and the system has no temporary directory that can be written to.
    """
    try:
        variable = os.environ.get("HYPERSLAB_SCRATCH")
        if scratch:
            return absolute(scratch)
        if variable:
            return absolute(since_start(variable))
        return temporary_directory(_SETTINGS)
    except HyperslabError as error:
        raise ArrayFileError(str(error)) from None


def session_directory(scratch: str | os.PathLike[str] | None = None) -> Path:
    """The scratch directory of this process, below `scratch`.

    Parameters
    ----------
    scratch : path, optional
        Root; default ``HYPERSLAB_SCRATCH``, else the system's temporary directory.

    Returns
    -------
    pathlib.Path
        An existing directory that only this user can enter.

    Raises
    ------
    ArrayFileError
        The root does not exist or cannot be written.
    """
    root = os.path.realpath(scratch_root(scratch))
    # The process number is part of the key: whatever a child inherits, it must not use, and
    # above all not remove, its parent's directory.
    key = (os.getpid(), root)
    known = _known(key)
    if known is not None:
        return known
    try:
        parent = _open_root(root)
        try:
            _sweep(parent)
            return _take(key, parent)
        finally:
            os.close(parent)
    except OSError as error:
        raise ArrayFileError(
            f"no scratch directory can be made in {root!r} ({error.strerror}): {remedy(error)}."
            f" Give an existing, writable directory with {_SETTINGS}"
        ) from None


def _open_root(root: str) -> int:
    """Open a scratch root, where others must not be able to exchange what is ours.

    What lies in scratch is loaded and run: machine code, tasks.

    Raises
    ------
    ArrayFileError
        They can.
    OSError
        It cannot be opened.
    """
    parent = sparing(lambda: open_apart(root, owned.PATH_FLAGS | os.O_DIRECTORY))
    mode = os.fstat(parent).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        os.close(parent)
        raise ArrayFileError(
            f"everybody may rename what lies in the scratch root {root!r} (mode"
            f" {stat.S_IMODE(mode):04o}), and so put files of theirs in place of ours: make a"
            f" directory in it that is yours alone (mkdir -m 700) and name that with {_SETTINGS},"
            " or set its sticky bit (chmod +t)"
        )
    return parent


def _take(key: tuple[int, str], parent: int) -> Path:
    """Make the directory of this process, or take the one that was made in the meantime."""
    while True:
        with _lock:
            known = _known(key)
            if known is not None:
                return known
            # Named before it is made: Ctrl-C can come at any point, and must not leave a
            # directory behind that nobody removes.
            name = f"{_PREFIX}{os.getuid()}-{os.urandom(6).hex()}"
            session = _Session(Path(key[1]) / name, [])
            try:
                if not _make(session, parent):
                    continue
                if _sessions.setdefault(key, session) is session:
                    _list_sessions()
                    before_child_ends(_remove_unless_needed)
                    return session.directory
            except BaseException:
                _forget(key, session)
                raise
        # A signal handler came in between, and made one.
        session.remove()


def _known(key: tuple[int, str]) -> Path | None:
    """The directory in the table, if it still exists."""
    session = _sessions.get(key)
    if session is None:
        return None
    if session.is_there:
        return session.directory
    with _lock:
        if _sessions.get(key) is session:
            _sessions.pop(key, None)
            session.abandon()
    return None


def _make(session: _Session, parent: int) -> bool:
    """Make the directory; False if another program swept it away before it had an owner."""
    name = session.directory.name
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        session.fds.append(directory := sparing(lambda: owned.open_own(name, parent)))
        _keep(directory)
        # Locked before it has its name: a sweep in between would take it for abandoned.
        fresh = f"{OWNER}.new"
        flags = owned.MARK_FLAGS | os.O_CREAT | os.O_EXCL
        owner = sparing(lambda: open_apart(fresh, flags, 0o600, dir_fd=directory))
        session.fds.append(owner)
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.write(owner, b"%d\n" % os.getpid())
        os.rename(fresh, OWNER, src_dir_fd=directory, dst_dir_fd=directory)
    except (FileNotFoundError, BlockingIOError):
        session.remove()
        return False
    if not is_sure():
        pipe = remove_after_end(str(session.directory))
        if pipe is not None:
            session.fds.append(pipe)
    return True


def _keep(directory: int) -> None:
    try:
        owned.keep(directory)
    except BlockingIOError:
        raise
    except OSError:
        pass  # Where there are no locks for directories, nobody sweeps one without a mark.


def _forget(key: tuple[int, str], session: _Session) -> None:
    if _sessions.get(key) is session:
        _sessions.pop(key, None)
    session.remove()


def _list_sessions() -> None:
    """Write into each directory which ones there are: a worker knows of one, and removes all."""
    sessions = [_sessions.get(key) for key in list(_sessions) if key[0] == os.getpid()]
    own = [session for session in sessions if session is not None]
    for session in own:
        with contextlib.suppress(OSError, IndexError):
            list_sessions(session.fds[0], [str(one.directory) for one in own])


def _sweep(parent: int) -> None:
    """Remove the directories of this user whose owner is gone."""
    prefix = f"{_PREFIX}{os.getuid()}-"
    with contextlib.suppress(OSError):
        for name in owned.names_in(parent):
            if name.startswith(prefix):
                remove_abandoned(name, parent)


@atexit.register
def _farewell() -> None:
    note_exit()
    _remove_own()


def _remove_unless_needed() -> None:
    if not threads_remain():  # Else a helper does it, when they have ended as well.
        _remove_own()


def _remove_own() -> None:
    for key in list(_sessions):
        session = _sessions.pop(key, None)
        if session is not None and key[0] == os.getpid():
            session.remove()


def _after_fork() -> None:
    """Leave to the parent what is its own.

    A child that kept the owner files open would own the directories too: nobody would sweep
    them if the parent was killed.
    """
    for key in list(_sessions):
        session = _sessions.pop(key, None)
        if session is not None:
            session.abandon()


# A fork waits for the table, so that the child does not get a half-made entry whose open files it
# could not close.
forks.in_child(_after_fork)
