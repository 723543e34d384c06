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
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from pathlib import Path

from hyperslab.compiler import compile_kernel, publish
from hyperslab.errors import JobInterrupted
from hyperslab.failures import lost, raise_failure
from hyperslab.merging import Merger
from hyperslab.plan import Plan
from hyperslab.pool import Death, Pool, death_of
from hyperslab.progress import ProgressDisplay
from hyperslab.report import Report, Span
from hyperslab_workers.access import Placement, Privilege
from hyperslab_workers.board import FINISHED, IDLE, Board
from hyperslab_workers.task import Job, Outcome, Task

__all__ = ["drive"]

_WAIT = 0.1
"""Seconds between two looks at the board while no outcome arrives."""

_PATIENCE = 0.5
"""Seconds that workers get to see that a job was called off before they are killed."""

_DEATHS = 2
"""Deaths of its worker after which a region is given up."""

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
    """
    started = time.monotonic()
    # Workers start while the kernel is compiled.
    pool.start()
    compiled = compile_kernel(plan.kernel, plan.types)
    compile_seconds = time.monotonic() - started
    with _job_directory(session) as directory:
        slots = _slots(plan, pool)
        board = Board.create(str(directory / "board"), slots)
        job = Job(
            kernel=publish(compiled, session),
            arguments=plan.arguments,
            grid=plan.grid,
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
            running.stop()
            raise JobInterrupted(
                f"kernel {plan.kernel.name} was interrupted after {running.regions:,} of "
                f"{plan.regions:,} regions"
            ) from None
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
        for path in directory.iterdir():
            path.unlink(missing_ok=True)
        directory.rmdir()


@dataclass(slots=True)
class _Flight:
    """A task on its way."""

    task: Task
    generation: int


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
        # How far tasks may run ahead of the merge is how many partials may have to wait.
        self._ahead = 4 * slots
        self._free = list(range(slots))
        self._next = 0
        self._done = 0
        self._again: list[int] = []
        self._suspects: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._flying: dict[Future[Outcome], _Flight] = {}
        self._landed: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
        self._repeatable = not any(
            a.privilege is Privilege.UPDATE or a.placement in (Placement.MERGE, Placement.DIRECT)
            for a in plan.accesses
        )

    def run(self) -> None:
        """Until every task is done and everything accumulated is in its file."""
        while self._done < self.plan.tasks:
            try:
                self._send()
                self._receive()
            except BrokenExecutor as error:
                self._recover(death_of(error))
        self._merger.commit(self.plan.settings)

    def stop(self) -> None:
        """Leave no task running, whatever went wrong.

        Workers look at the board before each region. Futures are not cancelled: loky's manager
        thread can die of a cancelled one, and a task called off returns at once anyway.
        """
        self._board.abort()
        waiting = list(self._flying)
        deadline = time.monotonic() + _PATIENCE
        for future in waiting:
            with contextlib.suppress(Exception):
                future.exception(timeout=max(deadline - time.monotonic(), 0.0))
        if not all(future.done() for future in waiting):
            self.pool.kill()
            for future in waiting:
                with contextlib.suppress(Exception):
                    future.exception()

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
            future, generation = self.pool.submit(task)
            # From here on the task is on its way: no exception may come between.
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
        generation = min((f.generation for f in flights.values()), default=self.pool.generation)
        if not self.pool.restart(generation):
            begun = [f.task for f in flights.values() if self._state(f.task) != IDLE]
            raise lost(self.plan, death, [(t.start, t.stop) for t in begun], replaceable=False)
        for future, flight in flights.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self._land(future)
            elif flight.generation < self.pool.generation:
                del self._flying[future]
                self._reschedule(flight, death)
                self._release(flight)

    def _state(self, task: Task) -> int:
        return self._board.state(task.slot)[0]

    def _reschedule(self, flight: _Flight, death: Death) -> None:
        """Send a lost task again, or raise where that is not safe or not useful."""
        task = flight.task
        state, region, _ = self._board.state(task.slot)
        if state == FINISHED and not self._repeatable and not self._merger.expects_partials:
            # All of it is in the file and only the answer was lost.
            self._finish(
                task, Outcome(task.index, time.monotonic(), 0.0, 0, task.stop - task.start)
            )
            return
        if state != IDLE and not self._repeatable:
            raise lost(self.plan, death, [(task.start, task.stop)])
        if state not in (IDLE, FINISHED):
            self._deaths[region] += 1
            if self._deaths[region] >= _DEATHS:
                raise lost(self.plan, death, [(region, region + 1)], times=_DEATHS)
            self._suspects.add(task.index)
        if state != IDLE:
            self.retries += 1
        heapq.heappush(self._again, task.index)
