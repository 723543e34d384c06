"""Merges the tasks' private accumulations, in task order, and brings the sum into the file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hyperslab.planning.plan import Plan
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
        """Combine the totals with what the files hold."""
        from hyperslab_workers.locks import Guard, hold_all, lock_for

        for position, total in self._totals.items():
            access = self._accesses[position]
            mapping.verify(access.array)
            guards = (
                [Guard(lock_for(access.array, settings.lock_dir), access.array.extent(), True)]
                if access.array.shared
                else []
            )
            with hold_all(guards, settings.lock_timeout):
                held = mapping.view(access.array)
                assert access.op is not None
                OPERATIONS[access.op](held, total, out=total)
                mapping.write_back(access.array, Box.of_shape(access.array.shape), total)
        self._totals.clear()
