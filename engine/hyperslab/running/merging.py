"""Merges the tasks' private accumulations, in task order, and brings the sum into the file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hyperslab.planning.plan import Plan
from hyperslab.running.interruption import uninterrupted
from hyperslab.settings import Settings
from hyperslab_workers import mapping
from hyperslab_workers.access import Access, Placement
from hyperslab_workers.box import Box
from hyperslab_workers.reduction import OPERATIONS
from hyperslab_workers.task import Outcome, Partial

__all__ = ["Merger"]


class Merger:
    """Folds partials in the order of their tasks, whatever order they arrive in.

    The file is touched once, at the end: until then a job can fail, or its tasks run again,
    without anything having been added twice.
    """

    def __init__(self, plan: Plan) -> None:
        self._accesses: dict[int, Access] = {
            position: argument
            for position, argument in enumerate(plan.arguments)
            if isinstance(argument, Access) and argument.placement is Placement.PRIVATE
        }
        self._totals: dict[int, np.ndarray] = {}
        self._waiting: dict[int, tuple[Partial, ...]] = {}
        self._next = 0
        self.committed = False

    @property
    def expects_partials(self) -> bool:
        """Whether tasks bring anything to merge."""
        return bool(self._accesses)

    @property
    def frontier(self) -> int:
        """The first task not merged yet; beyond every task where there is nothing to merge."""
        return self._next if self._accesses else sys.maxsize // 2

    def add(self, outcome: Outcome) -> None:
        """Take an outcome, and merge as far as the order allows."""
        if not self._accesses:
            return
        self._waiting[outcome.index] = outcome.partials
        while self._next in self._waiting:
            for partial in self._waiting.pop(self._next):
                self._merge(partial)
            self._next += 1

    def _merge(self, partial: Partial) -> None:
        access = self._accesses[partial.argument]
        dtype, shape = access.array.dtype, access.array.shape
        if partial.data is not None:
            values = np.frombuffer(partial.data, dtype).reshape(shape)
        else:
            assert partial.path is not None
            values = np.fromfile(partial.path, dtype).reshape(shape)
            Path(partial.path).unlink()
        total = self._totals.get(partial.argument)
        if total is None:
            self._totals[partial.argument] = values.copy() if partial.data is not None else values
        else:
            assert access.op is not None
            OPERATIONS[access.op](total, values, out=total)

    def commit(self, settings: Settings) -> None:
        """Combine the totals with what the files hold.

        Raises
        ------
        LockTimeout, ArrayFileError
            A lock was not free in time, or a file is not what it was: no file was changed. Or a
            write failed.
        """
        from hyperslab_workers.locks import Guard, hold_all, lock_for

        arrays = [self._accesses[position].array for position in self._totals]
        # All locks in one call, and all files looked at before the first is changed: one that is
        # held or replaced must not leave another with its total already in it.
        guards = [
            Guard(lock_for(array, settings.lock_dir), array.extent(), True)
            for array in arrays
            if array.shared
        ]
        for array in arrays:
            mapping.verify(array)
        with hold_all(guards, settings.lock_timeout):
            for position, total in self._totals.items():
                access = self._accesses[position]
                held = mapping.view(access.array)
                assert access.op is not None
                OPERATIONS[access.op](held, total, out=total)
            # Ctrl-C between two writes would leave one total in its file and not the other.
            uninterrupted(self._write)

    def _write(self) -> None:
        for position, total in self._totals.items():
            array = self._accesses[position].array
            mapping.write_back(array, Box.of_shape(array.shape), total)
        self.committed = True
        self._totals.clear()
