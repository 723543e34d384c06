"""A YAML, TOML or JSON file as plain values, with the lines of its keys where they are known.

Loading constructs text, numbers, booleans, lists and mappings and nothing else: a tag such as
``!!python/object`` is a problem with a line, like any other.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from hyperslab.errors import SpecError
from hyperslab.jobs.limits import (
    DEEPEST,
    LARGEST,
    TOO_DEEP,
    Path,
    Unreadable,
    check_size,
    large_integers,
)
from hyperslab.jobs.problems import Lines, Problem, dotted, place, spec_error
from hyperslab.jobs.words import shown
from hyperslab.jobs.yaml_text import read_yaml

__all__ = ["Document", "read_document"]


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a document, and where they stand."""

    name: str
    """The file as its user named it, for messages."""

    folder: FilePath
    """Absolute path of the file's folder: what relative paths in it start from."""

    value: Any
    """Plain values."""

    lines: Mapping[Path, int]
    """The line of every key and item; empty where the format's parser tells none."""

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a path, or on the line of the nearest value above it."""
        return Problem(self._line(path), dotted(path), message)

    def where(self, path: Path) -> str:
        """The file and the line of a value, or its path where lines are not known."""
        line = self._line(path)
        return place(self.name, line) if line else f"{self.name}, {dotted(path)}"

    def _line(self, path: Path) -> int:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def read_document(path: str | FilePath) -> tuple[Document, tuple[Problem, ...]]:
    """Read a document; its name's ending tells the format.

    Returns
    -------
    document : Document
    problems : tuple of Problem
        Keys that stand twice, and the like: what does not keep the rest from being looked at.

    Raises
    ------
    SpecError
        It cannot be read, its syntax is broken, or it is too large.
    """
    name = str(path)
    parse = _PARSERS.get(FilePath(path).suffix.lower())
    if parse is None:
        raise SpecError(
            f"{name!r} is no job spec by its name: it should end in {', '.join(_PARSERS)}",
            problems=(f"{name}: unknown format",),
        )
    data = _read(name)
    try:
        value, lines, problems = parse(_decoded(data))
    except Unreadable as error:
        raise spec_error(name, [Problem(error.line, "", str(error))]) from None
    except RecursionError:
        raise spec_error(name, [Problem(0, "", TOO_DEEP)]) from None
    document = Document(name, FilePath(path).absolute().parent, value, lines)
    message = "no number of 64 bits is so large"
    large = [document.problem(where, message) for where in large_integers(value)]
    if large:
        # Python itself refuses to write some of these out, as other messages would.
        raise spec_error(name, [*problems, *large])
    return document, tuple(problems)


_Parsed = tuple[Any, Lines, list[Problem]]


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise SpecError(
            f"{name!r} cannot be read ({error.strerror}); check its name and permissions",
            problems=(f"{name}: {error.strerror}",),
        ) from None
    if len(data) > LARGEST:
        message = f"the file is longer than {LARGEST:,} bytes, the most that is read"
        raise spec_error(name, [Problem(0, "", f"{message}; is it a job spec?")])
    return data


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8 text"
        raise Unreadable(line, message) from None


def _too_many_digits(error: ValueError) -> Unreadable:
    # Python's advice after the semicolon is for programmers.
    return Unreadable(0, str(error).partition(";")[0])


# --- JSON ----------------------------------------------------------------------------------


def _json(text: str) -> _Parsed:
    repeated: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                repeated.append(key)
            result[key] = value
        return result

    try:
        value = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise Unreadable(error.lineno, f"{error.msg} (column {error.colno})") from None
    except ValueError as error:
        raise _too_many_digits(error) from None
    check_size(value)
    try:
        # What is JSON is YAML as well, but for the characters that are replaced here and for
        # oddities, such as a colon on the line after its key. Those cost the lines only.
        _, lines, problems = read_yaml(_NOT_IN_YAML.sub(_in_yaml, text))
    except Unreadable:
        message = "this key stands twice in one mapping; keep one"
        return value, {}, [Problem(0, shown(key), message) for key in repeated]
    return value, lines, problems


# An escaped backslash stands here so that what follows it is taken for no escape.
_NOT_IN_YAML = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[^\n\x20-\x7e]"
)


def _in_yaml(match: re.Match[str]) -> str:
    found = match[0]
    if found == "\\\\":
        return found
    if found in "\t\r":
        return " "  # between values: in text JSON has them escaped only
    character = json.loads(f'"{found}"') if len(found) > 1 else found
    return f"\\U{ord(character):08x}"


# --- TOML ----------------------------------------------------------------------------------

_TOML_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"{3,5}|\Z)|\'\'\'.*?(?:\'{3,5}|\Z)'
    r'|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|#[^\n]*',
    re.DOTALL,
)
_TOML_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){{{DEEPEST + 1}}}")


def _toml(text: str) -> _Parsed:
    # tomllib takes time and memory by the square of a dotted key's parts: 40 kB are 2 GB.
    if _TOML_LONG_KEY.search(_TOML_TEXT.sub("_", text)):
        raise Unreadable(0, TOO_DEEP)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at line (\d+), column \d+\)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        raise Unreadable(line, str(error).replace(where[0] if where else "", "")) from None
    except ValueError as error:
        raise _too_many_digits(error) from None
    check_size(value)
    return value, {}, []


_PARSERS: dict[str, Callable[[str], _Parsed]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".toml": _toml,
    ".json": _json,
}
