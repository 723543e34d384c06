"""Compiled kernels: load machine code, check the arguments, call it. Nothing here compiles.

A kernel arrives as a file that the coordinator wrote once per job. There are two routes:

``native``
    The file holds an object image whose only needs are the C library's. It is linked here (see
    ``linking``) and ``ctypes`` calls it by Numba's own calling convention, without the interpreter
    lock. Neither Numba nor LLVM is imported: a worker is ready four times sooner and half as large.

``numba``
    The kernel needs Numba's runtime (array temporaries with destructors, random numbers,
    printing). Numba is imported and its compile result rebuilt from the object code.

Either way the arguments are checked against the compiled types first. Machine code believes
whatever it is handed: a wrong type would be a wrong answer or a crash, so it is a TypeError.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from hyperslab_workers import forks
from hyperslab_workers.errors import KernelError
from hyperslab_workers.kernel.native import Frame, NativeCode
from hyperslab_workers.kernel.processor import fingerprint
from hyperslab_workers.kernel.rebuilt import compilations, numba_call
from hyperslab_workers.kernel.types import (
    ArgumentType,
    ArrayType,
    KernelRaised,
    ScalarType,
    TupleType,
    type_of,
    unit_axes,
)
from hyperslab_workers.owned import read_own

__all__ = [
    "FORMAT",
    "ArgumentType",
    "ArrayType",
    "Frame",
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

FORMAT: Final = 3
"""Version of the payload's layout; a worker refuses any other."""

Route = Literal["native", "numba"]


@dataclass(frozen=True, slots=True)
class KernelRef:
    """A compiled kernel in a content-addressed file."""

    path: str
    """Absolute path of the file."""

    digest: str
    """SHA-256 of the file, in hexadecimal."""

    name: str
    """The kernel's name, for messages."""


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

    __slots__ = (
        "_arrays",
        "_call",
        "_defaults",
        "_equal",
        "_others",
        "_pairs",
        "name",
        "parameters",
        "route",
        "types",
    )

    def __init__(self, payload: dict[str, Any], call: Callable[[tuple[Any, ...]], None]) -> None:
        self.name: str = payload["name"]
        self.parameters: tuple[str, ...] = payload["parameters"]
        self.types: tuple[ArgumentType, ...] = payload["types"]
        self.route: Route = payload["route"]
        self._defaults: tuple[Any, ...] = payload["defaults"]
        self._equal: tuple[tuple[tuple[int, int, int], ...], ...] = payload["equal_shapes"]
        self._call = call
        # What is checked for every region lies ready in plain tuples.
        self._arrays = tuple(
            (position, t.ndim, t.dtype, t.dtype.itemsize, t.layout, t.unit_axis, t.mutable)
            for position, t in enumerate(self.types)
            if isinstance(t, ArrayType)
        )
        self._others = tuple(
            (position, t) for position, t in enumerate(self.types) if not isinstance(t, ArrayType)
        )
        self._pairs = tuple(
            (number, first, first_axis, position, axis, delta - first_delta)
            for number, ((first, first_axis, first_delta), *rest) in enumerate(self._equal)
            for position, axis, delta in rest
        )

    def __call__(self, *args: Any) -> None:
        """Run the kernel.

        Raises
        ------
        TypeError
            An argument is not of the type that was compiled; nothing was run.
        KernelRaised
            The kernel raised an exception.
        """
        self._call(self._checked(args))

    def frame(self, args: tuple[Any, ...]) -> Frame | None:
        """The arguments of a call, checked and lying ready; None where Numba makes the call.

        Raises
        ------
        TypeError
            An argument is not of the type that was compiled.
        """
        checked = self._checked(args)
        return Frame(self._call, checked) if isinstance(self._call, NativeCode) else None

    def _checked(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        missing = len(self.types) - len(args)
        if missing:
            if not 0 < missing <= len(self._defaults):
                raise TypeError(f"{self.name} takes {len(self.types)} arguments, not {len(args)}")
            args += self._defaults[-missing:]
        for position, ndim, dtype, itemsize, layout, unit_axis, mutable in self._arrays:
            value = args[position]
            # One chain of cheap tests, the likely way out of each first.
            if (
                type(value) is not np.ndarray
                or value.ndim != ndim
                or value.dtype != dtype
                or not (flags := value.flags).aligned
                or (layout == "C" and not flags.c_contiguous)
                or (layout == "F" and not flags.f_contiguous)
                or (mutable and not flags.writeable)
                or (
                    unit_axis is not None
                    and value.strides[unit_axis] != itemsize
                    and unit_axis not in unit_axes(value.shape, value.strides, itemsize)
                )
            ):
                raise TypeError(self._mismatch(position, value))
        for position, declared in self._others:
            if type_of(args[position]) != declared:
                raise TypeError(self._mismatch(position, args[position]))
        for number, first, first_axis, position, axis, delta in self._pairs:
            if args[position].shape[axis] - args[first].shape[first_axis] != delta:
                raise TypeError(self._unequal(self._equal[number], args))
        return args

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


_loaded: dict[str, LoadedKernel] = {}
# Reentrant: a signal handler may run a kernel while this thread loads one.
_lock = forks.lock()


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
    with forks.undisturbed(), _lock:
        kernel = _loaded.get(ref.digest)
        if kernel is None:
            try:
                payload = read_own(ref.path)
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
            kernel = _loaded.setdefault(ref.digest, rebuild(payload))
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
    call = NativeCode(content) if content["route"] == "native" else numba_call(content)
    return LoadedKernel(content, call)


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
            "all processes of a job must run on one type of CPU with one version of Python",
            kernel=name,
        )
