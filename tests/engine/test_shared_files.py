"""One file, several independent programs: nothing is lost, nothing is torn."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import Program

import hyperslab as hs
from hyperslab_workers.locks import release_all

LENGTH = 160_000
SOAK = float(os.environ.get("HYPERSLAB_SOAK", "0"))


@hs.kernel
def copy(values, out):
    for i in range(values.shape[0]):
        out[i] = values[i]


@hs.kernel
def shift(values, out):
    for i in range(out.shape[0]):
        out[i] = values[i]


@hs.kernel
def count_twice(values, first, second):
    for _ in range(values.shape[0]):
        first[0] += 1
        second[0] += 1


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def _start(how: str, path: Path, times: int) -> Program:
        started.append(Program(tmp_path, "share.py", how, path, times, wait=True))
        assert started[-1].line() == "ready", started[-1].end()
        return started[-1]

    yield _start
    for program in started:
        program.kill()
    release_all()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    hs.create(tmp_path / "shared.npy", LENGTH).close()
    return tmp_path / "shared.npy"


@pytest.mark.parametrize(
    "ways",
    [
        ("update", "update"),
        ("footprint", "footprint"),
        ("update", "footprint", "private"),
        ("by_hand", "by_hand", "update"),
    ],
    ids="+".join,
)
def test_independent_programs_lose_nothing(start, path, ways):
    times = 6
    programs = [start(way, path, times) for way in ways]
    for program in programs:
        program.go_on()
    for program in programs:
        returned, _, err = program.end()
        assert returned == 0, err
    total = len(ways) * times
    if "by_hand" in ways:
        # Its halves and the jobs' regions are whole numbers of additions each.
        assert len(np.unique(np.load(path))) == 1
    np.testing.assert_array_equal(np.load(path), total)
    programs[0].assert_nothing_left()


@pytest.mark.parametrize("privilege", ["read", "write", "update", "footprint", "private"])
def test_jobs_take_the_locks_of_shared_arrays(start, path, tmp_path, privilege):
    holder = start("hold", path, 0)
    assert holder.line() == "held"
    mine = hs.from_array(np.ones(LENGTH), scratch=tmp_path)
    with hs.open(path, "r+", shared=True, lock_dir=holder.locks) as shared:
        arguments = {
            "read": (shared, hs.write(mine)),
            "write": (mine, hs.write(shared)),
            "update": (mine, hs.update(shared)),
            "footprint": (mine, hs.accumulate(shared, footprint=lambda region: region)),
            "private": (mine, hs.accumulate(shared)),
        }[privilege]
        with hs.Engine(workers=1, scratch=tmp_path, lock_timeout=0.1) as engine:
            with pytest.raises(hs.LockTimeout, match=r"was not free within 0\.1 s") as caught:
                engine.run(copy, *arguments, region=LENGTH)
            assert str(path) in str(caught.value)
            assert not np.load(path).any()
            holder.go_on()
            assert holder.end()[0] == 0
            engine.run(copy, *arguments, region=LENGTH)
    assert np.asarray(mine).all() == (privilege != "read")
    assert np.load(path).all() == (privilege != "read")


def test_two_totals_reach_their_files_together_or_not_at_all(start, path, tmp_path):
    holder = start("hold", path, 0)
    assert holder.line() == "held"
    free = hs.create(tmp_path / "free.npy", LENGTH)
    with (
        hs.open(path, "r+", shared=True, lock_dir=holder.locks) as held,
        hs.Engine(executor="serial", scratch=tmp_path, lock_timeout=0.1) as engine,
    ):
        totals = (hs.accumulate(free), hs.accumulate(held[:10]))
        job = (count_twice, hs.from_array(np.ones(5), scratch=tmp_path), *totals)
        with pytest.raises(hs.LockTimeout, match="was not free within"):
            engine.run(*job)
        assert not np.asarray(free).any()
        holder.go_on()
        assert holder.end()[0] == 0
        engine.run(*job)
    assert free[0] == np.load(path)[0] == 5


def test_a_wrapped_halo_locks_the_far_edge_too(start, path, tmp_path):
    holder = start("hold", path, 0)
    assert holder.line() == "held"
    mine = hs.from_array(np.ones(LENGTH), scratch=tmp_path)
    with hs.open(path, shared=True, lock_dir=holder.locks) as shared:
        last = slice(LENGTH - 100, LENGTH)
        with hs.Engine(workers=1, scratch=tmp_path, lock_timeout=0.1) as engine:
            # The holder has the first stripe only.
            engine.run(shift, hs.read(shared[last], halo=1, boundary="wrap"), hs.write(mine[last]))
            with pytest.raises(hs.LockTimeout):
                engine.run(
                    shift,
                    hs.read(shared, halo=1, boundary="wrap"),
                    hs.write(mine),
                    region=(LENGTH // 2,),
                )
    holder.go_on()
    holder.end()


def test_ctrl_c_ends_a_wait_for_a_lock(start, path, tmp_path):
    holder = start("hold", path, 0)
    assert holder.line() == "held"
    waiting = start("update", path, 1)
    waiting.go_on()
    waiting.wait_running()
    time.sleep(0.2)
    waiting.signal_group(signal.SIGINT)
    assert waiting.process.wait(20) == -signal.SIGINT
    holder.go_on()
    assert holder.end()[0] == 0
    # Its other regions did not need the lock that was held.
    assert not np.load(path)[: LENGTH // 8].any()
    waiting.assert_nothing_left()


def test_programs_killed_in_mid_update_tear_no_other_program(start, path):
    chance = random.Random(11)
    deadline = time.monotonic() + max(SOAK, 1.0)
    victim = start("for_ever", path, 0)
    checked = 0
    with hs.open(path, "r+", shared=True, lock_dir=victim.locks) as shared:
        half = LENGTH // 2
        while time.monotonic() < deadline or not checked:
            time.sleep(chance.uniform(0.05, 0.3))
            victim.signal_group(signal.SIGKILL)
            victim.process.wait()
            # The lock of the dead is free; what it had half written is not the lock's to mend.
            for part in (np.s_[:half], np.s_[half:]):
                with shared.lock(part, write=True, timeout=5.0):
                    shared[part] = 0
            victim = start("for_ever", path, 0)
            for _ in range(20):
                with shared.lock(timeout=5.0):
                    now = np.array(shared)
                assert len(np.unique(now[:half])) == 1
                assert len(np.unique(now[half:])) == 1
                checked += 1
        assert victim.process.poll() is None, victim.end()[2]
