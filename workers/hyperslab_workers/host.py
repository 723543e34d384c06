"""What the host refuses, in words that say what to do about it.

Limits, full or read-only places, a working directory that was removed: programs meet them in
containers, batch jobs and daemons, and the system's own words ("Resource temporarily unavailable")
name neither the limit nor a way out. This is the one table of both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from hyperslab_workers import forks
from hyperslab_workers.errors import HyperslabError

__all__ = [
    "REFUSALS",
    "absolute",
    "refused",
    "remedy",
    "short_of_descriptors",
    "since_start",
    "temporary_directory",
    "working_somewhere",
]

REFUSALS = (OSError, MemoryError, ImportError)
"""What is raised where the host refuses something; the last by libraries that cannot be loaded."""

_REMEDIES = {
    errno.EMFILE: "this process may not open more files: raise the limit with 'ulimit -n', or "
    "let go of arrays (and NumPy views of them) that are not needed any more",
    errno.ENFILE: "the machine may not open more files: close programs, or have fs.file-max raised",
    errno.EAGAIN: "the limit on processes and threads is reached: raise it with 'ulimit -u' (in a "
    "container its pids limit), or lower workers=",
    errno.ENOMEM: "memory, or the address space that is allowed, is used up: raise the limit with "
    "'ulimit -v' (in a container its memory limit), or lower workers=",
    errno.ENOSPC: "the disk is full: free some space there, or name another place (for scratch "
    "with scratch= or HYPERSLAB_SCRATCH)",
    errno.EDQUOT: "the quota is used up: free some space there, or name another place (for scratch "
    "with scratch= or HYPERSLAB_SCRATCH)",
    errno.EROFS: "the file system is read-only: name a place that can be written",
    errno.EACCES: "the permissions forbid it: change them, or name a place of your own",
    errno.EPERM: "the system forbids it, as containers and security modules do: ask who runs it",
    errno.ENOENT: "there is no such file or directory: make it, or name another one",
    errno.ENOTDIR: "that is no directory: name another place",
}


def remedy(error: BaseException) -> str:
    """What to do about something that the system refused.

    Parameters
    ----------
    error : exception
        What was raised: an ``OSError``, a ``MemoryError``, the ``RuntimeError`` of a thread that
        could not be started, or the ``ImportError`` of a library that could not be loaded.

    Examples
    --------
    >>> remedy(OSError(errno.EMFILE, "Too many open files"))[:43]
    'this process may not open more files: raise'
    """
    if isinstance(error, MemoryError) or "failed to map segment" in str(error):
        return _REMEDIES[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _REMEDIES[errno.EAGAIN]
    number = error.errno if isinstance(error, OSError) else None
    return _REMEDIES.get(number or 0, "look at the limits of this process (ulimit -a)")


def refused(what: str, error: BaseException) -> HyperslabError:
    """The error for what a job cannot have on this host.

    Parameters
    ----------
    what : str
        What failed, as the beginning of a sentence.
    error : exception
        What was raised, by the system or by Python for it.
    """
    reason = str(error) or type(error).__name__
    return HyperslabError(f"{what} ({reason}): {remedy(error)}")


def short_of_descriptors(error: BaseException) -> bool:
    """Whether it was refused because too many files are open."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def absolute(path: str | os.PathLike[str]) -> str:
    """The absolute path as text; links are not followed, so that messages show what was given.

    Raises
    ------
    HyperslabError
        The path is relative and the working directory was removed.
    """
    text = os.fspath(path)
    try:
        return os.path.abspath(text)
    except FileNotFoundError:
        raise HyperslabError(
            f"{text!r} is relative and the working directory was removed: give an absolute path, "
            "or change to a directory that exists"
        ) from None


_STARTED_IN = ""
with contextlib.suppress(OSError):
    _STARTED_IN = os.getcwd()


def since_start(path: str) -> str:
    """A path that a variable of the environment names, seen from where the program started.

    It was set before the program ran: one that has changed its directory since, or that makes an
    engine later, must not look for it in another place.
    """
    return os.path.join(_STARTED_IN, path)


def temporary_directory(settings: str) -> str:
    """The system's temporary directory.

    Parameters
    ----------
    settings : str
        What can be set instead, for the message.

    Raises
    ------
    HyperslabError
        There is none that can be written to.
    """
    known = sys.modules.get("tempfile")
    if known is not None and known.tempdir is not None:
        return str(known.gettempdir())
    if (usual := _usual_directory()) is not None:
        return usual
    import tempfile

    try:
        # Once for each process, and under a lock of Python's.
        with forks.undisturbed():
            return tempfile.gettempdir()
    except OSError as error:
        # Python looks for one by writing a file, and takes every refusal for the directory's.
        with contextlib.suppress(FileNotFoundError):
            try:
                os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as other:
                if short_of_descriptors(other):
                    raise HyperslabError(
                        f"no temporary directory can be looked for: {remedy(other)}"
                    ) from None
        raise HyperslabError(
            f"there is no temporary directory that can be written to ({error.strerror}): set "
            f"{settings}, or TMPDIR, to a directory that can (in a container a mounted volume; "
            "/dev/shm serves where it is large enough, but is memory)"
        ) from None


def _usual_directory() -> str | None:
    """What Python's :mod:`tempfile` would choose, where that is plain: it takes 5 ms to import."""
    named = [value for name in ("TMPDIR", "TEMP", "TMP") if (value := os.environ.get(name))]
    first = named[0] if named else "/tmp"
    plain = os.path.isabs(first) and os.path.isdir(first) and os.access(first, os.W_OK | os.X_OK)
    return first if plain else None


@contextlib.contextmanager
def working_somewhere() -> Iterator[None]:
    """A block in which there is a working directory, also where it was removed.

    Libraries ask for it at import and fail where it is gone, although nothing of theirs lies
    there. Then the block works in the root directory, and the process is back afterwards where
    it was. For other threads nothing is lost: what they would look for there is gone.
    """
    try:
        os.getcwd()
    except OSError:
        pass
    else:
        yield
        return
    gone = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir("/")
        yield
    finally:
        # Where somebody else has moved meanwhile, that counts.
        if os.getcwd() == "/":
            os.fchdir(gone)
        os.close(gone)
