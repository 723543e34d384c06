"""Machine code that stands alone: linked here or by LLVM, called through ctypes.

Numba's calling convention is ``int32 f(result*, exception**, arguments...)``; an array is
handed over as (owner, parent, size, itemsize, data, *shape, *strides). The compiler has put a
function before it that takes the address of all of these.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from hyperslab_workers.errors import KernelError
from hyperslab_workers.kernel.linking import link
from hyperslab_workers.kernel.types import ArgumentType, ArrayType, KernelRaised, TupleType

__all__ = ["Frame", "NativeCode"]


class _ExceptionInfo(ctypes.Structure):
    """Numba's excinfo_t: pickled (class, arguments, location) and fields unused here."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int32),
        ("hash", ctypes.c_void_p),
        ("unwrap", ctypes.c_void_p),
        ("dynamic", ctypes.c_int32),
    )


_KINDS: Final = frozenset(["ptr", "i64", "i32", "i16", "i8", "i1", "double", "float"])
"""Machine types of arguments, each in a slot of eight bytes of its own."""

_library_numbers = itertools.count(1)

_STATUS_OK: Final = (0, -2)  # Numba's RETCODE_OK and RETCODE_NONE


class Frame:
    """The arguments of one call, lying ready in memory.

    Between two calls only what differs is changed: for most regions of a job the addresses of
    the arrays, and nothing else. Belongs to one thread.
    """

    __slots__ = ("_address", "_exception", "_function", "_raises", "_starts", "_words", "memory")

    def __init__(self, code: NativeCode, args: tuple[Any, ...]) -> None:
        count = len(code.kinds)
        # Zeroed, with room for Numba's result and exception at its end.
        self.memory = (ctypes.c_int64 * (count + 2))()
        self._words = memoryview(self.memory).cast("B").cast("q")
        self._function = code.function
        self._raises = code.raises
        self._address = ctypes.addressof(self.memory)
        self._exception = count + 1
        self._starts: list[int] = []
        at = 0
        for flatten, value in zip(code.flatten, args, strict=True):
            self._starts.append(at)
            for part in flatten(value):
                kind = code.kinds[at]
                if part is None:
                    pass
                elif kind in ("double", "float"):
                    struct.pack_into("d" if kind == "double" else "f", self.memory, 8 * at, part)
                else:
                    part = int(part)
                    self._words[at] = part if part < 2**63 else part - 2**64
                at += 1

    def point(self, position: int, address: int) -> None:
        """The elements of the array argument at that position lie at another address."""
        self._words[self._starts[position] + _DATA] = address

    def place(self, position: int, numbers: tuple[int, ...]) -> None:
        """Another tuple of integers for that argument."""
        at = self._starts[position]
        for number in numbers:
            self._words[at] = number
            at += 1

    def __call__(self) -> None:
        """Run the kernel.

        Raises
        ------
        KernelRaised
            The kernel raised an exception.
        """
        status = self._function(self._address)
        if status not in _STATUS_OK:
            raise _raised(status, self._words[self._exception], self._raises)


class NativeCode:
    """The machine code of a kernel, linked into this process."""

    def __init__(self, content: dict[str, Any]) -> None:
        # The owner of the machine code, which must live as long as the function does.
        entry, self._owner = _link(content)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(entry)
        self.kinds: tuple[str, ...] = content["arguments"]
        unknown = set(self.kinds) - _KINDS
        if unknown:
            raise KernelError(
                f"kernel {content['name']} takes machine types {sorted(unknown)}, which this "
                "version does not know",
                kernel=content["name"],
            )
        self.flatten = [_flattener(declared) for declared in content["types"]]
        self.raises: dict[bytes, tuple[str, str, str, int, str]] = content["raises"]

    def __call__(self, args: tuple[Any, ...]) -> None:
        """Run the kernel on checked arguments."""
        Frame(self, args)()


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


_DATA: Final = 4
"""Place of the address among the values of an array."""


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


def _link(content: dict[str, Any]) -> tuple[int, Any]:
    """The address of a kernel's entry, and what keeps its machine code in memory."""
    name, image, symbol = content["name"], content["object"], content["symbol"]
    process = ctypes.CDLL(None)
    needed: dict[str, int] = {}
    for need in content["undefined"]:
        # Each need is looked up here and named, so that a missing one is an error with a name.
        try:
            address = ctypes.cast(getattr(process, need), ctypes.c_void_p).value
        except AttributeError:
            raise KernelError(
                f"kernel {name} calls {need}(), which this process does not have: it was "
                "compiled where the C library is another one",
                kernel=name,
            ) from None
        assert address is not None
        needed[need] = address
    try:
        linked = link(image, symbol, needed)
    except OSError as error:
        raise KernelError(
            f"kernel {name} cannot be brought into memory ({error.strerror}): machine code made at "
            "run time has to be allowed here, and memory for it to be there",
            kernel=name,
        ) from error
    if linked is not None:
        return linked.entry, linked
    tracker = _link_by_llvm(image, symbol, needed)
    return tracker[symbol], tracker


def _link_by_llvm(image: bytes, symbol: str, needed: dict[str, int]) -> Any:
    import llvmlite.binding as llvm

    builder = llvm.JITLibraryBuilder().add_object_img(image).export_symbol(symbol)
    for name, address in needed.items():
        builder.import_symbol(name, address)
    return builder.link(_llvm_linker(), f"kernel-{next(_library_numbers)}")


@functools.cache
def _llvm_linker() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # ORC, not MCJIT: MCJIT jumps to address 0 for a symbol it cannot find, and runs the first
    # of two functions of one name. ORC reports the one and keeps the other apart.
    return llvm.create_lljit_compiler()
