"""Resident workers: processes of the engine's own, fed by pipes.

::

    run ── tokens ──► pipe of a worker ──► perform ──► pipe of the run ── answers ──► run
                                              │
                                            board: how far each worker has come

A worker performs one loop for all its life, which waits at its pipe. What this saves is the way of
a task through an executor's queues and threads, which is some hundred times longer.

Workers know nothing of each other: the death of one is answered by starting another in its place,
and whoever runs on the others is not disturbed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from hyperslab.errors import HyperslabError
from hyperslab.interruption import uninterrupted
from hyperslab.pools.channel import ResidentChannel
from hyperslab.pools.death import Death
from hyperslab.pools.protocol import Capabilities, Line, Route
from hyperslab.pools.spawning import (
    WorkerProcess,
    cannot_start,
    check_may_have_children,
    program_path,
    spawn,
)
from hyperslab.underway import check_open
from hyperslab_workers import forks
from hyperslab_workers.board import WRITING, Board
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.farewell import before_child_ends, threads_remain
from hyperslab_workers.host import refused
from hyperslab_workers.posting import Posting
from hyperslab_workers.resident import TOKEN, answers_path, board_path, tokens_path
from hyperslab_workers.undo import undo_path

if TYPE_CHECKING:
    from hyperslab_workers.task import Task

__all__ = ["ResidentPool", "Worker"]

_CHANNELS = 256
"""Runs that may be under way on one engine at a time."""

_A_WHILE = 1.0
"""Seconds for which a worker that was killed is waited for before somebody looks again."""

_numbers = itertools.count()

_open: set[ResidentPool] = set()
"""Pools with workers: what has to be ended before the interpreter can be."""


class Worker:
    """One worker process as the coordinator knows it. All under the pool's lock."""

    def __init__(self, number: int, pipe: int) -> None:
        self.number = number
        self.pipe = pipe
        self.process: WorkerProcess | None = None
        self.sent: dict[int, tuple[ResidentChannel, Task]] = {}
        """Tasks in its pipe or in its hands, by ticket, in the order they were sent."""
        self.killed = False

    @property
    def pid(self) -> int:
        """The process's number; 0 where there is no process."""
        return 0 if self.process is None else self.process.pid

    @property
    def pidfd(self) -> int:
        """The descriptor by which the process is known; -1 where there is none."""
        return -1 if self.process is None else self.process.pidfd

    def take_back(self) -> list[bytes]:
        """Every token that it has not taken: none of them has begun, nor ever will."""
        tokens = []
        with contextlib.suppress(BlockingIOError):
            while token := os.read(self.pipe, TOKEN.size):
                tokens.append(token)
        return tokens


class ResidentPool:
    """Worker processes of the engine's own."""

    capabilities = Capabilities(in_order=True, restartable=True, loses="one", ends=True)
    route: Route = "processes"

    def __init__(self, workers: int, session: Path) -> None:
        self.workers = workers
        self.lock_roots: set[str | None] = set()
        self.lock = forks.lock()
        self.tickets = itertools.count(1)
        self.closed = False
        self.refused: Exception | None = None
        """Why a worker could not be started: it is tried again whenever one is needed."""
        self.staff: list[Worker] = []
        self.hungry: set[ResidentChannel] = set()
        """Channels that wait until others have fewer tasks under way."""
        self.directory = str(session / f"pool-{os.getpid()}-{next(_numbers)}")
        self._posting = (os.getpid(), str(session))
        self._channels: list[ResidentChannel] = []
        self._idle: list[ResidentChannel] = []
        self._false_starts = 0
        self._inherited = False

    @property
    def started(self) -> bool:
        """Whether workers were started."""
        return bool(self.staff)

    def start(self) -> None:
        """Start all workers; they get ready while the caller goes on."""
        if not self.staff:
            uninterrupted(self._start)

    def _start(self) -> None:
        with self.lock:
            self.check_open()
            if self.staff:
                return
            check_may_have_children()
            try:
                self._furnish()
            except OSError as error:
                shutil.rmtree(self.directory, ignore_errors=True)
                what = f"the pipes to the workers cannot be made in {self.directory!r}"
                raise cannot_start(error, what) from error
            _open.add(self)
            before_child_ends(_end_all, processes=True)
            self._fill()

    def _furnish(self) -> None:
        """Make what workers are told by and tell: pipes, and the board."""
        os.mkdir(self.directory, 0o700)
        self.board = Board.create(board_path(self.directory), self.workers, _CHANNELS)
        staff: list[Worker] = []
        try:
            for number in range(self.workers):
                path = tokens_path(self.directory, number)
                os.mkfifo(path, 0o600)
                pipe = open_apart(path, os.O_RDWR | os.O_NONBLOCK)
                staff.append(Worker(number, pipe))
        except BaseException:
            for worker in staff:
                os.close(worker.pipe)
            raise
        self.staff = staff

    def _fill(self) -> None:
        """Start a worker wherever there is none; where it cannot be, say so to who needs it."""
        self.refused = None
        for worker in self.staff:
            if worker.pidfd >= 0:
                continue
            try:
                worker.process = spawn(
                    Posting(self.directory, worker.number, *self._posting, program_path())
                )
            except Exception as error:
                self.refused = error
                continue
            worker.killed = False
            # Everybody's, for only one of all who wait comes here: a run that did not see the
            # death of the one before must see the next one.
            for channel in self._channels:
                channel.watch(worker)

    def check_staff(self) -> None:
        """Refuse to wait for a worker that cannot be started."""
        if (error := self.refused) is not None:
            raise cannot_start(error) from error

    def check_open(self) -> None:
        """Refuse work where the engine was closed, or is another process's."""
        check_open(inherited=self._inherited, closed=self.closed)

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
                try:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)  # Of an attempt that Ctrl-C has cut short.
                    os.mkfifo(path, 0o600)
                    channel = ResidentChannel(self, number, path)
                except OSError as error:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                    raise refused("no line to the workers can be opened", error) from error
                self._channels.append(channel)
            channel.begin(line)
            self._false_starts = 0
            return channel

    def give_back(self, channel: ResidentChannel) -> None:
        """A run has ended."""
        with self.lock:
            self.hungry.discard(channel)
            for worker in self.staff:
                # Ctrl-C may have come before what was over was noted as that.
                for ticket in [t for t, (of, _) in worker.sent.items() if of is channel]:
                    del worker.sent[ticket]
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
            dead = [w for w in self.staff if w.process is not None and w.process.has_ended()]
            for worker in dead:
                death = self._death(worker)
                mark = self.board.rows[worker.number].mark()
                worker.take_back()
                undo = undo_path(self.board.path, worker.pid)
                if mark.state != WRITING or mark.ticket not in worker.sent:
                    with contextlib.suppress(OSError):
                        os.unlink(undo)  # Else whoever has lost the task will.
                for ticket, (channel, _) in worker.sent.items():
                    held = undo if ticket == mark.ticket else None
                    channel.gone.append((ticket, mark, death, held))
                    channel.wake()
                worker.sent.clear()
                self._dismiss(worker)
                self.board.rows[worker.number].clear()
            self._fill()
            if dead:
                self.sweep_locks()

    def _death(self, worker: Worker) -> Death:
        assert worker.process is not None
        row = self.board.rows[worker.number].mark()
        self._false_starts = 0 if row.ticket or worker.killed else self._false_starts + 1
        death = worker.process.death()
        if worker.killed:
            return Death("SIGKILL", ours=True)
        return death._replace(false_starts=self._false_starts)

    def _dismiss(self, worker: Worker) -> None:
        """Let go of a dead worker's process."""
        assert worker.process is not None
        for channel in self._channels:
            channel.forget(worker.pidfd)
        worker.process.let_go()
        worker.process = None

    def kill(self, worker: Worker) -> None:
        """End a worker. The caller has seen to it that it works for nobody else."""
        assert worker.process is not None
        worker.killed = True
        worker.process.send(signal.SIGKILL)
        # Not for ever, for the sake of Ctrl-C: whoever called looks again.
        worker.process.has_ended(_A_WHILE)

    def close(self) -> None:
        """Stop the workers: between tasks they hold nothing that killing could tear."""
        uninterrupted(self._close)

    def _close(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.closed = True
            _open.discard(self)
            for worker in self.staff:
                if worker.process is not None:
                    worker.process.send(signal.SIGKILL)
            for worker in self.staff:
                if worker.process is not None:
                    worker.process.close()
                os.close(worker.pipe)
                worker.process = None
            if self.staff:
                self.board.part()
            self.staff = []
            for channel in self._channels:
                channel.wake()
            for channel in self._idle:
                channel.end()
            self.sweep_locks()
        shutil.rmtree(self.directory, ignore_errors=True)

    def disown(self) -> None:
        """Leave everything to the process of which this one is a copy.

        Its pipes and its board are the parent's: whoever comes back to a run here, out of the
        signal handler that forked, must neither take the answers of the parent's workers nor tell
        them anything.
        """
        self.closed = self._inherited = True
        self.board.part()
        pipes = [*(worker.pipe for worker in self.staff), *(c.answers for c in self._channels)]
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for pipe in pipes:
                os.dup2(nowhere, pipe, inheritable=False)
            os.close(nowhere)
        for worker in self.staff:
            if worker.process is not None:
                worker.process.let_go()

    def sweep_locks(self) -> None:
        """Remove the lock directories that killed workers left, unless somebody uses them."""
        if self.lock_roots:
            from hyperslab_workers.locks import sweep

            for root in list(self.lock_roots):
                sweep(root)


def _end_all() -> None:
    if threads_remain():
        return  # Their jobs go on. Workers see the end of the process by themselves.
    for pool in list(_open):
        pool.close()


def _disown_all() -> None:
    while _open:
        _open.pop().disown()


forks.in_child(_disown_all)
