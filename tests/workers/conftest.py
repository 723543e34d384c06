"""What the tests of the locks share: programs to run beside the test, and a lock to try."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperslab_workers.errors import LockTimeout
from hyperslab_workers.locks import Guard, StripedLock, hold_all, release_all

PROGRAMS = Path(__file__).with_name("lock_programs.py")


class Program:
    """A process of its own that runs one of lock_programs.py."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAMS, name, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        self.process.stdin.write("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Start programs; whatever still runs at the end of the test is killed."""
    started: list[Program] = []

    def _start(name: str, *arguments: object) -> Program:
        started.append(Program(name, *arguments))
        return started[-1]

    yield _start
    for program in started:
        program.process.kill()
        program.end()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "locks" / "a-1")
    release_all()


@pytest.fixture
def lock(directory: str) -> StripedLock:
    return StripedLock(directory, "data.npy", stripe_bytes=65536)


@pytest.fixture
def is_free() -> Callable[..., bool]:
    """Whether another thread of this process can have some bytes of a lock now."""
    return _is_free


def _is_free(lock: StripedLock, extent: tuple[int, int] = (0, 1), *, write: bool = True) -> bool:
    answers: list[bool] = []

    def attempt() -> None:
        try:
            with hold_all([Guard(lock, extent, exclusive=write)], timeout=0):
                answers.append(True)
        except LockTimeout:
            answers.append(False)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return answers == [True]
