"""The lock directories this process uses: one entry for each, however many use it.

POSIX locks belong to the process, so that a second object on a lock file would drop the lock of
the first: everything goes through this table.

Its lock keeps other threads out, not this one: a signal handler or the garbage collector may use
or leave a directory in the middle of each function. So nothing is walked through but copies, and
what was looked up counts only if it is still in the table when it is marked as used.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable

from hyperslab_workers import forks
from hyperslab_workers.errors import HyperslabError, LockTimeout
from hyperslab_workers.farewell import before_child_ends, is_sure
from hyperslab_workers.locks.directory import LockDirectory, sweep_root
from hyperslab_workers.locks.root import default_lock_root, real_root
from hyperslab_workers.locks.stripe import Stripe

__all__ = ["InUse", "end_hold", "release", "release_all", "stripes_of", "sweep", "use"]


class InUse:
    """A lock directory this process uses, with the one object for each of its stripes."""

    __slots__ = ("directory", "holders", "removed", "retained", "stripes")

    def __init__(self, directory: LockDirectory) -> None:
        self.directory = directory
        self.stripes: dict[int, Stripe] = {}
        self.holders: set[object] = set()  # A set, so that leaving twice does no harm.
        self.retained = 0
        self.removed = False

    def stripe(self, number: int) -> Stripe:
        """The stripe of that number."""
        stripe = self.stripes.get(number)
        if stripe is None:
            # Atomic: two threads that come here together get the same object.
            stripe = self.stripes.setdefault(number, Stripe(self.directory, number))
        return stripe

    def stripes_of(self, extent: tuple[int, int]) -> range:
        """The stripes that the bytes ``[first, last)`` touch, in the layout in force."""
        return stripes_of(extent, self.directory.stripes, self.directory.stripe_bytes)

    def close(self) -> None:
        """Close all lock files."""
        for stripe in list(self.stripes.values()):
            stripe.close()


_table: dict[str, InUse] = {}
_table_lock = forks.lock(whole=True)
_swept: set[str] = set()


def stripes_of(extent: tuple[int, int], stripes: int, stripe_bytes: int) -> range:
    """The stripes that the bytes ``[first, last)`` touch; the last one has no end."""
    first, last = extent
    if first >= last:
        return range(0)
    end = stripes - 1
    return range(min(first // stripe_bytes, end), min((last - 1) // stripe_bytes, end) + 1)


def use(
    directory: str,
    stripes: int,
    stripe_bytes: int,
    holder: object | None = None,
    deadline: float | None = None,
) -> InUse:
    """Use a lock directory: for `holder` until :func:`end_hold`, or else retained.

    A directory that a holder is the first to use is retained as well, to the process's end.

    Parameters
    ----------
    directory : str
        Absolute path without symbolic links.
    stripes, stripe_bytes : int
        The layout, if the directory does not exist yet.
    holder : object, optional
        What will hold stripes of it. Not a thread's number, which the next thread may get.
    deadline : float, optional
        Of ``time.monotonic``.

    Raises
    ------
    LockTimeout
        If another process was making or removing it all the time.
    HyperslabError
        If it cannot be used.
    """
    # Others make or remove the directory in well under a second: that much is granted to a
    # timeout of 0 too, which would otherwise fail on a lock that nobody holds.
    limit = None if deadline is None else max(deadline, time.monotonic() + 1.0)
    while True:
        with _table_lock:
            used = _table.get(directory)
            if used is not None and used.removed and not used.holders:
                # Somebody removed its files: whoever comes next meets others in a new one.
                used.retained = 0
                _leave_if_idle(used)
                used = _table.get(directory)
            if used is None:
                # Where no exit handler is sure to give it up, it goes with its last holder.
                retained = int(holder is not None and is_sure())
                used = _open(directory, stripes, stripe_bytes, retained)
            if used is not None:
                if holder is None:
                    used.retained += 1
                else:
                    used.holders.add(holder)
                if _table.get(directory) is used:
                    return used
                continue  # Its last user left between the two: what is in hand is shut.
        if limit is not None and time.monotonic() >= limit:
            raise LockTimeout(
                f"the lock directory {directory} was being made or removed by another process for"
                " over a second. Raise timeout=, or look for a process that was stopped"
            )
        time.sleep(0.0002)


def end_hold(directories: Iterable[str], holder: object) -> None:
    """`holder` holds nothing more of these directories; harmless if repeated."""
    with _table_lock:
        _discard(directories, holder)


def _discard(directories: Iterable[str], holder: object) -> None:
    # No loop stands in a `with` here: see _take() in striped.py.
    for directory in directories:
        used = _table.get(directory)
        if used is not None:
            used.holders.discard(holder)
            _leave_if_idle(used)


def release(directory: str) -> None:
    """Undo one retaining :func:`use`; does nothing if the directory is not retained."""
    with _table_lock:
        used = _table.get(directory)
        if used is not None:
            if used.retained:
                used.retained -= 1
            _leave_if_idle(used)


def release_all(timeout: float = 0.0) -> bool:
    """Give up all lock directories of this process; called at exit.

    A directory of which a thread holds a stripe is given up when that hold ends. A process that
    is about to end without Python's exit (``os._exit``) calls this first, with a timeout.

    Parameters
    ----------
    timeout : float
        Seconds to wait for such threads.

    Returns
    -------
    bool
        Whether nothing is in use any more.
    """
    deadline = time.monotonic() + timeout
    while True:
        with _table_lock:
            for used in list(_table.values()):
                used.retained = 0
                _leave_if_idle(used)
            if not _table:
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.001)


def sweep(root: str | None = None) -> int:
    """Remove lock directories left by processes that were killed; never one in use.

    Each process does this by itself when it first uses a lock root.

    Parameters
    ----------
    root : str, optional
        Directory of the lock directories, default :func:`default_lock_root`.

    Returns
    -------
    int
        How many were removed.
    """
    root = default_lock_root() if root is None else real_root(root)
    with _table_lock:
        return sweep_root(root, keep=_table)


def _open(directory: str, stripes: int, stripe_bytes: int, retained: int) -> InUse | None:
    root = os.path.split(directory)[0]
    if root not in _swept:
        _swept.add(root)
        sweep_root(root, keep=_table)
    before_child_ends(release_all)
    try:
        entered = LockDirectory.enter(directory, stripes, stripe_bytes)
    except OSError as error:
        raise HyperslabError(
            f"the lock directory {directory} cannot be used: {error}. Set HYPERSLAB_LOCK_DIR (or"
            " lock_dir=) to a directory on a local disk that you may write to"
        ) from error
    if entered is None:
        return None
    used = InUse(entered)
    used.retained = retained
    known = _table.setdefault(directory, used)
    if known is not used:
        entered.leave()
    return known


def _leave_if_idle(used: InUse) -> None:
    if not used.retained and not used.holders:
        used.close()
        used.directory.leave()
        # Last: what an interrupt cuts short is found, and done again.
        if _table.get(used.directory.path) is used:
            _table.pop(used.directory.path, None)


def _forget_after_fork() -> None:
    """Start anew in a forked child: locks are not inherited, and copied mutexes may be shut."""
    for used in list(_table.values()):
        used.close()
        used.directory.abandon()
    _table.clear()


# A fork waits for the table, so that the child does not get a half-made entry whose open files it
# could not close.
forks.in_child(_forget_after_fork)
atexit.register(release_all)
