"""How far a run has come, region by region: the one place that knows what to say of it."""

from __future__ import annotations

import bisect
from typing import Literal

from hyperslab.errors import RegionSpan
from hyperslab.planning.plan import Plan

__all__ = ["Standing"]

_NAMED = 4
"""Spans that a message names; the error holds them all."""


class Standing:
    """Which regions are done and which are in doubt; all others are untouched."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._done: list[tuple[int, int]] = []
        self._doubtful: set[int] = set()
        self._unsure = False
        self.totals: Literal["none", "waiting", "in doubt", "done"] = (
            "waiting" if plan.bytes_accumulated else "none"
        )
        """What became of that which is accumulated in private and merged at the end."""

    def done(self, start: int, stop: int) -> None:
        """All that regions ``[start, stop)`` change in a task is changed."""
        if start >= stop:
            return
        self._doubtful -= {region for region in self._doubtful if start <= region < stop}
        spans = self._done
        # Tasks end in about their order: nearly always this touches the last span only.
        first = bisect.bisect_left(spans, (start, start))
        if first and spans[first - 1][1] >= start:
            first -= 1
        last = first
        while last < len(spans) and spans[last][0] <= stop:
            start, stop = min(start, spans[last][0]), max(stop, spans[last][1])
            last += 1
        spans[first:last] = [(start, stop)]

    def in_doubt(self, start: int, stop: int) -> None:
        """Regions ``[start, stop)`` may be changed in part, until they are done.

        They may have been done already: what accumulates is repeated from the task's start.
        """
        if start >= stop:
            return
        kept: list[tuple[int, int]] = []
        for first, last in self._done:
            parts = ((first, min(last, start)), (max(first, stop), last))
            kept += [part for part in parts if part[0] < part[1]]
        self._done = kept
        self._doubtful.update(range(start, stop))

    def nothing_is_sure(self) -> None:
        """A file is not what it was: every region may have lost what it had."""
        self._done, self._doubtful, self._unsure = [], set(), True

    @property
    def regions_done(self) -> int:
        """Number of regions done."""
        return sum(stop - start for start, stop in self._done)

    def spans(self) -> tuple[RegionSpan, ...]:
        """Every region, as spans of one state."""
        if self._unsure:
            return (self._span("in doubt", 0, self._plan.regions),)
        marked = sorted(
            [(region, region + 1, "in doubt") for region in self._doubtful]
            + [(start, stop, "done") for start, stop in self._done]
        )
        found: list[RegionSpan] = []
        at = 0
        for start, stop, state in marked:
            if at < start:
                found.append(self._span("untouched", at, start))
            if found and found[-1].state == state and found[-1].stop == start:
                start = found.pop().start
            found.append(self._span(state, start, stop))
            at = stop
        if at < self._plan.regions:
            found.append(self._span("untouched", at, self._plan.regions))
        return tuple(found)

    def _span(self, state: str, start: int, stop: int) -> RegionSpan:
        grid = self._plan.grid
        first, last = grid.box(start).slices, grid.box(stop - 1).slices
        return RegionSpan(state, start, stop, first, last)  # type: ignore[arg-type]

    def words(self) -> str:
        """What is in the files now, and whether the run can simply be started again."""
        plan = self._plan
        if self.totals == "done" and self.regions_done == plan.regions and not self._unsure:
            return "everything was in its file: do not run it again"
        totals = {
            "none": "",
            "waiting": "what it accumulates was not added to any file",
            "in doubt": "what it accumulates may be in its file or not, or in one of several",
            "done": "what it accumulates is in its file",
        }[self.totals]
        if not any(access.changes for access in plan.accesses):
            return totals or "no file was changed"
        done = self.regions_done
        said = [totals] if totals else []
        if plan.repeatable and self.totals in ("none", "waiting"):
            said.append("it can be run again")
        elif done or self._doubtful or self._unsure:
            finished = [s for s in self.spans() if s.state == "done"]
            words = f": {_named(finished)}" if 0 < done < plan.regions else ""
            said.insert(0, f"{done:,} of {plan.regions:,} regions are done{words}")
            if self._doubtful or self._unsure:
                doubtful = [s for s in self.spans() if s.state == "in doubt"]
                said.append(f"{_named(doubtful)} may be changed in part")
            said.append(
                "running it again on the same files would change those twice: error.regions says "
                "which are done, untouched or in doubt"
            )
        else:
            said.append("no file was changed")
        return "; ".join(said)


def _named(spans: list[RegionSpan]) -> str:
    more = f" and {len(spans) - _NAMED} more spans" if len(spans) > _NAMED else ""
    return ", ".join(map(str, spans[:_NAMED])) + more
