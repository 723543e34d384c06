"""The examples that have no test module of their own, each in its small setting."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SETTINGS = runpy.run_path(str(EXAMPLES / "run_all.py"))["SMALL_SETTINGS"]
TESTED_ELSEWHERE = {"weather.py", "heat.py"}


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - TESTED_ELSEWHERE))
def test_it_runs_and_finds_nothing_wrong(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / name), *SETTINGS[name]]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip()
    assert "Traceback" not in result.stderr
