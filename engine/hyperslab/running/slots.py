"""The room of contributions in scratch: taken before a run, given back after it.

On a disk a file of slots serves one plan after the other. Its pages are the system's cache, and to
make and to map them anew takes a worker as long as to read some hundred MB.

Where scratch is memory, a file of slots takes memory from the moment its room is reserved. A plan
that is kept to be run again, and the views that workers keep of its slots, would hold it for as
long; so between two runs the file is one large hole.
"""

from __future__ import annotations

import contextlib
import os

from hyperslab.errors import HyperslabError
from hyperslab.planning.memory import is_memory
from hyperslab.planning.plan import Plan
from hyperslab.units import human_bytes
from hyperslab_workers.partials import Partials
from hyperslab_workers.task import Slots

__all__ = ["give_back", "lay_aside", "reserve", "take_up"]

_KEPT = 2**20
"""Bytes up to which slots stay: to make their pages anew takes as long as to start a job."""


_LAID_ASIDE = 64 * 2**20
"""Bytes of a file up to which it is kept for the next plan."""

_aside: dict[str, list[str]] = {}
"""By directory, the files that no plan uses."""


def take_up(directory: str, size: int) -> str | None:
    """A file of at least that size, and at most four times it, that no plan uses any more."""
    for path in _aside.get(directory, []):
        with contextlib.suppress(OSError, ValueError):
            if size <= os.stat(path).st_size <= 4 * size:
                _aside[directory].remove(path)  # A ValueError: another thread was faster.
                return path
    return None


def lay_aside(path: str) -> None:
    """No plan uses the file any more: it is kept for the next one, or removed."""
    directory = os.path.dirname(path)
    kept = _aside.setdefault(directory, [])
    with contextlib.suppress(OSError):
        if len(kept) < 4 and os.stat(path).st_size <= _LAID_ASIDE and not is_memory(directory):
            kept.append(path)
        else:
            os.unlink(path)


def reserve(slots: Slots, plan: Plan, *, again: bool = False) -> None:
    """Reserve the room, in a new file or, `again`, in the one that gave it back.

    Raises
    ------
    HyperslabError
        There is none.
    """
    if again and not _is_given_back(slots, plan):
        return
    try:
        Partials.create(slots, plan.arguments, again=again)
    except OSError as error:
        size = human_bytes(slots.count * plan.bytes_accumulated)
        directory = os.path.dirname(slots.path)
        raise HyperslabError(
            f"there is no room for {size} of contributions to what kernel {plan.kernel.name} "
            f"accumulates in {directory} ({error.strerror}): give a larger scratch=, or lower "
            "workers=; no file was changed"
        ) from None


def give_back(slots: Slots, plan: Plan) -> None:
    """Give the room back. Nothing of a run may be under way."""
    if _is_given_back(slots, plan):
        # A file system in memory that cannot make holes keeps what it has.
        with contextlib.suppress(OSError):
            Partials(slots, plan.arguments).give_back()


def _is_given_back(slots: Slots, plan: Plan) -> bool:
    size = slots.count * plan.bytes_accumulated
    return size > _KEPT and is_memory(os.path.dirname(slots.path))
