"""How much private memory a job will need, and what to lower where that is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyperslab.errors import PlanError
from hyperslab.planning import partition
from hyperslab.planning.declare import Declaration, footprint_box
from hyperslab.planning.memory import Budget
from hyperslab.planning.plan import Memory
from hyperslab.units import human_bytes
from hyperslab_workers.access import Access, Placement
from hyperslab_workers.box import Grid

__all__ = ["project"]

_ASKED = 4096
"""Regions up to which a footprint is asked for all of them: some milliseconds."""


def project(
    accesses: Sequence[Access],
    declarations: Sequence[Declaration | None],
    grid: Grid,
    limit: Budget,
    workers: int,
    splittable: frozenset[int],
) -> Memory:
    """The projection for a job, within its budget.

    Raises
    ------
    PlanError
        Not even one worker's share fits; the message says what to lower.
    """
    private = sum(a.array.nbytes for a in accesses if a.placement is Placement.PRIVATE)
    merged = _largest_footprint(declarations, grid)
    given = [d for d in declarations if d is not None]
    fixed = partition.fixed_buffers(
        [a for a, d in zip(accesses, given, strict=True) if d.footprint is None]
    )
    # The coordinator holds the sum so far, the partial being added, and the old values.
    coordinator = 3 * private

    def per_worker(shape: tuple[int, ...]) -> int:
        return partition.region_cost(accesses, shape).buffered + fixed + private + merged

    need = per_worker(grid.region)
    left = limit.limit - coordinator
    at_once = min(workers, left // need) if need else workers
    if left < 0 or at_once < 1:
        raise PlanError(
            f"the job needs {human_bytes(need + coordinator)} of private memory with a single "
            f"worker busy, and the budget is {human_bytes(limit.limit)} ({limit.source}); "
            + _remedy(per_worker, grid, splittable, left, private, merged)
        )
    return Memory(need, coordinator, at_once, merged)


def _remedy(
    per_worker: Callable[[tuple[int, ...]], int],
    grid: Grid,
    splittable: frozenset[int],
    left: int,
    private: int,
    merged: int,
) -> str:
    if private > left:
        return (
            f"private copies of what is accumulated take {human_bytes(private)} each: give "
            "accumulate() a footprint=, so that each region holds only the part it touches, or "
            "raise memory="
        )
    if merged > left:
        return (
            f"the largest footprint takes {human_bytes(merged)}: make it smaller, split the "
            "domain further with region=, or raise memory="
        )
    shape = list(grid.region)
    # Slowest axes first, as when the region was chosen: what stays is long runs in the file.
    for axis in sorted(splittable):
        while per_worker(tuple(shape)) > left and shape[axis] > 1:
            shape[axis] = -(-shape[axis] // 2)
    if per_worker(tuple(shape)) > left:
        return f"not even the smallest regions, {tuple(shape)}, fit: raise memory="
    return f"give smaller regions, region={tuple(shape)} would fit, or raise memory="


def _largest_footprint(declarations: Sequence[Declaration | None], grid: Grid) -> int:
    """Bytes of the largest footprints of a region.

    Every region of a small grid is asked, of a large one those of every kind: a footprint is the
    user's function, and asking it for all would make planning grow with the file. What it gives
    in between is held against the budget when its task is made.
    """
    regions = grid if len(grid) <= _ASKED else partition.representatives(grid)
    total = 0
    for declaration in declarations:
        if declaration is not None and declaration.footprint is not None and len(grid):
            largest = max(footprint_box(declaration, region).size for region in regions)
            total += largest * declaration.array.dtype.itemsize
    return total
