"""The kinds of values in a job spec, each with one check and one message.

Pydantic's own unions report a value that fits no member once for every member. Here every
kind is checked by one function that says what would have been right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator

from hyperslab.arrays.npy import checked_dtype
from hyperslab.errors import ArrayFileError, PlanError
from hyperslab.jobs.words import near, shown
from hyperslab.units import parse_bytes
from hyperslab_workers.access import BOUNDARIES
from hyperslab_workers.reduction import OPERATIONS

__all__ = [
    "ORIGIN_NAME",
    "ArrayName",
    "Axes",
    "Boundary",
    "ByteSize",
    "Count",
    "DtypeText",
    "FilePathText",
    "Flag",
    "Halo",
    "Number",
    "Offset",
    "Operation",
    "Over",
    "Reference",
    "RegionShape",
    "Seconds",
    "Shape",
    "Switch",
    "checked_array_name",
    "one_of",
]

_LONGEST_DTYPE = 1000
_LARGEST_ELEMENT = 2**20

ORIGIN_NAME = "origin"
"""The argument that becomes the start of the region; no array may have this name."""

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_REFERENCE = re.compile(r"(?P<source>.+):(?P<name>[^\W\d]\w*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


def expand_variables(text: str) -> str:
    """Replace ``${NAME}`` by the environment variable; ``$$`` is a plain dollar sign.

    An empty variable is refused as an unset one is: ``${SCRATCH}/out`` must not become
    ``/out``.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name = match[1]
        if name is None:
            raise ValueError(
                f"{shown(text)}: only ${{NAME}} is replaced, by an environment variable of that "
                "name; write $$ for a plain dollar sign"
            )
        found = os.environ.get(name)
        if not found:
            state = "empty" if found == "" else "not set"
            raise ValueError(
                f"the environment variable {name} is {state}; set it before the job starts, or "
                f"write its value in place of ${{{name}}}"
            )
        return found

    return _VARIABLE.sub(value, text)


def _file_name(text: str) -> str:
    """Text that names a file, with its variables replaced."""
    expanded = expand_variables(text)
    try:
        possible = b"\0" not in os.fsencode(expanded)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"{shown(text)} has characters that no file's name can have")
    return expanded


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _array_name(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{shown(value)} is no array name; give a name from the arrays section")


def checked_array_name(name: str) -> None:
    """Whether a key of the arrays section can be the name of an array.

    Raises
    ------
    ValueError
        It cannot.
    """
    if name == ORIGIN_NAME:
        raise ValueError(
            f"{ORIGIN_NAME!r} cannot name an array: as an argument it is the region's start"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} cannot name an array; use letters, digits, '_' and '-', and begin with "
            "a letter or '_'"
        )


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{shown(value)} is no path; give text, such as data/t2m.npy")
    return _file_name(value)


def _reference(value: Any) -> str:
    if isinstance(value, str):
        expanded = _file_name(value)
        if _REFERENCE.fullmatch(expanded):
            return expanded
    raise ValueError(
        f"{shown(value)} names no function; write file.py:function, the file relative to this "
        "document, or package.module:function"
    )


def _dtype(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no dtype; give text, such as f4, '<i2' or float64")
    if len(value) > _LONGEST_DTYPE:
        raise ValueError(
            f"{shown(value)} is longer than {_LONGEST_DTYPE:,} characters, the most for a dtype in "
            "a job spec; save the fields as separate arrays"
        )
    try:
        size = checked_dtype(value, "the array").itemsize
    except ArrayFileError as error:
        raise ValueError(str(error)) from None
    if size > _LARGEST_ELEMENT:
        raise ValueError(
            f"{shown(value)} takes {size:,} bytes an element, and {_LARGEST_ELEMENT:,} are the "
            "most in a job spec; give the array more axes instead"
        )
    return value


def _shape(value: Any) -> tuple[int, ...]:
    lengths = value if isinstance(value, list) else [value]
    if not all(_is_int(n) and n >= 0 for n in lengths):
        raise ValueError(
            f"{shown(value)} is no shape; give whole numbers from 0 on, as [2048, 361, 720]"
        )
    return tuple(lengths)


def _over(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    try:
        return _shape(value)
    except ValueError:
        raise ValueError(
            f"{shown(value)} names no domain; give an array of that shape, or a shape as [361, 720]"
        ) from None


def _region(value: Any) -> int | tuple[int | None, ...]:
    lengths = value if isinstance(value, list) else [value]
    if not all((n is None and isinstance(value, list)) or (_is_int(n) and n >= 1) for n in lengths):
        raise ValueError(
            f"{shown(value)} is no region shape; give for each axis of the domain a whole number "
            "from 1 on, or null for all of the axis, as [16, null, null]"
        )
    return tuple(lengths) if isinstance(value, list) else int(value)


def _halo(value: Any) -> int | tuple[int | tuple[int, int], ...]:
    def is_width(width: object) -> bool:
        return _is_int(width) and width >= 0  # type: ignore[operator]

    def is_pair(entry: object) -> bool:
        return isinstance(entry, list) and len(entry) == 2 and all(map(is_width, entry))

    if is_width(value):
        return int(value)
    if isinstance(value, list) and all(is_width(entry) or is_pair(entry) for entry in value):
        return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)
    raise ValueError(
        f"{shown(value)} is no halo; give one whole number from 0 on, or one for each axis of the "
        "array, as [0, 1, 1], or pairs of before and after, as [[0, 0], [1, 2]]"
    )


def _boundary(value: Any) -> str | int | float:
    if isinstance(value, str) and value in BOUNDARIES:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(
        f"{shown(value)} is no boundary; give {', '.join(BOUNDARIES)}, or the number to fill with"
    )


def _axes(value: Any) -> tuple[int | None, ...]:
    if isinstance(value, list) and all(n is None or _is_int(n) for n in value):
        return tuple(value)
    raise ValueError(
        f"{shown(value)} names no axes; give for each axis of the array the axis of the domain "
        "that it follows, or null where it is shown whole, as [1, 2]"
    )


def _operation(value: Any) -> str:
    if isinstance(value, str) and value in OPERATIONS:
        return value
    raise ValueError(
        f"{shown(value)} is no operation; " + near(str(value), OPERATIONS, "the operations")
    )


def one_of(*choices: str) -> Callable[[Any], str]:
    """A check that a value is one of a few words."""

    def check(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"{shown(value)} is not known; give {' or '.join(choices)}")

    return check


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{shown(value)} is neither true nor false")


def _offset(value: Any) -> int:
    if _is_int(value) and value >= 0:
        return int(value)
    raise ValueError(f"{shown(value)} is no position in a file; give bytes, from 0 on")


def _count(value: Any) -> int:
    value = _setting(value, int)
    if _is_int(value) and value >= 1:
        return int(value)
    raise ValueError(f"{shown(value)} is no number of workers; give a whole number from 1 on")


def _seconds(value: Any) -> float:
    value = _setting(value, float)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise ValueError(f"{shown(value)} is no time; give seconds, from 0 on")


def _setting(value: Any, convert: Callable[[str], _T]) -> Any:
    """A number that may have come from an environment variable, which holds text."""
    if isinstance(value, str) and "$" in value:
        text = expand_variables(value)
        try:
            return convert(text)
        except ValueError:
            return text
    return value


def _byte_size(value: Any) -> int | float | str:
    if isinstance(value, str):
        value = expand_variables(value)
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            parse_bytes(value)
            return value
    except PlanError:
        pass
    raise ValueError(f"{shown(value)} is no size; give bytes, or text such as 16GB or 512MiB")


def _number(value: Any) -> bool | int | float:
    if isinstance(value, bool | int | float):
        return value
    raise ValueError(f"{shown(value)} is no number")


def _switch(value: Any) -> bool | str:
    if isinstance(value, bool) or value == "auto":
        return value  # type: ignore[no-any-return]
    raise ValueError(f"{shown(value)} is not known; give true, false or auto")


ArrayName = Annotated[str, PlainValidator(_array_name)]
FilePathText = Annotated[str, PlainValidator(_path)]
Reference = Annotated[str, PlainValidator(_reference)]
DtypeText = Annotated[str, PlainValidator(_dtype)]
Shape = Annotated[tuple[int, ...], PlainValidator(_shape)]
Over = Annotated[str | tuple[int, ...], PlainValidator(_over)]
RegionShape = Annotated[int | tuple[int | None, ...], PlainValidator(_region)]
Halo = Annotated[int | tuple[int | tuple[int, int], ...], PlainValidator(_halo)]
Boundary = Annotated[str | int | float, PlainValidator(_boundary)]
Axes = Annotated[tuple[int | None, ...], PlainValidator(_axes)]
Operation = Annotated[str, PlainValidator(_operation)]
Flag = Annotated[bool, PlainValidator(_flag)]
Offset = Annotated[int, PlainValidator(_offset)]
Count = Annotated[int, PlainValidator(_count)]
Seconds = Annotated[float, PlainValidator(_seconds)]
ByteSize = Annotated[int | float | str, PlainValidator(_byte_size)]
Number = Annotated[bool | int | float, PlainValidator(_number)]
Switch = Annotated[bool | str, PlainValidator(_switch)]
