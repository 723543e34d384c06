"""Threads of this process, for jobs that end before worker processes would be ready.

::

    run ── orders ──► seats of a channel, a thread in each ──► perform ── answers ──► run
                                            │
                                          board, in this process's memory

A kernel runs without the interpreter lock, so threads compute side by side as processes do. What
they are not is apart: a kernel that does not end cannot be ended. So the threads are daemons,
nothing is stored through maps, and a run that is called off leaves such a thread behind, which
writes nothing any more and goes back to work when its kernel has come to its end.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
import weakref
from pathlib import Path

from hyperslab.pools.death import Death
from hyperslab.pools.mailbox import Mailbox
from hyperslab.pools.protocol import Answered, Capabilities, Event, Line, Lost, Route
from hyperslab.underway import check_open, goes_on_in_parent
from hyperslab_workers import floating_point, forks
from hyperslab_workers.board import FAILED, IDLE, RUNNING, TORN, WRITING, Board, Mark
from hyperslab_workers.task import Outcome, Task

__all__ = ["ThreadPool"]

_DEPTH = 4
"""Tasks for each seat that may be under way."""

_ALONE = 0.001
"""Seconds after which the other threads are called: to wake them all takes as long as most of
the jobs that one of them is done with by then."""

_LOOK = 0.002
"""Seconds between two looks at the board while a run is called off."""

_LEAVING = 1.0
"""Seconds for which idle threads are waited for when they are to end."""

_numbers = itertools.count(1)


class _Hand(threading.Thread):
    """A thread that serves one channel after the other."""

    def __init__(self, pool: ThreadPool) -> None:
        super().__init__(name=f"hyperslab-{next(_numbers)}", daemon=True)
        self._pool = pool
        self.inbox: queue.SimpleQueue[tuple[_ThreadChannel, int] | None] = queue.SimpleQueue()

    def run(self) -> None:
        floating_point.set_defaults()
        while (work := self.inbox.get()) is not None:
            channel, seat = work
            channel.serve(seat)
            # A thread that waits must not keep what it worked at.
            del work, channel
            if not self._pool.take_back(self):
                return


class ThreadPool:
    """Threads of this process, started when a run has use for them."""

    capabilities = Capabilities(in_order=True, restartable=False, loses="nothing", ends=False)
    started = True
    route: Route = "threads"

    def __init__(self, workers: int, session: Path) -> None:
        self.workers = workers
        self.lock_roots: set[str | None] = set()
        self.directory = str(session)
        self.closed = False
        self._lock = forks.lock()
        self._idle: list[_Hand] = []
        self._inherited = False
        _pools.add(self)

    def start(self) -> None:
        """Nothing to start: that is what they are for."""

    def open(self, line: Line) -> _ThreadChannel:
        """A line for one run, whose threads are its own: runs do not wait for each other."""
        self.check_open()
        return _ThreadChannel(self, min(line.workers, self.workers))

    def disown(self) -> None:
        """Leave the threads to the process of which this one is a copy."""
        self._inherited = True

    def check_open(self) -> None:
        """Refuse work where the engine was closed, or is another process's."""
        check_open(inherited=self._inherited, closed=self.closed)

    def employ(self, channel: _ThreadChannel, seat: int) -> bool:
        """Have a thread take a seat; False where none can be started."""
        with self._lock:
            hand = self._idle.pop() if self._idle else None
        if hand is None:
            hand = _Hand(self)
            try:
                hand.start()
            except RuntimeError:  # The system's limit, or Python is ending.
                return False
        hand.inbox.put((channel, seat))
        return True

    def take_back(self, hand: _Hand) -> bool:
        """A thread has left its seat; False: it is not needed any more."""
        with self._lock:
            # Of many runs at a time not all need come again.
            needed = not self.closed and len(self._idle) < self.workers
            if needed:
                self._idle.append(hand)
            return needed

    def close(self) -> None:
        """End the threads that have nothing to do; the others end when they have come to that."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
        for hand in idle:
            hand.inbox.put(None)
        for hand in idle:
            hand.join(_LEAVING)


class _ThreadChannel:
    """A run's line to threads."""

    def __init__(self, pool: ThreadPool, workers: int) -> None:
        self.workers = workers
        self.capacity = workers * _DEPTH
        self._pool = pool
        self._board = Board.private(workers)
        self._cell = self._board.cells[0]
        self._orders: queue.SimpleQueue[tuple[int, Task] | None] = queue.SimpleQueue()
        self._answers: Mailbox[tuple[int, Outcome]] = Mailbox()
        self._left: Mailbox[int] = Mailbox()
        self._tickets = itertools.count(1)
        self._sent: dict[int, Task] = {}
        self._told: list[Event] = []
        self._seated = 0
        self._abandoned: set[int] = set()
        self._alone_until = 0.0
        self._inherited = False
        _channels.add(self)

    def serve(self, seat: int) -> None:
        """Perform what is ordered until the run is over: in a thread, for all its time here."""
        from hyperslab_workers.execute import idle, perform

        row = self._board.rows[seat]
        me = threading.get_native_id()
        try:
            for ticket, task in iter(self._orders.get, None):
                done = perform(task, row, self._cell, ticket)
                answer = Outcome(done.started, done.seconds, me, done.failure)
                self._answers.put((ticket, answer))
            idle()
        finally:
            self._left.put(seat)

    def disown(self) -> None:
        """Leave the run to the process of which this one is a copy, and which has the threads."""
        self._inherited = True

    def _check_own(self) -> None:
        if self._inherited:
            raise goes_on_in_parent()
        self._pool.check_open()

    # Sending.

    def accepts(self, task: Task) -> bool:
        """Whether there is room."""
        return len(self._sent) < self.capacity

    def send(self, tasks: list[Task]) -> None:
        """Order tasks, in their order."""
        self._check_own()
        for task in tasks:
            ticket = next(self._tickets)
            # Known before it is ordered: Ctrl-C may come between the two.
            self._sent[ticket] = task
            self._orders.put((ticket, task))
        if self._seated == 0:
            self._call_one()
            self._alone_until = time.monotonic() + _ALONE

    def _call_one(self) -> None:
        seat, self._seated = self._seated, self._seated + 1
        if not self._pool.employ(self, seat):
            self._seated = seat
            if seat == 0:
                # There is only the thread that asks: it performs what it has ordered.
                self._orders.put(None)
                with floating_point.defaults():
                    self.serve(seat)
                self._left.take(0.0)

    def _call_others(self) -> None:
        for _ in range(self._seated, min(self.workers, self._seated + self._orders.qsize())):
            self._call_one()

    # Receiving.

    def receive(self, timeout: float) -> list[Event]:
        """What has happened; waits up to so many seconds for the first event."""
        self._check_own()
        if 0 < self._seated < self.workers and not self._orders.empty():
            left = self._alone_until - time.monotonic()
            if left > 0:
                timeout = min(timeout, left)
            else:
                self._call_others()
        self._collect(timeout)
        return list(self._told)

    def acknowledge(self) -> None:
        """All that was told has been noted."""
        self._told.clear()

    def _collect(self, timeout: float = _LOOK) -> None:
        """Note what has happened in that time."""
        for ticket, outcome in self._answers.take(timeout):
            if (task := self._sent.get(ticket)) is not None:
                self._tell(ticket, Answered(task, outcome))

    def _tell(self, ticket: int, event: Event) -> None:
        # In this order: Ctrl-C may come between the two, and what is told twice is noted twice.
        self._told.append(event)
        self._sent.pop(ticket, None)

    def regions_done(self) -> int:
        """Regions finished in the tasks under way."""
        return sum(row.done for row in self._board.rows if row.ticket in self._sent)

    # Ending.

    def call_off(self, patience: float) -> list[Event]:
        """End what is under way, or leave it where it cannot change anything any more.

        A kernel that has begun is waited for `patience` seconds, a write that has begun to its
        end. What has not begun by then sees that it was called off before its first region.
        """
        self._cell.call_off()
        if self._inherited:
            return []
        deadline = time.monotonic() + patience
        # A second Ctrl-C means: no patience.
        with contextlib.suppress(KeyboardInterrupt):
            self._revoke()
            while self._busy() and time.monotonic() < deadline:
                self._collect()
        while self._writing():
            with contextlib.suppress(KeyboardInterrupt):
                self._collect()
        self._abandon()
        return list(self._told)

    def _revoke(self) -> None:
        """Take back what has not been taken by a thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                order = self._orders.get_nowait()
                if order is not None:
                    self._sent.pop(order[0], None)

    def _marks(self) -> list[Mark]:
        return [row.mark() for row in self._board.rows]

    def _busy(self) -> bool:
        """Whether a task of the run is under way. An answer can be lost on its way, by Ctrl-C."""
        over: set[int] = set()
        for mark in self._marks():
            over |= mark.finished
            if mark.state in (FAILED, TORN):
                over.add(mark.ticket)
        return not over.issuperset(self._sent)

    def _writing(self) -> bool:
        return any(mark.state == WRITING for mark in self._marks())

    def _abandon(self) -> None:
        """Leave what does not end; what is known of it is on the board."""
        self._collect(0.0)
        marks = self._marks()
        for ticket, task in list(self._sent.items()):
            if any(ticket in mark.finished for mark in marks):
                # Ctrl-C came between its answer and the note of it.
                self._tell(ticket, Answered(task, Outcome(time.monotonic(), 0.0, 0)))
                continue
            seat = next((n for n, mark in enumerate(marks) if mark.ticket == ticket), None)
            mark = marks[seat] if seat is not None and marks[seat].state != IDLE else None
            if mark is not None and mark.state == RUNNING:
                assert seat is not None
                self._abandoned.add(seat)
            self._tell(ticket, Lost(task, mark, Death("SIGKILL", ours=True)))

    def close(self) -> None:
        """Let the threads go. Those that are left behind go by themselves, when they can."""
        _channels.discard(self)
        if self._inherited:
            return
        for _ in range(self._seated):
            self._orders.put(None)
        # What they needed for this run is in no budget of the next one.
        staying = self._seated - len(self._abandoned)
        deadline = time.monotonic() + _LEAVING
        while staying > 0 and (left := deadline - time.monotonic()) > 0:
            staying -= len(self._left.take(left))


_channels: weakref.WeakSet[_ThreadChannel] = weakref.WeakSet()
"""Those of the runs under way in this process."""

_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _disown_all() -> None:
    for channel in list(_channels):
        channel.disown()
    for pool in list(_pools):
        pool.disown()
    _channels.clear()
    _pools.clear()


forks.in_child(_disown_all)
