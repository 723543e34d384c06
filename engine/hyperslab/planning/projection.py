"""How much private memory a run will need, and what to lower where that is too much."""

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

__all__ = ["AHEAD", "project", "slots_needed"]

AHEAD = 2
"""Tasks for each worker under way where each leaves a contribution to be merged."""

_ASKED = 4096
"""Regions up to which a footprint is asked for all of them: some milliseconds."""


def slots_needed(tasks: int, workers: int) -> int:
    """Slots for contributions, of a run of so many tasks on so many workers.

    For the tasks under way; for those that wait for their sibling in the tree, of which there is
    one at each level; and for the results of merges, of which each worker does one at a time.
    """
    levels = max(tasks - 1, 0).bit_length()
    return min(2 * tasks, AHEAD * workers + levels + 1 + workers)


def project(
    accesses: Sequence[Access],
    declarations: Sequence[Declaration | None],
    grid: Grid,
    limit: Budget,
    workers: int,
    splittable: frozenset[int],
    *,
    tasks: int,
    leaves: int,
    scratch_is_memory: bool,
    undo_in_memory: bool,
) -> Memory:
    """The projection for a run, within its budget.

    Parameters
    ----------
    accesses, declarations, grid, limit, workers, splittable
        As the planner has them.
    tasks : int
        Tasks of the run.
    leaves : int
        Leaves in a task.
    scratch_is_memory : bool
        Whether what lies in scratch takes memory.
    undo_in_memory : bool
        Whether a region is kept as it was while it is changed, and that takes memory.

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
    # The sum of what was there and what was accumulated, on its way into the file.
    coordinator = private
    # A task of several leaves, a power of two, holds one at each level of its subtree. The last
    # leaf is accumulated where the whole will be looked for.
    folding = private * (leaves.bit_length() - 1)

    changed = [a for a in accesses if undo_in_memory and a.changes and a.placement is None]

    def per_worker(shape: tuple[int, ...]) -> int:
        kept = partition.region_cost(changed, shape).touched
        return partition.region_cost(accesses, shape).buffered + kept + fixed + folding + merged

    def shared(count: int) -> int:
        return private * slots_needed(tasks, count) if scratch_is_memory else 0

    need = per_worker(grid.region)
    at_once = min(workers, max(tasks, 1))
    while at_once > 1 and need * at_once + shared(at_once) + coordinator > limit.limit:
        at_once -= 1
    left = limit.limit - coordinator - shared(at_once)
    if left < need * at_once:
        total = need + coordinator + shared(1)
        raise PlanError(
            f"the job needs {human_bytes(total)} of private memory with a single "
            f"worker busy, and the budget is {human_bytes(limit.limit)} ({limit.source}); "
            + _remedy(per_worker, grid, splittable, left, private, merged)
        )
    return Memory(need, coordinator, at_once, merged, shared(at_once))


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
    user's function, and asking it for all would make planning grow with the file. The others are
    asked before a run starts, or on the way where there are a great many.
    """
    regions = grid if len(grid) <= _ASKED else partition.representatives(grid)
    total = 0
    for declaration in declarations:
        if declaration is not None and declaration.footprint is not None and len(grid):
            largest = max(footprint_box(declaration, region).size for region in regions)
            total += largest * declaration.array.dtype.itemsize
    return total
