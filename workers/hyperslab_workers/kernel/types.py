"""The types of a kernel's arguments, and the exception by which a kernel fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = ["ArgumentType", "ArrayType", "KernelRaised", "ScalarType", "TupleType", "type_of"]


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The type of an array argument, as it was compiled.

    Examples
    --------
    >>> type_of(np.zeros((2, 3), "f4"))
    ArrayType(dtype=dtype('float32'), ndim=2, layout='C', mutable=True)
    """

    dtype: np.dtype[Any]
    """Type of one element."""

    ndim: int
    """Number of axes."""

    layout: str
    """``"C"`` or ``"F"`` for a contiguous array of that order, ``"A"`` for any strides."""

    mutable: bool
    """Whether the kernel may assign to it."""


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
        return ArrayType(value.dtype, value.ndim, layout, bool(flags.writeable))
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
