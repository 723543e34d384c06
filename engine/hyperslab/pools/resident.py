"""Resident workers: processes of the engine's own, fed by pipes.

::

    run ── tokens ──► pipe of a worker ──► perform ──► pipe of the run ── answers ──► run
                                              │
                                            board: how far each worker has come

loky starts the processes, and each then performs one loky task for all its life: a loop that
waits at its pipe. What this saves is the way of a task through an executor's queues and threads,
which is some hundred times longer.

Every worker has a loky executor of its own. One executor for all was rejected: it answers the
death of one worker by killing all others, whatever they are writing, and so the death of one
run's worker would tear another run's file.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import multiprocessing.resource_tracker
import os
import select
import shutil
import signal
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperslab.errors import HyperslabError
from hyperslab.interruption import exiting, uninterrupted
from hyperslab.pools.channel import ResidentChannel
from hyperslab.pools.death import Death, death_of_exit
from hyperslab.pools.protocol import Capabilities, Line
from hyperslab_workers.board import Board
from hyperslab_workers.farewell import before_child_ends
from hyperslab_workers.resident import (
    TOKEN,
    answers_path,
    board_path,
    reside,
    tokens_path,
)

if TYPE_CHECKING:
    from hyperslab_workers.task import Task

__all__ = ["ResidentPool", "Worker"]

_CHANNELS = 256
"""Runs that may be under way on one engine at a time."""

_numbers = itertools.count()

_open: set[ResidentPool] = set()
"""Pools with workers: what has to be ended before the interpreter can be."""


class Worker:
    """One worker process as the coordinator knows it. All under the pool's lock."""

    def __init__(self, number: int, pipe: int) -> None:
        self.number = number
        self.pipe = pipe
        self.executor: Any = None
        self.process: Any = None
        self.pid = 0
        self.pidfd = -1
        self.sent: dict[int, tuple[ResidentChannel, Task]] = {}
        """Tasks in its pipe or in its hands, by ticket, in the order they were sent."""
        self.killed = False
        self.said = ""
        """What it raised before it left, if it could say so."""

    def take_back(self) -> list[bytes]:
        """Every token that it has not taken: none of them has begun, nor ever will."""
        tokens = []
        with contextlib.suppress(BlockingIOError):
            while True:
                tokens.append(os.read(self.pipe, TOKEN.size))
        return tokens


class ResidentPool:
    """Worker processes of the engine's own."""

    capabilities = Capabilities(in_order=True, restartable=True, loses="one")

    def __init__(self, workers: int, session: Path) -> None:
        self.workers = workers
        self.lock_roots: set[str | None] = set()
        self.lock = threading.RLock()
        self.tickets = itertools.count(1)
        self.closed = False
        self.refused: Exception | None = None
        """Why a worker could not be started: it is tried again whenever one is needed."""
        self.staff: list[Worker] = []
        self.hungry: set[ResidentChannel] = set()
        """Channels that wait until others have fewer tasks under way."""
        self.directory = str(session / f"pool-{os.getpid()}-{next(_numbers)}")
        self._session = session
        self._channels: list[ResidentChannel] = []
        self._idle: list[ResidentChannel] = []
        self._false_starts = 0
        self._old: list[tuple[Any, threading.Thread]] = []
        """Executors whose worker has died, with the thread that is still looking at it."""

    def start(self) -> None:
        """Start all workers; they get ready while the caller goes on."""
        if not self.staff:
            uninterrupted(self._start)

    def _start(self) -> None:
        with self.lock:
            self.check_open()
            if self.staff:
                return
            if exiting():
                raise HyperslabError(
                    "Python is about to end and no worker can be started any more: run the job "
                    "before, or with executor='serial'"
                )
            os.mkdir(self.directory, 0o700)
            self.board = Board.create(board_path(self.directory), self.workers, _CHANNELS)
            staff = []
            for number in range(self.workers):
                path = tokens_path(self.directory, number)
                os.mkfifo(path, 0o600)
                pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                staff.append(Worker(number, pipe))
            self.staff = staff
            _open.add(self)
            before_child_ends(_end_all, processes=True)
            self._fill()

    def _fill(self) -> None:
        """Start a worker wherever there is none; where it cannot be, say so to who needs it."""
        self.refused = None
        for worker in self.staff:
            if worker.pidfd >= 0:
                continue
            try:
                self._spawn(worker)
            except Exception as error:
                self.refused = error
                if worker.pidfd >= 0:
                    self._dismiss(worker)
                continue
            # Everybody's, for only one of all who wait comes here: a run that did not see the
            # death of the one before must see the next one.
            for channel in self._channels:
                channel.watch(worker)

    def _spawn(self, worker: Worker) -> None:
        import loky

        from hyperslab_workers import startup

        # Started before, because where it starts it unblocks the signals of its caller.
        multiprocessing.resource_tracker.ensure_running()
        worker.killed, worker.said = False, ""
        # Workers are born with these blocked: before start_worker() has run, a Ctrl-C that
        # reaches one would end it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, startup.BLOCKED)
        executor = None
        try:
            executor = loky.ProcessPoolExecutor(
                1,
                timeout=None,
                initializer=startup.start_worker,
                initargs=(os.getpid(), str(self._session)),
                env=startup.ENVIRONMENT,
            )
            # The submit starts the process, from this thread.
            future = executor.submit(reside, self.directory, worker.number)
            ((worker.pid, worker.process),) = executor._processes.items()
            pidfd, own = os.pidfd_open(worker.pid), os.pidfd_open(worker.pid)
        except BaseException:
            # A limit may be reached when the process is there and its threads here are not.
            for process in list(executor._processes.values()) if executor is not None else ():
                process.kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

        def ended(future: Any, pidfd: int = own) -> None:
            # A worker that left its loop by an exception would sit there, and be waited for.
            error = future.exception()
            with contextlib.suppress(ProcessLookupError):
                if not isinstance(error, BrokenExecutor):
                    worker.said = f"{type(error).__name__}: {error}"
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)

        future.add_done_callback(ended)
        worker.pidfd, worker.executor = pidfd, executor
        # At the interpreter's end such calls are made in reverse. loky registers one with every
        # executor, which waits for its workers: this one has to come before it.
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]

    def check_staff(self) -> None:
        """Refuse to wait for a worker that cannot be started."""
        if (error := self.refused) is not None:
            raise HyperslabError(
                f"a worker process could not be started ({type(error).__name__}: {error}): most "
                "often a limit on processes, open files or memory (ulimit -a); the next job tries "
                "again, and executor='serial' does without"
            ) from error

    def check_open(self) -> None:
        """Refuse work where the engine was closed."""
        if self.closed and exiting() and threading.current_thread().daemon:
            # Nobody will hear of it: an error would be half printed when Python ends.
            threading.Event().wait()
        if self.closed:
            raise HyperslabError(
                "the engine was closed while a job ran on it: close it when its jobs are over"
            )

    def open(self, line: Line) -> ResidentChannel:
        """A line for one run."""
        self.start()
        if self.refused is not None:
            self.reap()
        with self.lock:
            self.check_open()
            self.check_staff()
            if self._idle:
                channel = self._idle.pop()
            else:
                number = len(self._channels)
                if number == _CHANNELS:
                    raise HyperslabError(
                        f"{_CHANNELS} jobs run on this engine at a time, which is the most: start "
                        "the next when one has ended, or make a second hs.Engine"
                    )
                path = answers_path(self.directory, number)
                os.mkfifo(path, 0o600)
                channel = ResidentChannel(self, number, path)
                self._channels.append(channel)
            channel.begin(line)
            self._false_starts = 0
            return channel

    def give_back(self, channel: ResidentChannel) -> None:
        """A run has ended."""
        with self.lock:
            self.hungry.discard(channel)
            if self.closed:
                channel.end()
            else:
                self._idle.append(channel)

    def reap(self) -> None:
        """Find the workers that have died, tell whose tasks were theirs, and replace them."""
        uninterrupted(self._reap)

    def _reap(self) -> None:
        with self.lock:
            if self.closed:
                return
            dead = [w for w in self.staff if w.pidfd >= 0 and _has_ended(w.pidfd)]
            for worker in dead:
                death = self._death(worker)
                mark = self.board.rows[worker.number].mark()
                worker.take_back()
                for ticket, (channel, _) in worker.sent.items():
                    channel.gone.append((ticket, mark, death))
                    channel.wake()
                worker.sent.clear()
                self._dismiss(worker)
                self.board.rows[worker.number].clear()
            self._fill()
            if dead:
                self.sweep_locks()

    def _death(self, worker: Worker) -> Death:
        row = self.board.rows[worker.number].mark()
        self._false_starts = 0 if row.ticket or worker.killed else self._false_starts + 1
        if worker.killed:
            return Death("SIGKILL", ours=True)
        death = death_of_exit(_exit_status(worker))
        detail = f"it raised {worker.said}" if worker.said and not death.signal else death.detail
        return Death(death.signal, detail, false_starts=self._false_starts)

    def _dismiss(self, worker: Worker) -> None:
        """Let go of a dead worker's process, its threads here, and its semaphores."""
        for channel in self._channels:
            channel.forget(worker.pidfd)
        os.close(worker.pidfd)
        worker.pidfd = -1
        executor, worker.executor = worker.executor, None
        thread = executor._executor_manager_thread
        # loky takes a tenth of a second to look at its dead worker: nobody need wait for that.
        executor.shutdown(wait=False, kill_workers=True)
        self._old = [old for old in self._old if old[1].is_alive()]
        self._old.append((executor, thread))

    def kill(self, worker: Worker) -> None:
        """End a worker. The caller has seen to it that it works for nobody else."""
        worker.killed = True
        signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
        select.select([worker.pidfd], [], [])

    def close(self) -> None:
        """Stop the workers: between tasks they hold nothing that killing could tear."""
        uninterrupted(self._close)

    def _close(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.closed = True
            _open.discard(self)
            staff = [worker for worker in self.staff if worker.pidfd >= 0]
            executors = [*(old for old, _ in self._old), *(w.executor for w in staff)]
            for worker in staff:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
            for executor in executors:
                # A manager thread that died of something else is no reason to fail here.
                with contextlib.suppress(Exception):
                    executor.shutdown(wait=True, kill_workers=True)
            # loky does not wait for workers that it finds dead: without this they stay as
            # zombies, each with its semaphore, until the program ends.
            multiprocessing.active_children()
            for worker in self.staff:
                if worker.pidfd >= 0:
                    os.close(worker.pidfd)
                os.close(worker.pipe)
                worker.executor = worker.process = None
            # With the executors go their semaphores.
            self.staff, self._old, executors, staff = [], [], [], []
            for channel in self._channels:
                channel.wake()
            for channel in self._idle:
                channel.end()
            self.sweep_locks()
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_for_runs(self) -> None:
        """Wait for the runs of threads that the interpreter will wait for as well."""
        while any(channel.is_awaited for channel in self._channels):
            time.sleep(0.01)

    def sweep_locks(self) -> None:
        """Remove the lock directories that killed workers left, unless somebody uses them."""
        if self.lock_roots:
            from hyperslab_workers.locks import sweep

            for root in list(self.lock_roots):
                sweep(root)


def _end_all() -> None:
    for pool in list(_open):
        pool.wait_for_runs()
        pool.close()


# A forked child has none of its parent's workers, and must not end them.
os.register_at_fork(after_in_child=_open.clear)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _exit_status(worker: Worker) -> int | None:
    """The exit status of a dead worker, left for loky to collect."""
    try:
        ended = os.waitid(os.P_PIDFD, worker.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        ended = None
    if ended is None:
        # loky was faster: it has the status, or will have it in a moment.
        for _ in range(1000):
            if (code := worker.process.exitcode) is not None:
                return int(code)
            time.sleep(0.001)
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
