"""Boxes and grids: the pure geometry that coordinator and workers share.

A :class:`Box` is a half-open hyper-rectangle. A :class:`Grid` covers a domain with equal
boxes and is arithmetic only: the box of region *i* is computed when it is asked for, so a
grid over ten terabytes costs no more than one over ten bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Box", "Grid"]


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open hyper-rectangle ``[lo, hi)`` per axis.

    Examples
    --------
    >>> Box((0, 2), (4, 5)).shape
    (4, 3)
    >>> print(Box((0, 2), (4, 5)))
    [0:4, 2:5]
    """

    lo: tuple[int, ...]
    """First index on each axis."""

    hi: tuple[int, ...]
    """One past the last index on each axis; ``hi <= lo`` on any axis means an empty box."""

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Box:
        """The box that covers a whole array of that shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.lo)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, never below 0."""
        return tuple([max(hi - lo, 0) for lo, hi in zip(self.lo, self.hi, strict=True)])

    @property
    def size(self) -> int:
        """Number of elements; 1 for a box without axes."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The key that reads this box from an array."""
        return tuple([slice(lo, hi) for lo, hi in zip(self.lo, self.hi, strict=True)])

    def intersect(self, other: Box) -> Box:
        """The part both boxes share; it may be empty."""
        return Box(
            tuple(max(a, b) for a, b in zip(self.lo, other.lo, strict=True)),
            tuple(min(a, b) for a, b in zip(self.hi, other.hi, strict=True)),
        )

    def meets(self, other: Box) -> bool:
        """Whether the two boxes have an element in common."""
        return self.intersect(other).size > 0

    def contains(self, other: Box) -> bool:
        """Whether every element of `other` lies in this box."""
        return other.size == 0 or self.intersect(other) == other

    def grow(self, halo: tuple[tuple[int, int], ...]) -> Box:
        """This box with `halo` ``(before, after)`` elements more on each axis."""
        return Box(
            tuple(lo - before for lo, (before, _) in zip(self.lo, halo, strict=True)),
            tuple(hi + after for hi, (_, after) in zip(self.hi, halo, strict=True)),
        )

    def __str__(self) -> str:
        return "[" + ", ".join(f"{lo}:{hi}" for lo, hi in zip(self.lo, self.hi, strict=True)) + "]"


@dataclass(frozen=True, slots=True)
class Grid:
    """A disjoint and complete partition of a domain into boxes of one shape.

    Regions are numbered in C order; the last one on an axis may be shorter.

    Examples
    --------
    >>> grid = Grid(shape=(10, 4), region=(4, 4))
    >>> [str(box) for box in grid]
    ['[0:4, 0:4]', '[4:8, 0:4]', '[8:10, 0:4]']
    """

    shape: tuple[int, ...]
    """Shape of the domain."""

    region: tuple[int, ...]
    """Shape of one region, at least 1 on each axis."""

    counts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Number of regions along each axis."""

    _count: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.region) or any(r < 1 for r in self.region):
            raise ValueError(f"region {self.region} does not fit a domain of shape {self.shape}")
        counts = tuple([-(-n // r) for n, r in zip(self.shape, self.region, strict=True)])
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "_count", math.prod(counts))

    def __len__(self) -> int:
        return self._count

    def box(self, index: int) -> Box:
        """The box of region number `index`."""
        if not 0 <= index < self._count:
            raise IndexError(f"region {index} of {self._count}")
        lo = []
        for n, r in zip(reversed(self.shape), reversed(self.region), strict=True):
            index, position = divmod(index, -(-n // r))
            lo.append(position * r)
        lo.reverse()
        hi = [min(first + r, n) for first, r, n in zip(lo, self.region, self.shape, strict=True)]
        return Box(tuple(lo), tuple(hi))

    def __iter__(self) -> Iterator[Box]:
        return (self.box(index) for index in range(len(self)))
