"""Drives a plan through a pool: sends tasks, merges partials, survives dead workers.

::

    plan ──► job file + machine code ──► tasks ──► pool
                                          ▲          │ outcomes
                                          │          ▼
                             rerun ◄── dead worker?  merge partials in task order ──► Report

At most twice as many tasks as workers are in flight, so a job of any size holds a fixed
amount of memory here, and Ctrl-C has nothing to drain.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from hyperslab.compiler import compile_kernel, publish
from hyperslab.errors import JobInterrupted, PlanError
from hyperslab.planning.plan import Plan
from hyperslab.running.failures import lost, never_started, raise_failure
from hyperslab.running.interruption import exit_as_interrupted_if_uncaught, interrupts_kept
from hyperslab.running.merging import Merger
from hyperslab.running.pool import Death, Pool, death_of
from hyperslab.running.progress import ProgressDisplay
from hyperslab.running.report import Report, Span
from hyperslab_workers.access import Placement, Privilege
from hyperslab_workers.board import FINISHED, IDLE, RUNNING, WRITING, Board
from hyperslab_workers.task import Job, Outcome, Task

__all__ = ["drive"]

_WAIT = 0.1
"""Seconds between two looks at the board while no outcome arrives."""

_PATIENCE = 0.5
"""Seconds that workers get to see that a job was called off before they are killed."""

_PARTIALS = 2**30
"""Bytes of partials that may wait in scratch for an earlier task, beyond those in flight."""

_DEATHS = 2
"""Deaths of its worker after which a region is given up."""

_FALSE_STARTS = 5
"""Restarts in a row, without a task that began, after which workers are taken to be unable to
start. One or two happen where idle workers were killed."""

_COMPILED = 0.01
"""Seconds above which getting the machine code was a compilation and not a look-up."""

_TIMELINE = 100_000
"""Tasks whose times are kept: a report must not grow without bound."""

_numbers = itertools.count()


def drive(plan: Plan, pool: Pool, session: Path, progress: ProgressDisplay) -> Report:
    """Run every task of a plan and return what was done.

    Raises
    ------
    KernelError, ArrayFileError, LockTimeout
        What went wrong in a region.
    WorkerLost
        A worker died in what cannot be repeated, or a region killed its worker twice.
    JobInterrupted
        Ctrl-C.
    PlanError
        The calling thread holds a lock that the tasks would wait for.
    """
    started = time.monotonic()
    lock_roots = _lock_roots(plan)
    _check_no_lock_held(plan, lock_roots)
    try:
        with interrupts_kept():
            # Workers start while the kernel is compiled.
            pool.start()
            before = time.monotonic()
            compiled = compile_kernel(plan.kernel, plan.types, equal_shapes=plan.equal_lengths)
            compile_seconds = time.monotonic() - before
    except KeyboardInterrupt:
        raise _interrupted(plan, "before its first region") from None
    pool.lock_roots |= lock_roots
    with _job_directory(session) as directory:
        slots = _slots(plan, pool)
        board = Board.create(str(directory / "board"), slots)
        job = Job(
            kernel=publish(compiled, session),
            arguments=plan.arguments,
            grid=plan.grid,
            leaf=plan.leaf,
            buffer_orders=plan.buffer_orders,
            board=board.path,
            scratch=str(directory),
            lock_dir=plan.settings.lock_dir,
            lock_timeout=plan.settings.lock_timeout,
            ordered=plan.ordered,
        )
        path = str(directory / "job")
        job.dump(path)
        running = _Drive(plan, pool, board, path, slots, progress)
        try:
            running.run()
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                running.stop()
            done = f"after {running.regions:,} of {plan.regions:,} regions"
            if running.complete:
                done += ", when everything was in its file: do not run it again"
            raise _interrupted(plan, done) from None
        except BaseException:
            running.stop()
            raise
    return Report(
        kernel=plan.kernel.name,
        seconds=time.monotonic() - started,
        compile_seconds=compile_seconds if compile_seconds > _COMPILED else 0.0,
        regions=plan.regions,
        tasks=plan.tasks,
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        retries=running.retries,
        workers=len(running.pids),
        timeline=tuple(
            Span(o.index, t.start, t.stop, o.pid, o.started - started, o.seconds)
            for t, o in sorted(running.spans, key=lambda pair: pair[1].index)
        ),
    )


def _interrupted(plan: Plan, when: str) -> JobInterrupted:
    exit_as_interrupted_if_uncaught()
    return JobInterrupted(f"kernel {plan.kernel.name} was interrupted {when}")


def _lock_roots(plan: Plan) -> set[str | None]:
    """Where the tasks of a job will take locks; None stands for the default."""
    return {
        a.array.lock_dir or plan.settings.lock_dir
        for a in plan.accesses
        if a.guarded or a.array.shared or a.placement in (Placement.MERGE, Placement.DIRECT)
    }


def _check_no_lock_held(plan: Plan, lock_roots: set[str | None]) -> None:
    """Refuse a job that would wait for a lock which its own caller holds: for ever."""
    if not lock_roots:
        return
    from hyperslab_workers.locks import held_here

    if held := held_here():
        raise PlanError(
            f"kernel {plan.kernel.name} takes locks, and this thread holds one of {held}: its "
            "workers would wait for it for ever; leave the `with array.lock(...)` block before "
            "running the job, which takes the locks that it needs"
        )


def _slots(plan: Plan, pool: Pool) -> int:
    """Tasks in flight: one running and one waiting per worker, fewer where memory is short."""
    if plan.ordered and not pool.starts_in_order:
        # A region waits for its turn while it occupies a worker. If later tasks may start
        # first, all workers could be waiting for one that has not started.
        return 1
    if plan.memory.at_once < pool.concurrency:
        return plan.memory.at_once
    return 2 * pool.concurrency


@contextlib.contextmanager
def _job_directory(session: Path) -> Iterator[Path]:
    # Names are never reused: workers know a job by its path.
    directory = session / f"job-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        # Not by rmtree at once, which takes as long as launching the job did.
        with contextlib.suppress(OSError):
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
        # Should a thread of a foreign pool leave a last partial there, it goes with the session.
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=True)


@dataclass(slots=True)
class _Flight:
    """A task on its way."""

    task: Task
    generation: int


@dataclass(frozen=True, slots=True)
class _Lost:
    """A task whose worker is gone, with what the board said of it."""

    task: Task
    state: int
    region: int
    worker: int


class _Drive:
    """The state of one running job."""

    def __init__(
        self,
        plan: Plan,
        pool: Pool,
        board: Board,
        job: str,
        slots: int,
        progress: ProgressDisplay,
    ) -> None:
        self.plan = plan
        self.pool = pool
        self.retries = 0
        self.regions = 0
        self.pids: set[int] = set()
        self.spans: list[tuple[Task, Outcome]] = []
        self._board = board
        self._job = job
        self._progress = progress
        self._merger = Merger(plan)
        # How far tasks may run ahead of the merge is how many partials may have to wait in
        # scratch, which may be memory.
        waiting = plan.bytes_of_partials
        self._ahead = max(slots, min(4 * slots, _PARTIALS // waiting if waiting else 4 * slots))
        self._free = list(range(slots))
        self._next = 0
        self._done = 0
        self._again: list[int] = []
        self._suspects: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._false_starts = 0
        self._generation = pool.generation
        self._flying: dict[Future[Outcome], _Flight] = {}
        self._landed: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
        self._repeatable = not any(
            a.privilege is Privilege.UPDATE or a.placement in (Placement.MERGE, Placement.DIRECT)
            for a in plan.accesses
        )

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do, totals included."""
        merged = self._merger.committed or not self._merger.expects_partials
        return merged and self._done >= self.plan.tasks

    def run(self) -> None:
        """Until every task is done and everything accumulated is in its file."""
        while self._done < self.plan.tasks:
            try:
                self._send()
                self._receive()
            except self.pool.losses as error:
                self._recover(death_of(error))
        self._merger.commit(self.plan.settings)

    def stop(self) -> None:
        """Leave no task running, whatever went wrong.

        Workers look at the board before each region and each write. Futures are not cancelled:
        loky's manager thread can die of a cancelled one, and a task called off returns at once
        anyway.
        """
        self._board.abort()
        deadline = time.monotonic() + _PATIENCE
        # A second Ctrl-C means: no patience.
        with contextlib.suppress(KeyboardInterrupt):
            while self._busy(RUNNING, WRITING) and time.monotonic() < deadline:
                time.sleep(0.002)
        if self._busy(RUNNING, WRITING) and not self.pool.kill():
            # What the others compute now they will not write; writes that have begun are
            # waited for.
            while self._busy(WRITING):
                time.sleep(0.002)

    def _busy(self, *states: int) -> bool:
        """Whether a task is in one of these states.

        By the board and not by the futures alone: Ctrl-C may have come between the submission
        of a task and its entry in the table.
        """
        over = {flight.task.slot for future, flight in self._flying.items() if future.done()}
        return any(
            self._board.state(slot)[0] in states
            for slot in range(self._board.slots)
            if slot not in over
        )

    def _send(self) -> None:
        """Fill the pool, lowest task first: an ordered merge relies on it."""
        while self._free and (not self._suspects or not self._flying):
            if self._again:
                index = self._again[0]
            elif self._next < min(self.plan.tasks, self._merger.frontier + self._ahead):
                index = self._next
            else:
                return
            part = self.plan.task(index)
            slot = self._free[-1]
            self._board.clear(slot)
            task = Task(self._job, index, part.start, part.stop, slot, part.footprints)
            self._generation = self.pool.generation
            future, generation = self.pool.submit(task)
            self._flying[future] = _Flight(task, generation)
            self._free.pop()
            if self._again:
                heapq.heappop(self._again)
            else:
                self._next += 1
            future.add_done_callback(self._landed.put)

    def _receive(self) -> None:
        """Take every outcome that has arrived; wait a moment for the first."""
        with contextlib.suppress(queue.Empty):
            self._land(self._landed.get(timeout=_WAIT))
            while True:
                self._land(self._landed.get_nowait())
        self._progress.update(self.regions + self._board.regions_done())

    def _land(self, future: Future[Outcome]) -> None:
        flight = self._flying.get(future)
        if flight is None:
            return  # of a pool that has been replaced; its task was dealt with then
        outcome = future.result()
        del self._flying[future]
        self._release(flight)
        if outcome.failure is not None:
            raise_failure(outcome.failure, self.plan)
        self._finish(flight.task, outcome)

    def _release(self, flight: _Flight) -> None:
        self._board.clear(flight.task.slot)
        self._free.append(flight.task.slot)

    def _finish(self, task: Task, outcome: Outcome) -> None:
        self.pids.add(outcome.pid)
        if len(self.spans) < _TIMELINE:
            self.spans.append((task, outcome))
        self._suspects.discard(task.index)
        self._false_starts = 0
        self._done += 1
        self.regions += task.stop - task.start
        self._merger.add(outcome)

    def _recover(self, death: Death) -> None:
        """Go on after a worker died.

        loky has killed the healthy workers too, so everything in flight is looked up on the
        board. What had not begun is sent again. What had begun is sent again one task at a
        time, because any of them may be the one that kills.
        """
        flights = dict(self._flying)
        generation = min((f.generation for f in flights.values()), default=self._generation)
        restarted = self.pool.restart(generation)
        gone: list[_Lost] = []
        for future, flight in flights.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self._land(future)
            elif not restarted or flight.generation < self.pool.generation:
                state, region, _ = self._board.state(flight.task.slot)
                gone.append(_Lost(flight.task, state, region, self._board.worker(flight.task.slot)))
                del self._flying[future]
                self._release(flight)
        begun = [(g.region, g.region + 1) for g in gone if g.state != IDLE and not self._saved(g)]
        if not restarted:
            raise lost(self.plan, death, begun, replaceable=False)
        if begun and not self._repeatable:
            raise lost(self.plan, death, begun)
        if not begun:
            self._false_starts += 1
            if self._false_starts >= _FALSE_STARTS:
                raise never_started(self.plan, death, self._false_starts)
        for task in gone:
            self._reschedule(task, death)

    def _saved(self, gone: _Lost) -> bool:
        """Whether all of a lost task is in its files, and only the answer was lost."""
        return gone.state == FINISHED and not self._merger.expects_partials

    def _reschedule(self, gone: _Lost, death: Death) -> None:
        """Send a lost task again, or raise where that is not useful."""
        task = gone.task
        if self._saved(gone):
            regions = task.stop - task.start
            self._finish(task, Outcome(task.index, time.monotonic(), 0.0, gone.worker, regions))
            return
        if gone.state != IDLE:
            self.retries += 1
        if gone.state in (RUNNING, WRITING):
            self._deaths[gone.region] += 1
            if self._deaths[gone.region] >= _DEATHS:
                raise lost(self.plan, death, [(gone.region, gone.region + 1)], times=_DEATHS)
            self._suspects.add(task.index)
        heapq.heappush(self._again, task.index)
