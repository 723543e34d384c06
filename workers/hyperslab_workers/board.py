"""A small shared file on which workers say what they are doing.

It answers three questions that no message can: how far a worker had come when it died and could
not say so any more, whether a run was called off, and whose turn it is to merge. A mark is one
store of an aligned 64-bit word into mapped memory: other processes see it whole, and it
survives the writer's death. So whatever has to be true together stands in one word.

::

    cells   one for each run that may be under way: called off? whose turn?
    rows    one for each worker: which task, how far, and the last tasks it has finished
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import NamedTuple

from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.fresh_file import write_fresh

__all__ = [
    "FAILED",
    "FINISHED",
    "IDLE",
    "RUNNING",
    "TORN",
    "WRITING",
    "Board",
    "Cell",
    "Mark",
    "Row",
]

IDLE, RUNNING, WRITING, FINISHED, FAILED, TORN = 0, 1, 2, 3, 4, 5
"""States of a row: nothing begun; computing a region; changing a file; done; ended before it
was done; ended while it was changing a file. The last three change nothing any more."""

_STATES = 8  # A position is region * _STATES + state.

_HEADER_WORDS, _CELL_WORDS = 8, 8
_CELLS = 0  # The header's first word is the number of cells.
_CALLED_OFF, _TURN = 0, 1

RING = 64
"""Finished tasks that a row remembers: more than a worker may leave unreported."""

_TICKET, _POSITION, _DONE, _PID, _COUNT = 0, 1, 2, 3, 4
_ROW_WORDS = 8 + RING  # Whole cache lines, so that workers do not write to each other's.


class Mark(NamedTuple):
    """What a row said at one moment."""

    ticket: int = 0
    """The task that was begun last, by its ticket; 0 for none."""

    state: int = IDLE
    """How it stands with that task."""

    region: int = 0
    """The region it has come to: every earlier one of the task is done."""

    finished: frozenset[int] = frozenset()
    """Tickets of the tasks that were finished last."""


class Row:
    """Where one worker says what it is doing."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    # The worker's side.

    def begin(self, ticket: int, region: int) -> None:
        """A task has begun, at that region."""
        words, at = self._words, self._at
        # In this order: whoever reads the new ticket must not find the old task's position.
        words[at + _POSITION] = IDLE
        words[at + _TICKET] = ticket
        words[at + _DONE] = 0
        words[at + _POSITION] = region * _STATES + RUNNING

    def at(self, region: int, done: int) -> None:
        """That region has begun; those before it, `done` in this task, are in their files."""
        words, at = self._words, self._at
        words[at + _POSITION] = region * _STATES + RUNNING
        words[at + _DONE] = done

    def writing(self, region: int) -> None:
        """That region's results are about to change a file."""
        self._words[self._at + _POSITION] = region * _STATES + WRITING

    def finish(self, region: int, done: int) -> None:
        """The task is done, up to `region`: all it was to change is changed."""
        words, at = self._words, self._at
        words[at + _POSITION] = region * _STATES + FINISHED
        words[at + _DONE] = done
        count = words[at + _COUNT]
        words[at + 8 + count % RING] = words[at + _TICKET]
        words[at + _COUNT] = count + 1

    def fail(self) -> None:
        """The task has ended before it was done, and changes nothing any more."""
        words, at = self._words, self._at
        region, state = divmod(words[at + _POSITION], _STATES)
        words[at + _POSITION] = region * _STATES + (TORN if state == WRITING else FAILED)

    def sign(self, pid: int) -> None:
        """The worker of this row is that process."""
        self._words[self._at + _PID] = pid

    # The coordinator's side.

    def mark(self) -> Mark:
        """What the row says now."""
        words, at = self._words, self._at
        region, state = divmod(words[at + _POSITION], _STATES)
        ring = words[at + 8 : at + 8 + RING].tolist()
        return Mark(words[at + _TICKET], state, region, frozenset(ring) - {0})

    @property
    def ticket(self) -> int:
        """The task that was begun last."""
        return self._words[self._at + _TICKET]

    @property
    def done(self) -> int:
        """Regions finished in the task that was begun last, for progress."""
        return self._words[self._at + _DONE]

    @property
    def pid(self) -> int:
        """Process number of the worker."""
        return self._words[self._at + _PID]

    def clear(self) -> None:
        """Make the row that of a worker which has not begun anything."""
        words, at = self._words, self._at
        for word in range(at, at + _ROW_WORDS):
            words[word] = 0


class Cell:
    """What concerns all tasks of one run."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    @property
    def called_off(self) -> bool:
        """Whether the run was called off: workers stop before their next region or write."""
        return self._words[self._at + _CALLED_OFF] != 0

    def call_off(self) -> None:
        """Call the run off."""
        self._words[self._at + _CALLED_OFF] = 1

    @property
    def turn(self) -> int:
        """The region whose turn it is to merge."""
        return self._words[self._at + _TURN]

    @turn.setter
    def turn(self, region: int) -> None:
        self._words[self._at + _TURN] = region

    def clear(self) -> None:
        """Make it ready for a new run."""
        self._words[self._at + _CALLED_OFF] = 0
        self._words[self._at + _TURN] = 0


class Board:
    """The mapped file, from either side; or memory of this process, where only it looks."""

    def __init__(self, path: str) -> None:
        fd = open_apart(path, os.O_RDWR)
        try:
            shared = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self.path = path
        self._divide(memoryview(shared))

    def _divide(self, memory: memoryview) -> None:
        # A memoryview of 64-bit words: a store or a load takes half the time of NumPy's.
        self._words = memory.cast("q")
        cells = self._words[_CELLS]
        first = _HEADER_WORDS + cells * _CELL_WORDS
        self.cells = tuple(
            Cell(self._words, _HEADER_WORDS + number * _CELL_WORDS) for number in range(cells)
        )
        self.rows = tuple(
            Row(self._words, at)
            for at in range(first, len(self._words) - _ROW_WORDS + 1, _ROW_WORDS)
        )

    def part(self) -> None:
        """From here on a copy of its own: what is noted on it is seen by nobody, nor is the file.

        For whoever must not say anything any more, or holds it without need: the map goes, and
        the descriptor that Python keeps with it.
        """
        self._words = memoryview(bytearray(self._words)).cast("q")
        for cell in self.cells:
            cell._words = self._words
        for row in self.rows:
            row._words = self._words

    @classmethod
    def create(cls, path: str, rows: int, cells: int = 1) -> Board:
        """A new board with every row idle."""
        write_fresh(path, _empty(rows, cells))
        return cls(path)

    @classmethod
    def private(cls, rows: int, cells: int = 1) -> Board:
        """A board for threads of this process, which no file shows."""
        board = cls.__new__(cls)
        board.path = ""
        board._divide(memoryview(bytearray(_empty(rows, cells))))
        return board


def _empty(rows: int, cells: int) -> bytes:
    words = _HEADER_WORDS + cells * _CELL_WORDS + rows * _ROW_WORDS
    return cells.to_bytes(8, sys.byteorder) + bytes(8 * (words - 1))
