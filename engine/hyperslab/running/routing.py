"""Which plans run in threads of this process for as long as there are no worker processes.

Starting workers takes a sixth of a second and more. Threads are there at once, and what they
compute is the same to the bit: kernels run without the interpreter lock, in the same leaves, with
the same machine code. What they cannot be is held apart from the caller, so they get only what
cannot harm it: checked indices, no locks, no stores into mapped files.

Decided from sizes and from the kernel alone, never from timings: the same program takes the same
way every time.
"""

from __future__ import annotations

from hyperslab.planning.plan import Plan

__all__ = ["PATIENCE", "cost", "is_short"]

PATIENCE = 5 * 2**30
"""Cost that is left to threads before workers are started: two threads read so many bytes in
half a second, of which starting two workers would take a third."""

_WRITING = 4
"""What it costs to write a byte, where reading one costs one: new pages have to be made."""

_LEAST = 2**18
"""The cost of a job that touches next to nothing."""

_REGION = 2**20
"""Bytes below which what Python does around a region, one thread at a time, shows; beside a busy
thread of the program's own it waits for its turn each time, some milliseconds."""

_FEW = 32
"""Regions of which it does not."""


def cost(plan: Plan) -> int:
    """What a run costs, in bytes read."""
    return max(plan.bytes_read + _WRITING * plan.bytes_written, _LEAST)


def is_short(plan: Plan) -> bool:
    """Whether threads would be done with a plan by the time workers are ready, and may run it."""
    return (
        cost(plan) <= PATIENCE
        and plan.regions <= max(_FEW, cost(plan) // _REGION)
        # An index out of bounds must not be able to end the caller. (Of what the kernel calls it is
        # known when it is compiled.)
        and bool(plan.kernel.options["boundscheck"])
        # A thread that was left behind would keep a lock, or a turn, for ever.
        and not (plan.ordered or any(access.locked for access in plan.accesses))
    )
