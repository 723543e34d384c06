"""Helpers of the tests that start, watch and kill real processes.

Everything a program under test may leave behind is under one directory of the test's own, or
carries its name: scratch files and lock directories through its environment, processes by
that same environment, semaphores by its process number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from hyperslab_workers.board import RUNNING, WRITING, Board

PROGRAMS = Path(__file__).parent


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Wait for something that happens in another process or thread."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.002)


def boards(scratch: Path) -> list[Board]:
    """The boards of all pools, and of all runs on other executors, with that scratch."""
    found = []
    paths = [
        *scratch.glob("hyperslab-session-*/pool-*/board"),
        *scratch.glob("hyperslab-session-*/board-*"),
    ]
    for path in paths:
        # It may be just made, or just removed.
        with contextlib.suppress(OSError, ValueError):
            found.append(Board(str(path)))
    return found


def running(scratch: Path) -> list[tuple[int, int]]:
    """Worker and region of every task at work."""
    rows = []
    for board in boards(scratch):
        for row in board.rows:
            mark = row.mark()
            if mark.state in (RUNNING, WRITING):
                rows.append((row.pid, mark.region))
    return rows


def workers_of(pid: int) -> list[int]:
    """The living loky workers of a process."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if (
                any("popen_loky_posix" in word for word in child.cmdline())
                and child.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(child.pid)
    return found


def semaphores(pid: int) -> list[str]:
    """Named semaphores that process `pid` made."""
    return sorted(path.name for path in Path("/dev/shm").glob(f"sem.*-{pid}-*"))


class Program:
    """A Python program in a process group of its own, and all that it may leave behind."""

    def __init__(
        self,
        directory: Path,
        *arguments: object,
        stdin: str | None = None,
        wait: bool = False,
    ) -> None:
        self.scratch = directory / "scratch"
        self.locks = directory / "locks"
        self.other = self.scratch / "other"
        self.other.mkdir(parents=True, exist_ok=True)
        words = [str(a) for a in arguments]
        if words and words[0].endswith(".py"):
            words[0] = str(PROGRAMS / words[0])
        self._tag = f"CHAOS={directory}/{time.monotonic_ns()}"
        name, _, value = self._tag.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd=directory,
            env={
                **os.environ,
                name: value,
                # Entries may be relative, and the program runs elsewhere.
                "PYTHONPATH": os.pathsep.join(
                    os.path.abspath(entry)
                    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)
                    if entry
                ),
                "TMPDIR": str(self.scratch),
                "HYPERSLAB_LOCK_DIR": str(self.locks),
                "HYPERSLAB_WORKERS": "2",
                "HYPERSLAB_PROGRESS": "0",
                "PYTHONWARNINGS": "error",
                "PYTHONFAULTHANDLER": "1",
            },
            stdin=subprocess.PIPE if stdin is not None or wait else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        if stdin is not None:
            self.process.stdin.write(stdin)
            self.process.stdin.close()
            self.process.stdin = None

    def line(self) -> str:
        """The next line that it prints."""
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Let a program go on that waits for a line."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_running(self) -> None:
        """Wait until a kernel is at work in it."""
        wait_until(
            lambda: running(self.scratch) or self.process.poll() is not None, "a task begins"
        )
        assert self.process.poll() is None, self.end()[2]

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the program and all that it started, as a terminal does."""
        os.killpg(self.pid, number)

    def end(self, seconds: float = 40.0) -> tuple[int, str, str]:
        """Exit status, output and error output, once it has ended."""
        # Not communicate(): orphans may hold the pipes open, which is for other checks to find.
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            # Shows where it stands.
            self.signal(signal.SIGABRT)
            out, err = self.process.communicate(timeout=10)
            raise AssertionError(f"still running after {seconds} s:\n{out}\n{err}") from None
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err

    def processes(self) -> list[str]:
        """Everything alive that this program started, itself included."""
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    if self._tag.encode() in (directory / "environ").read_bytes():
                        command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                        found.append(f"{directory.name}: {command.decode()[:150]}")
        return found

    def leftovers(self) -> list[str]:
        """Processes, scratch files, lock directories and semaphores that are still there."""
        return [
            *self.processes(),
            *self._scratch_files(),
            *(str(path) for path in (self.locks.iterdir() if self.locks.exists() else ())),
            *semaphores(self.pid),
        ]

    def _scratch_files(self) -> list[str]:
        # Not by glob, which stumbles over a directory that goes away meanwhile.
        return [
            os.path.join(directory, name)
            for directory, directories, files in os.walk(self.scratch)
            for name in directories + files
            if os.path.join(directory, name) != str(self.other)
        ]

    def assert_nothing_left(self, seconds: float = 2.0) -> None:
        """Check that within that time nothing is left."""
        deadline = time.monotonic() + seconds
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left, left

    def kill(self) -> None:
        """End whatever is left of it, so that a failed test leaves nothing."""
        for entry in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.split(":")[0]), signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
