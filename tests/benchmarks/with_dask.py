"""dask.array on its threads."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.lib.format import open_memmap
from with_numpy import laplacian_of
from workloads import BINS, COLDEST, WARMEST, Code, Inputs

__all__ = ["CODE"]

HOURS = 32
"""Hours a chunk: 33 MB, small enough to share the cores evenly, large enough for the graph."""

ROWS = 8
"""Latitudes a chunk where a chunk has to hold all hours."""


class _Lazy:
    """A memory map as dask should see it: from_array copies whatever has a ``copy`` method."""

    def __init__(self, path: str) -> None:
        self._values = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.ndim = self._values.shape, self._values.dtype, 3

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._values[key])


def _open(path: str, chunks: tuple[int, int, int] = (HOURS, -1, -1)) -> da.Array:
    # Without a name dask would hash the whole array to give it one.
    return da.from_array(_Lazy(path), chunks=chunks, name=False, asarray=False)


def _field(result: da.Array, out: str) -> None:
    """Store into a new file; every chunk has a part of its own, so no lock is needed."""
    target = open_memmap(out, mode="w+", dtype="f4", shape=result.shape)
    da.store(result, target, lock=False)


def total(inputs: Inputs, out: str) -> None:
    np.save(out, _open(inputs.a).sum(dtype="f8").compute())


def rmse(inputs: Inputs, out: str) -> None:
    squares = (_open(inputs.a) - _open(inputs.b)) ** 2
    np.save(out, np.sqrt(squares.mean(dtype="f8").compute()))


def mean(inputs: Inputs, out: str) -> None:
    np.save(out, _open(inputs.a).mean(axis=0, dtype="f8").compute())


def std(inputs: Inputs, out: str) -> None:
    np.save(out, _open(inputs.a).std(axis=0, dtype="f8").compute())


def elementwise(inputs: Inputs, out: str) -> None:
    a = _open(inputs.a)
    _field((a - np.float32(273.15)) * np.float32(1.8) + np.float32(32), out)


def _laplacian(block: np.ndarray) -> np.ndarray:
    result = np.empty_like(block)
    laplacian_of(block, result)
    return result


def laplacian(inputs: Inputs, out: str) -> None:
    a = _open(inputs.a)
    # Chunks hold whole planes, so no overlap has to be copied between chunks.
    _field(a.map_blocks(_laplacian, dtype="f4"), out)


def histogram(inputs: Inputs, out: str) -> None:
    counts, _ = da.histogram(_open(inputs.a), bins=BINS, range=(COLDEST, WARMEST))
    np.save(out, counts.compute())


def cumsum(inputs: Inputs, out: str) -> None:
    # All hours of a point in one chunk: dask then has nothing to add up between chunks.
    _field(_open(inputs.a, (-1, ROWS, -1)).cumsum(axis=0, dtype="f4"), out)


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

dask.config.set(scheduler="threads")
