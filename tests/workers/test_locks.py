"""Locks between threads and real processes: exclusion, fairness, time-outs, and what is left."""

from __future__ import annotations

import os
import pickle
import random
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperslab_workers import lock_directory, lock_root, lock_stripe, lock_table
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.errors import HyperslabError, LockTimeout
from hyperslab_workers.locks import (
    Guard,
    StripedLock,
    default_lock_root,
    hold_all,
    lock_for,
    probe,
    release_all,
    sweep,
)

STRIPE = 65536
PROGRAMS = Path(__file__).with_name("lock_programs.py")


class Program:
    """A process of its own that runs one of lock_programs.py."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAMS, name, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        self.process.stdin.write("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Start programs; whatever still runs at the end of the test is killed."""
    started: list[Program] = []

    def _start(name: str, *arguments: object) -> Program:
        started.append(Program(name, *arguments))
        return started[-1]

    yield _start
    for program in started:
        program.process.kill()
        program.end()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "locks" / "a-1")
    release_all()


@pytest.fixture
def lock(directory: str) -> StripedLock:
    return StripedLock(directory, "data.npy", STRIPE)


def exists(directory: str) -> bool:
    return Path(directory).exists()


def names(directory: str | Path) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def is_free(lock: StripedLock, extent: tuple[int, int] = (0, 1), *, write: bool = True) -> bool:
    """Whether another thread of this process can have the bytes now."""
    answers: list[bool] = []

    def attempt() -> None:
        try:
            with hold_all([Guard(lock, extent, exclusive=write)], timeout=0):
                answers.append(True)
        except LockTimeout:
            answers.append(False)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return answers == [True]


def reference(path: Path, **changes: object) -> ArrayRef:
    status = path.stat()
    settings = {
        "path": str(path),
        "device": status.st_dev,
        "inode": status.st_ino,
        "file_size": status.st_size,
        "offset": 0,
        "dtype": np.dtype("u1"),
        "shape": (status.st_size,),
        "strides": (1,),
    }
    return ArrayRef(**{**settings, **changes})


# --- which lock, which stripes -------------------------------------------------------------


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 40))
def test_the_stripes_of_an_extent_are_those_of_its_bytes(first, length, pages, stripes):
    lock = StripedLock("/locks/1-2", "data.npy", pages * 4096, stripes)
    # The first byte of each stripe and of the extent stand for all bytes between.
    edges = range(-(-first // lock.stripe_bytes), -(-(first + length) // lock.stripe_bytes))
    touched = {min(edge, stripes - 1) for edge in edges}
    if length:
        touched.add(min(first // lock.stripe_bytes, stripes - 1))
    assert set(lock.stripes_of((first, first + length))) == touched


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 65536), (64 * 65536, 65536), (64 * 65536 + 1, 69632)]
)
def test_stripes_are_whole_pages_and_64_cover_the_file(tmp_path, size, expected):
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(size)
    lock = lock_for(reference(path), str(tmp_path))
    assert lock.stripe_bytes == expected
    assert len(lock.stripes_of((0, size))) <= 64
    assert lock.stripe_bytes * lock.stripes >= size


def test_a_symlink_and_a_hard_link_share_the_lock(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"12345678")
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "roots").symlink_to(tmp_path)
    locks = {
        lock_for(reference(tmp_path / name), str(root)).directory
        for name in ("data", "soft", "hard")
        for root in (tmp_path, tmp_path / "roots")
    }
    assert len(locks) == 1
    (tmp_path / "copy").write_bytes(b"12345678")
    assert lock_for(reference(tmp_path / "copy"), str(tmp_path)).directory not in locks


def test_the_lock_root_is_the_references_then_the_callers_then_the_default(tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(b"1")
    monkeypatch.setenv("HYPERSLAB_LOCK_DIR", str(tmp_path / "variable"))
    own = reference(path, lock_dir=str(tmp_path / "own"))
    assert lock_for(own, str(tmp_path / "given")).directory.startswith(f"{tmp_path}/own/")
    given_root = lock_for(reference(path), str(tmp_path / "given"))
    assert given_root.directory.startswith(f"{tmp_path}/given/")
    assert lock_for(reference(path)).directory.startswith(f"{tmp_path}/variable/")
    assert names(tmp_path) == ["data"], "naming a lock creates nothing"


def test_the_default_root_does_not_depend_on_the_session(monkeypatch, tmp_path):
    lock_root._root.cache_clear()
    monkeypatch.delenv("HYPERSLAB_LOCK_DIR", raising=False)
    plain = default_lock_root()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    lock_root._root.cache_clear()
    assert default_lock_root() == plain
    assert plain.endswith(f"-{os.geteuid()}")


def test_pickling_keeps_the_lock_and_is_small(lock):
    copy = pickle.loads(pickle.dumps(lock))
    assert copy == lock
    assert len(pickle.dumps(lock)) < 500
    with lock.hold(extents_write=[(0, 1)]):
        assert not is_free(copy)


# --- exclusion ------------------------------------------------------------------------------


def test_readers_share_and_writers_exclude_between_threads(lock):
    inside = threading.Barrier(3, timeout=10)

    def read() -> None:
        with lock.hold(extents_read=[(0, 1)]):
            inside.wait()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with lock.hold(extents_read=[(0, 1)]):
        inside.wait()
        assert not is_free(lock)
    for reader in readers:
        reader.join()
    with lock.hold(extents_write=[(0, 1)]):
        assert not is_free(lock, write=False)
        assert is_free(lock, (STRIPE, STRIPE + 1))
    assert is_free(lock)


def test_a_stripe_in_both_lists_is_held_exclusively(lock):
    with lock.hold(extents_read=[(0, 3 * STRIPE)], extents_write=[(STRIPE, STRIPE + 1)]):
        assert is_free(lock, (0, 1), write=False)
        assert not is_free(lock, (STRIPE, STRIPE + 1), write=False)
        assert is_free(lock, (2 * STRIPE, 2 * STRIPE + 1), write=False)


@pytest.mark.parametrize("keep_open", [10**6, -1], ids=["files kept open", "files closed"])
def test_readers_share_and_writers_exclude_between_processes(
    lock, directory, start, monkeypatch, keep_open
):
    monkeypatch.setattr(lock_stripe, "_KEEP_OPEN", keep_open)
    writer = start("hold", directory, "write", STRIPE, 3 * STRIPE)
    reader = start("hold", directory, "read", 4 * STRIPE, 5 * STRIPE)
    assert (writer.line(), reader.line()) == ("held", "held")
    for stripe, to_write, to_read in [(0, True, True), (1, False, False), (4, False, True)]:
        extent = (stripe * STRIPE, stripe * STRIPE + 1)
        assert is_free(lock, extent) == to_write
        assert is_free(lock, extent, write=False) == to_read
    with lock.hold(extents_read=[(4 * STRIPE, 4 * STRIPE + 1)]):
        reader.go_on()
        assert reader.line() == "released"
        other = start("attempt", directory, "write", 0, 1, 4)
        assert other.line() == "0"
    writer.go_on()
    assert writer.line() == "released"
    assert is_free(lock, (0, 64 * STRIPE))


def test_a_reader_that_leaves_does_not_free_the_other_readers_of_its_process(
    lock, directory, start
):
    held, leave = threading.Event(), threading.Event()

    def read() -> None:
        with lock.hold(extents_read=[(0, 1)]):
            held.set()
            leave.wait(10)

    other = threading.Thread(target=read)
    other.start()
    held.wait(10)
    with lock.hold(extents_read=[(0, 1)]):
        pass
    try:
        assert start("attempt", directory, "write", 0, 1).line() == "1"
    finally:
        leave.set()
        other.join()
    assert start("attempt", directory, "write", 0, 1).line() == "0 1"


def test_nothing_is_torn_or_lost_while_holders_are_killed(lock, directory, start, tmp_path):
    path = tmp_path / "counter"
    path.write_bytes(bytes(9 * STRIPE))
    threads, times = 2, 60
    victims = [start("be_killed", directory, seed) for seed in range(3)]
    for victim in victims:
        assert victim.line() == "started"
    workers = [start("increment", directory, path, threads, times) for _ in range(2)]
    for worker in workers:
        assert worker.line() == "started"
    chance = random.Random(5)
    for victim in victims:
        time.sleep(chance.uniform(0.02, 0.2))
        victim.kill()
    assert [worker.line() for worker in workers] == ["whole", "whole"]
    data = path.read_bytes()
    total = len(workers) * threads * times
    assert struct.unpack_from("q", data) == struct.unpack_from("q", data, 8 * STRIPE) == (total,)


def test_processes_with_different_layouts_exclude_each_other(lock, directory, start):
    """The second opened the data file after it had grown, so that its stripes are larger."""
    holder = start("hold", directory, "write", 5 * STRIPE, 5 * STRIPE + 1)
    assert holder.line() == "held"
    later = StripedLock(directory, "data.npy", stripe_bytes=16 * STRIPE)
    assert not is_free(later, (5 * STRIPE, 5 * STRIPE + 1))
    assert is_free(later, (0, STRIPE))


# --- fairness and order ---------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "threads"), [(4, 1), (1, 4)])
def test_a_stream_of_readers_does_not_starve_a_writer(lock, directory, start, processes, threads):
    readers = [start("keep_reading", directory, threads) for _ in range(processes)]
    for reader in readers:
        assert reader.line() == "started"
    for _ in range(15):
        with lock.hold(extents_write=[(0, 1)], timeout=5.0):
            pass
    for reader in readers:
        reader.go_on()


def test_writing_threads_do_not_starve_a_reader(lock):
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with lock.hold(extents_write=[(0, 1)]):
                time.sleep(0.0005)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(15):
            with lock.hold(extents_read=[(0, 1)], timeout=5.0):
                pass
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_two_files_named_in_either_order_never_deadlock(directory, start):
    one, other = directory, directory[:-1] + "2"
    programs = [start("take_two", one, other, 60), start("take_two", other, one, 60)]
    assert [program.line() for program in programs] == ["started", "started"]
    assert [program.line() for program in programs] == ["done", "done"]


# --- time-outs, mistakes, interruptions -----------------------------------------------------


def test_a_timeout_says_who_and_what_and_leaves_nothing_held(lock, directory, start):
    holder = start("hold", directory, "write", 2 * STRIPE, 2 * STRIPE + 1)
    assert holder.line() == "held"
    begun = time.monotonic()
    with (
        pytest.raises(LockTimeout) as caught,
        lock.hold(extents_read=[(0, 1)], extents_write=[(STRIPE, 4 * STRIPE)], timeout=0.1),
    ):
        pass
    assert time.monotonic() - begun >= 0.1
    message = str(caught.value)
    for part in (
        "write lock of data.npy",
        "bytes 65536 to 262144",
        "stripes 1 to 3 of 64",
        "within 0.1 s",
        "stripe 2, held by process",
        str(holder.process.pid),
        "Raise timeout=",
    ):
        assert part in message
    other = start("attempt", directory, "write", 0, 1, 2, 3)
    assert other.line() == "0 1 3"
    holder.go_on()
    assert holder.line() == "released"
    with lock.hold(extents_write=[(0, 4 * STRIPE)], timeout=0):
        pass


def test_a_timeout_between_threads_names_this_process(lock):
    caught: list[Exception] = []

    def attempt() -> None:
        try:
            with lock.hold(extents_read=[(0, 1)], timeout=0.01):
                pass
        except LockTimeout as error:
            caught.append(error)

    with lock.hold(extents_write=[(0, 1)]):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert "another thread of this process" in str(caught[0])
    assert is_free(lock)


def test_nesting_is_refused_and_the_outer_lock_stays(lock, directory):
    other = StripedLock(directory[:-1] + "2", "other.npy", STRIPE)
    with lock.hold(extents_read=[(0, 1)]):
        for inner in (lock, other):
            with (
                pytest.raises(HyperslabError, match=r"while it holds one of data\.npy.*one call"),
                inner.hold(extents_write=[(0, 1)]),
            ):
                pass
        assert not is_free(lock)
    with other.hold(extents_write=[(0, 1)], timeout=0):
        pass


def test_an_empty_extent_takes_nothing(lock, directory):
    with lock.hold(extents_write=[(7, 7)]), lock.hold(extents_write=[]):
        assert not exists(directory)


def test_a_negative_timeout_is_refused(lock):
    with pytest.raises(ValueError, match="timeout is -1"), lock.hold([(0, 1)], timeout=-1):
        pass


def test_an_error_inside_releases(lock):
    with pytest.raises(KeyError), lock.hold(extents_write=[(0, 3 * STRIPE)]):
        raise KeyError("in the block")
    assert is_free(lock, (0, 3 * STRIPE))


# An interrupt between the opening of a file and its first owner is a file that Python closes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_moment_leaves_nothing_held(lock):
    chance = random.Random(11)
    interrupted = 0

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with lock.registered():
            for _ in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-4))
                    for _ in range(100):
                        with lock.hold(extents_write=[(0, 3 * STRIPE)], extents_read=[(9, 10)]):
                            pass
                except KeyboardInterrupt:
                    interrupted += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                assert is_free(lock, (0, 3 * STRIPE))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 250
    with lock.hold(extents_write=[(0, 1)], timeout=0):
        pass


def test_an_interrupt_while_waiting_leaves_nothing_held(lock, directory, start):
    holder = start("hold", directory, "write", STRIPE, STRIPE + 1)
    assert holder.line() == "held"

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt), lock.hold(extents_write=[(0, 3 * STRIPE)]):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert start("attempt", directory, "write", 0, 1, 2).line() == "0 2"


# --- fork -----------------------------------------------------------------------------------


def test_a_forked_child_holds_nothing_and_frees_nothing(directory, start):
    program = start("fork_inside", directory)
    assert program.line() == "child kept out"
    assert program.line() == "parent whole"
    program.end()
    assert not exists(directory)


def test_a_forked_child_that_ends_does_not_free_the_parents_lock(lock, directory, start):
    program = start("fork_then_wait", directory)
    assert program.line() == "child gone"
    assert not is_free(lock)
    program.go_on()
    program.end()
    assert is_free(lock)


# --- the life of the directory --------------------------------------------------------------


def test_the_last_user_removes_the_directory(lock, directory, start):
    other = start("retain", directory)
    assert other.line() == "retained"
    with lock.registered(), lock.registered():
        with lock.hold(extents_write=[(0, 3 * STRIPE)]):
            pass
        assert len(names(directory)) > 1
    assert exists(directory), "another process uses it"
    other.go_on()
    other.end()
    assert not exists(directory)


def test_a_hold_outlives_the_release_of_its_directory(lock, directory):
    lock.retain()
    with lock.hold(extents_write=[(0, 1)]):
        lock.release()
        assert exists(directory)
        assert not is_free(lock)
    assert not exists(directory)
    lock.release()


def test_holding_without_registering_keeps_the_directory_until_release_all(lock, directory):
    with lock.hold(extents_write=[(0, 1)]):
        assert not release_all(timeout=0.01)
        assert exists(directory)
    assert not exists(directory)
    with lock.hold(extents_write=[(0, 1)]):
        pass
    assert exists(directory)
    assert release_all()
    assert not exists(directory)


def test_a_program_that_only_holds_removes_the_directory_at_exit(directory, start):
    program = start("attempt", directory, "write", 0, 1)
    assert program.line() == "0 1"
    program.end()
    assert not exists(directory)


def test_the_directory_is_made_and_removed_under_others_safely(directory, start):
    """Exclusion holds although each turn makes the lock files anew: `open` with "x" judges."""
    programs = [start("come_and_go", directory, 40) for _ in range(3)]
    assert [program.line() for program in programs] == ["started"] * 3
    assert [program.line() for program in programs] == ["done"] * 3
    assert not exists(directory)


def test_a_directory_removed_while_it_is_entered_is_made_anew(lock, directory, monkeypatch):
    """Another process leaves between our opening of `users` and our lock on it."""
    Path(directory).mkdir(parents=True)
    Path(directory, "users").write_text(f"64 {STRIPE}\n")
    monkeypatch.setattr(lock_table, "_swept", {str(Path(directory).parent)})
    flock, removed = lock_directory._flock, []

    def late(fd: int, kind: int) -> bool:
        if not removed:
            removed.append(lock_directory._remove(directory))
        return flock(fd, kind)

    monkeypatch.setattr(lock_directory, "_flock", late)
    with lock.registered():
        assert removed == [True]
        assert "users" in names(directory)
        with lock.hold(extents_write=[(0, 1)], timeout=0):
            assert not is_free(lock)
    assert not exists(directory)


def test_sweep_removes_what_a_killed_process_left_and_nothing_in_use(lock, directory, start):
    left, used = directory[:-1] + "2", directory[:-1] + "3"
    victim, other = start("hold", left, "write", 0, 1), start("retain", used)
    assert (victim.line(), other.line()) == ("held", "retained")
    root = str(Path(directory).parent)
    with lock.registered():
        Path(root, "not-ours").mkdir()
        Path(root, "b-9").mkdir()  # Its maker died before it went on.
        assert sweep(root) == 1
        victim.kill()
        assert exists(left)
        assert sweep(root) == 1
        assert names(root) == ["a-1", "a-3", "not-ours"]
        assert not start("attempt", directory, "write").line()  # It sweeps too: ours is in use.
        assert exists(directory)
    assert sweep(str(root) + "/missing") == 0


def test_registering_sweeps_the_root_once(lock, directory, start, monkeypatch):
    monkeypatch.setattr(lock_table, "_swept", set())
    left = directory[:-1] + "2"
    victim = start("hold", left, "write", 0, 1)
    assert victim.line() == "held"
    victim.kill()
    with lock.registered():
        assert names(Path(directory).parent) == ["a-1"]


def test_a_default_root_is_private_and_goes_with_its_last_directory(tmp_path):
    root = tmp_path / f"hyperslab-locks-{os.geteuid()}"
    lock = StripedLock(str(root / "1-2"), "data.npy", STRIPE)
    with lock.registered(), lock.hold(extents_write=[(0, 1)]):
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in (root / "1-2").iterdir()} == {0o600}
    assert names(tmp_path) == []


def test_a_shared_root_gives_its_permissions_to_the_lock_files(tmp_path):
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o1777)
    lock = StripedLock(str(root / "1-2"), "data.npy", STRIPE)
    before = os.umask(0o077)
    try:
        with lock.registered(), lock.hold(extents_write=[(0, 1)]):
            assert stat.S_IMODE((root / "1-2").stat().st_mode) == 0o777
            modes = {stat.S_IMODE(file.stat().st_mode) for file in (root / "1-2").iterdir()}
            assert modes == {0o666}
    finally:
        os.umask(before)
    assert names(root) == []


@pytest.mark.parametrize("fault", ["symbolic link", "not a directory", "belongs to", "mode 0777"])
def test_a_default_root_laid_out_by_somebody_else_is_refused(tmp_path, monkeypatch, fault):
    root = tmp_path / "hyperslab-locks-7"
    if fault == "symbolic link":
        root.symlink_to(tmp_path)
    elif fault == "not a directory":
        root.write_bytes(b"")
    else:
        root.mkdir()
        root.chmod(0o777 if fault == "mode 0777" else 0o700)
    if fault == "belongs to":
        monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    lock = StripedLock(str(root / "1-2"), "data.npy", STRIPE)
    with pytest.raises(HyperslabError, match=rf"{fault}[\s\S]*HYPERSLAB_LOCK_DIR"):
        lock.retain()


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    lock = StripedLock(str(tmp_path / "file" / "1-2"), "data.npy", STRIPE)
    with pytest.raises(HyperslabError, match=r"cannot be used.*HYPERSLAB_LOCK_DIR"):
        lock.retain()


def test_a_foreign_layout_is_refused(lock, directory, monkeypatch):
    monkeypatch.setattr(lock_table, "_swept", {str(Path(directory).parent)})
    Path(directory).mkdir(parents=True)
    Path(directory, "users").write_text("something else")
    with pytest.raises(HyperslabError, match=r"not two numbers.*Remove the directory"):
        lock.retain()


# --- filesystems whose locks may not exclude ------------------------------------------------


def test_probe_tells_whether_locks_exclude(tmp_path, monkeypatch):
    assert probe(str(tmp_path))
    assert not probe(str(tmp_path / "missing"))
    # A filesystem that grants every lock, as NFS with local_lock does between machines.
    pretend = lock_root._PROBE.replace("import fcntl", "import fcntl; fcntl.lockf = print;", 1)
    monkeypatch.setattr(lock_root, "_PROBE", pretend)
    assert not probe(str(tmp_path))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "doubtful"),
    [("nfs4", True), ("lustre", True), ("fuse.sshfs", True), ("9p", True), ("ext4", False)],
)
def test_only_network_filesystems_are_probed_and_refused(tmp_path, monkeypatch, kind, doubtful):
    asked: list[str] = []

    def no(root: str) -> bool:
        asked.append(root)
        return False

    monkeypatch.setattr(lock_root, "filesystem_type", lambda path: kind)
    monkeypatch.setattr(lock_root, "probe", no)
    lock_root._is_doubtful.cache_clear()
    lock_root._probed.cache_clear()
    lock = StripedLock(str(tmp_path / "1-2"), "data.npy", STRIPE)
    try:
        for _ in range(2):
            if doubtful:
                with pytest.raises(HyperslabError, match=rf"{kind}.*HYPERSLAB_LOCK_DIR"):
                    lock.retain()
            else:
                with lock.registered():
                    pass
    finally:
        lock_root._is_doubtful.cache_clear()
        lock_root._probed.cache_clear()
    assert asked == [str(tmp_path)] * doubtful
    assert names(tmp_path) == []
