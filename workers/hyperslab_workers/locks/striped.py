"""Striped reader-writer locks: exclusion between all threads of all processes of a machine.

The bytes of a file are divided into stripes, each with a lock of its own, so that tasks that
touch different parts do not wait for each other. A task takes everything it needs, of all
files, in one ordered call, which is why no two tasks can wait for each other in a circle::

    with lock_for(ref).hold(extents_write=[ref.extent(box)], timeout=5.0):
        ...

A lock says who may touch the bytes now. It says nothing about their state: when a holder is
killed its lock is free at once, and what it had half written stays half written.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.errors import HyperslabError, LockTimeout
from hyperslab_workers.locks.holding import Hold, begin, current, give_up
from hyperslab_workers.locks.home import home_of
from hyperslab_workers.locks.root import default_lock_root, probe
from hyperslab_workers.locks.stripe import Claim, LockRemoved
from hyperslab_workers.locks.table import (
    InUse,
    release,
    release_all,
    stripes_of,
    sweep,
    use,
)

__all__ = [
    "Extent",
    "Guard",
    "StripedLock",
    "default_lock_root",
    "held_here",
    "hold_all",
    "holds",
    "lock_for",
    "probe",
    "release_all",
    "sweep",
]

Extent = tuple[int, int]
"""Bytes ``[first, last)`` of a file."""

_STRIPES = 64
_LEAST_STRIPE = 64 * 1024
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class StripedLock:
    """The reader-writer lock of one file. A value: it may be copied and pickled freely.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     lock = StripedLock(os.path.join(root, "1-2"), "t2m.npy", stripe_bytes=65536)
    ...     with lock.registered(), lock.hold(extents_write=[(0, 100_000)], timeout=1.0):
    ...         print(os.listdir(root))
    ...     print(os.listdir(root))
    ['1-2']
    []
    """

    directory: str
    """Absolute path of its lock directory."""

    path: str
    """The data file, for messages."""

    stripe_bytes: int
    """Bytes of the file in one stripe; the last stripe has all that follows as well."""

    stripes: int = _STRIPES
    """Number of stripes."""

    def stripes_of(self, extent: Extent) -> range:
        """The stripes that the bytes ``[first, last)`` touch; none for an empty extent.

        Examples
        --------
        >>> lock = StripedLock("/tmp/locks/1-2", "t2m.npy", stripe_bytes=65536)
        >>> lock.stripes_of((65_000, 70_000)), lock.stripes_of((5, 5))
        (range(0, 2), range(0, 0))
        """
        return stripes_of(extent, self.stripes, self.stripe_bytes)

    def hold(
        self,
        extents_read: Iterable[Extent] = (),
        extents_write: Iterable[Extent] = (),
        timeout: float | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the stripes of these bytes during a ``with`` block.

        Parameters
        ----------
        extents_read, extents_write : iterable of (int, int)
            Byte ranges ``[first, last)``, shared with other readers or exclusively. A stripe that
            is in both is held exclusively.
        timeout : float, optional
            Seconds to wait, for all of them together; None waits for ever.

        Raises
        ------
        LockTimeout
            If they were not free in time. Nothing is held then.
        HyperslabError
            If this thread holds a lock already, or the lock directory cannot be used.
        """
        guards = [Guard(self, extent, exclusive=False) for extent in extents_read]
        guards += [Guard(self, extent, exclusive=True) for extent in extents_write]
        return hold_all(guards, timeout)

    def retain(self) -> None:
        """Keep the lock directory in use by this process until :meth:`release`."""
        use(self.directory, self.stripes, self.stripe_bytes)

    def release(self) -> None:
        """Undo one :meth:`retain`; the last process to do so removes the lock directory.

        Where this thread or another holds the lock at the moment, the directory goes when that
        ends. Does nothing if the lock is not retained (any more).
        """
        release(self.directory)

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Retain for the duration of a ``with`` block."""
        self.retain()
        try:
            yield
        finally:
            self.release()


@dataclass(frozen=True, slots=True)
class Guard:
    """What a task must hold of one file while it runs."""

    lock: StripedLock
    """The lock of the file."""

    extent: Extent
    """Bytes ``[first, last)`` of the file."""

    exclusive: bool
    """Whether it writes them."""


def lock_for(ref: ArrayRef, root: str | None = None, *, settle: bool = True) -> StripedLock:
    """Return the lock of the file behind `ref`. Nothing is created before it is used.

    The lock is named by the file's device and inode, so that two paths to one file share it.

    Parameters
    ----------
    ref : ArrayRef
        An array in the file.
    root : str, optional
        Directory of the lock directories that an engine was given.
    settle : bool
        Whether the place is settled by this for the rest of the process (see ``home``).

    Raises
    ------
    HyperslabError
        Settings disagree about where the file's locks are.
    """
    root = home_of(ref, root, settle=settle)
    share = -(-ref.file_size // _STRIPES)
    return StripedLock(
        directory=os.path.join(root, f"{ref.device:x}-{ref.inode:x}"),
        path=ref.path,
        stripe_bytes=max(_LEAST_STRIPE, -(-share // _PAGE) * _PAGE),
    )


@contextlib.contextmanager
def hold_all(guards: Iterable[Guard], timeout: float | None = None) -> Iterator[None]:
    """Hold the stripes of several byte ranges of several files, taken in one ordered call.

    Stripes are taken in the order of directory and number, each once (exclusively if any guard
    of it is), and released in reverse. One thread makes one such call at a time: a second one
    inside would not follow the order, and could wait for ever.

    A lock directory that nobody has retained stays in use by this process until
    :func:`release_all` or exit, because making and removing it costs far more than a stripe.

    Parameters
    ----------
    guards : iterable of Guard
        What to hold; guards with an empty extent take nothing.
    timeout : float, optional
        Seconds to wait, for all of them together; 0 tries once, None waits for ever.

    Raises
    ------
    LockTimeout
        If they were not free in time. Nothing is held then.
    HyperslabError
        If this thread holds a lock already, or a lock directory cannot be used.
    ValueError
        If `timeout` is negative.
    """
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout} s; give 0 or more, or None to wait for ever")
    guards = [guard for guard in guards if guard.extent[0] < guard.extent[1]]
    if not guards:
        yield
        return
    if (outer := current()) is not None:
        raise HyperslabError(
            f"this thread asks for a lock of {Hold(guards).files} while it holds one of"
            f" {outer.files}: nested locks can wait for each other for ever. Take all that is"
            " needed in one call (a lock over all the boxes), or leave the first block before"
        )
    locks = {guard.lock.directory: guard.lock for guard in guards}
    hold = Hold(guards)
    try:
        begin(hold)
        deadline = None if timeout is None else time.monotonic() + timeout
        in_use = {}
        for name in hold.directories:
            lock = locks[name]
            in_use[name] = use(name, lock.stripes, lock.stripe_bytes, hold, deadline)
        _take(hold, guards, in_use, deadline, timeout)
        hold.complete = True
        yield
        _check_kept(hold, in_use)
    finally:
        # The first call is all that a signal handler that raises can cut short; a check or a loop
        # here, before the inner try, would leave a gap in which an interrupt leaks the lock.
        try:
            give_up(hold)
        except BaseException:
            give_up(hold)
            raise


def held_here() -> str | None:
    """The files of which the calling thread holds a lock at the moment; None if it holds none."""
    hold = current()
    return None if hold is None else hold.files


def holds(guard: Guard) -> bool:
    """Whether the calling thread holds all that a guard asks for, in one guard of its own."""
    hold = current()
    return hold is not None and hold.covers(guard)


def _in_order(
    guards: Iterable[Guard], in_use: dict[str, InUse]
) -> list[tuple[tuple[str, int], Guard]]:
    """What to take, as directory and stripe number, with the guard that asks the most of it."""
    wanted: dict[tuple[str, int], Guard] = {}
    for guard in guards:
        for number in in_use[guard.lock.directory].stripes_of(guard.extent):
            key = (guard.lock.directory, number)
            if key not in wanted or (guard.exclusive and not wanted[key].exclusive):
                wanted[key] = guard
    return sorted(wanted.items(), key=lambda item: item[0])


def _take(
    hold: Hold,
    guards: Iterable[Guard],
    in_use: dict[str, InUse],
    deadline: float | None,
    timeout: float | None,
) -> None:
    """Take everything in order; whatever it may hold by the time it ends stands in the hold.

    A function of its own because Python 3.13 leaves the jump back to a loop's head out of the
    `try` around the loop where an `if` stands last in it: an interrupt there would leak the lock.
    """
    for (name, number), guard in _in_order(guards, in_use):
        claim = Claim(in_use[name].stripe(number), guard.exclusive)
        hold.claims.append(claim)  # Before the try: an interrupt may come between the two.
        try:
            acquired = claim.stripe.acquire(claim, deadline)
        except LockRemoved:
            in_use[name].removed = True
            raise
        if not acquired:
            raise LockTimeout(_too_late(guard, in_use[name], number, claim, timeout))


def _check_kept(hold: Hold, in_use: dict[str, InUse]) -> None:
    """Tell a holder whose lock files were removed meanwhile: others may have come in."""
    for claim in hold.claims:
        if claim.stripe.is_removed():
            for used in in_use.values():
                used.removed = True  # The next use enters the one that others have made.
            raise claim.stripe.removed("was removed while it was held")


def _too_late(guard: Guard, used: InUse, number: int, claim: Claim, timeout: float | None) -> str:
    numbers = used.stripes_of(guard.extent)
    span = f"stripe {number}" if len(numbers) == 1 else f"stripes {numbers[0]} to {numbers[-1]}"
    blocker = claim.stripe.blocker(claim)
    held = f", held by {blocker}" if blocker else ""
    return (
        f"the {'write' if guard.exclusive else 'read'} lock of {guard.lock.path}, bytes"
        f" {guard.extent[0]} to {guard.extent[1]} ({span} of {used.directory.stripes}), was not"
        f" free within {timeout:g} s: waited for stripe {number}{held}. Raise"
        " timeout= if the holder is only slow, or look for a program that stands still inside a"
        " lock"
    )
