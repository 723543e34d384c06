"""References cross to the workers, never data; workers never compile; little is in flight."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos import wait_until

import hyperslab as hs
from hyperslab_workers.kernel import compilations
from hyperslab_workers.resident import ASIDE, TOKEN, aside_path
from hyperslab_workers.task import Outcome, Task, write_aside

TASK_LIMIT = 4096
HANDLE_LIMIT = 1024


class Recorder(ThreadPoolExecutor):
    """Weighs what is submitted, and counts what is in flight.

    Nothing runs before `crowd` tasks have been submitted, or a second is over.
    """

    def __init__(self, workers: int, crowd: int = 1) -> None:
        super().__init__(workers)
        self._crowd = crowd
        self._gathered = threading.Event()
        self.bytes_down: list[int] = []
        self.bytes_up: list[int] = []
        self.flying = 0
        self.most_flying = 0
        self._count = threading.Lock()

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.bytes_down.append(len(pickle.dumps((call, args, kwargs), protocol=5)))
        with self._count:
            self.flying += 1
            self.most_flying = max(self.most_flying, self.flying)
        if len(self.bytes_down) >= self._crowd:
            self._gathered.set()
        future = super().submit(self._wait_and_call, call, args)
        future.add_done_callback(self._landed)
        return future

    def _wait_and_call(self, call: Any, args: tuple[Any, ...]) -> Any:
        self._gathered.wait(1.0)
        return call(*args)

    def _landed(self, future: Future[Outcome]) -> None:
        with self._count:
            self.flying -= 1
        self.bytes_up.append(len(pickle.dumps(future.result(), protocol=5)))


@hs.kernel
def plus(a, table, out):
    for index in np.ndindex(out.shape):
        out[index] = a[index] + table[0]


@hs.kernel
def plus_1d(a, table, out):
    for i in range(out.shape[0]):
        out[i] = a[i] + table[0]


@pytest.mark.parametrize("shape", [(10,), (300_000,), (7, 6, 5, 4), (1,) * 12 + (9,)])
def test_tasks_are_small_for_any_array_and_argument(shape: tuple[int, ...]) -> None:
    a, out = hs.from_array(np.zeros(shape)), hs.from_array(np.zeros(shape))
    # What is sent "as it is" goes into the program's file once, not into each task.
    table = np.ones(120_000)
    with Recorder(2) as recorder, hs.Engine(executor=recorder, progress=False) as engine:
        report = engine.run(plus, a, table, hs.write(out))
    assert float(np.asarray(out).min()) == 1
    assert len(recorder.bytes_down) == report.tasks > 0
    assert max(recorder.bytes_down) < TASK_LIMIT
    assert max(recorder.bytes_up) < TASK_LIMIT


def test_tasks_are_small_for_a_file_of_ten_terabytes(tmp_path: Path) -> None:
    a = hs.create(tmp_path / "huge.npy", (10**12, 10), "u1", sparse=True)
    with hs.Engine(executor="serial", progress=False) as engine:
        job = engine.plan(plus, hs.read(a), np.ones(1), hs.update(a))
        assert job.tasks > 100_000
        last = job.task(job.tasks - 1)
    task = Task(
        str(tmp_path / "job"), last.index, last.start, last.stop, footprints=last.footprints
    )
    assert len(pickle.dumps(task, protocol=5)) < 1024


@hs.kernel
def blur(a, image):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            image[i + 1, j + 1] += a[i, j]


@pytest.mark.parametrize("region", [(1, 1), (3, 40), (40, 40)])
def test_tasks_with_footprints_are_small(region: tuple[int, int]) -> None:
    a, image = hs.from_array(np.ones((40, 40))), hs.from_array(np.zeros((42, 42)))

    def around(box: tuple[slice, ...]) -> tuple[slice, ...]:
        return tuple(slice(part.start, part.stop + 2) for part in box)

    with Recorder(2) as recorder, hs.Engine(executor=recorder, progress=False) as engine:
        report = engine.run(blur, a, hs.accumulate(image, footprint=around), region=region)
    assert np.asarray(image).sum() == 1600
    assert len(recorder.bytes_down) == report.tasks
    assert max(recorder.bytes_down) < TASK_LIMIT


@hs.kernel
def histogram(a, counts):
    for i in range(a.shape[0]):
        counts[int(a[i]) % counts.shape[0]] += 1


def test_large_partial_results_come_back_by_file() -> None:
    values = np.arange(5000.0)
    counts = hs.from_array(np.zeros(100_000, int))
    with Recorder(2) as recorder, hs.Engine(executor=recorder, progress=False) as engine:
        engine.run(histogram, hs.from_array(values), hs.accumulate(counts), region=700)
    assert np.asarray(counts).sum() == 5000
    assert max(recorder.bytes_up) < TASK_LIMIT


def test_handles_are_small_and_point_at_the_same_file(tmp_path: Path) -> None:
    with hs.create(tmp_path / ("long_name_" * 20 + ".npy"), (500, 500), "f4", order="F") as a:
        a[...] = 3
        for handle in (a, a[10:400:3, ::-1], a.T, a[None, 5]):
            sent = pickle.dumps(handle, protocol=5)
            assert len(sent) < HANDLE_LIMIT
            again = pickle.loads(sent)
            assert (again.path, again.shape, again.dtype) == (a.path, handle.shape, a.dtype)
            np.testing.assert_array_equal(np.asarray(again), np.asarray(handle))


@pytest.mark.parametrize("workers", [1, 3])
def test_twice_as_many_tasks_as_workers_are_in_flight_and_never_more(workers: int) -> None:
    a, out = hs.from_array(np.zeros(10**6)), hs.from_array(np.zeros(10**6))
    with (
        # One more than there may be: that they do not gather is what ends the wait.
        Recorder(workers, crowd=2 * workers + 1) as recorder,
        hs.Engine(executor=recorder, progress=False) as engine,
    ):
        job = engine.plan(plus_1d, a, np.ones(1), hs.write(out), region=4096)
        assert job.tasks >= 4 * workers > 0
        job.run()
    assert len(recorder.bytes_down) == job.tasks
    assert recorder.most_flying == 2 * workers


def test_workers_never_compile(warm: hs.Engine, tmp_path: Path) -> None:
    # Kernels of both kinds: plain loops, and lists, which need Numba's runtime.
    a, out = hs.from_array(np.arange(1000.0)), hs.from_array(np.zeros(1000))
    for kernel in (plus_1d, with_runtime):
        report = warm.run(kernel, a, np.ones(1), hs.write(out), region=100)
        assert report.regions == 10
    # Nothing but the workers themselves can tell: the engine's own pool asks them.
    pool = warm._staff.workers()
    answers = {worker.pid: tmp_path / f"answer-{worker.number}" for worker in pool.staff}
    assert {span.worker for span in report.timeline} <= set(answers)
    for number, worker in enumerate(pool.staff):
        ticket = 2**40 + number
        write_aside(Question(answers[worker.pid]), aside_path(pool.directory, ticket, "task"))
        os.write(worker.pipe, TOKEN.pack(ticket, 0, 0, 0, 0, 0, -1, -1, 0, ASIDE))
    with_numba = set()
    for pid, answer in answers.items():
        wait_until(answer.exists, "a worker answers")
        asked, compiled, numba_imported = json.loads(answer.read_text())
        assert (asked, compiled) == (pid, 0)
        if numba_imported:
            with_numba.add(pid)
    assert with_numba, "the second kernel is meant to need Numba's runtime"


def test_the_count_of_compilations_counts() -> None:
    """Else the test above would show nothing."""
    before = compilations()
    out = hs.from_array(np.zeros(3))
    with hs.Engine(executor="serial", progress=False) as engine:
        engine.run(hs.kernel(_fresh), hs.write(out))
    assert compilations() > before


def _fresh(out):
    for i in range(out.shape[0]):
        out[i] = i


@hs.kernel
def with_runtime(a, table, out):
    last = [table[0]]
    for i in range(out.shape[0]):
        last.append(a[i])
        out[i] = last[-1]


class Question:
    """Asks the process that unpickles it what it has compiled."""

    def __init__(self, answer: Path) -> None:
        self._answer = answer

    def __reduce__(self):
        return _tell, (str(self._answer),)


def _tell(answer: str) -> Task:
    told = os.getpid(), compilations(), "numba" in sys.modules
    Path(f"{answer}.part").write_text(json.dumps(told))
    Path(f"{answer}.part").rename(answer)
    return Task("nowhere", 0, 0, 0)


def test_a_job_keeps_its_scratch_arrays_and_lets_them_go(serial: hs.Engine) -> None:
    out = hs.from_array(np.zeros(10))
    a = hs.from_array(np.ones(10))
    path, gone = Path(a.path), weakref.ref(a)
    job = serial.plan(plus_1d, a, np.ones(1), hs.write(out))
    del a
    job.run()
    assert path.exists()
    assert np.asarray(out).tolist() == [2.0] * 10
    del job
    assert gone() is None
    assert not path.exists()
