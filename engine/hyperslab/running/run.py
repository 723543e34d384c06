"""One run of a plan: sends tasks, merges what they accumulate, survives dead workers.

::

    plan ──► prepared ──► window ── tasks ──► channel ──► workers
                            ▲                    │ events
                            │                    ▼
                       recovery ◄── lost?     standing, merging ──► Report

A fixed number of tasks is under way, so a run of any size holds a fixed amount of memory here,
and Ctrl-C has nothing to drain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import Counter
from typing import Any

from hyperslab.errors import ArrayFileError, HyperslabError, JobInterrupted, PlanError, WorkerLost
from hyperslab.interruption import exit_as_interrupted_if_uncaught
from hyperslab.planning.plan import Plan
from hyperslab.pools.death import Death
from hyperslab.pools.protocol import Answered, Channel, Event, Lost
from hyperslab.running.failures import error_of, lost, never_started
from hyperslab.running.merging import Merger
from hyperslab.running.prepare import Prepared
from hyperslab.running.progress import ProgressDisplay
from hyperslab.running.recovery import Verdict, verdict
from hyperslab.running.report import Report, Span
from hyperslab.running.residence import may_store_through_map
from hyperslab.running.slots import give_back, reserve
from hyperslab.running.standing import Standing
from hyperslab.running.window import Window
from hyperslab.underway import call_off_if_asked
from hyperslab_workers import mapping
from hyperslab_workers.board import RUNNING, WRITING, Mark
from hyperslab_workers.host import REFUSALS, refused
from hyperslab_workers.task import Failure, Task
from hyperslab_workers.undo import restore

__all__ = ["drive", "interrupted"]

_WAIT = 0.1
"""Seconds between two looks at the board while no event arrives."""

_PATIENCE = 0.5
"""Seconds that workers get to see that a run was called off before they are killed."""

_DEATHS = 2
"""Deaths of its worker after which a region is given up."""

_FALSE_STARTS = 5
"""Deaths in a row of workers that began no task, after which they are taken to be unable to
start. One or two happen where idle workers were killed."""

_TIMELINE = 100_000
"""Tasks whose times are kept: a report must not grow without bound."""

_ASKED = 65_536
"""Regions up to which every footprint is asked before a run begins: some hundredths of a
second. Of more, what is refused comes out on the way."""


def drive(plan: Plan, prepared: Prepared, progress: ProgressDisplay, started: float) -> Report:
    """Run every task of a plan and return what was done.

    Raises
    ------
    KernelError, ArrayFileError, LockTimeout
        What went wrong in a region.
    WorkerLost
        A worker died in what cannot be repeated, or a region killed its worker twice.
    JobInterrupted
        Ctrl-C.
    HyperslabError
        There is no room in scratch any more.
    PlanError
        A footprint is no box of its array, or the calling thread holds a lock that the tasks
        would wait for. Nothing was touched.
    """
    pool = prepared.pool
    if prepared.lock_roots:
        _check_no_lock_held(plan)
        pool.lock_roots |= prepared.lock_roots
    if plan.has_footprints and plan.regions <= _ASKED:
        for index in range(plan.tasks):
            plan.task(index)
    through_map = pool.capabilities.ends and may_store_through_map(plan, prepared.runs)
    slots = prepared.line.program.slots
    if slots is not None and prepared.runs:
        reserve(slots, plan, again=True)
    channel = pool.open(prepared.line)
    try:
        run = _Run(plan, prepared, channel, progress, through_map)
        run.perform()
    finally:
        channel.close()
        if slots is not None:
            give_back(slots, plan)
    prepared.runs += 1
    compile_seconds, prepared.compile_seconds = prepared.compile_seconds, 0.0
    return Report(
        kernel=plan.kernel.name,
        seconds=time.monotonic() - started,
        compile_seconds=compile_seconds,
        regions=plan.regions,
        tasks=plan.tasks,
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        retries=run.retries,
        workers=len(run.pids),
        route=pool.route,
        timeline=tuple(run.timeline(started)),
    )


def interrupted(plan: Plan, when: str) -> JobInterrupted:
    """The error for Ctrl-C."""
    exit_as_interrupted_if_uncaught()
    return JobInterrupted(f"kernel {plan.kernel.name} was interrupted {when}")


def _check_no_lock_held(plan: Plan) -> None:
    """Refuse a run that would wait for a lock which its own caller holds: for ever."""
    from hyperslab_workers.locks import held_here

    if held := held_here():
        raise PlanError(
            f"kernel {plan.kernel.name} takes locks, and this thread holds one of {held}: its "
            "workers would wait for it for ever; leave the `with array.lock(...)` block before "
            "running the job, which takes the locks that it needs"
        )


class _GivenUp(Exception):
    """A worker was lost in what is not run again.

    No error yet: its neighbours still work, and what is said of the regions has to hold when
    they have been called off.
    """

    def __init__(self, death: Death, **circumstances: Any) -> None:
        super().__init__()
        self._death = death
        self._circumstances = circumstances

    def error(self, plan: Plan, standing: Standing) -> WorkerLost:
        """The error, as things stand now."""
        return lost(plan, self._death, standing, **self._circumstances)


class _Run:
    """The state of one run."""

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        channel: Channel,
        progress: ProgressDisplay,
        through_map: bool,
    ) -> None:
        self.retries = 0
        self.pids: set[int] = set()
        self._plan = plan
        self._program = prepared.line.program
        self._channel = channel
        self._restartable = prepared.pool.capabilities.restartable
        self._progress = progress
        self._merger = Merger(plan, prepared.line.program)
        self._window = Window(plan, prepared.line.path, self._merger, through_map=through_map)
        self._standing = Standing(plan)
        self._spans: list[tuple[Task, float, float, int]] = []
        self._deaths: Counter[int] = Counter()
        self._undone_tickets: set[int] = set()
        self._flying = 0
        self._done = 0

    def perform(self) -> None:
        """Until every task is done and everything accumulated is in its file."""
        try:
            while self._done < self._plan.tasks or not self._merger.complete:
                call_off_if_asked()
                self._send()
                self._take(self._channel.receive(_WAIT))
                self._channel.acknowledge()
                self._progress.update(self._standing.regions_done + self._channel.regions_done())
            self._commit()
            self._check_files()
        except KeyboardInterrupt:
            self._call_off()
            done = f"after {self._standing.regions_done:,} of {self._plan.regions:,} regions"
            raise self._told(interrupted(self._plan, f"{done}; {self._standing.words()}")) from None
        except _GivenUp as loss:
            self._call_off()
            raise self._told(loss.error(self._plan, self._standing)) from None
        except HyperslabError as error:
            self._call_off()
            raise self._told(error) from None
        except REFUSALS as error:
            self._call_off()
            what = f"kernel {self._plan.kernel.name} cannot go on"
            raise self._told(refused(what, error)) from error
        except BaseException:
            self._call_off()
            raise

    def _told(self, error: HyperslabError) -> HyperslabError:
        """The error, with what became of the regions."""
        standing = self._standing
        if self._plan.regions:
            error.regions = standing.spans()
        said = isinstance(error, WorkerLost | JobInterrupted)
        if not said and (not self._plan.repeatable or standing.totals in ("in doubt", "done")):
            text = str(error)
            error.args = (text + ("\n  " if "\n" in text else "; ") + standing.words(),)
        return error

    def _send(self) -> None:
        """Fill the channel, lowest task first: an ordered merge relies on it."""
        room = self._channel.capacity - self._flying
        tasks: list[Task] = []
        while len(tasks) < room:
            try:
                task = self._window.take()
            except PlanError as error:
                raise HyperslabError(f"{error}; this came out when the job was under way") from None
            if task is None:
                break
            if not self._plan.ordered:
                tasks.append(task)
            elif self._channel.accepts(task):
                self._flying += 1
                room -= 1
                self._channel.send([task])
            else:
                self._window.put_back(task)
                break
        if tasks:
            self._flying += len(tasks)
            self._channel.send(tasks)

    def _take(self, events: list[Event]) -> None:
        """Note all that has happened, and then act on what went wrong."""
        wrong: list[HyperslabError] = []
        losses: list[tuple[Lost, Verdict]] = []
        for event in events:
            self._flying -= 1
            if isinstance(event, Lost):
                losses.append((event, self._note_loss(event)))
            elif event.outcome.failure is None:
                self._finish(event)
            elif self._note_failure(event.task, event.outcome.failure):
                wrong.append(error_of(event.outcome.failure, self._plan))
        for event, what in losses:
            self._recover(event, what)
        if wrong:
            raise wrong[0]

    def _note_failure(self, task: Task, failure: Failure) -> bool:
        """What a task that failed left behind; False where it was only called off."""
        if task.merge is None:
            self._standing.done(task.start, failure.reached)
            if failure.torn or (task.through_map and failure.kind != "called off"):
                self._standing.in_doubt(failure.reached, failure.reached + 1)
        return failure.kind != "called off"

    def _note_loss(self, event: Lost) -> Verdict:
        what = verdict(event.task, self._undone(event), self._plan)
        self._standing.done(*what.done)
        self._standing.in_doubt(*what.torn)
        return what

    def _undone(self, event: Lost) -> Mark | None:
        """What the board said of a lost task, once the region it was changing is what it was."""
        mark = event.mark
        if mark is None or mark.state != WRITING or event.undo is None or not self._program.undo:
            return mark
        if mark.ticket in self._undone_tickets:  # Told again.
            return mark._replace(state=RUNNING)
        try:
            restored = restore(event.undo, self._program, mark.ticket, mark.region)
        except HyperslabError:
            return mark  # In doubt: its file cannot be written any more.
        if not restored:
            return mark
        self._undone_tickets.add(mark.ticket)
        with contextlib.suppress(OSError):
            os.unlink(event.undo)
        return mark._replace(state=RUNNING)

    def _finish(self, event: Answered) -> None:
        task, outcome = event.task, event.outcome
        if task.merge is not None:
            self._merger.merged(task.slot)
            return
        self.pids.add(outcome.pid)
        if len(self._spans) < _TIMELINE:
            self._spans.append((task, outcome.started, outcome.seconds, outcome.pid))
        self._done += 1
        self._standing.done(task.start, task.stop)
        self._merger.add(task.index, task.slot)

    def _recover(self, event: Lost, what: Verdict) -> None:
        """Go on after a worker died."""
        task, mark, death = event.task, event.mark, event.death
        region = mark.region if mark is not None and task.merge is None else None
        if not what.repaired or not self._restartable:
            raise _GivenUp(event.death, region=region, replaceable=self._restartable)
        if death.false_starts >= _FALSE_STARTS:
            raise never_started(self._plan, death, death.false_starts)
        if what.again is None:
            self._done += 1
            self._merger.add(task.index, task.slot)
            return
        if mark is not None and not death.ours:
            self.retries += 1
            if region is not None:
                self._deaths[region] += 1
                if (times := self._deaths[region]) >= _DEATHS:
                    raise _GivenUp(death, region=region, times=times)
        self._window.put_back(_from(task, what.again))

    def _commit(self) -> None:
        try:
            self._merger.commit()
        finally:
            if self._merger.began:
                self._standing.totals = "done" if self._merger.committed else "in doubt"

    def _check_files(self) -> None:
        """See that the files are what they were, now that nothing more will be written.

        Each task has looked at its beginning. Who truncates a file later, or puts another one in
        its place, takes from it what was written: no task would notice after the last one.
        """
        try:
            for access in self._plan.accesses:
                mapping.verify_still(access.array)
        except ArrayFileError:
            self._standing.nothing_is_sure()
            raise

    def _call_off(self) -> None:
        """Leave no task running, whatever went wrong; note how far those came that were."""
        patience = _PATIENCE
        while True:
            try:
                # Some of it may have been noted before, which is the same as once.
                for event in self._channel.call_off(patience):
                    if isinstance(event, Lost):
                        self._note_loss(event)
                    elif event.outcome.failure is not None:
                        self._note_failure(event.task, event.outcome.failure)
                    elif event.task.merge is None:
                        self._standing.done(event.task.start, event.task.stop)
                return
            except KeyboardInterrupt:
                patience = 0.0

    def timeline(self, started: float) -> list[Span]:
        """Every task in time, in task order."""
        return [
            Span(task.index, task.start, task.stop, pid, began - started, seconds)
            for task, began, seconds, pid in sorted(
                self._spans, key=lambda span: (span[0].index, span[0].start)
            )
        ]


def _from(task: Task, region: int) -> Task:
    """The rest of a task."""
    footprints = task.footprints[region - task.start :]
    return dataclasses.replace(task, start=region, footprints=footprints)
