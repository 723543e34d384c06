"""Turns what came back from a worker into an error that a scientist understands.

What is said of the files is said by :class:`~hyperslab.running.standing.Standing`, which knows
how far the run has come.
"""

from __future__ import annotations

import linecache
import re

from hyperslab.errors import (
    ArrayFileError,
    HyperslabError,
    JobInterrupted,
    KernelError,
    LockTimeout,
    WorkerLost,
)
from hyperslab.planning.plan import Plan
from hyperslab.pools.death import Death
from hyperslab.running.standing import Standing
from hyperslab_workers.access import Access
from hyperslab_workers.box import Box
from hyperslab_workers.kernel import ArrayType
from hyperslab_workers.task import Failure

__all__ = ["error_of", "lost", "never_started"]


def error_of(failure: Failure, plan: Plan) -> HyperslabError:
    """The error that a failure stands for."""
    name = plan.kernel.name
    box = plan.grid.box(failure.region) if failure.region is not None else None
    where = f" in region {box}" if box is not None else ""
    match failure.kind:
        case "kernel":
            return KernelError(
                # A bare assert or raise has no message.
                f"kernel {name} raised {failure.type_name}{where}"
                + (f": {failure.message}" if failure.message else "")
                + _source(failure.traceback)
                + _arguments(plan, box)
                + _kernel_hint(failure),
                kernel=name,
                region=str(box) if box is not None else None,
            )
        case "file":
            return ArrayFileError(f"kernel {name}{where}: {failure.message}")
        case "lock":
            return LockTimeout(f"kernel {name}{where}: {failure.message}")
        case "memory":
            return HyperslabError(
                f"a worker ran out of memory in kernel {name}{where} ({failure.message}): lower "
                "workers=, or give smaller regions with region="
            )
        case "interrupted":
            return JobInterrupted(f"kernel {name} was interrupted{where}")
        case _:
            error = HyperslabError(
                f"a worker failed in kernel {name}{where}: {failure.type_name}: {failure.message}"
            )
            if failure.traceback:
                error.add_note("In the worker:\n" + failure.traceback)
            return error


def lost(
    plan: Plan,
    death: Death,
    standing: Standing,
    *,
    region: int | None = None,
    times: int = 1,
    replaceable: bool = True,
) -> WorkerLost:
    """The error for a worker that died.

    Parameters
    ----------
    plan, death, standing
        What was run, what killed the worker, and how far the run had come.
    region : int, optional
        What it was working on.
    times : int
        Deaths at this region.
    replaceable : bool
        Whether the pool replaces its workers.
    """
    spans = standing.spans()
    doubtful = [span for span in spans if span.state == "in doubt"]
    doing = ""
    if doubtful:
        doing = f" while writing {'; '.join(map(str, doubtful))}"
    elif region is not None:
        doing = f" while working on region {plan.grid.box(region)}"
    by = f" by {death.signal}" if death.signal else ""
    parts = [f"a worker of kernel {plan.kernel.name} was killed{by}{doing}", death.cause]
    if doubtful:
        region = doubtful[0].start
    if region is not None:
        parts.extend(_offsets(plan, region))
    if times > 1:
        parts.append(
            f"it happened {times} times at this region, so the region is given up; run it alone "
            "with executor='serial' to look into it"
        )
    elif not replaceable:
        parts.append("the executor is the caller's and cannot be restarted from here")
    parts.append(standing.words())
    if doubtful and not plan.repeatable:
        changed = ", ".join(f"{a.name} ({a.array.path})" for a in plan.accesses if a.changes)
        parts.append(
            f"restore what is in doubt of {changed} from its source, or write to a second file, "
            "which can always be run again"
        )
    return WorkerLost("; ".join(parts), signal=death.signal, regions=spans)


def never_started(plan: Plan, death: Death, times: int) -> WorkerLost:
    """The error for workers that die before they begin any task."""
    ended = f"were killed by {death.signal}" if death.signal else "ended"
    return WorkerLost(
        f"the workers of kernel {plan.kernel.name} {ended} {times} times in a row before they "
        f"began a task; {death.cause}; executor='serial' runs the job without them",
        signal=death.signal,
    )


def _offsets(plan: Plan, region: int) -> list[str]:
    """Where in the files a region lies."""
    words = []
    for access in plan.accesses:
        if any(axis is not None for axis in access.axes):
            bounds = Box.of_shape(access.array.shape)
            box = access.box(plan.grid.box(region)).intersect(bounds)
            first, last = access.array.extent(box)
            words.append(f"{access.name}: bytes {first} to {last} of {access.array.path}")
    return words


def _source(place: str) -> str:
    """The place in the kernel, with the line itself where the file can be read."""
    if not place:
        return ""
    text = f"\n  {place}"
    match = re.match(r'File "(.*)", line (\d+)', place)
    if match and (line := linecache.getline(match[1], int(match[2])).strip()):
        text += f"\n    {line}"
    return text


def _arguments(plan: Plan, box: Box | None) -> str:
    """What the kernel was called with in that region."""
    words = []
    for argument, kind in zip(plan.arguments, plan.types, strict=True):
        if isinstance(argument, Access) and isinstance(kind, ArrayType) and box is not None:
            shape = argument.box(box).shape if argument.op is None else argument.array.shape
            readonly = ", read-only" if not kind.mutable else ""
            words.append(f"{argument.name}: {kind.dtype} {shape}{readonly}")
    return f"\n  called with {'; '.join(words)}" if words else ""


def _kernel_hint(failure: Failure) -> str:
    if failure.type_name != "IndexError":
        return ""
    return (
        "\n  A kernel sees one region at a time: index within the shapes above, and declare "
        "neighbours with hs.read(…, halo=…)."
    )
