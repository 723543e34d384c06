"""Whole programs, from start to exit: the mean of the input, as a script of one's own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from machine import wait_for_idle
from measure import Times
from memory import Watch, warm

__all__ = ["PROGRAMS", "race_programs"]

PROGRAMS = ("hyperslab", "numpy", "prange", "loky", "dask")
"""Each stands in scripts/mean_<name>.py."""


def race_programs(path: str, rounds: int, patience: float) -> dict[str, Times]:
    """Times of all programs, in turn.

    Raises
    ------
    SystemExit
        A program failed, or printed another mean than the first.
    """
    found = {name: Times() for name in PROGRAMS}
    expected: float | None = None
    for number in range(rounds + 1):
        for name, times in found.items():
            if number:
                wait_for_idle(patience)
            warm(path)
            script = Path(__file__).parent / "scripts" / f"mean_{name}.py"
            started = time.perf_counter()
            with subprocess.Popen(
                [sys.executable, str(script), path], stdout=subprocess.PIPE, text=True
            ) as program:
                if number:
                    printed, _ = program.communicate()
                    times.seconds.append(time.perf_counter() - started)
                else:
                    with Watch(program.pid) as watch:
                        printed, _ = program.communicate()
                    times.memory = watch.peak
            if program.returncode:
                raise SystemExit(f"{script} ended with exit code {program.returncode}")
            mean = float(printed)
            expected = mean if expected is None else expected
            if abs(mean - expected) > 1e-9 * abs(expected):
                raise SystemExit(f"{script} printed {mean!r}, the first program {expected!r}")
        if number:
            shown = "  ".join(f"{name} {t.seconds[-1]:.3f}" for name, t in found.items())
            print(f"{'script':<12}{number:>3}  {shown}", flush=True)
    return found
