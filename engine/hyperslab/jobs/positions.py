"""Where each value stands in a JSON or TOML text.

The parsers of the standard library tell positions of syntax errors only. Both scanners here
run over a text that such a parser has accepted already, so they follow brackets and quotes
and judge nothing. (YAML needs none of this: its nodes carry their marks.)
"""

from __future__ import annotations

import re
from bisect import bisect_right

__all__ = ["Lines", "Path", "json_lines", "toml_lines"]

Path = tuple[str | int, ...]
"""Keys and indices that lead from the top of a document to a value."""

Lines = dict[Path, int]
"""The line, from 1, on which the key or item at each path stands."""

_JSON_TOKEN = re.compile(r'\s*([{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+)')
_TOML_BLANK = re.compile(r"(?:\s+|#[^\n]*)+")
_TOML_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL
)
_TOML_BARE = re.compile(r"[^\s,\]}#]+")
_TOML_KEY = re.compile(r"[A-Za-z0-9_-]+")


class _Scanner:
    """A position in a text, and the lines found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: Lines = {(): 1}
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def mark(self, path: Path) -> None:
        # The first one counts: a TOML table may be opened again by a later header.
        self.lines.setdefault(path, bisect_right(self._starts, self.position))


def json_lines(text: str) -> tuple[Lines, list[tuple[Path, int, int]]]:
    """The line of every key and item of a valid JSON text.

    Returns
    -------
    lines : dict
        For each path its line.
    repeated : list of (path, line, first line)
        Keys that stand twice in one object, which JSON parsers let pass.

    Examples
    --------
    >>> json_lines('{"a": [1,\\n 2]}')[0]
    {(): 1, ('a',): 1, ('a', 0): 1, ('a', 1): 2}
    """
    scanner = _Json(text)
    scanner.value(())
    return scanner.lines, scanner.repeated


class _Json(_Scanner):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[Path, int, int]] = []

    def token(self) -> str:
        match = _JSON_TOKEN.match(self.text, self.position)
        assert match is not None, "the text was accepted by a JSON parser"
        self.position = match.start(1)
        return match[1]

    def take(self) -> str:
        token = self.token()
        self.position += len(token)
        return token

    def value(self, path: Path) -> None:
        token = self.take()
        if token == "[":
            self.items(path)
        elif token == "{":
            self.members(path)

    def items(self, path: Path) -> None:
        index = 0
        while self.token() != "]":
            self.mark((*path, index))
            self.value((*path, index))
            index += 1
            if self.token() == ",":
                self.take()
        self.take()

    def members(self, path: Path) -> None:
        import json

        seen: dict[str, int] = {}
        while (token := self.token()) != "}":
            key = json.loads(token)
            line = bisect_right(self._starts, self.position)
            if key in seen:
                self.repeated.append(((*path, key), line, seen[key]))
            seen.setdefault(key, line)
            self.mark((*path, key))
            self.take()  # the key
            self.take()  # the colon
            self.value((*path, key))
            if self.token() == ",":
                self.take()
        self.take()


def toml_lines(text: str) -> Lines:
    """The line of every key and item of a valid TOML text.

    Examples
    --------
    >>> toml_lines('version = 1\\n[[steps]]\\nkernel = "k.py:f"')[("steps", 0, "kernel")]
    3
    """
    scanner = _Toml(text)
    scanner.document()
    return scanner.lines


class _Toml(_Scanner):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.counts: dict[Path, int] = {}

    def blank(self) -> None:
        match = _TOML_BLANK.match(self.text, self.position)
        if match is not None:
            self.position = match.end()

    def here(self, symbol: str) -> bool:
        return self.text.startswith(symbol, self.position)

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None or match.end() == self.position:
            # Nothing a valid text can hold. Going on by one character always ends.
            self.position += 1
            return ""
        self.position = match.end()
        return match[0]

    def document(self) -> None:
        table: Path = ()
        self.blank()
        while self.position < len(self.text):
            if self.here("["):
                table = self.header()
            else:
                self.pair(table)
            self.blank()

    def header(self) -> Path:
        start = self.position
        repeats = self.here("[[")
        self.position += 1 + repeats
        *parents, last = self.key()
        self.position, end = start, self.position
        path: Path = ()
        for name in parents:
            path = self.element((*path, name))
            self.mark(path)
        path = (*path, last)
        if repeats:
            self.mark(path)
            self.counts[path] = self.counts.get(path, 0) + 1
        path = self.element(path)
        self.mark(path)
        self.position = end + 1 + repeats
        return path

    def element(self, path: Path) -> Path:
        """The path itself, or that of the last element where it is an array of tables."""
        return (*path, self.counts[path] - 1) if path in self.counts else path

    def key(self) -> list[str]:
        """A dotted key."""
        parts = []
        while True:
            self.blank()
            if self.here('"') or self.here("'"):
                parts.append(self.skip(_TOML_STRING)[1:-1])
            else:
                parts.append(self.skip(_TOML_KEY))
            self.blank()
            if not self.here("."):
                return parts
            self.position += 1

    def pair(self, table: Path) -> None:
        start = self.position
        names = self.key()
        end, self.position = self.position, start
        for count in range(1, len(names) + 1):
            self.mark((*table, *names[:count]))
        self.position = end + 1  # the equals sign
        self.value((*table, *names))

    def value(self, path: Path) -> None:
        self.blank()
        if self.here("["):
            self.position += 1
            index = 0
            while self.more("]"):
                self.mark((*path, index))
                self.value((*path, index))
                index += 1
        elif self.here("{"):
            self.position += 1
            while self.more("}"):
                self.pair(path)
        elif self.here('"') or self.here("'"):
            self.skip(_TOML_STRING)
        else:
            self.skip(_TOML_BARE)

    def more(self, closing: str) -> bool:
        """Whether another item follows; steps over commas, and over the closing bracket."""
        self.blank()
        if self.here(","):
            self.position += 1
            self.blank()
        if self.here(closing):
            self.position += 1
            return False
        return self.position < len(self.text)
