"""hyperslab: what a user writes who has read its guide."""

from __future__ import annotations

import os

import numpy as np
from workloads import BINS, COLDEST, WARMEST, Code, Inputs

import hyperslab as hs

__all__ = ["CODE", "close", "engine", "release", "start_afresh"]

_engine: hs.Engine | None = None
_afresh = False


def engine() -> hs.Engine:
    """The warm engine of this process."""
    global _engine
    if _engine is None:
        _engine = hs.Engine(workers=len(os.sched_getaffinity(0)), progress=False)
        _warm_up(_engine)
    return _engine


def start_afresh() -> None:
    """From now on every run gets new workers: warm, but nothing of the inputs mapped yet."""
    global _afresh
    _afresh = True


def release() -> None:
    """Called after every run, outside the measured time."""
    if _afresh:
        close()
        engine()


def close() -> None:
    """Stop the workers."""
    global _engine
    if _engine is not None:
        _engine.close()
        _engine = None


@hs.kernel
def _nothing(a, out):
    for i in range(a.shape[0]):
        out[i] = a[i]


def _warm_up(engine: hs.Engine) -> None:
    # Enough tasks that every worker gets one, which is when it has finished starting.
    a, out = hs.from_array(np.zeros(2**16)), hs.from_array(np.zeros(2**16))
    for _ in range(10):
        engine.run(_nothing, a, hs.write(out), region=1024)


@hs.kernel
def add_rows(a, total):
    # A sum for each longitude, not one for all: a single running sum waits for itself.
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total += a[i, j]


@hs.kernel
def add_squares(a, b, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                difference = a[i, j, k] - b[i, j, k]
                total[k] += difference * difference


@hs.kernel
def add_hours(a, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                total[j, k] += a[i, j, k]


@hs.kernel
def add_moments(a, first, total, squares):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                # About the first hour: one pass, and nothing cancels.
                distance = np.float64(a[i, j, k] - first[j, k])
                total[j, k] += distance
                squares[j, k] += distance * distance


@hs.kernel
def convert(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                out[i, j, k] = (a[i, j, k] - np.float32(273.15)) * np.float32(1.8) + np.float32(32)


@hs.kernel
def differences(a, out):
    four = np.float32(4)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                # `a` shows one row and one column more all round.
                around = a[i, j, k + 1] + a[i, j + 2, k + 1] + a[i, j + 1, k] + a[i, j + 1, k + 2]
                out[i, j, k] = around - four * a[i, j + 1, k + 1]


@hs.kernel
def count(a, lowest, scale, counts):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                position = (a[i, j, k] - lowest) * scale
                if 0 <= position < BINS:
                    counts[int(position)] += 1
                elif position == BINS:
                    counts[BINS - 1] += 1


@hs.kernel
def add_up(a, out):
    for k in range(a.shape[2]):
        for j in range(a.shape[1]):
            out[0, j, k] = a[0, j, k]
    for i in range(1, a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                out[i, j, k] = out[i - 1, j, k] + a[i, j, k]


def total(inputs: Inputs, out: str) -> None:
    a = hs.open(inputs.a)
    columns = hs.from_array(np.zeros(a.shape[2]))
    engine().run(add_rows, a, hs.accumulate(columns))
    np.save(out, np.asarray(columns).sum())


def rmse(inputs: Inputs, out: str) -> None:
    a, b = hs.open(inputs.a), hs.open(inputs.b)
    columns = hs.from_array(np.zeros(a.shape[2]))
    engine().run(add_squares, a, b, hs.accumulate(columns))
    np.save(out, np.sqrt(np.asarray(columns).sum() / a.size))


def mean(inputs: Inputs, out: str) -> None:
    a = hs.open(inputs.a)
    total = hs.from_array(np.zeros(a.shape[1:]))
    engine().run(add_hours, a, hs.accumulate(total))
    np.save(out, np.asarray(total) / a.shape[0])


def std(inputs: Inputs, out: str) -> None:
    a = hs.open(inputs.a)
    total, squares = hs.from_array(np.zeros(a.shape[1:])), hs.from_array(np.zeros(a.shape[1:]))
    engine().run(add_moments, a, a[0], hs.accumulate(total), hs.accumulate(squares))
    hours = a.shape[0]
    np.save(out, np.sqrt((np.asarray(squares) - np.asarray(total) ** 2 / hours) / hours))


def elementwise(inputs: Inputs, out: str) -> None:
    a = hs.open(inputs.a)
    engine().run(convert, a, hs.write(hs.create(out, a.shape, "f4")))


def laplacian(inputs: Inputs, out: str) -> None:
    a = hs.open(inputs.a)
    around = hs.read(a, halo=(0, 1, 1), boundary="nearest")
    engine().run(differences, around, hs.write(hs.create(out, a.shape, "f4")))


def histogram(inputs: Inputs, out: str) -> None:
    counts = hs.create(out, BINS, "i8")
    scale = np.float32(BINS / (WARMEST - COLDEST))
    engine().run(count, hs.open(inputs.a), np.float32(COLDEST), scale, hs.accumulate(counts))


def cumsum(inputs: Inputs, out: str) -> None:
    a = hs.open(inputs.a)
    # Every region has all hours of some latitudes.
    region = (None, 8, None)
    engine().run(add_up, a, hs.write(hs.create(out, a.shape, "f4")), region=region)


CODE: dict[str, Code] = {
    "sum": total,
    "rmse": rmse,
    "mean": mean,
    "std": std,
    "elementwise": elementwise,
    "laplacian": laplacian,
    "histogram": histogram,
    "cumsum": cumsum,
}
