"""What was promised, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from measure import Times, ratios

__all__ = ["Target", "targets"]

WRITING = ("elementwise", "laplacian")
READING = {"sum": 0.95, "rmse": 0.95, "histogram": 0.95, "mean": 0.9, "std": 0.8}
"""With the least ratio to numba prange that holds its maps."""

REGION = {"reading": 8, "writing": 15}
"""Microseconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise."""

    what: str
    """What was promised."""

    unit: str
    """"×" where larger is better, else a unit of time, where smaller is."""

    limit: float
    """The least ratio, or the most time."""

    measured: float
    """What was measured, in the same unit."""

    @property
    def reached(self) -> bool:
        """Whether it holds."""
        return self.measured >= self.limit if self.unit == "×" else self.measured <= self.limit


def targets(
    warm: dict[str, dict[str, Times]], programs: dict[str, Times], alone: dict[str, float]
) -> Iterator[Target]:
    """All promises for which there are figures."""
    for workload, times in warm.items():
        comparisons = [("hyperslab", "dask", 3.0)]
        if workload in WRITING:
            comparisons.append(("hyperslab", "prange", 1.0))
        elif workload in READING:
            # Whoever opens a file pays for mapping its pages; whoever has them mapped does not.
            comparisons.append(("hyperslab-fresh", "prange", 0.7))
            comparisons.append(("hyperslab", "prange-held", READING[workload]))
        else:
            continue
        for own, other, least in comparisons:
            if own in times and other in times:
                how = {
                    "prange": " that maps the file anew",
                    "prange-held": " that holds its maps",
                }.get(other, "")
                mine = " by workers that never saw the file" if own == "hyperslab-fresh" else ""
                name = "numba prange" if other.startswith("prange") else other
                if workload in WRITING:
                    how = ""
                yield Target(
                    f"{workload}{mine}, against {name}{how}",
                    "×",
                    least,
                    ratios(times[own], times[other]).median,
                )
    if programs:
        yield Target("whole script with a kernel", "s", 1.3, programs["hyperslab"].median)
    if alone:
        yield Target("launch of a job", "ms", 0.5, alone["launch"] * 1e3)
        yield Target("launch of a plan that is run again", "ms", 0.1, alone["launch_planned"] * 1e3)
        for name, most in REGION.items():
            yield Target(
                f"one of 10,000 regions of 64 KiB, {name}",
                "µs",
                most,
                alone[f"region_{name}"] * 1e6,
            )
        yield Target("planning at 10 TB", "ms", 50, alone["planning"] * 1e3)
