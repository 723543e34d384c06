"""A task from its program to its outcome, here performed by hand, in this process."""

from __future__ import annotations

import dataclasses
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import wait_until

import hyperslab as hs
from hyperslab.compiler import compile_kernel, publish
from hyperslab_workers import bindings
from hyperslab_workers.access import Placement
from hyperslab_workers.arena import KEPT_IDLE
from hyperslab_workers.board import FAILED, FINISHED, IDLE, RUNNING, Board
from hyperslab_workers.execute import _arena, execute
from hyperslab_workers.locks import Guard, hold_all, lock_for, release_all
from hyperslab_workers.mapping import forget_all
from hyperslab_workers.partials import Partials
from hyperslab_workers.task import Outcome, Program, Slots, Task

ROWS, COLUMNS = 8, 1000


@hs.kernel
def twice(values, out):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = 2 * values[i, j]


@hs.kernel
def spin_twice(gate, values, out):
    x = 0.0
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = 2 * values[i, j] + 0.0 * x


@hs.kernel
def add_all(values, out):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[j] += values[i, j]


@hs.kernel
def refuse_ones(values, out):
    if values[0, 0] == 1:
        raise ValueError("a one")
    out[0, 0] = 5


class Errand:
    """A task with the row of the board that it marks."""

    def __init__(self, task: Task, board: Board, row: int) -> None:
        self.task = task
        self.board = board
        self.row = row

    def __call__(self) -> Outcome:
        return execute(self.task, self.board.path, self.row, 1)


class Workbench:
    """Programs on disk, as the coordinator writes them, and the tasks that name them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = hs.Engine(executor="serial", lock_dir=directory / "locks")
        self.values = hs.create(directory / "values.npy", (ROWS, COLUMNS))
        self.values[...] = np.arange(float(ROWS * COLUMNS)).reshape(ROWS, COLUMNS)
        self.out = hs.create(directory / "out.npy", (ROWS, COLUMNS))
        self._programs = 0

    def program(self, kernel, *arguments, **changes: object) -> Callable[..., Errand]:
        """Write a program with regions of one row; a call of what it returns makes a task."""
        plan = self.engine.plan(kernel, *arguments, region=(1, None))
        self._programs += 1
        scratch = self.directory / f"program-{self._programs}"
        scratch.mkdir()
        self.board = Board.create(str(scratch / "board"), 4)
        compiled = compile_kernel(plan.kernel, plan.types, equal_shapes=plan.equal_lengths)
        slots = None
        if plan.bytes_accumulated:
            slots = Slots(str(scratch / "slots"), 3)
            Partials.create(slots, plan.arguments)
            self.slots = Partials(slots, plan.arguments)
        program = Program(
            kernel=publish(compiled, scratch),
            arguments=plan.arguments,
            grid=plan.grid,
            leaf=ROWS,
            buffer_orders=plan.buffer_orders,
            through_map=plan.through_map,
            slots=slots,
            lock_dir=plan.lock_dir,
            lock_timeout=None,
            ordered=plan.ordered,
            memory=plan.memory.per_worker,
            undo=plan.undo,
        )
        path = str(scratch / "program")
        dataclasses.replace(program, **changes).dump(path)

        def errand(start: int = 0, stop: int = ROWS, row: int = 0, **more) -> Errand:
            footprints = plan.task(0).footprints
            task = Task(path, 7, start, stop, footprints=footprints, **more)
            return Errand(task, self.board, row)

        return errand

    def result(self) -> np.ndarray:
        return np.load(self.directory / "out.npy")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    yield Workbench(tmp_path)
    release_all()
    forget_all()


def in_thread(errand: Errand) -> tuple[threading.Thread, list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(errand()))
    thread.start()
    return thread, outcomes


def test_a_task_computes_its_regions_and_no_others(bench):
    task = bench.program(twice, bench.values, hs.write(bench.out))
    before = time.monotonic()
    outcome = task(2, 5, row=3)()
    expected = 2 * np.asarray(bench.values)
    expected[:2] = expected[5:] = 0
    np.testing.assert_array_equal(bench.result(), expected)
    assert (outcome.failure, outcome.pid) == (None, os.getpid())
    assert bench.board.rows[3].done == 3
    assert before <= outcome.started <= outcome.started + outcome.seconds <= time.monotonic()
    assert (bench.board.rows[3].mark().state, bench.board.rows[3].mark().region) == (FINISHED, 5)
    assert bench.board.rows[3].pid == os.getpid()
    assert bench.board.rows[0].mark().state == IDLE
    assert len(pickle.dumps(outcome)) < 500


def test_running_a_write_task_again_gives_the_same_file(bench):
    task = bench.program(twice, bench.values, hs.write(bench.out))
    task()()
    first = bench.result().tobytes()
    assert task()().failure is None
    assert bench.result().tobytes() == first


def test_a_worker_without_work_keeps_little_memory(bench):
    wide = hs.create(bench.directory / "wide.npy", (2, 2 * KEPT_IDLE // 8), sparse=True)
    out = hs.create(bench.directory / "wide_out.npy", wide.shape, sparse=True)
    assert bench.program(twice, wide, hs.write(out))(0, 2)().failure is None
    assert _arena().nbytes == 0
    assert bench.program(twice, bench.values, hs.write(bench.out))()().failure is None
    assert _arena().nbytes == COLUMNS * 8, "a small buffer stays for the next task"


def test_a_program_does_not_inherit_more_memory_than_it_was_planned_with(bench):
    _arena().keep(-1)
    _arena().take(5, KEPT_IDLE - 1000)
    small = bench.program(twice, bench.values, hs.write(bench.out))
    assert small()().failure is None
    assert _arena().nbytes == COLUMNS * 8


def test_a_contribution_lies_in_the_slot_of_its_task(bench):
    sums = hs.create(bench.directory / "sums.npy", COLUMNS)
    outcome = bench.program(add_all, bench.values, hs.accumulate(sums))(1, 4, slot=2)()
    assert outcome.failure is None
    expected = np.asarray(bench.values)[1:4].sum(axis=0)
    np.testing.assert_array_equal(bench.slots.slot(2)[1], expected)
    assert not np.asarray(sums).any(), "only the coordinator brings it into the file"


def test_a_task_of_several_leaves_folds_them_as_a_tree(bench):
    # Powers of two that round away unless they are added up in just that order.
    scales = hs.from_array(np.array([[1.0], [2.0**-53], [2.0**-53], [2.0**-53], [0.0]]))
    sums = hs.from_array(np.zeros(1))
    outcome = bench.program(add_all, scales, hs.accumulate(sums), leaf=1)(0, 5)()
    assert outcome.failure is None
    v = np.asarray(scales)[:, 0]
    expected = ((v[0] + v[1]) + (v[2] + v[3])) + v[4]
    assert expected != (((v[0] + v[1]) + v[2]) + v[3]) + v[4]
    assert bench.slots.slot(0)[1][0] == expected


def test_a_merge_combines_two_slots_into_a_third(bench):
    sums = hs.from_array(np.zeros(COLUMNS))
    program = bench.program(add_all, bench.values, hs.accumulate(sums))
    program(0, 2, slot=0)()
    program(2, 6, slot=1)()
    assert program(0, 0, slot=2, merge=(0, 1))().failure is None
    expected = np.asarray(bench.values)[:6].sum(axis=0)
    np.testing.assert_array_equal(bench.slots.slot(2)[1], expected)


@pytest.mark.parametrize("stored", [False, True])
def test_results_are_the_same_through_the_map_and_past_it(bench, stored):
    bench.out[...] = 7
    outcome = bench.program(twice, bench.values, hs.write(bench.out))(1, 5, through_map=stored)()
    assert outcome.failure is None
    expected = 2 * np.asarray(bench.values)
    expected[0] = expected[5:] = 7
    np.testing.assert_array_equal(bench.result(), expected)


def test_an_exception_in_the_kernel_comes_back_as_plain_data(bench):
    np.asarray(bench.values)[3, 0] = 1
    outcome = bench.program(refuse_ones, bench.values, hs.write(bench.out))()()
    failure = outcome.failure
    assert (failure.kind, failure.region, failure.type_name) == ("kernel", 3, "ValueError")
    assert failure.message == "a one"
    assert "test_execute.py" in failure.traceback and "refuse_ones" in failure.traceback
    assert (failure.reached, failure.torn) == (3, False)
    assert all(type(value) in (str, int, bool) for value in failure)
    assert not bench.result()[3:].any()
    assert (bench.board.rows[0].mark().state, bench.board.rows[0].mark().region) == (FAILED, 3)


def test_a_file_replaced_meanwhile_is_noticed_before_it_is_touched(bench):
    task = bench.program(twice, bench.values, hs.write(bench.out))
    task(0, 1)()
    hs.create(bench.directory / "out.npy", (ROWS, COLUMNS), overwrite=True).close()
    failure = task()().failure
    assert failure.kind == "file"
    assert "no longer the file that was opened" in failure.message
    assert not bench.result().any()


def test_a_job_that_is_over_is_a_failure_and_no_crash(bench):
    bench.program(twice, bench.values, hs.write(bench.out))
    task = Task(str(bench.directory / "gone" / "program"), 0, 0, 1)
    failure = Errand(task, bench.board, 0)().failure
    assert failure.kind == "file"
    assert "gone" in failure.message


def test_a_task_of_a_job_that_was_called_off_touches_nothing(bench):
    task = bench.program(twice, bench.values, hs.write(bench.out))
    bench.board.cells[0].call_off()
    outcome = task()()
    assert outcome.failure.kind == "called off"
    assert outcome.failure.reached == 0
    assert not bench.result().any()


def test_a_region_computed_when_its_job_is_called_off_is_not_written(bench):
    gate = hs.create(bench.directory / "gate.npy", 1, int)
    gate[...] = 50_000_000
    task = bench.program(spin_twice, hs.read(gate, whole=True), bench.values, hs.write(bench.out))
    thread, outcomes = in_thread(task())
    wait_until(lambda: bench.board.rows[0].mark().state == RUNNING, "the task begins")
    bench.board.cells[0].call_off()
    thread.join(30)
    assert outcomes[0].failure.kind == "called off"
    assert bench.board.rows[0].mark().state == FAILED, "nobody may wait for it"
    assert not bench.result().any()


def test_a_region_changed_in_place_when_its_job_is_called_off_is_done(bench, monkeypatch):
    total = hs.create(bench.directory / "total.npy", COLUMNS)
    values, accumulated = bench.engine.plan(add_all, bench.values, hs.accumulate(total)).arguments
    in_place = dataclasses.replace(accumulated, placement=Placement.DIRECT)
    task = bench.program(
        *(add_all, bench.values, hs.accumulate(total)),
        arguments=(values, in_place),
        slots=None,
    )
    prepare = bindings._Direct.prepare

    def called_off_meanwhile(binding, region):
        bench.board.cells[0].call_off()
        return prepare(binding, region)

    monkeypatch.setattr(bindings._Direct, "prepare", called_off_meanwhile)
    failure = task()().failure
    assert failure is not None
    # One region is in the file, and one is said to be.
    assert (failure.kind, failure.reached, failure.torn) == ("called off", 1, False)
    np.testing.assert_array_equal(np.asarray(total), np.asarray(bench.values)[0])


def test_a_wait_for_a_lock_times_out_and_writes_nothing(bench):
    shared = hs.open(bench.directory / "out.npy", "r+", shared=True)
    task = bench.program(twice, bench.values, hs.update(shared), lock_timeout=0.05)
    lock = lock_for(shared.ref, str(bench.directory / "locks"))
    thread, outcomes = None, []
    with hold_all([Guard(lock, shared.ref.extent(), exclusive=False)]):
        thread, outcomes = in_thread(task())
        thread.join(30)
    failure = outcomes[0].failure
    assert failure.kind == "lock"
    assert "within 0.05 s" in failure.message
    assert failure.region == 0
    assert not bench.result().any()
    assert task()().failure is None
    assert bench.result().any()


@pytest.mark.parametrize("what", ["lock", "turn"])
def test_a_wait_without_end_ends_when_the_job_is_called_off(bench, what):
    shared = hs.open(bench.directory / "out.npy", "r+", shared=what == "lock")
    access = hs.update(shared) if what == "lock" else hs.accumulate(shared, footprint=lambda r: r)
    task = bench.program(twice, bench.values, access)
    lock = lock_for(shared.ref, str(bench.directory / "locks"))
    held = [Guard(lock, shared.ref.extent(), exclusive=True)] if what == "lock" else []
    with hold_all(held):
        # Its turn does not come: region 0 is never merged.
        thread, outcomes = in_thread(task(0 if what == "lock" else 1, 2))
        wait_until(lambda: bench.board.rows[0].mark().state == RUNNING, "the task begins")
        bench.board.cells[0].call_off()
        thread.join(30)
    assert outcomes[0].failure.kind == "called off"
    assert not bench.result().any()


def test_merges_happen_in_region_order_whoever_comes_first(bench):
    task = bench.program(twice, bench.values, hs.accumulate(bench.out, footprint=lambda r: r))
    later, late = in_thread(task(4, 8, row=1))
    wait_until(lambda: bench.board.rows[1].mark().state == RUNNING, "the later task begins")
    time.sleep(0.05)
    assert not bench.result().any()
    assert task(0, 4)().failure is None
    later.join(30)
    assert late[0].failure is None
    assert bench.board.cells[0].turn == ROWS


def test_two_threads_run_tasks_of_one_job_side_by_side(bench):
    task = bench.program(twice, bench.values, hs.write(bench.out))
    threads = [in_thread(task(i, i + 2, row=i // 2)) for i in range(0, ROWS, 2)]
    for thread, outcomes in threads:
        thread.join(30)
        assert outcomes[0].failure is None
    np.testing.assert_array_equal(bench.result(), 2 * np.asarray(bench.values))
