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
from chaos import running, wait_until, workers_of

import hyperslab as hs
from hyperslab_workers import startup

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
            "footprint": lambda a: hs.accumulate(a, footprint=lambda region: region),
        }[privilege]
        return kernel, hs.read(self.gate, whole=True), self.values, declare(out)

    def out(self, privilege: str) -> hs.Array:
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


@pytest.mark.parametrize("privilege", ["write", "accumulate"])
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
    covered = [region for span in report.timeline for region in range(span.start, span.stop)]
    assert covered == list(range(ROWS))


@pytest.mark.parametrize("privilege", ["write", "accumulate"])
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


@pytest.mark.parametrize("privilege", ["update", "footprint"])
def test_what_cannot_be_repeated_is_refused_and_named(bench, privilege):
    out = bench.out(privilege)
    bench.hold()
    job = bench.begin(*bench.arguments(privilege, out))
    kill(running(bench.directory)[0][0])
    with pytest.raises(hs.WorkerLost) as caught:
        job.result(timeout=60)
    error = caught.value
    assert error.signal == "SIGKILL"
    # Both workers are gone, not only the one that was killed.
    assert len(error.regions) == 2
    assert error.regions[0] == "region [0:1, 0:32768]"
    assert error.regions[1].endswith(", 0:32768]")
    text = str(error)
    for word in ("spin_scale", "SIGKILL", "memory ran out", *error.regions, out.path):
        assert word in text
    # The engine is none the worse for it.
    bench.let_go()
    out[...] = 0
    report = bench.engine.run(*bench.arguments(privilege, out), region=(1, None))
    assert report.regions == ROWS
    np.testing.assert_array_equal(np.asarray(out), 1.1 * np.asarray(bench.values))


def test_an_update_that_had_not_begun_is_sent_again(bench):
    bench.engine.run(*bench.arguments("update", bench.out("update")), region=(1, None))
    for pid in workers_of(os.getpid()):
        kill(pid)
    out = bench.out("update")
    report = bench.engine.run(*bench.arguments("update", out), region=(1, None))
    assert report.retries == 0
    np.testing.assert_array_equal(np.asarray(out), 1.1 * np.asarray(bench.values))


def test_a_region_that_kills_its_worker_twice_is_given_up(bench):
    values = bench.scratch(np.repeat(np.arange(ROWS, dtype=float)[:, None], COLUMNS, axis=1))
    out = bench.out("write")
    with pytest.raises(hs.WorkerLost) as caught:
        bench.engine.run(crash_at, values, hs.write(out), 20.0, 10**14, region=(1, None))
    error = caught.value
    assert error.signal == "SIGSEGV"
    assert error.regions == ("region [20:21, 0:32768]",)
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
        bench.engine._pool._executor.submit(os._exit, 3)
        wait_until(lambda: not all(map(alive, old)), "a worker leaves")
    else:
        kill(old[0], death)
    assert undisturbed(bench, "write") == expected
    assert not set(old) & set(workers_of(os.getpid()))


@pytest.mark.parametrize("death", DEATHS)
def test_a_busy_worker_that_dies_is_replaced(bench, death):
    expected = undisturbed(bench, "write")
    old = workers_of(os.getpid())
    out = bench.out("write")
    bench.hold(SHORT if death == "exit" else LONG)
    job = bench.begin(*bench.arguments("write", out))
    if death == "exit":
        bench.engine._pool._executor.submit(os._exit, 3)
        wait_until(lambda: not all(map(alive, old)), "a worker leaves")
    else:
        kill(old[0], death)
    bench.let_go()
    assert job.result(timeout=60).regions == ROWS
    assert np.asarray(out).tobytes() == expected
    assert undisturbed(bench, "write") == expected
    assert not set(old) & set(workers_of(os.getpid()))


def test_workers_that_cannot_start_are_not_started_for_ever(bench, monkeypatch):
    # What a broken installation does: whatever is called first in a worker raises.
    monkeypatch.setattr(startup, "start_worker", divmod)
    with pytest.raises(hs.WorkerLost, match=r"spin_scale were killed.*before they began a task"):
        bench.engine.run(*bench.arguments("write", bench.out("write")), region=(1, None))
    monkeypatch.undo()
    undisturbed(bench, "write")
