"""In every kind of process, with every kind of executor, whatever becomes of the job:

an answer or a clear error, an end within a bounded time, and nothing left behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Program, running, wait_until

ROUNDS = int(os.environ.get("PLACES_ROUNDS", "1"))
"""How often each is tried; from the second time on, Ctrl-C comes a little later each time."""

EXECUTORS = ["loky", "serial", "threads", "auto", "short"]
"""With "auto" the first two run in threads of the program and the third in workers; "short" leaves
the third to threads as well."""

PLACES = {
    "main": None,
    "thread": None,
    "fork": None,
    "bare_fork": None,
    "spawn": None,
    "forkserver": None,
    "pool": None,
    "at_exit": None,
    "daemon": None,
    "dask": "dask",
    "distributed": "distributed",
    "notebook": "ipykernel",
}
"""With what has to be installed."""

REFUSED = {
    # Where processes are forbidden.
    ("pool", "loky"): "HyperslabError: this is a daemonic process",
    ("distributed", "loky"): "HyperslabError: this is a daemonic process",
    # Python ends the program's own executors before it runs exit handlers.
    ("at_exit", "threads"): "HyperslabError: the executor takes no more tasks",
}

REFUSED_AT_LAST = {
    ("pool", "auto"): "HyperslabError: this is a daemonic process",
    ("distributed", "auto"): "HyperslabError: this is a daemonic process",
}
"""The job that is not short needs workers."""

# What others print who did not expect an end, or find something left.
COMPLAINTS = ("can only join", "can only test", "leaked", "Exception ignored", "ResourceWarning")


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    # Not tmp_path, which is too long for the socket of a fork server.
    with tempfile.TemporaryDirectory(prefix="at-", ignore_cleanup_errors=True) as directory:
        started: list[Program] = []

        def _start(*arguments: object) -> Program:
            started.append(Program(Path(directory), "places.py", *arguments))
            return started[-1]

        yield _start
        for program in started:
            program.kill()


def answers(program: Program) -> list[str]:
    with contextlib.suppress(OSError):
        return (program.scratch.parent / "answers").read_text().splitlines()
    return []


def interrupt(program: Program, place: str) -> None:
    """Ctrl-C, as it comes in that place."""
    pid = int(answers(program)[0])
    if place in ("daemon", "bare_fork", "pool"):
        os.kill(pid, signal.SIGINT)
    elif place in ("fork", "spawn", "forkserver", "dask", "distributed"):
        program.signal_group(signal.SIGINT)
    else:
        program.signal(signal.SIGINT)


def expected(place: str, executor: str) -> list[str]:
    """How what becomes of the three begins."""
    if (place, executor) in REFUSED:
        return [REFUSED[place, executor]] * 3
    three = ["right", "KernelError: kernel spin raised ValueError", "JobInterrupted: "]
    if (place, executor) in REFUSED_AT_LAST:
        return [*three[:2], REFUSED_AT_LAST[place, executor]]
    # Its worker performs jobs in daemon threads, which end where they are.
    return three[:2] if place == "distributed" else three


@pytest.mark.parametrize("again", range(ROUNDS))
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("place", PLACES)
def test_an_answer_a_kernel_error_and_ctrl_c(start, place, executor, again):
    needed = PLACES[place]
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    program, wanted = start(place, executor), expected(place, executor)
    if (place, executor) not in (REFUSED | REFUSED_AT_LAST):
        # Under way: what is interrupted before a job begins is a KeyboardInterrupt as any.
        wait_until(
            lambda: (
                len(answers(program)) == 3
                and (executor == "short" or any(r >= 8 for _, r in running(program.scratch)))
            ),
            "the third job",
            60,
        )
        if executor == "short":
            time.sleep(0.5)  # No file tells how far it is.
        if place == "thread":
            wait_until((program.scratch.parent / "ended").exists, "the main program ends")
            time.sleep(0.2)
        time.sleep(random.Random(again).uniform(0.0, 0.2) if again else 0.0)
        interrupt(program, place)
    began = time.monotonic()
    wait_until(lambda: len(answers(program)) == 1 + len(wanted), "what became of the three", 30)
    _, _, err = program.end(20)
    assert time.monotonic() - began < 30
    _, *three = answers(program)
    assert all(map(str.startswith, three, wanted)), "\n".join(three)
    assert not [words for words in COMPLAINTS if words in err], err
    shutil.rmtree(program.scratch / "dask-scratch-space", ignore_errors=True)  # dask's own.
    program.assert_nothing_left(5.0)
