"""How many workers there are by default: affinity and quotas of control groups, made up."""

from __future__ import annotations

import os

import pytest

from hyperslab import processors


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def rooted(root, group, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_affinity_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert processors.usable(tmp_path) == 3


@pytest.mark.parametrize(
    ("group", "files", "count"),
    [
        ("0::/job", {"job/cpu.max": "max 100000"}, 8),
        ("0::/job", {"job/cpu.max": "250000 100000"}, 3),
        ("0::/job", {"job/cpu.max": "1000 100000"}, 1),
        ("0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "200000 100000"}, 2),
        ("0::/elsewhere", {"cpu.max": "400000 100000"}, 4),
        ("0::/job", {"job/cpu.max": "nonsense"}, 8),
        (
            "3:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "500000", "cpu/job/cpu.cfs_period_us": "100000"},
            5,
        ),
        (
            "3:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
            8,
        ),
        ("4:memory:/job", {"cpu/cpu.cfs_quota_us": "100000"}, 8),
    ],
)
def test_quotas_count(eight, tmp_path, group, files, count):
    assert processors.usable(rooted(tmp_path, group, files)) == count


def test_agrees_with_loky_here():
    loky = pytest.importorskip("loky")
    assert processors.usable() <= loky.cpu_count()
