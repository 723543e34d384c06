"""Whether plans tell the truth about memory: what is held against ``plan.memory.peak``.

    python tests/benchmarks/memory_truth.py [--unit 16MiB] [--only WORDS]

Every kind of job runs on a warm engine of its own. Held is the growth over the idle state of the
private memory of all processes together (``Anonymous`` in ``smaps_rollup``), and of scratch files
that lie in memory. Ends with status 1 where more is held than was projected, or less than half.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "programs"))

from truthful_jobs import KINDS, measure

from hyperslab.units import human_bytes, parse_bytes


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--unit", default="16MiB", help="bytes of a region's buffer")
    parser.add_argument("--only", default="", help="kinds whose name contains these words")
    options = parser.parse_args()
    unit, lies = parse_bytes(options.unit), 0
    print("| kind of job | projected | held | share |")
    print("| --- | --- | --- | --- |")
    for kind in KINDS:
        if options.only not in kind.name:
            continue
        found = measure(kind, unit)
        lies += not found.true
        print(
            f"| {kind.name} | {human_bytes(found.projected)} | {human_bytes(found.held)} "
            f"| {found.share:.0%}{'' if found.true else ' (!)'} |",
            flush=True,
        )
    return 1 if lies else 0


if __name__ == "__main__":
    sys.exit(_main())
