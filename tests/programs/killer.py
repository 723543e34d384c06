"""A thread that kills workers of an engine at random instants, in every way they can go."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hyperslab as hs
from hyperslab_workers.board import RUNNING, WRITING
from hyperslab_workers.resident import ASIDE, TOKEN, aside_path
from hyperslab_workers.task import write_aside

__all__ = ["KINDS", "Killer", "Leave", "children", "leave"]

KINDS = (
    "SIGKILL",
    "SIGSEGV",
    "SIGBUS",
    "SIGTERM",
    "stopped, SIGKILL",
    "exit",
    "at birth",
    "stopped for a while",
)

BUSY = ((RUNNING, WRITING), (RUNNING, WRITING), (WRITING,))
"""What most of them are doing when they are killed: a kernel or, a third of them, a write."""

_IN_A_ROW = 3
"""Deaths between two jobs that end: five workers in a row that die before they have begun anything
are rightly taken to be unable to start."""

_tickets = iter(range(2**40, 2**41))


class Leave:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


def leave(engine: hs.Engine, worker: int = 0) -> None:
    """Have a worker leave by itself when it comes to it."""
    pool, ticket = engine._staff.pool, next(_tickets)
    write_aside(Leave(), aside_path(pool.directory, ticket, "task"))
    os.write(pool.staff[worker].pipe, TOKEN.pack(ticket, 0, 0, 0, 0, 0, -1, -1, 0, ASIDE))


def children() -> list[int]:
    """The workers of this process, those that are just starting too."""
    found = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in listing.read_text().split()}
    return sorted(pid for pid in found if _is_worker(pid))


def _is_worker(pid: int) -> bool:
    # A zombie has no command line.
    with contextlib.suppress(OSError):
        return b"popen_loky_posix" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Killer(threading.Thread):
    """Kills so many workers, or until it is told that it is over."""

    def __init__(self, engine: hs.Engine, wanted: int, seed: int, pause: float = 0.15) -> None:
        super().__init__(name="killer", daemon=True)
        self.kills: Counter[str] = Counter()
        self.over = threading.Event()
        self.patience = 0
        """Deaths since a job has ended."""
        self._engine = engine
        self._wanted = wanted
        self._random = random.Random(seed)
        self._pause = pause

    @property
    def total(self) -> int:
        """Deaths so far."""
        return sum(self.kills.values()) - self.kills["stopped for a while"]

    def run(self) -> None:
        """Kill."""
        while self.total < self._wanted and not self.over.is_set():
            time.sleep(min(self._random.expovariate(1 / self._pause), 4 * self._pause))
            if self.patience >= _IN_A_ROW:
                continue
            kind = self._random.choice(KINDS)
            with self._victim(newborn=kind == "at birth") as pidfd:
                if pidfd is not None and self._end(kind, pidfd):
                    self.kills[kind] += 1
                    self.patience += kind != "stopped for a while"

    @contextlib.contextmanager
    def _victim(self, newborn: bool) -> Iterator[int | None]:
        pids = children()
        if not newborn and self._random.random() < 0.7:
            pids = self._at_work(self._random.choice(BUSY)) or pids
        if newborn:
            known, until = set(pids), time.monotonic() + 1.0
            while not (pids := [p for p in children() if p not in known]):
                if time.monotonic() > until or self.over.is_set():
                    break
                time.sleep(0.001)
        if not pids:
            yield None
            return
        pid = self._random.choice(pids)
        if not pid:
            yield None  # It has not signed yet.
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Its number may have become somebody else's in between.
            yield pidfd if _is_worker(pid) else None
        finally:
            os.close(pidfd)

    def _at_work(self, states: tuple[int, ...]) -> list[int]:
        """A worker that has just come to such a state, if one does soon."""
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            for row in self._engine._staff.pool.board.rows:
                if row.mark().state in states:
                    return [row.pid]
        return []

    def _end(self, kind: str, pidfd: int) -> bool:
        """Whether it was done."""

        def send(number: int) -> None:
            signal.pidfd_send_signal(pidfd, number)

        try:
            if kind.startswith("stopped"):
                send(signal.SIGSTOP)
                time.sleep(self._random.uniform(0.01, 0.3))
                send(signal.SIGKILL if kind.endswith("SIGKILL") else signal.SIGCONT)
            elif kind == "exit":
                return self._leave()
            elif kind == "at birth":
                time.sleep(self._random.choice([0.0, self._random.uniform(0.0, 0.3)]))
                send(signal.SIGKILL)
            else:
                send(signal.Signals[kind])
        except ProcessLookupError:
            return False
        return True

    def _leave(self) -> bool:
        number = self._random.randrange(len(self._engine._staff.pool.staff))
        # Another thread may be about to replace it.
        with self._engine._staff.pool.lock:
            fd = os.dup(self._engine._staff.pool.staff[number].pidfd)
            leave(self._engine, number)
        try:
            return _within(2.0, lambda: bool(select.select([fd], [], [], 0.1)[0]))
        finally:
            os.close(fd)


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
    return True
