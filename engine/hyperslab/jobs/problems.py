"""The mistakes in a document, and the one error that tells them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hyperslab.errors import SpecError
from hyperslab.jobs.limits import Path

__all__ = ["Lines", "Problem", "dotted", "place", "repeated_key", "spec_error"]

Lines = dict[Path, int]
"""The line, from 1, on which the key or item at each path stands."""

_MOST_TOLD = 50
"""Problems that one error tells: more are read by nobody."""

_LONGEST = 1000
"""Characters of one message: it may quote a path or a dtype of any length."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a document."""

    line: int
    """Line it stands on, from 1; 0 where lines are not known."""

    path: str
    """Where in the document, as ``steps[1].arguments[0].halo``; empty for all of it."""

    message: str
    """What is wrong, and what to do."""


def dotted(path: Path) -> str:
    """A path as text.

    Examples
    --------
    >>> dotted(("steps", 1, "arguments", 0, "halo"))
    'steps[1].arguments[0].halo'
    """
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{_cut(part, 100)}" for part in path
    ).removeprefix(".")


def place(name: str, line: int) -> str:
    """A file and the line in it, if that is known.

    Examples
    --------
    >>> place("job.yaml", 3), place("job.toml", 0)
    ('job.yaml:3', 'job.toml')
    """
    return f"{name}:{line}" if line else name


def repeated_key(line: int, path: Path, first: int) -> Problem:
    """The problem of a key that stands twice in one mapping."""
    return Problem(line, dotted(path), f"this key stands on line {first} already; keep one")


def spec_error(name: str, problems: Iterable[Problem]) -> SpecError:
    """One error that tells all problems of a document, in the order of their lines.

    Where lines are not known, the order is that in which the problems were found.
    """
    every = sorted(dict.fromkeys(problems), key=lambda p: (p.line, p.path if p.line else ""))
    told = []
    for problem in every[:_MOST_TOLD]:
        where = f"{place(name, problem.line)}: " + (f"{problem.path}: " if problem.path else "")
        text = where + _cut(problem.message, _LONGEST).replace("\n", "\n    ")
        # An escaped half of a surrogate pair can stand in YAML and JSON, and on no terminal.
        told.append(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    count = "1 problem" if len(every) == 1 else f"{len(every):,} problems"
    rest = f", of which these are the first {len(told):,}" if len(told) < len(every) else ""
    message = f"{name} has {count}; nothing was run or written{rest}\n  " + "\n  ".join(told)
    return SpecError(message, problems=tuple(told))


def _cut(text: str, length: int) -> str:
    """The beginning and the end: what was wrong may stand behind a very long path."""
    if len(text) <= length:
        return text
    return text[: length - length // 3] + "…" + text[len(text) - length // 3 :]
