"""What a fork finds: locks, blocks that it waits for, and what is refused where it could not."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stress import held, in_child

import hyperslab_workers
from hyperslab_workers import forks
from hyperslab_workers.errors import HyperslabError


def test_every_lock_is_made_where_forks_are_seen_to():
    """Else a child waits for ever for a thread of its parent's. Who adds a lock comes by here."""
    packages = Path(hyperslab_workers.__file__).parents[2]
    found = {
        (path.name, match[0])
        for package in ("engine", "workers")
        for path in (packages / package).rglob("*.py")
        for match in re.finditer(
            r"threading\.(?:R?Lock|Condition|Semaphore)\(|register_at_fork\(|allocate_lock\(",
            path.read_text(),
        )
    }
    assert found == {
        ("forks.py", "threading.RLock("),
        ("forks.py", "threading.Condition("),
        ("forks.py", "register_at_fork("),
        # Of one call, which tells the child that it goes on in its parent.
        ("interruption.py", "threading.Lock("),
        ("holding.py", "allocate_lock("),
        # A bell, never waited for without end: in a child its reader is told where the run goes on.
        ("mailbox.py", "allocate_lock("),
        # Go with the table of lock directories, which a child begins anew.
        ("stripe.py", "threading.Lock("),
        ("stripe.py", "threading.Condition("),
    }


def test_a_child_finds_a_lock_free_that_another_thread_holds():
    lock = forks.lock()

    def take() -> None:
        assert lock.acquire(timeout=0)

    with held(lock, 0.5):
        began = time.monotonic()
        assert in_child(take) == 0
        assert time.monotonic() - began < 0.4, "nobody waits for it"


def test_a_child_keeps_the_lock_of_the_thread_that_forked():
    lock = forks.lock()

    def release() -> None:
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()

    with lock:
        assert in_child(release) == 0


def test_a_fork_waits_until_what_a_lock_guards_is_whole(monkeypatch):
    monkeypatch.setattr(forks, "_whole", [*forks._whole])
    lock, table = forks.lock(whole=True), []

    @contextlib.contextmanager
    def change() -> Iterator[None]:
        with lock:
            table.append("half")
            yield
            table.append("whole")

    def look() -> None:
        assert table == ["half", "whole"]

    with held(change(), 0.3):
        assert in_child(look) == 0


def test_a_fork_waits_for_undisturbed_blocks_and_lets_others_in_meanwhile():
    steps: list[str] = []

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        with forks.undisturbed():
            yield
            # The fork waits by now: a thread that is inside must be able to go further in, and
            # whom it waits for must be able to enter.
            with forks.undisturbed(), held(forks.undisturbed(), 0.1):
                steps.append("within")
            steps.append("over")

    def look() -> None:
        assert steps == ["within", "over"]
        with forks.undisturbed():
            forks.check_whole("do anything")

    with held(block(), 0.3):
        assert in_child(look) == 0


def test_a_fork_goes_on_without_what_does_not_end_and_the_child_knows(monkeypatch):
    monkeypatch.setattr(forks, "_PATIENCE", 0.2)

    def look() -> None:
        with pytest.raises(HyperslabError, match=r"cannot do it.*forked while.*spawn"):
            forks.check_whole("do it")

    with held(forks.undisturbed(), 1.0):
        began = time.monotonic()
        assert in_child(look) == 0
        assert time.monotonic() - began < 0.8
    forks.check_whole("do it")
    assert in_child(lambda: forks.check_whole("do it")) == 0, "the next fork is not concerned"


def test_a_fork_waits_for_imports_of_other_threads(tmp_path, monkeypatch):
    (tmp_path / "slowly_imported.py").write_text("import time\ntime.sleep(0.5)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    thread = threading.Thread(target=importlib.import_module, args=("slowly_imported",))
    thread.start()
    while "slowly_imported" not in sys.modules:
        time.sleep(0.001)

    def look() -> None:
        assert importlib.import_module("slowly_imported").whole

    assert in_child(look) == 0
    thread.join()


def test_a_module_forks_while_another_thread_waits_for_it(tmp_path, monkeypatch):
    """Who waits for this very thread is not waited for."""
    (tmp_path / "forks_at_import.py").write_text(
        "import os, time\ntime.sleep(0.3)\nbegan = time.monotonic()\nchild = os.fork()\n"
        "if child == 0:\n    os._exit(0)\ntook = time.monotonic() - began\nos.waitpid(child, 0)\n"
    )
    (tmp_path / "imports_it.py").write_text("import forks_at_import\n")
    monkeypatch.syspath_prepend(tmp_path)
    thread = threading.Thread(target=importlib.import_module, args=("imports_it",))
    timer = threading.Timer(0.1, thread.start)
    timer.start()
    assert importlib.import_module("forks_at_import").took < 5
    timer.join()
    thread.join()


def test_a_block_that_was_left_without_telling_stops_no_fork():
    def leave_half_entered() -> None:
        # As by Ctrl-C between the two.
        forks._inside.add(forks._Inside())

    thread = threading.Thread(target=leave_half_entered)
    thread.start()
    thread.join()
    began = time.monotonic()
    assert in_child(lambda: None) == 0
    assert time.monotonic() - began < 5


def test_a_signal_handler_forks_inside_a_block_and_inside_a_lock():
    lock, statuses = forks.lock(whole=True), []

    def check() -> None:
        forks.check_whole("do it")
        with lock, forks.undisturbed():
            pass

    def fork(number: int, frame: object) -> None:
        statuses.append(in_child(check))

    previous = signal.signal(signal.SIGUSR1, fork)
    try:
        with forks.undisturbed(), lock:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0)
    finally:
        signal.signal(signal.SIGUSR1, previous)
        forks._whole.remove(lock)
    assert statuses == [0]


def test_ctrl_c_while_a_fork_waits_ends_the_wait_and_is_not_lost():
    child = 0
    with held(forks.undisturbed(), 1.0), pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        child = os.fork()
        if child == 0:
            os._exit(3)
        time.sleep(0.7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    # Nothing is held that was taken for it.
    assert in_child(lambda: None) == 0


def test_a_call_that_fails_in_a_child_keeps_no_other_from_being_made(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(forks, "_calls", [lambda: 1 // 0, lambda: calls.append("made")])

    def look() -> None:
        assert calls == ["made"]
        assert forks.is_forked()

    assert in_child(look) == 0
    assert not calls
    assert not forks.is_forked()
