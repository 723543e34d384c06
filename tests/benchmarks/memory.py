"""Memory of a family of processes, and the page cache of files.

Two sums over all processes. *Private* memory is what they allocated (RssAnon): it is taken
from everybody else. *Resident* memory (VmRSS) counts mapped pages of files too, once for every
process that maps them, although the system holds them once and takes them back when memory is
short.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Peak", "Watch", "cached_share", "evict", "provide", "warm"]

_PERIOD = 0.01
_CACHESTAT = 451

_RETURNED = 2.2
"""Seconds after which Linux has given back to the host what was freed before."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that was seen, in bytes."""

    private: int
    """Allocated by all processes together."""

    resident: int
    """Resident in all processes together, mapped files included."""


class Watch:
    """Samples the memory of a process and its descendants while its block runs."""

    def __init__(self, pid: int) -> None:
        self._root = pid
        self._over = threading.Event()
        self._private = self._resident = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak(self) -> Peak:
        """The most that was seen."""
        return Peak(self._private, self._resident)

    def _sample(self) -> None:
        while not self._over.is_set():
            pids = [self._root]
            with contextlib.suppress(psutil.Error):
                pids += [p.pid for p in psutil.Process(self._root).children(recursive=True)]
            found = [_status(pid) for pid in pids]
            self._private = max(self._private, sum(private for private, _ in found))
            self._resident = max(self._resident, sum(resident for _, resident in found))
            self._over.wait(_PERIOD)


def _status(pid: int) -> tuple[int, int]:
    """Private and resident bytes of a process; zeros where it is gone."""
    found = {"RssAnon": 0, "VmRSS": 0}
    # Not smaps: it walks every page, and holds the program up meanwhile.
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found["RssAnon"], found["VmRSS"]


def warm(path: str) -> None:
    """Read a file, so that all of it is in the page cache."""
    buffer = mmap.mmap(-1, 2**23)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def evict(path: str) -> None:
    """Have the system forget a file's pages; those that somebody has mapped stay."""
    fd = os.open(path, os.O_RDONLY)
    try:
        # What has not been written yet cannot be dropped.
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def provide(directory: Path, size: int) -> None:
    """Make sure that free memory for a new file of that size really is there.

    A virtual machine may give free memory back to its host, and every page then has to be
    fetched again at its first use: eight times slower than to write into pages that are there,
    for whoever happens to be next. So a file of that size is written, and removed just before
    it is somebody's turn. Its pages, in the large blocks that files get, are the next to be
    used. Anonymous memory was rejected: its small blocks were not the ones used next.
    """
    path = directory / f"provide-{os.urandom(4).hex()}"
    try:
        with open(path, "wb", buffering=0) as file:
            block = bytes(2**20)
            for first in range(0, size, len(block)):
                file.write(block[: size - first])
        # Linux looks for memory to give back some two seconds after some was freed. What was
        # freed before is gone by then, and the next two seconds belong to whoever's turn it is.
        time.sleep(_RETURNED)
    finally:
        path.unlink(missing_ok=True)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Statistics(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_share(path: str) -> float | None:
    """How much of a file is in the page cache, 0 to 1; None where the kernel cannot say.

    By ``cachestat`` (Linux 6.5). ``mincore`` was rejected: the map it needs would itself keep
    pages from being evicted.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        found = _Statistics()
        call = ctypes.CDLL(None, use_errno=True).syscall
        status = call(_CACHESTAT, fd, ctypes.byref(_Range(0, size)), ctypes.byref(found), 0)
        return None if status else found.cached * mmap.PAGESIZE / size
    finally:
        os.close(fd)
