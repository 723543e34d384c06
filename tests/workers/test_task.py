"""The messages: what they weigh, and that a program is read as it was written."""

from __future__ import annotations

import pickle
import select
from pathlib import Path

import numpy as np
import pytest
from strategies import access, virtual

from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import KernelRef
from hyperslab_workers.resident import ANSWER, TOKEN, TOKENS_AT_ONCE
from hyperslab_workers.task import Failure, Origin, Outcome, Program, Task, Value, write_aside


def make_program(**changes):
    array = virtual((2048, 361, 720))
    described = {
        "kernel": KernelRef("/scratch/kernel", "0" * 64, "anomaly"),
        "arguments": (access(array), Value("factor", 1.5), Value("w", np.eye(3)), Origin("at")),
        "grid": Grid(array.shape, (8, 361, 720)),
        "leaf": 1,
        "buffer_orders": ("C",) * 4,
        "through_map": (False,) * 4,
        "slots": None,
        "lock_dir": None,
        "lock_timeout": 2.5,
        "ordered": False,
        "memory": 10**6,
    }
    return Program(**described | changes)


def test_a_program_is_read_as_it_was_written(tmp_path):
    program = make_program()
    path = str(tmp_path / "program")
    program.dump(path)
    back = Program.load(path)
    np.testing.assert_array_equal(back.arguments[2].value, program.arguments[2].value)
    assert back.arguments[:2] == program.arguments[:2]
    assert (back.kernel, back.grid, back.lock_timeout) == (program.kernel, program.grid, 2.5)


def test_a_program_never_takes_the_place_of_another(tmp_path):
    path = str(tmp_path / "program")
    make_program().dump(path)
    with pytest.raises(FileExistsError):
        make_program().dump(path)


def test_what_lies_aside_appears_complete_or_not_at_all(tmp_path):
    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_aside(Unpicklable(), str(tmp_path / "task-1"))
    assert not (tmp_path / "task-1").exists()
    write_aside(3, str(tmp_path / "task-2"))
    assert pickle.loads((tmp_path / "task-2").read_bytes()) == 3
    assert not Path(tmp_path / "task-2.part").exists()


def test_a_task_is_under_4_kb_whatever_its_regions():
    far = 2**61
    boxes = tuple((Box((far,) * 4, (far + 1000,) * 4),) for _ in range(16))
    task = Task("/scratch/" + "x" * 200, far, far, far + 16, 3, footprints=boxes)
    packed = pickle.dumps(task, protocol=5)
    assert len(packed) < 4096
    assert pickle.loads(packed) == task
    plain = Task("/scratch/program", far, far, far + 10**6, 3)
    assert len(pickle.dumps(plain, protocol=5)) < 300


def test_what_crosses_a_pipe_is_written_whole_or_not_at_all():
    # POSIX: writes of up to PIPE_BUF bytes are atomic.
    assert TOKENS_AT_ONCE * TOKEN.size <= select.PIPE_BUF
    from hyperslab_workers import resident
    from hyperslab_workers.board import RING

    assert resident._UNREPORTED * ANSWER.size <= select.PIPE_BUF
    assert resident._UNREPORTED < RING, "what is not reported yet must be found on the board"


def test_an_outcome_brings_back_a_failure():
    outcome = Outcome(
        started=1.0,
        seconds=0.5,
        pid=77,
        failure=Failure("kernel", "division by zero", 9, "ZeroDivisionError", "line 3", 9, True),
    )
    assert pickle.loads(pickle.dumps(outcome)) == outcome
