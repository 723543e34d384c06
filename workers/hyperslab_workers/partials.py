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


class Partials:
    """The mapped slots, from either side."""

    def __init__(self, slots: Slots, arguments: Sequence[Argument]) -> None:
        self.accesses = private_accesses(arguments)
        self._each = slot_bytes(arguments)
        fd = os.open(slots.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._views: dict[int, dict[int, np.ndarray]] = {}

    @staticmethod
    def create(slots: Slots, arguments: Sequence[Argument]) -> None:
        """Make the file, its room reserved: a full disk is an error here, and not a SIGBUS later.

        Raises
        ------
        OSError
            There is no room.
        """
        size = max(slots.count * slot_bytes(arguments), 1)
        fd = os.open(slots.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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
    """What one task accumulates: its leaves folded, in the order of the tree, into one slot."""

    def __init__(self, partials: Partials) -> None:
        self._accesses = partials.accesses
        self._partials = partials
        self._identities = {
            position: identity(access.op or "", access.array.dtype)
            for position, access in partials.accesses.items()
        }
        self._spare: list[dict[int, np.ndarray]] = []
        self._stack: list[dict[int, np.ndarray]] = []
        self._leaves = self._ended = 0
        self.values: dict[int, np.ndarray] = {}
        self.addresses: dict[int, int] = {}
        """Where the elements of the leaf's arrays lie in memory."""

    @property
    def nbytes(self) -> int:
        """Private memory that is kept for the next task."""
        return len(self._spare) * sum(a.array.nbytes for a in self._accesses.values())

    def let_go(self) -> None:
        """Give back what is kept for the next task."""
        self._spare.clear()

    def begin(self, slot: int, leaves: int) -> None:
        """Start a task of so many leaves."""
        self._spare += self._stack
        self._stack.clear()
        self._leaves, self._ended = leaves, 0
        self._out = self._partials.slot(slot)
        self._begin_leaf()

    def _begin_leaf(self) -> None:
        if self._ended == self._leaves - 1 and not self._stack:
            self.values = self._out  # A single leaf is accumulated where it will be looked for.
        elif self._spare:
            self.values = self._spare.pop()
        else:
            self.values = {
                position: np.empty(access.array.shape, access.array.dtype)
                for position, access in self._accesses.items()
            }
        self.addresses = {}
        for position, values in self.values.items():
            values.fill(self._identities[position])
            self.addresses[position] = values.__array_interface__["data"][0]

    def end_leaf(self) -> None:
        """A leaf is accumulated; merge as far as the tree allows, and start the next one."""
        self._ended += 1
        number, right = self._ended, self.values
        last = self._ended == self._leaves
        while self._stack and (number % 2 == 0 or last):
            left = self._stack.pop()
            out = self._out if last and not self._stack else right
            combine(self._accesses, left, right, out)
            self._spare.append(left)
            if out is not right:
                self._spare.append(right)
            right = out
            number //= 2
        if not last:
            self._stack.append(right)
            self._begin_leaf()
