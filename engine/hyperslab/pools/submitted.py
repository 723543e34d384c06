"""Executors by ``submit()``: those of the user's, and this process itself.

Each task is one call of the executor, and each run has a board of its own: nothing is assumed of
an executor but that it calls what it is given, somewhere that the files can be reached.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import NoReturn

from hyperslab.errors import HyperslabError
from hyperslab.interruption import uninterrupted
from hyperslab.pools.death import Death, death_of_error
from hyperslab.pools.mailbox import Mailbox
from hyperslab.pools.protocol import Answered, Capabilities, Event, Line, Lost, Route
from hyperslab.underway import (
    goes_on_in_parent,
    wait_before_what_was_registered,
    when_called_off,
)
from hyperslab_workers import forks
from hyperslab_workers.board import IDLE, RUNNING, WRITING, Board
from hyperslab_workers.task import Outcome, Task
from hyperslab_workers.undo import undo_path

__all__ = ["ForeignPool", "SerialPool"]

_numbers = itertools.count()


class _SubmittedChannel:
    """A run's line to something that is called once for each task."""

    def __init__(
        self,
        directory: str,
        workers: int,
        capacity: int,
        submit: Callable[[Task, str, int, int], Future[Outcome]],
    ) -> None:
        self.workers = workers
        self.capacity = capacity
        path = f"{directory}/board-{os.getpid()}-{next(_numbers)}"
        self._board = Board.create(path, capacity)
        self._submit = submit
        self._free = list(range(capacity))
        self._tickets = itertools.count(1)
        self._flying: dict[Future[Outcome], tuple[Task, int, int]] = {}
        self._given: dict[int, tuple[Task, int]] = {}
        """Tasks and their rows by ticket, from before they are submitted until they are told."""
        self._told: list[Event] = []
        self._landed: Mailbox[Future[Outcome]] = Mailbox()
        self._broken: Death | None = None
        self._inherited = False
        _channels.add(self)

    def stop(self) -> None:
        """Have tasks end before their next region, and before their next write."""
        self._board.cells[0].call_off()

    def disown(self) -> None:
        """Leave the run to the process of which this one is a copy.

        In this one a signal handler may come back to it, and would do everything twice.
        """
        self._inherited = True
        self._board.part()
        self.stop()

    def accepts(self, task: Task) -> bool:
        """Whether there is room."""
        return bool(self._free)

    def send(self, tasks: list[Task]) -> None:
        """Submit tasks, in their order."""
        self._check_own()
        for task in tasks:
            row, ticket = self._free[-1], next(self._tickets)
            self._board.rows[row].clear()
            self._given[ticket] = (task, row)
            try:
                future = self._submit(task, self._board.path, row, ticket)
            except BrokenExecutor as error:
                # Told with the tasks that were under way; this one has not begun.
                future = Future()
                future.set_exception(error)
            except RuntimeError as error:
                self._refuse(error)
            self._flying[future] = (task, row, ticket)
            self._free.pop()
            future.add_done_callback(self._landed.put)

    def _check_own(self) -> None:
        if self._inherited:
            raise goes_on_in_parent()

    def _refuse(self, error: RuntimeError) -> NoReturn:
        """Stop a run whose executor was shut down, by the program or because Python ends."""
        raise HyperslabError(
            f"the executor takes no more tasks ({error}): keep it open until the jobs on it are "
            "over, and where the program may end before, run them in a thread that is no daemon"
        ) from error

    def receive(self, timeout: float) -> list[Event]:
        """What has happened; waits up to so many seconds for the first event."""
        self._check_own()
        self._collect(timeout)
        return list(self._told)

    def acknowledge(self) -> None:
        """All that was told has been noted."""
        self._told.clear()

    def _tell(self, future: Future[Outcome], row: int, event: Event) -> None:
        # In this order: Ctrl-C may come in between, and what is told twice is noted twice.
        self._told.append(event)
        if (known := self._flying.pop(future, None)) is not None:
            self._free.append(row)
            self._given.pop(known[2], None)

    def _collect(self, timeout: float) -> None:
        for future in self._landed.take(timeout):
            self._land(future)
        if self._broken is not None:
            self._lose(self._broken)

    def _land(self, future: Future[Outcome]) -> None:
        known = self._flying.get(future)
        if known is None:
            return
        task, row, _ = known
        try:
            outcome = future.result()
        except BrokenExecutor as error:
            # Dealt with once for all: what else is under way is lost as well.
            self._broken = death_of_error(error)
            return
        self._tell(future, row, Answered(task, outcome))

    def _lose(self, death: Death) -> None:
        for future, (task, row, ticket) in list(self._flying.items()):
            if future.done() and not future.cancelled() and future.exception() is None:
                self._land(future)
                continue
            mark = self._board.rows[row].mark()
            if ticket in mark.finished:
                self._tell(future, row, Answered(task, Outcome(time.monotonic(), 0.0, 0)))
            else:
                begun = mark.ticket == ticket and mark.state != IDLE
                undo = undo_path(self._board.path, row)
                self._tell(future, row, Lost(task, mark if begun else None, death, undo))

    def regions_done(self) -> int:
        """Regions finished in the tasks under way."""
        return sum(self._board.rows[row].done for _, row, _ in self._flying.values())

    def call_off(self, patience: float) -> list[Event]:
        """End what is under way.

        Futures are not cancelled: an executor's manager thread can die of a cancelled one, and a
        task called off returns at once anyway. Its workers are not ours to kill: after
        `patience` seconds only those are waited for that are writing.
        """
        self.stop()
        if self._inherited:
            return []
        deadline = time.monotonic() + patience
        # A second Ctrl-C means: no patience.
        with contextlib.suppress(KeyboardInterrupt):
            while self._busy(RUNNING, WRITING) and time.monotonic() < deadline:
                self._collect(0.002)
        while self._busy(WRITING):
            with contextlib.suppress(KeyboardInterrupt):
                self._collect(0.002)
        self._settle()
        return list(self._told)

    def _settle(self) -> None:
        """Tell of what is over, or was never begun, though Ctrl-C came before its future landed."""
        for future in [future for future in list(self._flying) if future.done()]:
            self._land(future)
        flying = {ticket for _, _, ticket in self._flying.values()}
        for ticket, (task, row) in list(self._given.items()):
            mark = self._board.rows[row].mark()
            if ticket in flying or (mark.ticket, mark.state) == (ticket, IDLE):
                continue
            # Ctrl-C came before its future was known. What has not begun by now never will.
            if ticket in mark.finished:
                self._told.append(Answered(task, Outcome(time.monotonic(), 0.0, 0)))
            elif mark.ticket == ticket:
                self._told.append(Lost(task, mark, Death("SIGKILL", ours=True)))
            self._given.pop(ticket, None)

    def _busy(self, *states: int) -> bool:
        """Whether a task is in one of these states.

        By the board and not by the futures alone: Ctrl-C may have come between the submission
        of a task and its entry in the table.
        """
        over = {row for future, (_, row, _) in self._flying.items() if future.done()}
        return any(
            row.mark().state in states
            for number, row in enumerate(self._board.rows)
            if number not in over
        )

    def close(self) -> None:
        """Remove the board."""
        _channels.discard(self)
        if self._inherited:
            return
        for row in range(len(self._board.rows)):
            with contextlib.suppress(OSError):
                os.unlink(undo_path(self._board.path, row))
        with contextlib.suppress(OSError):
            os.unlink(self._board.path)


_channels: weakref.WeakSet[_SubmittedChannel] = weakref.WeakSet()
"""Those of the runs under way in this process."""


def _stop_all() -> None:
    for channel in list(_channels):
        channel.stop()


def _disown_all() -> None:
    for channel in list(_channels):
        channel.disown()
    _channels.clear()


when_called_off(_stop_all)
forks.in_child(_disown_all)


class SerialPool:
    """This process and thread: for debugging, and for machines without process pools."""

    workers = 1
    capabilities = Capabilities(in_order=True, restartable=False, loses="nothing", ends=True)
    started = True
    route: Route = "serial"

    def __init__(self, session: Path) -> None:
        self.closed = False
        self.lock_roots: set[str | None] = set()
        self.directory = str(session)

    def start(self) -> None:
        """Nothing to start."""

    def open(self, line: Line) -> _SubmittedChannel:
        """A line for one run: one task at a time, performed when it is sent."""
        return _SubmittedChannel(self.directory, 1, 1, _call)

    def close(self) -> None:
        """Nothing to close."""


def _call(task: Task, board: str, row: int, ticket: int) -> Future[Outcome]:
    from hyperslab_workers.execute import execute

    future: Future[Outcome] = Future()
    future.set_result(execute(task, board, row, ticket))
    return future


def _check_is_alive(executor: Executor) -> None:
    """Refuse threads that a forked child has inherited without what runs in them."""
    threads = getattr(executor, "_threads", ()) if forks.is_forked() else ()
    if threads and not any(getattr(thread, "is_alive", bool)() for thread in threads):
        raise HyperslabError(
            "the threads of this executor are those of another process, of which this is a copy "
            "without them: make an executor here"
        )


def _is_of(executor: Executor, module: str, name: str) -> bool:
    """Whether it is of a kind of Python's own: imported then, and not to be imported for this."""
    known = sys.modules.get(f"concurrent.futures.{module}")
    return known is not None and isinstance(executor, getattr(known, name))


class ForeignPool:
    """An executor of the user's: used, never replaced, never shut down."""

    started = True
    route: Route = "executor"

    def __init__(self, executor: Executor, workers: int, session: Path) -> None:
        _check_is_alive(executor)
        self._executor = executor
        self.closed = False
        self.directory = str(session)
        self.lock_roots: set[str | None] = set()
        self.workers = int(getattr(executor, "_max_workers", None) or workers)
        # Of these it is known; of others it is not assumed.
        self._has_threads = _is_of(executor, "thread", "ThreadPoolExecutor")
        in_order = self._has_threads or _is_of(executor, "process", "ProcessPoolExecutor")
        self.capabilities = Capabilities(
            in_order=in_order, restartable=False, loses="all", ends=False
        )
        self._used = False

    def start(self) -> None:
        """It runs already."""

    def open(self, line: Line) -> _SubmittedChannel:
        """A line for one run: one task running and one waiting for each worker."""
        workers = min(line.workers, self.workers)
        if line.ordered and not self.capabilities.in_order:
            # A region waits for its turn while it occupies a worker. If later tasks may start
            # first, all workers could be waiting for one that has not started.
            capacity = workers = 1
        else:
            # With fewer than all, a task that waits could be running.
            capacity = 2 * workers if workers == self.workers else workers
        return _SubmittedChannel(self.directory, workers, capacity, self._submit)

    def _submit(self, task: Task, board: str, row: int, ticket: int) -> Future[Outcome]:
        future = self._submitted(task, board, row, ticket)
        if not self._used:
            # By now it has registered whatever ends it when the program does.
            self._used = True
            wait_before_what_was_registered()
        return future

    def _submitted(self, task: Task, board: str, row: int, ticket: int) -> Future[Outcome]:
        from hyperslab_workers.execute import execute

        if not self._has_threads:
            return self._executor.submit(execute, task, board, row, ticket)
        # Ctrl-C within its submit can leave a thread that it does not know of, for which the
        # program then waits at exit for ever.
        futures: list[Future[Outcome]] = []
        uninterrupted(
            lambda: futures.append(self._executor.submit(execute, task, board, row, ticket))
        )
        return futures[0]

    def close(self) -> None:
        """It is not ours to close."""
