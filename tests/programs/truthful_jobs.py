"""Kinds of job whose memory is known in advance, each large enough to be seen.

A kind makes its plans for buffers of `unit` bytes; made once with a small unit, it also warms an
engine up: what is held for machine code is no matter of a projection.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from held_memory import watched

import hyperslab as hs

__all__ = ["KINDS", "Kind", "Measured", "measure"]

_WARM = 2**16
_COLUMNS = 1024


@hs.kernel
def scale(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, j] * 2 + 1


@hs.kernel
def scale_cube(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                out[i, j, k] = a[i, j, k] * 2 + 1


@hs.kernel
def raise_by_one(values):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            values[i, j] += 1


@hs.kernel
def laplacian(a, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = a[i, j + 1] + a[i + 2, j + 1] + a[i + 1, j] + a[i + 1, j + 2]


@hs.kernel
def three(a, x, y, z):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            x[i, j] = a[i, j]
            y[i, j] = a[i, j] + 1
            z[i, j] = a[i, j] + 2


@hs.kernel
def add_rows(a, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total[j] += a[i, j]


@hs.kernel
def add_block(a, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total[i, j] += a[i, j]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job."""

    name: str
    """What it does."""

    plans: Callable[[hs.Engine, Path, int], list[hs.Plan]]
    """Plans to run in turn, on files in that directory, for buffers of so many bytes."""

    in_memory: bool = False
    """Whether scratch lies in memory."""

    settings: dict[str, Any] = field(default_factory=lambda: {"workers": 2})
    """The engine's."""

    large: bool = False
    """Whether it needs files of more than a gigabyte."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was held, and what the plans said."""

    held: int
    """Bytes at the most."""

    projected: int
    """Bytes of the plan that needs most."""

    @property
    def share(self) -> float:
        """Held of projected."""
        return self.held / self.projected

    @property
    def true(self) -> bool:
        """Whether no more was held than was said, and at least half of it."""
        return self.projected / 2 <= self.held <= self.projected + ALLOWED


ALLOWED = 2**20
"""Bytes by which processes grow that no buffer takes: heaps, stacks and tables of pages. With
buffers of tens of megabytes it hides nothing."""


def measure(kind: Kind, unit: int) -> Measured:
    """Run a kind's plans, one after the other, on a warm engine of its own."""
    with tempfile.TemporaryDirectory(prefix="truth-") as disk:
        root = "/dev/shm" if kind.in_memory else disk
        with (
            tempfile.TemporaryDirectory(prefix="hst-truth-", dir=root) as scratch,
            hs.Engine(progress=False, scratch=scratch, **kind.settings) as engine,
        ):
            for number in range(2):
                warm = Path(disk) / f"warm-{number}"
                warm.mkdir()
                for plan in kind.plans(engine, warm, _WARM):
                    plan.run()
            del plan
            gc.collect()
            time.sleep(0.2)
            work = Path(disk) / "work"
            work.mkdir()
            plans = kind.plans(engine, work, unit)
            with watched(scratch) as held:
                for plan in plans:
                    plan.run()
            return Measured(held.growth, max(plan.memory.peak for plan in plans))


def _table(directory: Path, name: str, rows: int, columns: int, order: str = "C") -> hs.Array:
    # Sparse: what is written goes by way of buffers, whatever is in the page cache.
    path = directory / f"{name}.npy"
    return hs.create(path, (rows, columns), "f8", order=order, sparse=True)


def _elementwise(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    a, out = (_table(at, name, 8, unit // 8) for name in "ab")
    return [engine.plan(scale, a, hs.write(out), region=(1, None))]


def _update(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    return [engine.plan(raise_by_one, hs.update(_table(at, "a", 8, unit // 8)), region=(1, None))]


def _halo(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    rows = unit // 8 // _COLUMNS
    a, out = (_table(at, name, 8 * rows, _COLUMNS) for name in "ab")
    read = hs.read(a, halo=(1, 1), boundary="wrap")
    return [engine.plan(laplacian, read, hs.write(out), region=(rows, None))]


def _misaligned(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    path = at / "odd.bin"
    rows = unit // 8 // _COLUMNS
    with open(path, "wb") as file:
        file.truncate(1 + 32 * unit)
    a = hs.open(path, dtype="f8", shape=(32 * rows, _COLUMNS), offset=1)
    total = hs.create(at / "total.npy", (_COLUMNS,), "f8")
    return [engine.plan(add_rows, a, hs.accumulate(total), region=(rows, None))]


def _fortran(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    columns = unit // 8 // _COLUMNS
    a, out = (_table(at, name, _COLUMNS, 8 * columns, "F") for name in "ab")
    return [engine.plan(scale, a, hs.write(out), region=(None, columns))]


def _turned(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    # In no order that a buffer could have: each region is copied once more on its way.
    a, out = (
        hs.create(at / f"{name}.npy", (8, unit // 8 // 64, 64), "f8", sparse=True) for name in "ab"
    )
    turned = out.transpose(0, 2, 1)[:, ::-1]
    return [engine.plan(scale_cube, a.transpose(0, 2, 1), hs.write(turned), region=(1, None, None))]


def _several(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    a, *outs = (_table(at, name, 8, unit // 8) for name in "axyz")
    return [engine.plan(three, a, *map(hs.write, outs), region=(1, None))]


def _private(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    a = _table(at, "a", 8, unit // 8)
    total = hs.create(at / "total.npy", (unit // 8,), "f8")
    return [engine.plan(add_rows, a, hs.accumulate(total), region=(1, None))]


def _private_large(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    # Several times: the totals are in the coordinator for some hundredths of a second only.
    return 8 * _private(engine, at, 3 * unit)


def _private_small(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    a = _table(at, "a", 256, unit // 64)
    total = hs.create(at / "total.npy", (unit // 64,), "f8")
    return [engine.plan(add_rows, a, hs.accumulate(total), region=(1, None))]


def _footprint(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    rows = unit // 8 // _COLUMNS
    a, total = (_table(at, name, 8 * rows, _COLUMNS) for name in "ab")
    into = hs.accumulate(total, footprint=lambda region: region)
    return [engine.plan(add_block, a, into, region=(rows, None))]


def _tight(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    # Twice in turn: what one worker held before may not stay where another takes part.
    return [
        engine.plan(scale, a, hs.write(out), region=(1, None))
        for a, out in (
            [_table(at, f"{name}{number}", 8, 3 * unit // 8) for name in "ab"]
            for number in range(2)
        )
    ]


def _in_turn(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    first, second, third = (at / name for name in ("first", "second", "third"))
    for directory in (first, second, third):
        directory.mkdir()
    return (
        _several(engine, first, unit)
        + _private(engine, second, unit)
        + _private(engine, third, 3 * unit // 4)
    )


def _fold(engine: hs.Engine, at: Path, unit: int) -> list[hs.Plan]:
    # Leaves of a fraction of a task, so that each task folds several.
    a = _table(at, "a", 192, unit // 16)
    total = hs.create(at / "total.npy", (unit // 16,), "f8")
    return [engine.plan(add_rows, a, hs.accumulate(total), region=(1, None))]


KINDS = (
    Kind("elementwise, into a new file", _elementwise),
    Kind("update", _update),
    Kind("halo that wraps", _halo),
    Kind("elements at odd addresses", _misaligned),
    Kind("Fortran order", _fortran),
    Kind("axes turned and reversed", _turned),
    Kind("three outputs", _several),
    Kind("private totals on disk", _private_large),
    Kind("private totals in memory", _private, in_memory=True),
    Kind("small private totals in memory", _private_small, in_memory=True),
    Kind("footprints", _footprint),
    Kind("three rows' budget, four workers", _tight, settings={"workers": 4, "memory": "60MB"}),
    Kind("three plans in turn", _in_turn, in_memory=True),
    Kind("leaves folded in tasks", _fold, large=True),
)
