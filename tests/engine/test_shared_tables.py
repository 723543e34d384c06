"""The coordinator's tables, under many threads, signal handlers and forks at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from stress import ends, held, in_child, switching_often, together

import hyperslab as hs
from hyperslab import session
from hyperslab.compiler import build, exclusion
from hyperslab.session import session_directory

# ------------------------------------------------------------------- scratch directories


@pytest.fixture
def fresh(tmp_path):
    """A root of the test's own, with what was made there removed from the table after it."""
    yield tmp_path
    for key in [key for key in session._sessions if key[1].startswith(str(tmp_path))]:
        session._sessions.pop(key).remove()


def test_threads_agree_on_one_directory_for_each_root(fresh):
    roots = [fresh / str(number) for number in range(5)]
    for root in roots:
        root.mkdir()
    found: list[set[Path]] = [set() for _ in roots]

    def ask() -> None:
        for root, known in zip(roots, found, strict=True):
            known.add(session_directory(root))

    assert together(ask, ask, ask, ask, seconds=0.5) > 0
    assert [len(known) for known in found] == [1] * 5
    assert [list(root.iterdir()) for root in roots] == [list(known) for known in found]


def test_threads_ask_while_directories_are_removed_under_them(fresh):
    def ask() -> None:
        with contextlib.suppress(FileNotFoundError):  # Removed since.
            (session_directory(fresh) / "x").touch()

    def remove() -> None:
        for listing in fresh.glob("hyperslab-session-*/sessions"):
            listing.parent.rename(fresh / f"gone-{time.monotonic_ns()}")
        time.sleep(0.001)

    before = len(os.listdir("/proc/self/fd"))
    together(ask, ask, ask, remove, seconds=1)
    ask()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_signal_handler_asks_while_a_directory_is_made(fresh, monkeypatch):
    real, seen = session._make, []

    def make(made, parent):
        real(made, parent)
        if not seen:
            seen.append(None)
            seen.append(session_directory(fresh))
        return True

    monkeypatch.setattr(session, "_make", make)
    got: list[Path] = []
    assert ends(lambda: got.append(session_directory(fresh)))
    assert got == [seen[1]]
    assert list(fresh.iterdir()) == got


def test_a_child_forked_while_a_directory_is_made_has_one_of_its_own(fresh):
    mine = session_directory(fresh)

    def ask() -> None:
        theirs = session_directory(fresh)
        assert theirs != mine
        session._remove_own()
        assert not theirs.exists()

    with held(session._lock):
        assert in_child(ask) == 0
    assert mine.is_dir()


ORPHAN = """
import os, sys, time
from hyperslab.session import session_directory
print(session_directory(sys.argv[1]), flush=True)
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_forked_child_does_not_own_what_its_parent_did(fresh):
    """The parent is killed, the child lives on: the directory is nobody's and swept."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(fresh)], stdout=subprocess.PIPE, text=True
    ) as program:
        directory = Path(program.stdout.readline().strip())
        child = int(program.stdout.readline())
        try:
            program.kill()
            program.wait()
            assert directory.is_dir()
            session_directory(fresh)
            assert not directory.exists()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("content", [b"abc", b"", b"-5\n", b"9" * 40])
def test_rubbish_in_an_owner_file_is_swept_like_any_other(fresh, content):
    left = fresh / f"hyperslab-session-{os.getuid()}-zz"
    left.mkdir()
    (left / "owner.lock").write_bytes(content)
    mine = session_directory(fresh)
    assert list(fresh.iterdir()) == [mine]


def test_a_fifo_in_place_of_an_owner_file_is_not_waited_for(fresh):
    left = fresh / f"hyperslab-session-{os.getuid()}-zz"
    left.mkdir()
    os.mkfifo(left / "owner.lock")
    assert ends(lambda: session_directory(fresh))


# ------------------------------------------------------------------- compiled kernels


def _kernel_of(number: int) -> hs.compiler.Kernel:
    def scaled(a, out):
        for i in range(a.shape[0]):
            out[i] = a[i] * number

    return hs.kernel(scaled)


def test_kernels_are_compiled_by_many_threads():
    """Each signature is a pipeline of its own, which Numba keeps in one table for all."""
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            values, out = np.arange(5.0), np.zeros(5)
            _kernel_of(number)(values, out)
            shared(values[number % 3 :], out[number % 3 :])
            if out[4] != 12:
                wrong.append(out)
        except BaseException as error:
            wrong.append(error)

    shared = _kernel_of(3)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(shared._compiled) == 1


def test_a_child_forked_during_a_compilation_compiles(monkeypatch):
    first, second = _kernel_of(2), _kernel_of(5)
    values, out = np.arange(3.0), np.zeros(3)
    first(values, out)
    real, begun = build._compile, threading.Event()

    def slowly(*arguments):
        begun.set()
        time.sleep(0.3)
        return real(*arguments)

    def both() -> None:
        first(values, out)
        assert out[2] == 4
        second(values, out)
        assert out[2] == 10

    monkeypatch.setattr(build, "_compile", slowly)
    thread = threading.Thread(target=lambda: second(values, np.zeros(3)))
    thread.start()
    begun.wait()
    assert in_child(both, seconds=60) == 0
    thread.join()


@pytest.mark.parametrize("whose", ["numba", "llvmlite"])
def test_a_fork_waits_for_the_locks_of_the_compiler(whose):
    first = _kernel_of(3)
    first(np.arange(3.0), np.zeros(3))
    locks = {"numba": exclusion._lock_of_numba(), "llvmlite": exclusion._lock_of_llvmlite()}

    def compile_another() -> None:
        out = np.zeros(3)
        _kernel_of(4)(np.arange(3.0), out)
        assert out[2] == 8

    with held(locks[whose]):
        assert in_child(compile_another, seconds=60) == 0


def test_a_child_numbers_its_symbols_anew():
    """Else two processes' kernels have helpers of one name, and may meet in one worker."""
    _kernel_of(1)(np.zeros(1), np.zeros(1))
    from numba.core.bytecode import FunctionIdentity

    mine = next(FunctionIdentity._unique_ids)

    def look() -> None:
        assert abs(next(FunctionIdentity._unique_ids) - mine) > 10**6

    assert in_child(look) == 0
