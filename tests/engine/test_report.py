"""Reports: their arithmetic, for people and for machines."""

from __future__ import annotations

import json

import pytest

from hyperslab.running.report import Report, Span

REPORT = Report(
    kernel="anomaly",
    seconds=2.0,
    compile_seconds=0.5,
    regions=1300,
    tasks=65,
    bytes_read=3 * 10**9,
    bytes_written=10**9,
    retries=2,
    workers=8,
    timeline=(Span(0, 0, 20, 4711, 0.1, 0.25), Span(1, 20, 40, 4712, 0.1, 0.5)),
)


def test_throughput_is_bytes_moved_per_second():
    assert REPORT.throughput == 2e9


def test_a_job_too_short_to_time_has_no_throughput():
    assert Report("k", 0.0, 0.0, 0, 0, 5, 5, 0, 0).throughput == 0.0


def test_it_prints_as_a_table():
    lines = str(REPORT).splitlines()
    assert lines == [
        "kernel      anomaly",
        "time        2.000 s, 0.50 s of it compiling",
        "regions     1,300 in 65 tasks, 2 run again",
        "read        3 GB",
        "written     1 GB",
        "throughput  2 GB/s",
        "workers     8",
    ]


def test_what_did_not_happen_is_not_printed():
    text = str(Report("k", 1.0, 0.0, 1, 1, 8, 8, 0, 1))
    assert "compiling" not in text
    assert "run again" not in text
    assert "1 in 1 task" in text
    assert "1 tasks" not in text


def test_machines_get_every_figure_as_json():
    figures = json.loads(json.dumps(REPORT.to_dict()))
    assert figures["throughput"] == 2e9
    assert figures["timeline"][1] == {
        "task": 1, "start": 20, "stop": 40, "worker": 4712, "began": 0.1, "seconds": 0.5,
    }  # fmt: skip
    assert set(figures) == {
        "kernel", "seconds", "compile_seconds", "regions", "tasks", "bytes_read",
        "bytes_written", "retries", "workers", "route", "timeline", "throughput",
    }  # fmt: skip


def test_a_report_cannot_be_changed():
    with pytest.raises(AttributeError):
        REPORT.seconds = 1.0
