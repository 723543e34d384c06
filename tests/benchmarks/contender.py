"""A contender in a process of its own: takes workloads from a pipe, gives times back.

    python contender.py prange

Each line in is ``{"workload", "a", "b", "out"}``, each line out ``{"seconds"}`` or ``{"error"}``.
Processes of their own keep contenders out of each other's way (threads, memory, imports), and
let the memory of each be measured with all of its children.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from workloads import WORKLOADS, Code, Inputs

__all__ = ["CONTENDERS", "Contender"]


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who can compute the workloads."""

    name: str
    """Its name on the command line."""

    title: str
    """Its name in tables."""

    module: str
    """The module with its code."""

    mode: str = ""
    """A function of that module to call first."""

    packages: tuple[str, ...] = ()
    """Distributions whose versions matter."""


CONTENDERS = {
    c.name: c
    for c in (
        Contender("hyperslab", "hyperslab", "ours", "", ("hyperslab", "loky", "fasteners")),
        Contender("hyperslab-fresh", "hyperslab, new workers", "ours", "start_afresh"),
        Contender("prange", "numba prange", "by_hand", "", ("numba", "llvmlite")),
        Contender("prange-held", "numba prange, maps held", "by_hand", "hold"),
        Contender("dask", "dask threads", "with_dask", "", ("dask",)),
        Contender("joblib", "joblib", "with_joblib", "", ("joblib",)),
        Contender("numexpr", "numexpr", "with_numexpr", "", ("numexpr",)),
        Contender("numpy", "NumPy", "with_numpy", "", ("numpy",)),
    )
}


def main(name: str) -> None:
    """Serve until the pipe is closed."""
    contender = CONTENDERS[name]
    # What a library prints must not end up between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    module = importlib.import_module(contender.module)
    if contender.mode:
        getattr(module, contender.mode)()
    release: Callable[[], None] = getattr(module, "release", lambda: None)
    code: dict[str, Code] = module.CODE
    known = [workload.name for workload in WORKLOADS if workload.name in code]
    release()
    print(json.dumps({"workloads": known}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        inputs = Inputs(request["a"], request["b"])
        try:
            started = time.perf_counter()
            code[request["workload"]](inputs, request["out"])
            answer: dict[str, object] = {"seconds": time.perf_counter() - started}
            # Whatever still maps an input would keep it from being evicted.
            gc.collect()
            release()
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    getattr(module, "close", lambda: None)()


if __name__ == "__main__":
    # One thread a core wherever a library would start more on its own.
    os.environ.setdefault("NUMBA_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    main(sys.argv[1])
