"""``execute(task)``: the one call of a pool, here made by hand, in this process."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import wait_until

import hyperslab as hs
from hyperslab.compiler import compile_kernel, publish
from hyperslab_workers.board import FAILED, FINISHED, IDLE, RUNNING, Board
from hyperslab_workers.execute import _jobs, execute
from hyperslab_workers.locks import Guard, hold_all, lock_for, release_all
from hyperslab_workers.mapping import forget_all
from hyperslab_workers.task import Job, Outcome, Task

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


class Workbench:
    """Jobs on disk, as the coordinator writes them, and the tasks that name them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = hs.Engine(executor="serial", lock_dir=directory / "locks")
        self.values = hs.create(directory / "values.npy", (ROWS, COLUMNS))
        self.values[...] = np.arange(float(ROWS * COLUMNS)).reshape(ROWS, COLUMNS)
        self.out = hs.create(directory / "out.npy", (ROWS, COLUMNS))
        self._jobs = 0

    def job(self, kernel, *arguments, **changes: object) -> Callable[..., Task]:
        """Write a job with regions of one row; a call of what it returns makes a task."""
        plan = self.engine.plan(kernel, *arguments, region=(1, None))
        self._jobs += 1
        scratch = self.directory / f"job-{self._jobs}"
        scratch.mkdir()
        self.board = Board.create(str(scratch / "board"), 4)
        compiled = compile_kernel(plan.kernel, plan.types, equal_shapes=plan.equal_lengths)
        job = Job(
            kernel=publish(compiled, scratch),
            arguments=plan.arguments,
            grid=plan.grid,
            leaf=ROWS,
            buffer_orders=plan.buffer_orders,
            board=self.board.path,
            scratch=str(scratch),
            lock_dir=plan.settings.lock_dir,
            lock_timeout=None,
            ordered=plan.ordered,
        )
        path = str(scratch / "job")
        dataclasses.replace(job, **changes).dump(path)

        def task(start: int = 0, stop: int = ROWS, slot: int = 0) -> Task:
            footprints = plan.task(0).footprints
            return Task(path, 7, start, stop, slot, footprints)

        return task

    def result(self) -> np.ndarray:
        return np.load(self.directory / "out.npy")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    yield Workbench(tmp_path)
    release_all()
    forget_all()


def in_thread(task: Task) -> tuple[threading.Thread, list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(execute(task)))
    thread.start()
    return thread, outcomes


def test_a_task_computes_its_regions_and_no_others(bench):
    task = bench.job(twice, bench.values, hs.write(bench.out))
    before = time.monotonic()
    outcome = execute(task(2, 5, slot=3))
    expected = 2 * np.asarray(bench.values)
    expected[:2] = expected[5:] = 0
    np.testing.assert_array_equal(bench.result(), expected)
    assert (outcome.index, outcome.regions, outcome.pid) == (7, 3, os.getpid())
    assert outcome.failure is None and outcome.partials == ()
    assert before <= outcome.started <= outcome.started + outcome.seconds <= time.monotonic()
    assert bench.board.state(3) == (FINISHED, 4, 3)
    assert bench.board.worker(3) == os.getpid()
    assert bench.board.state(0)[0] == IDLE
    assert len(pickle.dumps(outcome)) < 500


def test_running_a_write_task_again_gives_the_same_file(bench):
    task = bench.job(twice, bench.values, hs.write(bench.out))
    execute(task())
    first = bench.result().tobytes()
    assert execute(task()).failure is None
    assert bench.result().tobytes() == first


def test_buffers_of_a_job_that_is_over_go_when_the_next_one_begins(bench):
    kept = set()
    _jobs().clear()
    for _ in range(3):
        task = bench.job(twice, bench.values, hs.write(bench.out))
        assert execute(task()).failure is None
        kept.add(sum(run.buffered for run in _jobs().values()))
        shutil.rmtree(Path(task().job).parent)
    assert kept == {COLUMNS * 8}


def test_small_partials_travel_and_large_ones_lie_in_a_file(bench):
    small = hs.create(bench.directory / "small.npy", COLUMNS)
    outcome = execute(bench.job(add_all, bench.values, hs.accumulate(small))(1, 4))
    (partial,) = outcome.partials
    assert partial.path is None and partial.argument == 1
    expected = np.asarray(bench.values)[1:4].sum(axis=0)
    np.testing.assert_array_equal(np.frombuffer(partial.data), expected)
    assert not np.asarray(small).any(), "only the coordinator brings partials into the file"

    wide = hs.create(bench.directory / "wide.npy", (ROWS, 100_000), sparse=True)
    large = hs.create(bench.directory / "large.npy", 100_000)
    outcome = execute(bench.job(add_all, wide, hs.accumulate(large))())
    (partial,) = outcome.partials
    assert partial.data is None
    assert Path(partial.path).stat().st_size == large.nbytes
    assert len(pickle.dumps(outcome)) < 500


def test_every_leaf_has_a_partial_of_its_own(bench):
    sums = hs.from_array(np.zeros(COLUMNS))
    outcome = execute(bench.job(add_all, bench.values, hs.accumulate(sums), leaf=2)(0, 5))
    found = [np.frombuffer(partial.data) for partial in outcome.partials]
    values = np.asarray(bench.values)
    expected = [values[lo:hi].sum(axis=0) for lo, hi in ((0, 2), (2, 4), (4, 5))]
    np.testing.assert_array_equal(found, expected)


def test_an_exception_in_the_kernel_comes_back_as_plain_data(bench):
    np.asarray(bench.values)[3, 0] = 1
    outcome = execute(bench.job(refuse_ones, bench.values, hs.write(bench.out))())
    failure = outcome.failure
    assert (failure.kind, failure.region, failure.type_name) == ("kernel", 3, "ValueError")
    assert failure.message == "a one"
    assert "test_execute.py" in failure.traceback and "refuse_ones" in failure.traceback
    assert outcome.regions == 3
    assert all(type(value) in (str, int) for value in dataclasses.astuple(failure))
    assert not bench.result()[3:].any()
    assert bench.board.state(0)[:2] == (FAILED, 3)


def test_a_file_replaced_meanwhile_is_noticed_before_it_is_touched(bench):
    task = bench.job(twice, bench.values, hs.write(bench.out))
    execute(task(0, 1))
    hs.create(bench.directory / "out.npy", (ROWS, COLUMNS), overwrite=True).close()
    failure = execute(task()).failure
    assert failure.kind == "file"
    assert "no longer the file that was opened" in failure.message
    assert not bench.result().any()


def test_a_job_that_is_over_is_a_failure_and_no_crash(bench):
    failure = execute(Task(str(bench.directory / "gone" / "job"), 0, 0, 1, 0)).failure
    assert failure.kind == "file"
    assert "gone" in failure.message


def test_a_task_of_a_job_that_was_called_off_touches_nothing(bench):
    task = bench.job(twice, bench.values, hs.write(bench.out))
    bench.board.abort()
    outcome = execute(task())
    assert outcome.failure.kind == "aborted"
    assert outcome.regions == 0
    assert not bench.result().any()


def test_a_region_computed_when_its_job_is_called_off_is_not_written(bench):
    gate = hs.create(bench.directory / "gate.npy", 1, int)
    gate[...] = 50_000_000
    task = bench.job(spin_twice, hs.read(gate, whole=True), bench.values, hs.write(bench.out))
    thread, outcomes = in_thread(task())
    wait_until(lambda: bench.board.state(0)[0] == RUNNING, "the task begins")
    bench.board.abort()
    thread.join(30)
    assert outcomes[0].failure.kind == "aborted"
    assert bench.board.state(0)[0] == FAILED, "nobody may wait for it"
    assert not bench.result().any()


def test_a_wait_for_a_lock_times_out_and_writes_nothing(bench):
    shared = hs.open(bench.directory / "out.npy", "r+", shared=True)
    task = bench.job(twice, bench.values, hs.update(shared), lock_timeout=0.05)
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
    assert execute(task()).failure is None
    assert bench.result().any()


@pytest.mark.parametrize("what", ["lock", "turn"])
def test_a_wait_without_end_ends_when_the_job_is_called_off(bench, what):
    shared = hs.open(bench.directory / "out.npy", "r+", shared=what == "lock")
    access = hs.update(shared) if what == "lock" else hs.accumulate(shared, footprint=lambda r: r)
    task = bench.job(twice, bench.values, access)
    lock = lock_for(shared.ref, str(bench.directory / "locks"))
    held = [Guard(lock, shared.ref.extent(), exclusive=True)] if what == "lock" else []
    with hold_all(held):
        # Its turn does not come: region 0 is never merged.
        thread, outcomes = in_thread(task(0 if what == "lock" else 1, 2))
        wait_until(lambda: bench.board.state(0)[0] == RUNNING, "the task begins")
        bench.board.abort()
        thread.join(30)
    assert outcomes[0].failure.kind == "aborted"
    assert not bench.result().any()


def test_merges_happen_in_region_order_whoever_comes_first(bench):
    task = bench.job(twice, bench.values, hs.accumulate(bench.out, footprint=lambda r: r))
    later, late = in_thread(task(4, 8, slot=1))
    wait_until(lambda: bench.board.state(1)[0] == RUNNING, "the later task begins")
    time.sleep(0.05)
    assert not bench.result().any()
    assert execute(task(0, 4)).failure is None
    later.join(30)
    assert late[0].failure is None
    assert bench.board.turn == ROWS


def test_two_threads_run_tasks_of_one_job_side_by_side(bench):
    task = bench.job(twice, bench.values, hs.write(bench.out))
    threads = [in_thread(task(i, i + 2, slot=i // 2)) for i in range(0, ROWS, 2)]
    for thread, outcomes in threads:
        thread.join(30)
        assert outcomes[0].failure is None
    np.testing.assert_array_equal(bench.result(), 2 * np.asarray(bench.values))
