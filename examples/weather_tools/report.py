"""What the weather example prints: costs, agreement, findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from weather_tools.measure import Cost, Measurement
from weather_tools.planet import Grid
from weather_tools.steps import BINS, COLDEST, PASSES, WARMEST

__all__ = ["Difference", "compare", "print_costs", "print_findings"]

_SLAB = 24

WORTHWHILE = 10**8
"""Bytes below which nobody needs several processes."""


def print_costs(measurements: dict[str, Measurement], size: int) -> None:
    """A table with every way of every step, and how much more it takes than hyperslab.

    Parameters
    ----------
    measurements : dict of str to Measurement
        By way; hyperslab's is the first.
    size : int
        Bytes of the record.
    """
    table = Table(title="Time and memory, each way in a fresh process", title_justify="left")
    table.add_column("step", max_width=24)
    table.add_column("way")
    for name in ("time", "throughput", "private", "resident", "× time", "× private"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("start and load", 0, [m.startup for m in measurements.values()])]
    for position, (name, passes) in enumerate(PASSES.items()):
        rows.append((name, passes, [m.steps[position] for m in measurements.values()]))
    rows.append(("whole program", sum(PASSES.values()), [m.whole for m in measurements.values()]))
    for name, passes, costs in rows:
        for way, cost in zip(measurements, costs, strict=True):
            first = way == next(iter(measurements))
            table.add_row(
                name if first else "",
                way,
                f"{cost.seconds:.2f} s" if cost.seconds >= 0.1 else f"{1e3 * cost.seconds:.1f} ms",
                f"{passes * size / cost.seconds / 1e9:.2f} GB/s" if passes else "",
                *(_megabytes(count) for count in (cost.private, cost.resident)),
                *(("", "") if first else _ratios(cost, costs[0])),
                style="bold" if first else None,
            )
        table.add_section()
    console = Console()
    if not console.is_terminal:
        console.width = 100
    print()
    console.print(table)
    print(
        "Private: memory the program allocated, the peak over all its processes together.\n"
        "Resident: with mapped file pages, which the system shares and takes back when it must.\n"
        "Throughput: the record and the new field, each counted once. ×: as many times hyperslab's."
    )
    if size < WORTHWHILE:
        print(
            "A record this small is for trying things out: starting workers and compiling take\n"
            "longer than the work, and NumPy alone is the faster way."
        )
    print()


def _ratios(cost: Cost, ours: Cost) -> tuple[str, str]:
    return _times(cost.seconds / ours.seconds), _times(cost.private / ours.private)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a result is from the one it is compared with."""

    way: str
    """What it is compared with."""

    name: str
    """The result."""

    largest: float
    """Largest absolute difference."""

    tolerance: float
    """Largest that rounding explains."""

    unit: str
    """Of both."""

    def show(self) -> bool:
        """Print it, and say whether it is within its tolerance."""
        fine = self.largest <= self.tolerance
        verdict = "agree" if fine else "DIFFER"
        bound = f"within {self.tolerance:.1g}" if self.tolerance else "exact"
        print(
            f"{self.name:<10} hyperslab and {self.way:<12} {verdict}: largest difference "
            f"{self.largest:.2g} {self.unit} ({bound})"
        )
        return fine


def compare(way: str, ours: Path, theirs: Path, hours: int) -> list[Difference]:
    """Hold every result against another way's.

    Counts must be equal. Means may differ by rounding: a float32 sum of n values that are
    added one after the other strays by about sqrt(n) of its last place, and hyperslab adds in
    float64. Eight times that is allowed.

    Parameters
    ----------
    way : str
        Name of the other way.
    ours, theirs : Path
        Directories of the results.
    hours : int
        How many values were averaged.
    """
    last_place = float(np.spacing(np.float32(WARMEST)))
    averaged = 8 * last_place * hours**0.5
    tolerances = {
        "mean": (averaged, "K"),
        "std": (averaged, "K"),
        "anomaly": (averaged + last_place, "K"),
        "smooth": (8 * last_place * 9**0.5, "K"),
        "hot_hours": (0.0, "h"),
        "histogram": (0.0, "values"),
    }
    return [
        Difference(way, name, _largest_difference(ours, theirs, name), tolerance, unit)
        for name, (tolerance, unit) in tolerances.items()
    ]


def _largest_difference(ours: Path, theirs: Path, name: str) -> float:
    a, b = (np.load(directory / f"{name}.npy", mmap_mode="r") for directory in (ours, theirs))
    if a.shape != b.shape:
        return float("inf")
    # A NaN in either is a difference, and np.max hands it on.
    slabs = (np.abs(a[s].astype(float) - b[s]).max() for s in _slabs(len(a)))
    largest = float(np.max(list(slabs)))
    return float("inf") if np.isnan(largest) else largest


def _slabs(length: int) -> Iterator[slice]:
    return (slice(first, first + _SLAB) for first in range(0, length, _SLAB))


def print_findings(results: Path, grid: Grid) -> None:
    """A few sentences on what the results say."""
    mean, std, hot, counts = (
        np.load(results / f"{name}.npy") for name in ("mean", "std", "hot_hours", "histogram")
    )
    # Grid cells shrink towards the poles.
    area = np.repeat(np.cos(np.deg2rad(grid.latitude))[:, None], grid.columns, axis=1)
    width = (WARMEST - COLDEST) / BINS
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    print(f"\nMean over the Earth's surface   {np.average(mean, weights=area) - 273.15:7.2f} °C")
    print(f"Warmest on average              {mean.max() - 273.15:7.2f} °C at {_place(mean, grid)}")
    print(f"Coldest on average              {mean.min() - 273.15:7.2f} °C at {_place(-mean, grid)}")
    print(f"Most variable                   {std.max():7.2f} K  at {_place(std, grid)}")
    print(f"Most hours above 30 °C          {hot.max():7d} h  at {_place(hot, grid)}")
    share = np.average(hot > 0, weights=area)
    print(f"Surface ever above 30 °C        {100 * share:7.2f} %")
    print(f"Half of all values are below    {COLDEST + (middle + 1) * width - 273.15:7.2f} °C")


def _place(field: np.ndarray, grid: Grid) -> str:
    """Where a field is largest."""
    row, column = np.unravel_index(np.argmax(field), field.shape)
    latitude, longitude = grid.latitude[row], grid.longitude[column]
    return (
        f"{abs(latitude):.1f}° {'N' if latitude >= 0 else 'S'}, "
        f"{abs(longitude):.1f}° {'E' if longitude >= 0 else 'W'}"
    )
