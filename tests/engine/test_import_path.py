"""Workers import what Python and the installed packages have, and not what lies beside the data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import PROGRAMS

HELPERS = "class Hot(Exception):\n    pass\n"


def outcome(directory: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(directory.parent)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_nothing_is_imported_from_where_the_data_is(data):
    assert outcome(data, PROGRAMS / "planted.py") == "right"


def test_nothing_but_the_programs_own_exceptions_where_the_program_lies_there(data):
    (data / "helpers.py").write_text(HELPERS)
    (data / "job.py").write_text((PROGRAMS / "planted.py").read_text())
    assert outcome(data, "job.py", "helpers") == "right"
