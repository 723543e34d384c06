"""A plan in words, for a person deciding whether to start it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperslab.planning.memory import WORKER_BYTES
from hyperslab.units import human_bytes
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.kernel import ArrayType
from hyperslab_workers.legible import legible
from hyperslab_workers.task import Origin, Value

if TYPE_CHECKING:
    from hyperslab.planning.plan import Plan

__all__ = ["explain"]


def explain(plan: Plan) -> str:
    """Domain, regions, tasks, arguments, locks, memory and traffic of a plan."""
    grid, memory = plan.grid, plan.memory
    touched = _bytes_of_region(plan)
    lines = [
        f"kernel   {plan.kernel.name}({', '.join(a.name for a in plan.arguments)})",
        f"domain   {_times(grid.shape)}",
        f"regions  {len(grid):,} of {_times(grid.region)}, {human_bytes(touched)} each",
        f"tasks    {plan.tasks:,} of {plan.batch:,} region{'s' * (plan.batch != 1)}, "
        f"{human_bytes(touched * plan.batch)} each",
        "arguments",
    ]
    width = max((len(a.name) for a in plan.arguments), default=0)
    for argument, kind in zip(plan.arguments, plan.types, strict=True):
        if isinstance(argument, Value):
            words = "sent as it is"
            if isinstance(kind, ArrayType):
                words += f", {argument.value.dtype} array {_times(argument.value.shape)}"
            else:
                words += f", {argument.value!r}"
        elif isinstance(argument, Origin):
            words = "the region's origin"
        else:
            assert isinstance(kind, ArrayType)
            words = _access(argument, kind, plan)
        lines.append(f"  {argument.name:<{width}}  {words}")
    lines += [
        f"locks    {_locks(plan)}",
        f"deaths   {_deaths(plan)}",
        f"memory   {human_bytes(memory.per_worker)} per worker, {memory.at_once} of "
        f"{plan.workers} workers taking part, {human_bytes(memory.shared)} between them, "
        f"{human_bytes(memory.coordinator)} in the coordinator: peak {human_bytes(memory.peak)}",
        f"         budget {human_bytes(plan.budget.limit)} ({plan.budget.source}); besides, "
        f"each worker process takes about {human_bytes(WORKER_BYTES)}; mapped file pages are "
        "the system's cache and not counted"
        + (", and let go of after each region" if plan.release else ""),
        f"traffic  reads {human_bytes(plan.bytes_read)}, writes {human_bytes(plan.bytes_written)}",
    ]
    return legible("\n".join(lines))


def _bytes_of_region(plan: Plan) -> int:
    from hyperslab.planning.partition import region_cost

    return region_cost(plan.accesses, plan.grid.region).touched


def _access(access: Access, kind: ArrayType, plan: Plan) -> str:
    array = access.array
    parts = [
        f"{access.privilege.value:<10}  {array.dtype} {_times(array.shape)}, "
        f"{human_bytes(array.nbytes)}",
    ]
    if access.privilege is Privilege.ACCUMULATE:
        how = {
            Placement.PRIVATE: "a private copy a leaf, merged in order",
            Placement.MERGE: "a buffer a region, merged under locks"
            + (" in region order" if plan.ordered else ""),
            Placement.DIRECT: "in the file, under its lock"
            + (" in region order" if plan.ordered else ""),
        }
        assert access.placement is not None
        parts.append(f"op {access.op}, {how[access.placement]}")
    else:
        follows = [axis for axis in access.axes if axis is not None]
        if not follows:
            parts.append("whole")
        elif tuple(follows) != tuple(range(len(plan.grid.shape))):
            parts.append(f"axes {access.axes}")
    if access.has_halo:
        parts.append(f"halo {access.halo}, boundary {access.boundary}")
    if array.shared:
        parts.append("shared with other programs")
    if kind.layout == "A":
        parts.append("strided views")
    parts.append(array.path)
    return ", ".join(parts)


def _locks(plan: Plan) -> str:
    from hyperslab_workers.locks import lock_for

    words = []
    for access in plan.accesses:
        merged = access.in_file
        if not access.locked:
            continue
        lock = lock_for(access.array, plan.lock_dir, settle=False)
        box = access.box(plan.grid.box(0)) if len(plan.grid) and not merged else None
        extent = access.array.extent(box) if box is not None else access.array.extent()
        kind = "shared" if access.privilege is Privilege.READ else "exclusive"
        words.append(f"{access.name}: up to {len(lock.stripes_of(extent))} stripes, {kind}")
    return "; ".join(words) if words else "none: no two tasks touch the same bytes"


def _deaths(plan: Plan) -> str:
    if plan.repeatable:
        return "what a worker was doing when it died is done again"
    if plan.undo:
        return "what a worker was doing is undone, where it was just writing, and done again"
    return (
        "what a worker was doing is done again, unless it was just writing: such a region sees "
        "what it changes, and is reported"
    )


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{n:,}" for n in shape) if shape else "a single element"
