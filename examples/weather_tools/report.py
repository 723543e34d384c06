"""What the weather example prints: costs, agreement, findings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from weather_tools.measure import Cost, Measurement, median_cost, median_of
from weather_tools.planet import Grid
from weather_tools.rounds import Round
from weather_tools.steps import BINS, COLDEST, PASSES, WARMEST

__all__ = ["Difference", "compare", "print_costs", "print_differences", "print_findings"]

_SLAB = 24


def print_costs(rounds: Sequence[Round], first_run: Measurement, size: int) -> None:
    """A table with every way of every step, and how much more it takes than hyperslab.

    Parameters
    ----------
    rounds : sequence of Round
        What was measured; hyperslab is the first of the first.
    first_run : Measurement
        hyperslab when nothing was compiled yet.
    size : int
        Bytes of the record.
    """
    ways = list(rounds[0])
    table = Table(title="Time and memory, each way in a fresh process", title_justify="left")
    table.add_column("step")
    table.add_column("way")
    for name in ("time\ns", "\nGB/s", "private\nMB", "resident\nMB", "×\ntime", "×\nprivate"):
        table.add_column(name, justify="right", no_wrap=True)
    for position, (name, passes) in enumerate(PASSES.items()):
        _add_rows(table, name, passes * size, rounds, lambda m, at=position: m.steps[at])
    _add_rows(table, "start, load, exit", 0, rounds, lambda m: Cost("", m.outside, 0, 0))
    _add_rows(
        table, "whole program", sum(PASSES.values()) * size, rounds, lambda m: m.whole, first_run
    )
    console = Console()
    if not console.is_terminal:
        console.width = 100
    print()
    console.print(table)
    taken = ", ".join(f"{way} {sum(way in r for r in rounds)}" for way in ways)
    saved = first_run.whole.seconds - median_of([r[ways[0]] for r in rounds]).whole.seconds
    print(
        f"rounds:   {taken}; times are medians, × medians within rounds\n"
        f"1st run:  kernels are compiled now, {max(saved, 0):.1f} s; from then on they come from "
        "the cache\n"
        "private:  allocated memory, the peak over all processes of the program together\n"
        "resident: with mapped file pages, which the system shares and takes back when it must\n"
        "GB/s:     of the record and the new field, each counted once\n"
        "×:        as many times hyperslab's"
    )
    print()


def _add_rows(
    table: Table,
    name: str,
    size: int,
    rounds: Sequence[Round],
    part: Callable[[Measurement], Cost],
    first_run: Measurement | None = None,
) -> None:
    """One row for each way of a step; the first is what the others are held against."""
    reference = next(iter(rounds[0]))
    for way in rounds[0]:
        measured = [r for r in rounds if way in r]
        cost = median_cost([part(r[way]) for r in measured])
        own = [part(r[reference]) for r in measured]
        theirs = [part(r[way]) for r in measured]
        ratio = statistics.median(t.seconds / o.seconds for t, o in zip(theirs, own, strict=True))
        private = cost.private / max(median_cost(own).private, 1)
        first = way == reference
        _add_row(table, name if first else "", way, size, cost, None if first else (ratio, private))
        if first and first_run is not None:
            once = part(first_run)
            _add_row(table, "", "  1st run", size, once, (once.seconds / cost.seconds, 1.0))
    table.add_section()


def _add_row(
    table: Table, name: str, way: str, size: int, cost: Cost, times: tuple[float, float] | None
) -> None:
    memory = bool(cost.private)
    table.add_row(
        name,
        way,
        f"{cost.seconds:.2f}" if cost.seconds >= 0.1 else f"{cost.seconds:.3f}",
        f"{size / cost.seconds / 1e9:.2f}" if size else "",
        f"{cost.private / 1e6:,.0f}" if memory else "",
        f"{cost.resident / 1e6:,.0f}" if memory else "",
        _times(times[0]) if times else "",
        _times(times[1]) if times and memory else "",
        style="bold" if times is None else None,
    )


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a result is from that of another way."""

    name: str
    """The result."""

    largest: float
    """Largest absolute difference."""

    tolerance: float
    """Largest that rounding explains."""

    unit: str
    """Of both."""

    @property
    def fine(self) -> bool:
        """Whether rounding explains it."""
        return self.largest <= self.tolerance


def compare(ours: Path, theirs: Path, hours: int) -> list[Difference]:
    """Hold every result against another way's.

    Counts must be equal. Means may differ by rounding: a float32 sum of n values that are
    added one after the other strays by about sqrt(n) of its last place, and hyperslab adds in
    float64. Eight times that is allowed.

    Parameters
    ----------
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
        Difference(name, _largest_difference(ours, theirs, name), tolerance, unit)
        for name, (tolerance, unit) in tolerances.items()
    ]


def print_differences(differences: dict[str, list[Difference]]) -> bool:
    """A line for each result, and whether all agree.

    Parameters
    ----------
    differences : dict of str to list of Difference
        By the way that hyperslab is compared with.
    """
    print(f"Largest difference from  {''.join(f'{way:<14}' for way in differences)}allowed")
    for row in zip(*differences.values(), strict=True):
        cells = [f"{d.largest:.1g}" + ("" if d.fine else " WRONG") for d in row]
        bound = f"{row[0].tolerance:.1g} {row[0].unit}" if row[0].tolerance else "none"
        print(f"  {row[0].name:<23}{''.join(f'{cell:<14}' for cell in cells)}{bound}")
    print(
        "float32 sums of one set of numbers in another order differ in their last places; counts\n"
        "do not."
    )
    return all(difference.fine for column in differences.values() for difference in column)


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
