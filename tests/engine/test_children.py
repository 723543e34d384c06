"""Jobs in children, of every making, and in threads: an answer or a clear error, and an end."""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Program

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    # Not tmp_path, which is too long for the socket of a fork server.
    with tempfile.TemporaryDirectory(prefix="kin-", ignore_cleanup_errors=True) as directory:
        started: list[Program] = []

        def _start(*arguments: object) -> Program:
            started.append(Program(Path(directory), "children.py", *arguments))
            return started[-1]

        yield _start
        for program in started:
            program.kill()


# --- os.fork --------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["loky", "serial"])
@pytest.mark.parametrize("how", ["fork_and_exit", "fork_and_leave"])
def test_a_forked_child_has_workers_of_its_own_and_ends_in_silence(start, how, executor):
    program = start(how, executor)
    assert program.end() == (0, "True\n", "")
    program.assert_nothing_left()


@pytest.mark.parametrize(
    "what",
    [
        "it starts a pool",
        "it compiles",
        "a program's own function is compiled",
        "it runs a job",
        "it holds an array's lock",
        "it holds an engine",
    ],
)
def test_a_child_forked_while_another_thread_is_busy_runs_its_job(start, what):
    program = start("fork_while", what)
    assert program.end() == (0, "True\n", "")
    program.assert_nothing_left()


def test_children_forked_at_any_instant_run_their_jobs(start):
    program = start("fork_at_any_instant", 20)
    assert program.end(120) == (0, "{0}\n", "")
    program.assert_nothing_left()


@pytest.mark.parametrize("executor", ["loky", "serial", "threads"])
def test_a_child_that_comes_back_into_its_parents_job_leaves_it_to_its_parent(start, executor):
    program = start("fork_in_a_handler", executor)
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    child, parent = out.splitlines()
    assert re.fullmatch(r"child HyperslabError: this process was forked while .* True", child)
    assert parent == "parent True"
    program.assert_nothing_left()


@pytest.mark.parametrize("when", ["before", "after"])
def test_threads_that_a_child_inherits_are_refused_and_new_ones_serve(start, when):
    """An engine made before the fork, or with the old threads after it."""
    program = start("inherited_executor", when)
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    refused, answer = out.splitlines()
    assert re.match(r"HyperslabError: .* of process|HyperslabError: the threads of", refused)
    assert "make an executor" in refused
    assert answer == "True"
    program.assert_nothing_left()


# --- multiprocessing ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_pool_say_that_they_may_have_no_children(start, method):
    program = start("pool", method, "loky")
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    assert out.startswith("{'HyperslabError: this is a daemonic process of multiprocessing")
    assert len(out.splitlines()) == 1
    program.assert_nothing_left()


@pytest.mark.parametrize("setting", ["serial", "variable", "threads"])
@pytest.mark.parametrize("method", METHODS)
def test_what_workers_of_a_pool_are_told_to_do_works(start, method, setting):
    """And they leave nothing, although their pool ends them by a signal."""
    program = start("pool", method, setting)
    assert program.end() == (0, "{True}\n", "")
    program.assert_nothing_left()


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_the_other_pool_that_they_are_told_of_may_have_children(start, method):
    program = start("futures", method)
    assert program.end() == (0, "{True}\n", "")
    program.assert_nothing_left()


# --- Threads that outlast the main program --------------------------------------------------


@pytest.mark.parametrize("executor", ["loky", "serial", "threads"])
@pytest.mark.parametrize("where", ["main", "fork", "spawn"])
def test_a_job_that_is_under_way_when_its_program_ends_is_finished(start, where, executor):
    """And so is the one after it, which begins when the program has ended."""
    program = start("thread", where, executor)
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    assert out == "True\nTrue\n"
    program.assert_nothing_left()


@pytest.mark.parametrize("executor", ["loky", "serial", "threads"])
def test_ctrl_c_calls_off_a_job_that_only_the_end_waits_for(start, executor):
    program = start("thread_of_long_jobs", executor)
    assert program.line() == "main has ended"
    time.sleep(0.1)
    program.signal(signal.SIGINT)
    returned, out, err = program.end(20)
    assert returned == -signal.SIGINT
    assert err == ""
    assert re.fullmatch(
        r"JobInterrupted: kernel spin was interrupted after \d+ of 4,000 regions; .*\n", out
    )
    program.assert_nothing_left()


@pytest.mark.parametrize("executor", ["loky", "serial"])
def test_the_end_waits_for_no_endless_kernel_in_a_daemon_thread(start, executor):
    program = start("endless_daemon", executor)
    assert program.end(20) == (0, "", "")
    program.assert_nothing_left()
