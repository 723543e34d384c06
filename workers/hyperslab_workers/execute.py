"""A task, from its program to its outcome: what every worker does, whoever runs it.

::

    Task ──► program (read once) ──► for each region:
                 locks ──► map ──► kernel ──► write back ──► unlock
             ──► Outcome

Nothing is raised: what goes wrong comes back as a :class:`~hyperslab_workers.task.Failure`,
because an exception that cannot be pickled takes a whole pool down with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from hyperslab_workers import floating_point, mapping
from hyperslab_workers.arena import KEPT_IDLE, Arena
from hyperslab_workers.bindings import Binding, bind
from hyperslab_workers.board import TORN, Board, Cell, Row
from hyperslab_workers.box import Box
from hyperslab_workers.errors import ArrayFileError, HyperslabError, LockTimeout
from hyperslab_workers.kernel import KernelRaised, load
from hyperslab_workers.partials import Fold, Partials
from hyperslab_workers.stepping import Stepper
from hyperslab_workers.task import Failure, Outcome, Program, Task
from hyperslab_workers.undo import Undo, undo_path

__all__ = ["execute", "idle", "perform"]

_LOOK_UP = 1.0
"""Seconds after which a wait for a lock is interrupted to see whether the run was called off."""

_KEPT_PROGRAMS = 8
_KEPT_BOARDS = 4

T = TypeVar("T")

_thread = threading.local()


class _CalledOff(Exception):
    """The run was called off."""


def execute(task: Task, board: str, row: int, ticket: int) -> Outcome:
    """Perform a task handed over by ``Executor.submit``.

    Safe in any thread and process that can reach the files; two tasks never run in one thread
    at a time, so each thread keeps its own bindings and buffers.
    """
    known = _kept("boards", _KEPT_BOARDS, board, lambda: Board(board))
    with floating_point.defaults():
        outcome = perform(task, known.rows[row], known.cells[0], ticket, undo_path(board, row))
    # Nobody tells a thread of a foreign pool when there is nothing more to do.
    idle()
    return outcome


def perform(task: Task, row: Row, cell: Cell, ticket: int, undo: str | None = None) -> Outcome:
    """Run the kernel on every region of a task, saying on the board how far it has come.

    What a region was before it is changed is kept in the file `undo`, where the task asks for that.
    """
    started = time.monotonic()
    performer: _Performer | None = None
    failure = None
    row.begin(ticket, task.start)
    row.sign(os.getpid())
    try:
        performer = _performer(task.program)
        performer.perform(task, row, cell, ticket, undo)
    except _CalledOff:
        failure = Failure("called off", "the run was called off")
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        failure = _failure(error, performer)
    if failure is not None:
        row.fail()
        mark = row.mark()
        failure = failure._replace(reached=mark.region, torn=mark.state == TORN)
    return Outcome(started, time.monotonic() - started, os.getpid(), failure)


def idle() -> None:
    """There is nothing to do: keep only as much memory as a worker may hold at rest."""
    _keep(KEPT_IDLE)
    for place in _thread.__dict__.get("undo", {}).values():
        place.let_go(KEPT_IDLE)


def _keep(most: int) -> None:
    """Give the thread's buffers back, unless they are no more than so many bytes."""
    if _arena().nbytes > most:
        performers: Iterable[_Performer] = _thread.__dict__.get("programs", {}).values()
        for performer in performers:
            performer.let_go()
        _arena().keep(most)


class _Performer:
    """A program as one thread of one process runs it."""

    def __init__(self, path: str) -> None:
        self.program = program = Program.load(path)
        self.current: int | None = None
        self._kernel = load(program.kernel)
        self._partials: Partials | None = None
        self._fold: Fold | None = None
        arena = _arena()
        if program.slots is not None:
            self._partials = Partials(program.slots, program.arguments)
            self._fold = Fold(self._partials, arena)
        self._bindings = tuple(
            bind(argument, order, arena, number, self._fold)
            for number, (argument, order) in enumerate(
                zip(program.arguments, program.buffer_orders, strict=True)
            )
        )
        self._guarding = [b for b in self._bindings if b.guards_region]
        self._merging = [b for b in self._bindings if b.guards_commit]
        self._seen: dict[int, Box] = {}
        self._in_place = any(b.in_place for b in self._bindings)
        self._stepper: Stepper | None = None
        if Stepper.serves(program, self._bindings):
            self._stepper = Stepper(program, self._kernel, self._bindings, self._fold)

    def let_go(self) -> None:
        """Forget all buffers."""
        if self._stepper is not None:
            self._stepper.let_go()

    def perform(self, task: Task, row: Row, cell: Cell, ticket: int, undo: str | None) -> None:
        """Run all regions; raise whatever goes wrong, with :attr:`current` telling where."""
        self.current = None
        if task.merge is not None:
            assert self._partials is not None
            self._partials.merge(*task.merge, task.slot)
            row.finish(task.stop, 0)
            return
        self._run = (task, row, cell)
        self._ticket = ticket
        self._undo = None
        if self.program.undo:
            self._undo = _kept("undo", _KEPT_BOARDS, undo or "", lambda: Undo(undo), paths=False)
        leaf, stop = self.program.leaf, task.stop
        try:
            for binding, allowed in zip(self._bindings, self.program.through_map, strict=True):
                binding.begin_task(allowed and task.through_map)
            stepper = self._stepper
            if stepper is not None:
                stepper.begin_task(task.through_map)
            if self._fold is not None:
                self._fold.begin(task.slot, -(-(stop - task.start) // leaf))
            for index in range(task.start, stop):
                # First of all: a run that is called off now has all of the region before.
                row.at(index, index - task.start)
                if cell.called_off:
                    raise _CalledOff
                self.current = index
                if stepper is None or not stepper.region(index, self._begin_writing):
                    self._region(index)
                if self._fold is not None and ((index + 1) % leaf == 0 or index + 1 == stop):
                    self._fold.end_leaf()
                if self.program.release:
                    self._release()
            self.current = None
        finally:
            self._release_all()
            for binding in self._bindings:
                binding.end_task()
            if self._fold is not None:
                self._fold.end()
        row.finish(stop, stop - task.start)

    def _region(self, index: int) -> None:
        task, _, cell = self._run
        region = self.program.grid.box(index)
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
                    self._begin_writing(index)
                self._compute(region)
                self._commit(index)
        else:
            self._compute(region)
            if self._merging:
                self._await_turn(index)
                with self._locks(self._merging):
                    self._commit(index)
            else:
                self._commit(index)
        if self.program.ordered:
            cell.turn = index + 1

    def _compute(self, region: Box) -> None:
        self._kernel(*[binding.prepare(region) for binding in self._bindings])

    def _begin_writing(self, index: int) -> None:
        # In this order: whoever calls the run off either sees the mark and waits for the
        # write, or has called it off before the mark, and the write does not happen.
        task, row, cell = self._run
        row.writing(index)
        if cell.called_off:
            row.at(index, index - task.start)
            raise _CalledOff

    def _commit(self, index: int) -> None:
        if self._undo is not None:
            self._undo.keep(self.program, self._ticket, index)
        if not self._in_place:  # Else the kernel has changed the file already.
            self._begin_writing(index)
        try:
            for binding in self._bindings:
                binding.commit()
        except (Exception, KeyboardInterrupt):
            if self._undo is not None:
                self._take_back(self._undo, index)
            raise

    def _take_back(self, undo: Undo, index: int) -> None:
        """After a write that failed: the region is again what it was, if that can be written."""
        task, row, _ = self._run
        with contextlib.suppress(Exception):
            if undo.take_back(self.program, self._ticket, index):
                row.at(index, index - task.start)

    def _release(self) -> None:
        """Let go of the file pages of earlier regions which this one did not touch again."""
        for number, binding in enumerate(self._bindings):
            if binding.array is None or binding.in_place:
                continue
            touched, seen = binding.touched, self._seen.get(number)
            if seen != touched:
                if seen is not None:
                    mapping.let_go(binding.array, seen)
                self._seen[number] = touched

    def _release_all(self) -> None:
        for number, box in self._seen.items():
            array = self._bindings[number].array
            assert array is not None
            mapping.let_go(array, box)
        self._seen.clear()

    @contextlib.contextmanager
    def _locks(self, bindings: list[Binding]) -> Iterator[None]:
        """Hold the locks of what the region touches: all in one ordered call."""
        from hyperslab_workers.locks import Guard, hold_all, lock_for

        guards = [
            Guard(lock_for(b.array, self.program.lock_dir), b.array.extent(b.touched), b.exclusive)
            for b in bindings
            if b.array is not None
        ]
        timeout = self.program.lock_timeout
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(hold_all(guards, _LOOK_UP if timeout is None else timeout))
                    break
                except LockTimeout:
                    if timeout is not None:
                        raise
                    # Threads of a foreign pool cannot be killed while they wait for ever.
                    if self._run[2].called_off:
                        raise _CalledOff from None
            yield

    def _await_turn(self, index: int) -> None:
        """Wait until every earlier region has been merged.

        It ends, because tasks are started in region order: the earliest region not yet
        merged is always being worked on and waits for nobody.
        """
        if not self.program.ordered:
            return
        cell = self._run[2]
        pause = 0.0001
        while cell.turn < index:
            if cell.called_off:
                raise _CalledOff
            time.sleep(pause)
            pause = min(pause * 1.5, 0.002)


def _arena() -> Arena:
    arena: Arena | None = getattr(_thread, "arena", None)
    if arena is None:
        arena = _thread.arena = Arena()
    return arena


def _performer(path: str) -> _Performer:
    """What this thread keeps of a program; their files have names that are never reused."""
    performer = _kept("programs", _KEPT_PROGRAMS, path, lambda: _Performer(path))
    if getattr(_thread, "last", None) is not performer:
        # What other programs needed is in no budget of this one, for which its own memory comes on
        # top: no more of it stays than an idle worker may hold.
        _keep(min(performer.program.memory, KEPT_IDLE))
        _thread.last = performer
    return performer


def _kept(name: str, most: int, path: str, make: Callable[[], T], *, paths: bool = True) -> T:
    """What this thread keeps for a path, made now if it is new.

    With `paths`, what belongs to a path that is gone goes too.
    """
    table: OrderedDict[str, T] = _thread.__dict__.setdefault(name, OrderedDict())
    kept = table.get(path)
    if kept is None:
        # Those of plans that are gone keep slots and files alive: they go before new ones come.
        for known in [known for known in table if paths and not os.path.exists(known)]:
            del table[known]
        kept = table[path] = make()
        while len(table) > most:
            table.popitem(last=False)
    else:
        table.move_to_end(path)
    return kept


def _failure(error: BaseException, performer: _Performer | None) -> Failure:
    region = performer.current if performer is not None else None
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
