"""Jobs under way in threads for which Python waits when the program ends.

Python first runs what was registered with :mod:`threading`, among it what ends the program's own
executors; then it waits for threads, except daemons; then it runs exit handlers. A job in such a
thread is to come to its end, so it is waited for before its executor goes. And Ctrl-C, which Python
gives to the main thread, is told to the jobs: else Python, waiting, would take it for an error of
its own and leave them where they are.

Jobs in daemon threads are not waited for, by Python's own rule: they stop where they are.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType

from hyperslab.errors import HyperslabError
from hyperslab.interruption import (
    end_as_interrupted,
    exiting,
    raise_if_swallowed,
    taken_for_default,
)
from hyperslab_workers import forks

__all__ = [
    "call_off_if_asked",
    "check_open",
    "goes_on_in_parent",
    "under_way",
    "wait_before_what_was_registered",
    "when_called_off",
]

_jobs: set[object] = set()
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Those that have run jobs, and may run further ones."""

_stops: list[Callable[[], object]] = []
_called_off = False
_before_executors = False


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """A job, for as long as the block: the program's end waits for it if it does for its thread."""
    thread = threading.current_thread()
    if thread is threading.main_thread():
        yield
        return
    if thread.daemon:
        try:
            yield
        except BaseException:
            if exiting():
                # What it needs is gone, and an error would be half printed when Python ends.
                threading.Event().wait()
            raise
        return
    global _before_executors
    if not _before_executors and "concurrent.futures.thread" in sys.modules:
        # What ends the program's executors has been registered by now.
        _before_executors = True
        wait_before_what_was_registered()
    job = object()
    _threads.add(thread)
    _jobs.add(job)
    try:
        yield
    finally:
        _jobs.discard(job)


def call_off_if_asked() -> None:
    """Stop a job that the end of the program waits for, when Ctrl-C has asked for it.

    Python gives the signal to the main thread, which has ended: so it is told to the others.

    Raises
    ------
    KeyboardInterrupt
        As if the signal had come to this thread. Also where it came to it, and was swallowed.
    """
    raise_if_swallowed()
    if _called_off and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt


def goes_on_in_parent() -> HyperslabError:
    """The error for whoever comes back to a job in a copy of the process that runs it."""
    return HyperslabError(
        "this process was forked while the job ran, and the job goes on in its parent: run another "
        "one here"
    )


def check_open(*, inherited: bool, closed: bool) -> None:
    """Refuse work on a pool that is another process's, or was closed."""
    if inherited:
        raise goes_on_in_parent()
    if closed:
        raise HyperslabError(
            "the engine was closed while a job ran on it: close it when its jobs are over"
        )


def when_called_off(stop: Callable[[], object]) -> None:
    """Have `stop` called when Ctrl-C calls off what the end of the program waits for."""
    _stops.append(stop)


def wait_before_what_was_registered() -> None:
    """Have jobs waited for before anything that has been registered with threading up to now."""
    # Python calls these in reverse. It refuses when it has begun to.
    with contextlib.suppress(RuntimeError):
        threading._register_atexit(_wait_for_jobs)  # type: ignore[attr-defined]


def _wait_for_jobs() -> None:
    # From here on, and until all threads have ended: a next job may follow the one that ends.
    waited_for = _jobs or any(thread.is_alive() for thread in list(_threads))
    if waited_for and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # A subinterpreter: it hears no signals.
            signal.signal(signal.SIGINT, _heed)
    # Asked of the jobs and not of their threads: Python 3.11 takes a thread for dead when Ctrl-C
    # has come in the middle of its join(). A second Ctrl-C ends the wait.
    with contextlib.suppress(KeyboardInterrupt):
        while _jobs:
            time.sleep(0.01)


def _heed(number: int, frame: FrameType | None) -> None:
    """Ctrl-C at the end: call off what is waited for; the second time, wait for nothing more."""
    global _called_off
    if not _jobs or _called_off:
        signal.default_int_handler(number, frame)
    _called_off = True
    end_as_interrupted()
    for stop in _stops:
        stop()


wait_before_what_was_registered()
taken_for_default(_heed)
# None of its parent's threads is in a forked child.
forks.in_child(_jobs.clear)
