"""Threads and independent programs read and update one file, and nothing is torn or lost.

    python examples/readers_and_writers.py [--quick] [--seconds S] [--agents N] [--pause MS]

The file holds 64 rows of 256 KiB. An update adds one to all elements of a row; a read looks for
the least and the greatest of a row, which are equal if all is well. Half-way through, both pause
for a millisecond, as if for a disk or a longer computation. Two things can go wrong:

torn   a reader saw a row half before and half after an update;
lost   two updates read the same number, so that one of them is gone.

First threads of this program and programs of their own work on the file together, each access
under ``array.lock``. Then each way to lock is measured by itself: no lock, one mutex for the
file, one reader-writer lock for the file, and hyperslab's, which has a lock for each stripe of
the file. Without a lock, torn and lost are to be expected; so are they with the two
inter-process locks between threads, since such a lock belongs to the process. The program ends
with an error if anything is torn or lost where it must not be.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import fasteners
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import hyperslab as hs

ROWS, ELEMENTS = 64, 32 * 1024  # A row of float64 is 256 KiB, the file 16 MiB.
PATIENCE = 30.0  # Seconds; nobody holds a lock for more than a few milliseconds here.

Lock = Callable[[int, bool], AbstractContextManager[None]]
"""Row and whether to write -> what to hold meanwhile."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What an agent did and saw."""

    reads: int = 0
    updates: int = 0
    torn: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.reads + other.reads, self.updates + other.updates, self.torn + other.torn)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement."""

    lock: str
    """Name of the way to lock."""

    updates: int
    """How many accesses of a hundred are updates."""

    seconds: float
    """How long it lasts."""

    pause: float
    """Seconds that an access pauses half-way, holding its lock."""


@dataclass(frozen=True, slots=True)
class Result:
    """What all agents of a cell did together, and what the file shows of it."""

    operations: float
    torn: int
    lost: int


def no_lock(array: hs.Array) -> Lock:
    return lambda row, write: nullcontext()


def one_mutex(array: hs.Array) -> Lock:
    lock = fasteners.InterProcessLock(array.path + ".mutex")

    @contextmanager
    def hold(row: int, write: bool):
        # fasteners' own pause between two tries is 10 ms and more: too long for so short a hold.
        if not lock.acquire(delay=0.0005, max_delay=0.005, timeout=PATIENCE):
            raise TimeoutError("the mutex")
        try:
            yield
        finally:
            lock.release()

    return hold


def one_reader_writer_lock(array: hs.Array) -> Lock:
    lock = fasteners.InterProcessReaderWriterLock(array.path + ".rw")

    @contextmanager
    def hold(row: int, write: bool):
        acquire = lock.acquire_write_lock if write else lock.acquire_read_lock
        if not acquire(delay=0.0005, max_delay=0.005, timeout=PATIENCE):
            raise TimeoutError("the reader-writer lock")
        try:
            yield
        finally:
            lock.release_write_lock() if write else lock.release_read_lock()

    return hold


def striped(array: hs.Array) -> Lock:
    return lambda row, write: array.lock(np.s_[row], write=write, timeout=PATIENCE)


LOCKS = {
    "none": no_lock,
    "one mutex": one_mutex,
    "one reader-writer": one_reader_writer_lock,
    "striped reader-writer": striped,
}
SAFE = {
    "threads": {"striped reader-writer"},
    "processes": {"one mutex", "one reader-writer", "striped reader-writer"},
}


def work(array: hs.Array, cell: Cell, start: float, seed: int) -> Tally:
    """One agent: read and update rows at random for the time of a cell."""
    lock, data = LOCKS[cell.lock](array), np.asarray(array)
    chance = random.Random(seed)
    middle, values = ELEMENTS // 2, np.empty(ELEMENTS)
    reads = updates = torn = 0
    time.sleep(max(0.0, start - time.monotonic()))
    while time.monotonic() < start + cell.seconds:
        row, write = chance.randrange(ROWS), chance.randrange(100) < cell.updates
        with lock(row, write):
            if write:
                np.add(data[row], 1, out=values)
                data[row, middle:] = values[middle:]
                time.sleep(cell.pause)
                data[row, :middle] = values[:middle]
                updates += 1
            else:
                least = data[row].min()
                time.sleep(cell.pause)
                torn += bool(data[row].max() != least)
                reads += 1
    return Tally(reads, updates, torn)


def serve(path: str, seed: int) -> None:
    """Be one of the independent programs: a cell on a line of input, a tally on one of output."""
    with hs.open(path, "r+", shared=True) as array:
        print("ready", flush=True)
        for line in sys.stdin:
            start, *cell = json.loads(line)
            tally = work(array, Cell(*cell), start, seed)
            print(json.dumps([tally.reads, tally.updates, tally.torn]), flush=True)


class Programs:
    """Independent programs: this script, started by itself."""

    def __init__(self, path: str, number: int) -> None:
        self._running = [
            subprocess.Popen(
                [sys.executable, __file__, "--agent", path, str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for seed in range(number)
        ]

    def __enter__(self) -> Programs:
        for program in self._running:
            if program.stdout.readline() != "ready\n":
                raise RuntimeError(f"program {program.pid} did not start")
        return self

    def __exit__(self, *error: object) -> None:
        for program in self._running:
            program.stdin.close()
        for program in self._running:
            program.stdout.close()
            program.wait(timeout=PATIENCE)

    def work(self, cell: Cell, start: float) -> Tally:
        message = json.dumps([start, cell.lock, cell.updates, cell.seconds, cell.pause])
        for program in self._running:
            program.stdin.write(message + "\n")
        answers = [json.loads(program.stdout.readline()) for program in self._running]
        return sum((Tally(*answer) for answer in answers), Tally())


def work_in_threads(array: hs.Array, number: int, cell: Cell, start: float) -> Tally:
    with ThreadPoolExecutor(number) as pool:
        agents = [pool.submit(work, array, cell, start, 100 + seed) for seed in range(number)]
        return sum((agent.result() for agent in agents), Tally())


def measure(array: hs.Array, cell: Cell, agents: Callable[[Cell, float], Tally]) -> Result:
    """Run one cell on a file of zeros, and compare what was done with what the file shows."""
    data = np.asarray(array)
    data[:] = 0
    tally = agents(cell, time.monotonic() + 0.01)
    # A row that is not uniform at the end counts by its smaller half.
    kept = int(data.min(axis=1).sum())
    return Result((tally.reads + tally.updates) / cell.seconds, tally.torn, tally.updates - kept)


def cost_table(kind: str, cells: dict[Cell, Result]) -> Table:
    table = Table(title=f"\nOperations per second between {kind}", title_justify="left")
    table.add_column("reads : updates", justify="right")
    table.add_column("lock", no_wrap=True)
    for heading in ("operations/s", "of none", "torn", "lost"):
        table.add_column(heading, justify="right", no_wrap=True)
    free = {
        cell.updates: result.operations for cell, result in cells.items() if cell.lock == "none"
    }
    for cell, result in cells.items():
        fault = "[red]" if result.torn or result.lost else ""
        table.add_row(
            f"{100 - cell.updates} : {cell.updates}" if cell.lock == "none" else "",
            cell.lock,
            f"{result.operations:,.0f}",
            f"{result.operations / free[cell.updates]:.0%}" if free[cell.updates] else "-",
            f"{fault}{result.torn:,}",
            f"{fault}{result.lost:,}",
            end_section=cell.lock == "striped reader-writer",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="for each cell (default 0.2)")
    parser.add_argument("--agents", type=int, default=3, help="threads, and programs (default 3)")
    parser.add_argument("--pause", type=float, default=1.0, help="milliseconds in each access")
    parser.add_argument("--quick", action="store_true", help="two mixes only, 0.05 s a cell")
    parser.add_argument("--agent", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.agent:
        serve(options.agent[0], int(options.agent[1]))
        return 0

    seconds = min(options.seconds, 0.05) if options.quick else options.seconds
    mixes = (5, 50) if options.quick else (0, 5, 50, 100)
    number, pause, console = options.agents, options.pause / 1000, Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "rows.npy"
        array = stack.enter_context(hs.create(path, (ROWS, ELEMENTS), "f8", shared=True))
        programs = stack.enter_context(Programs(array.path, number))

        def threads(cell: Cell, start: float) -> Tally:
            return work_in_threads(array, number, cell, start)

        def both(cell: Cell, start: float) -> Tally:
            with ThreadPoolExecutor(1) as pool:
                mine = pool.submit(threads, cell, start)
                return programs.work(cell, start) + mine.result()

        together = measure(array, Cell("striped reader-writer", 50, 4 * seconds, pause), both)
        console.print(
            f"{number} threads and {number} programs on one file, half of it updates, under"
            f" array.lock: {together.operations:,.0f} operations/s, {together.torn} torn,"
            f" {together.lost} lost."
        )
        faults = together.torn + abs(together.lost)

        kinds = {"threads": threads, "processes": programs.work}
        tables: dict[str, dict[Cell, Result]] = {kind: {} for kind in kinds}
        plan = [
            (kind, Cell(lock, mix, seconds, pause))
            for kind in kinds
            for mix in mixes
            for lock in LOCKS
        ]
        for kind, cell in track(plan, "measuring", console=console, transient=True):
            result = tables[kind][cell] = measure(array, cell, kinds[kind])
            if cell.lock in SAFE[kind]:
                faults += result.torn + abs(result.lost)
    for kind, cells in tables.items():
        console.print(cost_table(f"{number} {kind}", cells))
    console.print(
        "Torn and lost are to be expected without a lock, and between threads with the two locks"
        " that belong to the process, which do not make threads wait for each other. Where a lock"
        " does protect, the mutex lets one access at a time through, the reader-writer lock also"
        " readers together, and stripes also updates of different rows. With --pause 0 the locks'"
        " own cost shows."
    )
    if faults:
        console.print(
            f"[red]{faults} reads or updates went wrong where a lock was to protect them."
        )
        return 1
    console.print("[green]Where the lock protects, nothing was torn and nothing was lost.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
