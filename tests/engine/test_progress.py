"""Progress: silence, log lines and the bar, each with a clock that the test turns."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from hyperslab.running import progress
from hyperslab.running.progress import make_progress


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` lets time pass, for log lines and the wait before the bar."""
    now = [100.0]

    def advance(seconds):
        now[0] += seconds

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return advance


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "hyperslab")
    return lambda: [record.getMessage() for record in caplog.records]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal, when called: pytest puts its own there before each test."""

    def make(term="xterm"):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", term)
        return stream

    return make


def run(display, clock, steps):
    for seconds, regions in steps:
        clock(seconds)
        display.update(regions)
    display.close()


def test_false_is_silence(clock, lines, terminal):
    screen = terminal()
    run(make_progress(False, "k", 10, 100), clock, [(0, 0), (60, 5), (60, 10)])
    assert lines() == []
    assert screen.getvalue() == ""


def test_a_short_job_says_nothing(clock, lines):
    run(make_progress("auto", "k", 10, 100), clock, [(0, 0), (0.4, 9)])
    assert lines() == []


def test_a_long_job_says_every_ten_seconds_how_far_it_is(clock, lines):
    display = make_progress("auto", "anomaly", 200, 8 * 10**9)
    run(display, clock, [(0, 0), (1, 10), (9, 100), (9, 190), (1, 200)])
    assert lines() == [
        "anomaly: 100 of 200 regions (50 %) in 10.0 s, 400 MB/s, 10 s left",
        "anomaly: 200 of 200 regions (100 %) in 20.0 s, 400 MB/s, 0 s left",
        "anomaly: 200 of 200 regions (100 %) all in 20.0 s, 400 MB/s",
    ]


def test_a_job_of_more_than_half_a_second_has_one_line(clock, lines):
    run(make_progress("auto", "k", 10, 3 * 10**9), clock, [(0, 0), (0.5, 4), (0.5, 10)])
    assert lines() == ["k: 10 of 10 regions (100 %) all in 1.0 s, 3 GB/s"]


def test_a_job_that_ended_early_says_so(clock, lines):
    run(make_progress("auto", "k", 10, 10**9), clock, [(0, 0), (1, 5)])
    assert lines() == ["k: 5 of 10 regions (50 %) stopped after 1.0 s, 500 MB/s"]


def test_true_speaks_at_once_and_divides_by_no_zero(clock, lines):
    run(make_progress(True, "k", 0, 0), clock, [(0, 0)])
    assert lines() == [
        "k: 0 of 0 regions (100 %) in 0.0 s, 0 B/s, 0 s left",
        "k: 0 of 0 regions (100 %) all in 0.0 s, 0 B/s",
    ]


def test_without_logging_set_up_the_lines_go_to_stderr(clock, monkeypatch):
    log = logging.Logger("alone")
    monkeypatch.setattr(progress, "_logger", lambda: log)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    run(make_progress(True, "k", 4, 8), clock, [(0, 0), (11, 2)])
    assert "alone k: 2 of 4 regions (50 %)" in stream.getvalue()
    assert len(log.handlers) == 1


def test_logging_that_was_set_up_decides(clock, monkeypatch):
    log = logging.Logger("alone", logging.WARNING)
    stream = io.StringIO()
    log.addHandler(logging.StreamHandler(stream))
    monkeypatch.setattr(progress, "_logger", lambda: log)
    run(make_progress(True, "k", 4, 8), clock, [(0, 0), (11, 2)])
    assert stream.getvalue() == ""
    assert len(log.handlers) == 1


def test_a_terminal_gets_a_bar_with_regions(terminal):
    screen = terminal()
    display = make_progress(True, "anomaly", 2000, 8 * 10**9)
    display.update(0)
    display.update(2000)
    display.close()
    shown = screen.getvalue()
    assert "anomaly" in shown
    assert "2,000/2,000 regions" in shown


def test_a_terminal_that_cannot_draw_gets_lines(clock, lines, terminal):
    terminal("dumb")
    run(make_progress(True, "k", 4, 8), clock, [(0, 0), (1, 4)])
    assert lines()[-1] == "k: 4 of 4 regions (100 %) all in 1.0 s, 8 B/s"


def test_a_short_job_leaves_the_terminal_alone(terminal):
    screen = terminal()
    display = make_progress("auto", "k", 10, 100)
    display.update(0)
    display.update(10)
    display.close()
    assert screen.getvalue() == ""


def test_a_program_without_stderr_is_served_too(clock, lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    run(make_progress(True, "k", 4, 8), clock, [(0, 0), (1, 4)])
    assert lines()[-1] == "k: 4 of 4 regions (100 %) all in 1.0 s, 8 B/s"
