"""The README's promises to a newcomer: its example runs, its commands name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_prints_a_report(tmp_path):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "throughput" in result.stdout
    # Noise of 20 K about its mean: the largest of 164,000 values.
    assert 60 < float(result.stdout.splitlines()[-1]) < 150


def test_the_two_commands_install_what_exists():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    commands = re.findall(r"^python3 .*$", section, re.MULTILINE)
    assert len(commands) == 2
    project = (ROOT / "pyproject.toml").read_text()
    for command in commands:
        (extra,) = re.findall(r"'\.\[(\w+)\]'", command)
        assert f"\n{extra} = [" in project
    assert (ROOT / re.search(r"examples/\w+\.py", commands[0])[0]).exists()


def test_every_link_leads_somewhere():
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
