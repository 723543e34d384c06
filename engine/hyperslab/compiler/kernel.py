"""A kernel: a function with its options. Nothing is compiled here, nor Numba imported."""

from __future__ import annotations

import dis
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from hyperslab.compiler.exclusion import compiling
from hyperslab.compiler.travelling import by_value, is_importable
from hyperslab.errors import KernelError
from hyperslab_workers.kernel import (
    ArgumentType,
    KernelRaised,
    LoadedKernel,
    rebuild,
    type_of,
)
from hyperslab_workers.legible import legible

__all__ = ["Kernel"]


def is_jitted(value: Any) -> bool:
    """Whether it is a Numba dispatcher, known without importing Numba."""
    return hasattr(value, "py_func") and hasattr(value, "targetoptions")


class _Use(Protocol):
    """A variable that is a constant in the machine code."""

    @property
    def name(self) -> str: ...

    def changed(self) -> bool: ...


class _Compiled(Protocol):
    """What the compiler gives back."""

    @property
    def digest(self) -> str: ...

    @property
    def payload(self) -> bytes: ...


class Kernel:
    """A function that is compiled and run on every region of a job.

    Made by :func:`~hyperslab.compiler.decorator.kernel`. Calling it runs it in this process on
    whole NumPy arrays, compiled exactly as the workers run it: the way to try a kernel on a
    small example.

    Attributes
    ----------
    function : callable
        The Python function.
    name : str
        Its name.
    signature : inspect.Signature
        Its signature.
    parameters : tuple of str
        The names of its arguments.
    options : mapping
        ``boundscheck``, ``fastmath`` and ``error_model``.
    filename : str
        File in which it is defined.
    line : int
        Line of its definition.
    """

    def __init__(
        self,
        function: Callable[..., None],
        options: Mapping[str, Any],
        compiler: Callable[[Kernel, tuple[ArgumentType, ...]], _Compiled],
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        # Looked up once: planning a job asks for both, and each takes as long as all the rest.
        self.signature = inspect.signature(function)
        self.parameters = tuple(self.signature.parameters)
        self._rebound: dict[str, bool] = {}
        self.options: Mapping[str, Any] = MappingProxyType(dict(options))
        self.filename = function.__code__.co_filename
        self.line = function.__code__.co_firstlineno
        # Handed in, because the compiler takes kernels: importing it here would be a circle.
        self._compiler = compiler
        self._compiled: dict[Any, Any] = {}
        self._loaded: dict[str, LoadedKernel] = {}
        self._uses: tuple[_Use, ...] = ()

    def __call__(self, *args: Any) -> None:
        """Run the kernel in this process, for debugging.

        Parameters
        ----------
        *args
            NumPy arrays, numbers and tuples of integers. Anything else that NumPy can read
            becomes a read-only array: what the kernel would write to it would be lost.

        Raises
        ------
        KernelError
            The kernel does not compile for these arguments, or raised an exception.
        """
        values = [_as_argument(value) for value in args]
        try:
            types = tuple(type_of(value) for value in values)
        except TypeError as error:
            raise KernelError(f"kernel {self.name}: {error}", kernel=self.name) from None
        compiled = self._compiler(self, types)
        loaded = self._loaded.get(compiled.digest)
        if loaded is None:
            with compiling():
                loaded = self._loaded.get(compiled.digest)
                if loaded is None:
                    loaded = self._loaded[compiled.digest] = rebuild(compiled.payload)
        try:
            loaded(*values)
        except TypeError as error:
            raise KernelError(str(error), kernel=self.name) from None
        except KernelRaised as raised:
            where = f" at {raised.filename}:{raised.line}" if raised.filename else ""
            raise KernelError(
                f"kernel {self.name} raised {raised.type_name}: {raised.message}{where}",
                kernel=self.name,
            ) from None

    def warn_of_changes(self) -> None:
        """Warn if a variable that is a constant in the machine code is no longer what it was."""
        for use in self._uses:
            if use.changed():
                self._uses = tuple(other for other in self._uses if other is not use)  # Once.
                warnings.warn(
                    f"kernel {self.name} was compiled with {use.name} as it was then, and "
                    f"{use.name} has been changed since: the kernel goes on with the old value. "
                    "Define the kernel anew (run its cell again), or make it an argument",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def rebinds(self, parameter: str) -> bool:
        """Whether the first thing the function does with a parameter is to give its name away.

        Read off the byte code, in its order: a function that begins with ``out = …`` leaves what
        it was called with as it was.
        """
        known = self._rebound.get(parameter)
        if known is None:
            known = self._rebound[parameter] = self._gives_away(parameter)
        return known

    def _gives_away(self, parameter: str) -> bool:
        for instruction in dis.get_instructions(self.function):
            kinds = re.findall("LOAD|STORE", instruction.opname)
            # Python 3.13 joins two into one, as STORE_FAST_LOAD_FAST: each has its name.
            joined = isinstance(instruction.argval, tuple)
            names = instruction.argval if joined else (instruction.argval,)
            for kind, name in zip(kinds, names, strict=False):
                if name == parameter:
                    return bool(kind == "STORE")
        return False

    def __reduce__(self) -> str | tuple[Any, ...]:
        if is_importable(self):
            # Like a function: pickled by the name under which its module holds it.
            return self.function.__qualname__
        return by_value(Kernel, self.function, dict(self.options), self._compiler)

    def __copy__(self) -> Kernel:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernel:
        return self  # As functions do, which do not change.

    def __repr__(self) -> str:
        return legible(f"<hyperslab kernel {self.name}({', '.join(self.parameters)})>")


def _as_argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # a subclass, such as np.memmap, is the same memory
    if isinstance(value, list) or (
        hasattr(value, "__array__") and not isinstance(value, np.generic)
    ):
        array = np.asarray(value).view()
        array.flags.writeable = False
        return array
    return value
