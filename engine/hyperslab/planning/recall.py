"""The plans of the last short jobs: a loop that runs the same job again need not plan it again.

A job of some microseconds takes a hundred times as long to plan and to get ready. Programs that
take steps (``for ...: hs.run(kernel, a, hs.write(b))``) would pay that in every one.

A plan follows from values alone: the kernel, where the arrays lie, numbers, settings. So two
calls with equal values have the same plan, and what cannot be told to be equal (a NumPy array
that may have been changed since, a footprint that may answer differently) is planned anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from hyperslab.arrays import Array
from hyperslab.compiler import Kernel
from hyperslab.planning.declare import ORIGIN, Declaration
from hyperslab.planning.plan import Plan

__all__ = ["Recall"]

_KEPT = 16
"""Plans that are kept."""

_SHORT = 64 * 2**20
"""Bytes of all arrays up to which a job is short: for more, planning it does not count."""

_REGIONS = 4096


class _Unknown(Exception):
    """That a value is equal to another one cannot be told, or not for good."""


class Recall:
    """The plans of an engine's last short jobs, as long as their arrays are open."""

    def __init__(self) -> None:
        # Threads use it without a lock: each step below is one operation on a dict, and a plan
        # that is missed is made anew. A lock would be taken in callbacks of the collector, too.
        self._kept: dict[Hashable, tuple[Plan, tuple[weakref.ref[Any], ...]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @staticmethod
    def key(kernel: Any, arguments: Sequence[Any], over: Any, region: Any) -> Hashable | None:
        """What a plan follows from; None where that cannot be said, or the job is in error.

        Raises
        ------
        ArrayFileError
            An array was closed.
        """
        if not isinstance(kernel, Kernel) or len(arguments) != len(kernel.signature.parameters):
            return None  # A default may be an array that was changed.
        try:
            return (
                kernel,
                tuple([_argument(value) for value in arguments]),
                over.shape if isinstance(over, Array | np.ndarray) else _lengths(over),
                _lengths(region),
            )
        except _Unknown:
            return None

    def find(self, key: Hashable | None, limit: Callable[[], int]) -> Plan | None:
        """The plan that was kept for a key, if it still fits into as many bytes as `limit` says."""
        if key is None:
            return None
        entry = self._kept.pop(key, None)
        if entry is None or entry[0].memory.peak > limit():
            return None
        self._kept[key] = entry  # At the end: the first ones go first.
        return entry[0]

    def keep(self, key: Hashable | None, plan: Plan, arguments: Sequence[Any]) -> Plan:
        """Keep a plan, until one of its arrays is gone or others have come.

        Returns the plan to run: what is got ready for it is then there for the next time.
        """
        size = sum(access.array.nbytes for access in plan.accesses)
        if key is None or plan.has_footprints or size > _SHORT or plan.regions > _REGIONS:
            return plan
        kept = self._kept
        arrays = [array for value in arguments if (array := _array(value)) is not None]
        handles = {array.handle for array in arrays}
        gone = tuple(weakref.ref(handle, lambda _: kept.pop(key, None)) for handle in handles)
        # Without the declarations, which keep arrays open: whoever calls with these arrays has
        # them, and when nobody has, scratch arrays must go.
        bare = dataclasses.replace(plan, declarations=(None,) * len(plan.declarations))
        kept[key] = (bare, gone)
        while len(kept) > _KEPT:
            # Another thread may just be doing the same.
            with contextlib.suppress(RuntimeError, StopIteration):
                kept.pop(next(iter(kept)), None)
        return bare

    def clear(self) -> None:
        """Forget all plans."""
        self._kept.clear()


def _array(value: Any) -> Array | None:
    """The array of an argument, or None."""
    if isinstance(value, Array):
        return value
    return value.array if isinstance(value, Declaration) else None


def _argument(value: Any) -> Hashable:
    if isinstance(value, Array):
        return value.ref
    if isinstance(value, Declaration):
        if value.footprint is not None:
            raise _Unknown
        return (
            *(value.array.ref, value.privilege, _lengths(value.axes), value.halo),
            *(_number(value.boundary), value.whole, value.op, value.any_order),
        )
    return value if value is ORIGIN else _number(value)


def _number(value: Any) -> Hashable:
    """A number by its type and its bits: 1 is not 1.0 here, nor 0.0 the same as -0.0."""
    kind = type(value)
    if kind in (bool, int, str):
        return kind, value
    if kind in (float, complex):
        return kind, np.array(value).tobytes()
    if isinstance(value, np.number | np.bool):
        return value.dtype, value.tobytes()
    raise _Unknown


def _lengths(value: Any) -> Hashable:
    """A shape, or what was given in place of one."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, tuple | list):
        return tuple([_lengths(entry) for entry in value])
    raise _Unknown
