"""The same bytes for any number of workers, any memory budget and any executor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import hyperslab as hs

# Numbers whose sum depends, in its last bits, on the order in which they are added.
RNG = np.random.default_rng(7)
VALUES = RNG.normal(size=(60, 50)) * 10.0 ** RNG.integers(-8, 8, (60, 50))
WEIGHTS = RNG.integers(1, 1000, (60, 50))


@hs.kernel
def smooth(u, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = 0.0
            for a in range(3):
                for b in range(3):
                    total += u[i + a, j + b] / (1 + a + 3 * b)
            out[i, j] = np.sqrt(abs(total))


@hs.kernel
def totals(u, weights, columns, total, hits):
    for i in range(u.shape[0]):
        for j in range(u.shape[1]):
            columns[j] += u[i, j]
            total[0] += u[i, j]
            hits[weights[i, j]] += 1


@hs.kernel
def stack(u, image):
    for i in range(u.shape[0]):
        for j in range(u.shape[1]):
            image[i, j] += u[i, j]
            image[i + 2, j + 1] += u[i, j] / 3


@hs.kernel
def drift(a, factor):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] = a[i, j] * factor + 1 / (1 + a[i, j] ** 2)


def beyond(region: tuple[slice, ...]) -> tuple[slice, ...]:
    rows, columns = region
    return slice(rows.start, rows.stop + 2), slice(columns.start, columns.stop + 1)


def stencil_bytes(engine: hs.Engine) -> bytes:
    out = hs.from_array(np.zeros((60, 50)))
    engine.run(
        smooth,
        hs.read(hs.from_array(VALUES), halo=1, boundary="wrap"),
        hs.write(out),
        region=(7, 11),
    )
    return np.asarray(out).tobytes()


def private_bytes(engine: hs.Engine) -> bytes:
    # One array of floats and one of integers, which may be gathered in private or in the file:
    # what the budget decides for the second must not change how the first is rounded.
    columns, total = hs.from_array(np.ones(50)), hs.from_array(np.zeros(1, "f4"))
    hits = hs.from_array(np.zeros(1000, int))
    engine.run(
        totals,
        hs.from_array(VALUES),
        hs.from_array(WEIGHTS),
        hs.accumulate(columns),
        hs.accumulate(total),
        hs.accumulate(hits),
        region=(3, None),
    )
    return np.asarray(columns).tobytes() + np.asarray(total).tobytes() + np.asarray(hits).tobytes()


def footprint_bytes(engine: hs.Engine) -> bytes:
    image = hs.from_array(np.full((62, 51), 0.1))
    engine.run(
        stack,
        hs.from_array(VALUES),
        hs.accumulate(image, footprint=beyond),
        region=(7, 11),
    )
    return np.asarray(image).tobytes()


def update_bytes(engine: hs.Engine) -> bytes:
    a = hs.from_array(VALUES)
    for _ in range(3):
        engine.run(drift, hs.update(a), 0.7, region=(9, None))
    return np.asarray(a).tobytes()


def untouched_bytes(engine: hs.Engine) -> bytes:
    # 5 is a true value, and the logical operations make it 1 in every element or in none.
    flags = hs.from_array(np.full(40_000, 5))
    engine.run(all_positive, hs.from_array(WEIGHTS), hs.accumulate(flags, "logical_and"))
    return np.asarray(flags).tobytes()


@hs.kernel
def all_positive(weights, flags):
    for i in range(weights.shape[0]):
        flags[i] = flags[i] != 0 and weights[i, 0] > 0


JOBS: list[Callable[[hs.Engine], bytes]] = [
    stencil_bytes,
    private_bytes,
    footprint_bytes,
    update_bytes,
]


@pytest.fixture(scope="module")
def reference(serial: hs.Engine) -> dict[str, bytes]:
    """What one process computes, one region after the other."""
    return {job.__name__: job(serial) for job in JOBS}


def test_jobs_notice_the_order_of_addition() -> None:
    """Else equal bytes below would show nothing."""
    columns = VALUES.sum(axis=0)
    pieces = sum((VALUES[i : i + 9].sum(axis=0) for i in range(0, 60, 9)), np.zeros(50))
    assert columns.tobytes() != pieces.tobytes()
    shuffled = VALUES[RNG.permutation(60)].sum(axis=0)
    assert columns.tobytes() != shuffled.tobytes()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers(workers: int, reference: dict[str, bytes]) -> None:
    with hs.Engine(workers=workers, progress=False) as engine:
        for job in JOBS:
            # Twice, because which worker gets what differs from run to run.
            for _ in range(2):
                assert job(engine) == reference[job.__name__]


@pytest.mark.parametrize("memory", ["1GB", "50 kB", "4 kB"])
def test_memory_budgets(memory: str, reference: dict[str, bytes]) -> None:
    with hs.Engine(workers=2, memory=memory, progress=False) as engine:
        for job in JOBS:
            assert job(engine) == reference[job.__name__]


def test_a_budget_changes_where_but_never_the_partition() -> None:
    """Else the three budgets above would show nothing."""

    def words(memory: str) -> str:
        with hs.Engine(workers=2, memory=memory, progress=False) as engine:
            return engine.plan(
                totals,
                hs.from_array(VALUES),
                hs.from_array(WEIGHTS),
                hs.accumulate(hs.from_array(np.zeros(50))),
                hs.accumulate(hs.from_array(np.zeros(1, "f4"))),
                hs.accumulate(hs.from_array(np.zeros(1000, int))),
                region=(3, None),
            ).explain()

    small, large = words("50 kB"), words("1GB")
    assert "in the file, under its lock" in small
    assert "in the file, under its lock" not in large
    for line in ("regions", "tasks"):
        assert line_of(small, line) == line_of(large, line)


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(word))


def test_a_logical_accumulation_does_not_depend_on_the_budget() -> None:
    found = set()
    for memory in ("1GB", "2MB"):
        with hs.Engine(executor="serial", memory=memory, progress=False) as engine:
            found.add(untouched_bytes(engine))
    assert len(found) == 1


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_executors_of_the_users(
    kind: str, request: pytest.FixtureRequest, reference: dict[str, bytes]
) -> None:
    executor: Executor = request.getfixturevalue(kind)
    with hs.Engine(executor=executor, progress=False) as engine:
        for job in JOBS:
            assert job(engine) == reference[job.__name__]
    # The engine is closed; the executor is its owner's, and still works.
    assert executor.submit(pow, 2, 5).result() == 32
