"""Runs every example in its small setting, each in a process of its own; used by CI.

Each example is a program by itself: ``python examples/weather.py --help``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent

SMALL_SETTINGS: dict[str, list[str]] = {
    "ten_terabytes.py": [],
    "readers_and_writers.py": ["--quick"],
    "weather.py": ["--small", "--data", "{scratch}"],
    "heat.py": ["--size", "128", "--steps", "50"],
    "run_job.py": [],
}
"""Arguments that make each example finish in seconds."""

NOT_PROGRAMS = {"run_all.py", "job_kernels.py"}


def main() -> int:
    programs = {path.name for path in HERE.glob("*.py")} - NOT_PROGRAMS
    if programs != set(SMALL_SETTINGS):
        print(f"examples without a small setting here: {programs ^ set(SMALL_SETTINGS)}")
        return 1
    failed = []
    for name, arguments in SMALL_SETTINGS.items():
        with tempfile.TemporaryDirectory(prefix="hyperslab-example-") as scratch:
            command = [sys.executable, str(HERE / name)]
            command += [argument.format(scratch=scratch) for argument in arguments]
            started = time.monotonic()
            result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        verdict = "ok" if result.returncode == 0 else f"exit code {result.returncode}"
        print(f"{name:<24} {verdict:<14} {time.monotonic() - started:.1f} s")
        if result.returncode != 0:
            failed.append(name)
            print(result.stdout + result.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
