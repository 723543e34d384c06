"""Short jobs that are run again: planned once, and never taken for another job."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperslab as hs
from hyperslab.planning import planner
from hyperslab.planning.recall import Recall


@hs.kernel
def times(a, factor, out):
    for i in range(a.shape[0]):
        out[i] = factor * a[i]


@hs.kernel
def add_to(a, total):
    for i in range(a.shape[0]):
        total[0] += a[i]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels of the plans that were made, as they are made."""
    made: list[str] = []
    build = planner.build

    def counted(kernel, *arguments, **options):
        made.append(kernel.name)
        return build(kernel, *arguments, **options)

    monkeypatch.setattr(planner, "build", counted)
    yield made


def test_a_job_that_is_run_again_is_planned_once(engine: hs.Engine, planned: list[str]) -> None:
    a, out = hs.from_array(np.arange(20.0)), hs.from_array(np.zeros(20))
    for step in range(5):
        a[...] = np.arange(20.0) + step
        engine.run(times, a, 3.0, hs.write(out))
        assert np.array_equal(out, 3.0 * (np.arange(20.0) + step))
    assert len(planned) == 1


def test_views_made_anew_are_the_same_arrays(engine: hs.Engine, planned: list[str]) -> None:
    a, out = hs.from_array(np.arange(20.0)), hs.from_array(np.zeros(20))
    for _ in range(3):
        engine.run(times, hs.read(a[4:8]), 2.0, hs.write(out[:4]))
    assert len(planned) == 1
    engine.run(times, hs.read(a[5:9]), 2.0, hs.write(out[:4]))
    assert len(planned) == 2
    assert np.array_equal(out[:4], [10.0, 12.0, 14.0, 16.0])


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.0, -0.0), (1, 1.0), (True, 1), (2.0, 3.0), (np.float32(1), np.float64(1)), (1, np.int8(1))],
)
def test_numbers_are_told_apart_by_type_and_bits(
    serial: hs.Engine, planned: list[str], one: complex, other: complex
) -> None:
    a, out = hs.from_array(np.arange(1.0, 9.0)), hs.from_array(np.zeros(8))
    for factor in (one, other, one, other):
        serial.run(times, a, factor, hs.write(out))
        assert np.array_equal(np.signbit(out), np.signbit(factor * np.asarray(a)))
        assert np.array_equal(out, factor * np.asarray(a))
    assert len(planned) == 2


def test_nan_is_a_number_like_others(serial: hs.Engine, planned: list[str]) -> None:
    a, out = hs.from_array(np.ones(3)), hs.from_array(np.zeros(3))
    for _ in range(3):
        serial.run(times, a, math.nan, hs.write(out))
    assert np.isnan(np.asarray(out)).all()
    assert len(planned) == 1


def test_how_it_is_split_and_declared_is_part_of_the_job(
    serial: hs.Engine, planned: list[str]
) -> None:
    a, out = hs.from_array(np.ones(8)), hs.from_array(np.zeros(8))
    assert serial.run(times, a, 1.0, hs.write(out)).regions == 1
    assert serial.run(times, a, 1.0, hs.write(out), region=2).regions == 4
    assert serial.run(times, a, 1.0, hs.write(out), region=(4,)).regions == 2
    assert serial.run(times, hs.read(a, whole=True), 1.0, hs.write(out)).regions == 1
    with pytest.raises(hs.PlanError, match="whole numbers"):
        serial.run(times, a, 1.0, hs.write(out), region=2.0)
    total = hs.from_array(np.zeros(1))
    for op, expected in (("add", 8.0), ("add", 16.0)):
        serial.run(add_to, a, hs.accumulate(total, op=op))
        assert np.array_equal(total, [expected])


def test_an_array_in_memory_may_have_been_changed(serial: hs.Engine, planned: list[str]) -> None:
    out, values = hs.from_array(np.zeros(4)), np.ones(4)
    for step in range(3):
        values[:] = step
        serial.run(times, values, 2.0, hs.write(out))
        assert np.array_equal(out, np.full(4, 2.0 * step))
    assert len(planned) == 3


def test_a_footprint_is_asked_again(serial: hs.Engine) -> None:
    a, total = hs.from_array(np.ones(4)), hs.from_array(np.zeros(4))
    for place in range(4):
        serial.run(
            add_to,
            a,
            hs.accumulate(total, footprint=lambda region, place=place: (slice(place, place + 1),)),
            over=(4,),
            region=4,
        )
    assert np.array_equal(total, np.full(4, 4.0))


def test_arrays_go_when_nobody_else_has_them(engine: hs.Engine) -> None:
    a, out = hs.from_array(np.ones(8)), hs.from_array(np.zeros(8))
    gc.collect()
    known = len(engine._recall)
    engine.run(times, a, 2.0, hs.write(out))
    assert len(engine._recall) == known + 1
    paths = (a.path, out.path)
    del a
    gc.collect()
    assert len(engine._recall) == known
    del out
    gc.collect()
    assert not any(map(os.path.exists, paths))


def test_a_closed_array_is_an_error(serial: hs.Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(8))
    a, out = hs.open(tmp_path / "a.npy"), hs.from_array(np.zeros(8))
    serial.run(times, a, 2.0, hs.write(out))
    a.close()
    with pytest.raises(hs.ArrayFileError, match="was closed"):
        serial.run(times, a, 2.0, hs.write(out))


def test_a_file_that_was_replaced_is_an_error(engine: hs.Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(8))
    a, out = hs.open(tmp_path / "a.npy"), hs.from_array(np.zeros(8))
    engine.run(times, a, 2.0, hs.write(out))
    np.save(tmp_path / "other.npy", np.zeros(8))
    os.replace(tmp_path / "other.npy", tmp_path / "a.npy")
    b = hs.open(tmp_path / "a.npy")
    engine.run(times, b, 2.0, hs.write(out))
    assert not np.asarray(out).any()


def test_only_short_jobs_are_kept_and_not_too_many(serial: hs.Engine, tmp_path: Path) -> None:
    a, out = hs.from_array(np.ones(8)), hs.from_array(np.zeros(8))
    for factor in range(100):
        serial.run(times, a, float(factor), hs.write(out))
    assert len(serial._recall) <= 16
    recall = Recall()
    large = hs.create(tmp_path / "large.npy", (2**24,), np.float64, sparse=True)
    arguments = (hs.read(large), 1.0, hs.write(large))
    plan = serial.plan(times, *arguments)
    assert recall.keep(Recall.key(times, arguments, None, None), plan, arguments) is plan
    assert len(recall) == 0


def test_what_fits_no_more_is_planned_anew(serial: hs.Engine) -> None:
    arguments = (hs.from_array(np.ones(8)), 1.0, hs.write(hs.from_array(np.zeros(8))))
    recall, key = Recall(), Recall.key(times, arguments, None, None)
    kept = recall.keep(key, serial.plan(times, *arguments), arguments)
    assert recall.find(key, kept.memory.peak) is kept
    assert recall.find(key, kept.memory.peak - 1) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_sequence_of_jobs_gives_what_numpy_gives(
    serial: hs.Engine, data: st.DataObject
) -> None:
    values = np.arange(12.0)
    a, out = hs.from_array(values), hs.from_array(np.zeros(12))
    expected = np.zeros(12)
    for _ in range(data.draw(st.integers(1, 8))):
        first, length = data.draw(st.integers(0, 8)), data.draw(st.integers(1, 4))
        factor = data.draw(st.sampled_from([1, 1.0, True, -2.0, 0.5]))
        region = data.draw(st.sampled_from([None, 1, 2, 3]))
        backwards = data.draw(st.booleans())
        part = slice(first, first + length)
        source = a[part][::-1] if backwards else a[part]
        serial.run(times, source, factor, hs.write(out[part]), region=region)
        expected[part] = factor * (values[part][::-1] if backwards else values[part])
        assert np.array_equal(out, expected)
