"""The messages: what they weigh, and that a job is read as it was written."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from strategies import access, virtual

from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import KernelRef
from hyperslab_workers.task import Failure, Job, Origin, Outcome, Partial, Task, Value


def make_job(**changes):
    array = virtual((2048, 361, 720))
    described = {
        "kernel": KernelRef("/scratch/kernel", "0" * 64, "anomaly"),
        "arguments": (access(array), Value("factor", 1.5), Value("w", np.eye(3)), Origin("at")),
        "grid": Grid(array.shape, (8, 361, 720)),
        "leaf": 1,
        "buffer_orders": ("C",) * 4,
        "board": "/scratch/board",
        "scratch": "/scratch",
        "lock_dir": None,
        "lock_timeout": 2.5,
        "ordered": False,
    }
    return Job(**described | changes)


def test_a_job_is_read_as_it_was_written(tmp_path):
    job = make_job()
    path = str(tmp_path / "job")
    job.dump(path)
    back = Job.load(path)
    np.testing.assert_array_equal(back.arguments[2].value, job.arguments[2].value)
    assert back.arguments[:2] == job.arguments[:2]
    assert (back.kernel, back.grid, back.lock_timeout) == (job.kernel, job.grid, 2.5)


def test_a_job_appears_complete_or_not_at_all(tmp_path):
    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        make_job(arguments=(Value("bad", Unpicklable()),)).dump(str(tmp_path / "job"))
    assert not (tmp_path / "job").exists()


def test_a_job_written_leaves_no_second_file(tmp_path):
    make_job().dump(str(tmp_path / "job"))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["job"]


def test_a_task_is_under_4_kb_whatever_its_regions():
    far = 2**61
    boxes = tuple((Box((far,) * 4, (far + 1000,) * 4),) for _ in range(16))
    task = Task("/scratch/" + "x" * 200, far, far, far + 16, 3, boxes)
    packed = pickle.dumps(task, protocol=5)
    assert len(packed) < 4096
    assert pickle.loads(packed) == task
    plain = Task("/scratch/job", far, far, far + 10**6, 3)
    assert len(pickle.dumps(plain, protocol=5)) < 300


def test_an_outcome_brings_back_failure_and_partials():
    outcome = Outcome(
        index=4,
        started=1.0,
        seconds=0.5,
        pid=77,
        regions=2,
        partials=(Partial(1, b"\0" * 8, None), Partial(2, None, "/scratch/partial-4-2")),
        failure=Failure("kernel", "division by zero", 9, "ZeroDivisionError", "line 3"),
    )
    assert pickle.loads(pickle.dumps(outcome)) == outcome
