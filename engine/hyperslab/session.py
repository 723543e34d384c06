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
import secrets
import shutil
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
from hyperslab_workers.startup import SESSIONS

__all__ = ["session_directory"]

_PREFIX = "hyperslab-session-"
_OWNER = "owner.lock"
_SETTINGS = "scratch= or HYPERSLAB_SCRATCH"


class _Session(NamedTuple):
    directory: Path
    fds: list[int]  # Closed, they no longer say that the directory has an owner.

    def remove(self) -> None:
        # In this order: where no more files can be opened, these two are what is needed to look
        # into the directory. Another process that takes it for abandoned meanwhile removes it too.
        self.abandon()
        shutil.rmtree(self.directory, ignore_errors=True)

    def abandon(self) -> None:
        """Close without removing: what is left belongs to whoever else has it open."""
        while self.fds:
            with contextlib.suppress(OSError):
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
    _sweep(root)
    with _lock:
        known = _known(key)
        if known is not None:
            return known
        # Named before it is made: Ctrl-C can come at any point, and must not leave a directory
        # behind that nobody removes.
        session = _Session(Path(root) / f"{_PREFIX}{os.getuid()}-{secrets.token_hex(6)}", [])
        try:
            _make(session)
            if _sessions.setdefault(key, session) is session:
                _list_sessions()
                before_child_ends(_remove_unless_needed)
                return session.directory
        except OSError as error:
            _forget(key, session)
            raise ArrayFileError(
                f"no scratch directory can be made in {root!r} ({error.strerror}): {remedy(error)}."
                f" Give an existing, writable directory with {_SETTINGS}"
            ) from None
        except BaseException:
            _forget(key, session)
            raise
    # A signal handler came in between, and made one.
    session.remove()
    return session_directory(root)


def _known(key: tuple[int, str]) -> Path | None:
    """The directory in the table, if it still exists."""
    session = _sessions.get(key)
    if session is None:
        return None
    if session.directory.is_dir():
        return session.directory
    with _lock:
        if _sessions.get(key) is session:
            _sessions.pop(key, None)
            session.abandon()
    return None


def _refuse_unsafe(root: Path) -> None:
    """Refuse a root in which others could put a directory of theirs in place of ours.

    What lies in scratch is loaded and run: machine code, tasks.
    """
    status = root.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise ArrayFileError(
            f"everybody may rename what lies in the scratch root {str(root)!r} (mode "
            f"{stat.S_IMODE(status.st_mode):04o}), and so put files of theirs in place of ours: "
            f"set the sticky bit (chmod +t), or name another directory with {_SETTINGS}"
        )


def _make(session: _Session) -> None:
    _refuse_unsafe(session.directory.parent)
    session.directory.mkdir(mode=0o700)
    # Locked before it has its name: a sweep in between would take it for abandoned.
    fresh = session.directory / f"{_OWNER}.new"
    flags = owned.MARK_FLAGS | os.O_CREAT | os.O_EXCL
    owner = sparing(lambda: open_apart(fresh, flags, 0o600))
    session.fds.append(owner)
    fcntl.flock(owner, fcntl.LOCK_EX)
    os.write(owner, b"%d\n" % os.getpid())
    fresh.rename(session.directory / _OWNER)
    with contextlib.suppress(OSError):
        session.fds.append(owned.keep(str(session.directory)))
    if not is_sure():
        pipe = remove_after_end(str(session.directory))
        if pipe is not None:
            session.fds.append(pipe)


def _forget(key: tuple[int, str], session: _Session) -> None:
    if _sessions.get(key) is session:
        _sessions.pop(key, None)
    session.remove()


def _list_sessions() -> None:
    """Write into each directory which ones there are: a worker knows of one, and removes all."""
    sessions = [_sessions.get(key) for key in list(_sessions) if key[0] == os.getpid()]
    own = [session.directory for session in sessions if session is not None]
    for directory in own:
        with contextlib.suppress(OSError):
            fresh = directory / f"{SESSIONS}.new"
            # What separates them is in no path: a line break may be.
            fresh.write_bytes(b"\0".join(os.fsencode(path) for path in own))
            fresh.rename(directory / SESSIONS)


def _sweep(root: str) -> None:
    """Remove the directories of this user whose owner is gone."""
    with contextlib.suppress(OSError):
        for directory in Path(root).glob(f"{_PREFIX}{os.getuid()}-*"):
            # Each by itself: one that goes this moment must not keep the others. Without an owner
            # file it is being made, or it is no session.
            with contextlib.suppress(OSError):
                _remove_abandoned(directory)


def _remove_abandoned(directory: Path) -> None:
    # Nothing of somebody else's, and no link that somebody has put there.
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    with owned.unowned(str(directory / _OWNER)) as owner:
        if owner is not None:
            shutil.rmtree(directory, ignore_errors=True)


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
