"""What threads leave for another one, which waits for it in the middle of signals."""

from __future__ import annotations

import _thread
import contextlib
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue with one reader, whose wait ends in time whatever signals come meanwhile.

    ``queue.SimpleQueue`` waits for ever, up to Python 3.12, if a signal handler returns
    after the time for the wait was over: it goes on with what is left, which is less than nothing.
    In a forked child nobody would ever end that.

    Examples
    --------
    >>> box = Mailbox()
    >>> box.put("a letter")
    >>> box.take(timeout=10), box.take(timeout=0)
    (['a letter'], [])
    """

    def __init__(self) -> None:
        self._letters: deque[T] = deque()
        self._bell = _thread.allocate_lock()
        self._bell.acquire()

    def put(self, letter: T) -> None:
        """Leave something. Any thread may."""
        self._letters.append(letter)
        with contextlib.suppress(RuntimeError):  # It has been rung already.
            self._bell.release()

    def take(self, timeout: float) -> list[T]:
        """All that was left; waits up to so many seconds for the first of it."""
        if not self._letters:
            self._bell.acquire(timeout=timeout)
        found: list[T] = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._letters.popleft())
        return found
