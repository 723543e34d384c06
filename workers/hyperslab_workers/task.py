"""The messages: a Task goes down to a worker, an Outcome comes back.

What all tasks of a job have in common, the :class:`Job`, is written once into a file that
each worker reads once; a task names that file and its own range of regions. So a task is a
few hundred bytes, whatever the arrays, the kernel or the number of regions.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import Any, Literal

from hyperslab_workers.access import Access
from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import KernelRef

__all__ = ["Argument", "Failure", "Job", "Origin", "Outcome", "Partial", "Task", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """An argument that is sent as it is: a scalar, or a small array."""

    name: str
    """The argument's name in the kernel."""

    value: Any
    """What the kernel gets; an array is read-only there."""


@dataclass(frozen=True, slots=True)
class Origin:
    """An argument that tells the kernel where in the domain its region starts."""

    name: str
    """The argument's name in the kernel."""


Argument = Access | Value | Origin


@dataclass(frozen=True, slots=True)
class Job:
    """All that the tasks of one job have in common."""

    kernel: KernelRef
    """The machine code."""

    arguments: tuple[Argument, ...]
    """What the kernel is called with, in order."""

    grid: Grid
    """The regions."""

    leaf: int
    """Consecutive regions over which a private accumulation runs; tasks are whole leaves."""

    buffer_orders: tuple[Literal["C", "F"], ...]
    """For each argument the memory order of a private copy of it, "C" or "F"."""

    board: str
    """File of the job's :class:`~hyperslab_workers.board.Board`."""

    scratch: str
    """Directory for partial results too large to be sent."""

    lock_dir: str | None
    """Directory of the locks of arrays that name none themselves."""

    lock_timeout: float | None
    """Seconds to wait for a lock; None: for ever."""

    ordered: bool
    """Whether merges into files happen in region order."""

    def dump(self, path: str) -> None:
        """Write the job where its tasks will look for it; complete before the name appears."""
        temporary = f"{path}.tmp"
        with open(temporary, "wb") as file:
            pickle.dump(self, file, protocol=5)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str) -> Job:
        """Read a job that :meth:`dump` wrote."""
        with open(path, "rb") as file:
            job = pickle.load(file)
        assert isinstance(job, cls)
        return job


@dataclass(frozen=True, slots=True)
class Task:
    """A run of consecutive regions for one worker."""

    job: str
    """File of the :class:`Job`."""

    index: int
    """Number of the task in its job."""

    start: int
    """First region."""

    stop: int
    """One past the last region."""

    slot: int
    """Row of the board on which the worker says what it is doing."""

    footprints: tuple[tuple[Box, ...], ...] = ()
    """For each region the box of every argument that has a footprint, in argument order."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task did not finish, as plain data: no exception object crosses processes."""

    kind: str
    """"kernel", "file", "lock", "memory", "aborted", "interrupted" or "internal"."""

    message: str
    """What happened."""

    region: int | None = None
    """The region at which it happened."""

    type_name: str = ""
    """Type of the exception."""

    traceback: str = ""
    """For an internal error, where it came from."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The contribution of a task's leaf to an accumulated array."""

    argument: int
    """Which argument it belongs to."""

    data: bytes | None
    """The elements in C order, or None where they lie in a file."""

    path: str | None
    """The file, where they are too large to be sent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    index: int
    """Number of the task in its job."""

    started: float
    """``time.monotonic()`` when it began; one clock for all processes of a machine."""

    seconds: float
    """How long it took."""

    pid: int
    """Who did it."""

    regions: int
    """Regions finished."""

    partials: tuple[Partial, ...] = ()
    """Contributions to accumulated arrays, in the order of their leaves."""

    failure: Failure | None = None
    """What went wrong, if anything did."""
