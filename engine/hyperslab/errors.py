"""The error tree, as users import it: ``hyperslab.PlanError`` and its siblings.

It is defined in :mod:`hyperslab_workers.errors`, because maps and locks raise parts of it
inside workers. Tracebacks should show the name a user can import, so the public module is
written into the classes here.
"""

from __future__ import annotations

from hyperslab_workers.errors import (
    ArrayFileError,
    HyperslabError,
    JobInterrupted,
    KernelError,
    LockTimeout,
    PlanError,
    SpecError,
    WorkerLost,
)
from hyperslab_workers.region_span import RegionSpan

__all__ = [
    "ArrayFileError",
    "HyperslabError",
    "JobInterrupted",
    "KernelError",
    "LockTimeout",
    "PlanError",
    "RegionSpan",
    "SpecError",
    "WorkerLost",
]

for _error in (
    ArrayFileError,
    HyperslabError,
    JobInterrupted,
    KernelError,
    LockTimeout,
    PlanError,
    SpecError,
    WorkerLost,
    RegionSpan,
):
    _error.__module__ = "hyperslab"
