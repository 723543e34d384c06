"""Whole programs, from start to exit: the mean of the input, as a script of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import wait_for_idle
from measure import Times
from memory import Watch, warm

__all__ = ["PROGRAMS", "Program", "race_programs"]


@dataclass(frozen=True, slots=True)
class Program:
    """A script, and what is said to it by variables."""

    title: str
    """Its name in tables."""

    script: str
    """It stands in scripts/mean_<script>.py."""

    variables: dict[str, str] = field(default_factory=dict)
    """What its environment has besides."""


PROGRAMS = (
    Program("hyperslab", "hyperslab"),
    Program("hyperslab, first run", "hyperslab", {"HYPERSLAB_CACHE_DIR": "0"}),
    Program("NumPy", "numpy"),
    Program("numba prange, cache=True", "prange", {"KEEP_COMPILED": "1"}),
    Program("numba prange", "prange"),
    Program("loky by hand", "loky"),
    Program("dask", "dask"),
)
"""The first is what the others are held against. All but two compile in the round that is not
timed, or never."""


def race_programs(path: str, rounds: int, patience: float, kernels: Path) -> dict[str, Times]:
    """Times of all programs, in turn.

    Parameters
    ----------
    path : str
        The input.
    rounds : int
        Timed rounds; one more goes before.
    patience : float
        Seconds to wait, before each run, for others to leave the processors alone.
    kernels : Path
        Where compiled code is kept.

    Raises
    ------
    SystemExit
        A program failed, or printed another mean than the first.
    """
    found = {program.title: Times() for program in PROGRAMS}
    expected: float | None = None
    kept = {"HYPERSLAB_CACHE_DIR": str(kernels), "NUMBA_CACHE_DIR": str(kernels)}
    for number in range(rounds + 1):
        turn = number % len(PROGRAMS)
        for program in PROGRAMS[turn:] + PROGRAMS[:turn]:
            times = found[program.title]
            if number:
                wait_for_idle(patience)
            warm(path)
            script = Path(__file__).parent / "scripts" / f"mean_{program.script}.py"
            started = time.perf_counter()
            with subprocess.Popen(
                [sys.executable, str(script), path],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **kept, **program.variables},
            ) as process:
                if number:
                    printed, _ = process.communicate()
                    times.seconds.append(time.perf_counter() - started)
                else:
                    with Watch(process.pid) as watch:
                        printed, _ = process.communicate()
                    times.memory = watch.peak
            if process.returncode:
                raise SystemExit(f"{script} ended with exit code {process.returncode}")
            mean = float(printed)
            expected = mean if expected is None else expected
            if abs(mean - expected) > 1e-9 * abs(expected):
                raise SystemExit(f"{script} printed {mean!r}, the first program {expected!r}")
        if number:
            shown = "  ".join(f"{name} {t.seconds[-1]:.3f}" for name, t in found.items())
            print(f"{'script':<12}{number:>3}  {shown}", flush=True)
    return found
