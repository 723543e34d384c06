"""What a measurement depends on besides the code: the machine and the versions."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

import psutil
from contender import CONTENDERS

__all__ = ["facts", "file_system", "versions", "wait_for_idle"]

_IDLE = 10.0
"""Percent of all processors below which nobody else is at work."""


def facts(directory: Path) -> dict[str, str]:
    """Processor, memory, system, and the disk below `directory`."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores used",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, {file_system(directory)}",
        "Python": platform.python_version(),
        "load at the start": f"{os.getloadavg()[0]:.1f} (1-minute average)",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(directory: Path) -> str:
    """The type of file system that holds a directory."""
    place = directory.resolve()
    # The longest mount point above it is where it lies.
    mounts = [p for p in psutil.disk_partitions(all=True) if place.is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def versions() -> dict[str, str]:
    """Versions of the contenders' packages."""
    names = sorted({name for c in CONTENDERS.values() for name in c.packages})
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "from source"


def wait_for_idle(patience: float) -> bool:
    """Wait until nobody uses the processors, for at most so many seconds; False if somebody did."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if psutil.cpu_percent(0.3) < _IDLE:
            return True
    return patience == 0
