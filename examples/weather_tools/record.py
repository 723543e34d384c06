"""Makes the record: hourly temperatures as weather models give them, in one ``.npy`` file.

The noise of each value is a hash of its position in the record, so the same bits come out
whatever number of workers makes it, in whatever order, and for a longer record just as well.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import hyperslab as hs
from weather_tools.planet import Grid, patterns, weights

__all__ = ["make_record", "record_name", "require_space"]

SEED = 1979
"""Of the noise; part of the record's name, as everything is that decides its values."""

NOISE = 0.7
"""Standard deviation of the noise, in K."""


@hs.kernel
def synthesize(weights, patterns, noise, seed, columns, rows, origin, t):
    """The weighted sum of all maps at each hour, and noise."""
    for h in range(t.shape[0]):
        for j in range(t.shape[1]):
            for p in range(patterns.shape[1]):
                weight = weights[h, p]
                for k in range(t.shape[2]):
                    t[h, j, k] += weight * patterns[j, p, k]
            # The position of the row's first value in the record is the counter of its noise.
            first = ((origin[0] + h) * rows + origin[1] + j) * columns + origin[2]
            for k in range(t.shape[2]):
                bits = (np.uint64(first + k) + seed) * np.uint64(0x9E3779B97F4A7C15)
                bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                bits = bits ^ (bits >> np.uint64(31))
                # Four uniform numbers of 16 bits add up to nearly a normal one.
                mask = np.uint64(0xFFFF)
                total = (bits & mask) + ((bits >> np.uint64(16)) & mask)
                total += ((bits >> np.uint64(32)) & mask) + (bits >> np.uint64(48))
                t[h, j, k] += noise * (np.float32(total) - np.float32(2 * 65535))


def record_name(hours: int, grid: Grid) -> str:
    """The name of a record's file; it says all that decides the values."""
    return f"t2m-{hours}x{grid.rows}x{grid.columns}-seed{SEED}.npy"


def make_record(directory: Path, hours: int, grid: Grid) -> tuple[Path, hs.Report | None]:
    """The record of that size: the file that is there if it is complete, else a new one.

    Parameters
    ----------
    directory : Path
        Where records lie.
    hours : int
        Length of the time axis.
    grid : Grid
        The other two.

    Returns
    -------
    tuple
        Path of an ``.npy`` file of shape ``(hours, rows, columns)``, float32, in K; and the
        report of the job that made it, None where it was there.
    """
    path = directory / record_name(hours, grid)
    shape = (hours, grid.rows, grid.columns)
    with contextlib.suppress(hs.ArrayFileError), hs.open(path) as found:
        if found.shape == shape and found.dtype == np.float32:
            return path, None
    # Under its name only when it is complete: an interrupted run leaves no half record.
    partial = path.with_suffix(".partial")
    try:
        with hs.create(partial, shape, "f4", overwrite=True) as t:
            report = hs.run(
                synthesize,
                hs.read(hs.from_array(weights(hours)), axes=(0, None)),
                # Rows first: what a region sees of the maps is then one contiguous block.
                hs.read(hs.from_array(patterns(grid).swapaxes(0, 1).copy()), axes=(1, None, 2)),
                # The sum of four uniform numbers on [0, n] has a standard deviation of n/sqrt(3).
                np.float32(NOISE * 3**0.5 / 65535),
                np.uint64(SEED),
                grid.columns,
                grid.rows,
                hs.ORIGIN,
                hs.write(t),
                # Few rows and many hours, so that the maps stay in a core's cache.
                region=(32, 16, None),
            )
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path, report


def require_space(directory: Path, needed: int, reusable: Iterable[Path] = ()) -> None:
    """Leave the program with a clear message if the disk is too full.

    Parameters
    ----------
    directory : Path
        An existing directory.
    needed : int
        Bytes about to be written there.
    reusable : iterable of Path
        Directories in it whose files are about to be removed.
    """
    free = shutil.disk_usage(directory).free
    free += sum(file.stat().st_size for old in reusable for file in old.glob("*.npy"))
    if free < needed:
        raise SystemExit(
            f"{directory} has {free / 1e9:.1f} GB free and this run writes {needed / 1e9:.1f} GB: "
            "choose another directory with --data, or a smaller record with --hours, --grid or "
            "--small"
        )
