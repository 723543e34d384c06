"""What a worker process does before its first task.

The environment is set by the pool *before* the worker's interpreter starts, because thread
pools of numerical libraries read it at import; what has to be done inside stands here.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import threading
from collections.abc import Iterable
from typing import NoReturn

from hyperslab_workers.scratch import listed_sessions, remove_abandoned

__all__ = ["BLOCKED", "ENVIRONMENT", "start_worker", "stay_for_tidying"]

BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a worker is born with blocked, by whoever spawns it.

A terminal and a batch system send them to every process of a group at once. The coordinator
answers for all; if workers died as well, nobody would be left to tidy up behind it.
"""

_GRACE = 1.0
"""Seconds that a coordinator which got the same signal has to die or to stop its workers."""

_PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>."""

ENVIRONMENT = {
    # What lies in the working directory is the user's data: a `types.py` there is not Python's.
    "PYTHONSAFEPATH": "1",
    # One compute thread a worker: the parallelism is the processes'.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # Said here, a file of settings in the working directory does not say otherwise.
    "NUMBA_DISABLE_JIT": "0",
}
"""Variables a worker is started with."""


def start_worker(coordinator: int, session: str) -> None:
    """Prepare this process to be a worker of `coordinator`.

    Parameters
    ----------
    coordinator : int
        Process number of the coordinator.
    session : str
        Its scratch directory, removed here, with any others that it has, if the coordinator
        dies without doing so.
    """
    # Ctrl-C is the coordinator's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _go_on_when_alone()
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    _watch(coordinator, session)
    # What tasks need is loaded while the coordinator still compiles, not at the first task.
    import hyperslab_workers.execute  # noqa: F401

    # Nothing that exists now will become garbage; collecting it at exit costs up to 0.3 s.
    gc.freeze()


def _go_on_when_alone() -> None:
    """Have the system let this process go on, should it be stopped, when its coordinator ends.

    A stopped process cannot watch anything. The signal is sent at the end of each thread that has
    this process for a child, in the end of the last one's; to a process that runs it does nothing.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def _watch(coordinator: int, session: str) -> None:
    """Leave when the coordinator is gone, whatever way it went.

    ``PR_SET_PDEATHSIG`` with a signal that kills was rejected: it is sent when the *thread* that
    started the worker ends.
    """
    # The pidfd is opened before the parent is compared: if it died in between, its number
    # may belong to somebody else, but then it is no longer our parent's.
    try:
        fd = os.pidfd_open(coordinator)
    except ProcessLookupError:
        _leave(session)
    if os.getppid() != coordinator:
        _leave(session)
    global _watched
    _watched = fd

    def wait() -> None:
        _wait(fd, None)
        _leave(session)

    def heed() -> None:
        number = signal.sigwait({signal.SIGTERM, signal.SIGHUP})
        if _wait(fd, _GRACE):
            return  # The other thread sees to it.
        # It was meant for this worker alone. The default handler is still in place, so it
        # dies of it and whoever looks at its exit status reads the truth.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, name="hyperslab-watchdog", daemon=True).start()
    threading.Thread(target=heed, name="hyperslab-signals", daemon=True).start()


def stay_for_tidying() -> None:
    """Go no further if the coordinator is gone: this process ends when its watchdog has tidied up.

    A worker that runs into what another one has removed already would end in the middle of that.
    """
    if _watched is not None and _wait(_watched, 0.0):
        threading.Event().wait()


_watched: int | None = None
"""The coordinator, as a descriptor."""


def _wait(pidfd: int, seconds: float | None) -> bool:
    """Whether the process ended within that time."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if seconds is None else 1000 * seconds))


def _leave(session: str) -> NoReturn:
    # Tidying goes first, but it may wait for a lock that the interrupted task holds: whatever
    # happens to it, this process is gone within a second.
    cleaner = threading.Thread(target=_tidy, args=(session,), daemon=True)
    cleaner.start()
    cleaner.join(1.0)
    os._exit(77)


def _tidy(session: str) -> None:
    """Remove what the dead coordinator would have removed."""
    for directory in listed_sessions(session):
        remove_abandoned(directory)
    _release_locks()


def _release_locks() -> None:
    """Give up all locks, and remove their directories if nobody else uses them."""
    from hyperslab_workers.locks import table

    # For good: the task must not begin to use another directory until the process has ended.
    table._table_lock.acquire()
    if table.release_all():
        # A directory that was only half made stands in no table.
        _sweep(table._swept)
        return
    # A kernel holds one and may run for long. To let go under it is not safe, so its process
    # ends with the lock and a child, which has inherited no lock, tidies up after it.
    own = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        try:
            if _wait(own, 5.0):
                _sweep(table._swept)
        finally:
            os._exit(0)


def _sweep(roots: Iterable[str]) -> None:
    from hyperslab_workers.locks import sweep

    for root in roots:
        sweep(root)
