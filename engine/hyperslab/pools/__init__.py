"""Who performs tasks: one file a pool, behind one protocol.

::

    protocol    Pool, Channel, and what they tell of themselves
    resident    processes of the engine's own  ── channel: one run's line to them
    submitted   any concurrent.futures.Executor, and this process itself
    threads     threads of this process, for jobs that end before processes would be ready
    death       what killed a worker
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperslab.pools.protocol import Pool

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Pool", "make_pool"]


def make_pool(executor: str | Executor, workers: int, session: Path) -> Pool:
    """The pool behind an engine's ``executor=`` setting."""
    # Each imports what it needs: a pool that is not used costs the program's start nothing.
    if executor in ("loky", "auto"):
        from hyperslab.pools.resident import ResidentPool

        return ResidentPool(workers, session)
    from hyperslab.pools.submitted import ForeignPool, SerialPool

    if isinstance(executor, str):
        return SerialPool(session)
    return ForeignPool(executor, workers, session)
