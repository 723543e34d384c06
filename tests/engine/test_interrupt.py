"""Ctrl-C: the job ends within about a second, as itself, and nothing is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Program, wait_until, workers_of

SOON = 2.0
"""Seconds; a second is the aim, and the machine may have much else to do."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def _start(*arguments: object) -> Program:
        started.append(Program(tmp_path, *arguments))
        return started[-1]

    yield _start
    for program in started:
        program.kill()


def interrupt(program: Program, to: str) -> None:
    if to == "group":
        program.signal_group(signal.SIGINT)  # what a terminal does
    else:
        program.signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("executor", "privilege", "to"),
    [
        ("loky", "write", "group"),
        ("loky", "private", "alone"),
        ("loky", "footprint", "group"),
        ("loky", "shared", "alone"),
        ("threads", "update", "group"),
        ("serial", "write", "alone"),
    ],
)
def test_ctrl_c_in_mid_job(start, executor, privilege, to):
    program = start("long_job.py", executor, privilege)
    program.wait_running()
    began = time.monotonic()
    interrupt(program, to)
    returned, out, err = program.end()
    assert time.monotonic() - began < SOON
    # A process that Ctrl-C ended, so that a shell's loop over scripts ends too.
    assert returned == -signal.SIGINT
    assert "interrupted: kernel spin was interrupted after" in out
    assert "of 64 regions" in out
    assert err.rstrip().splitlines()[-1].startswith("hyperslab.JobInterrupted")
    assert err.count("Traceback") == 1
    program.assert_nothing_left()


@pytest.mark.parametrize("executor", ["loky", "threads", "serial"])
def test_a_second_job_after_an_interrupted_one(start, executor):
    program = start("long_job.py", executor, "update", "again")
    program.wait_running()
    interrupt(program, "group")
    returned, out, err = program.end()
    assert returned == 0, err
    assert out.splitlines()[-1] == f"second job: {64 * 32768.0}"
    program.assert_nothing_left()


def test_ctrl_c_pressed_again_and_again(start):
    program = start("long_job.py", "loky", "update")
    program.wait_running()
    for _ in range(10):
        interrupt(program, "group")
        time.sleep(0.01)
        if program.process.poll() is not None:
            break
    returned, _, err = program.end()
    assert returned in (-signal.SIGINT, 1), err
    program.assert_nothing_left()


def test_ctrl_c_while_the_kernel_compiles(start):
    program = start("whole_life.py", "compiling")
    assert program.line() == "compiling"
    wait_until(lambda: workers_of(program.pid), "workers start")
    time.sleep(0.3)
    interrupt(program, "group")
    returned, _, err = program.end()
    assert returned == -signal.SIGINT, err
    assert "interrupted before its first region" in err
    program.assert_nothing_left()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.15, 0.4])
def test_ctrl_c_while_workers_start(start, delay):
    program = start("long_job.py", "loky", "write")
    assert program.line() == "started"
    time.sleep(delay)
    interrupt(program, "group")
    returned, out, err = program.end()
    assert returned == -signal.SIGINT, err
    assert "KeyboardInterrupt" in err or "interrupted: " in out
    assert "popen_loky" not in err
    program.assert_nothing_left()
