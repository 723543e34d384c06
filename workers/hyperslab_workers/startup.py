"""What a worker process does before its first task.

The environment is set by the pool *before* the worker's interpreter starts, because thread
pools of numerical libraries read it at import; what has to be done inside stands here.
"""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import sys
import threading
from typing import NoReturn

__all__ = ["ENVIRONMENT", "start_worker"]

ENVIRONMENT = {
    # One compute thread a worker: the parallelism is the processes'.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # loky restarts a worker whose resident memory grew by 300 MB, and counts mapped file
    # pages as memory: with whole-file maps it would replace workers over and over.
    "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",
}
"""Variables a worker is started with."""


def start_worker(coordinator: int, session: str) -> None:
    """Prepare this process to be a worker of `coordinator`.

    Parameters
    ----------
    coordinator : int
        Process number of the coordinator.
    session : str
        Its scratch directory, removed here if the coordinator dies without doing so.
    """
    # Ctrl-C is the coordinator's to handle. The pool also blocks SIGINT around the spawn, so
    # that it cannot hit a worker before this line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch(coordinator, session)
    # What tasks need is loaded while the coordinator still compiles, not at the first task.
    import hyperslab_workers.execute  # noqa: F401

    # Nothing that exists now will become garbage; collecting it at exit costs up to 0.3 s.
    gc.freeze()


def _watch(coordinator: int, session: str) -> None:
    """Leave when the coordinator is gone, whatever way it went.

    ``PR_SET_PDEATHSIG`` was rejected: it fires when the *thread* that spawned the worker ends.
    """
    # The pidfd is opened before the parent is compared: if it died in between, its number
    # may belong to somebody else, but then it is no longer our parent's.
    try:
        fd = os.pidfd_open(coordinator)
    except ProcessLookupError:
        _leave(session)
    if os.getppid() != coordinator:
        _leave(session)

    def wait() -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll()
        _leave(session)

    threading.Thread(target=wait, name="hyperslab-watchdog", daemon=True).start()


def _leave(session: str) -> NoReturn:
    # Tidying goes first, but it may wait for a lock that the interrupted task holds: whatever
    # happens to it, this process is gone within a second.
    cleaner = threading.Thread(target=_tidy, args=(session,), daemon=True)
    cleaner.start()
    cleaner.join(1.0)
    os._exit(77)


def _tidy(session: str) -> None:
    """Remove what the dead coordinator would have removed."""
    shutil.rmtree(session, ignore_errors=True)
    locks = sys.modules.get("hyperslab_workers.locks")
    if locks is not None:
        locks.release_all()
