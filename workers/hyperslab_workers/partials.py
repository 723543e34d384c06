"""Private accumulations: contributions in shared memory, and the fixed tree that merges them.

Contributions are numbered by leaf, and merged as a binary tree over these numbers::

    leaf      0   1   2   3   4        a node without a right sibling moves up as it is
               \\ /     \\ /    |
                +       +     |
                 \\     /      |
                    +         |
                     \\       /
                         +

The tree is geometry: who merges what, and when, changes no bit. A task is a whole subtree (its
leaves are a power of two), which its worker folds by itself; what is above is merged by the
coordinator or, where arrays are large, by workers. A folded subtree lies in a *slot* of a mapped
file, so nothing is sent, and what a worker has finished survives its death.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np

from hyperslab_workers.access import Access, Placement
from hyperslab_workers.arena import Arena
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.reduction import OPERATIONS, identity
from hyperslab_workers.task import Argument, Slots

__all__ = ["Fold", "Partials", "private_accesses", "slot_bytes"]

_ALIGNED = 64


def private_accesses(arguments: Sequence[Argument]) -> dict[int, Access]:
    """The accesses that accumulate in private, by the position of their argument."""
    return {
        position: argument
        for position, argument in enumerate(arguments)
        if isinstance(argument, Access) and argument.placement is Placement.PRIVATE
    }


def slot_bytes(arguments: Sequence[Argument]) -> int:
    """Bytes of one slot."""
    return sum(_padded(access) for access in private_accesses(arguments).values())


def _padded(access: Access) -> int:
    return -(-access.array.nbytes // _ALIGNED) * _ALIGNED


_maps: dict[str, tuple[mmap.mmap, np.ndarray]] = {}
"""Kept from plan to plan, as the files are: the pages stay mapped."""


def _mapped(path: str) -> tuple[mmap.mmap, np.ndarray]:
    known = _maps.get(path)
    if known is None:
        for old in [old for old in list(_maps) if not os.path.exists(old)]:
            _maps.pop(old, None)
        fd = open_apart(path, os.O_RDWR)
        try:
            mapped = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        known = _maps.setdefault(path, (mapped, np.frombuffer(mapped, np.uint8)))
    return known


class Partials:
    """The mapped slots, from either side."""

    def __init__(self, slots: Slots, arguments: Sequence[Argument]) -> None:
        self.accesses = private_accesses(arguments)
        self._each = slot_bytes(arguments)
        self._map, self._bytes = _mapped(slots.path)
        self._views: dict[int, dict[int, np.ndarray]] = {}

    @staticmethod
    def create(slots: Slots, arguments: Sequence[Argument], *, again: bool = False) -> None:
        """Make the file, its room reserved: a full disk is an error here, and not a SIGBUS later.

        With `again` it is there, and its room was given back.

        Raises
        ------
        OSError
            There is no room.
        """
        size = max(slots.count * slot_bytes(arguments), 1)
        flags = os.O_RDWR | (0 if again else os.O_CREAT | os.O_EXCL)
        fd = open_apart(slots.path, flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.unlink(slots.path)
            raise
        finally:
            os.close(fd)

    def slot(self, number: int) -> dict[int, np.ndarray]:
        """The arrays of one slot, by the position of their argument."""
        views = self._views.get(number)
        if views is None:
            views, at = {}, number * self._each
            for position, access in self.accesses.items():
                array = access.array
                views[position] = np.ndarray(array.shape, array.dtype, self._bytes, at)
                at += _padded(access)
            self._views[number] = views
        return views

    def give_back(self) -> None:
        """Forget what the slots hold, and take no memory for them, where memory is what they take.

        Raises
        ------
        OSError
            The file system cannot: it is not one in memory.
        """
        self._map.madvise(mmap.MADV_REMOVE)

    def merge(self, left: int, right: int, out: int) -> None:
        """Combine two slots, in that order, into a third, or into one of them."""
        combine(self.accesses, self.slot(left), self.slot(right), self.slot(out))


def combine(
    accesses: dict[int, Access],
    left: dict[int, np.ndarray],
    right: dict[int, np.ndarray],
    out: dict[int, np.ndarray],
) -> None:
    """``left op right`` for every array."""
    for position, access in accesses.items():
        assert access.op is not None
        OPERATIONS[access.op](left[position], right[position], out=out[position])


class Fold:
    """What one task accumulates: its leaves folded, in the order of the tree, into one slot.

    The last leaf is accumulated in the slot itself; those before it in memory of the thread's, of
    which one part is needed for each level of the task's subtree.
    """

    def __init__(self, partials: Partials, arena: Arena) -> None:
        self._accesses = partials.accesses
        self._partials = partials
        self._arena = arena
        self._identities = {
            position: identity(access.op or "", access.array.dtype)
            for position, access in partials.accesses.items()
        }
        self._spare: list[dict[int, np.ndarray]] = []
        self._stack: list[dict[int, np.ndarray]] = []
        self._leaves = self._ended = self._made = 0
        self.values: dict[int, np.ndarray] = {}
        self.addresses: dict[int, int] = {}
        """Where the elements of the leaf's arrays lie in memory."""

    def begin(self, slot: int, leaves: int) -> None:
        """Start a task of so many leaves."""
        self.end()
        self._leaves, self._ended = leaves, 0
        self._out = self._partials.slot(slot)
        self._begin_leaf()

    def end(self) -> None:
        """Hold no memory any more: what is the thread's, it may give back."""
        self._spare.clear()
        self._stack.clear()
        self.values = {}
        self._made = 0

    def _begin_leaf(self) -> None:
        if self._ended == self._leaves - 1:
            self.values = self._out
        elif self._spare:
            self.values = self._spare.pop()
        else:
            self.values = self._make()
        self.addresses = {}
        for position, values in self.values.items():
            values.fill(self._identities[position])
            self.addresses[position] = values.__array_interface__["data"][0]

    def _make(self) -> dict[int, np.ndarray]:
        level, self._made = self._made, self._made + 1
        made = {}
        for position, access in self._accesses.items():
            array = access.array
            block = self._arena.take((position, level), array.nbytes)
            made[position] = np.ndarray(array.shape, array.dtype, block)
        return made

    def end_leaf(self) -> None:
        """A leaf is accumulated; merge as far as the tree allows, and start the next one."""
        self._ended += 1
        number, right = self._ended, self.values
        last = self._ended == self._leaves
        while self._stack and (number % 2 == 0 or last):
            left = self._stack.pop()
            combine(self._accesses, left, right, right)
            self._spare.append(left)
            number //= 2
        if not last:
            self._stack.append(right)
            self._begin_leaf()
