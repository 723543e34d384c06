"""Whether results go better through the map or past it: are the file's pages in memory?

Stores through the map cost a third of a ``pwrite`` where the pages are there, and two to three
times as much where they have to be made. The answer changes no bit, only the way to it.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from typing import Any

from hyperslab.errors import ArrayFileError
from hyperslab.planning.plan import Plan
from hyperslab_workers import mapping
from hyperslab_workers.access import Access
from hyperslab_workers.array_ref import ArrayRef

__all__ = ["may_store_through_map"]

_WORTH_ASKING = 256 * 2**10
"""Bytes below which either way takes microseconds."""

_STAYS = 256 * 2**20
"""Bytes up to which the pages of an earlier run are taken to be there still."""

_SAMPLES = 32


def may_store_through_map(plan: Plan, runs: int) -> bool:
    """Whether the tasks of a run store into the files' own pages.

    Parameters
    ----------
    plan : Plan
        Whose `through_map` says for which arguments the kernel could.
    runs : int
        How often it has been run: the first run makes the pages that it writes.
    """
    if not any(plan.through_map):
        return False
    return all(
        _in_memory(argument.array, runs)
        for argument, mapped in zip(plan.arguments, plan.through_map, strict=True)
        if mapped and isinstance(argument, Access)
    )


def _in_memory(array: ArrayRef, runs: int) -> bool:
    try:
        # What an earlier run has made is there, unless it was so much that it had to go again.
        made = runs > 0 and array.nbytes <= _STAYS
        if array.nbytes < _WORTH_ASKING:
            return made and _reserved(array)
        return _reserved(array) and (made or _sampled(array))
    except (OSError, ArrayFileError):
        return False  # The tasks will say what is the matter with it.


def _reserved(array: ArrayRef) -> bool:
    """Whether every block is there: a store into a hole of a full disk would be a SIGBUS."""
    status = os.stat(array.path)
    return status.st_blocks * 512 >= status.st_size


@functools.cache
def _mincore() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mincore
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return function


def _sampled(array: ArrayRef) -> bool:
    """Whether pages here and there of an array are all in memory."""
    whole = mapping.view(array)
    first, last = array.extent()
    start = whole.__array_interface__["data"][0] - array.offset + first
    step = max((last - first) // _SAMPLES, 1)
    there = ctypes.create_string_buffer(1)
    for at in range(start, start + last - first, step):
        page = at - at % mmap.PAGESIZE
        if _mincore()(page, 1, there) != 0 or not there.raw[0] & 1:
            return False
    return True
