"""Locks between threads and real processes: exclusion, fairness, time-outs, interrupts, fork."""

from __future__ import annotations

import pickle
import random
import signal
import struct
import threading
import time
from pathlib import Path

import pytest

from hyperslab_workers.errors import HyperslabError, LockTimeout
from hyperslab_workers.locks import StripedLock
from hyperslab_workers.locks import stripe as lock_stripe

STRIPE = 65536


def exists(directory: str) -> bool:
    return Path(directory).exists()


def test_pickling_keeps_the_lock_and_is_small(lock, is_free):
    copy = pickle.loads(pickle.dumps(lock))
    assert copy == lock
    assert len(pickle.dumps(lock)) < 500
    with lock.hold(extents_write=[(0, 1)]):
        assert not is_free(copy)


# --- exclusion ------------------------------------------------------------------------------


def test_readers_share_and_writers_exclude_between_threads(lock, is_free):
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


def test_a_stripe_in_both_lists_is_held_exclusively(lock, is_free):
    with lock.hold(extents_read=[(0, 3 * STRIPE)], extents_write=[(STRIPE, STRIPE + 1)]):
        assert is_free(lock, (0, 1), write=False)
        assert not is_free(lock, (STRIPE, STRIPE + 1), write=False)
        assert is_free(lock, (2 * STRIPE, 2 * STRIPE + 1), write=False)


@pytest.mark.parametrize("keep_open", [10**6, -1], ids=["files kept open", "files closed"])
def test_readers_share_and_writers_exclude_between_processes(
    lock, directory, start, monkeypatch, keep_open, is_free
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


def test_processes_with_different_layouts_exclude_each_other(lock, directory, start, is_free):
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


def test_a_timeout_between_threads_names_this_process(lock, is_free):
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


def test_nesting_is_refused_and_the_outer_lock_stays(lock, directory, is_free):
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


def test_an_error_inside_releases(lock, is_free):
    with pytest.raises(KeyError), lock.hold(extents_write=[(0, 3 * STRIPE)]):
        raise KeyError("in the block")
    assert is_free(lock, (0, 3 * STRIPE))


# An interrupt between the opening of a file and its first owner is a file that Python closes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_moment_leaves_nothing_held(lock, is_free):
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


def test_a_forked_child_that_ends_does_not_free_the_parents_lock(lock, directory, start, is_free):
    program = start("fork_then_wait", directory)
    assert program.line() == "child gone"
    assert not is_free(lock)
    program.go_on()
    program.end()
    assert is_free(lock)
