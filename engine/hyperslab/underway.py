"""Jobs under way in threads for which Python waits when the program ends.

Python first runs what was registered with :mod:`threading`, among it what ends the program's own
executors; then it waits for threads, except daemons; then it runs exit handlers. Children of
multiprocessing run their finalizers before they wait for threads. A job in such a thread is to come
to its end, so what it needs (an executor, workers, scratch files) has to be there until then: it is
waited for before any of that goes.

Jobs in daemon threads are not waited for, by Python's own rule: they stop where they are.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  What is registered there comes after this.
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from hyperslab.errors import HyperslabError
from hyperslab.interruption import end_as_interrupted, exiting
from hyperslab_workers import forks
from hyperslab_workers.farewell import Stage, before_child_ends

__all__ = [
    "call_off_if_asked",
    "goes_on_in_parent",
    "under_way",
    "wait_before_what_was_registered",
    "when_called_off",
]

_jobs: dict[object, threading.Thread] = {}
_stops: list[Callable[[], object]] = []
_called_off = False


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
    before_child_ends(_wait_for_jobs, Stage.JOBS)
    job = object()
    _jobs[job] = thread
    try:
        yield
    finally:
        _jobs.pop(job, None)


def call_off_if_asked() -> None:
    """Stop a job that the end of the program waits for, when Ctrl-C has asked for it.

    Python gives the signal to the main thread, which has ended: so it is told to the others.

    Raises
    ------
    KeyboardInterrupt
        As if the signal had come to this thread.
    """
    if _called_off and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt


def goes_on_in_parent() -> HyperslabError:
    """The error for whoever comes back to a job in a copy of the process that runs it."""
    return HyperslabError(
        "this process was forked while the job ran, and the job goes on in its parent: run another "
        "one here"
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
    global _called_off
    while any(thread.is_alive() for thread in list(_jobs.values())):
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            end_as_interrupted()
            if _called_off:
                return  # A second one: not even for what is called off.
            _called_off = True
            for stop in _stops:
                stop()


wait_before_what_was_registered()
# None of its parent's threads is in a forked child.
forks.in_child(_jobs.clear)
