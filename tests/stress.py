"""Threads that get in each other's way on purpose, for about a second."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def switching_often(interval: float = 1e-6) -> Iterator[None]:
    """Let Python go to another thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def together(*works: Callable[[], object], seconds: float = 1.0) -> int:
    """Call each of them in a thread of its own, again and again; raise the first error.

    Returns how many calls there were.
    """
    stop = time.monotonic() + seconds
    calls: list[int] = []
    errors: list[BaseException] = []

    def repeat(work: Callable[[], object]) -> None:
        count = 0
        try:
            while time.monotonic() < stop and not errors:
                work()
                count += 1
        except BaseException as error:
            errors.append(error)
        calls.append(count)

    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 60)
            assert not thread.is_alive(), "a thread waits for ever"
    if errors:
        raise errors[0]
    return sum(calls)


def ends(call: Callable[[], object], seconds: float = 20) -> bool:
    """Whether a call, in a thread of its own, ends at all."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def in_child(call: Callable[[], object], seconds: int = 20) -> int:
    """Fork, and return the child's exit status: 0 if the call returned."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            call()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def held(block: AbstractContextManager[object], seconds: float = 0.3) -> Iterator[None]:
    """Another thread holds the lock, or is in the block, now and for as long as that."""
    entered = threading.Event()

    def hold() -> None:
        with block:
            entered.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        thread.join()
