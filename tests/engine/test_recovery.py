"""Workers that die: what a job survives, what it refuses to repeat, and what it says then."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from chaos import boards, running, wait_until, workers_of
from killer import leave

import hyperslab as hs
from hyperslab.pools import resident
from hyperslab_workers.board import WRITING

ROWS, COLUMNS = 64, 32768
LONG = 2_000_000_000
SECOND = 300_000_000
SHORT = 2_000_000
SOAK = float(os.environ.get("HYPERSLAB_SOAK", "0"))


@hs.kernel
def spin_scale(gate, values, out):
    x = 0.0
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = out[i, j] + 1.1 * values[i, j] + 0.0 * x


@hs.kernel
def spin_add(gate, values, out):
    x = 0.0
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[j % out.shape[0]] += values[i, j] + 0.0 * x


@hs.kernel
def spin_double(gate, old, new):
    x = 0.0
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    for i in range(old.shape[0]):
        for j in range(old.shape[1]):
            new[i, j] = 2.0 * old[i, j] + 0.0 * x


@hs.kernel
def spin_count(gate, values, counts):
    x = 0.0
    for _ in range(gate[0]):
        x = x * 0.5 + 1.0
    for _ in range(values.shape[0]):
        for j in range(values.shape[1]):
            counts[j] += 1 if x >= 0.0 else 2  # An integer made of 0 * x would be optimised away.


@hs.kernel(boundscheck=False)
def crash_at(values, out, at, far):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = values[i, j]
    if values[0, 0] == at:
        out[0, far] = 1.0


class Bench:
    """An engine of two workers, and a job in the background that can be held and let go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = hs.Engine(workers=2, scratch=directory, lock_dir=directory / "locks")
        self.gate = hs.from_array(np.array([0]), scratch=directory)
        numbers = np.random.default_rng(7).normal(size=(ROWS, COLUMNS))
        self.values = hs.from_array(numbers, scratch=directory)
        self._thread = ThreadPoolExecutor(1)

    def hold(self, turns: int = LONG) -> None:
        """Have kernels that begin from now on take long."""
        np.asarray(self.gate)[0] = turns

    def let_go(self) -> None:
        """Have kernels that begin from now on take no time."""
        np.asarray(self.gate)[0] = 0

    def scratch(self, values: np.ndarray) -> hs.Array:
        return hs.from_array(values, scratch=self.directory)

    def begin(self, kernel, *arguments) -> Future[hs.Report]:
        """Start a job in a thread, and wait until both workers are in a kernel."""
        job = self._thread.submit(self.engine.run, kernel, *arguments, region=(1, None))
        wait_until(lambda: len(running(self.directory)) >= 2 or job.done(), "two tasks begin")
        return job

    def arguments(self, privilege: str, out: hs.Array) -> tuple:
        """Kernel and arguments of a job with `out` of that privilege."""
        kernel = spin_add if privilege == "accumulate" else spin_scale
        declare: Callable = {
            "write": hs.write,
            "update": hs.update,
            "accumulate": hs.accumulate,
            "alias": hs.write,
            "footprint": lambda a: hs.accumulate(a, footprint=lambda region: region),
        }[privilege]
        if privilege == "alias":
            return spin_double, hs.read(self.gate, whole=True), hs.read(out), declare(out)
        return kernel, hs.read(self.gate, whole=True), self.values, declare(out)

    def out(self, privilege: str) -> hs.Array:
        if privilege == "alias":
            return self.scratch(np.asarray(self.values))
        return self.scratch(np.zeros(5) if privilege == "accumulate" else np.zeros((ROWS, COLUMNS)))

    def close(self) -> None:
        self.let_go()
        self.engine.close()
        self._thread.shutdown()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()
    assert workers_of(os.getpid()) == []


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Kill a worker and wait until it is dead."""
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), f"worker {pid} dies of {number}")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def undisturbed(bench: Bench, privilege: str) -> bytes:
    out = bench.out(privilege)
    report = bench.engine.run(*bench.arguments(privilege, out), region=(1, None))
    assert report.retries == 0
    return np.asarray(out).tobytes()


@pytest.mark.parametrize("privilege", ["write", "accumulate", "update", "alias", "footprint"])
def test_a_worker_killed_in_mid_job_changes_no_bit(bench, privilege):
    expected = undisturbed(bench, privilege)
    out = bench.out(privilege)
    bench.hold()
    job = bench.begin(*bench.arguments(privilege, out))
    kill(running(bench.directory)[0][0])
    bench.let_go()
    report = job.result(timeout=60)
    assert report.retries > 0
    assert np.asarray(out).tobytes() == expected
    assert report.regions == ROWS
    covered = {region for span in report.timeline for region in range(span.start, span.stop)}
    assert covered <= set(range(ROWS))


@pytest.mark.parametrize("privilege", ["write", "accumulate", "update", "alias", "footprint"])
def test_workers_killed_again_and_again_change_no_bit(bench, privilege):
    expected = undisturbed(bench, privilege)
    chance = random.Random(privilege)
    deadline = time.monotonic() + SOAK
    first = True
    while first or time.monotonic() < deadline:
        first = False
        out = bench.out(privilege)
        bench.hold(SHORT)
        job = bench.begin(*bench.arguments(privilege, out))
        kills, seen = 0, set()
        while not job.done() and kills < 3:
            bench.hold(SHORT)
            time.sleep(chance.uniform(0, 0.05))
            bench.hold(SECOND)
            time.sleep(0.05)
            now = running(bench.directory)
            # A region in flight at two deaths would rightly be given up.
            if now and not seen & {region for _, region in now}:
                seen |= {region for _, region in now}
                kill(chance.choice(now)[0])
                kills += 1
        bench.let_go()
        report = job.result(timeout=60)
        assert kills
        assert np.asarray(out).tobytes() == expected
        assert report.regions == ROWS


def test_what_cannot_be_repeated_is_refused_and_named(bench):
    # With so little memory, integers are added up in the file itself: the kernel writes all along.
    counts = bench.scratch(np.zeros(COLUMNS, int))
    arguments = (hs.read(bench.gate, whole=True), bench.values, hs.accumulate(counts))
    with hs.Engine(workers=2, memory="1 MB", scratch=bench.directory) as engine:
        bench.hold()
        with ThreadPoolExecutor(1) as thread:
            job = thread.submit(engine.run, spin_count, *arguments, region=(1, None))
            wait_until(lambda: writing(bench.directory), "a kernel is writing")
            # The other one waits for the lock, and does so in no region that is in doubt.
            wait_until(lambda: len(running(bench.directory)) == 2, "both have begun")
            (pid, region), *more = writing(bench.directory)
            assert not more
            kill(pid)
            bench.let_go()
            with pytest.raises(hs.WorkerLost) as caught:
                job.result(timeout=60)
        error = caught.value
        assert error.signal == "SIGKILL"
        doubtful = [span for span in error.regions if span.state == "in doubt"]
        assert [(span.start, span.stop) for span in doubtful] == [(region, region + 1)]
        assert [span.start for span in error.regions][1:] == [s.stop for s in error.regions][:-1]
        text = str(error)
        for word in ("spin_count", "SIGKILL", "memory ran out", str(doubtful[0]), counts.path):
            assert word in text
        done = sum(span.stop - span.start for span in error.regions if span.state == "done")
        assert f"{done} of {ROWS} regions are done" in text
        # Each region adds one everywhere, and the killed one had not come to that.
        assert (np.asarray(counts) == done).all()
        # The engine is none the worse for it.
        counts[...] = 0
        assert engine.run(spin_count, *arguments, region=(1, None)).regions == ROWS
        assert (np.asarray(counts) == ROWS).all()


def writing(scratch: Path) -> list[tuple[int, int]]:
    """Worker and region of every task that is changing a file."""
    rows = [row for board in boards(scratch) for row in board.rows]
    return [(row.pid, row.mark().region) for row in rows if row.mark().state == WRITING]


def test_an_update_that_had_not_begun_is_sent_again(bench):
    bench.engine.run(*bench.arguments("update", bench.out("update")), region=(1, None))
    for pid in workers_of(os.getpid()):
        kill(pid)
    out = bench.out("update")
    report = bench.engine.run(*bench.arguments("update", out), region=(1, None))
    assert report.retries == 0
    np.testing.assert_array_equal(np.asarray(out), 1.1 * np.asarray(bench.values))


@hs.kernel
def grow(a):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] = a[i, j] * 1.5 + 1.0


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_dies_while_it_writes_an_update_is_made_up_for(tmp_path, death):
    # Regions of 64 MB: to write one takes long enough to be caught at it.
    rows, columns = 4, 2**23
    with (
        hs.create(tmp_path / "a.npy", (rows, columns)) as a,
        hs.Engine(workers=2, scratch=tmp_path, progress=False) as engine,
        ThreadPoolExecutor(1) as thread,
    ):
        a[...] = np.arange(columns) + np.arange(rows)[:, None]
        expected = np.asarray(a) * 1.5 + 1.0
        engine.start()
        plan = engine.plan(grow, hs.update(a), region=(1, None))
        assert plan.undo and not plan.repeatable
        job = thread.submit(plan.run)
        caught: list[int] = []
        while not caught and not job.done():
            caught = [pid for pid, _ in writing(tmp_path)][:1]
            for pid in caught:
                kill(pid, death)
        report = job.result(timeout=60)
        assert caught, "the worker was to be caught writing"
        assert report.retries == 1
        assert np.asarray(a).tobytes() == expected.tobytes()


def test_a_region_that_kills_its_worker_twice_is_given_up(bench):
    values = bench.scratch(np.repeat(np.arange(ROWS, dtype=float)[:, None], COLUMNS, axis=1))
    out = bench.out("write")
    with pytest.raises(hs.WorkerLost) as caught:
        bench.engine.run(crash_at, values, hs.write(out), 20.0, 10**14, region=(1, None))
    error = caught.value
    assert error.signal == "SIGSEGV"
    assert {span.state for span in error.regions} == {"done", "untouched"}
    assert "region [20:21, 0:32768]" in str(error)
    for word in ("crash_at", "2 times", "boundscheck", "executor='serial'", out.path):
        assert word in str(error)
    # What was finished is whole, what was not is untouched.
    result = np.asarray(out)
    assert not result[20].any()
    done = (result == np.asarray(values)).all(axis=1)
    assert (done | ~result.any(axis=1)).all()
    assert done[:18].all()
    report = bench.engine.run(crash_at, values, hs.write(out), -1.0, 0, region=(1, None))
    assert report.retries == 0
    np.testing.assert_array_equal(np.asarray(out), np.asarray(values))


DEATHS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, "exit"]


@pytest.mark.parametrize("death", DEATHS)
def test_an_idle_worker_that_dies_is_replaced(bench, death):
    expected = undisturbed(bench, "write")
    old = workers_of(os.getpid())
    if death == "exit":
        leave(bench.engine)
        wait_until(lambda: not all(map(alive, old)), "a worker leaves")
    else:
        kill(old[0], death)
    assert undisturbed(bench, "write") == expected
    # It alone is replaced.
    assert len(set(old) & set(workers_of(os.getpid()))) == 1


@pytest.mark.parametrize("death", DEATHS)
def test_a_busy_worker_that_dies_is_replaced(bench, death):
    expected = undisturbed(bench, "write")
    old = workers_of(os.getpid())
    out = bench.out("write")
    bench.hold(SHORT if death == "exit" else LONG)
    job = bench.begin(*bench.arguments("write", out))
    if death == "exit":
        leave(bench.engine)
        wait_until(lambda: not all(map(alive, old)), "a worker leaves")
    else:
        kill(old[0], death)
    bench.let_go()
    assert job.result(timeout=60).regions == ROWS
    assert np.asarray(out).tobytes() == expected
    assert undisturbed(bench, "write") == expected
    # It alone is replaced.
    assert len(set(old) & set(workers_of(os.getpid()))) == 1


def test_workers_that_cannot_start_are_not_started_for_ever(bench, monkeypatch):
    # As in a broken installation: what is called first in a worker raises.
    post = resident.Posting
    monkeypatch.setattr(resident, "Posting", lambda pool, number, *rest: post(pool, 99, *rest))
    with pytest.raises(hs.WorkerLost, match=r"spin_scale ended.*a task; it raised IndexError:"):
        bench.engine.run(*bench.arguments("write", bench.out("write")), region=(1, None))
    monkeypatch.undo()
    undisturbed(bench, "write")
