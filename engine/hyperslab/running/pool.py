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
import multiprocessing
import multiprocessing.resource_tracker
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

from hyperslab.errors import HyperslabError
from hyperslab.running.interruption import uninterrupted
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

    lock_roots: set[str | None]
    """Where jobs had workers take locks: what killed workers leave there, the pool removes."""

    @property
    def losses(self) -> tuple[type[Exception], ...]:
        """What submitting, or a future, raises when workers are gone."""

    def start(self) -> None:
        """Begin to start workers, without waiting for them."""

    def submit(self, task: Task) -> tuple[Future[Outcome], int]:
        """Hand a task over and tell to which generation of workers.

        Raises one of :attr:`losses` when a worker has died.
        """

    def restart(self, generation: int) -> bool:
        """Replace a pool that broke in `generation`; False where that is not possible.

        On return no worker of that generation is alive, so none can still write.
        """

    def kill(self) -> bool:
        """Stop whatever is running, at once; False where that is not possible."""

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
    if exits:
        return Death(None, f"it left with exit code {exits[0]}")
    if "kill_workers" in text:
        return Death(None, "the engine killed it to end another job, which failed or was stopped")
    return Death(None, "the cause is not known")


class LokyPool:
    """Worker processes of the engine's own.

    Not loky's reusable executor: that one is shared with the user's own code, and a keyword
    that differs replaces it under everybody's feet.
    """

    starts_in_order = True

    def __init__(self, workers: int, session: Path) -> None:
        self.concurrency = workers
        self.generation = 0
        self.lock_roots: set[str | None] = set()
        self._session = session
        self._executor: Any = None
        self._closed = False
        self._lock = threading.RLock()

    @property
    def losses(self) -> tuple[type[Exception], ...]:
        """A worker died, or another job's end made the engine kill them."""
        from loky.process_executor import ShutdownExecutorError

        return BrokenExecutor, ShutdownExecutorError

    def start(self) -> None:
        """Start all workers; they get ready while the caller goes on."""
        if self._executor is None:
            uninterrupted(self._start)

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise HyperslabError(
                    "the engine was closed while a job ran on it: close it when its jobs are over"
                )
            if self._executor is None:
                self._executor = self._spawn()

    def _spawn(self) -> Any:
        import loky

        from hyperslab_workers.startup import BLOCKED, ENVIRONMENT, start_worker

        # Started before, because where it starts it unblocks the signals of its caller.
        multiprocessing.resource_tracker.ensure_running()
        # Workers are born with these blocked: before start_worker() has run, a Ctrl-C that
        # reaches one would break the pool.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
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

        self.start()
        with self._lock:
            executor, generation = self._executor, self.generation
            if executor is None:
                raise BrokenExecutor("another job ended with kill_workers")
        try:
            return executor.submit(execute, task), generation
        except Exception:
            raise
        except BaseException:
            # Ctrl-C within loky may leave its tables half changed.
            self.kill()
            raise

    def restart(self, generation: int) -> bool:
        """Wait until every old worker is dead, then start new ones."""

        def renew() -> None:
            with self._lock:
                if generation == self.generation:
                    self._shutdown()
                self._start()

        uninterrupted(renew)
        return True

    def kill(self) -> bool:
        """Kill the workers; the next task starts new ones."""
        uninterrupted(self._shutdown)
        return True

    def close(self) -> None:
        """Stop the workers: between tasks they hold nothing that killing could tear."""
        self._closed = True
        uninterrupted(self._shutdown)

    def _shutdown(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
            self.generation += 1
            if executor is not None:
                # A manager thread that died of a cancelled future is no reason to fail here.
                with contextlib.suppress(BrokenExecutor, RuntimeError):
                    executor.shutdown(wait=True, kill_workers=True)
                # loky does not wait for workers that it finds dead: without this they stay as
                # zombies, each with its semaphore, until the program ends.
                multiprocessing.active_children()
                self._sweep_locks()

    def _sweep_locks(self) -> None:
        """Remove the lock directories that killed workers left, unless somebody uses them."""
        if self.lock_roots:
            from hyperslab_workers.locks import sweep

            for root in self.lock_roots:
                sweep(root)


class SerialPool:
    """This process and thread: for debugging, and for machines without process pools."""

    concurrency = 1
    starts_in_order = True
    generation = 0
    losses: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        self.lock_roots: set[str | None] = set()

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

    def kill(self) -> bool:
        """Nothing runs between two calls."""
        return True

    def close(self) -> None:
        """Nothing to close."""


class ForeignPool:
    """An executor of the user's: used, never replaced, never shut down."""

    generation = 0
    losses: tuple[type[Exception], ...] = (BrokenExecutor,)

    def __init__(self, executor: Executor, workers: int) -> None:
        self._executor = executor
        self.lock_roots: set[str | None] = set()
        self.concurrency = int(getattr(executor, "_max_workers", None) or workers)
        # Of these it is known; of others it is not assumed.
        self.starts_in_order = isinstance(executor, ThreadPoolExecutor | ProcessPoolExecutor)

    def start(self) -> None:
        """It runs already."""

    def submit(self, task: Task) -> tuple[Future[Outcome], int]:
        """Hand a task to the user's executor."""
        from hyperslab_workers.execute import execute

        if not isinstance(self._executor, ThreadPoolExecutor):
            return self._executor.submit(execute, task), self.generation
        # Ctrl-C within its submit can leave a thread that it does not know of, for which the
        # program then waits at exit for ever.
        futures: list[Future[Outcome]] = []
        uninterrupted(lambda: futures.append(self._executor.submit(execute, task)))
        return futures[0], self.generation

    def restart(self, generation: int) -> bool:
        """It is not ours to replace."""
        return False

    def kill(self) -> bool:
        """Its workers are not ours to kill: they see the job called off on the board."""
        return False

    def close(self) -> None:
        """It is not ours to close."""


def make_pool(settings: Settings, session: Path) -> Pool:
    """The pool that the settings ask for."""
    if isinstance(settings.executor, Executor) or not isinstance(settings.executor, str):
        return ForeignPool(settings.executor, settings.workers)
    if settings.executor == "serial":
        return SerialPool()
    return LokyPool(settings.workers, session)
