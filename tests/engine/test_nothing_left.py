"""Nothing outlives a program: no process, scratch file, lock directory or semaphore."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import Program, semaphores


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def _start(*arguments: object, stdin: str | None = None) -> Program:
        started.append(Program(tmp_path, *arguments, stdin=stdin))
        return started[-1]

    yield _start
    for program in started:
        program.kill()


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("default_engine", 0, ""),
        ("shared", 0, ""),
        ("footprint", 0, ""),
        ("forked", 0, ""),
        ("foreign_processes", 0, ""),
        ("abandoned_engine", 0, ""),
        ("kernel_error", 3, ""),
        ("uncaught_kernel_error", 1, "hyperslab.KernelError"),
        ("plan_error", 1, "hyperslab.PlanError"),
    ],
)
def test_after_a_program_of_any_outcome(start, how, status, words):
    program = start("whole_life.py", how)
    returned, _, err = program.end()
    assert returned == status, err
    assert words in err
    assert "Warning" not in err
    program.assert_nothing_left()


def test_after_a_program_with_two_scratch_directories(start):
    program = start("whole_life.py", "two_sessions")
    returned, _, err = program.end()
    assert returned == 0, err
    program.assert_nothing_left()


@pytest.mark.parametrize("privilege", ["write", "shared", "footprint"])
def test_after_a_coordinator_killed_in_mid_job(start, privilege):
    program = start("long_job.py", "loky", privilege)
    program.wait_running()
    program.signal(signal.SIGKILL)
    program.process.wait()
    program.assert_nothing_left(seconds=2.0)


@pytest.mark.parametrize("to", ["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_after_a_coordinator_terminated_as_batch_systems_and_terminals_do(start, number, to):
    program = start("long_job.py", "loky", "shared")
    program.wait_running()
    program.signal(number) if to == "alone" else program.signal_group(number)
    assert program.process.wait(10) == -number
    program.assert_nothing_left(seconds=2.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_coordinator_killed_while_idle(start, number):
    program = start("whole_life.py", "idle")
    assert program.line() == "idle"
    program.signal(number)
    program.process.wait()
    program.assert_nothing_left(seconds=2.0)


def test_what_was_killed_with_all_its_workers_is_swept_by_the_next_program(start):
    program = start("long_job.py", "loky", "shared")
    program.wait_running()
    program.signal_group(signal.SIGKILL)
    program.process.wait()
    assert list(program.scratch.glob("hyperslab-session-*"))
    following = start("whole_life.py", "shared")
    assert following.end()[0] == 0
    assert semaphores(program.pid) == []
    following.assert_nothing_left()


BARE = """
import numpy as np
import hyperslab as hs

@hs.kernel
def double(values, out):
    for i in range(values.shape[0]):
        out[i] = 2 * values[i]

values = hs.from_array(np.arange(100_000.0))
out = hs.create("bare.npy", values.shape, overwrite=True)
print(hs.run(double, values, hs.write(out)).regions)
"""


@pytest.mark.parametrize("way", ["file", "module", "command", "stdin"])
def test_a_script_without_a_guard_runs_once_however_it_is_started(start, tmp_path, way):
    (tmp_path / "bare_script.py").write_text(BARE)
    program = {
        "file": lambda: start(str(tmp_path / "bare_script.py")),
        "module": lambda: start("-m", "bare_script"),
        "command": lambda: start("-c", BARE),
        "stdin": lambda: start("-", stdin=BARE),
    }[way]()
    returned, out, err = program.end()
    assert returned == 0, err
    assert len(out.splitlines()) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "bare.npy"), 2 * np.arange(100_000.0))
    program.assert_nothing_left()
