"""Time and memory of a program with several steps, watched from outside.

The program notes when each step began and ended; its parent samples the memory of it and of
all its children meanwhile. Both read one clock, the system's monotonic one.

Memory comes in two sums over all processes. *Private* memory is what the program allocated
(RssAnon): it is taken from everybody else. *Resident* memory (VmRSS) counts mapped pages of
files too, once for every process that maps them, although the system holds them once and
takes them back when memory is short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Cost", "Measurement", "Steps", "median_of", "run_measured"]

_PERIOD = 0.01
_LOOK_FOR_CHILDREN = 0.1

_NOTICEABLE = 10**8
"""Bytes of a file that the disk takes so long to write that others notice."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step cost."""

    name: str
    """The step."""

    seconds: float
    """How long it took."""

    private: int
    """Peak private memory of all processes together, in bytes."""

    resident: int
    """Peak resident memory of all processes together, in bytes."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a program cost."""

    steps: tuple[Cost, ...]
    """Its steps."""

    whole: Cost
    """All of it, from its start to its end."""

    outside: float
    """Seconds of the whole outside the steps: imports, loading, leaving."""


def median_of(rounds: Sequence[Measurement]) -> Measurement:
    """Several measurements of one program in one: median times, largest memory."""
    columns = zip(*(m.steps for m in rounds), strict=True)
    return Measurement(
        steps=tuple(_median(column) for column in columns),
        whole=_median([m.whole for m in rounds]),
        outside=statistics.median(m.outside for m in rounds),
    )


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        costs[0].name,
        statistics.median(cost.seconds for cost in costs),
        private=max(cost.private for cost in costs),
        resident=max(cost.resident for cost in costs),
    )


class Steps:
    """The stopwatch inside the measured program.

    Parameters
    ----------
    out : Path
        The directory that the program writes to.

    Examples
    --------
    >>> steps = Steps(Path("."))
    >>> with steps("counting"):
    ...     total = sum(range(1000))
    >>> [name for name, began, ended in steps.times]
    ['counting']
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.times: list[tuple[str, float, float]] = []
        self.paused = 0.0

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        # The system takes what a program writes into memory until too much of it waits for the
        # disk. A step must not pay for what an earlier one left there, so the disk is given the
        # time to catch up, and that time is not counted. (Not os.sync(), which waits for what all
        # other programs write, too.)
        arrived = time.monotonic()
        for file in self._out.glob("*.npy"):
            if file.stat().st_size >= _NOTICEABLE:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        began = time.monotonic()
        self.paused += began - arrived
        yield
        self.times.append((name, began, time.monotonic()))

    def save(self, path: Path) -> None:
        """Leave the times for the parent."""
        path.write_text(json.dumps({"steps": self.times, "paused": self.paused}))


def run_measured(command: Sequence[str], times: Path) -> Measurement:
    """Run a program that saves its :class:`Steps` to `times`, and measure it.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    times : Path
        The file it leaves.

    Raises
    ------
    SystemExit
        The program failed; the message holds what it wrote to its standard error.
    """
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        watch = _Watch(program.pid)
        try:
            _, messages = program.communicate()
        except BaseException:
            program.terminate()
            raise
        finally:
            watch.stop()
    ended = time.monotonic()
    if program.returncode:
        raise SystemExit(
            f"{' '.join(command)}\nended with exit code {program.returncode}:\n{messages}"
        )
    noted = json.loads(times.read_text())
    steps = tuple(watch.cost(*step) for step in noted["steps"])
    all_of_it = watch.cost("whole program", began, ended)
    whole = dataclasses.replace(all_of_it, seconds=all_of_it.seconds - noted["paused"])
    return Measurement(steps, whole, outside=whole.seconds - sum(step.seconds for step in steps))


class _Watch:
    """Samples the memory of a process and its descendants in a thread of this one."""

    def __init__(self, pid: int) -> None:
        self._root = pid
        self._samples: list[tuple[float, int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def cost(self, name: str, began: float, ended: float) -> Cost:
        # A step shorter than the period still gets the samples on either side of it.
        inside = [s for s in self._samples if began - _PERIOD <= s[0] <= ended + _PERIOD]
        if not inside:
            inside = [min(self._samples, key=lambda s: abs(s[0] - began))]
        return Cost(
            name,
            ended - began,
            private=max(private for _, private, _ in inside),
            resident=max(resident for _, _, resident in inside),
        )

    def _sample(self) -> None:
        pids, look = [self._root], 0.0
        while not self._over.is_set():
            now = time.monotonic()
            if now >= look:
                look = now + _LOOK_FOR_CHILDREN
                with contextlib.suppress(psutil.Error):
                    family = psutil.Process(self._root).children(recursive=True)
                    pids = [self._root, *(child.pid for child in family)]
            sums = [sum(column) for column in zip(*map(_memory, pids), strict=True)]
            self._samples.append((now, sums[0], sums[1]))
            self._over.wait(_PERIOD)


def _memory(pid: int) -> tuple[int, int]:
    """Private and resident bytes of a process; zeros where it is gone."""
    found = {"RssAnon": 0, "VmRSS": 0}
    # Not psutil's memory_full_info: it walks every page, and holds up the program meanwhile.
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found["RssAnon"], found["VmRSS"]
