"""What other programs do to a job's files while it runs is noticed, at the last moment too."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import hyperslab as hs
from hyperslab_workers import mapping
from hyperslab_workers.box import Box


@hs.kernel
def spin(turns, out):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(out.shape[0]):
        out[i] = 1 + 0.0 * x


@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]


@hs.kernel
def total(a, out):
    for i in range(a.shape[0]):
        out[0] += a[i]


def truncate(path: Path) -> None:
    os.truncate(path, 200)


def replace(path: Path) -> None:
    size = path.stat().st_size
    other = path.with_suffix(".other")
    other.write_bytes(bytes(size))
    other.rename(path)


def remove(path: Path) -> None:
    path.unlink()


class ThenDo(ThreadPoolExecutor):
    """Threads that do something when the last task is done, before anybody hears of that."""

    def __init__(self, tasks: int, do) -> None:
        super().__init__(1)
        self._left, self._do = tasks, do

    def submit(self, *args, **options) -> Future:
        future = super().submit(*args, **options)
        future.add_done_callback(self._landed)
        return future

    def _landed(self, future: Future) -> None:
        self._left -= 1
        if self._left == 0:
            self._do()


def test_a_write_does_not_make_a_truncated_file_long_again(tmp_path):
    path = tmp_path / "a.npy"
    with hs.create(path, (8, 8192)) as a:
        a[...] = 1.0
        os.truncate(path, 200)
        for columns in (slice(0, 8192), slice(0, 3)):  # past the map, and through it
            box = Box((7, columns.start), (8, columns.stop))
            with pytest.raises(hs.ArrayFileError, match="changed its size"):
                mapping.write_back(a._ref, box, np.ones(box.shape))
        assert path.stat().st_size == 200


def test_a_file_truncated_while_the_last_regions_are_computed(tmp_path, warm):
    """The writes of those regions would make it as long as it was, all else in it lost."""
    path = tmp_path / "out.npy"
    out = hs.create(path, 200_000)
    turns = 10_000_000
    warm.run(spin, turns, hs.write(out), region=100_000)
    began = time.monotonic()
    warm.run(spin, turns, hs.write(out), region=100_000)
    turns = int(turns * 1.5 / (time.monotonic() - began))
    timer = threading.Timer(0.5, truncate, (path,))
    out = hs.create(path, 200_000, overwrite=True)
    timer.start()
    with pytest.raises(hs.ArrayFileError, match=r"changed its size.*and has 200 now"):
        warm.run(spin, turns, hs.write(out), region=100_000)
    timer.join()
    assert path.stat().st_size == 200


@pytest.mark.parametrize("which", ["a", "out"])
@pytest.mark.parametrize("do", [truncate, replace, remove])
def test_a_file_changed_after_the_last_task(tmp_path, which, do):
    np.save(tmp_path / "a.npy", np.arange(1000.0))
    a, out = hs.open(tmp_path / "a.npy"), hs.create(tmp_path / "out.npy", 1000)
    changed = tmp_path / f"{which}.npy"
    with ThenDo(2, lambda: do(changed)) as pool, hs.Engine(executor=pool, progress=False) as engine:
        plan = engine.plan(double, a, hs.write(out), region=500)
        assert plan.tasks == 2
        with pytest.raises(hs.ArrayFileError, match=changed.name) as caught:
            plan.run()
    assert [(s.state, s.start, s.stop) for s in caught.value.regions] == [("in doubt", 0, 2)]


def test_what_was_changed_in_place_is_in_doubt_when_its_file_is(tmp_path):
    out = hs.create(tmp_path / "out.npy", 1000)
    with (
        ThenDo(2, lambda: truncate(tmp_path / "out.npy")) as pool,
        hs.Engine(executor=pool, progress=False) as engine,
    ):
        plan = engine.plan(double, out, hs.update(out), region=500, over=out)
        with pytest.raises(hs.ArrayFileError, match=r"0 of 2 regions are done; .*in part"):
            plan.run()


def test_a_job_whose_input_grows_is_fine_where_it_may(tmp_path):
    path = tmp_path / "a.dat"
    np.arange(1000.0).tofile(path)
    a, out = hs.open(path, dtype="f8", shape=1000), hs.from_array(np.zeros(1))

    def append() -> None:
        with open(path, "ab") as file:
            file.write(b"more")

    with ThenDo(1, append) as pool, hs.Engine(executor=pool, progress=False) as engine:
        engine.run(total, a, hs.accumulate(out))
    assert np.asarray(out)[0] == np.arange(1000.0).sum()
