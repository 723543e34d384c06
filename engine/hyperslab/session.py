"""The process's scratch directory: where jobs, machine code and scratch arrays live.

One directory for each process and scratch root, made when it is first needed and removed at
exit. A process that was killed cannot remove its own: its workers' watchdog does, and where
they were killed too, the next process to use the same root sweeps it away. Whether a
directory still has an owner is answered by a file lock, never by a process number, which
the system may have given to somebody else since.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
from pathlib import Path

from hyperslab.errors import ArrayFileError
from hyperslab_workers.farewell import before_child_ends
from hyperslab_workers.startup import SESSIONS, remove_semaphores

__all__ = ["session_directory"]

_PREFIX = "hyperslab-session-"
_OWNER = "owner.lock"

_lock = threading.Lock()
_sessions: dict[tuple[int, str], tuple[Path, int]] = {}


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
    root = os.fspath(scratch or os.environ.get("HYPERSLAB_SCRATCH") or tempfile.gettempdir())
    root = os.path.realpath(root)
    # The process number is part of the key: a forked child inherits the table but must not
    # use, and above all not remove, its parent's directory.
    key = (os.getpid(), root)
    with _lock:
        known = _sessions.get(key)
        if known is not None:
            if known[0].is_dir():
                return known[0]
            os.close(_sessions.pop(key)[1])
        _sweep(root)
        # Named first: Ctrl-C can come at any point, and must not leave a directory behind that
        # nobody knows of.
        directory = Path(root) / f"{_PREFIX}{os.getuid()}-{secrets.token_hex(6)}"
        try:
            directory.mkdir(mode=0o700)
            # Locked before it has its name: a sweep in between would take it for abandoned.
            fresh = directory / f"{_OWNER}.new"
            owner = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(owner, fcntl.LOCK_EX)
            os.write(owner, b"%d\n" % os.getpid())
            fresh.rename(directory / _OWNER)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise ArrayFileError(
                f"no scratch directory can be made in {root!r} ({error.strerror}); give an "
                "existing, writable directory with scratch= or HYPERSLAB_SCRATCH"
            ) from None
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        _sessions[key] = (directory, owner)
        _list_sessions()
        before_child_ends(_remove_own)
        return directory


def _list_sessions() -> None:
    """Write into each directory which ones there are: a worker knows of one, and removes all."""
    own = [directory for (pid, _), (directory, _) in _sessions.items() if pid == os.getpid()]
    for directory in own:
        with contextlib.suppress(OSError):
            fresh = directory / f"{SESSIONS}.new"
            fresh.write_text("".join(f"{path}\n" for path in own))
            fresh.rename(directory / SESSIONS)


def _sweep(root: str) -> None:
    """Remove the directories of this user whose owner is gone."""
    with contextlib.suppress(OSError):
        for directory in Path(root).glob(f"{_PREFIX}{os.getuid()}-*"):
            with contextlib.suppress(OSError):
                # Without an owner file it is being made this moment, or it is no session.
                fd = os.open(directory / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    pid = int(os.read(fd, 20) or 0)
                    if pid and not Path(f"/proc/{pid}").exists():
                        remove_semaphores(pid)
                    shutil.rmtree(directory, ignore_errors=True)
                finally:
                    os.close(fd)


@atexit.register
def _remove_own() -> None:
    for (pid, _), (directory, owner) in list(_sessions.items()):
        if pid == os.getpid():
            shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.close(owner)
    _sessions.clear()
