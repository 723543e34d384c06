"""The types of a kernel's arguments: which are possible, in Numba's terms, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperslab.errors import KernelError
from hyperslab_workers.kernel import ArgumentType, ArrayType, TupleType

__all__ = [
    "EqualShapes",
    "UnitStrides",
    "check_dtype",
    "check_types",
    "describe",
    "numba_type",
    "unit_strides",
]

EqualShapes = tuple[tuple[tuple[int, int, int], ...], ...]
"""Groups of (argument, axis, delta) whose ``shape[axis] - delta`` are equal."""

UnitStrides = tuple[tuple[int, int, int], ...]
"""Triples of (argument, axis, bytes): the stride of that axis is the size of one element."""


def check_dtype(name: str, dtype: np.dtype[Any], *, kernel: str = "") -> None:
    """Refuse a dtype that no kernel can take.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    dtype : numpy.dtype
        Its dtype.
    kernel : str
        The kernel's name, for the message.

    Raises
    ------
    KernelError
        Half and extended precision, foreign byte order, Python objects, strings and raw bytes;
        in structured dtypes too.

    Examples
    --------
    >>> check_dtype("t", np.dtype("<f4"))
    >>> check_dtype("t", np.dtype(">f4"))
    Traceback (most recent call last):
    ...
    hyperslab.KernelError: argument 't' has dtype >f4, which kernels cannot take: \
its bytes are in the other order; convert it to '<f4', by np.asarray(t, '<f4') where it fits in \
memory, or in a file of its own: converted = hs.create('converted.npy', t.shape, '<f4'); \
converted[...] = t
    """
    problem = _problem(name, dtype)
    if problem:
        of = f" of kernel {kernel}" if kernel else ""
        raise KernelError(
            f"argument {name!r}{of} has dtype {_spell(dtype)}, which kernels cannot take: "
            f"{problem}",
            kernel=kernel,
        )


_NATIVE = {"f2": "<f4", "f16": "<f8", "c32": "<c16"}
"""What becomes of types that would be refused in the other byte order, too."""


def _spell(dtype: np.dtype[Any]) -> str:
    return str(dtype) if dtype.names else dtype.str if not dtype.isnative else dtype.name


def _converted(name: str, dtype: str) -> str:
    """How an argument gets another type: in words that can be carried out as they stand."""
    return (
        f"convert it to {dtype!r}, by np.asarray({name}, {dtype!r}) where it fits in memory, or in "
        f"a file of its own: converted = hs.create('converted.npy', {name}.shape, {dtype!r}); "
        f"converted[...] = {name}"
    )


def _problem(name: str, dtype: np.dtype[Any]) -> str:
    """What is wrong with a dtype and what to do, or the empty string."""
    if dtype.names is not None:
        for field in dtype.names:
            problem = _problem(name, dtype[field])
            if problem:
                return f"field {field!r} is {_spell(dtype[field])}: {problem}"
        return ""
    if dtype.subdtype is not None:
        return _problem(name, dtype.subdtype[0])
    if not dtype.isnative:
        native = _NATIVE.get(dtype.str[1:], dtype.newbyteorder("=").str)
        return f"its bytes are in the other order; {_converted(name, native)}"
    match dtype.kind:
        case "b" | "i" | "u" | "m" | "M":
            return ""
        case "f" if dtype.itemsize == 2:
            return f"no CPU computes in half precision; {_converted(name, '<f4')}"
        case "f" if dtype.itemsize > 8:
            return f"Numba has no extended precision; {_converted(name, '<f8')}"
        case "c" if dtype.itemsize > 16:
            return f"Numba has no extended precision; {_converted(name, '<c16')}"
        case "f" | "c":
            return ""
        case "O":
            return f"it holds Python objects; make numbers of them, as np.asarray({name}, '<f8')"
        case "S" | "U" | "T":
            return "kernels compute on numbers, not on text; encode it as integers"
    return (
        "it is raw bytes without fields; open the file with a dtype that says what they are, as "
        f"dtype='{dtype.itemsize}u1'"
    )


def check_types(kernel: str, names: tuple[str, ...], types: tuple[ArgumentType, ...]) -> None:
    """`check_dtype` for every argument."""
    for name, declared in zip(names, types, strict=True):
        if not isinstance(declared, TupleType):
            check_dtype(name, declared.dtype, kernel=kernel)


def describe(name: str, declared: ArgumentType) -> str:
    """An argument and its type as a scientist reads them.

    Examples
    --------
    >>> describe("t", ArrayType(np.dtype("f4"), 3, "C", mutable=False))
    't: float32 array, 3 dimensions, read-only'
    """
    if isinstance(declared, TupleType):
        return f"{name}: tuple of {declared.length} integers"
    dtype = _spell(declared.dtype)
    if not isinstance(declared, ArrayType):
        return f"{name}: {dtype} number"
    words = [f"{dtype} array", f"{declared.ndim} dimension{'' if declared.ndim == 1 else 's'}"]
    if declared.layout != "C":
        words.append("Fortran order" if declared.layout == "F" else "strided")
    if not declared.mutable:
        words.append("read-only")
    return f"{name}: {', '.join(words)}"


def numba_type(declared: ArgumentType) -> Any:
    """The same type in Numba's terms; imports Numba."""
    import numba

    types: Any = numba.types  # its own annotations know half of it
    if isinstance(declared, TupleType):
        return types.UniTuple(types.int64, declared.length)
    element = numba.from_dtype(declared.dtype)
    if not isinstance(declared, ArrayType):
        return element
    return types.Array(element, declared.ndim, declared.layout, readonly=not declared.mutable)


def unit_strides(types: tuple[ArgumentType, ...]) -> UnitStrides:
    """The strides that the types promise to be one element.

    Examples
    --------
    >>> band = ArrayType(np.dtype("f4"), 3, "A", mutable=False, unit_axis=2)
    >>> unit_strides((band, TupleType(3), ArrayType(np.dtype("f8"), 2, "C", mutable=True)))
    ((0, 2, 4), (2, 1, 8))
    """
    found = []
    for position, declared in enumerate(types):
        if not isinstance(declared, ArrayType) or declared.ndim == 0:
            continue
        # Of a contiguous array Numba knows it while the array is whole, and forgets it for a
        # part taken within the kernel, such as ``t[:, 1:-1]``.
        axis = {"C": declared.ndim - 1, "F": 0}.get(declared.layout, declared.unit_axis)
        if axis is not None:
            found.append((position, axis, declared.dtype.itemsize))
    return tuple(found)
