"""How large a document may be, so that reading any takes a second and some ten megabytes at most.

Reading YAML takes 20 to 40 µs for each value, most of it in ruamel.yaml.

A few hundred bytes can stand for gigabytes: by aliases in YAML, by dotted keys in TOML. So
the limits hold for what a document says when it is written out, not for its file alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = [
    "DEEPEST",
    "LARGEST",
    "MOST_VALUES",
    "TOO_DEEP",
    "Allowance",
    "Path",
    "Unreadable",
    "check_size",
    "large_integers",
]

LARGEST = 2**18
"""Bytes of the longest document, and characters of all its text with aliases written out."""

MOST_VALUES = 10_000
"""Values of a document, with aliases written out."""

DEEPEST = 32
"""Levels of values inside values."""

TOO_DEEP = f"values are nested too deeply; {DEEPEST} levels are read"

Path = tuple[str | int, ...]
"""Keys and indices that lead from the top of a document to a value."""


class Unreadable(Exception):
    """A document of which nothing can be used; knows the line, or 0."""

    def __init__(self, line: int, message: str) -> None:
        # Parsers quote the document, which may be one long name.
        super().__init__(message if len(message) <= 500 else message[:500] + "…")
        self.line = line


class Allowance:
    """What of the limits a document has left."""

    def __init__(self) -> None:
        self._values = MOST_VALUES
        self._characters = LARGEST

    def spend(self, line: int, text: str, *, values: int = 1) -> None:
        """Count a value and its text, or with no values the text of a key.

        Raises
        ------
        Unreadable
            It is one too many.
        """
        self._values -= values
        self._characters -= len(text)
        if self._values < 0:
            raise Unreadable(
                line,
                f"the document, with its aliases written out, has more than {MOST_VALUES:,} "
                "values, the most that are read; put large tables in files",
            )
        if self._characters < 0:
            raise Unreadable(
                line,
                f"the document, with its aliases written out, has more than {LARGEST:,} "
                "characters of text, the most that are read",
            )


def check_size(value: Any) -> None:
    """Count the values and levels of a document that has no lines yet.

    Raises
    ------
    Unreadable
        There are too many.
    """
    allowance = Allowance()
    for path, item in _walk(value):
        allowance.spend(0, item if isinstance(item, str) else "")
        if len(path) > DEEPEST:
            raise Unreadable(0, TOO_DEEP)


def large_integers(value: Any) -> Iterator[Path]:
    """Where integers stand that no NumPy type of 64 bits holds."""
    for path, item in _walk(value):
        if isinstance(item, int) and not -(2**63) <= item < 2**64:
            yield path


def _walk(root: Any) -> Iterator[tuple[Path, Any]]:
    """Every value with its path. Without recursion: nothing is known of the depth yet."""
    waiting: list[tuple[Path, Any]] = [((), root)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, dict):
            waiting += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, index), item) for index, item in enumerate(value)]
