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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = [
    "Cost",
    "Measurement",
    "Steps",
    "make_sure_of_memory",
    "median_cost",
    "median_of",
    "run_measured",
]

_PERIOD = 0.01
_LOOK_FOR_CHILDREN = 0.1

_GIVEN_BACK = 2.2
"""Seconds after which Linux has given memory back to the host that was freed before."""

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
        steps=tuple(median_cost(column) for column in columns),
        whole=median_cost([m.whole for m in rounds]),
        outside=statistics.median(m.outside for m in rounds),
    )


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Several costs of one step in one: the median time, the largest memory."""
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
    room : mapping, optional
        Bytes of memory to make sure of before a step of that name.

    Examples
    --------
    >>> steps = Steps(Path("."))
    >>> with steps("counting"):
    ...     total = sum(range(1000))
    >>> [name for name, began, ended in steps.times]
    ['counting']
    """

    def __init__(self, out: Path, room: Mapping[str, int] | None = None) -> None:
        self._out = out
        self._room = room or {}
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
        make_sure_of_memory(self._room.get(name, 0), self._out)
        began = time.monotonic()
        self.paused += began - arrived
        yield
        self.times.append((name, began, time.monotonic()))

    def save(self, path: Path) -> None:
        """Leave the times for the parent."""
        path.write_text(json.dumps({"steps": self.times, "paused": self.paused}))


def make_sure_of_memory(size: int, directory: Path) -> None:
    """Have so much free memory really be there.

    A virtual machine gives free memory back to its host, and every page has to be fetched again at
    its first use: four to ten times slower than to write into one that is there, for whoever
    happens to be next. Memory that was just in use is there: that of a file which is removed before
    the system begins to write it to the disk.
    """
    size = min(size, psutil.virtual_memory().available // 2)
    if size < _NOTICEABLE:
        return
    path = directory / f"room-{os.getpid()}"
    try:
        with path.open("wb", buffering=0) as file:
            block = bytes(2**20)
            for _ in range(size // len(block)):
                file.write(block)
        # What was freed earlier goes back to the host about two seconds later, and then nothing
        # does for the next two, which are the measured step's.
        time.sleep(_GIVEN_BACK)
    finally:
        path.unlink(missing_ok=True)


def run_measured(
    command: Sequence[str], times: Path, variables: Mapping[str, str] | None = None
) -> Measurement:
    """Run a program that saves its :class:`Steps` to `times`, and measure it.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    times : Path
        The file it leaves.
    variables : mapping, optional
        Variables of the environment, besides those that there are.

    Raises
    ------
    SystemExit
        The program failed; the message holds what it wrote to its standard error.
    """
    began = time.monotonic()
    environment = {**os.environ, **(variables or {})}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as program:
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
