"""A plan: verified, immutable, and known to the byte before anything is touched.

Iterating one yields the spans of regions that become tasks. The planner makes it, an engine runs
it. It is a value: it can be pickled and run elsewhere, and holds no engine, lock or executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hyperslab.compiler import Kernel
from hyperslab.errors import PlanError
from hyperslab.planning.declare import Declaration, footprint_box
from hyperslab.planning.explain import explain
from hyperslab.planning.memory import Budget
from hyperslab.settings import Progress
from hyperslab.units import human_bytes
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import ArgumentType
from hyperslab_workers.legible import legible
from hyperslab_workers.task import Argument

if TYPE_CHECKING:
    from hyperslab.running.report import Report

__all__ = ["Memory", "Plan", "TaskRange", "set_runner"]


@dataclass(frozen=True, slots=True)
class TaskRange:
    """The regions of one task."""

    index: int
    """Number of the task."""

    start: int
    """First region."""

    stop: int
    """One past the last region."""

    footprints: tuple[tuple[Box, ...], ...] = ()
    """For each region the boxes of the arguments that have a footprint."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Private memory that a job needs, in bytes; mapped file pages are not counted."""

    per_worker: int
    """Buffers and private accumulations of one worker."""

    coordinator: int
    """What was accumulated, on its way into the file."""

    at_once: int
    """Workers that may take part within the budget. A worker keeps its buffers while a run
    lasts, also between its tasks, so no others get any."""

    footprint: int = 0
    """Bytes of the largest footprints that were seen, contained in `per_worker`."""

    shared: int = 0
    """Contributions that wait to be merged, where scratch files are memory."""

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.per_worker * self.at_once + self.shared + self.coordinator


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Plan:
    """What will be done, having passed every check. Made by :func:`hyperslab.plan`.

    It can be run any number of times, and what depends on it alone is got ready only once.
    """

    kernel: Kernel
    """What runs on every region."""

    arguments: tuple[Argument, ...]
    """What it is called with."""

    types: tuple[ArgumentType, ...]
    """The machine types of the arguments: the one signature that will be compiled."""

    equal_lengths: tuple[tuple[tuple[int, int, int], ...], ...]
    """Groups of (argument, axis, halo) that are equally long, halos aside, in every region."""

    grid: Grid
    """The regions."""

    leaf: int
    """Consecutive regions over which a private accumulation runs before it is merged."""

    batch: int
    """Consecutive regions in one task: one leaf or more."""

    buffer_orders: tuple[Literal["C", "F"], ...]
    """Memory order of a private copy of each argument."""

    ordered: bool
    """Whether merges into files happen in region order."""

    memory: Memory
    """Projected private memory."""

    budget: Budget
    """What it was held against."""

    repeatable: bool
    """Whether a region can be computed again after it has changed its files."""

    undo: bool
    """Whether a region is kept as it was until it is changed: where it cannot be computed again,
    and no lock is what keeps others away from it."""

    through_map: tuple[bool, ...]
    """For each argument whether the kernel may store into the file's own pages."""

    release: bool
    """Whether workers let go of a region's file pages after it."""

    workers: int
    """Workers it was made for: this decides how regions are put together into tasks."""

    lock_dir: str | None
    """Directory of the locks of arrays that name none themselves."""

    lock_timeout: float | None
    """Seconds a task waits for a lock; None: for ever."""

    engine: str
    """Name of the engine it was made for."""

    declarations: tuple[Declaration | None, ...] = field(repr=False)
    """What the user said about each argument; keeps the arrays open."""

    # What follows from the fields above, worked out once: a plan may be run thousands of times.

    accesses: tuple[Access, ...] = field(init=False, repr=False)
    """The arguments that are arrays in files."""

    regions: int = field(init=False, repr=False)
    """Number of regions."""

    tasks: int = field(init=False, repr=False)
    """Number of tasks."""

    bytes_read: int = field(init=False, repr=False)
    """Bytes of the arrays that are read, updated or accumulated into, each counted once."""

    bytes_written: int = field(init=False, repr=False)
    """Bytes of the arrays that are written, updated or accumulated into, each counted once."""

    bytes_accumulated: int = field(init=False, repr=False)
    """Bytes of what is accumulated in private: of one contribution."""

    def __post_init__(self) -> None:
        accesses = tuple(a for a in self.arguments if isinstance(a, Access))
        private = sum(a.array.nbytes for a in accesses if a.placement is Placement.PRIVATE)
        for name, value in {
            "accesses": accesses,
            "regions": len(self.grid),
            "tasks": -(-len(self.grid) // self.batch),
            "bytes_read": _bytes_of(a for a in accesses if a.privilege is not Privilege.WRITE),
            "bytes_written": _bytes_of(a for a in accesses if a.privilege is not Privilege.READ),
            "bytes_accumulated": private,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def has_footprints(self) -> bool:
        """Whether any argument has a footprint."""
        return any(d is not None and d.footprint is not None for d in self.declarations)

    def __iter__(self) -> Iterator[TaskRange]:
        return (self.task(index) for index in range(self.tasks))

    def task(self, index: int) -> TaskRange:
        """The regions of task number `index`."""
        start = index * self.batch
        stop = min(start + self.batch, len(self.grid))
        with_footprint = [d for d in self.declarations if d is not None and d.footprint is not None]
        if not with_footprint:
            return TaskRange(index, start, stop)
        footprints = []
        for region in range(start, stop):
            box = self.grid.box(region)
            boxes = tuple(footprint_box(d, box) for d in with_footprint)
            self._check_footprints(box, with_footprint, boxes)
            footprints.append(boxes)
        return TaskRange(index, start, stop, tuple(footprints))

    def _check_footprints(
        self, region: Box, declarations: list[Declaration], boxes: tuple[Box, ...]
    ) -> None:
        """Refuse a region whose footprints are larger than any that planning saw, and too large."""
        size = sum(
            box.size * d.array.dtype.itemsize for d, box in zip(declarations, boxes, strict=True)
        )
        share = (self.budget.limit - self.memory.coordinator) // self.memory.at_once
        allowed = share - self.memory.per_worker + self.memory.footprint
        if size > max(allowed, self.memory.footprint):
            raise PlanError(
                f"footprint= gives {human_bytes(size)} for region {region}, and one worker's share "
                f"of the budget leaves {human_bytes(allowed)}; make it smaller, split the domain "
                "further with region=, lower workers=, or raise memory="
            )

    def run(self, *, progress: Progress | None = None) -> Report:
        """Run the plan on the engine that it was made for, or elsewhere on the default one.

        Parameters
        ----------
        progress : bool or "auto", optional
            Whether to show progress; default: the engine's setting.
        """
        assert _run is not None
        return _run(self, progress=progress)

    def __repr__(self) -> str:
        names = ", ".join(argument.name for argument in self.arguments)
        return legible(
            f"<hyperslab.Plan: {self.kernel.name}({names}), {self.regions:,} regions in "
            f"{self.tasks:,} tasks>"
        )

    def explain(self) -> str:
        """What the plan will do, as text for a person."""
        return explain(self)


def _bytes_of(accesses: Iterable[Access]) -> int:
    """Bytes of their arrays, each counted once."""
    return sum(array.nbytes for array in {access.array for access in accesses})


_run: Callable[..., Report] | None = None


def set_runner(run: Callable[..., Report]) -> None:
    """Tell plans who runs them: planning itself knows nobody who does."""
    global _run
    _run = run
