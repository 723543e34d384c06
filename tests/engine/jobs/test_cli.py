"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hyperslab
from hyperslab.jobs.cli import app

KERNELS = """\
import hyperslab as hs

@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]

@hs.kernel
def fails(a, out):
    for i in range(a.shape[0]):
        if a[i] > 50:
            raise ValueError("too large")

@hs.kernel
def spin(a, out):
    for i in range(a.shape[0]):
        x = 1.0
        if a[i] > 0:
            for _ in range(2_000_000_000):
                x = x * 0.5 + 1.0
        out[i] = x
"""

SPEC = """\
version: 1
arrays:
  a: {path: a.npy}
  b: {path: "b[bold].npy", create: {like: a}}
engine: {executor: serial}
steps:
  - {kernel: "kernels.py:double", arguments: [a, {write: b}]}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job spec with all it needs."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    np.save(tmp_path / "a.npy", np.arange(100.0))
    path = tmp_path / "job.yaml"
    path.write_text(SPEC)
    return path


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def started(*arguments: object) -> subprocess.Popen[str]:
    source = "from hyperslab.jobs.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"hyperslab {hyperslab.__version__}\n")


# run


def test_run_computes_prints_a_table_and_writes_a_report(job: Path) -> None:
    report = job.parent / "report.json"
    result = call("run", job, "--report", report, "--no-progress")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(job.parent / "b[bold].npy"), 2 * np.arange(100.0))
    assert re.search(r"^ *1/1  kernels\.py:double .* 800 B +800 B ", result.stdout, re.M)
    content = json.loads(report.read_text())
    assert content["status"] == "finished" and content["error"] is None
    assert content["job"] == str(job)
    assert [step["kernel"] for step in content["steps"]] == ["kernels.py:double"]
    assert content["steps"][0]["bytes_written"] == 800
    assert sorted(p.name for p in job.parent.glob(".*")) == []


def test_a_job_that_fails_is_exit_code_1_without_a_traceback(job: Path) -> None:
    job.write_text(SPEC + '  - {kernel: "kernels.py:fails", arguments: [a, {write: b}]}\n')
    report = job.parent / "report.json"
    result = call("run", job, "--report", report)
    assert result.exit_code == 1
    assert "too large" in result.stderr and "Traceback" not in result.output
    assert f"in step 2 of 2, kernels.py:fails ({job}:8)" in result.stderr
    assert "1/2" in result.stdout
    content = json.loads(report.read_text())
    assert content["status"] == "failed" and len(content["steps"]) == 1
    assert content["error"]["type"] == "KernelError" and "step 2" in content["error"]["message"]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_mistakes_in_the_spec_are_exit_code_2_and_all_are_told(job: Path, command: str) -> None:
    job.write_text(SPEC.replace("a.npy", "none.npy").replace("double", "duoble"))
    result = call(command, job)
    assert result.exit_code == 2
    assert f"{job}:3: arrays.a.path: " in result.stderr
    assert f"{job}:7: steps[0].kernel: " in result.stderr
    assert "Traceback" not in result.output
    assert sorted(p.name for p in job.parent.glob("*.npy")) == ["a.npy"]


def test_traceback_shows_one(job: Path) -> None:
    job.write_text(SPEC.replace("version: 1", "version: 9"))
    result = call("plan", job, "--traceback")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and "SpecError" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "none.yaml"],
        ["run", "{job}", "--workers", "0"],
        ["run", "{job}", "--memory", "lots"],
        ["run", "{job}", "--report", "{job}.no/such/report.json"],
        ["plan", "{job}", "--wrkers", "2"],
        ["info", "none.npy"],
        ["info", "/"],
        ["explode"],
    ],
)
def test_mistakes_in_the_command_are_exit_code_2(job: Path, arguments: list[str]) -> None:
    result = call(*(argument.format(job=job) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not (job.parent / "b[bold].npy").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_is_exit_code_130_and_leaves_a_report(job: Path, number: int) -> None:
    text = SPEC.replace("serial}", "loky, workers: 2, scratch: scratch}")
    job.write_text(text.replace("double", "spin").replace("{write: b}]", "{write: b}], region: 1"))
    scratch = job.parent / "scratch"
    scratch.mkdir()
    report, output = job.parent / "report.json", job.parent / "b[bold].npy"
    process = started("run", job, "--report", report)
    try:
        # The first region is quick, and those after it last longer than anyone waits.
        limit = time.monotonic() + 60
        while not (output.exists() and np.load(output)[0] == 1.0):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, stdout + stderr
    assert "interrupted" in stderr and "Traceback" not in stderr
    content = json.loads(report.read_text())
    assert content["status"] == "interrupted" and content["steps"] == []
    assert list(scratch.iterdir()) == []


# plan


def test_plan_explains_every_step_and_touches_nothing(job: Path) -> None:
    before = sorted(os.listdir(job.parent))
    result = call("plan", job, "--memory", "123MB")
    assert result.exit_code == 0, result.output
    assert f"step 1 of 1: kernels.py:double ({job}:7)" in result.stdout
    assert "kernel   double(a, out)" in result.stdout
    assert "123 MB" in result.stdout
    # Brackets in names are not markup.
    assert f"b: makes {job.parent / 'b[bold].npy'}, 928 B" in result.stdout
    assert sorted(os.listdir(job.parent)) == before


# info


def rows(result: Any) -> dict[str, str]:
    lines = [line for line in result.stdout.splitlines() if line]
    return {line[:12].strip(): line[13:] for line in lines}


def test_info_shows_header_size_and_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = hyperslab.create(path, (1000, 500), ">i2", order="F", sparse=True)
    array.close()
    result = call("info", path)
    assert result.exit_code == 0, result.output
    found = rows(result)
    status = path.stat()
    assert found["format"] == ".npy 1.0"
    assert found["dtype"] == ">i2 ('>i2', big-endian)"
    assert found["shape"] == "(1000, 500)"
    assert found["order"].startswith("F ")
    assert found["data offset"] == "128 bytes"
    assert found["size"] == "1 MB (1,000,128 bytes)"
    assert f"({status.st_blocks * 512:,} bytes) allocated" in found["on disk"]
    share = 1 - status.st_blocks * 512 / status.st_size
    assert found["sparse"] == f"{share:.1%} of the file is holes"


def test_info_of_a_raw_file_says_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "raw.bin"
    path.write_bytes(bytes(100))
    result = call("info", path)
    assert result.exit_code == 0
    assert rows(result)["format"] == "raw"
    assert "dtype=" in result.stdout and "shape=" in result.stdout


def test_info_of_a_damaged_file_is_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(100))
    os.truncate(path, 500)
    result = call("info", path)
    assert result.exit_code == 1
    assert "truncated" in result.output and "500 bytes" in result.stdout


def test_info_and_reading_a_spec_need_neither_numba_nor_workers(job: Path) -> None:
    script = (
        "import sys; from hyperslab.jobs.cli import app\n"
        f"app(['info', {str(job.parent / 'a.npy')!r}], standalone_mode=False)\n"
        "print(sorted({'numba', 'loky', 'ruamel.yaml'} & set(sys.modules)))\n"
        f"from hyperslab.jobs.spec import read_spec; read_spec({str(job)!r})\n"
        "print(sorted({'numba', 'loky', 'kernels'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]
