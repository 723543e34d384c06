"""Small arrays, from 1 KB to 100 MB: what a call costs when the work is next to nothing."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path

from contender import CONTENDERS
from machine import wait_for_idle
from measure import Process, Times, new_file
from memory import warm
from workloads import WORKLOADS, make_inputs

__all__ = ["SIZES", "SMALL_CONTENDERS", "SMALL_WORKLOADS", "race_small"]

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8)
"""Bytes of the input."""

SMALL_CONTENDERS = ("hyperslab", "numpy", "prange", "dask")
SMALL_WORKLOADS = ("mean", "elementwise")

_HOUR = (10, 25)
"""Points of an hour: 1 KB."""


def race_small(
    contenders: Sequence[str], directory: Path, rounds: int, patience: float
) -> dict[str, dict[int, dict[str, Times]]]:
    """Times by workload, size and contender; each is the median of several calls in a row."""
    chosen = [w for w in WORKLOADS if w.name in SMALL_WORKLOADS]
    found: dict[str, dict[int, dict[str, Times]]] = {w.name: {} for w in chosen}
    with contextlib.ExitStack() as stack:
        names = [name for name in SMALL_CONTENDERS if name in contenders]
        processes = [stack.enter_context(Process(CONTENDERS[name])) for name in names]
        for size in SIZES:
            inputs = make_inputs(directory, (size // 1000, *_HOUR))
            repeats = 20 if size <= 10**6 else 5
            for workload in chosen:
                times = {p.contender.name: Times() for p in processes}
                found[workload.name][size] = times
                for number in range(rounds + 1):
                    turn = number % len(processes)
                    for process in processes[turn:] + processes[:turn]:
                        wait_for_idle(patience)
                        warm(inputs.a)
                        seconds = []
                        for _ in range(repeats):
                            with new_file(directory) as out:
                                seconds.append(process.run(workload, inputs, out))
                        if number:  # The first compiles.
                            name = process.contender.name
                            times[name].seconds.append(statistics.median(seconds))
                shown = "  ".join(f"{name} {1e3 * t.median:.3f}" for name, t in times.items())
                print(f"{workload.name:<12}{size:>10}  {shown} ms", flush=True)
    return found
