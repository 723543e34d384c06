"""YAML as plain values, with the line of every key and item.

Composed by ruamel.yaml, which executes nothing and constructs no objects; what its nodes
become is decided here: text, numbers, booleans, lists and mappings, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from hyperslab.jobs.limits import DEEPEST, MOST_VALUES, TOO_DEEP, Allowance, Path, Unreadable
from hyperslab.jobs.problems import Lines, Problem, dotted, repeated_key
from hyperslab.jobs.words import shown

__all__ = ["read_yaml"]

_TAG = "tag:yaml.org,2002:"


def read_yaml(text: str) -> tuple[Any, Lines, list[Problem]]:
    """The values of a YAML document, their lines, and what is wrong with single ones.

    Examples
    --------
    >>> read_yaml("a: [0o17,\\n  no]")
    ({'a': [15, 'no']}, {(): 1, ('a',): 1, ('a', 0): 1, ('a', 1): 2}, [])

    Raises
    ------
    Unreadable
        Its syntax is broken, or it is too large.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _CoreSchema
    yaml.Composer = _Composer
    try:
        root = yaml.compose(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character {error.character:#06x} is not allowed in YAML"
        raise Unreadable(line, message) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(mark.line + 1 if mark else 1, words) from None
    except (ValueError, AssertionError) as error:
        # What ruamel.yaml has no words for, such as "\U00110000" or %YAML 1.21.
        detail = f" ({error})" if str(error) else ""
        raise Unreadable(0, f"an escape or a directive in it is not allowed{detail}") from None
    builder = _Builder()
    value = None if root is None else builder.build(root, ())
    return value, builder.lines, builder.problems


class _CoreSchema(VersionedResolver):
    """Finds what a plain scalar is by the core schema of YAML 1.2, and by nothing else.

    ruamel.yaml's own rules have more: ``2020-01-01`` is a date by them, ``1_000`` a number
    and ``0b11`` one, and ``%YAML 1.1`` brings back ``no`` for False and ``12:30`` for 750.
    """

    versioned_resolver: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


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
    for _character in _first:
        _CoreSchema.versioned_resolver.setdefault(_character, []).append(
            (_TAG + _name, re.compile(f"(?:{_pattern})\\Z"))
        )


class _Composer(Composer):
    """Stops at the limits, for composing takes longer and more memory than the text does."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        # A later anchor of the same name takes over, as YAML has it.
        self.warn_double_anchors = False
        self._levels = 0
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.parser.peek_event().start_mark.line + 1
        self._nodes += 1
        if self._nodes > 2 * MOST_VALUES:  # a value may have a key
            raise Unreadable(
                line, f"the document has more than {MOST_VALUES:,} values, the most that are read"
            )
        if self._levels > DEEPEST:
            raise Unreadable(line, TOO_DEEP)
        self._levels += 1
        node = super().compose_node(parent, index)
        self._levels -= 1
        return node


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


class _Builder:
    """Turns nodes into values."""

    def __init__(self) -> None:
        self.lines: Lines = {(): 1}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._allowance = Allowance()

    def build(self, node: Node, path: Path) -> Any:
        line = _line(node)
        self.lines.setdefault(path, line)
        self._allowance.spend(line, node.value if isinstance(node, ScalarNode) else "")
        if id(node) in self._open:
            raise Unreadable(line, f"{dotted(path)}: this value contains itself")
        if len(path) > DEEPEST:
            raise Unreadable(line, TOO_DEEP)
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _problem(self, node: Node, path: Path, message: str) -> None:
        self.problems.append(Problem(_line(node), dotted(path), message))

    def _scalar(self, node: Node, path: Path) -> Any:
        tag = node.tag or ""
        convert = _SCALARS.get(tag)
        if not isinstance(node, ScalarNode) or convert is None:
            tag = tag.replace(_TAG, "!!")
            self._problem(node, path, f"the tag {tag[:80]} is not allowed in a job spec")
            return None
        try:
            return convert(node.value)
        except (ValueError, KeyError) as error:
            reason = str(error).partition(";")[0]  # Python's advice follows
            detail = "" if isinstance(error, KeyError) else f" ({reason})"
            kind = tag.removeprefix(_TAG)
            self._problem(node, path, f"{shown(node.value)} cannot be read as {kind}{detail}")
            return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
                said = key_node.value
                remedy = f'; write "{said[:80]}" in quotes' if isinstance(said, str) else ""
                self._problem(key_node, path, f"keys are text{remedy}")
                continue
            key, line = key_node.value, _line(key_node)
            self._allowance.spend(line, key, values=0)
            here = (*path, key)
            if key in first:
                self.problems.append(repeated_key(line, here, first[key]))
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

    def _merged(self, node: Node, path: Path) -> dict[str, Any]:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        result: dict[str, Any] = {}
        for source in sources:
            value = self.build(source, path)
            if isinstance(value, dict):
                for key, item in value.items():
                    result.setdefault(key, item)
            else:
                self._problem(source, path, "<< merges mappings only")
        return result


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
