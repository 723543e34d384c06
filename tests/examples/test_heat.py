"""The heat example, run as a user runs it, and its SLURM script under a make-believe SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# What a process run from here needs, and nothing of the variables under test.
BARE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("HYPERSLAB_", "SLURM_", "SRUN_"))
}
# The script changes directory: a relative entry would no longer lead to the package.
if "PYTHONPATH" in BARE:
    entries = BARE["PYTHONPATH"].split(os.pathsep)
    BARE["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries)


def test_example_agrees_with_both_exact_solutions(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "heat.py", "--size=64", "--steps=40", "--workers=2",
         f"--plot={tmp_path / 'heat.png'}"],
        env={**BARE, "HYPERSLAB_SCRATCH": str(scratch)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "checks passed" in done.stdout
    assert re.search(r"by hand +\d+\.\d{3} ms with numba.prange .* here: \d+\.\d\d ×", done.stdout)
    assert re.search(r"launch +\d+\.\d{3} ms", done.stdout)
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("option", ["--size=63", "--size=62", "--steps=3", "--steps=0"])
def test_example_refuses_what_it_cannot_check(option: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "heat.py", option], env=BARE, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert option.split("=")[0] in done.stderr.splitlines()[-1]


def make_believe_slurm(tmp_path: Path, python: str) -> dict[str, str]:
    """A directory of commands that stand for srun and the site's Python; returns the PATH."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, body in {
        # srun takes options of its own first, then the command.
        "srun": 'while [[ "$1" == -* ]]; do shift; done\nexec "$@"\n',
        "python": python,
    }.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}")
        (commands / name).chmod(0o755)
    return {"PATH": f"{commands}:{os.environ['PATH']}"}


def test_sbatch_script_runs_the_example(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["bash", EXAMPLES / "heat.sbatch", "--size=64", "--steps=8"],
        env={
            **BARE,
            **make_believe_slurm(tmp_path, f'exec {shlex.quote(sys.executable)} "$@"\n'),
            "SLURM_JOB_ID": "4711",
            "SLURM_CPUS_PER_TASK": "2",
            "SLURM_MEM_PER_NODE": "1024",
            "SLURM_TMPDIR": str(disk),
            "SLURM_SUBMIT_DIR": str(EXAMPLES),
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"workers +2$", done.stdout, re.MULTILINE)
    assert "checks passed" in done.stdout
    assert list(disk.iterdir()) == []


SHOW = """
env | grep -E '^(HYPERSLAB|SRUN)_' | sort
[[ -d "$HYPERSLAB_SCRATCH" && -d "$HYPERSLAB_LOCK_DIR" ]] && echo "both exist"
printf 'argument %s\\n' "$@"
exit 3
"""


@pytest.mark.parametrize(
    ("slurm", "expected"),
    [
        (
            {"SLURM_CPUS_PER_TASK": "12", "SLURM_MEM_PER_NODE": "32768", "SLURM_TMPDIR": "@"},
            {"HYPERSLAB_WORKERS=12", "SRUN_CPUS_PER_TASK=12", "HYPERSLAB_MEMORY=26214MiB"},
        ),
        # --mem=0, or --mem-per-cpu: no figure, and the engine looks for itself.
        ({"SLURM_MEM_PER_NODE": "0", "TMPDIR": "@"}, {"HYPERSLAB_WORKERS=1"}),
        ({"TMPDIR": "@"}, {"HYPERSLAB_WORKERS=1"}),
    ],
)
def test_sbatch_script_sets_up_from_slurm(
    tmp_path: Path, slurm: dict[str, str], expected: set[str]
) -> None:
    disk = tmp_path / "local disk"
    disk.mkdir()
    variables = {k: str(disk) if v == "@" else v for k, v in slurm.items()}
    done = subprocess.run(
        ["bash", EXAMPLES / "heat.sbatch", "--steps", "8"],
        env={
            **BARE,
            **make_believe_slurm(tmp_path, SHOW),
            **variables,
            "SLURM_JOB_ID": "4711",
            "SLURM_SUBMIT_DIR": str(EXAMPLES),
        },
        capture_output=True,
        text=True,
    )
    lines = set(done.stdout.splitlines())
    assert done.returncode == 3, "the step's exit status is the job's"
    assert expected <= lines
    assert ("HYPERSLAB_MEMORY" in done.stdout) == ("HYPERSLAB_MEMORY" in str(expected))
    assert {"argument heat.py", "argument --steps", "argument 8", "both exist"} <= lines
    scratch = re.search(r"^HYPERSLAB_SCRATCH=(.*)$", done.stdout, re.MULTILINE)
    assert scratch and scratch[1].startswith(f"{disk}/hyperslab-4711-")
    assert f"HYPERSLAB_LOCK_DIR={scratch[1]}/locks" in lines
    # Whatever happened in the job, its scratch directory is gone.
    assert list(disk.iterdir()) == []


def test_sbatch_script_is_a_batch_script_for_one_node() -> None:
    text = (EXAMPLES / "heat.sbatch").read_text()
    directives = re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE)
    assert text.startswith("#!/bin/bash\n")
    assert {"--nodes=1", "--ntasks=1", "--signal=INT@60"} <= set(directives)
    # sbatch reads its directives up to the first command.
    assert text.rindex("#SBATCH") < text.index("\nset ")
