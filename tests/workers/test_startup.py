"""A worker's first act: signals, threads, and the watch on its coordinator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chaos import wait_until

from hyperslab_workers import owned
from hyperslab_workers.scratch import SESSIONS
from hyperslab_workers.startup import BLOCKED, ENVIRONMENT

# A coordinator that starts one worker, tells its number and waits to be killed. The worker is
# born by fork: what start_worker() does must not depend on how.
COORDINATOR = r"""
import os, sys, time
from hyperslab_workers.startup import start_worker
coordinator = os.getpid()
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        start_worker(coordinator, sys.argv[1])
        os.write(1, b"worker %d\n" % os.getpid())  # Whole, where print may write twice.
        exec(sys.argv[3])
        while True:
            time.sleep(10)
time.sleep(100)
"""


@pytest.fixture
def session(tmp_path: Path) -> Path:
    directory = tmp_path / "session"
    directory.mkdir()
    (directory / "array.npy").write_bytes(b"1")
    return directory


class Family:
    """A coordinator and its workers."""

    def __init__(self, session: Path, workers: int = 1, then: str = "pass") -> None:
        self.coordinator = subprocess.Popen(
            [sys.executable, "-c", COORDINATOR, str(session), str(workers), then],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HYPERSLAB_LOCK_DIR": str(session.parent / "locks")},
            start_new_session=True,
        )
        self.workers = []
        for _ in range(workers):
            word, pid = self.coordinator.stdout.readline().split()
            assert word == "worker"
            self.workers.append(int(pid))

    def line(self) -> str:
        return self.coordinator.stdout.readline().strip()

    def gone(self, pid: int) -> bool:
        # Where no process reaps orphans, they stay as zombies.
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def wait_gone(self) -> None:
        for pid in self.workers:
            wait_until(lambda pid=pid: self.gone(pid), "the worker leaves", seconds=5.0)

    def close(self) -> None:
        for pid in [self.coordinator.pid, *self.workers]:
            if not self.gone(pid):
                os.kill(pid, signal.SIGKILL)
        self.coordinator.wait()
        self.coordinator.stdout.close()


@pytest.fixture
def family(session: Path) -> Iterator:
    families: list[Family] = []

    def start(**options: object) -> Family:
        families.append(Family(session, **options))
        return families[-1]

    yield start
    for one in families:
        one.close()


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGKILL, False),
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGHUP, True),
    ],
)
def test_workers_leave_with_their_coordinator_and_tidy_up(family, session, number, group):
    one = family(workers=2)
    other = session.parent / "other"
    other.mkdir()
    (session / SESSIONS).write_bytes(os.fsencode(f"{session}\0{other}"))
    (os.killpg if group else os.kill)(one.coordinator.pid, number)
    one.coordinator.wait()
    one.wait_gone()
    assert not session.exists()
    assert not other.exists()


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_stopped_worker_does_not_outlive_its_coordinator(family, session, stopped):
    one = family(workers=2)
    # Each has begun to watch: it says so after that.
    for pid in one.workers[:stopped]:
        os.kill(pid, signal.SIGSTOP)
    one.coordinator.kill()
    one.coordinator.wait()
    one.wait_gone()
    assert not session.exists()


def test_a_directory_that_is_in_use_or_not_ours_is_not_tidied_up(family, session):
    """Whatever the list says: a line break in a path once made two of one."""
    used, linked = session.parent / "used", session.parent / "linked"
    used.mkdir()
    linked.symlink_to(session.parent / "precious")
    (session.parent / "precious").mkdir()
    (session.parent / "precious" / "file").touch()
    (session / SESSIONS).write_bytes(os.fsencode(f"{session}\0{used}\0{linked}"))
    user = owned.open_own(str(used))
    owned.keep(user)
    one = family()
    one.coordinator.kill()
    one.wait_gone()
    os.close(user)
    assert not session.exists()
    assert used.exists()
    assert (session.parent / "precious" / "file").exists()


def test_a_kernel_that_holds_the_gil_delays_the_watchdog_no_longer_than_it_runs(family, session):
    one = family(then="import time; end = time.time() + 0.5\nwhile time.time() < end: pass")
    one.coordinator.kill()
    one.wait_gone()
    assert not session.exists()


RUNS_INTO_IT = """
from hyperslab_workers.startup import stay_for_tidying
while os.path.exists(sys.argv[1] + "/array.npy"):
    time.sleep(0.0001)
stay_for_tidying()
os._exit(1)
"""


def test_a_worker_that_runs_into_what_is_removed_does_not_cut_that_short(family, session):
    for number in range(3000):
        (session / f"scrap-{number}").touch()
    one = family(then=RUNS_INTO_IT)
    one.coordinator.kill()
    one.wait_gone()
    assert not session.exists()


HOLDING = """
from hyperslab_workers.locks import StripedLock
import time
lock = StripedLock(os.environ["HYPERSLAB_LOCK_DIR"] + "/1-2", "data.npy", 65536)
with lock.hold(extents_write=[(0, 100)]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_workers_killed_inside_a_lock_leave_no_lock_directory(family, session):
    one = family(then=HOLDING)
    assert one.line() == "held"
    locks = session.parent / "locks"
    assert [path.name for path in locks.iterdir()] == ["1-2"]
    one.coordinator.kill()
    one.wait_gone()
    wait_until(lambda: not list(locks.iterdir()), "the lock directory goes", seconds=5.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_for_one_worker_alone_ends_it_and_nothing_else(family, session, number):
    one = family(workers=2)
    os.kill(one.workers[0], number)
    wait_until(lambda: one.gone(one.workers[0]), "it dies", seconds=5.0)
    assert not one.gone(one.workers[1])
    assert (session / "array.npy").exists()


def test_ctrl_c_does_not_reach_a_worker(family, session):
    one = family()
    os.kill(one.workers[0], signal.SIGINT)
    time.sleep(0.1)
    assert not one.gone(one.workers[0])
    status = Path(f"/proc/{one.workers[0]}/status").read_text()
    blocked = int(status.split("SigBlk:")[1].split()[0], 16)
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    for number in BLOCKED:
        assert blocked & 1 << (number - 1)
    assert ignored & 1 << (signal.SIGINT - 1)


def test_a_worker_whose_coordinator_is_gone_already_leaves_at_once(session):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    program = (
        "import sys; from hyperslab_workers.startup import start_worker; "
        "start_worker(int(sys.argv[1]), sys.argv[2]); print('still here')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(dead.pid), str(session)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (77, "", "")
    assert not session.exists()


def test_a_worker_that_is_not_a_child_of_its_coordinator_leaves(session):
    program = (
        "import sys; from hyperslab_workers.startup import start_worker; "
        "start_worker(1, sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(session)], check=False)
    assert done.returncode == 77


def test_workers_compute_in_one_thread_and_never_load_numba(family):
    assert set(ENVIRONMENT) >= {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"}
    then = "import json, sys; print(json.dumps([n for n in sys.modules if '.' not in n]))"
    loaded = json.loads(family(then=then).line())
    assert "hyperslab_workers" in loaded
    assert not {"numba", "hyperslab", "psutil", "rich"} & set(loaded)
