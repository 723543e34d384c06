"""What a family of processes and its scratch files hold, above what they hold when idle.

    python held_memory.py PID DIRECTORY

watches until its input ends, and prints the largest growth in bytes. A process of its own: a
thread of the watched one would get no turn while a kernel or a merge has it.

Counted are the private pages of every process (``Anonymous`` in ``smaps_rollup``) and, where the
scratch directory lies in memory, the blocks of its files. Mapped pages of files on a disk are the
system's cache.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Held", "watched"]

_PERIOD = 0.001


class Held:
    """What was seen, once the block of :func:`watched` is over."""

    growth = 0
    """Bytes at the most, above the start."""


@contextlib.contextmanager
def watched(directory: str) -> Iterator[Held]:
    """Watch this process and its descendants, and scratch files below `directory`."""
    held = Held()
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # It has seen the idle state.
        try:
            yield held
        finally:
            process.stdin.close()
            held.growth = int(process.stdout.readline())


def _family(root: int) -> Iterator[int]:
    yield root
    for listing in Path(f"/proc/{root}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listing.read_text().split():
                if int(child) != os.getpid():
                    yield from _family(int(child))


def _anonymous(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


def _blocks(directory: str) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _in_memory(directory: str) -> bool:
    number = os.stat(directory).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[2] == name and " - tmpfs " in line for line in lines)


def _main(root: int, directory: str) -> None:
    in_memory = _in_memory(directory)

    def now() -> dict[int, int]:
        found = {pid: _anonymous(pid) for pid in _family(root)}
        if in_memory:
            found[0] = _blocks(directory)
        return found

    last = now()
    first = most = sum(last.values())
    print("ready", flush=True)
    over = False
    while not over:
        over = bool(select.select([sys.stdin], [], [], _PERIOD)[0])
        this = now()
        # Looking takes a while, in which one process may give back what another takes: what
        # counts is what each held before and after the first was looked at.
        others = sum(min(size, last.get(who, 0)) for who, size in this.items() if who != root)
        most = max(most, this[root] + others)
        last = this
    print(most - first, flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
