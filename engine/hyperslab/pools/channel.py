"""One run's line to resident workers: tokens down, answers up."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hyperslab.interruption import uninterrupted
from hyperslab.pools.death import Death
from hyperslab.pools.protocol import Answered, Event, Line, Lost
from hyperslab_workers.board import IDLE, RUNNING, WRITING, Mark
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.owned import read_own
from hyperslab_workers.resident import (
    ANSWER,
    ASIDE,
    NO_SLOT,
    THROUGH_MAP,
    TOKEN,
    TOKENS_AT_ONCE,
    aside_path,
    remove_aside,
)
from hyperslab_workers.task import Failure, Outcome, Task, write_aside

if TYPE_CHECKING:
    from hyperslab.pools.resident import ResidentPool, Worker
    from hyperslab.pools.spawning import WorkerProcess

__all__ = ["ResidentChannel"]

_DEPTH = 4
"""Tasks for each worker that may be under way. Those that wait cost nothing: they can be given
to another worker, and taken back."""

_WAKE = ANSWER.pack(0, 0.0, 0.0, 0, 0)

_LONG_WRITE = 5.0
"""Seconds that a write which has begun gets to end before its worker is killed all the same."""


class ResidentChannel:
    """A run's line. The pool keeps it for the next run."""

    def __init__(self, pool: ResidentPool, number: int, path: str) -> None:
        self._pool = pool
        self._number = number
        self._poll = select.epoll()
        self._answers = open_apart(path, os.O_RDWR | os.O_NONBLOCK)
        self._cell = pool.board.cells[number]
        self._poll.register(self._answers, select.EPOLLIN)
        self._watched: set[int] = set()
        self._sent: dict[int, tuple[Task, Worker]] = {}
        self._told: list[Event] = []
        """Events that the run has not acknowledged yet."""
        self.gone: list[tuple[int, Mark, Death, str | None]] = []
        """Tickets of tasks whose worker has died, put here by whoever found it dead; with what the
        board said, what killed it, and where it kept what it was changing."""

    def begin(self, line: Line) -> None:
        """Serve a new run. Under the pool's lock."""
        self._line = line
        self._cell.clear()
        self._sent.clear()
        self._told.clear()
        self.gone.clear()
        staff = self._pool.staff
        self.workers = min(line.workers, len(staff))
        if self.workers < len(staff):
            # Those with the least to do, so that two runs of one worker each have one each.
            self._team = sorted(staff, key=lambda worker: len(worker.sent))[: self.workers]
        else:
            self._team = staff
        self.capacity = self.workers * _DEPTH
        for worker in staff:
            self.watch(worker)

    @property
    def answers(self) -> int:
        """The descriptor of the pipe up to the run."""
        return self._answers

    def watch(self, worker: Worker) -> None:
        """Be woken when that worker dies. Under the pool's lock."""
        if worker.pidfd >= 0 and worker.pidfd not in self._watched:
            self._poll.register(worker.pidfd, select.EPOLLIN)
            self._watched.add(worker.pidfd)

    def forget(self, pidfd: int) -> None:
        """That worker is dead and known to be. Under the pool's lock."""
        if pidfd in self._watched:
            self._watched.discard(pidfd)
            self._poll.unregister(pidfd)

    def wake(self) -> None:
        """Have a thread that waits for answers look around."""
        # Where the pipe is full it has something to wake up for.
        with contextlib.suppress(BlockingIOError):
            os.write(self._answers, _WAKE)

    # Sending.

    def accepts(self, task: Task) -> bool:
        """Whether the task could be sent now."""
        if len(self._sent) >= self.capacity:
            return False
        if not self._line.ordered:
            return True
        with self._pool.lock:
            return self._choose(task.index) is not None

    def _choose(self, index: int) -> Worker | None:
        """The worker with the least to do, of those behind whose tasks this one may stand.

        A task that waits for its turn keeps its worker. If what it waits for could stand behind
        it, or behind another run's that waits likewise, none of them would ever end.
        """
        best: Worker | None = None
        for worker in self._team:
            if self._line.ordered and not all(
                task.index < index if channel is self else not channel._line.ordered
                for channel, task in worker.sent.values()
            ):
                continue
            if best is None or len(worker.sent) < len(best.sent):
                best = worker
        if best is None:
            self._pool.hungry.add(self)
        return best

    def send(self, tasks: list[Task]) -> None:
        """Hand tasks over, in their order."""
        with self._pool.lock:
            self._pool.check_open()
            if self._line.ordered or self._sent or len(tasks) < len(self._team):
                for task in tasks:
                    worker = self._choose(task.index)
                    assert worker is not None
                    self._give(worker, [task])
                return
            # A run that starts: each worker gets a stretch of neighbours, the same one every
            # time, so that a plan that is run again finds its data in the same caches.
            shares = len(self._team)
            for number, worker in enumerate(self._team):
                share = tasks[number * len(tasks) // shares : (number + 1) * len(tasks) // shares]
                self._give(worker, share)

    def _give(self, worker: Worker, tasks: list[Task]) -> None:
        tokens = []
        for task in tasks:
            ticket = next(self._pool.tickets)
            # Known before it is sent: Ctrl-C may come between the two.
            self._sent[ticket] = (task, worker)
            worker.sent[ticket] = (self, task)
            tokens.append(self._token(ticket, task))
        for first in range(0, len(tokens), TOKENS_AT_ONCE):
            os.write(worker.pipe, b"".join(tokens[first : first + TOKENS_AT_ONCE]))

    def _token(self, ticket: int, task: Task) -> bytes:
        flags = THROUGH_MAP if task.through_map else 0
        if task.footprints:
            write_aside(task, aside_path(self._pool.directory, ticket, "task"))
            flags |= ASIDE
        left, right = task.merge or (NO_SLOT, NO_SLOT)
        return TOKEN.pack(
            *(ticket, task.start, task.stop, self._line.number, task.index, task.slot),
            *(left, right, self._number, flags),
        )

    def _balance(self) -> None:
        """Give a worker that has nothing to do half of what waits for another.

        Only where nobody else's tasks stand in that worker's pipe: their order is theirs.
        """
        with self._pool.lock:
            for worker in self._team:
                if worker.sent:
                    continue
                busiest = max(self._team, key=lambda other: len(other.sent))
                if len(busiest.sent) < 2 or any(
                    channel is not self for channel, _ in busiest.sent.values()
                ):
                    return
                with contextlib.suppress(BlockingIOError):
                    tokens = os.read(busiest.pipe, len(busiest.sent) // 2 * TOKEN.size)
                    for ticket, *_ in TOKEN.iter_unpack(tokens):
                        if ticket in busiest.sent:
                            worker.sent[ticket] = busiest.sent.pop(ticket)
                            self._sent[ticket] = (worker.sent[ticket][1], worker)
                    os.write(worker.pipe, tokens)

    # Receiving.

    def receive(self, timeout: float) -> list[Event]:
        """What has happened; waits up to so many seconds for the first event."""
        if len(self._sent) > 1 and len(self._team) > 1:
            self._balance()
        self._collect(timeout)
        self._pool.check_open()
        if not self._told:  # What is told must not be lost.
            self._pool.check_staff()
        return list(self._told)

    def acknowledge(self) -> None:
        """All that was told has been noted."""
        self._told.clear()

    def _tell(self, ticket: int, event: Event) -> None:
        # In this order: Ctrl-C may come between the two, and what is told twice is noted twice.
        self._told.append(event)
        self._sent.pop(ticket, None)

    def _collect(self, timeout: float) -> None:
        ready = self._poll.poll(timeout)
        if self._pool.refused is not None or any(fd != self._answers for fd, _ in ready):
            self._pool.reap()
        # Answers first: a worker that died may have answered before.
        try:
            answers = os.read(self._answers, 65536)
        except BlockingIOError:
            answers = b""
        over = []
        for ticket, started, seconds, pid, failed in ANSWER.iter_unpack(answers):
            known = self._sent.get(ticket)
            if known is None:
                continue  # A wake-up, or known already from the board.
            over.append((ticket, known[1]))
            failure = self._failure(ticket) if failed else None
            self._tell(ticket, Answered(known[0], Outcome(started, seconds, pid, failure)))
        if over:
            self._settle(over)
        if self.gone:
            self._lose()

    def _failure(self, ticket: int) -> Failure:
        path = aside_path(self._pool.directory, ticket, "failure")
        failure: Failure = pickle.loads(read_own(path))
        os.unlink(path)
        return failure

    def _settle(self, over: Iterable[tuple[int, Worker]]) -> None:
        with self._pool.lock:
            for ticket, worker in over:
                worker.sent.pop(ticket, None)
            for channel in self._pool.hungry:
                if channel is not self:
                    channel.wake()
            self._pool.hungry.clear()

    def _lose(self) -> None:
        with self._pool.lock:
            gone = list(self.gone)
        for ticket, mark, death, undo in gone:
            known = self._sent.get(ticket)
            if known is None:
                continue  # Its answer came in time.
            if ticket in mark.finished:
                # Only the answer was lost.
                self._tell(ticket, Answered(known[0], Outcome(time.monotonic(), 0.0, 0)))
                continue
            remove_aside(self._pool.directory, ticket)
            begun = mark.ticket == ticket and mark.state != IDLE
            self._tell(ticket, Lost(known[0], mark if begun else None, death, undo))
        with self._pool.lock:
            del self.gone[: len(gone)]

    def regions_done(self) -> int:
        """Regions finished in the tasks under way, for progress."""
        rows = self._pool.board.rows
        return sum(
            row.done for row in (rows[w.number] for w in self._team) if row.ticket in self._sent
        )

    # Ending.

    def call_off(self, patience: float) -> list[Event]:
        """End what is under way; when it returns, nothing of this run computes any more."""
        self._cell.call_off()
        deadline = time.monotonic() + patience
        while self._sent and not self._pool.closed:
            try:
                self._revoke()
                self._forget_unsent()
                while self._sent and (left := deadline - time.monotonic()) > 0:
                    self._collect(min(left, 0.05))
                for worker in {worker.number: worker for _, worker in self._sent.values()}.values():
                    self._end(worker)
            except KeyboardInterrupt:
                deadline = 0.0  # A second Ctrl-C means: no patience.
        return list(self._told)

    def _revoke(self) -> None:
        """Take back what has not been taken by a worker."""
        with self._pool.lock:
            for worker in self._pool.staff:
                if not any(channel is self for channel, _ in worker.sent.values()):
                    continue
                for token in worker.take_back():
                    ticket = TOKEN.unpack(token)[0]
                    if self._sent.pop(ticket, None) is None:
                        os.write(worker.pipe, token)
                    else:
                        worker.sent.pop(ticket, None)
                        remove_aside(self._pool.directory, ticket)

    def _forget_unsent(self) -> None:
        """Forget tasks that Ctrl-C has kept from being sent: no worker will ever tell of them."""
        with self._pool.lock:
            gone = {ticket for ticket, *_ in self.gone}
            for ticket, (_, worker) in list(self._sent.items()):
                if ticket not in worker.sent and ticket not in gone:
                    self._sent.pop(ticket, None)

    def _end(self, worker: Worker) -> None:
        """End a worker that computes for this run; never one that computes for another."""
        self._collect(0)
        writing_until = time.monotonic() + _LONG_WRITE
        while any(of is worker for _, of in self._sent.values()) and not self._pool.closed:
            self._forget_unsent()
            finished: list[int] = []
            uninterrupted(functools.partial(self._look, worker, writing_until, finished))
            self._collect(0.002)
            for ticket in finished:
                if (known := self._sent.get(ticket)) is not None:  # Else its answer has been read.
                    self._tell(ticket, Answered(known[0], Outcome(time.monotonic(), 0.0, 0)))
                    self._settle([(ticket, worker)])

    def _look(self, worker: Worker, writing_until: float, finished: list[int]) -> None:
        """Which tasks of this run a worker has finished; it is killed if it is at one of them.

        It is stopped first, so that what the board says of it stays true while it is looked at.
        """
        pool = self._pool
        with pool.lock:
            mine = [ticket for ticket, (_, of) in self._sent.items() if of is worker]
            if pool.closed or not mine or worker.process is None:
                return
            process = worker.process
            try:
                # Once more where it was let go in between: the system does so when a thread of
                # this process that has started workers ends (see ``startup``).
                while True:
                    _stop(process)
                    mark = pool.board.rows[worker.number].mark()
                    if _stands_still(process):
                        break
                finished += [ticket for ticket in mine if ticket in mark.finished]
                if mark.state in (RUNNING, WRITING) and mark.ticket not in mine:
                    return  # It works for another run; ours it has finished, or was never sent.
                if mark.state == WRITING and time.monotonic() < writing_until:
                    return
                if len(finished) < len(mine):
                    pool.kill(worker)
            finally:
                process.send(signal.SIGCONT)

    def close(self) -> None:
        """Give the line back."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._answers, 65536):
                pass
        self._pool.give_back(self)

    def end(self) -> None:
        """Close what is open: nobody will use the line any more."""
        self._poll.close()
        os.close(self._answers)


def _stop(process: WorkerProcess) -> None:
    """Stop a process and wait until it stands still."""
    process.send(signal.SIGSTOP)
    for _ in range(10_000):
        if _stands_still(process):
            return
        time.sleep(0.0001)


def _stands_still(process: WorkerProcess) -> bool:
    """Whether a process is stopped, or has ended."""
    try:
        status = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "TtZX"
