"""numexpr: expressions on memory maps, on its threads."""

from __future__ import annotations

import os

import numexpr
import numpy as np
from numpy.lib.format import open_memmap
from workloads import Code, Inputs

__all__ = ["CODE"]

numexpr.set_num_threads(len(os.sched_getaffinity(0)))

ONE = np.float64(1)
"""Multiplied in where a sum of float32 has to be formed in float64; numexpr knows no cast."""

HOURS = 16
"""Hours at a time where a reduction has to be put together from parts."""


def total(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    np.save(out, numexpr.evaluate("sum(a * one)", {"a": a, "one": ONE}))


def rmse(inputs: Inputs, out: str) -> None:
    a, b = np.load(inputs.a, mmap_mode="r"), np.load(inputs.b, mmap_mode="r")
    squares = numexpr.evaluate("sum((a - b)**2 * one)", {"a": a, "b": b, "one": ONE})
    np.save(out, np.sqrt(squares / a.size))


def mean(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    np.save(out, numexpr.evaluate("sum(a * one, axis=0)", {"a": a, "one": ONE}) / len(a))


def elementwise(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    result = open_memmap(out, mode="w+", dtype="f4", shape=a.shape)
    # Constants as float32 scalars: a literal would be float64, and so would everything be.
    names = {"a": a, "zero": np.float32(273.15), "scale": np.float32(1.8), "base": np.float32(32)}
    numexpr.evaluate("(a - zero) * scale + base", names, out=result)


def laplacian(inputs: Inputs, out: str) -> None:
    a = np.load(inputs.a, mmap_mode="r")
    result = open_memmap(out, mode="w+", dtype="f4", shape=a.shape)
    four = np.float32(4)
    for first in range(0, len(a), HOURS):
        part = slice(first, first + HOURS)
        padded = np.pad(a[part], ((0, 0), (1, 1), (1, 1)), mode="edge")
        names = {
            "centre": padded[:, 1:-1, 1:-1],
            "north": padded[:, :-2, 1:-1],
            "south": padded[:, 2:, 1:-1],
            "west": padded[:, 1:-1, :-2],
            "east": padded[:, 1:-1, 2:],
            "four": four,
        }
        numexpr.evaluate("north + south + west + east - four * centre", names, out=result[part])


CODE: dict[str, Code] = {
    "sum": total,
    "rmse": rmse,
    "mean": mean,
    "elementwise": elementwise,
    "laplacian": laplacian,
}
"""Its expressions know no histogram, no running sum and no second moment."""
