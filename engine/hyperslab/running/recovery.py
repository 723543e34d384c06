"""What to do about a task whose worker died: from what the board says to a verdict. Pure.

::

    not begun ────────────────────────────────► again, from its start
    begun, and its regions can be repeated ───► again, from the region it had come to
        … and what it accumulated is lost ────► again, from its start
    begun, and they cannot:
        computing ────────────────────────────► again, from that region: nothing of it is written
        writing ──────────────────────────────► that region is in doubt
    finished, only the answer was lost ───────► done
"""

from __future__ import annotations

from typing import NamedTuple

from hyperslab.planning.plan import Plan
from hyperslab_workers.board import FAILED, FINISHED, RUNNING, TORN, WRITING, Mark
from hyperslab_workers.task import Task

__all__ = ["Verdict", "verdict"]


class Verdict(NamedTuple):
    """What became of a lost task, and what is to be done about it."""

    done: tuple[int, int]
    """Regions ``[start, stop)`` of the task whose changes are in their files, for good."""

    again: int | None
    """The region from which it is to be sent again; None where that is not to be."""

    torn: tuple[int, int] = (0, 0)
    """Regions that may be changed in part, or whose contribution was lost."""

    @property
    def repaired(self) -> bool:
        """Whether sending it again, or nothing, makes up for what was lost."""
        return self.again is not None or self.torn == (0, 0)


def verdict(task: Task, mark: Mark | None, plan: Plan) -> Verdict:
    """What to do about a task that was lost when the board said `mark` of it."""
    start = task.start
    if mark is None or task.merge is not None:
        # A merge goes from two slots to a third: it can be repeated whatever became of it.
        return Verdict((start, start), start)
    if mark.state == FINISHED:
        return Verdict((start, task.stop), None)
    region = mark.region
    # Through the map the kernel itself changes the file, also one that has just raised.
    stored = task.through_map and mark.state in (RUNNING, FAILED)
    torn = stored or mark.state in (WRITING, TORN)
    half = (region, region + 1) if torn else (0, 0)
    if plan.repeatable:
        return Verdict((start, region), start if plan.bytes_accumulated else region, half)
    if plan.bytes_accumulated and region > start:
        # Regions before this one are in the files, and what they contributed is lost.
        return Verdict((start, start), None, (start, region + torn))
    return Verdict((start, region), None if torn else region, half)
