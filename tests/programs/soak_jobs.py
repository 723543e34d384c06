"""The jobs of a soak: one of every kind of access, and what is right after each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import hyperslab as hs

__all__ = ["COLUMNS", "ROWS", "Job", "Regions", "make_jobs"]

ROWS, COLUMNS = 24, 16384
SPIN = 200_000


@hs.kernel
def scale(turns, values, out):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = out[i, j] + 1.1 * values[i, j] + 0.0 * x


@hs.kernel
def double(turns, old, new):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(old.shape[0]):
        for j in range(old.shape[1]):
            new[i, j] = 2.0 * old[i, j] + 1.0 + 0.0 * x


@hs.kernel
def total(turns, values, out):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[j % out.shape[0]] += values[i, j] + 0.0 * x


@hs.kernel
def spread(turns, values, out):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += values[0, j]


@hs.kernel
def count(turns, values, out):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for j in range(out.shape[0]):
        out[j] += 1 if x >= 0.0 else 2


@hs.kernel
def neighbours(turns, values, out):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = values[i, j] + 0.5 * values[i + 2, j] + values[i + 1, j] + 0.0 * x


@hs.kernel
def both(turns, values, out, sums):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = 3.0 * values[i, j] + 0.0 * x
            sums[j % sums.shape[0]] += values[i, j]


Regions = dict[str, list[int]]


@dataclass
class Job:
    """One job, what it starts from, and what is right."""

    name: str
    call: tuple
    outputs: list[hs.Array]
    sees: bool
    """Whether it sees what it changes: then a worker killed in mid-write is the end of it."""
    left: Callable[[Job, Regions], bool]
    """Whether the files hold what ``WorkerLost`` says of the regions."""
    starts: list[np.ndarray] = field(default_factory=list)
    expected: list[np.ndarray] = field(default_factory=list)

    def learn(self, engine: hs.Engine) -> None:
        """Run undisturbed, and remember."""
        self.starts = [np.array(out) for out in self.outputs]
        self.plan = engine.plan(*self.call, region=(1, None))
        assert self.plan.repeatable != self.sees, self.name
        self.plan.run()
        self.expected = [np.array(out) for out in self.outputs]

    def restore(self) -> None:
        """Make it ready to run."""
        for out, start in zip(self.outputs, self.starts, strict=True):
            np.asarray(out)[...] = start

    def right(self) -> bool:
        """Whether every bit is right."""
        return all(
            np.asarray(out).tobytes() == expected.tobytes()
            for out, expected in zip(self.outputs, self.expected, strict=True)
        )


def rows_hold(job: Job, regions: Regions) -> bool:
    """Region r is row r of the first output; what else there is was not added to."""
    got = np.asarray(job.outputs[0])
    return (
        np.array_equal(got[regions["done"]], job.expected[0][regions["done"]])
        and np.array_equal(got[regions["untouched"]], job.starts[0][regions["untouched"]])
        and all(
            np.array_equal(out, start)
            for out, start in zip(job.outputs[1:], job.starts[1:], strict=True)
        )
    )


def nothing_added(job: Job, regions: Regions) -> bool:
    """Contributions that wait to be merged are in no file."""
    return np.array_equal(np.asarray(job.outputs[0]), job.starts[0])


def spread_holds(values: np.ndarray) -> Callable[[Job, Regions], bool]:
    """Each region adds its row to itself and to the next."""

    def holds(job: Job, regions: Regions) -> bool:
        held, open_rows = job.starts[0].copy(), set()
        for region in regions["done"]:
            held[region : region + 2] += values[region].astype(held.dtype)
        for region in regions["in doubt"]:
            open_rows |= {region, region + 1}
        rows = [row for row in range(ROWS) if row not in open_rows]
        return np.array_equal(np.asarray(job.outputs[0])[rows], held[rows])

    return holds


def counts_hold(job: Job, regions: Regions) -> bool:
    """Each region adds one everywhere."""
    added = np.asarray(job.outputs[0]) - job.starts[0]
    done = len(regions["done"])
    return bool((added >= done).all() and (added <= done + len(regions["in doubt"])).all())


def next_row_too(region: tuple[slice, ...]) -> tuple[slice, slice]:
    """The footprint of `spread`."""
    return slice(region[0].start, min(region[0].start + 2, ROWS)), slice(0, COLUMNS)


def make_jobs(scratch: str, values: hs.Array, large: hs.Array, seed: int) -> list[Job]:
    """One of every kind, with files of their own."""
    rng = np.random.default_rng(seed)

    def out(*shape: int, dtype: str = "f8") -> hs.Array:
        return hs.from_array(rng.integers(1, 9, shape).astype(dtype), scratch=scratch)

    def grid(dtype: str = "f8") -> hs.Array:
        return out(ROWS, COLUMNS, dtype=dtype)

    held = np.array(values)
    whole = rng.integers(0, 9, (ROWS, COLUMNS))
    integers = hs.from_array(whole, scratch=scratch)
    jobs = []

    def add(name, kernel, arguments, outputs, left, sees=False):
        jobs.append(Job(name, (kernel, SPIN, *arguments), outputs, sees, left))

    a = grid()
    add("write", double, (values, hs.write(a)), [a], rows_hold)
    a = grid()
    add("update", scale, (values, hs.update(a)), [a], rows_hold, True)
    a = grid()
    add("read+write", double, (hs.read(a), hs.write(a)), [a], rows_hold, True)
    a = out(7)
    add("sum", total, (values, hs.accumulate(a)), [a], nothing_added)
    a = out(2**17)
    add("large sum", total, (large, hs.accumulate(a)), [a], nothing_added)
    a = grid()
    changed = hs.accumulate(a, footprint=next_row_too)
    add("in turn", spread, (values, changed), [a], spread_holds(held), True)
    a = grid("i8")
    changed = hs.accumulate(a, footprint=next_row_too)
    add("in any order", spread, (integers, changed), [a], spread_holds(whole), True)
    a = out(5 * 2**16, dtype="i8")
    add("direct", count, (values, hs.accumulate(a)), [a], counts_hold, True)
    a = grid()
    halo = hs.read(values, halo=(1, 0), boundary="wrap")
    add("halo", neighbours, (halo, hs.write(a)), [a], rows_hold)
    a, b = grid(), out(11)
    add("write+sum", both, (values, hs.write(a), hs.accumulate(b)), [a, b], rows_hold)
    return jobs
