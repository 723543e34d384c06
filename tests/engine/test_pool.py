"""Pools: the engine's own workers, threads, forks, and executors of the user's."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import loky
import numpy as np
import pytest
from chaos import running, wait_until, workers_of

import hyperslab as hs
from hyperslab.interruption import interrupts_kept, taken_for_default, uninterrupted
from hyperslab.pools.death import death_of_error as death_of
from hyperslab_workers.board import RUNNING

ROWS, COLUMNS = 64, 32768
LONG = 2_000_000_000


@hs.kernel
def spin_copy(gate, values, out):
    x = 0.0
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = out[i, j] + values[i, j] + 0.0 * x


@hs.kernel
def blur_into(values, out):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] += 0.1 * values[i, j]
            out[out.shape[0] - 1, j] += 0.3 * values[i, j]


@hs.kernel
def one_more(out):
    for i in range(out.shape[0]):
        out[i] += 1


@hs.kernel
def first_of_each(values, out):
    out[0] += values[0, 0] + 1


@hs.kernel
def fail_at(gate, values, out, at):
    x = 0.0
    if values[0, 0] == at:
        raise ValueError("not this one")
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    out[0, 0] = x


@pytest.fixture
def values(tmp_path: Path) -> hs.Array:
    numbers = np.random.default_rng(3).normal(size=(ROWS, COLUMNS))
    return hs.from_array(numbers, scratch=tmp_path)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[hs.Engine]:
    with hs.Engine(workers=2, scratch=tmp_path, lock_dir=tmp_path / "locks") as engine:
        yield engine
    assert workers_of(os.getpid()) == []


def gate_of(tmp_path: Path, turns: int) -> hs.Array:
    return hs.from_array(np.array([turns]), scratch=tmp_path)


def test_workers_that_map_far_more_than_300_mb_are_not_restarted(tmp_path, engine):
    # loky takes mapped pages for a leak, and looks at most once a second.
    values = hs.create(tmp_path / "values.npy", (600, 2**17), sparse=True)
    assert values.nbytes > 600e6
    out = hs.from_array(np.zeros(1), scratch=tmp_path)
    engine.start()
    before = workers_of(os.getpid())
    deadline = time.monotonic() + 3.5

    @hs.kernel
    def read_all(values, out):
        for i in range(values.shape[0]):
            for j in range(0, values.shape[1], 512):
                out[0] += values[i, j]

    pids = set()
    while time.monotonic() < deadline:
        report = engine.run(read_all, values, hs.accumulate(out))
        pids |= {span.worker for span in report.timeline}
    assert out.item() == 0
    assert pids <= set(before)
    assert set(workers_of(os.getpid())) == set(before)


def test_two_jobs_from_two_threads_at_once(tmp_path, engine, values):
    outs = [hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path) for _ in range(4)]
    gate = gate_of(tmp_path, 100_000)
    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(
                engine.run,
                spin_copy,
                hs.read(gate, whole=True),
                values,
                hs.update(out),
                region=(1, None),
            )
            for out in outs
        ]
        reports = [job.result(timeout=60) for job in jobs]
    for out, report in zip(outs, reports, strict=True):
        assert report.regions == ROWS and report.retries == 0
        np.testing.assert_array_equal(np.asarray(out), np.asarray(values))


@pytest.mark.parametrize("how", ["fails", "is killed", "is called off"])
def test_a_job_that_ends_badly_costs_its_neighbour_nothing(tmp_path, values, how):
    # The neighbour updates in place, so anything that was done twice would show.
    out = hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path)
    slow, busy = gate_of(tmp_path, 3_000_000), gate_of(tmp_path, LONG)
    # Of three workers the guilty one can occupy two.
    flags = np.zeros((2, 8))
    flags[1] = -1.0 if how == "fails" else 0.0
    numbered = hs.from_array(flags, scratch=tmp_path)
    wrong = hs.from_array(np.zeros((2, 8)), scratch=tmp_path)

    def neighbour():
        gate = hs.read(slow, whole=True)
        return engine.run(spin_copy, gate, values, hs.update(out), region=(1, None))

    def guilty():
        # Each region keeps its worker so long that it has to be killed.
        arguments = (hs.read(busy, whole=True), numbered, hs.write(wrong), -1.0)
        engine.run(fail_at, *arguments, region=(1, None))

    with hs.Engine(workers=3, scratch=tmp_path) as engine, ThreadPoolExecutor(2) as threads:
        gate = hs.read(gate_of(tmp_path, 0), whole=True)
        engine.run(fail_at, gate, numbered, hs.write(wrong), 5.0, region=(1, None))
        before = workers_of(os.getpid())
        second = threads.submit(neighbour)
        wait_until(lambda: running(tmp_path), "the neighbour begins")
        first = threads.submit(guilty)
        channels = engine._staff.pool._channels
        wait_until(lambda: len(channels) == 2 and channels[1]._sent, "the other begins")
        if how == "fails":
            # Its second region raises while the first computes on.
            with pytest.raises(hs.KernelError, match="not this one"):
                first.result(timeout=60)
        else:
            wait_until(lambda: victim_of(engine, channels[1]), "it computes")
            if how == "is killed":
                np.asarray(busy)[0] = 0
                os.kill(victim_of(engine, channels[1]), signal.SIGKILL)
                first.result(timeout=60)
            else:
                raise_in(channels[1])
                with pytest.raises(hs.HyperslabError, match="called off by the test"):
                    first.result(timeout=60)
        report = second.result(timeout=60)
        assert report.retries == 0
        assert len(set(before) & set(workers_of(os.getpid()))) >= 1
    np.testing.assert_array_equal(np.asarray(out), np.asarray(values))


def victim_of(engine: hs.Engine, channel) -> int | None:
    """The worker that computes a task of that channel."""
    for worker in list(engine._staff.pool.staff):
        mark = engine._staff.pool.board.rows[worker.number].mark()
        if mark.state == RUNNING and mark.ticket in list(channel._sent):
            return worker.pid
    return None


def raise_in(channel) -> None:
    """Have the run of a channel end as by an error of its own thread."""

    def receive(timeout: float) -> list:
        raise hs.HyperslabError("called off by the test")

    channel.receive = receive


def test_a_failing_kernel_ends_the_job_at_once_and_leaves_the_engine_usable(
    tmp_path, engine, values
):
    gate = gate_of(tmp_path, 0)
    flags = np.zeros((ROWS, COLUMNS))
    flags[5] = 1
    out = hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path)
    with pytest.raises(hs.KernelError, match=r"\[5:6, 0:32768\].*not this one"):
        engine.run(
            fail_at,
            hs.read(gate, whole=True),
            hs.from_array(flags, scratch=tmp_path),
            hs.write(out),
            1.0,
            region=(1, None),
        )
    engine.run(spin_copy, hs.read(gate, whole=True), values, hs.write(out), region=(1, None))
    np.testing.assert_array_equal(np.asarray(out), np.asarray(values))


def test_closing_the_engine_under_a_job_is_an_error_that_says_so(tmp_path, values):
    engine = hs.Engine(workers=2, scratch=tmp_path)
    out = hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path)
    gate = gate_of(tmp_path, LONG)
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(
            engine.run, spin_copy, hs.read(gate, whole=True), values, hs.write(out)
        )
        wait_until(lambda: running(tmp_path), "a task begins")
        engine.close()
        with pytest.raises(hs.HyperslabError, match="closed while a job ran"):
            job.result(timeout=30)
    assert workers_of(os.getpid()) == []
    with pytest.raises(hs.HyperslabError, match="closed: make a new"):
        engine.run(spin_copy, gate, values, hs.write(out))


def _in_child(engine: hs.Engine, values: hs.Array, out: hs.Array, pipe) -> None:
    report = engine.run(blur_into, values, hs.accumulate(out, footprint=lambda region: region))
    pipe.send((report.regions, workers_of(os.getpid()) != []))
    engine.close()


def test_an_engine_goes_on_in_a_forked_child_with_workers_of_its_own(tmp_path, engine, values):
    out = hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path)
    expected = hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path)
    accumulate = {"footprint": lambda region: region}
    report = engine.run(blur_into, values, hs.accumulate(expected, **accumulate))
    before = workers_of(os.getpid())
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=_in_child, args=(engine, values, out, there))
    child.start()
    assert here.poll(60)
    assert here.recv() == (report.regions, True)
    child.join(30)
    assert child.exitcode == 0
    np.testing.assert_array_equal(np.asarray(out), np.asarray(expected))
    # The parent's workers are the same as ever.
    assert workers_of(os.getpid()) == before
    engine.run(blur_into, values, hs.accumulate(out, **accumulate))
    assert workers_of(os.getpid()) == before


class RandomOrder(Executor):
    """Two threads that take the tasks in an order nobody can foresee."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._waiting: list = []
        self._more = threading.Condition()
        self._over = False
        self._threads = [threading.Thread(target=self._work) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def submit(self, call, /, *args, **kwargs):
        future: Future = Future()
        with self._more:
            self._waiting.append((future, call, args, kwargs))
            self._more.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._more:
                while not self._waiting and not self._over:
                    self._more.wait()
                if not self._waiting:
                    return
                place = self._chance.randrange(len(self._waiting))
                future, call, args, kwargs = self._waiting.pop(place)
            future.set_result(call(*args, **kwargs))

    def shutdown(self, wait=True, *, cancel_futures=False) -> None:
        with self._more:
            self._over = True
            self._more.notify_all()
        for thread in self._threads:
            thread.join()


EXECUTORS = {
    "serial": lambda: None,
    "threads": lambda: ThreadPoolExecutor(3),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    "forked": lambda: ProcessPoolExecutor(2, mp_context=get_context("fork")),
    "loky": lambda: loky.ProcessPoolExecutor(2, timeout=20),
    "random": lambda: RandomOrder(5),
}


@pytest.fixture(scope="module")
def ordered_case(tmp_path_factory) -> tuple[hs.Array, bytes]:
    """Floats whose sum depends on the order, and the bits that the order of regions gives."""
    scratch = tmp_path_factory.mktemp("ordered")
    scales = 10.0 ** np.random.default_rng(1).integers(-12, 12, size=(ROWS, 2048))
    values = hs.from_array(scales * np.random.default_rng(2).normal(size=(ROWS, 2048)))
    with hs.Engine(executor="serial", scratch=scratch) as engine:
        bits = _overlapping(engine, values)
    backwards = np.asarray(values)[::-1].sum(axis=0)
    assert backwards.tobytes() != np.asarray(values).sum(axis=0).tobytes()
    return values, bits


def _overlapping(engine: hs.Engine, values: hs.Array) -> bytes:
    out = hs.from_array(np.zeros((ROWS + 1, 2048)))
    report = engine.run(
        blur_into,
        values,
        hs.accumulate(out, footprint=lambda region: (slice(region[0].start, None),)),
        region=(2, None),
    )
    assert report.regions == ROWS // 2
    return np.asarray(out).tobytes()


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_gives_the_same_bits_in_an_ordered_accumulation(
    tmp_path, ordered_case, name
):
    values, expected = ordered_case
    executor = EXECUTORS[name]()
    try:
        with hs.Engine(
            workers=2, executor=executor, scratch=tmp_path, lock_dir=tmp_path / "locks"
        ) as engine:
            assert _overlapping(engine, values) == expected
        if executor is not None:
            # It is the caller's: used, not closed.
            assert executor.submit(pow, 2, 5).result(timeout=20) == 32
    finally:
        if executor is not None:
            executor.shutdown()


@pytest.mark.parametrize("name", ["processes", "loky"])
def test_a_foreign_pool_that_breaks_is_a_lost_worker(tmp_path, values, name):
    gate = gate_of(tmp_path, LONG)
    out = hs.from_array(np.zeros((ROWS, COLUMNS)), scratch=tmp_path)
    executor = EXECUTORS[name]()
    with hs.Engine(executor=executor, scratch=tmp_path) as engine, ThreadPoolExecutor(1) as thread:
        job = thread.submit(
            engine.run,
            spin_copy,
            hs.read(gate, whole=True),
            values,
            hs.write(out),
            region=(1, None),
        )
        wait_until(lambda: len(running(tmp_path)) == 2, "both workers are busy")
        os.kill(running(tmp_path)[0][0], signal.SIGKILL)
        with pytest.raises(hs.WorkerLost, match="cannot be restarted from here") as caught:
            job.result(timeout=30)
        # Where results are stored through the map, what the two were at may be changed in part.
        doubtful = [span for span in caught.value.regions if span.state == "in doubt"]
        assert sum(span.stop - span.start for span in doubtful) in (0, 2)
        assert {span.state for span in caught.value.regions} <= {"untouched", "in doubt"}
        assert not np.asarray(out).any()
    executor.shutdown()
    # Reaps the killed worker, which its executor leaves as a zombie.
    multiprocessing.active_children()


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("The exit codes of the workers are {SIGKILL(-9)}", "SIGKILL", "memory ran out"),
        ("The exit codes of the workers are {SIGKILL(-9), SIGSEGV(-11)}", "SIGSEGV", "boundscheck"),
        ("The exit codes of the workers are {SIGBUS(-7)}", "SIGBUS", "truncated"),
        ("The exit codes of the workers are {EXIT(3)}", None, "exit code 3"),
        ("A process in the process pool was terminated abruptly", None, "not known"),
    ],
)
def test_a_broken_pool_tells_what_killed_its_worker(text, name, words):
    death = death_of(RuntimeError(text))
    assert death.signal == name
    assert words in death.cause


def test_a_ctrl_c_that_a_library_swallows_is_not_lost():
    went_on = []
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        went_on.append(True)
    assert went_on
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts_kept():
        pass


def drop_in_a_callback(number: int) -> None:
    """A signal whose exception is printed and dropped, as in what LLVM calls while it compiles."""

    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        os.kill(os.getpid(), number)
        time.sleep(1)

    callback()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_does_not_begin_after_a_signal_that_was_dropped(number):
    def terminate(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    taken_for_default(terminate)
    before = signal.signal(signal.SIGTERM, terminate)
    a = hs.from_array(np.zeros(4))
    try:
        with hs.Engine(executor="serial") as engine, pytest.raises(KeyboardInterrupt):
            plan = engine.plan(one_more, hs.update(a))
            with interrupts_kept(), interrupts_kept():
                drop_in_a_callback(number)
                plan.run()
        assert signal.getsignal(signal.SIGTERM) is terminate
        assert not np.asarray(a).any()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_programs_own_is_left_alone():
    heard = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with interrupts_kept():
            os.kill(os.getpid(), signal.SIGINT)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_ctrl_c_waits_for_what_must_not_be_cut_in_half():
    steps = []

    def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        steps.append("whole")

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(call)
    assert steps == ["whole"]
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: steps.append(1 // 0))


def test_slots_that_a_foreign_thread_may_still_fill_are_given_to_nobody(tmp_path, values):
    """A thread cannot be killed: after a run that failed it goes on adding to its slot."""

    @hs.kernel
    def add_or_fail(values, sums, at):
        if values[0, 0] == at:
            raise ValueError("not this one")
        for j in range(values.shape[1]):
            sums[j] += values[0, j]

    sums = hs.from_array(np.zeros(COLUMNS), scratch=tmp_path)
    with ThreadPoolExecutor(2) as threads, hs.Engine(executor=threads, scratch=tmp_path) as engine:
        for _ in range(3):
            plan = engine.plan(add_or_fail, values, hs.accumulate(sums), 0.5, region=(1, None))
            plan.run()
            (slots,) = tmp_path.glob("*/program-*-slots")
            del plan
            gc.collect()
            assert not slots.exists()
    with hs.Engine(workers=2, scratch=tmp_path) as engine:
        seen = set()
        for _ in range(3):
            engine.run(add_or_fail, values, hs.accumulate(sums), 0.5, region=(1, None))
            gc.collect()
            seen |= set(tmp_path.glob("*/pool-*/program-*-slots"))
        assert len(seen) == 1, "one file serves one plan after the other"
