"""How much memory a job may use: what was asked for, or what the system allows."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from hyperslab import control_groups
from hyperslab.units import human_bytes

__all__ = ["WORKER_BYTES", "Budget", "budget", "group_limit", "is_memory"]

WORKER_BYTES = 60 * 10**6
"""What an idle worker takes by itself: the interpreter, NumPy and the machine-code loader."""

_SHARE = 0.8
"""Part of the system's free memory a job may plan with; the rest is for the page cache,
through which all file data moves, and for everybody else."""


_NAMES = {
    1: (
        *("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("total_active_file", "total_inactive_file"),
    ),
    2: ("memory.max", "memory.current", ("active_file", "inactive_file")),
}
"""By the version of control groups the names of limit and usage, and of the entries of
``memory.stat`` that make up the page cache. Not "file" and "total_cache": those count tmpfs and
shared memory too, which cannot be given back."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on the private memory of all workers of a job together."""

    limit: int
    """Bytes."""

    source: str
    """Where the limit comes from, in words for a message."""


def budget(memory: int | None, workers: int, root: Path = Path("/")) -> Budget:
    """The memory budget of a job.

    A budget the user gave counts what jobs allocate; from what the system has free, the idle
    workers are taken off first.

    Parameters
    ----------
    memory : int or None
        Bytes the user allows; None for what the system allows: the smaller of free RAM and
        what the control group (cgroup v1 or v2) leaves.
    workers : int
        Number of worker processes.
    root : Path
        Root of the file system, for tests.
    """
    if memory is not None:
        return Budget(memory, f"memory={human_bytes(memory)}")
    free, source = _system_free(root, int(time.monotonic()))
    allowed = max(int(free * _SHARE) - workers * WORKER_BYTES, 0)
    return Budget(allowed, f"{_SHARE:.0%} of {source}, {human_bytes(free)}, less idle workers")


def _of_system(what: str) -> int:
    """Bytes of the system's memory, by the kernel's name for them.

    Read here and not by psutil, which takes longer to import than a small job to run.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/meminfo does not tell {what}")


def group_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the control group lets this process have in all; None: all there are."""
    limit = min((limit for limit, _ in _groups(root, int(time.monotonic()))), default=None)
    return None if limit is None or limit >= _of_system("MemTotal") else limit


@functools.lru_cache(maxsize=16)
def is_memory(directory: str) -> bool:
    """Whether files there take memory and no disk (tmpfs, ramfs)."""
    with contextlib.suppress(OSError):
        device = os.stat(directory).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == number:
                return rest.split()[0] in ("tmpfs", "ramfs")
    return False


@functools.lru_cache(maxsize=4)
def _system_free(root: Path, second: int) -> tuple[int, str]:
    """Bytes free, and which limit says so; looked up once a second.

    Reading it takes a millisecond, as long as launching a small job on warm workers.
    """
    free, source = _of_system("MemAvailable"), "free RAM"
    group = min((left for _, left in _groups(root, second)), default=None)
    if group is not None and group < free:
        free, source = group, "the control group's limit (cgroup)"
    return free, source


@functools.lru_cache(maxsize=4)
def _groups(root: Path, second: int) -> tuple[tuple[int, int], ...]:
    """Of each of this process's control groups that has a limit, that and the bytes it leaves.

    Page cache counts as free. Looked up once a second, too.
    """
    found: list[tuple[int, int]] = []
    for directory, version in control_groups.directories("memory", root):
        limit_name, usage_name, cache_keys = _NAMES[version]
        with contextlib.suppress(OSError, ValueError):
            limit_text = (directory / limit_name).read_text().strip()
            # v2 says "max" for no limit, v1 a number near 2**63.
            if limit_text == "max" or (limit := int(limit_text)) > 2**60:
                continue
            usage = cache = 0
            with contextlib.suppress(OSError, ValueError):
                usage = int((directory / usage_name).read_text())
                # File pages count against the group, but are given back when memory is short.
                for line in (directory / "memory.stat").read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key in cache_keys:
                        cache += int(value)
            found.append((limit, max(limit - max(usage - cache, 0), 0)))
    return tuple(found)
