"""What was promised, held against what was measured."""

from __future__ import annotations

import statistics
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
    warm: dict[str, dict[str, Times]],
    programs: dict[str, dict[str, Times]],
    alone: dict[str, float],
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
    for size, times in programs.items():
        own = times["hyperslab"]
        large = size != "1 MB"
        if large:
            ratio = ratios(own, times["NumPy"]).median
            yield Target(f"whole script, {size}, against NumPy's", "×", 1 / 0.9, ratio)
        else:
            more = statistics.median(
                mine - his for mine, his in zip(own.seconds, times["NumPy"].seconds, strict=True)
            )
            yield Target(f"whole script, {size}, over NumPy's", "ms", 60, 1e3 * more)
        ratio = ratios(own, times["numba prange, cache=True"]).median
        yield Target(f"whole script, {size}, against prange with cache=True", "×", 1, ratio)
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
