"""joblib: NumPy in worker processes that open the file themselves, slab by slab."""

from __future__ import annotations

import os

import numpy as np
from joblib import Parallel, delayed
from numpy.lib.format import open_memmap
from with_numpy import laplacian_of, slabs
from workloads import BINS, COLDEST, WARMEST, Code, Inputs

__all__ = ["CODE"]

HOURS = 64
"""Hours a call: a call costs about a millisecond, and a slab of this size tens of them."""

STEP = 4
"""Hours at a time within a call, so that temporaries stay in the cache."""


def _over_hours(function, path: str, *more: str) -> list:
    hours = np.load(path, mmap_mode="r").shape[0]
    calls = (delayed(function)(path, *more, part) for part in slabs(hours, HOURS))
    return Parallel(n_jobs=len(os.sched_getaffinity(0)))(calls)


def _sum(path: str, part: slice) -> float:
    return np.load(path, mmap_mode="r")[part].sum(dtype="f8")


def _sum_over_time(path: str, part: slice) -> np.ndarray:
    return np.load(path, mmap_mode="r")[part].sum(axis=0, dtype="f8")


def _squares(path: str, other: str, part: slice) -> float:
    a, b = np.load(path, mmap_mode="r")[part], np.load(other, mmap_mode="r")[part]
    total = 0.0
    for few in slabs(len(a), STEP):
        difference = a[few] - b[few]
        np.square(difference, out=difference)
        total += difference.sum(dtype="f8")
    return total


def _convert(path: str, out: str, part: slice) -> None:
    a, result = np.load(path, mmap_mode="r")[part], np.load(out, mmap_mode="r+")[part]
    for few in slabs(len(a), STEP):
        values = a[few] - np.float32(273.15)
        values *= np.float32(1.8)
        np.add(values, np.float32(32), out=result[few])


def _laplacian(path: str, out: str, part: slice) -> None:
    a, result = np.load(path, mmap_mode="r")[part], np.load(out, mmap_mode="r+")[part]
    for few in slabs(len(a), 1):
        laplacian_of(a[few], result[few])


def _counts(path: str, part: slice) -> np.ndarray:
    a = np.load(path, mmap_mode="r")[part]
    return sum(np.histogram(a[few], BINS, (COLDEST, WARMEST))[0] for few in slabs(len(a), STEP))


def total(inputs: Inputs, out: str) -> None:
    np.save(out, sum(_over_hours(_sum, inputs.a)))


def rmse(inputs: Inputs, out: str) -> None:
    squares = sum(_over_hours(_squares, inputs.a, inputs.b))
    np.save(out, np.sqrt(squares / np.load(inputs.a, mmap_mode="r").size))


def mean(inputs: Inputs, out: str) -> None:
    totals = _over_hours(_sum_over_time, inputs.a)
    np.save(out, sum(totals) / np.load(inputs.a, mmap_mode="r").shape[0])


def _field(function, inputs: Inputs, out: str) -> None:
    shape = np.load(inputs.a, mmap_mode="r").shape
    open_memmap(out, mode="w+", dtype="f4", shape=shape)
    _over_hours(function, inputs.a, out)


def elementwise(inputs: Inputs, out: str) -> None:
    _field(_convert, inputs, out)


def laplacian(inputs: Inputs, out: str) -> None:
    _field(_laplacian, inputs, out)


def histogram(inputs: Inputs, out: str) -> None:
    np.save(out, sum(_over_hours(_counts, inputs.a)))


CODE: dict[str, Code] = {
    "sum": total,
    "rmse": rmse,
    "mean": mean,
    "elementwise": elementwise,
    "laplacian": laplacian,
    "histogram": histogram,
}
"""Not the two that need all hours of a point: nobody would reach for joblib first."""
