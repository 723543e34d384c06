"""What a run that failed left behind, in a form that an error can carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RegionSpan"]


@dataclass(frozen=True, slots=True)
class RegionSpan:
    """Consecutive regions of which a run that failed left the same behind."""

    state: Literal["done", "untouched", "in doubt"]
    """Whether all that they change is changed, nothing of it, or possibly a part."""

    start: int
    """Number of the first region."""

    stop: int
    """One past the number of the last region."""

    first: tuple[slice, ...]
    """Where the first region lies in the domain: a key for arrays that follow it."""

    last: tuple[slice, ...]
    """Where the last region lies."""

    def __str__(self) -> str:
        ends = [", ".join(f"{s.start}:{s.stop}" for s in key) for key in (self.first, self.last)]
        if self.stop - self.start == 1:
            return f"region [{ends[0]}]"
        return f"regions [{ends[0]}] to [{ends[1]}]"
