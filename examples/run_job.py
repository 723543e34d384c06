"""Runs ``job.yaml`` through the command line, and checks its results against NumPy.

python run_job.py
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def hyperslab(*arguments: str, data: Path) -> str:
    """Run the command ``hyperslab`` and return what it prints."""
    command = [sys.executable, "-m", "hyperslab.jobs.cli", *arguments]
    print("$ hyperslab", *arguments)
    done = subprocess.run(
        command, env={**os.environ, "DATA": str(data)}, capture_output=True, text=True
    )
    print(done.stdout, done.stderr, sep="")
    done.check_returncode()
    return done.stdout


def main() -> None:
    """Make a record, plan, run, look at a result, compare."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        rng = np.random.default_rng(0)
        t2m = (280 + 15 * rng.standard_normal((48, 91, 180))).astype("f4")
        np.save(data / "t2m.npy", t2m)

        job, report = str(HERE / "job.yaml"), data / "report.json"
        hyperslab("plan", job, data=data)
        assert not (data / "anom.npy").exists(), "a plan changes nothing"
        hyperslab("run", job, "--report", str(report), data=data)
        hyperslab("info", str(data / "smooth.npy"), data=data)

        mean = t2m.mean(axis=0, dtype="f8")
        np.testing.assert_allclose(np.load(data / "mean.npy"), mean, rtol=1e-12)
        anomaly = (t2m - mean).astype("f4")
        np.testing.assert_allclose(np.load(data / "anom.npy"), anomaly, atol=1e-5)
        shifts = [(j, k) for j in (-1, 0, 1) for k in (-1, 0, 1)]
        smooth = sum(np.roll(anomaly, shift, axis=(1, 2)).astype("f8") for shift in shifts) / 9
        np.testing.assert_allclose(np.load(data / "smooth.npy"), smooth, atol=1e-5)
        counts, _ = np.histogram(t2m[(t2m >= 200) & (t2m < 320)], bins=120, range=(200, 320))
        np.testing.assert_array_equal(np.load(data / "counts.npy"), counts)
        steps = json.loads(report.read_text())["steps"]
        assert [step["kernel"].partition(":")[2] for step in steps] == [
            "mean_over_time", "anomaly", "smooth", "histogram",
        ]  # fmt: skip
        print("as NumPy computes it: means, anomalies, smoothed field, histogram")


if __name__ == "__main__":
    main()
