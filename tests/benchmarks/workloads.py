"""What is measured: the workloads, and the inputs they work on.

A workload is stated once, here; every contender computes the same and leaves the same result
in a file, and the results are compared before any time is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["BINS", "COLDEST", "WARMEST", "WORKLOADS", "Code", "Inputs", "Workload", "make_inputs"]

COLDEST, WARMEST, BINS = 216.0, 344.0, 256
"""The histogram. Bins are half a kelvin wide, so that every library puts a value that lies on
an edge into the same one: no rounding decides."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Two ``.npy`` files of one shape, float32, C order."""

    a: str
    """Path of the first."""

    b: str
    """Path of the second."""


Code = Callable[[Inputs, str], None]
"""A contender's code for one workload: computes on the inputs and leaves the result in a new
``.npy`` file of the given name. Opening inputs and making the file belong to what is timed."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to compute."""

    name: str
    """Its name on the command line and in every contender's table of code."""

    title: str
    """Its name for people."""

    what: str
    """What is computed, and into what."""

    inputs: int
    """How many of the two inputs it reads."""

    writes_field: bool
    """Whether the result is as large as the input, a new file."""

    tolerance: float
    """Largest relative difference between two results; each library rounds in its own order."""


WORKLOADS = (
    Workload("sum", "sum", "sum of all values, in float64", 1, False, 1e-9),
    Workload(
        "rmse",
        "rmse of two arrays",
        "square root of the mean of (a - b)², differences in float32, mean in float64",
        2,
        False,
        1e-6,
    ),
    Workload("mean", "mean, axis 0", "mean over time at each point, in float64", 1, False, 1e-9),
    Workload(
        "std",
        "std, axis 0",
        "standard deviation over time at each point, in float64",
        1,
        False,
        1e-6,
    ),
    Workload(
        "elementwise",
        "(a − 273.15) × 1.8 + 32",
        "in float32, to a new file as large as the input",
        1,
        True,
        1e-5,
    ),
    Workload(
        "laplacian",
        "5-point Laplacian",
        "over latitude and longitude, the edges repeated, in float32, to a new file",
        1,
        True,
        1e-3,
    ),
    Workload(
        "histogram",
        "histogram, 256 bins",
        f"counts of all values in {BINS} bins from {COLDEST:g} to {WARMEST:g}",
        1,
        False,
        0.0,
    ),
    Workload(
        "cumsum",
        "cumsum, axis 0",
        "running sum over time at each point, in float32, to a new file",
        1,
        True,
        1e-3,
    ),
)


def make_inputs(directory: Path, shape: tuple[int, int, int]) -> Inputs:
    """Write both inputs, reproducibly, and bring them to the disk.

    Parameters
    ----------
    directory : Path
        Where; inputs of that shape which are there already are used again.
    shape : tuple of int
        Hours, latitudes, longitudes.

    Returns
    -------
    Inputs
        Temperatures in K: a normal distribution of mean 280 and standard deviation 15.
    """
    paths = []
    for seed, name in enumerate("ab"):
        path = directory / f"{name}-{'x'.join(map(str, shape))}.npy"
        if not path.exists():
            partial = path.with_suffix(".partial")
            values = np.lib.format.open_memmap(partial, mode="w+", dtype="f4", shape=shape)
            random = np.random.default_rng(seed)
            for hour in values:
                random.standard_normal(dtype="f4", out=hour)
                hour *= np.float32(15)
                hour += np.float32(280)
            # Pages that still have to be written cannot be evicted for the cold runs.
            values.flush()
            del values
            partial.rename(path)
        paths.append(str(path))
    return Inputs(*paths)
