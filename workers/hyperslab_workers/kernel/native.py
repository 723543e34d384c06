"""Machine code that stands alone: loaded by LLVM's linker, called through ctypes.

Numba's calling convention is ``int32 f(result*, exception**, arguments...)``; an array is
handed over as (owner, parent, size, itemsize, data, *shape, *strides).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from hyperslab_workers.errors import KernelError
from hyperslab_workers.kernel.types import ArgumentType, ArrayType, KernelRaised, TupleType

__all__ = ["native_call"]


class _ExceptionInfo(ctypes.Structure):
    """Numba's excinfo_t: pickled (class, arguments, location) and fields unused here."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int32),
        ("hash", ctypes.c_void_p),
        ("unwrap", ctypes.c_void_p),
        ("dynamic", ctypes.c_int32),
    )


_C_TYPES: Final[dict[str, Any]] = {
    "ptr": ctypes.c_void_p,
    "i64": ctypes.c_int64,
    "i32": ctypes.c_int32,
    "i16": ctypes.c_int16,
    "i8": ctypes.c_int8,
    "i1": ctypes.c_bool,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
}

_library_numbers = itertools.count(1)

_STATUS_OK: Final = (0, -2)  # Numba's RETCODE_OK and RETCODE_NONE


def native_call(content: dict[str, Any]) -> Callable[[tuple[Any, ...]], None]:
    """Load the object image of a payload; returns what runs it on checked arguments."""
    tracker = _link(content["name"], content["object"], content["symbol"], content["undefined"])
    function = ctypes.CFUNCTYPE(
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[_C_TYPES[code] for code in content["arguments"]],
    )(tracker[content["symbol"]])
    flatten = [_flattener(declared) for declared in content["types"]]
    raises: dict[bytes, tuple[str, str, str, int, str]] = content["raises"]

    # `tracker` owns the machine code: it must live as long as the function does.
    def call(args: tuple[Any, ...], _keep: Any = tracker) -> None:
        flat: list[Any] = []
        for one, value in zip(flatten, args, strict=True):
            flat += one(value)
        result, info = ctypes.c_void_p(), ctypes.c_void_p()
        status = function(ctypes.addressof(result), ctypes.addressof(info), *flat)
        if status not in _STATUS_OK:
            raise _raised(status, info.value, raises)

    return call


def _flattener(declared: ArgumentType) -> Callable[[Any], Any]:
    """How one argument becomes the machine-level values of Numba's calling convention."""
    if isinstance(declared, ArrayType):
        return _flatten_array
    if isinstance(declared, TupleType):
        return tuple
    if declared.dtype.kind == "c":
        return lambda value: (value.real, value.imag)
    if declared.dtype.kind in "mM":
        return lambda value: (int(value.view(np.int64)),)
    return lambda value: (value.item() if isinstance(value, np.generic) else value,)


def _flatten_array(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    # Two null pointers: the owner of the memory, which Numba must not count references of.
    data = array.__array_interface__["data"][0]
    return (None, None, array.size, array.itemsize, data, *array.shape, *array.strides)


def _raised(
    status: int, address: int | None, raises: dict[bytes, tuple[str, str, str, int, str]]
) -> KernelRaised:
    # The coordinator has decoded every exception the object can raise. Unpickling it here
    # would import the modules of the user's exception classes, and Numba for __main__'s.
    if address:
        info = _ExceptionInfo.from_address(address)
        known = raises.get(ctypes.string_at(info.data, info.size)) if info.data else None
        if known is not None:
            type_name, message, filename, line, function = known
            return KernelRaised(
                message, type_name=type_name, filename=filename, line=line, function=function
            )
    return KernelRaised(f"the kernel ended with status {status}", type_name="RuntimeError")


@functools.cache
def _linker() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # ORC, not MCJIT: MCJIT jumps to address 0 for a symbol it cannot find, and runs the first
    # of two functions of one name. ORC reports the one and keeps the other apart.
    return llvm.create_lljit_compiler()


def _link(name: str, image: bytes, symbol: str, undefined: tuple[str, ...]) -> Any:
    import llvmlite.binding as llvm

    process = ctypes.CDLL(None)
    builder = llvm.JITLibraryBuilder().add_object_img(image).export_symbol(symbol)
    for needed in undefined:
        # Each need is looked up here and named, so that a missing one is an error with a name.
        try:
            address = ctypes.cast(getattr(process, needed), ctypes.c_void_p).value
        except AttributeError:
            raise KernelError(
                f"kernel {name} calls {needed}(), which this process does not have: it was "
                "compiled where the C library is another one",
                kernel=name,
            ) from None
        assert address is not None
        builder.import_symbol(needed, address)
    return builder.link(_linker(), f"kernel-{next(_library_numbers)}")
