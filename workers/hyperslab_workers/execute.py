"""``execute(task)``: the one call that a pool makes.

::

    Task ──► job (read once) ──► for each region:
                 locks ──► map ──► kernel ──► write back ──► unlock
             ──► Outcome

Nothing is raised: what goes wrong comes back as a :class:`~hyperslab_workers.task.Failure`,
because an exception that cannot be pickled takes the whole pool down with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from hyperslab_workers.bindings import Binding, PrivateBinding, bind
from hyperslab_workers.board import Board
from hyperslab_workers.box import Box
from hyperslab_workers.errors import ArrayFileError, HyperslabError, LockTimeout
from hyperslab_workers.kernel import KernelRaised, load
from hyperslab_workers.task import Failure, Job, Outcome, Partial, Task

__all__ = ["execute"]

_SENT_WHOLE = 64 * 1024
"""Partials of up to this many bytes in all travel in the Outcome: a pipe's buffer holds as much."""

_LOOK_UP = 1.0
"""Seconds after which a wait for a lock is interrupted to see whether the job was called off."""

_KEPT_JOBS = 4
_KEPT_BYTES = 64 * 2**20

_thread = threading.local()


class _Aborted(Exception):
    """The job was called off."""


def execute(task: Task) -> Outcome:
    """Run the kernel on every region of a task.

    Safe in any thread and process that can reach the files; two tasks of one job never run
    in one thread at a time, so each thread keeps its own bindings and buffers.
    """
    started = time.monotonic()
    run: _Run | None = None
    partials: tuple[Partial, ...] = ()
    failure = None
    try:
        run = _run_of(task.job)
        partials = run.perform(task)
    except _Aborted:
        failure = Failure("aborted", "the job was called off")
    except BaseException as error:
        failure = _failure(error, run)
    finally:
        if run is not None and run.buffered > _KEPT_BYTES:
            _jobs().pop(task.job, None)
    return Outcome(
        index=task.index,
        started=started,
        seconds=time.monotonic() - started,
        pid=os.getpid(),
        regions=run.done if run is not None else 0,
        partials=partials,
        failure=failure,
    )


class _Run:
    """A job as one thread of one process sees it."""

    def __init__(self, path: str) -> None:
        self.job = Job.load(path)
        self.done = 0
        self.current: int | None = None
        self._kernel = load(self.job.kernel)
        self._board = Board(self.job.board)
        self._bindings = tuple(
            bind(argument, order)
            for argument, order in zip(self.job.arguments, self.job.buffer_orders, strict=True)
        )
        self._guarding = [b for b in self._bindings if b.guards_region]
        self._merging = [b for b in self._bindings if b.guards_commit]
        self._in_place = any(b.in_place for b in self._bindings)

    @property
    def buffered(self) -> int:
        """Bytes of the buffers kept from task to task."""
        return sum(b._memory.nbytes for b in self._bindings if hasattr(b, "_memory"))

    def perform(self, task: Task) -> tuple[Partial, ...]:
        """Run all regions; raise whatever goes wrong, with :attr:`current` telling where."""
        self.done, self.current = 0, None
        partials: list[Partial] = []
        self._board.begin(task.slot, task.start, os.getpid())
        try:
            for binding in self._bindings:
                binding.begin_task()
            for index in range(task.start, task.stop):
                if self._board.aborted:
                    raise _Aborted
                self.current = index
                self._board.region(task.slot, index, self.done)
                self._region(task, index)
                self.done += 1
                if (index + 1) % self.job.leaf == 0 or index + 1 == task.stop:
                    partials += self._partials(task, index)
            self.current = None
        except BaseException:
            self._board.fail(task.slot)
            raise
        finally:
            for binding in self._bindings:
                binding.end_task()
        self._board.finish(task.slot, self.done)
        return tuple(partials)

    def _region(self, task: Task, index: int) -> None:
        region = self.job.grid.box(index)
        boxes = iter(task.footprints[index - task.start] if task.footprints else ())
        for binding in self._bindings:
            footprint = next(boxes, None) if binding.guards_commit else None
            binding.locate(region, footprint)
        if self._guarding:
            # The turn is awaited before any lock is taken: a region that holds a lock while
            # it waits for an earlier one that needs the lock would wait for ever.
            self._await_turn(index)
            with self._locks(self._guarding + self._merging):
                if self._in_place:
                    self._begin_writing(task)
                self._compute(region)
                self._commit(task)
        else:
            self._compute(region)
            if self._merging:
                self._await_turn(index)
                with self._locks(self._merging):
                    self._commit(task)
            else:
                self._commit(task)
        if self.job.ordered:
            self._board.turn = index + 1

    def _compute(self, region: Box) -> None:
        self._kernel(*[binding.prepare(region) for binding in self._bindings])

    def _begin_writing(self, task: Task) -> None:
        # In this order: whoever calls the job off either sees the mark and waits for the
        # write, or has called it off before the mark, and the write does not happen.
        self._board.writing(task.slot)
        if self._board.aborted:
            raise _Aborted

    def _commit(self, task: Task) -> None:
        self._begin_writing(task)
        for binding in self._bindings:
            binding.commit()

    @contextlib.contextmanager
    def _locks(self, bindings: list[Binding]) -> Iterator[None]:
        """Hold the locks of what the region touches: all in one ordered call."""
        from hyperslab_workers.locks import Guard, hold_all, lock_for

        guards = [
            Guard(lock_for(b.array, self.job.lock_dir), b.array.extent(b.touched), b.exclusive)
            for b in bindings
            if b.array is not None
        ]
        timeout = self.job.lock_timeout
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(hold_all(guards, _LOOK_UP if timeout is None else timeout))
                    break
                except LockTimeout:
                    if timeout is not None:
                        raise
                    # Threads of a foreign pool cannot be killed while they wait for ever.
                    if self._board.aborted:
                        raise _Aborted from None
            yield

    def _await_turn(self, index: int) -> None:
        """Wait until every earlier region has been merged.

        It ends, because tasks are started in region order: the earliest region not yet
        merged is always being worked on and waits for nobody.
        """
        if not self.job.ordered:
            return
        pause = 0.0001
        while self._board.turn < index:
            if self._board.aborted:
                raise _Aborted
            time.sleep(pause)
            pause = min(pause * 1.5, 0.002)

    def _partials(self, task: Task, index: int) -> Iterator[Partial]:
        """What the leaf that ends with that region has accumulated in private."""
        leaves = -(-(task.stop - task.start) // self.job.leaf)
        for position, binding in enumerate(self._bindings):
            if not isinstance(binding, PrivateBinding):
                continue
            if leaves * binding.values.nbytes <= _SENT_WHOLE:
                yield Partial(position, binding.values.tobytes(), None)
            else:
                path = Path(self.job.scratch) / f"partial-{task.index}-{index}-{position}"
                binding.values.tofile(path)
                yield Partial(position, None, str(path))
            binding.begin_leaf()


def _jobs() -> OrderedDict[str, _Run]:
    jobs: OrderedDict[str, _Run] | None = getattr(_thread, "jobs", None)
    if jobs is None:
        jobs = _thread.jobs = OrderedDict()
    return jobs


def _run_of(path: str) -> _Run:
    """The job's run of this thread; the files of jobs have names that are never reused."""
    jobs = _jobs()
    run = jobs.get(path)
    if run is None:
        # The buffers of jobs that are over are in no budget: they go before new ones come.
        for known in [known for known in jobs if not os.path.exists(known)]:
            del jobs[known]
        run = jobs[path] = _Run(path)
        while len(jobs) > _KEPT_JOBS:
            jobs.popitem(last=False)
    else:
        jobs.move_to_end(path)
    return run


def _failure(error: BaseException, run: _Run | None) -> Failure:
    region = run.current if run is not None else None
    name = type(error).__name__
    match error:
        case KernelRaised():
            place = f'File "{error.filename}", line {error.line}, in {error.function}'
            return Failure("kernel", error.message, region, error.type_name, place)
        case KeyboardInterrupt():
            return Failure("interrupted", "Ctrl-C", region, name)
        case LockTimeout():
            return Failure("lock", str(error), region, name)
        case ArrayFileError():
            return Failure("file", str(error), region, name)
        case MemoryError():
            return Failure("memory", str(error) or "out of memory", region, name)
        case HyperslabError():
            return Failure("internal", str(error), region, name)
        case OSError():
            return Failure("file", str(error), region, name, traceback.format_exc())
        case _:
            return Failure("internal", str(error), region, name, traceback.format_exc())
