"""Which task goes next: lowest first, and never further ahead than there is room for."""

from __future__ import annotations

import heapq

from hyperslab.planning.plan import Plan
from hyperslab.running.merging import Merger
from hyperslab_workers.task import Task

__all__ = ["Window"]


class Window:
    """The tasks of a run that are still to be sent."""

    def __init__(self, plan: Plan, program: str, merger: Merger, *, through_map: bool) -> None:
        self._plan = plan
        self._program = program
        self._merger = merger
        self._through_map = through_map
        self._next = 0
        self._again: list[tuple[int, Task]] = []
        self._merges: list[Task] = []

    def take(self) -> Task | None:
        """The next task; None where none can be sent now."""
        if not self._merges:
            # What is merged frees slots, and is what the end of a run waits for.
            self._merges = [
                Task(self._program, self._plan.tasks, 0, 0, out, (left, right))
                for left, right, out in self._merger.merges()
            ]
        if self._merges:
            return self._merges.pop()
        if self._again:
            return heapq.heappop(self._again)[1]
        if self._next >= self._plan.tasks:
            return None
        slot = self._merger.slot()
        if slot is None:
            return None
        part = self._plan.task(self._next)
        self._next += 1
        return Task(
            *(self._program, part.index, part.start, part.stop, slot, None),
            *(self._through_map, part.footprints),
        )

    def put_back(self, task: Task) -> None:
        """A task that could not be sent, or that is to be performed again."""
        if task.merge is not None:
            self._merges.append(task)
        else:
            heapq.heappush(self._again, (task.index, task))
