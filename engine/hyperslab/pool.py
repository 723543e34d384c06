"""The seam between the coordinator and whoever runs its tasks.

A pool takes tasks and gives futures of outcomes; the coordinator knows nothing else of it.
Three stand behind the seam: loky worker processes of the engine's own, this process, and any
``concurrent.futures.Executor`` of the user's.

::

    coordinator ── submit(task) ──► Pool ── execute(task) ──► worker
         ▲                                                      │
         └───────────────── Future[Outcome] ◄───────────────────┘
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyperslab_workers.task import Outcome, Task

if TYPE_CHECKING:
    from hyperslab.settings import Settings

__all__ = ["Death", "ForeignPool", "LokyPool", "Pool", "SerialPool", "death_of", "make_pool"]


class Pool(Protocol):
    """Who runs tasks. Any thread may call any method."""

    concurrency: int
    """Tasks that can run at a time."""

    starts_in_order: bool
    """Whether tasks start in the order they were submitted."""

    generation: int
    """Grows by one with every restart."""

    def start(self) -> None:
        """Begin to start workers, without waiting for them."""

    def submit(self, task: Task) -> tuple[Future[Outcome], int]:
        """Hand a task over and tell to which generation of workers.

        Raises ``BrokenExecutor`` when a worker has died.
        """

    def restart(self, generation: int) -> bool:
        """Replace a pool that broke in `generation`; False where that is not possible.

        On return no worker of that generation is alive, so none can still write.
        """

    def kill(self) -> None:
        """Stop whatever is running, at once where that is possible."""

    def close(self) -> None:
        """Wait for what is running and leave nothing behind."""


_CAUSES = {
    "SIGKILL": "it was killed from outside: most often by the system because memory ran out "
    "(dmesg tells), by a batch system at its limit, or by hand",
    "SIGSEGV": "it touched memory that is not its own: a kernel with boundscheck=False that "
    "indexes out of bounds, or a fault in a library it calls",
    "SIGBUS": "a mapped file lost the page it touched: the file was truncated meanwhile, or "
    "the disk is full under a sparse file",
    "SIGFPE": "an integer operation that the processor refuses",
    "SIGTERM": "it was asked to stop from outside, most often by a batch system",
    "SIGABRT": "a library gave up",
    "SIGILL": "machine code that this processor does not know",
}


class Death:
    """What is known of a worker's death."""

    def __init__(self, signal_name: str | None, detail: str) -> None:
        self.signal = signal_name
        self.detail = detail

    @property
    def cause(self) -> str:
        """The likely cause, in words."""
        return _CAUSES.get(self.signal or "", self.detail)


def death_of(error: BaseException) -> Death:
    """What a broken pool's exception says about its dead worker."""
    text = str(error)
    # loky lists the exit codes of the workers that were dead when it looked.
    names = re.findall(r"\b(SIG[A-Z0-9]+)\(-\d+\)", text)
    if names:
        # Workers that loky itself kills show SIGKILL too: another name is more telling.
        name = next((n for n in names if n != "SIGKILL"), names[0])
        return Death(name, text)
    exits = re.findall(r"\b(?:EXIT|UNKNOWN)\((-?\d+)\)", text)
    detail = f"it left with exit code {exits[0]}" if exits else "the cause is not known"
    return Death(None, detail)


class LokyPool:
    """Worker processes of the engine's own.

    Not loky's reusable executor: that one is shared with the user's own code, and a keyword
    that differs replaces it under everybody's feet.
    """

    starts_in_order = True

    def __init__(self, workers: int, session: Path) -> None:
        self.concurrency = workers
        self.generation = 0
        self._session = session
        self._executor: Any = None
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start all workers; they get ready while the caller goes on."""
        with self._lock:
            if self._executor is None:
                self._executor = self._spawn()

    def _spawn(self) -> Any:
        import loky

        from hyperslab_workers.startup import ENVIRONMENT, start_worker

        # Workers are born with SIGINT blocked: a Ctrl-C that reaches one breaks the pool.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            executor = loky.ProcessPoolExecutor(
                self.concurrency,
                timeout=None,
                initializer=start_worker,
                initargs=(os.getpid(), str(self._session)),
                env=ENVIRONMENT,
            )
            # The first submit starts every worker, from this thread.
            executor.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return executor

    def submit(self, task: Task) -> tuple[Future[Outcome], int]:
        """Hand a task to the workers."""
        from hyperslab_workers.execute import execute

        with self._lock:
            self.start()
            return self._executor.submit(execute, task), self.generation

    def restart(self, generation: int) -> bool:
        """Wait until every old worker is dead, then start new ones."""
        with self._lock:
            if generation == self.generation:
                self._shutdown(kill=True)
                self.generation += 1
                self.start()
            return True

    def kill(self) -> None:
        """Kill the workers; the next task starts new ones."""
        with self._lock:
            self._shutdown(kill=True)
            self.generation += 1

    def close(self) -> None:
        """Stop the workers: between tasks they hold nothing that killing could tear."""
        with self._lock:
            self._shutdown(kill=True)

    def _shutdown(self, *, kill: bool) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            # A manager thread that died of a cancelled future is no reason to fail here.
            with contextlib.suppress(BrokenExecutor, RuntimeError):
                executor.shutdown(wait=True, kill_workers=kill)


class SerialPool:
    """This process and thread: for debugging, and for machines without process pools."""

    concurrency = 1
    starts_in_order = True
    generation = 0

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, task: Task) -> tuple[Future[Outcome], int]:
        """Run the task now."""
        from hyperslab_workers.execute import execute

        future: Future[Outcome] = Future()
        future.set_result(execute(task))
        return future, self.generation

    def restart(self, generation: int) -> bool:
        """It cannot break."""
        return False

    def kill(self) -> None:
        """Nothing runs between two calls."""

    def close(self) -> None:
        """Nothing to close."""


class ForeignPool:
    """An executor of the user's: used, never replaced, never shut down."""

    generation = 0

    def __init__(self, executor: Executor, workers: int) -> None:
        self._executor = executor
        self.concurrency = int(getattr(executor, "_max_workers", None) or workers)
        # Of these it is known; of others it is not assumed.
        self.starts_in_order = isinstance(executor, ThreadPoolExecutor | ProcessPoolExecutor)

    def start(self) -> None:
        """It runs already."""

    def submit(self, task: Task) -> tuple[Future[Outcome], int]:
        """Hand a task to the user's executor."""
        from hyperslab_workers.execute import execute

        return self._executor.submit(execute, task), self.generation

    def restart(self, generation: int) -> bool:
        """It is not ours to replace."""
        return False

    def kill(self) -> None:
        """Its workers are not ours to kill: they see the job called off on the board."""

    def close(self) -> None:
        """It is not ours to close."""


def make_pool(settings: Settings, session: Path) -> Pool:
    """The pool that the settings ask for."""
    if isinstance(settings.executor, Executor) or not isinstance(settings.executor, str):
        return ForeignPool(settings.executor, settings.workers)
    if settings.executor == "serial":
        return SerialPool()
    return LokyPool(settings.workers, session)
