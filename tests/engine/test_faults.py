"""Faults that were found from outside, each as a kind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from chaos import Program, wait_until, workers_of

import hyperslab as hs


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path, "many_answers.py")
    yield program
    program.kill()


def test_a_worker_killed_while_the_coordinator_stands_still_stops_nobody(program, tmp_path):
    """A worker may be in the middle of an answer, and the pipe full: nobody waits for the rest."""

    def rounds() -> int:
        with contextlib.suppress(OSError):
            return int((tmp_path / "rounds").read_text())
        return 0

    chance = random.Random(3)
    wait_until(rounds, "the first round")
    for _ in range(6):
        time.sleep(chance.uniform(0.0, 0.03))
        program.signal(signal.SIGSTOP)
        try:
            # So long that whoever can be blocked in a write, is.
            time.sleep(chance.choice([0.0, 0.1]))
            for pid in workers_of(program.pid)[:1]:
                os.kill(pid, signal.SIGKILL)
        finally:
            program.signal(signal.SIGCONT)
        before = rounds()
        wait_until(lambda seen=before: rounds() > seen + 1, "the jobs go on")
        assert program.process.poll() is None
    program.signal(signal.SIGINT)
    began = time.monotonic()
    returned, _, err = program.end()
    assert time.monotonic() - began < 5
    assert returned == -signal.SIGINT
    assert err.count("Traceback") == 1
    program.assert_nothing_left()


@hs.kernel
def add_one(a):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] += 1.0


@hs.kernel
def one_more(old, new):
    for i in range(old.shape[0]):
        for j in range(old.shape[1]):
            new[i, j] = old[i, j] + 1.0


ROWS, HELD = 64, 50


@pytest.mark.parametrize("how", ["update", "read and write", "footprint"])
def test_a_lock_that_is_not_free_says_which_regions_are_done(tmp_path, how):
    locks = tmp_path / "locks"
    # So large that a region is about a stripe of the lock.
    a = hs.create(tmp_path / "a.npy", (ROWS, 8192), "f8", shared=True, lock_dir=locks)
    call = {
        "update": (add_one, hs.update(a)),
        "read and write": (one_more, hs.read(a), hs.write(a)),
        "footprint": (add_one, hs.accumulate(a, footprint=lambda region: region)),
    }[how]
    over = {"over": a.shape} if how == "footprint" else {}
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with a.lock(np.s_[HELD:], write=True):
            held.set()
            go.wait()

    holder = threading.Thread(target=hold)
    settings = {"scratch": tmp_path, "lock_dir": locks, "lock_timeout": 0.3, "progress": False}
    with hs.Engine(workers=2, **settings) as engine:
        holder.start()
        try:
            held.wait()
            with pytest.raises(hs.LockTimeout) as caught:
                engine.run(*call, region=(1, None), **over)
        finally:
            go.set()
            holder.join()
    error, changed = caught.value, np.asarray(a)[:, 0] == 1
    assert 0 < changed.sum() <= HELD + 1
    done = [span for span in error.regions if span.state == "done"]
    assert {region for s in done for region in range(s.start, s.stop)} == set(*changed.nonzero())
    assert {span.state for span in error.regions} == {"done", "untouched"}
    assert f"{changed.sum()} of {ROWS} regions are done" in str(error)
    assert "othing was written" not in str(error)


@hs.kernel
def gather(values, out):
    for i in range(values.shape[0]):
        out[i] += values[i]


WRONG = {
    "a step": lambda s: slice(s.start, s.stop, 2),
    "before the start": lambda s: slice(s.start - 10**6, s.stop),
    "no slice": lambda s: "here",
    "an exception": lambda s: s.start // 0,
}


def footprint_job(regions: int, where: int, wrong: str) -> tuple[hs.Array, tuple]:
    out = hs.from_array(np.zeros(regions))

    def footprint(region):
        (s,) = region
        return WRONG[wrong](s) if s.start == where else s

    values = hs.from_array(np.ones(regions))
    return out, (gather, values, hs.accumulate(out, footprint=footprint))


@pytest.mark.parametrize(
    ("regions", "wrong"),
    [(300, "a step"), *((5_000, wrong) for wrong in WRONG), (65_536, "a step")],
)
def test_a_wrong_footprint_is_refused_before_anything_is_written(engine, regions, wrong):
    out, call = footprint_job(regions, regions // 2, wrong)
    with pytest.raises(hs.PlanError, match="footprint="):
        engine.run(*call, region=1)
    assert not np.asarray(out).any()


def test_a_wrong_footprint_of_very_many_is_a_failure_in_mid_job(engine):
    out, call = footprint_job(65_537, 300, "a step")
    with pytest.raises(hs.HyperslabError, match=r"footprint=.*under way") as caught:
        engine.run(*call, region=1)
    # A PlanError would say that nothing was touched.
    assert not isinstance(caught.value, hs.PlanError)
    done = [span for span in caught.value.regions if span.state == "done"]
    changed = np.flatnonzero(np.asarray(out))
    assert 0 < changed.size <= 300
    assert [r for span in done for r in range(span.start, span.stop)] == changed.tolist()
    assert f"{changed.size} of 65,537 regions are done" in str(caught.value)


@hs.kernel
def copy(values, out):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = values[i, j]


def private(pid: int) -> int:
    """Bytes of a process that are in no file."""
    with contextlib.suppress(OSError, psutil.Error):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return 1024 * int(line.split()[1])
    return 0


@pytest.mark.parametrize("memory", ["30 MB", "55 MB"])
def test_workers_together_hold_no_more_than_was_projected(tmp_path, memory):
    """Buffers live as long as a worker takes part, not as long as its task."""
    row = 2_500_000  # 20 MB: one, or two, fit at a time.
    a = hs.create(tmp_path / "a.npy", (24, row), "f8", sparse=True)
    out = hs.create(tmp_path / "out.npy", (24, row), "f8", sparse=True)
    small = [hs.from_array(np.zeros((8, 8)), scratch=tmp_path) for _ in range(2)]
    settings = {"scratch": tmp_path, "progress": False}
    with hs.Engine(workers=4, memory=memory, **settings) as engine:
        for _ in range(4):  # Every worker has loaded what it needs.
            engine.run(copy, small[0], hs.write(small[1]), region=(1, None))
        pids = workers_of(os.getpid())
        before = sum(map(private, pids))
        plan = engine.plan(copy, a, hs.write(out), region=(1, None))
        largest, over = [0], threading.Event()

        def watch() -> None:
            while not over.is_set():
                largest.append(sum(map(private, pids)) - before)
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            plan.run()
        finally:
            over.set()
            watcher.join()
    assert plan.memory.peak <= plan.budget.limit
    # A buffer was seen at all, and beside the buffers only small change.
    assert 10e6 < max(largest) < plan.memory.peak + 4e6
