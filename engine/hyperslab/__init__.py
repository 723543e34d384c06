"""NumPy over files bigger than memory: compiled, on every core, and safe.

>>> import hyperslab as hs
"""

import sys

if sys.platform != "linux":
    raise ImportError(
        f"hyperslab runs on Linux and this is {sys.platform}: it needs mmap with posix_fallocate, "
        "POSIX record locks and pidfd_open, which other systems lack"
    )

from hyperslab.api import Engine, plan, run
from hyperslab.arrays import Array, create, from_array, open
from hyperslab.compiler import Kernel, kernel
from hyperslab.errors import (
    ArrayFileError,
    HyperslabError,
    JobInterrupted,
    KernelError,
    LockTimeout,
    PlanError,
    RegionSpan,
    SpecError,
    WorkerLost,
)
from hyperslab.planning.declare import ORIGIN, accumulate, read, update, write
from hyperslab.planning.plan import Plan
from hyperslab.running.report import Report

__version__ = "0.1.0"

__all__ = [
    "ORIGIN",
    "Array",
    "ArrayFileError",
    "Engine",
    "HyperslabError",
    "JobInterrupted",
    "Kernel",
    "KernelError",
    "LockTimeout",
    "Plan",
    "PlanError",
    "RegionSpan",
    "Report",
    "SpecError",
    "WorkerLost",
    "accumulate",
    "create",
    "from_array",
    "kernel",
    "open",
    "plan",
    "read",
    "run",
    "update",
    "write",
]
