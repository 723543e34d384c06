"""Compiled kernels: load machine code, check the arguments, call it. Nothing here compiles.

A kernel arrives as a file that the coordinator wrote once per job. There are two routes:

``native``
    The file holds an object image whose only needs are the C library's. LLVM's linker loads
    it and ``ctypes`` calls it by Numba's own calling convention, without the interpreter lock.
    Numba is never imported: a worker is ready three times sooner and half as large.

``numba``
    The kernel needs Numba's runtime (array temporaries with destructors, random numbers,
    printing). Numba is imported and its compile result rebuilt from the object code.

Either way the arguments are checked against the compiled types first. Machine code believes
whatever it is handed: a wrong type would be a wrong answer or a crash, so it is a TypeError.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pickle
import platform
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from hyperslab_workers.errors import KernelError

__all__ = [
    "FORMAT",
    "ArgumentType",
    "ArrayType",
    "KernelRaised",
    "KernelRef",
    "LoadedKernel",
    "Route",
    "ScalarType",
    "TupleType",
    "compilations",
    "fingerprint",
    "load",
    "rebuild",
    "type_of",
]

FORMAT: Final = 1
"""Version of the payload's layout; a worker refuses any other."""

Route = Literal["native", "numba"]


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


@dataclass(frozen=True, slots=True)
class KernelRef:
    """A compiled kernel in a content-addressed file."""

    path: str
    """Absolute path of the file."""

    digest: str
    """SHA-256 of the file, in hexadecimal."""

    name: str
    """The kernel's name, for messages."""


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


class LoadedKernel:
    """Machine code in this process, ready to be called with NumPy arrays and numbers.

    Attributes
    ----------
    name : str
        The kernel's name.
    types : tuple of ArgumentType
        What it was compiled for, one for each parameter.
    route : str
        ``"native"`` or ``"numba"``.
    """

    __slots__ = ("_call", "_defaults", "_equal", "name", "parameters", "route", "types")

    def __init__(self, payload: dict[str, Any], call: Callable[[tuple[Any, ...]], None]) -> None:
        self.name: str = payload["name"]
        self.parameters: tuple[str, ...] = payload["parameters"]
        self.types: tuple[ArgumentType, ...] = payload["types"]
        self.route: Route = payload["route"]
        self._defaults: tuple[Any, ...] = payload["defaults"]
        self._equal: tuple[tuple[tuple[int, int, int], ...], ...] = payload["equal_shapes"]
        self._call = call

    def __call__(self, *args: Any) -> None:
        """Run the kernel.

        Raises
        ------
        TypeError
            An argument is not of the type that was compiled; nothing was run.
        KernelRaised
            The kernel raised an exception.
        """
        missing = len(self.types) - len(args)
        if missing:
            if not 0 < missing <= len(self._defaults):
                raise TypeError(f"{self.name} takes {len(self.types)} arguments, not {len(args)}")
            args += self._defaults[-missing:]
        for position, (value, declared) in enumerate(zip(args, self.types, strict=True)):
            if type(declared) is ArrayType:
                # One chain of cheap tests: this runs for every region.
                if (
                    type(value) is not np.ndarray
                    or value.ndim != declared.ndim
                    or value.dtype != declared.dtype
                    or not (flags := value.flags).aligned
                    or (declared.layout == "C" and not flags.c_contiguous)
                    or (declared.layout == "F" and not flags.f_contiguous)
                    or (declared.mutable and not flags.writeable)
                ):
                    raise TypeError(self._mismatch(position, value))
            elif type_of(value) != declared:
                raise TypeError(self._mismatch(position, value))
        for group in self._equal:
            first, axis, delta = group[0]
            length = args[first].shape[axis] - delta
            for position, axis, delta in group:
                if args[position].shape[axis] - delta != length:
                    raise TypeError(self._unequal(group, args))
        self._call(args)

    def _mismatch(self, position: int, value: object) -> str:
        declared = self.types[position]
        given = type(value).__name__
        if isinstance(value, np.ndarray):
            given = str(type_of(value)) + ("" if value.flags.aligned else ", not aligned in memory")
        return (
            f"argument {self.parameters[position]!r} of kernel {self.name} was compiled for "
            f"{declared} and got {given}: compile the kernel for that type"
        )

    def _unequal(self, group: tuple[tuple[int, int, int], ...], args: tuple[Any, ...]) -> str:
        lengths = ", ".join(
            f"{self.parameters[position]}.shape[{axis}] = {args[position].shape[axis]}"
            f"{f' (less {delta})' if delta else ''}"
            for position, axis, delta in group
        )
        return f"kernel {self.name} was compiled for equal lengths, and got {lengths}"

    def __repr__(self) -> str:
        return f"<LoadedKernel {self.name} route={self.route}>"


# ---------------------------------------------------------------- loading, once per process

_loaded: dict[str, LoadedKernel] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    # A thread of the parent may have held the lock; that thread does not exist in the child.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def load(ref: KernelRef) -> LoadedKernel:
    """Load a kernel's machine code, once per process and digest.

    Raises
    ------
    KernelError
        The file is missing or damaged, or was compiled for another machine or other versions.
    """
    kernel = _loaded.get(ref.digest)
    if kernel is not None:
        return kernel
    with _lock:
        kernel = _loaded.get(ref.digest)
        if kernel is None:
            try:
                payload = Path(ref.path).read_bytes()
            except OSError as error:
                raise KernelError(
                    f"the machine code of kernel {ref.name} cannot be read from {ref.path}: "
                    f"{error.strerror}. It lives as long as the job: was its directory removed, "
                    "or is it not visible on this machine?",
                    kernel=ref.name,
                ) from error
            digest = hashlib.sha256(payload).hexdigest()
            if digest != ref.digest:
                raise KernelError(
                    f"the machine code of kernel {ref.name} in {ref.path} is damaged: its "
                    f"SHA-256 is {digest[:16]}…, not {ref.digest[:16]}…. Run the job again",
                    kernel=ref.name,
                )
            kernel = _loaded[ref.digest] = rebuild(payload)
    return kernel


def rebuild(payload: bytes) -> LoadedKernel:
    """Make a payload's machine code callable in this process (see `load`)."""
    content: dict[str, Any] = pickle.loads(payload)
    if content["format"] != FORMAT:
        raise KernelError(
            f"kernel {content['name']} was compiled by another version of hyperslab (format "
            f"{content['format']}, here {FORMAT}): use one version for all processes of a job",
            kernel=content["name"],
        )
    _check_machine(content["name"], content["machine"], fingerprint())
    call = _native_call(content) if content["route"] == "native" else _numba_call(content)
    return LoadedKernel(content, call)


@functools.cache
def fingerprint() -> tuple[tuple[str, str], ...]:
    """What machine code depends on, as (name, value) pairs; equal where it may be exchanged."""
    import llvmlite
    import llvmlite.binding as llvm

    features = ",".join(sorted(k for k, on in llvm.get_host_cpu_features().items() if on))
    return (
        ("Python", platform.python_version()),
        ("llvmlite", llvmlite.__version__),
        ("CPU", llvm.get_host_cpu_name()),
        ("CPU features", features),
    )


def _check_machine(
    name: str, built: tuple[tuple[str, str], ...], here: tuple[tuple[str, str], ...]
) -> None:
    for (what, was), (_, is_) in zip(built, here, strict=True):
        if was == is_:
            continue
        if what == "CPU features":  # a hundred names: show only the difference
            old, new = set(was.split(",")), set(is_.split(","))
            was, is_ = ("with " + " ".join(sorted(s)) if s else "" for s in (old - new, new - old))
            was, is_ = was or "without " + is_[5:], is_ or "without " + was[5:]
        raise KernelError(
            f"kernel {name} was compiled for {what} {was}, and this process runs on {is_}: "
            "all processes of a job must run on one type of CPU with the same versions",
            kernel=name,
        )


# ---------------------------------------------------------------- route "native"


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

_STATUS_OK: Final = (0, -2)  # Numba's RETCODE_OK and RETCODE_NONE


def _native_call(content: dict[str, Any]) -> Callable[[tuple[Any, ...]], None]:
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


@functools.cache
def _next_library() -> Callable[[], int]:
    import itertools

    return itertools.count(1).__next__


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
    return builder.link(_linker(), f"kernel-{_next_library()()}")


# ---------------------------------------------------------------- route "numba"


def _numba_call(content: dict[str, Any]) -> Callable[[tuple[Any, ...]], None]:
    import numba

    compilations()  # Starts to count, so that a test can show that loading compiles nothing.
    name = content["name"]
    if numba.__version__ != content["numba"]:
        raise KernelError(
            f"kernel {name} was compiled by numba {content['numba']}, and this process has "
            f"{numba.__version__}: install one version for all processes of a job",
            kernel=name,
        )
    import llvmlite.binding as llvm
    from numba.core import compiler, utils
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys

    target = cpu_target.target_context
    # refresh() would do too, and register every implementation Numba knows: 0.2 s to learn
    # what only a compiler needs.
    rtsys.initialize(target)
    for needed in content["undefined"]:
        # MCJIT would jump to address 0.
        if not llvm.address_of_symbol(needed):
            raise KernelError(
                f"kernel {name} calls {needed}(), which this process does not have",
                kernel=name,
            )
    # Array expressions run in an environment of this name (numba.core.utils).
    sys.modules.setdefault("<dynamic>", utils._dynamic_module)
    result = compiler.CompileResult._rebuild(target, *pickle.loads(content["result"]))
    entry = result.entry_point

    # Not through a Dispatcher: LoadedKernel has checked the very same types already.
    def call(args: tuple[Any, ...], _keep: Any = result) -> None:
        try:
            entry(*args)
        except Exception as error:
            raise _from_exception(error, content["suffix"]) from error

    return call


def _from_exception(error: Exception, suffix: str) -> KernelRaised:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised = KernelRaised(str(error), type_name=type(error).__name__)
    # Numba adds a frame for the line that raised; without it the last frame is our own.
    if traceback is not None and traceback.tb_frame.f_code.co_filename != __file__:
        raised.filename = traceback.tb_frame.f_code.co_filename
        raised.line = traceback.tb_lineno
        raised.function = traceback.tb_frame.f_code.co_name.removesuffix(suffix)
    return raised


# ---------------------------------------------------------------- proof that nothing compiles

_listener: Any = None


def compilations() -> int:
    """How many compilations Numba started in this process since it was first imported here.

    0 where Numba was never imported. Where something else imported it first, the count starts
    at the first call of this function or the first kernel of route ``numba``.
    """
    global _listener
    if "numba" not in sys.modules:
        return 0
    if _listener is None:
        from numba.core import event

        class Counter(event.Listener):  # type: ignore[misc]
            count = 0

            def on_start(self, event: Any) -> None:
                self.count += 1

            def on_end(self, event: Any) -> None:
                pass

        _listener = Counter()
        event.register("numba:compile", _listener)
    count: int = _listener.count
    return count
