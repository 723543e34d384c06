"""Ten terabytes on a laptop: create, open, write, read and compute on a sparse array.

    python examples/ten_terabytes.py

A sparse file takes disk space for what was written and nothing for the rest, and a handle
never holds data: what the work costs depends on the part that is touched, not on the file.
At the end, the two ways that do not get there, tried on a scale where they do no harm.
Everything happens in a temporary directory that is removed.
"""

from __future__ import annotations

import math
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import hyperslab as hs

SHAPE = (2_500_000, 1000, 1000)  # 285 years of hours, on a grid of a million cells
DTYPE = np.dtype("<f4")


@hs.kernel
def to_celsius(kelvin, celsius):
    for i in range(kelvin.shape[0]):
        for j in range(kelvin.shape[1]):
            for k in range(kelvin.shape[2]):
                celsius[i, j, k] = kelvin[i, j, k] - np.float32(273.15)


def peak_memory() -> int:
    """Bytes: the most that this process has had in memory, pages of mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def disk_used(path: Path) -> int:
    """Bytes in blocks that the file really has on disk."""
    return path.stat().st_blocks * 512


@contextmanager
def step(name: str) -> Iterator[None]:
    """Tell how long a step took."""
    started = time.perf_counter()
    yield
    print(f"  {name:<48}{(time.perf_counter() - started) * 1e3:9.1f} ms")


def ten_terabytes(path: Path) -> None:
    before = peak_memory()
    with step("create 10 TB, sparse"):
        hs.create(path, SHAPE, DTYPE, sparse=True).close()
    with step("open it: the header is read"):
        a = hs.open(path, "r+")
    with step("write one day in its middle, 24 x 1000 x 1000"):
        a[1_000_000:1_000_024] = np.linspace(270, 300, 1000)
    with step("write one cell in 5 of the hours"):
        a[::500_000, 500, 500] = 280
    with step("read 6 hours of it, averaged"):
        mean = np.asarray(a[1_000_000:1_000_006]).mean(dtype=np.float64)
    with step("read what was never written: zeros"):
        assert not np.asarray(a[2_000_001]).any()
    assert abs(mean - 285) < 0.01
    assert np.asarray(a[::500_000, 500, 500]).tolist() == [280] * 5
    grown = peak_memory() - before
    a.close()

    print(f"  the array has {a.nbytes:,} bytes; on disk it takes {disk_used(path):,}")
    print(f"  this process grew by {grown / 1e6:.0f} MB, most of it pages of the file")


def compute(path: Path, directory: Path) -> None:
    with (
        hs.Engine(workers=2, progress=False) as engine,
        hs.open(path) as a,
        hs.create(directory / "out.npy", (24, 1000, 1000), DTYPE) as out,
    ):
        day = a[1_000_000:1_000_024]
        with step("start two workers, compile, compute on the day"):
            engine.run(to_celsius, day, hs.write(out))
        with step("the same again, on warm workers"):
            report = engine.run(to_celsius, day, hs.write(out))
        assert np.array_equal(np.asarray(out), np.asarray(day) - np.float32(273.15))
        print(f"  {report.regions} regions; the result takes {disk_used(Path(out.path)):,} bytes")


def the_usual_ways(directory: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = math.prod(SHAPE) * DTYPE.itemsize
    print("  np.save(path, np.zeros(shape)), not done here:")
    print(f"    asks for {needed:,} bytes of memory; this machine has {memory:,}.")
    print(f"    It writes as many to disk, at 1 GB/s for {needed / 1e9 / 3600:.1f} hours.")

    path = directory / "small.npy"
    np.save(path, np.arange(6.0))
    wrong = np.memmap(path, dtype="f8", mode="r+", shape=(6,))
    print(f"  np.memmap(path, shape=(6,)) of a .npy that holds {np.arange(6.0)}:")
    print(f"    reads its header as numbers: {np.array(wrong)}")
    wrong[:] = 7.0
    wrong.flush()
    del wrong
    left = np.frombuffer(path.read_bytes(), "f8")[16:]
    print(f"    writes over it: the file now starts with {path.read_bytes()[:8]!r}, and what")
    print(f"    was to be replaced still stands 128 bytes on: {left}")
    try:
        hs.open(path)
    except hs.ArrayFileError as error:
        print(f"    hs.open says: {error}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / "ten-terabytes.npy"
        try:
            path.touch()
            os.truncate(path, 10**13 + 4096)
        except OSError as error:
            raise SystemExit(
                f"the file system of {name} has no files of 10 TB ({error.strerror}); set TMPDIR "
                "to a directory on ext4, XFS, Btrfs or tmpfs"
            ) from None
        path.unlink()
        print("Ten terabytes")
        ten_terabytes(path)
        print("Computing on a slice of it")
        compute(path, directory)
        print("The usual ways")
        the_usual_ways(directory)


if __name__ == "__main__":
    main()
