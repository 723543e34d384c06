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
        self._footprints = plan.has_footprints
        self._batch, self._regions, self._tasks = plan.batch, plan.regions, plan.tasks
        self._next = 0
        self._again: list[tuple[int, Task]] = []
        self._merges: list[Task] = []

    def take(self) -> Task | None:
        """The next task; None where none can be sent now."""
        if not self._merges:
            # What is merged frees slots, and is what the end of a run waits for.
            self._merges = [
                Task(self._program, self._tasks, 0, 0, out, (left, right))
                for left, right, out in self._merger.merges()
            ]
        if self._merges:
            return self._merges.pop()
        if self._again:
            return heapq.heappop(self._again)[1]
        if self._next >= self._tasks:
            return None
        slot = self._merger.slot()
        if slot is None:
            return None
        index = self._next
        self._next += 1
        start = index * self._batch
        stop = min(start + self._batch, self._regions)
        footprints = self._plan.task(index).footprints if self._footprints else ()
        return Task(self._program, index, start, stop, slot, None, self._through_map, footprints)

    def put_back(self, task: Task) -> None:
        """A task that could not be sent, or that is to be performed again."""
        if task.merge is not None:
            self._merges.append(task)
        else:
            heapq.heappush(self._again, (task.index, task))
