"""How programs end: with the status and the words that are theirs, and with nothing left.

Python's versions differ most here. 3.12 starts no thread once it has begun to exit; later ones
do, and let it hang. Children of multiprocessing run no exit handlers up to 3.12, and forked ones
none that they inherited from 3.13 on.
"""

from __future__ import annotations

import _thread
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Program

from hyperslab.interruption import uninterrupted


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    # Not tmp_path, which is too long for the socket of a fork server.
    with tempfile.TemporaryDirectory(prefix="end-", ignore_cleanup_errors=True) as directory:
        started: list[Program] = []

        def _start(*arguments: object) -> Program:
            started.append(Program(Path(directory), "endings.py", *arguments))
            return started[-1]

        yield _start
        for program in started:
            program.kill()


@pytest.mark.parametrize(
    "how",
    [
        "default_engine",
        "serial_engine",
        "engine_left_open",
        "engine_only_started",
        "engine_in_a_cycle",
        "engine_closed_by_an_exit_handler",
        "engine_closed_by_a_finalizer",
        "engine_closed_by_a_destructor",
        "threads_left_open",
        "arrays_left_open",
    ],
)
def test_what_is_left_open_ends_in_silence(start, how):
    program = start(how)
    assert program.end() == (0, "", "")
    program.assert_nothing_left()


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("exception", 1, r"Traceback (?s:.*)\nValueError: as planned\n"),
        ("exit_status", 3, ""),
        ("exit_words", 1, "as planned\n"),
        ("ctrl_c", -signal.SIGINT, r"Traceback (?s:.*)\nKeyboardInterrupt\n"),
    ],
)
def test_the_status_and_the_last_words_are_the_programs(start, how, status, words):
    program = start(how)
    returned, _, err = program.end()
    assert returned == status, err
    assert re.fullmatch(words, err), err
    assert err.count("Traceback") <= 1, err
    program.assert_nothing_left()


@pytest.mark.parametrize(
    ("how", "status", "out", "words"),
    [
        ("ctrl_c_at_exit", -signal.SIGINT, "whole\n", ""),
        ("ctrl_c_at_exit_of_threads", -signal.SIGINT, "whole\n", ""),
        (
            "ctrl_c_at_exit_after_an_exception",
            -signal.SIGINT,
            "whole\n",
            r"Traceback (?s:.*)\nValueError: as planned\n",
        ),
        ("ctrl_c_at_exit_with_a_status", 3, "whole\n", ""),
        ("ctrl_c_at_exit_with_a_handler", 0, "whole\nheard\n", ""),
    ],
)
def test_ctrl_c_at_exit_cuts_nothing_in_half_and_is_not_lost(start, how, status, out, words):
    program = start(how)
    returned, printed, err = program.end()
    assert (returned, printed) == (status, out), err
    assert re.fullmatch(words, err), err
    assert err.count("Traceback") <= 1, err
    program.assert_nothing_left()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_ctrl_c_at_any_moment_of_the_exit_leaves_nothing(start, delay):
    program = start("leaving")
    assert program.line() == "leaving"
    time.sleep(delay)
    program.signal_group(signal.SIGINT)
    returned, _, err = program.end()
    # Python itself takes no notice of one that comes while it waits for threads.
    assert returned in (0, -signal.SIGINT), err
    program.assert_nothing_left()


# --- Jobs that outlast main, or begin after it ----------------------------------------------


def refused(err: str) -> bool:
    """Whether the only words are those of one error of ours."""
    last = err.rstrip().rpartition("\n")[2]
    return err.count("Traceback") == 1 and re.match(r"hyperslab\.\w+: ", last) is not None


@pytest.mark.parametrize("how", ["serial_thread_after_main", "serial_exit_handler"])
def test_a_job_without_workers_needs_no_main(start, how):
    program = start(how)
    assert program.end() == (0, "finished\n", "")
    program.assert_nothing_left()


def test_a_job_in_a_thread_is_waited_for(start):
    program = start("thread")
    assert program.end() == (0, "finished\n", "")
    program.assert_nothing_left()


def test_nothing_is_left_of_a_job_in_a_thread(start):
    program = start("thread")
    assert program.end()[0] == 0
    program.assert_nothing_left()


def test_nothing_is_left_of_a_job_in_a_daemon_thread(start):
    program = start("daemon_thread")
    returned, out, err = program.end()
    assert (returned, out) == (0, ""), err
    program.assert_nothing_left()


def test_a_job_in_a_daemon_thread_ends_with_one_error_or_in_silence(start):
    program = start("daemon_thread")
    _, _, err = program.end()
    assert err == "" or refused(err), err


@pytest.mark.parametrize(
    "how", ["thread_after_main", "exit_handler", "exit_handler_with_the_first_job"]
)
def test_a_job_that_begins_after_main_is_run_or_refused(start, how):
    program = start(how)
    returned, out, err = program.end()
    assert returned == 0
    assert (out, err) == ("finished\n", "") or (out == "" and refused(err)), (out, err)
    program.assert_nothing_left()


# --- Children of multiprocessing ------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_leaves_nothing(start, method):
    program = start("child", method, "closed")
    assert program.end() == (0, "finished\n", "")
    program.assert_nothing_left()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_may_leave_its_engine_open(start, method):
    program = start("child", method, "open")
    assert program.end(20.0) == (0, "finished\n", "")
    program.assert_nothing_left()


# --- No thread can be started ---------------------------------------------------------------


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)


def interrupt_itself(steps: list[str]) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.02)
    steps.append("whole")


def test_without_threads_ctrl_c_waits_all_the_same(no_threads):
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        uninterrupted(lambda: interrupt_itself(steps))
    assert steps == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_threads_a_handler_of_the_programs_own_hears_each(no_threads):
    steps: list[str] = []

    def twice() -> None:
        interrupt_itself(steps)
        interrupt_itself(steps)

    previous = signal.signal(signal.SIGINT, lambda number, frame: steps.append("heard"))
    try:
        uninterrupted(twice)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert steps == ["whole", "whole", "heard", "heard"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_without_threads_what_the_system_does_is_left_to_it(no_threads, handler):
    seen = []
    previous = signal.signal(signal.SIGINT, handler)
    try:
        uninterrupted(lambda: seen.append(signal.getsignal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert seen == [handler]


def test_without_threads_an_error_is_raised_as_it_is(no_threads):
    with pytest.raises(ZeroDivisionError) as caught:
        uninterrupted(lambda: print(1 // 0))
    assert caught.value.__context__ is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
