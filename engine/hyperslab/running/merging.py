"""The tree by which contributions are merged, and the way of the total into its file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hyperslab.errors import HyperslabError
from hyperslab.interruption import uninterrupted
from hyperslab.planning.plan import Plan
from hyperslab_workers import mapping
from hyperslab_workers.box import Box
from hyperslab_workers.partials import Partials
from hyperslab_workers.reduction import OPERATIONS
from hyperslab_workers.task import Program

__all__ = ["Merge", "MergeTree", "Merger"]

_IN_WORKERS = 2**20
"""Bytes of a contribution from which merging two is worth a task of its own. Below, the
coordinator does it between two events."""

Node = tuple[int, int]
"""Level and number: node ``(l, k)`` holds the tasks from ``k << l`` on, ``1 << l`` of them."""


class Merge(NamedTuple):
    """Two neighbours in the tree that are both there."""

    node: Node
    """What they become."""

    left: int
    """Slot of the first."""

    right: int
    """Slot of the second."""


class MergeTree:
    """Which contributions belong together. It knows nothing of what they are.

    A binary tree over the numbers of the tasks, each of which is a node without children; one
    without a right sibling moves up as it is. So it depends on how many there are, and neither on
    who computes them nor on the order in which they arrive.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._ready: dict[Node, int] = {}
        self.root: int | None = None
        """The slot of the total, when there is one."""

    def add(self, node: Node, slot: int) -> Merge | None:
        """A node has arrived; what can be merged now."""
        level, number = node
        while (number | 1) << level >= self._tasks and number % 2 == 0:
            if number == 0:
                self.root = slot
                return None
            level, number = level + 1, number // 2
        sibling = (level, number ^ 1)
        other = self._ready.pop(sibling, None)
        if other is None:
            self._ready[level, number] = slot
            return None
        left, right = (slot, other) if number % 2 == 0 else (other, slot)
        return Merge((level + 1, number // 2), left, right)


class Merger:
    """Slots for contributions, what is merged of them, and the total at the end.

    The file is touched once, at the end: until then a run can fail, or its tasks run again,
    without anything having been added twice.
    """

    def __init__(self, plan: Plan, program: Program) -> None:
        self._expects = program.slots is not None
        self.began = False
        """Whether files are being changed."""
        self.committed = False
        """Whether the totals are in their files."""
        if program.slots is None:
            return
        self._plan = plan
        self._partials = Partials(program.slots, plan.arguments)
        self._tree = MergeTree(plan.tasks)
        self._free = list(range(program.slots.count))
        self._waiting: list[Merge] = []
        self._merging: dict[int, Merge] = {}
        self._by_workers = plan.bytes_accumulated >= _IN_WORKERS
        # So that a merge never waits for a slot which only a merge could free.
        self._kept_back = 1 if self._by_workers else 0

    def slot(self) -> int | None:
        """A slot for a task that is to be sent; None while there is none to be had."""
        if not self._expects:
            return 0
        if len(self._free) <= self._kept_back:
            return None
        return self._free.pop()

    def add(self, index: int, slot: int) -> None:
        """The contribution of a task lies in its slot."""
        if self._expects:
            self._arrived((0, index), slot)

    def _arrived(self, node: Node, slot: int) -> None:
        while (merge := self._tree.add(node, slot)) is not None:
            if self._by_workers:
                self._waiting.append(merge)
                return
            self._partials.merge(merge.left, merge.right, merge.left)
            self._free.append(merge.right)
            node, slot = merge.node, merge.left

    def merges(self) -> Iterator[tuple[int, int, int]]:
        """Merges to be sent: the two slots, and the one for the result."""
        while self._expects and self._waiting and self._free:
            merge, out = self._waiting.pop(0), self._free.pop()
            self._merging[out] = merge
            yield merge.left, merge.right, out

    def merged(self, out: int) -> None:
        """A merge was done."""
        merge = self._merging.pop(out)
        self._free += [merge.left, merge.right]
        self._arrived(merge.node, out)

    @property
    def complete(self) -> bool:
        """Whether everything is in one total, or there is nothing to merge."""
        return not self._expects or self._tree.root is not None or self._plan.tasks == 0

    def commit(self) -> None:
        """Combine the total with what the files hold.

        Raises
        ------
        LockTimeout, ArrayFileError
            A lock was not free in time, or a file is not what it was: no file was changed.
        HyperslabError
            A write failed when others had been made: the message says which.
        """
        if not self._expects or self._tree.root is None:
            return
        totals = self._partials.slot(self._tree.root)
        accesses = self._partials.accesses
        # All locks in one call, and all files looked at before the first is changed: one that is
        # held or replaced must not leave another with its total already in it.
        for access in accesses.values():
            mapping.verify(access.array)
        with self._locks():
            results: dict[int, np.ndarray] = {}
            for position, access in accesses.items():
                held = mapping.view(access.array)
                assert access.op is not None
                # Of the file's type, which logical operations do not give by themselves: a cast on
                # the way into the file would be a second copy that no projection counts.
                results[position] = np.empty(held.shape, held.dtype)
                OPERATIONS[access.op](held, totals[position], out=results[position])
            self.began = True
            # Ctrl-C between two writes would leave one total in its file and not the other.
            uninterrupted(lambda: self._write(results))

    def _locks(self) -> contextlib.AbstractContextManager[object]:
        plan = self._plan
        locked = [access for access in self._partials.accesses.values() if access.locked]
        if not locked:
            return contextlib.nullcontext()
        from hyperslab_workers.locks import Guard, hold_all, lock_for

        guards = [Guard(lock_for(a.array, plan.lock_dir), a.array.extent(), True) for a in locked]
        return hold_all(guards, plan.lock_timeout)

    def _write(self, results: dict[int, np.ndarray]) -> None:
        written: list[str] = []
        for position, result in results.items():
            access = self._partials.accesses[position]
            array = access.array
            try:
                mapping.write_back(array, Box.of_shape(array.shape), result)
            except HyperslabError as error:
                if written:
                    error.add_note(f"The totals of {', '.join(written)} are in their files.")
                raise
            written.append(access.name)
        self.committed = True
