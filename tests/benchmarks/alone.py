"""What hyperslab itself costs, on a warm engine: launching, regions, planning.

    python alone.py DIRECTORY

Prints one JSON object with seconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ours

import hyperslab as hs

__all__ = ["REGIONS", "REGION_BYTES", "measure"]

REGIONS = 10_000
REGION_BYTES = 64 * 1024


@hs.kernel
def add(a, total):
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            total[0] += a[i, k]


@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            out[i, k] = 2 * a[i, k]


def _median(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(directory: Path) -> dict[str, float]:
    """All figures; files are made in `directory` and removed."""
    engine = ours.engine()
    tiny, result = hs.from_array(np.arange(8.0)[None]), hs.from_array(np.zeros((1, 8)))
    plan = engine.plan(double, tiny, hs.write(result))
    found = {
        "launch": _median(lambda: engine.run(double, tiny, hs.write(result)), 300),
        "launch_planned": _median(plan.run, 300),
    }
    source, target, huge = (directory / f"alone-{name}.npy" for name in ("a", "b", "huge"))
    try:
        shape = (REGIONS, REGION_BYTES // 8)
        with hs.create(source, shape, "f8") as a, hs.create(target, shape, "f8") as b:
            total = hs.from_array(np.zeros(1))
            for name, arguments in {
                "region_reading": (add, a, hs.accumulate(total)),
                "region_writing": (double, a, hs.write(b)),
            }.items():
                job = engine.plan(*arguments, region=(1, None))
                found[name] = _median(job.run, 3) / REGIONS
        with hs.create(huge, (10_000_000, 500, 500), "f4", sparse=True) as a:
            into = hs.from_array(np.zeros((500, 500)))
            found["planning"] = _median(
                lambda: engine.plan(ours.add_hours, a, hs.accumulate(into)), 50
            )
    finally:
        for path in (source, target, huge):
            path.unlink(missing_ok=True)
    ours.close()
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
