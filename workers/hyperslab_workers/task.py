"""The messages: a Task goes down to a worker, an Outcome comes back.

What all tasks of a plan have in common, the :class:`Program`, is written once into a file that
each worker reads once; a task names that file and its own range of regions. So a task is a
few hundred bytes, whatever the arrays, the kernel or the number of regions.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hyperslab_workers.access import Access
from hyperslab_workers.box import Box, Grid
from hyperslab_workers.fresh_file import write_fresh, write_in_place
from hyperslab_workers.kernel import KernelRef
from hyperslab_workers.owned import read_own

__all__ = ["Argument", "Failure", "Origin", "Outcome", "Program", "Slots", "Task", "Value"]


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
class Slots:
    """Shared memory for the contributions of tasks to accumulated arrays."""

    path: str
    """The file that holds it."""

    count: int
    """Number of slots; each has room for one contribution to every such array."""


@dataclass(frozen=True, slots=True)
class Program:
    """All that the tasks of one plan have in common."""

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

    through_map: tuple[bool, ...]
    """For each argument whether the kernel may store into the file's own pages."""

    slots: Slots | None
    """Where private accumulations are left to be merged; None where there are none."""

    lock_dir: str | None
    """Directory of the locks of arrays that name none themselves."""

    lock_timeout: float | None
    """Seconds to wait for a lock; None: for ever."""

    ordered: bool
    """Whether merges into files happen in region order."""

    memory: int
    """Bytes of buffers that one worker may hold for it."""

    undo: bool = False
    """Whether a region is kept as it was before it is changed."""

    release: bool = False
    """Whether mapped pages are let go after each region."""

    def dump(self, path: str) -> None:
        """Write the program where its tasks will look for it.

        The name is new and known to nobody before the first task is sent, so it need not appear
        whole.
        """
        write_fresh(path, pickle.dumps(self, protocol=5))

    @classmethod
    def load(cls, path: str) -> Program:
        """Read a program that :meth:`dump` wrote, as this user."""
        program = pickle.loads(read_own(path))
        assert isinstance(program, cls)
        return program


@dataclass(frozen=True, slots=True)
class Task:
    """A span of consecutive regions for one worker, or a merge of two contributions."""

    program: str
    """File of the :class:`Program`."""

    index: int
    """Number of the task in its run."""

    start: int
    """First region."""

    stop: int
    """One past the last region."""

    slot: int = 0
    """Where its contribution to accumulated arrays goes."""

    merge: tuple[int, int] | None = None
    """Combine these two slots, in this order, into `slot`, and compute nothing."""

    through_map: bool = False
    """Whether results are stored into the file's own pages, where the program allows it."""

    footprints: tuple[tuple[Box, ...], ...] = ()
    """For each region the box of every argument that has a footprint, in argument order."""


class Failure(NamedTuple):
    """Why a task did not finish, as plain data: no exception object crosses processes."""

    kind: str
    """"kernel", "file", "lock", "memory", "called off", "interrupted" or "internal"."""

    message: str
    """What happened."""

    region: int | None = None
    """The region at which it happened."""

    type_name: str = ""
    """Type of the exception."""

    traceback: str = ""
    """For an internal error, where it came from."""

    reached: int = 0
    """The region to which the task had come: every earlier one of it is done."""

    torn: bool = False
    """Whether it was just changing a file for that region."""


class Outcome(NamedTuple):
    """What became of a task."""

    started: float
    """``time.monotonic()`` when it began; one clock for all processes of a machine."""

    seconds: float
    """How long it took."""

    pid: int
    """Who did it."""

    failure: Failure | None = None
    """What went wrong, if anything did."""


def write_aside(value: object, path: str) -> None:
    """Pickle a value into a file that appears whole: what is too large for a pipe."""
    write_in_place(path, pickle.dumps(value, protocol=5), f"{path}.part")
