"""How each kind of argument is brought before the kernel, and back into its file.

::

    READ         the map itself ─────────────► kernel        (a padded copy where the halo
                                                              reaches beyond the edges)
    WRITE        zeroed buffer ──► kernel ──► pwrite
                 through the map: zeroed pages of the file ◄── kernel
    UPDATE       map ──► buffer ──► kernel ──► pwrite
    ACCUMULATE   private: identity ──► kernel, over all regions of a leaf ──► slot
                 merge:   identity ──► kernel ──► op into the file, under its write lock
                 direct:  the map itself, writable, kernel under the write lock

A binding belongs to one thread and one program; its buffer is the thread's (see ``arena``).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hyperslab_workers import mapping
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.arena import Arena
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box
from hyperslab_workers.partials import Fold
from hyperslab_workers.reduction import OPERATIONS, identity
from hyperslab_workers.task import Argument, Origin, Value

__all__ = ["Binding", "Order", "bind"]

Order = Literal["C", "F"]


_NOTHING = np.empty(0, np.uint8)


class Binding:
    """One argument of one program: the base does nothing but pass a value."""

    guards_region = False
    """Whether the kernel itself must run under the file's lock."""

    guards_commit = False
    """Whether :meth:`commit` must run under the file's write lock."""

    exclusive = False
    """Whether the lock is the writer's."""

    in_place = False
    """Whether the kernel itself stores into the file."""

    array: ArrayRef | None = None
    """The array behind the argument, if it is one."""

    box = Box((), ())
    """The box of the array that the current region touches."""

    whole: np.ndarray = _NOTHING
    """All of the array, as its file is mapped, where the kernel sees or changes the map."""

    @property
    def touched(self) -> Box:
        """The part of :attr:`box` that lies in the array: what is locked."""
        assert self.array is not None
        return self.box.intersect(Box.of_shape(self.array.shape))

    def begin_task(self, through_map: bool = False) -> None:
        """Get ready for a task: the file may have been changed since the last one.

        With `through_map` a WRITE stores into the file's own pages.
        """
        if self.array is not None:
            mapping.verify(self.array)

    def end_task(self) -> None:
        """Let go of the file: a kept view would keep a removed file's disk space taken."""

    def locate(self, region: Box, footprint: Box | None) -> None:
        """Set :attr:`box` for a region; nothing is read yet."""

    def prepare(self, region: Box) -> Any:
        """What the kernel is called with for that region."""
        raise NotImplementedError

    def commit(self) -> None:
        """Bring what the kernel computed into the file."""


class _Constant(Binding):
    def __init__(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            value = value.view()
            value.flags.writeable = False
        self._value = value

    def prepare(self, region: Box) -> Any:
        return self._value


class _Origin(Binding):
    def prepare(self, region: Box) -> Any:
        return region.lo


class _ArrayBinding(Binding):
    """An argument that lies in a file."""

    def __init__(self, access: Access, order: Order, arena: Arena, number: int) -> None:
        self.access = access
        self.array: ArrayRef = access.array
        self._order = order
        self._arena = arena
        self._number = number
        self._values = _NOTHING
        self.exclusive = access.privilege is not Privilege.READ
        self.guards_region = access.guarded

    def end_task(self) -> None:
        # Of the buffer, too: as long as it is seen, the arena cannot give it back.
        self.whole = self._values = _NOTHING

    def locate(self, region: Box, footprint: Box | None) -> None:
        self.box = self.access.box(region)

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uninitialised memory of that shape, the same for every region."""
        dtype = self.array.dtype
        size = dtype.itemsize
        for length in shape:
            size *= length
        return np.ndarray(shape, dtype, self._arena.take(self._number, size), order=self._order)


class _Read(_ArrayBinding):
    @property
    def touched(self) -> Box:
        if self.access.boundary in ("reflect", "wrap") and not self._bounds.contains(self.box):
            # The values beyond the edge are taken from elsewhere, with "wrap" from far away.
            return self._bounds
        return super().touched

    def begin_task(self, through_map: bool = False) -> None:
        self.whole = mapping.view(self.array)  # Which looks whether it is still that file.
        self._bounds = Box.of_shape(self.array.shape)

    def prepare(self, region: Box) -> Any:
        box = self.box
        # Not `contains`, for which an empty box lies anywhere: its halo has a shape all the same.
        inside = not self.access.has_halo or self._bounds.intersect(box) == box
        if inside and self.array.aligned:
            # With an ellipsis, because a full index without one gives a scalar.
            key: Any = (*box.slices, ...)
            return self.whole[key]
        copy = self._buffer(box.shape)
        if inside:
            np.copyto(copy, self.whole[box.slices])
        else:
            mapping.gather(self.array, box, self.access.boundary, copy)
        copy.flags.writeable = False
        return copy


class _Write(_ArrayBinding):
    _stores = False

    def begin_task(self, through_map: bool = False) -> None:
        self._stores = through_map
        if through_map:
            self.whole = mapping.view(self.array, writable=True)
        else:
            mapping.verify(self.array)

    def prepare(self, region: Box) -> Any:
        # Zeroed, although WRITE promises nothing about old values: what a kernel leaves out
        # must not be whatever the worker computed before, or bits would depend on scheduling.
        if self._stores:
            key: Any = (*self.box.slices, ...)
            self._values = self.whole[key]
        else:
            self._values = self._buffer(self.box.shape)
        self._values.fill(0)
        return self._values

    def commit(self) -> None:
        if not self._stores:
            mapping.write_back(self.array, self.box, self._values)


class _Update(_ArrayBinding):
    def begin_task(self, through_map: bool = False) -> None:
        self.whole = mapping.view(self.array)

    def prepare(self, region: Box) -> Any:
        self._values = self._buffer(self.box.shape)
        np.copyto(self._values, self.whole[self.box.slices])
        return self._values

    def commit(self) -> None:
        mapping.write_back(self.array, self.box, self._values)


class _Private(_ArrayBinding):
    """An accumulation over a leaf, merged with those of other leaves later."""

    def __init__(self, access: Access, order: Order, arena: Arena, number: int, fold: Fold) -> None:
        super().__init__(access, order, arena, number)
        self._fold = fold

    def prepare(self, region: Box) -> Any:
        return self._fold.values[self._number]


class _Merge(_ArrayBinding):
    """An accumulation into a buffer of the region's own, merged under the lock."""

    guards_commit = True

    def locate(self, region: Box, footprint: Box | None) -> None:
        self.box = footprint if footprint is not None else Box.of_shape(self.array.shape)

    def prepare(self, region: Box) -> Any:
        assert self.access.op is not None
        self._values = self._buffer(self.box.shape)
        self._values.fill(identity(self.access.op, self.array.dtype))
        return self._values

    def commit(self) -> None:
        assert self.access.op is not None
        held = mapping.view(self.array, self.box)
        OPERATIONS[self.access.op](held, self._values, out=self._values)
        # Not by stores into the map: on a full disk under a sparse file those kill the worker.
        mapping.write_back(self.array, self.box, self._values)


class _Direct(_ArrayBinding):
    """An accumulation by the kernel itself into the map, the kernel under the lock."""

    in_place = True

    def __init__(self, access: Access, order: Order, arena: Arena, number: int) -> None:
        super().__init__(access, order, arena, number)
        self.guards_region = True

    def locate(self, region: Box, footprint: Box | None) -> None:
        self.box = Box.of_shape(self.array.shape)

    def prepare(self, region: Box) -> Any:
        return mapping.view(self.array, self.box, writable=True)


def bind(argument: Argument, order: Order, arena: Arena, number: int, fold: Fold | None) -> Binding:
    """The binding for argument `number`; `order` is the memory order of private copies."""
    if isinstance(argument, Value):
        return _Constant(argument.value)
    if isinstance(argument, Origin):
        return _Origin()
    kinds: dict[Privilege, type[_ArrayBinding]] = {
        Privilege.READ: _Read,
        Privilege.WRITE: _Write,
        Privilege.UPDATE: _Update,
    }
    if argument.privilege in kinds:
        return kinds[argument.privilege](argument, order, arena, number)
    if argument.placement is Placement.PRIVATE:
        assert fold is not None
        return _Private(argument, order, arena, number, fold)
    in_file = _Merge if argument.placement is Placement.MERGE else _Direct
    return in_file(argument, order, arena, number)
