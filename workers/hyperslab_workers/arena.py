"""Memory for private copies of regions: one for each thread, whatever it runs.

Fresh memory costs a page fault for every 4 KiB of it, so a buffer is kept from region to region
and from program to program. What is kept is known: never more than the program at hand was
planned with, and little once there is nothing to do.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable

import numpy as np

__all__ = ["KEPT_IDLE", "Arena"]

KEPT_IDLE = 4 * 2**20
"""Bytes that a worker without work may keep: the buffers of a typical region. No projection counts
them: they are part of what an idle worker is taken to need (``planning.memory.WORKER_BYTES``)."""

_MAPPED = 256 * 2**10
"""Bytes from which memory is asked of the system itself: the C library would keep what is
freed, and nobody could say how much a worker holds."""


class Arena:
    """Blocks of memory by name, each as large as the largest use of that name."""

    def __init__(self) -> None:
        self._blocks: dict[Hashable, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(block.nbytes for block in self._blocks.values())

    def take(self, name: Hashable, size: int) -> np.ndarray:
        """At least `size` uninitialised bytes; the same block for every call with that name."""
        block = self._blocks.get(name)
        if block is None or block.nbytes < size:
            self._blocks.pop(name, None)
            del block
            block = self._blocks[name] = _allocate(size)
        return block

    def keep(self, most: int) -> None:
        """Let everything go, unless it is no more than `most` bytes."""
        if self.nbytes > most:
            self._blocks.clear()


def _allocate(size: int) -> np.ndarray:
    if size < _MAPPED:
        return np.empty(size, np.uint8)
    try:
        # Private: the default is to share it with forked children, who inherit the arena.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        return np.frombuffer(mmap.mmap(-1, size, flags), np.uint8)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes for a region's buffer: {error.strerror}") from None
