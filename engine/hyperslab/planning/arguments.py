"""The arguments of a job: what each of them is, held against the domain."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperslab.arrays import Array
from hyperslab.arrays.opening import is_masked
from hyperslab.arrays.surroundings import grown
from hyperslab.compiler import Kernel, check_dtype
from hyperslab.errors import KernelError, PlanError
from hyperslab.planning import partition
from hyperslab.planning.declare import ORIGIN, Declaration, read
from hyperslab.units import human_bytes
from hyperslab_workers.access import Access, Privilege
from hyperslab_workers.task import Argument, Origin, Value

__all__ = ["SENT_LIMIT", "declared", "held_against", "named_arguments"]

SENT_LIMIT = 10**6
"""Bytes up to which a NumPy array is sent to the workers as it is."""


def named_arguments(kernel: Kernel, arguments: Sequence[Any]) -> list[tuple[str, Any]]:
    """What a kernel is called with, by its parameters' names, defaults included.

    Raises
    ------
    KernelError
        A wrong number of arguments.
    """
    parameters = list(kernel.signature.parameters.values())
    required = [p for p in parameters if p.default is inspect.Parameter.empty]
    if not len(required) <= len(arguments) <= len(parameters):
        wanted = ", ".join(p.name for p in parameters)
        raise KernelError(
            f"kernel {kernel.name} takes {len(parameters)} arguments ({wanted}) and was given "
            f"{len(arguments)}",
            kernel=kernel.name,
        )
    values = [*arguments, *(p.default for p in parameters[len(arguments) :])]
    return [(p.name, value) for p, value in zip(parameters, values, strict=True)]


def declared(value: Any) -> Declaration | None:
    """What was declared of an argument: an array by itself is read; None for what is no array."""
    if isinstance(value, Array):
        return read(value)
    return value if isinstance(value, Declaration) else None


def held_against(
    domain: tuple[int, ...],
    kernel: Kernel,
    named: Sequence[tuple[str, Any]],
    declarations: Sequence[Declaration | None],
) -> list[Argument]:
    """The arguments, each declaration held against the domain."""
    complete: list[Argument] = []
    for (name, value), declaration in zip(named, declarations, strict=True):
        if declaration is not None:
            _check_outputs(kernel, name, declaration)
            complete.append(_access(name, declaration, domain))
        elif value is ORIGIN:
            complete.append(Origin(name))
        else:
            complete.append(Value(name, _sendable(name, value)))
    return complete


def _check_outputs(kernel: Kernel, name: str, declaration: Declaration) -> None:
    """Refuse a kernel that names a new array after its output: zeros would be written."""
    if declaration.privilege is not Privilege.READ and kernel.rebinds(name):
        raise KernelError(
            f"kernel {kernel.name} is to {declaration.privilege.value} {name} and does not: "
            f"`{name} = …` gives the name to a new array and leaves the file's alone; assign to "
            f"its elements, `{name}[...] = …` or `{name}[i, j] = …`",
            kernel=kernel.name,
        )


def _access(name: str, declaration: Declaration, domain: tuple[int, ...]) -> Access:
    array = declaration.array.ref
    check_dtype(name, array.dtype)
    if declaration.whole or declaration.privilege is Privilege.ACCUMULATE:
        axes: tuple[int | None, ...] = (None,) * array.ndim
    else:
        axes = partition.align(array.shape, domain, declaration.axes, name)
    if declaration.boundary == "parent":
        array = grown(array, declaration.halo)
    return Access(
        name=name,
        array=array,
        privilege=declaration.privilege,
        axes=axes,
        halo=declaration.halo,
        boundary=_typed_boundary(name, declaration),
        op=declaration.op,
        guarded=array.shared and declaration.privilege is not Privilege.ACCUMULATE,
    )


def _typed_boundary(name: str, declaration: Declaration) -> str | float | int:
    """The boundary, a number only where the array can hold it."""
    boundary = declaration.boundary
    if isinstance(boundary, str):
        return boundary
    dtype = declaration.array.dtype
    if not _holds(dtype, boundary):
        raise PlanError(
            f"argument {name}: boundary={boundary!r} cannot be an element of type {dtype}; give a "
            'number that it holds, or one of "clip", "nearest", "reflect", "wrap"'
        )
    return boundary


def _holds(dtype: np.dtype, number: float | complex) -> bool:
    """Whether an element can be that number; floating-point types may round it."""
    if dtype.kind == "c":
        return True
    if isinstance(number, complex) or dtype.kind not in "biuf":
        return False
    if dtype.kind == "f":
        # Compared as they are: an integer may be too large for any float.
        finite = -math.inf < number < math.inf
        return not finite or abs(number) <= float(np.finfo(dtype).max)
    if dtype.kind == "b":
        return number in (0, 1)
    limits = np.iinfo(dtype)
    return int(limits.min) <= number <= int(limits.max) and number == int(number)


def _sendable(name: str, value: Any) -> Any:
    """A scalar or a small array, as a copy that later changes by the caller do not reach."""
    if isinstance(value, np.ndarray):
        if isinstance(value, np.memmap):
            raise PlanError(
                f"argument {name} is a numpy.memmap, which would be copied to every worker; "
                f"open its file with hs.open({str(value.filename)!r}) instead"
            )
        if is_masked(value):
            raise PlanError(
                f"argument {name} is a masked array, and a kernel would see what lies under the "
                "mask; give a.filled(value), or data and mask as two arguments"
            )
        if value.nbytes > SENT_LIMIT:
            raise PlanError(
                f"argument {name} is a NumPy array of {human_bytes(value.nbytes)}; up to "
                f"{human_bytes(SENT_LIMIT)} are sent to the workers as they are: put it into a "
                f"scratch file with hs.from_array({name}), or open the file it came from"
            )
        check_dtype(name, value.dtype)
        return np.array(value, order="F" if value.flags.fnc else "C", subok=False)
    if isinstance(value, np.generic):
        check_dtype(name, value.dtype)
        return value
    if isinstance(value, bool | float | complex):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise PlanError(
                f"argument {name}={value} does not fit a 64-bit integer (-2**63 to 2**63 - 1); "
                "give it as a float, or as np.uint64"
            )
        return value
    raise PlanError(
        f"argument {name} is of type {type(value).__name__}: a kernel takes arrays "
        "(hs.open, hs.create, hs.from_array, or small NumPy arrays), numbers, and hs.ORIGIN"
    )
