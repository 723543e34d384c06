"""A small shared file on which workers say what they are doing.

It answers three questions that no message can: which tasks had begun when a worker died and
could not say so any more, whether a job was called off, and whose turn it is to merge.
Writing a mark is a store into mapped memory, about 0.1 µs; stores of aligned 64-bit words
are seen whole by other processes and survive the writer's death.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

__all__ = ["FAILED", "FINISHED", "IDLE", "RUNNING", "WRITING", "Board"]

IDLE, RUNNING, WRITING, FINISHED, FAILED = 0, 1, 2, 3, 4
"""States of a slot: task not begun; computing; changing a file; done; ended before it was done."""

_TURN, _ABORT = 0, 1
_HEADER = 8
_STATE, _REGION, _PID, _DONE = 0, 1, 2, 3
_FIELDS = 8  # one cache line a slot, so that workers do not write to each other's line


class Board:
    """The mapped file, from either side."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self.path = path
        words = np.frombuffer(self._map, dtype=np.int64)
        self._header = words[:_HEADER]
        self._slots = words[_HEADER:].reshape(-1, _FIELDS)

    @classmethod
    def create(cls, path: str, slots: int) -> Board:
        """A new board with every slot idle."""
        with open(path, "xb") as file:
            file.write(bytes(8 * (_HEADER + slots * _FIELDS)))
        return cls(path)

    # The worker's side.

    def begin(self, slot: int, start: int, pid: int) -> None:
        """A task has begun in `slot`."""
        row = self._slots[slot]
        row[_PID], row[_REGION], row[_DONE] = pid, start, 0
        row[_STATE] = RUNNING

    def region(self, slot: int, region: int, done: int) -> None:
        """`region` has begun; `done` regions of the task are finished."""
        row = self._slots[slot]
        row[_REGION], row[_DONE] = region, done
        row[_STATE] = RUNNING

    def writing(self, slot: int) -> None:
        """The region's results are about to change a file."""
        self._slots[slot, _STATE] = WRITING

    def finish(self, slot: int, done: int) -> None:
        """The task is over."""
        row = self._slots[slot]
        row[_DONE] = done
        row[_STATE] = FINISHED

    def fail(self, slot: int) -> None:
        """The task has ended, called off or failed, and changes nothing any more."""
        self._slots[slot, _STATE] = FAILED

    @property
    def turn(self) -> int:
        """The region whose turn it is to merge."""
        return int(self._header[_TURN])

    @turn.setter
    def turn(self, region: int) -> None:
        self._header[_TURN] = region

    @property
    def aborted(self) -> bool:
        """Whether the job was called off."""
        return bool(self._header[_ABORT])

    # The coordinator's side.

    def abort(self) -> None:
        """Call the job off: workers stop before their next region."""
        self._header[_ABORT] = 1

    def clear(self, slot: int) -> None:
        """Make `slot` ready for a task that has not begun."""
        self._slots[slot] = 0

    def state(self, slot: int) -> tuple[int, int, int]:
        """State, current region, and number of finished regions of `slot`."""
        row = self._slots[slot]
        return int(row[_STATE]), int(row[_REGION]), int(row[_DONE])

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self._slots)

    def worker(self, slot: int) -> int:
        """Process number of who began the task in `slot`, 0 before."""
        return int(self._slots[slot, _PID])

    def regions_done(self) -> int:
        """Finished regions of all tasks now running, for progress."""
        return int(self._slots[:, _DONE].sum())
