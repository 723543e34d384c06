"""What a kernel may do to each of its arguments, and where."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box

__all__ = ["BOUNDARIES", "Access", "Placement", "Privilege"]

BOUNDARIES = ("clip", "nearest", "reflect", "wrap", "parent")
"""The named ways to fill a halo that reaches beyond the array; a number is the sixth.

With "parent" the array of an access is the view with its halo: what surrounds it is there."""


class Privilege(enum.Enum):
    """What a kernel may do to a region.

    The words are those of Legion's region privileges (Bauer et al., "Legion: expressing
    locality and independence with logical regions", SC 2012), with its reduction privilege
    under NumPy's name.
    """

    READ = "read"
    WRITE = "write"
    """Old values are not seen: the kernel starts from zeros."""
    UPDATE = "update"
    """Old values are seen and replaced."""
    ACCUMULATE = "accumulate"
    """Contributions are combined by an operation whose order the engine fixes."""


class Placement(enum.Enum):
    """Where the contributions of an ACCUMULATE access are gathered."""

    PRIVATE = "private"
    """In an array of the task's own, merged by the coordinator in task order."""
    MERGE = "merge"
    """In a buffer of the region's own, merged into the file under its write lock."""
    DIRECT = "direct"
    """In the file itself, the kernel running under its write lock."""


@dataclass(frozen=True, slots=True)
class Access:
    """How one kernel argument touches one array: verified, and complete without the engine."""

    name: str
    """The argument's name in the kernel."""

    array: ArrayRef
    """What is touched."""

    privilege: Privilege
    """What the kernel may do."""

    axes: tuple[int | None, ...]
    """For each axis of the array the domain axis it follows; None: taken whole."""

    halo: tuple[tuple[int, int], ...] = ()
    """For each axis of the array the elements seen before and after the region."""

    boundary: str | float | int = "clip"
    """What the halo holds beyond the array's edges."""

    op: str | None = None
    """Operation of an ACCUMULATE access: the name of a NumPy ufunc."""

    placement: Placement | None = None
    """Where an ACCUMULATE access gathers."""

    guarded: bool = False
    """Whether every touch takes the file's reader-writer lock."""

    @property
    def in_file(self) -> bool:
        """Whether contributions are combined in the file itself, by the tasks."""
        return self.placement in (Placement.MERGE, Placement.DIRECT)

    @property
    def changes(self) -> bool:
        """Whether a task changes the file."""
        return self.privilege in (Privilege.WRITE, Privilege.UPDATE) or self.in_file

    @property
    def sees(self) -> bool:
        """Whether what a task does depends on what the file holds."""
        return self.privilege in (Privilege.READ, Privilege.UPDATE) or self.in_file

    @property
    def locked(self) -> bool:
        """Whether the file's lock is taken, by the tasks or by the merge at the end."""
        return self.guarded or self.array.shared or self.in_file

    @property
    def buffered(self) -> bool:
        """Whether a worker needs private memory for a region of it."""
        if self.privilege is Privilege.READ:
            # Compiled code may not touch an element at an odd address: it gets an aligned copy.
            padded = self.has_halo and self.boundary not in ("clip", "parent")
            return padded or not self.array.aligned
        return self.placement not in (Placement.DIRECT, Placement.PRIVATE)

    def copied(self, box: Box) -> bool:
        """Whether the kernel sees a private copy of what is read at that box, and not the map."""
        outside = self.has_halo and Box.of_shape(self.array.shape).intersect(box) != box
        return outside or not self.array.aligned

    @property
    def has_halo(self) -> bool:
        """Whether any axis shows more than the region."""
        return any(before or after for before, after in self.halo)

    def box(self, region: Box) -> Box:
        """The box of the array, in its own coordinates, that goes with a domain region.

        With a boundary other than "clip" it may reach beyond the array's edges.
        """
        lo, hi = [], []
        clip, parent = self.boundary == "clip", self.boundary == "parent"
        for length, axis, (before, after) in zip(
            self.array.shape, self.axes, self.halo, strict=True
        ):
            if axis is None:
                first, last = -before, length + after
            else:
                first, last = region.lo[axis] - before, region.hi[axis] + after
            if parent:
                # The array begins where the halo of its first region does.
                first, last = first + before, last + (before if axis is not None else -after)
            if clip:
                first, last = max(first, 0), min(last, length)
            lo.append(first)
            hi.append(last)
        return Box(tuple(lo), tuple(hi))
