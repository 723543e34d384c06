"""The seam between the coordinator and whoever performs its tasks.

::

    coordinator ── send(task) ──► Channel ── perform(task) ──► worker
         ▲                                                        │
         └──── Answered(task, outcome) or Lost(task, mark) ◄──────┘

A :class:`Pool` is there for as long as its engine; a :class:`Channel` is one run's line to it.
Whoever runs at the same time on the same pool has another channel and is not disturbed. A
message down, a message up; what became of a task whose worker died is read off the board and
told as it is, and what to do about it is not decided here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from hyperslab.pools.death import Death
from hyperslab_workers.board import Mark
from hyperslab_workers.task import Outcome, Program, Task

__all__ = ["Answered", "Capabilities", "Channel", "Event", "Line", "Lost", "Pool", "Route"]


class Capabilities(NamedTuple):
    """What a pool can do, and what it may do to a run."""

    in_order: bool
    """Whether tasks start in the order in which they were sent."""

    restartable: bool
    """Whether workers that died are replaced."""

    loses: Literal["nothing", "one", "all"]
    """What the death of one worker takes with it: its own task, or those of all others too."""

    ends: bool
    """Whether a run that is called off leaves no kernel running. Where it may, kernels store into
    no file's pages: they would go on changing the file."""


class Answered(NamedTuple):
    """A task came to its end, one way or the other."""

    task: Task
    """Which one."""

    outcome: Outcome
    """What became of it."""


class Lost(NamedTuple):
    """A task whose worker is gone."""

    task: Task
    """Which one."""

    mark: Mark | None
    """What the board said of it, None where it had not begun."""

    death: Death
    """What killed the worker."""

    undo: str | None = None
    """Where it kept what it was changing, as that was before."""


Event = Answered | Lost


class Line(NamedTuple):
    """What a run asks of a pool when it opens a channel."""

    program: Program
    """What its tasks have in common."""

    path: str
    """The file in which that lies."""

    number: int
    """The program's number, never used again in this process."""

    workers: int
    """Workers that may take part."""

    ordered: bool
    """Whether tasks wait for their turn, so that none may stand behind a later one."""


class Channel(Protocol):
    """One run's line to a pool; used by one thread."""

    workers: int
    """Workers that take part."""

    capacity: int
    """Tasks that may be under way at a time, running and waiting."""

    def accepts(self, task: Task) -> bool:
        """Whether the task could be sent now; False: after another event."""

    def send(self, tasks: list[Task]) -> None:
        """Hand tasks over, in their order, as many as were accepted."""

    def receive(self, timeout: float) -> list[Event]:
        """What has happened; waits up to so many seconds for the first event.

        It is told again, here or by :meth:`call_off`, until it is acknowledged: Ctrl-C may come
        before it has been noted.
        """

    def acknowledge(self) -> None:
        """All that was told has been noted."""

    def regions_done(self) -> int:
        """Regions finished in the tasks under way, for progress."""

    def call_off(self, patience: float) -> list[Event]:
        """End what is under way; when it returns, nothing of this run computes any more.

        Workers see it before their next region and their next write, and get `patience` seconds
        for that; a write that has begun is waited for.
        """

    def close(self) -> None:
        """Give the line back. Nothing of this run may be under way."""


Route = Literal["processes", "threads", "serial", "executor"]
"""Who performs tasks, in a word: worker processes, threads of this process, the caller's own
thread, or an executor of the caller's."""


class Pool(Protocol):
    """Who performs tasks. Any thread may call any method."""

    route: Route
    """What it is."""

    workers: int
    """Tasks that can be performed at a time."""

    capabilities: Capabilities
    """What it can do."""

    directory: str
    """Where its workers look for programs; it is there from :meth:`start` on."""

    @property
    def started(self) -> bool:
        """Whether there is anybody to perform tasks yet."""

    closed: bool
    """Whether it has ended, and another one has to be made."""

    lock_roots: set[str | None]
    """Where runs had workers take locks: what killed workers leave there, the pool removes."""

    def start(self) -> None:
        """Begin to start workers, without waiting for them."""

    def open(self, line: Line) -> Channel:
        """A line for one run."""

    def close(self) -> None:
        """End the workers and leave nothing behind."""
