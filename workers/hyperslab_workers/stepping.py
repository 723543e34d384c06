"""The short way through a region: where only addresses differ from the region before.

Most regions of a job are alike: of the full shape, their halos within the arrays, without locks.
For these the arguments of the kernel are checked and laid ready once (see ``kernel.native``), and
a region costs some additions, the kernel, and a write. Regions at an edge, and programs that need
more, take the general way in ``execute``; both run the same machine code on the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperslab_workers import mapping
from hyperslab_workers.access import Access, Privilege
from hyperslab_workers.bindings import Binding
from hyperslab_workers.box import Box
from hyperslab_workers.kernel import Frame, LoadedKernel
from hyperslab_workers.partials import Fold
from hyperslab_workers.task import Origin, Program

__all__ = ["Stepper"]


class _Reach:
    """Where a region's part of one array lies, seen from where the region does."""

    def __init__(self, position: int, access: Access) -> None:
        self.position = position
        self.array = access.array
        self.axes = access.axes
        self.writes = access.privilege is Privilege.WRITE
        self.steps = [
            (axis, stride)
            for axis, stride in zip(access.axes, access.array.strides, strict=True)
            if axis is not None
        ]
        self.margins = [
            (axis, before, length - after)
            for axis, length, (before, after) in zip(
                access.axes, access.array.shape, access.halo, strict=True
            )
            if axis is not None and (before or after) and access.boundary != "parent"
        ]
        # To the first element that is seen: with a halo it lies before the region's own.
        # With "parent" the array itself begins there.
        self.lead = access.array.offset - (access.boundary != "parent") * sum(
            before * stride
            for axis, (before, _), stride in zip(
                access.axes, access.halo, access.array.strides, strict=True
            )
            if axis is not None
        )


class Stepper:
    """Runs the regions of one program that are alike, in one thread."""

    def __init__(
        self,
        program: Program,
        kernel: LoadedKernel,
        bindings: Sequence[Binding],
        fold: Fold | None,
    ) -> None:
        self._program = program
        self._kernel = kernel
        self._bindings = bindings
        self._fold = fold
        grid = program.grid
        # Last axis first, as the number of a region is taken apart.
        self._axes = tuple(zip(grid.shape, grid.region, grid.counts, strict=True))[::-1]
        self._size = grid.region
        arguments = list(enumerate(program.arguments))
        accesses = [(n, a) for n, a in arguments if isinstance(a, Access)]
        self._reaches = [_Reach(n, a) for n, a in accesses if a.placement is None]
        self._private = [n for n, a in accesses if a.placement is not None]
        self._origins = [n for n, a in arguments if isinstance(a, Origin)]
        self._margins = [margin for reach in self._reaches for margin in reach.margins]
        self._stored: bool | None = None
        self._frame: Frame | None = None
        self._values: dict[int, np.ndarray] = {}

    @staticmethod
    def serves(program: Program, bindings: Sequence[Binding]) -> bool:
        """Whether any region of a program can go the short way."""
        if program.release or program.undo:
            return False  # What each region has touched, or was, is noted in the general one.
        if any(b.guards_region or b.guards_commit or b.in_place for b in bindings):
            return False
        return all(
            argument.array.aligned
            and argument.array.size > 0
            and argument.privilege is not Privilege.UPDATE
            for argument in program.arguments
            if isinstance(argument, Access)
        )

    def begin_task(self, through_map: bool) -> None:
        """Look up where the files are mapped: they may have been let go since the last task."""
        if through_map is not self._stored:
            self._stored, self._frame = through_map, None
        self._moving, self._zeroed, self._buffered = [], [], []
        for reach in self._reaches:
            stored = through_map and self._program.through_map[reach.position]
            if reach.writes and not stored:
                self._buffered.append(reach)
                continue
            whole = self._bindings[reach.position].whole
            base = whole.__array_interface__["data"][0] - reach.array.offset
            self._moving.append((reach.position, base + reach.lead, reach.steps))
            if reach.writes:
                self._zeroed.append((whole, reach.axes))
        self._writers: list[tuple[_Reach, Any]] | None = None

    def let_go(self) -> None:
        """Forget the buffers, so that their memory can be given back."""
        self._frame = None
        self._values.clear()
        self._writers = None

    def region(self, index: int, begin_writing: Callable[[int], None]) -> bool:
        """Run a region; False where it is not like the others, and nothing was done."""
        # Plain loops over short tuples: this is the inner loop of every job with small regions.
        lo, rest = [], index
        for length, size, count in self._axes:
            rest, place = divmod(rest, count)
            first = place * size
            if first + size > length:
                return False
            lo.append(first)
        lo.reverse()
        for axis, before, end in self._margins:
            if lo[axis] < before or lo[axis] + self._size[axis] > end:
                return False
        frame = self._frame
        if frame is None:
            frame = self._frame = self._lay_out(lo)
            if frame is None:
                return False
        for position, address, steps in self._moving:
            for axis, stride in steps:
                address += lo[axis] * stride
            frame.point(position, address)
        for position in self._private:
            assert self._fold is not None
            frame.point(position, self._fold.addresses[position])
        for position in self._origins:
            frame.place(position, tuple(lo))
        for values in self._values.values():
            values.fill(0)
        for whole, axes in self._zeroed:
            key = [
                slice(None) if axis is None else slice(lo[axis], lo[axis] + self._size[axis])
                for axis in axes
            ]
            whole[(*key, ...)].fill(0)
        frame()
        if self._buffered:
            begin_writing(index)
            self._write(lo)
        return True

    def _box(self, lo: list[int]) -> Box:
        return Box(tuple(lo), tuple([a + n for a, n in zip(lo, self._size, strict=True)]))

    def _lay_out(self, lo: list[int]) -> Frame | None:
        """The arguments of that region, made and checked in the general way."""
        region = self._box(lo)
        for binding in self._bindings:
            binding.locate(region, None)
        arguments = tuple([binding.prepare(region) for binding in self._bindings])
        self._values = {reach.position: arguments[reach.position] for reach in self._buffered}
        return self._kernel.frame(arguments)

    def _write(self, lo: list[int]) -> None:
        if self._writers is None:
            self._writers = [
                (reach, mapping.run_writer(reach.array, self._values[reach.position]))
                for reach in self._buffered
            ]
        for reach, writer in self._writers:
            if writer is None:
                binding = self._bindings[reach.position]
                binding.locate(self._box(lo), None)
                mapping.write_back(reach.array, binding.box, self._values[reach.position])
                continue
            offset = reach.lead
            for axis, stride in reach.steps:
                offset += lo[axis] * stride
            writer(offset)
