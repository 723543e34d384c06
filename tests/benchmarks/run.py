"""hyperslab beside its peers, measured in one run.

    python tests/benchmarks/run.py --write               # 2.1 GB inputs, into docs/benchmarks.md
    python tests/benchmarks/run.py --scale 0.05          # a twentieth of it, to the terminal
    python tests/benchmarks/run.py --workloads mean,sum --contenders hyperslab,prange

Needs the peers (``pip install -e '.[bench]'``) and, at full scale, 7 GB of disk and as much free
memory for the page cache. Speed depends on the machine and on what else runs there: nothing
here is a test, and the page says what it was measured on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from contender import CONTENDERS
from machine import facts, versions
from measure import race
from programs import race_programs
from report import Results, render
from small import race_small
from workloads import WORKLOADS, make_inputs

FULL = (2048, 361, 720)
"""Three months of hours on ERA5's half-degree grid."""

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

STARTUP_PAGE = PAGE.with_name("startup.md")
"""Of a run of these parts alone, which takes minutes."""

STARTUP_PARTS = {"small", "programs"}

COLD_WORKLOADS = ("sum", "mean", "elementwise")
COLD_CONTENDERS = ("hyperslab-fresh", "prange", "dask", "joblib", "numexpr", "numpy")
"""Not those that hold their maps: pages that somebody has mapped cannot be evicted."""

PARTS = ("warm", "cold", "small", "programs", "alone")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    options = _parse(arguments)
    # Whoever stops it by SIGTERM finds nothing left, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    shape = (max(8, round(FULL[0] * options.scale)), *FULL[1:])
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.scratch) as scratch:
        directory = Path(scratch)
        inputs = make_inputs(options.data or directory, shape)
        results = Results(
            command=_command(options, sys.argv[1:] if arguments is None else arguments),
            shape=shape,
            facts=facts(directory),
            versions=versions(),
            rounds=options.rounds,
        )
        if "warm" in options.parts:
            results.warm = race(
                options.contenders,
                options.workloads,
                inputs,
                directory,
                options.rounds,
                patience=options.patience,
            )
        if "cold" in options.parts:
            results.cold = race(
                [name for name in COLD_CONTENDERS if name in options.contenders],
                [name for name in COLD_WORKLOADS if name in options.workloads],
                inputs,
                directory,
                options.rounds,
                patience=options.patience,
                cold=True,
            )
        if "small" in options.parts:
            results.small = race_small(
                options.contenders, directory, options.rounds, options.patience
            )
        if "programs" in options.parts:
            megabyte = make_inputs(directory, (1000, 10, 25))
            for size, path in (("2.1 GB", inputs.a), ("1 MB", megabyte.a)):
                results.programs[size if options.scale == 1 or size == "1 MB" else "input"] = (
                    race_programs(path, options.rounds, options.patience, directory)
                )
        if "alone" in options.parts:
            results.alone = _alone(directory)
    page = render(results)
    if options.write:
        path = STARTUP_PAGE if set(options.parts) <= STARTUP_PARTS else PAGE
        path.write_text(page)
        print(f"written: {path}")
    else:
        print(f"\n{page}")
    return 0


def _command(options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """The command line without the directories, which nobody else has."""
    own = {f"--{name}" for name in ("data", "scratch")} | {
        str(path) for path in (options.data, options.scratch)
    }
    kept = [a for a in arguments if a not in own and a.partition("=")[0] not in own]
    return shlex.join(["python", "tests/benchmarks/run.py", *kept])


def _alone(directory: Path) -> dict[str, float]:
    """In a process of its own, as everything else."""
    script = Path(__file__).parent / "alone.py"
    done = subprocess.run(
        [sys.executable, str(script), str(directory)], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="hyperslab beside its peers, in one run")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 2.1 GB, 0 to 1")
    parser.add_argument("--rounds", type=int, default=7, help="runs of everything, at least 2")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        help="seconds to wait, before each run, for others to leave the processors alone",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write {PAGE.name}, or {STARTUP_PAGE.name}, under docs/",
    )
    parser.add_argument("--data", type=Path, help="directory that keeps the inputs for next time")
    parser.add_argument("--scratch", type=Path, help="directory for results, on the same disk")
    for name, known in (
        ("workloads", [w.name for w in WORKLOADS]),
        ("contenders", list(CONTENDERS)),
        ("parts", list(PARTS)),
    ):
        parser.add_argument(
            f"--{name}", default=",".join(known), help=f"some of {', '.join(known)}"
        )
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 1:
        parser.error(f"--scale {options.scale}: more than 0, at most 1")
    if options.rounds < 2:
        parser.error(f"--rounds {options.rounds}: at least 2, for medians")
    for name, known in (
        ("workloads", [w.name for w in WORKLOADS]),
        ("contenders", list(CONTENDERS)),
        ("parts", list(PARTS)),
    ):
        chosen = getattr(options, name).split(",")
        strange = sorted(set(chosen) - set(known))
        if strange:
            parser.error(f"--{name} {','.join(strange)}: choose from {', '.join(known)}")
        setattr(options, name, [n for n in known if n in chosen])
    if options.data is not None:
        options.data.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
