"""What the runs on one pool of workers know of each other's dead."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import wait_until

from hyperslab.pools.protocol import Line
from hyperslab.pools.resident import ResidentPool


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
