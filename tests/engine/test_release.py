"""Files larger than the control group: pages are let go, nobody is killed, no bit changes.

The group is a real one, made for the test; where none can be made, the tests of the decision
stand alone. ``SMALL_GROUP_FULL=1`` takes 2 GB in a group of 512 MB in place of 512 MB in one of
192 MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from planning import array, plan

import hyperslab as hs
from hyperslab.planning import memory
from hyperslab.planning.releasing import releases

MB = 10**6
FULL = bool(os.environ.get("SMALL_GROUP_FULL"))
FILE, GROUP = (2 * 2**30, 512 * 2**20) if FULL else (512 * 2**20, 192 * 2**20)
COLUMNS = 2**18 // 8
PROGRAM = Path(__file__).parents[1] / "programs" / "small_group.py"


@pytest.fixture
def rooted(tmp_path, monkeypatch):
    """A machine of 500 GB where the control group allows 400 MB."""
    monkeypatch.setattr(memory, "_of_system", lambda what: 500_000 * MB)
    memory._groups.cache_clear()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    _limit(tmp_path, 400 * MB)
    yield tmp_path
    memory._groups.cache_clear()


def _limit(root: Path, limit: int) -> None:
    group = root / "sys/fs/cgroup/job"
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")


def accesses(*shapes, **changes):
    return plan(*(array(shape, "f4", **changes) for shape in shapes)).accesses


def test_auto_releases_where_the_group_is_smaller_than_the_files(rooted):
    assert releases("auto", accesses((101, MB)), rooted)
    assert not releases("auto", accesses((99, MB)), rooted)


def test_all_files_count_together_and_each_of_them_once(rooted):
    assert releases("auto", accesses((60, MB), (60, MB)), rooted)
    assert not releases("auto", accesses((60, MB), (60, MB), inode=7), rooted)


def test_what_is_set_holds_whatever_the_group(rooted):
    assert releases(True, accesses((2, 3)), rooted)
    assert not releases(False, accesses((999, MB)), rooted)


def test_without_a_group_or_with_one_larger_than_the_machine_nothing_is_released(rooted):
    assert not releases("auto", accesses((10**6, MB)), rooted / "elsewhere")
    memory._groups.cache_clear()
    _limit(rooted, 900_000 * MB)
    assert not releases("auto", accesses((10**6, MB)), rooted)


def test_a_plan_says_whether_it_releases():
    with hs.Engine(executor="serial", release=True) as engine:
        assert "let go of after each region" in engine.plan(hs.kernel(_copy), *_pair()).explain()
    with hs.Engine(executor="serial", release=False) as engine:
        assert "let go of" not in engine.plan(hs.kernel(_copy), *_pair()).explain()


def _copy(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, j]


def _pair():
    return hs.from_array(np.arange(6.0).reshape(2, 3)), hs.write(hs.from_array(np.zeros((2, 3))))


def _mapped(path: str) -> int:
    """Bytes of a file's pages that this process shows."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            inside = fields[-1] == path
        elif inside and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


@pytest.mark.parametrize("release", [True, False])
def test_after_a_run_nothing_of_a_released_file_is_mapped(tmp_path, release):
    a = hs.create(tmp_path / "a.npy", (64, 2**16), "f8")
    a[...] = 1.0
    out = hs.create(tmp_path / "out.npy", a.shape, "f8")
    with hs.Engine(executor="serial", progress=False, release=release) as engine:
        a = hs.open(tmp_path / "a.npy")
        engine.run(hs.kernel(_copy), a, hs.write(out), region=(1, None))
    held = _mapped(a.path)
    # The pages at either end are shared with the header and with nobody.
    assert held < 2**20 if release else held > 2**24
    np.testing.assert_array_equal(np.asarray(a), np.asarray(out))


@contextlib.contextmanager
def _group(limit: int) -> Iterator[Path]:
    """A control group with that limit; the test is skipped where none can be made."""
    group = Path("/sys/fs/cgroup/memory") / f"hyperslab-test-{os.getpid()}"
    name = "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, name = Path("/sys/fs/cgroup") / group.name, "memory.max"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {group.parent}: {error.strerror}")
    try:
        try:
            (group / name).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"the memory of {group} cannot be limited: {error.strerror}")
        yield group
    finally:
        deadline = time.monotonic() + 10
        # A process that has just ended may still be counted.
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


def _killed(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        with contextlib.suppress(OSError):
            for line in (group / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _forget(path: Path) -> None:
    """Drop a file's pages: they would count against the group of who made it, and not ours."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _run(directory: Path, release: str, group: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if not FULL:
        environment["HYPERSLAB_MEMORY"] = "40MB"  # Less than the group has beside three Pythons.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(directory), release, group],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_job_larger_than_its_control_group_comes_to_its_end(tmp_path):
    with _group(GROUP) as group:
        values = np.random.default_rng(3).random((64, COLUMNS))
        with hs.create(tmp_path / "a.npy", (FILE // 8 // COLUMNS, COLUMNS), "f8") as a:
            for first in range(0, len(a), 64):
                a[first : first + 64] = values + first
        _forget(tmp_path / "a.npy")
        inside = _run(tmp_path, "auto", str(group))
        assert _killed(group) == 0
        outside = _run(tmp_path, "0", "-")
    print(inside)
    for name in ("map", "reduction", "stencil"):
        assert inside[name]["released"]
        assert not outside[name]["released"]
        assert inside[name]["digest"] == outside[name]["digest"]
