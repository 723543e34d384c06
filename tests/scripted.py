"""A pool without processes, whose workers die where a script says.

Workers are rows of a real board, and tasks are performed by the workers' own code, one at a time,
in whatever thread waits for an event. A step is a mark on the board or a write to a file, and a
death comes before a step, in the middle of a write, or after it: what the worker would have done
next is not done, and nothing else of it is either, as when a process is killed.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from hyperslab.pools.death import Death
from hyperslab.pools.protocol import Answered, Capabilities, Event, Line, Lost
from hyperslab_workers import mapping
from hyperslab_workers.board import IDLE, Board, Cell, Row
from hyperslab_workers.execute import perform
from hyperslab_workers.task import Task
from hyperslab_workers.undo import Undo

STEPS = ("begin", "at", "writing", "finish", "fail")


class Died(BaseException):
    """The end of a worker: nothing catches it but the pool."""


class Script:
    """Counts the steps of all workers, and ends the one that comes to a step named here."""

    def __init__(self, *deaths: int) -> None:
        self._deaths = set(deaths)
        self.steps = 0
        self.died = 0

    def step(self, action: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Take an action: one step before it, one in its middle, one after."""
        self._pass()
        if half is not None:
            self._pass(half)
        result = action()
        self._pass()
        return result

    def _pass(self, last: Callable[[], Any] | None = None) -> None:
        self.steps += 1
        if self.steps in self._deaths:
            self.died += 1
            if last is not None:
                last()
            raise Died

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have writes to files count as steps, and be cut in half."""
        write, worker = mapping.write_back, threading.get_ident()

        def write_back(ref, box, values) -> None:
            if threading.get_ident() != worker:
                write(ref, box, values)  # A coordinator's, at the end of another run.
                return

            def half() -> None:
                torn = np.array(mapping.view(ref, box))
                flat = torn.reshape(-1)
                count = flat.size // 2
                flat[:count] = np.ascontiguousarray(values).reshape(-1)[:count]
                write(ref, box, flat.reshape(torn.shape))

            self.step(lambda: write(ref, box, values), half)

        keep = Undo.keep

        def kept(undo, program, ticket, region) -> None:
            def half() -> None:
                keep(undo, program, ticket, region)
                undo._bytes[16:24] = 0  # What follows is not whole yet,
                undo._bytes[len(undo._bytes) // 2 :] = 99  # nor right.

            self.step(lambda: keep(undo, program, ticket, region), half)

        # The coordinator's own writes, at the end, are not a worker's.
        with (
            patch("hyperslab_workers.bindings.mapping.write_back", write_back),
            patch("hyperslab_workers.execute.Undo.keep", kept),
        ):
            yield


class ScriptedRow:
    """A row whose marks are steps."""

    def __init__(self, row: Row, script: Script) -> None:
        self._row = row
        self._script = script

    def __getattr__(self, name: str) -> Any:
        mark = getattr(self._row, name)
        if name not in STEPS:
            return mark
        return lambda *arguments: self._script.step(lambda: mark(*arguments))


class ScriptedPool:
    """Workers that are rows of a board, performing tasks when somebody waits for them."""

    def __init__(self, directory: Path, script: Script, workers: int = 2) -> None:
        self.workers = workers
        self.capabilities = Capabilities(in_order=True, restartable=True, loses="one", ends=True)
        self.route = "processes"
        self.directory = str(directory)
        self.lock_roots: set[str | None] = set()
        self.script = script
        self.lock = threading.RLock()
        self.board = Board.create(str(directory / "scripted-board"), workers, 8)
        self.queues: list[deque] = [deque() for _ in range(workers)]
        self.performed: list[tuple[Task, bool]] = []
        self.tickets = itertools.count(1)
        self._channels = itertools.count()
        self._turn = itertools.count()

    def start(self) -> None:
        """Nothing to start."""

    def open(self, line: Line) -> ScriptedChannel:
        return ScriptedChannel(self, line, self.board.cells[next(self._channels)])

    def close(self) -> None:
        """Nothing to close."""

    def pump(self) -> None:
        """Have one worker perform its next task, whosever it is."""
        with self.lock:
            for _ in range(self.workers):
                number = next(self._turn) % self.workers
                if self.queues[number]:
                    break
            else:
                return
            channel, ticket, task = self.queues[number].popleft()
            row = self.board.rows[number]
            try:
                with self.script.in_force():
                    marks, undo = ScriptedRow(row, self.script), self._undo(number)
                    outcome = perform(task, marks, channel.cell, ticket, undo)
            except Died:
                self._die(number, channel, ticket, task)
                return
            self.performed.append((task, True))
            channel.events.append(Answered(task, outcome))

    def _undo(self, number: int) -> str:
        return f"{self.directory}/scripted-undo-{number}"

    def _die(self, number: int, channel: ScriptedChannel, ticket: int, task: Task) -> None:
        mark, death = self.board.rows[number].mark(), Death("SIGKILL")
        self.performed.append((task, False))
        if ticket in mark.finished:
            # Its last step was that it had finished: only the answer is lost.
            from hyperslab_workers.task import Outcome

            channel.events.append(Answered(task, Outcome(0.0, 0.0, 0)))
        else:
            begun = mark.ticket == ticket and mark.state != IDLE
            undo = self._undo(number) if begun else None
            channel.events.append(Lost(task, mark if begun else None, death, undo))
        for other, _, waiting in self.queues[number]:
            other.events.append(Lost(waiting, None, death))
        self.queues[number].clear()
        self.board.rows[number].clear()


class ScriptedChannel:
    """One run's line to it."""

    def __init__(self, pool: ScriptedPool, line: Line, cell: Cell) -> None:
        self.workers = min(line.workers, pool.workers)
        self.capacity = 2 * self.workers
        self.cell = cell
        self.events: deque[Event] = deque()
        self._pool = pool
        self._line = line
        self._sent = itertools.count()
        cell.clear()

    def accepts(self, task: Task) -> bool:
        # A task that waits for its turn is only performed when its turn has come.
        return all(not queue for queue in self._pool.queues) and not self.events

    def send(self, tasks: list[Task]) -> None:
        with self._pool.lock:
            for task in tasks:
                number = 0 if self._line.ordered else next(self._sent) % self.workers
                self._pool.queues[number].append((self, next(self._pool.tickets), task))

    def receive(self, timeout: float) -> list[Event]:
        if not self.events:
            self._pool.pump()
        with self._pool.lock:
            events, self.events = list(self.events), deque()
        return events

    def acknowledge(self) -> None:
        """Nothing is told twice."""

    def regions_done(self) -> int:
        return 0

    def call_off(self, patience: float) -> list[Event]:
        # A neighbour in the middle of a task may end it before it sees that it is called off.
        self._pool.pump()
        self.cell.call_off()
        with self._pool.lock:
            for queue in self._pool.queues:
                for entry in [entry for entry in queue if entry[0] is self]:
                    queue.remove(entry)
            events, self.events = list(self.events), deque()
        return events

    def close(self) -> None:
        """Nothing to give back."""
