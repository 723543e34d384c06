"""What the runs on one pool of workers know of each other's dead."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import wait_until

import hyperslab as hs
from hyperslab.pools.protocol import Answered, Line
from hyperslab.pools.resident import ResidentPool
from hyperslab_workers.task import Outcome, Task


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ResidentPool]:
    pool = ResidentPool(1, tmp_path)
    yield pool
    pool.close()


def line() -> Line:
    return Line(None, "", 1, workers=1, ordered=False)  # type: ignore[arg-type]


def test_a_run_hears_of_the_death_of_a_worker_that_another_run_had_replaced(pool) -> None:
    one, other = pool.open(line()), pool.open(line())
    first = pool.staff[0].pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: one.receive(0.1) or pool.staff[0].pid != first, "one run replaces it")
    # The other one was busy meanwhile, and now nobody else is there.
    one.close()
    second = pool.staff[0].pid
    assert other.receive(0.0) == []
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: other.receive(0.1) or pool.staff[0].pid != second, "the other one does", 5)
    other.close()


@hs.kernel
def add_one(a):
    for i in range(a.shape[0]):
        a[i] += 1


def kill(engine: hs.Engine, number: int) -> None:
    worker = engine._staff.pool.staff[number]
    os.kill(worker.pid, signal.SIGKILL)
    select.select([worker.pidfd], [], [])


def refuse(*arguments: object, **named: object) -> None:
    raise OSError(11, "Resource temporarily unavailable")


def test_where_no_worker_can_be_started_jobs_are_refused_until_one_can(monkeypatch):
    a = hs.from_array(np.zeros(1000))
    with hs.Engine(workers=2, progress=False) as engine:
        engine.run(add_one, hs.update(a), region=10)
        monkeypatch.setattr("hyperslab.pools.spawning.subprocess.Popen", refuse)
        kill(engine, 0)
        for _ in range(2):
            with pytest.raises(hs.HyperslabError, match=r"could not be started.*unavailable"):
                engine.run(add_one, hs.update(a), region=10)
        monkeypatch.undo()
        a[...] = 0
        assert engine.run(add_one, hs.update(a), region=10).regions == 100
        assert (np.asarray(a) == 1).all()


@pytest.mark.parametrize("jobs", [0, 1])
def test_an_engine_whose_workers_cannot_be_started_can_be_closed(monkeypatch, jobs):
    a = hs.from_array(np.zeros(1000))
    with hs.Engine(workers=2, progress=False) as engine:
        for _ in range(jobs):
            engine.run(add_one, hs.update(a), region=10)
            kill(engine, 1)
        monkeypatch.setattr("hyperslab.pools.spawning.subprocess.Popen", refuse)
        with pytest.raises(hs.HyperslabError, match="could not be started"):
            engine.run(add_one, hs.update(a), region=10)


def test_a_task_that_ctrl_c_kept_from_being_sent_is_not_waited_for(pool) -> None:
    channel = pool.open(line())
    worker = pool.staff[0]
    pid = worker.pid
    # As far as it comes when the interrupt is between the two tables.
    channel._sent[4711] = (Task("nowhere", 0, 0, 1), worker)
    assert channel.call_off(0.05) == [] and not channel._sent
    assert worker.pid == pid, "nobody was killed for it"
    channel.close()


def test_what_was_told_is_told_again_until_it_is_acknowledged(pool) -> None:
    channel = pool.open(line())
    event = Answered(Task("nowhere", 0, 0, 1), Outcome(0.0, 0.0, 1))
    channel._tell(4711, event)
    assert channel.receive(0.0) == [event]
    assert channel.call_off(0.0) == [event]
    channel.acknowledge()
    assert channel.receive(0.0) == []
    channel.close()
