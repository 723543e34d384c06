"""NumPy in one process: slabs of a memory map, so that temporaries stay in the cache."""

from __future__ import annotations

import numpy as np
from numpy.lib.format import open_memmap
from workloads import BINS, COLDEST, WARMEST, Code, Inputs

__all__ = ["CODE", "SLAB", "laplacian_of", "slabs"]

SLAB = 4
"""Hours at a time: some megabytes."""


def slabs(hours: int, length: int = SLAB) -> list[slice]:
    """The time axis in pieces."""
    return [slice(first, min(first + length, hours)) for first in range(0, hours, length)]


def total(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    np.save(out, a.sum(dtype="f8"))


def rmse(inputs: Inputs, out: str) -> None:
    a, b = np.load(inputs.a, mmap_mode="r"), np.load(inputs.b, mmap_mode="r")
    squares = 0.0
    for part in slabs(len(a)):
        difference = a[part] - b[part]
        np.square(difference, out=difference)
        squares += difference.sum(dtype="f8")
    np.save(out, np.sqrt(squares / a.size))


def mean(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    np.save(out, a.mean(axis=0, dtype="f8"))


def std(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    # a.std(axis=0, dtype="f8") holds a float64 copy of the whole array.
    mean = a.mean(axis=0, dtype="f8")
    squares, distance = np.zeros_like(mean), np.empty_like(mean)
    for hour in a:
        np.subtract(hour, mean, out=distance)
        np.square(distance, out=distance)
        squares += distance
    np.save(out, np.sqrt(squares / len(a)))


def elementwise(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    result = open_memmap(out, mode="w+", dtype="f4", shape=a.shape)
    for part in slabs(len(a)):
        values = a[part] - np.float32(273.15)
        values *= np.float32(1.8)
        np.add(values, np.float32(32), out=result[part])


def laplacian_of(a: np.ndarray, out: np.ndarray) -> None:
    """The Laplacian of some hours, without a padded copy."""
    np.multiply(a, np.float32(-4), out=out)
    out[:, 1:] += a[:, :-1]
    out[:, 0] += a[:, 0]
    out[:, :-1] += a[:, 1:]
    out[:, -1] += a[:, -1]
    out[:, :, 1:] += a[:, :, :-1]
    out[:, :, 0] += a[:, :, 0]
    out[:, :, :-1] += a[:, :, 1:]
    out[:, :, -1] += a[:, :, -1]


def laplacian(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    result = open_memmap(out, mode="w+", dtype="f4", shape=a.shape)
    for part in slabs(len(a), 1):
        laplacian_of(a[part], result[part])


def histogram(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    counts = np.zeros(BINS, np.int64)
    for part in slabs(len(a)):
        counts += np.histogram(a[part], BINS, (COLDEST, WARMEST))[0]
    np.save(out, counts)


def cumsum(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    result = open_memmap(out, mode="w+", dtype="f4", shape=a.shape)
    # Hour by hour: np.cumsum(axis=0) strides through the file column by column.
    result[0] = a[0]
    for hour in range(1, len(a)):
        np.add(result[hour - 1], a[hour], out=result[hour])


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
