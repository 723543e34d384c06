"""Reads a job spec and finds every mistake in it that the text alone shows.

::

    version: 1
    arrays:   name: where it lies, or how it is made          ArraySpec
    engine:   workers, memory, …                               EngineSpec
    steps:    - kernel, arguments, over, region                StepSpec

The parts are checked one by one, not as one model: where one array is described wrong, the
steps and files of the others can still be looked into, and all problems are told at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hyperslab.jobs import fields
from hyperslab.jobs.document import Document, read_document
from hyperslab.jobs.limits import Path
from hyperslab.jobs.models import ACCESSES, ArraySpec, CreateSpec, EngineSpec, Model, StepSpec
from hyperslab.jobs.problems import Problem, spec_error
from hyperslab.jobs.words import near, shown

__all__ = ["Draft", "read_draft", "read_spec", "uses"]

VERSION = 1
"""The version of the format that this module reads."""

_MOST_HINTS = 100
"""Unknown names of arrays for which the nearest known one is looked for."""


_NESTED: dict[str, type[Model]] = {
    "create": CreateSpec,
    **{f"<{name}>": model for name, model in ACCESSES.items()},
}
"""The model that the keys below a part of a location belong to."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A document with those of its parts that are well formed, and the problems of the others."""

    document: Document
    """The text, for the lines of further problems."""

    arrays: Mapping[str, ArraySpec | None]
    """By name; None for those with problems."""

    steps: tuple[StepSpec | None, ...]
    """In order; None for those with problems."""

    engine: EngineSpec
    """Settings; those that are well formed."""

    problems: tuple[Problem, ...]
    """All that the text shows."""

    @property
    def raw_steps(self) -> list[Any]:
        """The steps as they stand in the document, in the order of `steps`."""
        steps = self.document.value.get("steps")
        return steps if isinstance(steps, list) else []


def read_spec(path: str | FilePath) -> Draft:
    """Read a job spec and check what its text alone shows. Executes nothing.

    Raises
    ------
    SpecError
        It has problems: all of them, each with its line.
    """
    draft = read_draft(path)
    if draft.problems:
        raise spec_error(draft.document.name, draft.problems)
    return draft


def read_draft(path: str | FilePath) -> Draft:
    """Read a job spec and keep its problems, to be told together with those found later.

    Raises
    ------
    SpecError
        It cannot be read, or its syntax is broken.
    """
    document, found = read_document(path)
    problems = list(found)
    top = document.value
    if not isinstance(top, dict):
        problems.append(
            document.problem((), "a job spec is a mapping with version, arrays and steps")
        )
        raise spec_error(document.name, problems)
    known = ("version", "arrays", "engine", "steps")
    for key in top:
        if key not in known:
            hint = near(key, known, "the sections")
            problems.append(document.problem((key,), f"unknown section; {hint}"))
    _check_version(document, top, problems)

    arrays: dict[str, ArraySpec | None] = {}
    for name, value in _section(document, top, "arrays", dict, problems).items():
        try:
            fields.checked_array_name(name)
        except ValueError as error:
            problems.append(document.problem(("arrays", name), str(error)))
        arrays[name] = _part(document, ArraySpec, ("arrays", name), value, problems)
    steps = tuple(
        _part(document, StepSpec, ("steps", number), value, problems)
        for number, value in enumerate(_section(document, top, "steps", list, problems))
    )
    engine = EngineSpec()
    if top.get("engine") is not None:
        given = _part(document, EngineSpec, ("engine",), top["engine"], problems)
        engine = given or engine
    draft = Draft(document, arrays, steps, engine, ())
    problems += _unknown_names(draft)
    return Draft(document, arrays, steps, engine, tuple(problems))


def uses(step: Any) -> list[tuple[Path, str, str]]:
    """The arrays that a step names: path inside the step, name, and what it does with them.

    Takes the step as it stands in the document, so that one with other mistakes is looked
    through as well.
    """
    if not isinstance(step, dict):
        return []
    arguments = step.get("arguments")
    items: list[tuple[str | int, Any]] = []
    if isinstance(arguments, list):
        items += enumerate(arguments)
    elif isinstance(arguments, dict):
        items += arguments.items()
    found: list[tuple[Path, str, str]] = []
    for key, argument in items:
        path: Path = ("arguments", key)
        if isinstance(argument, str) and argument != fields.ORIGIN_NAME:
            found.append((path, argument, "read"))
        elif isinstance(argument, dict):
            found += [
                ((*path, word), argument[word], word)
                for word in ("read", "write", "update", "accumulate")
                if isinstance(argument.get(word), str)
            ]
    if isinstance(step.get("over"), str):
        found.append((("over",), step["over"], "over"))
    return found


def _check_version(document: Document, top: dict[str, Any], problems: list[Problem]) -> None:
    version = top.get("version")
    if version != VERSION or isinstance(version, bool):
        said = "is missing" if version is None else f"is {shown(version)}"
        problems.append(
            document.problem(
                ("version",), f"{said}; this hyperslab reads version {VERSION}: write version: 1"
            )
        )


_Section = TypeVar("_Section", dict[str, Any], list[Any])


def _section(
    document: Document,
    top: dict[str, Any],
    name: str,
    kind: type[_Section],
    problems: list[Problem],
) -> _Section:
    value = top.get(name)
    if isinstance(value, kind) and value:
        return value
    form = {
        "arrays": "a mapping from names to files, as t2m: {path: t2m.npy}",
        "steps": "a list, each with kernel and arguments",
    }
    said = "is missing or empty" if not value else f"is {type(value).__name__}"
    problems.append(document.problem((name,), f"{said}; give {form[name]}"))
    return kind()


_Part = TypeVar("_Part", bound=Model)


def _part(
    document: Document, model: type[_Part], path: Path, value: Any, problems: list[Problem]
) -> _Part | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            where, message = _in_words(detail, model, value)
            problems.append(document.problem((*path, *where), message))
        return None


def _in_words(detail: ErrorDetails, root: type[Model], value: Any) -> tuple[Path, str]:
    """The path of a pydantic error in the document, and what it says to a person."""
    location, kind = detail["loc"], detail["type"]
    path: list[str | int] = []
    for part in location:
        if isinstance(value, dict | list) and not (isinstance(part, str) and part[:1] == "<"):
            present = part in value if isinstance(value, dict) else isinstance(part, int)
            value = value[part] if present else None  # type: ignore[index]
            path.append(part)
    model = next(
        (_NESTED[str(part)] for part in reversed(location[:-1]) if str(part) in _NESTED), root
    )
    given = detail["input"]
    if kind == "extra_forbidden":
        hint = near(str(location[-1]), model.model_fields, "the keys here")
        return tuple(path), f"unknown key; {hint}"
    if kind == "missing":
        # Told on the line of what it is missing from.
        return tuple(path[:-1]), f"{path[-1]} is missing"
    if kind == "value_error":
        return tuple(path), str(detail["ctx"]["error"])
    if kind.startswith("union_tag"):
        if path and path[-1] == "arguments":
            return tuple(path), (
                f"{shown(given)}: give a list in the order of the kernel's parameters, or a "
                "mapping from their names"
            )
        return tuple(path), _no_argument(given)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return tuple(path), f"{shown(given)}: give a mapping with {', '.join(model.model_fields)}"
    return tuple(path), f"{shown(given)}: {detail['msg']}"


def _no_argument(given: Any) -> str:
    words = ", ".join(ACCESSES)
    if isinstance(given, dict):
        both = [name for name in ACCESSES if name in given]
        if both:
            return f"{' and '.join(both)} in one argument; give one of {words}"
        hints = [near(str(key), ACCESSES, "") for key in given]
        hint = next((f"; {h}" for h in hints if h.startswith("did")), "")
        return f"it does not say what the kernel does: give one of {words}{hint}"
    if isinstance(given, list):
        return "a list stands for no argument by itself; write {value: [...], dtype: f8}"
    return (
        f"{shown(given)} is no argument; give an array's name, origin, a number, or one of {words}"
    )


def _unknown_names(draft: Draft) -> list[Problem]:
    """Uses of arrays that are not there, and chains of `like` that end nowhere."""
    document, arrays = draft.document, draft.arrays
    problems = []
    hints: dict[str, str] = {}

    def unknown(path: Path, name: str) -> None:
        # Looking for the nearest name takes time: not for thousands of them.
        if name not in hints and len(hints) < _MOST_HINTS:
            hints[name] = "; " + near(name, arrays, "the arrays")
        message = f"there is no array {shown(name)}{hints.get(name, '')}"
        problems.append(document.problem(path, message))

    for number, step in enumerate(draft.raw_steps):
        for path, name, _ in uses(step):
            if name not in arrays:
                unknown(("steps", number, *path), name)
    likes = {
        name: array.create.like
        for name, array in arrays.items()
        if array is not None and array.create is not None and array.create.like
    }
    for name, like in likes.items():
        if like not in arrays:
            unknown(("arrays", name, "create", "like"), like)
    for ring in _rings(likes):
        for start, name in enumerate(ring):
            first = itertools.islice(itertools.cycle(ring), start, start + min(len(ring), 8))
            more = f" like {len(ring) - 8:,} more" if len(ring) > 8 else ""
            problems.append(
                document.problem(
                    ("arrays", name, "create", "like"),
                    f"{' like '.join(first)}{more} like {name}: a circle",
                )
            )
    return problems


def _rings(likes: Mapping[str, str]) -> Iterator[list[str]]:
    """The circles in which arrays are like each other."""
    seen: set[str] = set()
    for name in likes:
        chain: dict[str, int] = {}
        current = name
        while current in likes and current not in seen:
            seen.add(current)
            chain[current] = len(chain)
            current = likes[current]
        if current in chain:
            yield list(chain)[chain[current] :]
