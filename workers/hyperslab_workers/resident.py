"""A worker's life: it waits at a pipe for tokens, performs their tasks, and answers.

A token is a few bytes that name a task; reads and writes of so few bytes of a pipe are atomic,
so the pipe is the queue. Each worker has a pipe of its own: what stands in it when the worker
dies has not begun, and the coordinator can take it back at any time. Answers go up the pipe of
the run. Nothing larger than an atomic write crosses a pipe: a worker that is killed in
mid-answer leaves either the whole of it or nothing, and nobody waits for the rest.

Rejected: one pipe for all workers, from which whoever is free takes the next token. A worker
that dies between taking a token and marking it on the board would leave it unknown who had it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import struct
import time
from collections.abc import Iterator

from hyperslab_workers.board import Board
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.execute import idle, perform
from hyperslab_workers.owned import read_own
from hyperslab_workers.task import Outcome, Task, write_aside
from hyperslab_workers.undo import undo_path

__all__ = [
    "ANSWER",
    "ASIDE",
    "NO_SLOT",
    "THROUGH_MAP",
    "TOKEN",
    "TOKENS_AT_ONCE",
    "answers_path",
    "aside_path",
    "board_path",
    "program_path",
    "remove_aside",
    "reside",
    "tokens_path",
]

TOKEN = struct.Struct("<QQQIIiiiHH")
"""Ticket, first region, last region, program, index, slot, the two slots of a merge, channel,
flags: 48 bytes."""

ANSWER = struct.Struct("<QddIi")
"""Ticket, started, seconds, process, 1 where a failure lies aside: 32 bytes."""

NO_SLOT = -1

THROUGH_MAP, ASIDE = 1, 2
"""Flags of a token: store through the map; the task itself lies in a file."""

TOKENS_AT_ONCE = select.PIPE_BUF // TOKEN.size
"""Tokens up to which one write is atomic."""

_UNREPORTED = 48
"""Answers a worker holds back at most; its row on the board remembers more."""

_SOON = 0.001
"""Seconds for which an answer may be held back while there is more to do. Each answer wakes
the coordinator, which takes a processor away from the workers to learn what it need not know
yet."""

_AWAKE = 0.0001
"""Seconds that a worker without work stays awake: about what the coordinator needs between the
last answer of one run and the first token of the next."""


def board_path(directory: str) -> str:
    """The board of a pool."""
    return f"{directory}/board"


def tokens_path(directory: str, worker: int) -> str:
    """The pipe down to a worker."""
    return f"{directory}/tokens-{worker}"


def answers_path(directory: str, channel: int) -> str:
    """The pipe up to a run."""
    return f"{directory}/answers-{channel}"


def program_path(directory: str, number: int) -> str:
    """What all tasks of a plan have in common."""
    return f"{directory}/program-{number}"


def aside_path(directory: str, ticket: int, what: str) -> str:
    """What is too large for a pipe: a "task" or a "failure"."""
    return f"{directory}/{what}-{ticket}"


def reside(directory: str, number: int) -> None:
    """Be worker `number` of a pool, until the process is killed."""
    board = Board(board_path(directory))
    row = board.rows[number]
    row.sign(os.getpid())
    undo = undo_path(board.path, os.getpid())
    answers = _Answers(directory)
    for ticket, channel, task in _tokens(directory, number, answers):
        outcome = perform(task, row, board.cells[channel], ticket, undo)
        answers.add(channel, ticket, outcome)


def _tokens(directory: str, number: int, answers: _Answers) -> Iterator[tuple[int, int, Task]]:
    """The tasks in the worker's pipe; before it waits for more, everything is answered."""
    # For reading and writing, so that it is never at its end.
    pipe = open_apart(tokens_path(directory, number), os.O_RDWR | os.O_NONBLOCK)
    more = select.poll()
    more.register(pipe, select.POLLIN)
    while True:
        try:
            token = os.read(pipe, TOKEN.size)
        except BlockingIOError:
            # In this order: with the last answer the next run begins, and its budget does not
            # count what was needed for this one.
            idle()
            answers.flush()
            _await(more)
            continue
        answers.flush_if_due()
        ticket, start, stop, program, index, slot, left, right, channel, flags = TOKEN.unpack(token)
        if flags & ASIDE:
            aside = aside_path(directory, ticket, "task")
            task = pickle.loads(read_own(aside))
            os.unlink(aside)
        else:
            merge = None if left == NO_SLOT else (left, right)
            path = program_path(directory, program)
            task = Task(path, index, start, stop, slot, merge, bool(flags & THROUGH_MAP))
        yield ticket, channel, task


def _await(more: select.poll) -> None:
    """Wait for a token, the first moment without sleeping.

    Where short runs follow each other the next token comes sooner than a processor that sleeps
    would wake up. Whoever else wants the processor meanwhile gets it.
    """
    asleep_at = time.monotonic() + _AWAKE
    while not more.poll(0):
        if time.monotonic() > asleep_at:
            more.poll()
            return
        os.sched_yield()


class _Answers:
    """Answers on their way up, held back for a moment while there is more to do."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._pipes: dict[int, int] = {}
        self._channel = 0
        self._held: list[bytes] = []
        self._since = 0.0
        self._due = False

    def add(self, channel: int, ticket: int, outcome: Outcome) -> None:
        """Take an answer, which goes with the next flush."""
        failed = outcome.failure is not None
        if failed:
            write_aside(outcome.failure, aside_path(self._directory, ticket, "failure"))
        if channel != self._channel:
            self.flush()
            self._channel = channel
        now = outcome.started + outcome.seconds
        if not self._held:
            self._since = now
        self._held.append(
            ANSWER.pack(ticket, outcome.started, outcome.seconds, outcome.pid, failed)
        )
        self._due = failed or now - self._since > _SOON or len(self._held) >= _UNREPORTED

    def flush_if_due(self) -> None:
        """A failure is told at once, with what is held back before it; the rest after a moment."""
        if self._due:
            self.flush()

    def flush(self) -> None:
        """Write what is held back, in one piece."""
        if not self._held:
            return
        pipe = self._pipes.get(self._channel)
        if pipe is None:
            path = answers_path(self._directory, self._channel)
            pipe = self._pipes[self._channel] = open_apart(path, os.O_RDWR)
        os.write(pipe, b"".join(self._held))
        self._held.clear()
        self._due = False


def remove_aside(directory: str, ticket: int) -> None:
    """Remove what may lie aside of a task that nobody will perform any more."""
    for what in ("task", "failure"):
        with contextlib.suppress(OSError):
            os.unlink(aside_path(directory, ticket, what))
