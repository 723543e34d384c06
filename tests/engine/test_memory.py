"""The budget: what control groups leave, from made-up file systems; and bytes in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperslab.planning import memory
from hyperslab.planning.memory import WORKER_BYTES, budget
from hyperslab.units import human_bytes

GB = 10**9


@pytest.fixture(autouse=True)
def plenty_of_ram(monkeypatch):
    monkeypatch.setattr(memory, "_of_system", lambda what: 500 * GB)


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def v2(limit, used, stat="", group="job"):
    return {
        f"sys/fs/cgroup/{group}/memory.max": limit,
        f"sys/fs/cgroup/{group}/memory.current": used,
        f"sys/fs/cgroup/{group}/memory.stat": stat,
    }


def free(root: Path) -> int:
    """Free bytes behind a budget without workers, which plans with four fifths of them."""
    return round(budget(None, 0, root).limit / 0.8)


def test_what_the_user_gave_is_the_budget_whatever_the_system_has(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2(1000, 0))
    given = budget(3 * GB, 64, root)
    assert given.limit == 3 * GB
    assert given.source == "memory=3 GB"


def test_without_control_groups_free_ram_counts(tmp_path):
    assert free(tmp_path) == 500 * GB
    assert "free RAM, 500 GB" in budget(None, 1, tmp_path).source


def test_idle_workers_are_taken_off(tmp_path):
    assert budget(None, 0, tmp_path).limit - budget(None, 8, tmp_path).limit == 8 * WORKER_BYTES


def test_a_budget_is_never_negative(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2(GB, GB))
    assert budget(None, 8, root).limit == 0


def test_version_2_leaves_its_limit_less_what_is_used(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2(8 * GB, 3 * GB))
    assert free(root) == 5 * GB
    assert "cgroup" in budget(None, 1, root).source


def test_version_2_counts_the_page_cache_as_free_but_not_shared_memory(tmp_path):
    stat = f"anon 7\nfile {2 * GB}\nshmem {GB}\nactive_file {GB // 2}\ninactive_file {GB // 2}"
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2(8 * GB, 3 * GB, stat))
    assert free(root) == 6 * GB


def test_the_tightest_group_above_counts(tmp_path):
    files = {"proc/self/cgroup": "0::/slurm/job/step"}
    files |= v2("max", 0, group="slurm/job/step")
    files |= v2(4 * GB, GB, group="slurm/job")
    files |= v2(100 * GB, 0, group="slurm")
    assert free(write(tmp_path, files)) == 3 * GB


def test_a_group_without_a_limit_leaves_free_ram(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2("max", 3 * GB))
    assert free(root) == 500 * GB


def test_more_than_the_ram_is_no_limit(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2(900 * GB, 0))
    assert free(root) == 500 * GB


@pytest.mark.parametrize("controllers", ["memory", "cpu,memory", "memory,blkio"])
def test_version_1(tmp_path, controllers):
    base = "sys/fs/cgroup/memory/user/job"
    stat = f"cache 999\ntotal_inactive_file {GB}\ntotal_active_file {GB}"
    files = {
        "proc/self/cgroup": f"3:cpuset:/elsewhere\n7:{controllers}:/user/job",
        f"{base}/memory.limit_in_bytes": 8 * GB,
        f"{base}/memory.usage_in_bytes": 5 * GB,
        f"{base}/memory.stat": stat,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 2**63 - 4096,
    }
    assert free(write(tmp_path, files)) == 5 * GB


def test_in_a_container_the_hosts_path_is_missing_and_the_mount_itself_counts(tmp_path):
    files = {"proc/self/cgroup": "0::/kubepods/burstable/pod1/c2"}
    files |= {"sys/fs/cgroup/memory.max": 2 * GB, "sys/fs/cgroup/memory.current": GB}
    assert free(write(tmp_path, files)) == GB


def test_a_path_out_of_the_namespace_ends(tmp_path):
    files = {"proc/self/cgroup": "0::/../../other"}
    files |= {"sys/fs/cgroup/memory.max": 2 * GB, "sys/fs/cgroup/memory.current": GB}
    assert free(write(tmp_path, files)) == GB


@pytest.mark.parametrize("text", ["", "nonsense", "-"])
def test_files_that_say_nothing_are_no_limit(tmp_path, text):
    root = write(tmp_path, {"proc/self/cgroup": "0::/job"} | v2(text, 1))
    assert free(root) == 500 * GB


def test_a_limit_counts_although_the_usage_cannot_be_read(tmp_path):
    files = {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/memory.max": 8 * GB}
    assert free(write(tmp_path, files)) == 8 * GB


def test_this_machine_gives_some_answer():
    memory._system_free.cache_clear()
    assert budget(None, 1).limit > 0


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1536, "1.54 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (2_129_264_640, "2.13 GB"),
        (10**13, "10 TB"),
        (10**18, "1000 PB"),
        (0.4, "0 B"),
    ],
)
def test_bytes_in_words(count, words):
    assert human_bytes(count) == words


@given(st.integers(0, 10**18))
def test_bytes_in_words_have_three_right_figures(count):
    number, unit = human_bytes(count).split()
    factor = 1000 ** ("B", "kB", "MB", "GB", "TB", "PB").index(unit)
    assert "e" not in number
    assert abs(float(number) * factor - count) <= count * 0.0051
