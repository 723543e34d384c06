"""Who performs tasks: one file a pool, behind one protocol.

::

    protocol    Pool, Channel, and what they tell of themselves
    resident    processes of the engine's own  ── channel: one run's line to them
    submitted   any concurrent.futures.Executor, and this process itself
    death       what killed a worker
"""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

from hyperslab.pools.protocol import Pool
from hyperslab.pools.resident import ResidentPool
from hyperslab.pools.submitted import ForeignPool, SerialPool

__all__ = ["Pool", "make_pool"]


def make_pool(executor: str | Executor, workers: int, session: Path) -> Pool:
    """The pool behind an engine's ``executor=`` setting."""
    if not isinstance(executor, str):
        return ForeignPool(executor, workers, session)
    if executor == "serial":
        return SerialPool(session)
    return ResidentPool(workers, session)
