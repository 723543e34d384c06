"""The measurements as a page of Markdown."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from contender import CONTENDERS
from measure import Times, ratios
from memory import Peak
from targets import targets
from workloads import WORKLOADS, Workload

__all__ = ["Results", "render"]

_BY_NAME = {workload.name: workload for workload in WORKLOADS}


@dataclass(slots=True)
class Results:
    """All that was measured in one run."""

    command: str
    """The command line."""

    shape: tuple[int, int, int]
    """Of the inputs, float32."""

    facts: dict[str, str]
    """Of the machine."""

    versions: dict[str, str]
    """Of packages."""

    rounds: int
    """Timed runs of everything."""

    warm: dict[str, dict[str, Times]] = field(default_factory=dict)
    """By workload and contender, inputs in the page cache."""

    cold: dict[str, dict[str, Times]] = field(default_factory=dict)
    """By workload and contender, inputs on the disk."""

    small: dict[str, dict[int, dict[str, Times]]] = field(default_factory=dict)
    """Small arrays, by workload, bytes and contender."""

    programs: dict[str, dict[str, Times]] = field(default_factory=dict)
    """Whole scripts, by size of the input."""

    alone: dict[str, float] = field(default_factory=dict)
    """Seconds of hyperslab's own costs."""


def render(results: Results) -> str:
    """The page; what a person found out about its figures stands in ``limits.md``."""
    # Of a run of the small parts alone there is nothing to explain.
    limits = (Path(__file__).parent / "limits.md").read_text() if results.warm else ""
    return "\n".join([*_head(results), *_body(results), "", limits]).rstrip() + "\n"


def _head(results: Results) -> Iterator[str]:
    hours, rows, columns = results.shape
    size = 4 * prod(results.shape)
    yield "# Benchmarks" if results.warm or results.cold else "# Start-up and small arrays"
    yield ""
    yield "Written by the command below; the numbers are those of one machine on one day."
    yield ""
    yield "```"
    yield results.command
    yield "```"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("date", f"{datetime.date.today():%Y-%m-%d}"),
            *results.facts.items(),
            ("versions", ", ".join(f"{name} {v}" for name, v in results.versions.items())),
            ("input", f"{hours} × {rows} × {columns} float32, {size / 1e9:.3g} GB a file"),
            ("rounds", str(results.rounds)),
        ],
    )
    yield ""
    yield "All contenders run in turn in one session, each in a process of its own that has"
    yield "compiled and started its pool before. A *round* is one run of each; a ratio is taken"
    yield "within a round, and the table gives the median over the rounds and, in brackets, the"
    yield "quartiles. What is timed is the whole of a user's call: opening the inputs, making the"
    yield "result's file, computing. Results are compared before anything is timed. Nobody waits"
    yield "for the disk: new files are in the page cache when time is up."
    yield ""
    yield "Before a run that makes a large file, as much free memory is made sure of: a virtual"
    yield "machine gives free memory back to its host, and whoever comes next would pay for it."
    yield "What takes longer than two seconds may still lose some of it meanwhile."
    yield ""
    yield "| workload | what |"
    yield "| --- | --- |"
    for workload in WORKLOADS:
        yield f"| {workload.title} | {workload.what} |"
    yield ""
    yield "The code each contender runs stands in `tests/benchmarks/`:"
    yield ""
    for contender in CONTENDERS.values():
        mode = {
            "start_afresh": ": workers that are warm but have not mapped the inputs yet",
            "hold": ": inputs stay mapped from run to run, as in hyperslab's workers",
        }.get(contender.mode, "")
        yield f"- {contender.title}: `{contender.module}.py`{mode}"


def _body(results: Results) -> Iterator[str]:
    promised = list(targets(results.warm, results.programs, results.alone))
    if promised:
        yield from ("", "## Targets", "")
        yield from _table(
            ("what", "target", "measured", "reached"),
            [
                (
                    t.what,
                    f"{'≥' if t.unit == '×' else '≤'} {t.limit:g} {t.unit}",
                    f"{t.measured:.3g} {t.unit}",
                    "yes" if t.reached else "**no**",
                )
                for t in promised
            ],
        )
    for title, times in (
        ("Inputs in the page cache", results.warm),
        ("Inputs on the disk", results.cold),
    ):
        if times:
            yield from ("", f"## {title}", "", "Gigabytes of input a second, medians:", "")
            yield from _grid(times, lambda t, w, _: f"{_speed(t, w, results.shape):.3g}")
            yield from ("", "Times as long as hyperslab takes:", "")
            yield from _grid(times, lambda t, _, own: _ratio(own, t), skip_first=True)
    if results.warm:
        yield from ("", "## Memory", "")
        yield "Peak of all processes together, in MB: private / resident. Resident memory counts"
        yield "the pages of mapped files once for every process that has them mapped."
        yield ""
        yield from _grid(results.warm, lambda t, _w, _o: _megabytes(t.memory))
    if results.small:
        yield from ("", "## Small arrays", "")
        yield "Milliseconds for a whole call (open, compute, write the result), on warm workers,"
        yield "and in brackets how many times as long as hyperslab's:"
        for workload, sizes in results.small.items():
            yield from ("", f"{_BY_NAME[workload].title}:", "")
            yield from _small(sizes)
    if results.programs:
        yield from ("", "## Whole scripts, second run", "")
        yield "Start, mean of the input, exit (`tests/benchmarks/scripts/`), with whatever an"
        yield "earlier run has compiled and kept; the first run beside it."
    for size, programs in results.programs.items():
        yield from ("", f"{size}:", "")
        own = next(iter(programs.values()))
        yield from _table(
            ("script", "seconds", "times as long", "private / resident MB"),
            [
                (name, f"{t.median:.3f}", _ratio(own, t), _megabytes(t.memory))
                for name, t in programs.items()
            ],
        )
    if results.alone:
        yield from ("", "## What the engine itself costs", "")
        yield from _table(("", ""), _own_costs(results.alone))


def _own_costs(alone: dict[str, float]) -> list[tuple[str, str]]:
    return [
        ("launch of a job on 8 numbers, planning included", f"{alone['launch'] * 1e3:.2f} ms"),
        ("the same, planned before", f"{alone['launch_planned'] * 1e3:.2f} ms"),
        (
            "one of 10,000 regions of 64 KiB, summed",
            f"{alone['region_reading'] * 1e6:.0f} µs",
        ),
        (
            "one of 10,000 regions of 64 KiB, computed into another file",
            f"{alone['region_writing'] * 1e6:.0f} µs",
        ),
        ("planning a mean over 10 TB", f"{alone['planning'] * 1e3:.2f} ms"),
    ]


def _small(sizes: dict[int, dict[str, Times]]) -> Iterator[str]:
    names = list(next(iter(sizes.values())))
    rows = []
    for size, times in sizes.items():
        own = times[names[0]]
        cells = [
            f"{1e3 * t.median:.3g}" + ("" if t is own else f" ({ratios(own, t).median:.2f})")
            for t in times.values()
        ]
        rows.append((_bytes(size), *cells))
    yield from _table(("input", *(CONTENDERS[name].title for name in names)), rows)


def _bytes(size: int) -> str:
    for unit, least in (("MB", 10**6), ("KB", 10**3)):
        if size >= least:
            return f"{size // least} {unit}"
    return f"{size} B"


def _speed(times: Times, workload: Workload, shape: tuple[int, ...]) -> float:
    return workload.inputs * 4 * prod(shape) / times.median / 1e9


def _ratio(own: Times, other: Times) -> str:
    found = ratios(own, other)
    return f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"


def _megabytes(peak: Peak | None) -> str:
    return "" if peak is None else f"{peak.private / 1e6:.0f} / {peak.resident / 1e6:.0f}"


def _grid(times: dict[str, dict[str, Times]], cell, *, skip_first: bool = False) -> Iterator[str]:
    """A table of workloads by contenders; the first contender is whom others are held against."""
    names = list(dict.fromkeys(name for row in times.values() for name in row))
    own = names[0]
    shown = names[1:] if skip_first else names
    rows = [
        (
            _BY_NAME[workload].title,
            *(
                cell(row[name], _BY_NAME[workload], row[own]) if name in row else "–"
                for name in shown
            ),
        )
        for workload, row in times.items()
    ]
    yield from _table(("workload", *(CONTENDERS[name].title for name in shown)), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
