"""What jobs hold against what their plans say: some of the kinds of the benchmark, smaller."""

from __future__ import annotations

import numpy as np
import pytest
from truthful_jobs import KINDS, measure

import hyperslab as hs

UNIT = 12 * 2**20

SHORT = (
    "axes turned and reversed",
    "small private totals in memory",
    "three rows' budget, four workers",
    "three plans in turn",
)


@pytest.mark.parametrize("name", SHORT)
def test_no_more_is_held_than_was_projected_and_at_least_half(name):
    (kind,) = (kind for kind in KINDS if kind.name == name)
    found = measure(kind, UNIT)
    assert found.projected > 15 * 10**6
    assert found.true, f"{name}: {found.held:,} of {found.projected:,} bytes"


@hs.kernel
def add_rows(a, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total[j] += a[i, j]


def test_a_plan_that_gave_its_slots_back_gives_the_same_bits_again(serial, tmp_path):
    a = hs.create(tmp_path / "a.npy", (64, 2**16), "f8")
    a[...] = np.random.default_rng(5).random(a.shape)
    with hs.Engine(executor="serial", progress=False, scratch="/dev/shm") as engine:
        totals = [hs.from_array(np.zeros(2**16)) for _ in range(2)]
        plan = engine.plan(add_rows, a, hs.accumulate(totals[0]), region=(1, None))
        assert plan.memory.shared > 2**20, "contributions lie in memory, and are worth giving back"
        for _ in range(3):
            plan.run()
            serial.run(add_rows, a, hs.accumulate(totals[1]), region=(1, None))
    np.testing.assert_array_equal(np.asarray(totals[0]), np.asarray(totals[1]))


@pytest.mark.parametrize("order", ["C", "F"])
def test_logical_totals_of_numbers_are_numbers(serial, tmp_path, order):
    any_row = hs.create(tmp_path / "any.npy", (3, 5), "i4", order=order)
    a = hs.from_array(np.arange(15, dtype="i4").reshape(3, 5) % 4)

    @hs.kernel
    def either(a, total):
        for i in range(a.shape[0]):
            for j in range(a.shape[1]):
                total[i, j] |= a[i, j] != 0

    into = hs.accumulate(any_row, op="logical_or")
    serial.run(either, hs.read(a, whole=True), into, over=(1,))
    np.testing.assert_array_equal(np.asarray(any_row), np.asarray(a) != 0)
