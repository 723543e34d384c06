"""The types of a kernel's arguments, and the exception by which a kernel fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = [
    "ArgumentType",
    "ArrayType",
    "KernelRaised",
    "ScalarType",
    "TupleType",
    "longest_axis",
    "type_of",
    "unit_axes",
]


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The type of an array argument, as it was compiled.

    Examples
    --------
    >>> type_of(np.zeros((2, 3), "f4"))
    ArrayType(dtype=dtype('float32'), ndim=2, layout='C', mutable=True, unit_axis=None)
    >>> type_of(np.zeros((2, 3), "f4")[:, :2]).unit_axis
    1
    """

    dtype: np.dtype[Any]
    """Type of one element."""

    ndim: int
    """Number of axes."""

    layout: str
    """``"C"`` or ``"F"`` for a contiguous array of that order, ``"A"`` for any strides."""

    mutable: bool
    """Whether the kernel may assign to it."""

    unit_axis: int | None = None
    """With layout ``"A"`` an axis along which the elements are neighbours in memory (its stride
    is the element's size), if one is promised: a loop along it uses vector instructions."""

    def __post_init__(self) -> None:
        if self.unit_axis is not None and not (
            self.layout == "A" and 0 <= self.unit_axis < self.ndim
        ):
            raise ValueError(
                f"unit_axis={self.unit_axis} with layout {self.layout!r} and {self.ndim} axes: it "
                'is an axis of an array of layout "A", counted from 0; of a contiguous array the '
                "layout says it"
            )


@dataclass(frozen=True, slots=True)
class ScalarType:
    """The type of a number handed to every task.

    Python's ``int``, ``float``, ``bool`` and ``complex`` are int64, float64, bool and
    complex128; NumPy scalars keep their own type.
    """

    dtype: np.dtype[Any]
    """Type of the number."""


@dataclass(frozen=True, slots=True)
class TupleType:
    """The type of a tuple of integers, such as a region's origin."""

    length: int
    """How many integers."""


ArgumentType = ArrayType | ScalarType | TupleType

_PYTHON_SCALARS: Final[dict[type, np.dtype[Any]]] = {
    bool: np.dtype(np.bool_),
    int: np.dtype(np.int64),
    float: np.dtype(np.float64),
    complex: np.dtype(np.complex128),
}


def type_of(value: object) -> ArgumentType:
    """The type a kernel must be compiled for to take `value`.

    Raises
    ------
    TypeError
        `value` is neither an array, a number nor a tuple of integers, or is an integer
        outside int64.

    Examples
    --------
    >>> type_of(1.5)
    ScalarType(dtype=dtype('float64'))
    >>> type_of((0, 4))
    TupleType(length=2)
    """
    if isinstance(value, np.ndarray):
        flags = value.flags
        layout = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
        unit_axis = None
        if layout == "A":
            found = unit_axes(value.shape, value.strides, value.itemsize)
            unit_axis = longest_axis(found, value.shape)
        return ArrayType(value.dtype, value.ndim, layout, bool(flags.writeable), unit_axis)
    if isinstance(value, np.generic):
        return ScalarType(value.dtype)
    dtype = _PYTHON_SCALARS.get(type(value))
    if dtype is not None:
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise TypeError(
                f"the integer {value} does not fit int64 (-2**63 to 2**63 - 1): "
                "hand it over as a float or as np.uint64"
            )
        return ScalarType(dtype)
    if type(value) is tuple and all(type(item) is int for item in value):
        return TupleType(len(value))
    raise TypeError(
        f"a kernel takes arrays, numbers and tuples of integers, not {type(value).__name__}: "
        f"{value!r:.80}"
    )


def unit_axes(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> set[int]:
    """The axes along which the elements of an array are neighbours in memory.

    As for NumPy's contiguous arrays, the stride of an axis of length 1 does not count, nor do
    any of an array without elements: they lead nowhere.

    Examples
    --------
    >>> t = np.zeros((8, 5, 6), "f4")[:, 1:3]
    >>> unit_axes(t.shape, t.strides, t.itemsize)
    {2}
    """
    if 0 in shape:
        return set(range(len(shape)))
    return {
        axis
        for axis, (n, stride) in enumerate(zip(shape, strides, strict=True))
        if n == 1 or stride == itemsize
    }


def longest_axis(axes: set[int], shape: tuple[int, ...]) -> int | None:
    """Of some axes the longest, the last of equal ones; None where none has a second element."""
    longest = max(axes, key=lambda axis: (shape[axis], axis), default=None)
    return longest if longest is not None and shape[longest] > 1 else None


class KernelRaised(Exception):
    """A loaded kernel raised an exception; carries it as plain strings.

    Attributes
    ----------
    type_name : str
        Name of the exception's class (``"IndexError"``).
    message : str
        Its message.
    filename, function : str
        Where in the user's source it was raised; empty where that is not known.
    line : int
        Line of `filename`, 0 where that is not known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        type_name: str = "Exception",
        filename: str = "",
        line: int = 0,
        function: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.type_name = type_name
        self.filename = filename
        self.line = line
        self.function = function

    def __str__(self) -> str:
        where = f" ({self.filename}:{self.line}, in {self.function})" if self.filename else ""
        return f"{self.type_name}: {self.message}{where}"
