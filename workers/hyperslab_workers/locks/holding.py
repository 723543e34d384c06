"""What a thread holds, and how that is given up, whoever does it.

A block is left by the thread that entered it, as a rule. But a generator that was forgotten
inside one is closed by the garbage collector, in whatever thread allocates next, and that thread
may be in the middle of a stripe or of the table: it would wait for itself for ever, or go on with
what was changed behind its back. So a hold that ends in a thread other than its own is ended by
a third one, which can wait.

What a thread holds is kept by that thread. A table of all threads by their numbers was rejected:
a number is given to the next thread when one ends, and with it what the first had left behind.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from hyperslab_workers.locks.stripe import Claim
from hyperslab_workers.locks.table import end_hold

if TYPE_CHECKING:
    from hyperslab_workers.locks.striped import Guard

__all__ = ["Hold", "begin", "current", "give_up"]

_PATIENCE = 0.1
"""Seconds that a thread waits for another one to end a hold: usually it takes far less, and
leaving the block then means what it says; but who waits may be whom the other one waits for."""

_own = threading.local()


class Hold:
    """One call's worth of locks, from its first try to its end."""

    __slots__ = ("claims", "complete", "directories", "guards", "over", "process")

    def __init__(self, guards: list[Guard]) -> None:
        self.guards = guards
        self.directories = sorted({guard.lock.directory for guard in guards})
        self.claims: list[Claim] = []
        self.complete = False
        self.over = False
        self.process = os.getpid()

    @property
    def files(self) -> str:
        """The data files, for messages."""
        return ", ".join(sorted({guard.lock.path for guard in self.guards}))

    def covers(self, wanted: Guard) -> bool:
        """Whether all that a guard asks for is held."""
        first, last = wanted.extent
        return self.complete and any(
            guard.lock.directory == wanted.lock.directory
            and guard.extent[0] <= first
            and last <= guard.extent[1]
            and guard.exclusive >= wanted.exclusive
            for guard in self.guards
        )

    def end(self) -> None:
        """Release everything; harmless if repeated."""
        for claim in reversed(self.claims):
            claim.stripe.release(claim)
        end_hold(self.directories, self)
        self.over = True


def current() -> Hold | None:
    """What the calling thread holds, or is trying to get; None for nothing."""
    hold: Hold | None = getattr(_own, "hold", None)
    # Another thread may have ended it, and a forked child holds nothing.
    if hold is None or hold.over or hold.process != os.getpid():
        return None
    return hold


def begin(hold: Hold) -> None:
    """Note that the calling thread is about to take this."""
    _own.hold = hold


def give_up(hold: Hold) -> None:
    """End a hold, from any thread; harmless if repeated."""
    if os.getpid() != hold.process:
        return  # A child forked inside the block holds nothing, and the state is its parent's.
    if getattr(_own, "hold", None) is hold:
        hold.end()
        _own.hold = None
    else:
        _hand_over(hold)


def _hand_over(hold: Hold) -> None:
    done = _thread.allocate_lock()
    done.acquire()

    def end() -> None:
        try:
            hold.end()
        finally:
            done.release()

    # Not threading.Thread, which takes a lock of its own to start: this thread may have it. At
    # the interpreter's end no thread starts any more, and the process's end frees all it holds.
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(end, ())
        done.acquire(timeout=_PATIENCE)
