"""The same analysis without the engine, as it is written every day: NumPy in one process.

Both ways write the files that ``weather.py`` writes, so that the results can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weather_tools.measure import Steps
from weather_tools.steps import (
    ANOMALY,
    BINS,
    COLDEST,
    HISTOGRAM,
    HOT,
    HOT_HOURS,
    MOMENTS,
    SMOOTH,
    WARMEST,
)

__all__ = ["in_slabs", "whole"]

_SLAB = 24
"""Hours in memory at a time: a day."""


def whole(record: Path, out: Path, steps: Steps) -> None:
    """``np.load`` and whole-array expressions: the shortest way to write it."""
    t = np.load(record)
    with steps(MOMENTS):
        mean = t.mean(axis=0)
        np.save(out / "mean.npy", mean)
        np.save(out / "std.npy", t.std(axis=0))
    with steps(ANOMALY):
        np.save(out / "anomaly.npy", t - mean)
    with steps(SMOOTH):
        np.save(out / "smooth.npy", _smoothed(t))
    with steps(HOT_HOURS):
        np.save(out / "hot_hours.npy", (t > HOT).sum(axis=0, dtype=np.int32))
    with steps(HISTOGRAM):
        counts, _ = np.histogram(t, bins=BINS, range=(COLDEST, WARMEST))
        np.save(out / "histogram.npy", counts)


def in_slabs(record: Path, out: Path, steps: Steps) -> None:
    """``np.load(mmap_mode="r")`` and loops over days: the way that spares memory."""
    t = np.load(record, mmap_mode="r")
    with steps(MOMENTS):
        total = np.zeros(t.shape[1:])
        for days in _slabs(t):
            total += t[days].sum(axis=0)
        mean = (total / len(t)).astype(np.float32)
        squares = np.zeros(t.shape[1:])
        for days in _slabs(t):
            squares += ((t[days] - mean) ** 2).sum(axis=0)
        np.save(out / "mean.npy", mean)
        np.save(out / "std.npy", np.sqrt(squares / len(t)).astype(np.float32))
    with steps(ANOMALY):
        anomaly = _new(out / "anomaly.npy", t)
        for days in _slabs(t):
            anomaly[days] = t[days] - mean
        del anomaly
    with steps(SMOOTH):
        smooth = _new(out / "smooth.npy", t)
        for days in _slabs(t):
            smooth[days] = _smoothed(t[days])
        del smooth
    with steps(HOT_HOURS):
        hot = np.zeros(t.shape[1:], np.int32)
        for days in _slabs(t):
            hot += (t[days] > HOT).sum(axis=0, dtype=np.int32)
        np.save(out / "hot_hours.npy", hot)
    with steps(HISTOGRAM):
        counts = np.zeros(BINS, np.int64)
        for days in _slabs(t):
            counts += np.histogram(t[days], bins=BINS, range=(COLDEST, WARMEST))[0]
        np.save(out / "histogram.npy", counts)


def _smoothed(t: np.ndarray) -> np.ndarray:
    """The 3 x 3 mean, round the Earth and up to the poles, from sums along one axis each."""
    around = np.roll(t, 1, axis=2)
    around += t
    around += np.roll(t, -1, axis=2)
    total = around.copy()
    total[:, 1:] += around[:, :-1]
    total[:, 0] += around[:, 0]
    total[:, :-1] += around[:, 1:]
    total[:, -1] += around[:, -1]
    total /= 9
    return total


def _slabs(t: np.ndarray) -> Iterator[slice]:
    return (slice(first, first + _SLAB) for first in range(0, len(t), _SLAB))


def _new(path: Path, like: np.ndarray) -> np.ndarray:
    # Not np.memmap, which would write its data over the header.
    return np.lib.format.open_memmap(path, "w+", like.dtype, like.shape)
