"""A YAML, TOML or JSON file as plain values, with the line of every key.

Loading constructs text, numbers, booleans, lists and mappings and nothing else: a tag such as
``!!python/object`` is a problem with a line, like any other.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from hyperslab.errors import SpecError
from hyperslab.jobs.positions import Lines, Path, json_lines, toml_lines

__all__ = ["Document", "Problem", "read_document", "spec_error"]

_LARGEST = 4 * 2**20
"""Bytes of the longest document that is read."""

_MOST_VALUES = 200_000
"""Values up to which a YAML document is expanded: nested aliases grow exponentially."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a document."""

    line: int
    """Line it stands on, from 1."""

    path: str
    """Where in the document, as ``steps[1].arguments[0].halo``; empty for all of it."""

    message: str
    """What is wrong, and what to do."""


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
    """The line of every key and item."""

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a path, or on the line of the nearest value above it."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Problem(self.lines.get(known, 1), dotted(path), message)


def dotted(path: Path) -> str:
    """A path as text.

    Examples
    --------
    >>> dotted(("steps", 1, "arguments", 0, "halo"))
    'steps[1].arguments[0].halo'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def spec_error(name: str, problems: Iterable[Problem]) -> SpecError:
    """One error that tells all problems of a document, in the order of their lines."""
    lines = []
    for problem in sorted(set(problems)):
        where = f"{name}:{problem.line}: " + (f"{problem.path}: " if problem.path else "")
        lines.append(where + problem.message.replace("\n", "\n    "))
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    message = f"{name} has {count}; nothing was run or written\n  " + "\n  ".join(lines)
    return SpecError(message, problems=tuple(lines))


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
        It cannot be read, or its syntax is broken.
    """
    name = str(path)
    parse = _PARSERS.get(FilePath(path).suffix.lower())
    if parse is None:
        raise SpecError(
            f"{name!r} is no job spec by its name: it should end in {', '.join(_PARSERS)}",
            problems=(f"{name}: unknown format",),
        )
    text = _read_text(name)
    try:
        value, lines, problems = parse(text)
    except _SyntaxError as error:
        raise spec_error(name, [error.problem]) from None
    except RecursionError:
        raise spec_error(name, [Problem(1, "", "values are nested too deeply")]) from None
    folder = FilePath(path).absolute().parent
    return Document(name, folder, value, lines), tuple(problems)


class _SyntaxError(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, "", message)


_Parsed = tuple[Any, Lines, list[Problem]]


def _read_text(name: str) -> str:
    try:
        with open(name, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise SpecError(
            f"{name!r} cannot be read ({error.strerror}); check its name and permissions",
            problems=(f"{name}: {error.strerror}",),
        ) from None
    if len(data) > _LARGEST:
        message = f"the file is longer than {_LARGEST:,} bytes, the most that is read"
        raise spec_error(name, [Problem(1, "", f"{message}; is it a job spec?")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8 text"
        raise spec_error(name, [Problem(line, "", message)]) from None


# --- JSON and TOML -------------------------------------------------------------------------


def _json(text: str) -> _Parsed:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _SyntaxError(error.lineno, f"{error.msg} (column {error.colno})") from None
    except ValueError as error:  # a number of more digits than Python converts
        raise _SyntaxError(1, str(error)) from None
    lines, repeated = json_lines(text)
    return value, lines, [_repeated(path, line, first) for path, line, first in repeated]


def _toml(text: str) -> _Parsed:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at line (\d+), column \d+\)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        raise _SyntaxError(line, str(error).replace(where[0] if where else "", "")) from None
    except ValueError as error:
        raise _SyntaxError(1, str(error)) from None
    return value, toml_lines(text), []


def _repeated(path: Path, line: int, first: int) -> Problem:
    return Problem(line, dotted(path), f"this key stands on line {first} already; keep one")


# --- YAML ----------------------------------------------------------------------------------

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Composes nodes by the core schema of YAML 1.2.

    By YAML 1.1, PyYAML's default, ``1e-3`` is text, ``no`` is False and ``12:30`` is 750: a
    job that reads such a number wrong runs wrong.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _first)


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    word = text.lower().lstrip("+-")
    if word in (".inf", ".nan"):
        return math.copysign(float(word[1:]), -1.0 if text.startswith("-") else 1.0)
    return float(text)


_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: {"true": True, "false": False}[text.lower()],
    _TAG + "int": _int,
    _TAG + "float": _float,
    _TAG + "str": str,
}


def _yaml(text: str) -> _Parsed:
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = error.character
        code = ord(character) if isinstance(character, str) else character
        raise _SyntaxError(line, f"the character {code:#06x} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.context, error.problem) if part)
        raise _SyntaxError(mark.line + 1 if mark else 1, words) from None
    builder = _Builder()
    value = None if root is None else builder.build(root, ())
    return value, builder.lines, builder.problems


class _Builder:
    """Turns nodes into values."""

    def __init__(self) -> None:
        self.lines: Lines = {(): 1}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._count += 1
        if self._count > _MOST_VALUES:
            raise _SyntaxError(
                line, f"with its aliases the document has more than {_MOST_VALUES:,} values"
            )
        if id(node) in self._open:
            raise _SyntaxError(line, f"{dotted(path)}: this value contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        convert = _SCALARS.get(node.tag)
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode) or convert is None:
            tag = node.tag.replace(_TAG, "!!")
            self.problems.append(
                Problem(line, dotted(path), f"the tag {tag} is not allowed in a job spec")
            )
            return None
        try:
            return convert(node.value)
        except (ValueError, KeyError) as error:
            kind = node.tag.removeprefix(_TAG)
            short = node.value if len(node.value) <= 40 else node.value[:40] + "…"
            detail = "" if isinstance(error, KeyError) else f" ({error})"
            self.problems.append(
                Problem(line, dotted(path), f"{short!r} cannot be read as {kind}{detail}")
            )
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = getattr(key_node, "value", "")
                remedy = f'; write "{shown}" in quotes' if isinstance(shown, str) else ""
                self.problems.append(Problem(line, dotted(path), f"keys are text{remedy}"))
                continue
            key = key_node.value
            here = (*path, key)
            if key in first:
                self.problems.append(_repeated(here, line, first[key]))
                continue
            first[key] = line
            self.lines.setdefault(here, line)
            result[key] = self.build(value_node, here)
        # What is merged in (<<: *defaults) gives way to keys of the mapping's own.
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                for key, value in self._merged(value_node, path).items():
                    result.setdefault(key, value)
        return result

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Any] = {}
        for source in sources:
            value = self.build(source, path)
            if isinstance(value, dict):
                for key, item in value.items():
                    result.setdefault(key, item)
            else:
                line = source.start_mark.line + 1
                self.problems.append(Problem(line, dotted(path), "<< merges mappings only"))
        return result


_PARSERS: dict[str, Callable[[str], _Parsed]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".toml": _toml,
    ".json": _json,
}
