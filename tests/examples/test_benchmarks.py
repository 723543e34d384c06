"""The benchmark program, as far as it can be tested without measuring: it runs, and cleans up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "run.py"
SMALL = ("--scale", "0.004", "--rounds", "2", "--contenders", "hyperslab,prange,numpy")


def start(scratch: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *SMALL, "--scratch", str(scratch), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_prints_a_page_and_leaves_nothing(tmp_path):
    program = start(tmp_path, "--parts", "warm", "--workloads", "mean,elementwise")
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert "# Benchmarks" in out and "| mean, axis 0 |" in out and "## Memory" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_leaves_nothing(tmp_path, number):
    program = start(tmp_path, "--parts", "warm", "--rounds", "100000", "--workloads", "mean")
    assert program.stdout is not None
    assert program.stdout.readline().startswith("mean")
    children = psutil.Process(program.pid).children(recursive=True)
    assert children
    program.send_signal(number)
    _, err = program.communicate(timeout=60)
    assert program.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert "resource_tracker" not in err
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if child.is_running()]
