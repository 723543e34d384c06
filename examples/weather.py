"""Three months of hourly temperature on the whole Earth, analysed out of a 2.1 GB file.

    python examples/weather.py            # 2048 h x 361 x 720 float32, ERA5's half-degree grid
    python examples/weather.py --small    # 192 h, 200 MB, in seconds

Makes the record if it is not there yet, then computes

- mean and standard deviation over time,
- anomalies from the mean, a new file as large as the record,
- a 3 x 3 smoothed field, another one, wrapping round the Earth,
- the hours above 30 °C at each point,
- a histogram of all values,

with hyperslab, with NumPy on the whole record in memory, and with NumPy on a memory map. Each
way runs in fresh processes, in turn, for a minute; time and memory are printed, the results
compared, maps drawn.
The temperatures are made up, and the same on every machine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from weather_tools import traditional
from weather_tools.measure import Measurement, Steps, make_sure_of_memory, run_measured
from weather_tools.planet import Grid
from weather_tools.record import make_record, record_name, require_space
from weather_tools.report import compare, print_costs, print_differences, print_findings
from weather_tools.rounds import take_turns
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

import hyperslab as hs

# Kernels are written for one region: t[hour, latitude, longitude] is a few hours of the record.
# NumPy's expressions on whole arrays are compiled, and the short way to say most things. Where
# a value is needed with its neighbours or as an index, or to save the last tenth of a second,
# loops are: the innermost one along longitude, where values are neighbours in the file.


@hs.kernel
def add_up(t, total):
    for h in range(t.shape[0]):
        total += t[h]


@hs.kernel
def subtract(t, mean, anomaly):
    np.subtract(t, mean, anomaly)  # As `anomaly[:] = t - mean`, without an array in between.


@hs.kernel
def count_above(t, limit, hours):
    for h in range(t.shape[0]):
        hours += t[h] > limit


@hs.kernel
def add_squares(t, mean, squares):
    """Squared distances from the mean: nothing cancels, as it does in E[t²] - E[t]²."""
    for j in range(t.shape[1]):
        for h in range(t.shape[0]):
            for k in range(t.shape[2]):
                distance = t[h, j, k] - mean[j, k]
                squares[j, k] += distance * distance


@hs.kernel
def smooth_3x3(t, origin, rows, smooth):
    """The mean of each value and its neighbours; `t` shows one row and column more all round.

    The halo wraps on both axes, which is right for longitude. Beyond a pole the nearest row
    is taken in its place.
    """
    ninth = np.float32(1 / 9)
    for h in range(smooth.shape[0]):
        for j in range(smooth.shape[1]):
            row = j + 1
            north = row - 1 if origin[1] + j > 0 else row
            south = row + 1 if origin[1] + j < rows - 1 else row
            for k in range(smooth.shape[2]):
                total = t[h, north, k] + t[h, north, k + 1] + t[h, north, k + 2]
                total += t[h, row, k] + t[h, row, k + 1] + t[h, row, k + 2]
                total += t[h, south, k] + t[h, south, k + 1] + t[h, south, k + 2]
                smooth[h, j, k] = total * ninth


@hs.kernel
def count_bins(t, lowest, bins_per_kelvin, counts):
    for h in range(t.shape[0]):
        for j in range(t.shape[1]):
            for k in range(t.shape[2]):
                position = (t[h, j, k] - lowest) * bins_per_kelvin
                if 0 <= position < counts.size:
                    counts[int(position)] += 1


def with_hyperslab(record: Path, out: Path, steps: Steps) -> None:
    """The analysis, on every core, in as much memory as a few regions take."""
    t = hs.open(record)
    hours, rows, columns = t.shape

    def result(name: str, shape: tuple[int, ...], dtype: str) -> hs.Array:
        return hs.create(out / f"{name}.npy", shape, dtype, overwrite=True)

    with steps(MOMENTS):
        total = hs.from_array(np.zeros((rows, columns)))
        squares = hs.from_array(np.zeros((rows, columns)))
        mean, std = (result(name, (rows, columns), "f4") for name in ("mean", "std"))
        hs.run(add_up, t, hs.accumulate(total))
        mean[...] = np.asarray(total) / hours
        hs.run(add_squares, t, mean, hs.accumulate(squares))
        std[...] = np.sqrt(np.asarray(squares) / hours)
    with steps(ANOMALY):
        hs.run(subtract, t, mean, hs.write(result("anomaly", t.shape, "f4")))
    with steps(SMOOTH):
        around = hs.read(t, halo=(0, 1, 1), boundary="wrap")
        hs.run(smooth_3x3, around, hs.ORIGIN, rows, hs.write(result("smooth", t.shape, "f4")))
    with steps(HOT_HOURS):
        hot_hours = result("hot_hours", (rows, columns), "i4")
        hs.run(count_above, t, HOT, hs.accumulate(hot_hours))
    with steps(HISTOGRAM):
        counts = result("histogram", (BINS,), "i8")
        hs.run(count_bins, t, COLDEST, BINS / (WARMEST - COLDEST), hs.accumulate(counts))


WAYS: dict[str, Callable[[Path, Path, Steps], None]] = {
    "hyperslab": with_hyperslab,
    "np.load": traditional.whole,
    "np.load mmap": traditional.in_slabs,
}

OUTPUT = {"hyperslab": "hyperslab", "np.load": "numpy-whole", "np.load mmap": "numpy-mmap"}
"""The directory of each way's results, within that of the data."""

MEMORY_NEEDED = 3.2
"""Times the record's size that the whole-array way takes at its peak, while smoothing."""

ROOM = {
    "hyperslab": {ANOMALY: 1, SMOOTH: 1},
    "np.load": {MOMENTS: 2, ANOMALY: 2, SMOOTH: 4, HOT_HOURS: 1, HISTOGRAM: 1},
    "np.load mmap": {ANOMALY: 1, SMOOTH: 1},
}
"""Times the record's size that a step takes of new memory, its new file included."""


def measure(way: str, record: Path, out: Path, kernels: Path) -> Measurement:
    """Run one way in a fresh process, which finds compiled kernels in that directory."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if way == "np.load":
        make_sure_of_memory(record.stat().st_size, out)
    with tempfile.TemporaryDirectory(prefix="weather-") as directory:
        times = Path(directory) / "times.json"
        command = [sys.executable, __file__, "--way", way, "--record", str(record)]
        return run_measured(
            [*command, "--out", str(out), "--times", str(times)],
            times,
            {"HYPERSLAB_CACHE_DIR": str(kernels)},
        )


def main() -> int:
    """The program."""
    options = parse_arguments()
    if options.way:
        size = options.record.stat().st_size
        steps = Steps(options.out, {step: n * size for step, n in ROOM[options.way].items()})
        WAYS[options.way](options.record, options.out, steps)
        steps.save(options.times)
        return 0

    hours, grid = options.hours, options.grid
    options.data.mkdir(parents=True, exist_ok=True)
    size = 4 * hours * grid.rows * grid.columns
    there = (options.data / record_name(hours, grid)).exists()
    # Two results as large as the record, of hyperslab and of the way it is compared with.
    earlier = [options.data / directory for directory in OUTPUT.values()]
    require_space(options.data, (4 if there else 5) * size + 10**8, reusable=earlier)
    for directory in earlier:
        shutil.rmtree(directory, ignore_errors=True)

    print(f"Record: {hours} h × {grid.rows} × {grid.columns} float32, {size / 1e9:.3g} GB")
    record, made = make_record(options.data, hours, grid)
    print(f"  {record}" + (f", made in {made.seconds:.1f} s" if made else ", made earlier"))
    read_once(record)

    ways = list(WAYS)
    needed = MEMORY_NEEDED * size
    if needed > psutil.virtual_memory().available:
        ways.remove("np.load")
        print(f"  np.load is left out: it takes about {needed / 1e9:.1f} GB of free memory")
    results = options.data / OUTPUT["hyperslab"]
    differences = {}
    with tempfile.TemporaryDirectory(prefix="weather-kernels-") as kernels:

        def measured(way: str) -> Measurement:
            out = options.data / OUTPUT[way]
            print(f"  {way} …", end="", flush=True)
            cost = measure(way, record, out, Path(kernels))
            print(f" {cost.whole.seconds:.1f} s", flush=True)
            if way != "hyperslab":
                differences[way] = compare(results, out, hours)
                shutil.rmtree(out)
            return cost

        print("Measuring, each way in a fresh process; the first time with all kernels to compile:")
        first_run = measured("hyperslab")
        rounds = take_turns(ways, measured, rounds=options.rounds, seconds=options.seconds)

    print_costs(rounds, first_run, size)
    agree = print_differences(differences)
    print_findings(results, grid)
    picture = options.data / "weather.png"
    try:
        from weather_tools.maps import draw_maps
    except ImportError:
        print("No maps: they need matplotlib, pip install 'hyperslab[plot]'")
    else:
        draw_maps(results, grid, hours, picture)
        print(f"\nMaps: {picture}")
    if options.keep:
        print(f"Results: {results}")
    else:
        shutil.rmtree(results)
    return 0 if agree else 1


def read_once(path: Path) -> None:
    """Bring a file into the page cache, so that the first way does not wait for the disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(2**24):
            pass


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="HYPERSLAB_WORKERS sets the number of worker processes.",
    )
    parser.add_argument("--hours", type=positive, help="length of the record (2048)")
    parser.add_argument(
        "--grid", type=grid_of, metavar="LATxLON", help="points, or degrees between them (361x720)"
    )
    parser.add_argument("--small", action="store_true", help="192 hours, 200 MB")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).parent / "output",
        metavar="DIR",
        help="directory for record, results and maps (examples/output)",
    )
    parser.add_argument(
        "--keep",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep hyperslab's results, two of them as large as the record (yes)",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        help="measure so often and print medians (as often as fits into a minute)",
    )
    # How the program calls itself, to run one way alone.
    for name, kind in (("--way", str), ("--record", Path), ("--out", Path), ("--times", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.hours = options.hours or (192 if options.small else 2048)
    options.grid = options.grid or Grid(361, 720)
    options.seconds = 40 if options.small else 60
    return options


def positive(text: str) -> int:
    """A number, at least one."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, at least 1")
    return number


def grid_of(text: str) -> Grid:
    """A grid from ``361x720``, or from ``0.5`` degrees."""
    try:
        if "x" in text:
            rows, columns = (int(number) for number in text.split("x"))
        else:
            rows, columns = round(180 / float(text)) + 1, round(360 / float(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no grid: give points as 361x720, or degrees as 0.5"
        ) from None
    if rows < 3 or columns < 3:
        raise argparse.ArgumentTypeError(
            f"{text!r} is too coarse: a 3 x 3 mean needs at least 3x3 points"
        )
    return Grid(rows, columns)


if __name__ == "__main__":
    sys.exit(main())
