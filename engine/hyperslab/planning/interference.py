"""Whether tasks get in each other's way, found before anything runs.

Two accesses *interfere* where one region's box of the first meets another region's box of
the second, unless both only read. Interference that was declared (an accumulation) is put
under locks or merged; any other is refused, because its result would depend on timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperslab.errors import PlanError
from hyperslab_workers.access import Access, Privilege
from hyperslab_workers.array_ref import ArrayRef

__all__ = ["check_interference", "overlap", "repeatable"]

_READS = Privilege.READ
_EFFORT = 100_000
"""Steps NumPy's overlap solver may take; beyond it, arrays count as overlapping."""


def overlap(first: ArrayRef, second: ArrayRef) -> bool:
    """Whether two views have a byte of a file in common.

    Interleaved views (even and odd columns) have none. The question is a bounded Diophantine
    problem that NumPy solves exactly for arrays in memory; it is asked here about arrays at
    the files' offsets, of which nothing is ever touched.
    """
    if first.identity != second.identity or not first.nbytes or not second.nbytes:
        return False
    if first == second:
        return True
    a, b = first.extent(), second.extent()
    if a[1] <= b[0] or b[1] <= a[0]:
        return False
    try:
        # NumPy's stubs know only two of the values that max_work takes.
        solve: Any = np.shares_memory
        return bool(solve(_pretend(first), _pretend(second), max_work=_EFFORT))
    except np.exceptions.TooHardError:
        return True


def check_interference(
    accesses: Sequence[Access], splittable: frozenset[int], domain: tuple[int, ...]
) -> None:
    """Refuse a job whose tasks interfere without having declared it.

    Raises
    ------
    PlanError
        Names both accesses and what to do instead.
    """
    split = {axis for axis in splittable if domain[axis] > 1}
    for position, first in enumerate(accesses):
        for second in accesses[position + 1 :]:
            if first.privilege is _READS and second.privilege is _READS:
                continue
            if not overlap(first.array, second.array):
                continue
            if first.privilege is not _READS and second.privilege is not _READS:
                raise PlanError(
                    f"{_words(first)} and {_words(second)} change the same elements of "
                    f"{first.array.path!r}: which one lasts would be left to chance; give each "
                    "its own file, or one argument with hs.update"
                )
            reader, writer = (first, second) if first.privilege is _READS else (second, first)
            if writer.privilege is Privilege.ACCUMULATE:
                raise PlanError(
                    f"{_words(reader)} sees what {_words(writer)} combines into "
                    f"{writer.array.path!r}: how much of it would depend on timing; read from a "
                    "copy, or accumulate into another file"
                )
            if reader.has_halo and _same_place(reader, writer):
                raise PlanError(
                    f"{_words(reader)} looks with its halo {_halo_words(reader)} at neighbouring "
                    f"regions of {reader.array.path!r} that {_words(writer)} is changing: old or "
                    "new values would depend on timing; write to a second file and swap the two "
                    "after each step"
                )
            if not (_same_place(reader, writer) and split <= set(reader.axes)):
                raise PlanError(
                    f"{_words(reader)} and {_words(writer)} overlap in {reader.array.path!r} "
                    "without lining up: a task would read what another is changing; read from a "
                    "copy (hs.create and one run to fill it), or write to a second file"
                )


def repeatable(accesses: Sequence[Access]) -> bool:
    """Whether a region can be computed again after it has changed its files, to the same bits.

    It cannot where it sees what it changes: its second run would begin from what its first left
    behind. That is asked of every pair of accesses, because two that are harmless by themselves
    may be one file: a read and a write of one view, or of two paths to it. What *other* regions
    change no region sees: :func:`check_interference` has refused that.
    """
    return not any(
        overlap(one.array, other.array)
        for one in accesses
        if one.sees
        for other in accesses
        if other.changes
    )


def _same_place(first: Access, second: Access) -> bool:
    """Whether both show the same elements for the same region, halos aside."""
    a, b = first.array, second.array
    return (a.offset, a.shape, a.strides, a.dtype.itemsize, first.axes) == (
        b.offset,
        b.shape,
        b.strides,
        b.dtype.itemsize,
        second.axes,
    )


def _words(access: Access) -> str:
    return f"{access.privilege.value}({access.name})"


def _halo_words(access: Access) -> str:
    return str(tuple(b if b == a else (b, a) for b, a in access.halo))


class _Pretence:
    """Lends NumPy an address that is never read."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def _pretend(ref: ArrayRef) -> np.ndarray:
    # Plain bytes of the item's size: the interface knows no dtype it could refuse.
    interface = {
        "version": 3,
        "typestr": f"|V{ref.dtype.itemsize}",
        "data": ((1 << 20) + ref.offset, True),
        "shape": ref.shape,
        "strides": ref.strides,
    }
    return np.asarray(_Pretence(interface))
