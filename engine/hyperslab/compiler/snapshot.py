"""A private copy of a kernel's function, as it is at this moment, with all it refers to.

The copy, not the original, is compiled, because

* symbols of machine code must not depend on what else this process compiled (two kernels of
  one name from two processes may meet in one worker), so names carry a hash of the content;
* a jitted helper is compiled again for the kernel: with bounds checks, with line numbers in
  its errors, without touching the user's own dispatcher or taking over code it made with other
  settings;
* rebuilding a kernel imports the module its function names, which must exist in a worker.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np

from hyperslab.compiler.content import KNOWN_MODULES, names_of
from hyperslab.compiler.kernel import Kernel, is_jitted
from hyperslab.errors import KernelError

__all__ = ["MAX_CONSTANT_BYTES", "Snapshot"]

MAX_CONSTANT_BYTES: Final = 1 << 20
"""A larger array in a global or closure variable is refused: it would be copied into the code."""

_MODULE: Final = "hyperslab_workers.kernel"


class Snapshot:
    """Copies functions; one object per compilation, so that helpers are shared within it.

    Parameters
    ----------
    kernel : Kernel
        The kernel to copy.
    jit : callable
        Makes a dispatcher of a copied helper and the options its user gave it.
    """

    def __init__(self, kernel: Kernel, jit: Callable[[FunctionType, dict[str, Any]], Any]) -> None:
        self._kernel = kernel
        self._jit = jit
        self._helpers: dict[int, Any] = {}
        self._open = {id(kernel)}
        self.contained = True
        """Whether all of it keeps within its arguments and its stack: every index is checked,
        nothing calls itself, and nothing is called that was not seen."""
        self._hash = hashlib.sha256()

    def copy(self, signature: str) -> FunctionType:
        """The kernel's function, under a name made unique by its content and `signature`."""
        self._hash.update(signature.encode())
        copied = self._copy(self._kernel.function)
        copied.__qualname__ = f"{self._kernel.name}_{self.tag}"
        return copied

    @property
    def tag(self) -> str:
        """Hash of the code, of what is known of its constants, and of the signature."""
        return self._hash.hexdigest()[:20]

    def _copy(
        self, function: Any, register: Callable[[FunctionType], None] | None = None
    ) -> FunctionType:
        code = function.__code__
        self._hash.update(marshal.dumps(code))
        scope: dict[str, Any] = {
            "__name__": _MODULE,
            "__builtins__": function.__globals__.get("__builtins__", __builtins__),
        }
        cells = tuple(CellType() for _ in code.co_freevars)
        copied = FunctionType(code, scope, function.__name__, function.__defaults__, cells)
        copied.__kwdefaults__ = function.__kwdefaults__
        copied.__module__ = _MODULE
        # Known before its scope is filled: a helper may refer to itself.
        if register is not None:
            register(copied)
        for name in sorted(names_of(code) & function.__globals__.keys()):
            scope[name] = self._constant(name, function.__globals__[name])
        for name, cell, old in zip(
            code.co_freevars, cells, function.__closure__ or (), strict=True
        ):
            try:
                value = old.cell_contents
            except ValueError:
                raise KernelError(
                    f"kernel {self._kernel.name} uses {name}, which has no value yet: assign it "
                    "before the kernel is run",
                    kernel=self._kernel.name,
                ) from None
            cell.cell_contents = self._constant(name, value)
        return copied

    def _constant(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.nbytes > MAX_CONSTANT_BYTES:
                raise KernelError(
                    f"kernel {self._kernel.name} uses the array {name} "
                    f"({value.nbytes / 1e6:.1f} MB) that is not one of its arguments; up to "
                    f"{MAX_CONSTANT_BYTES / 1e6:.1f} MB would be compiled in as constants. Make "
                    f"{name} an argument: hs.run(kernel, ..., hs.read({name}, whole=True))",
                    kernel=self._kernel.name,
                )
            self._hash.update(value.tobytes())
            return value
        options: dict[str, Any]
        if isinstance(value, Kernel):
            function, options = value.function, dict(value.options)
        elif is_jitted(value):
            function, options = value.py_func, dict(value.targetoptions)
        else:
            if isinstance(value, (int, float, complex, str, bytes, tuple, np.generic)):
                self._hash.update(f"{name}={value!r}".encode())
            elif not _is_known(value):
                self.contained = False
            return value
        # Of a helper, silence means that indices are checked.
        if options.get("boundscheck") is False or id(value) in self._open:
            self.contained = False
        if id(value) not in self._helpers:

            def register(copied: FunctionType) -> None:
                self._helpers[id(value)] = self._jit(copied, options)

            self._open.add(id(value))
            self._copy(function, register)
            self._open.discard(id(value))
        return self._helpers[id(value)]


def _is_known(value: Any) -> bool:
    """Whether it is of Python, NumPy or Numba, or is nothing that can be called."""
    if value is None or isinstance(value, np.dtype) or type(value) is np.ufunc:
        return True
    if isinstance(value, ModuleType):
        module: Any = value.__name__
    elif isinstance(value, type | FunctionType | BuiltinFunctionType):
        module = value.__module__
    else:
        # NumPy's functions are wrapped in C; of Numba's objects it is not known what is in them.
        module = type(value).__module__
        if module.startswith("numba"):
            return False
    return str(module).partition(".")[0] in KNOWN_MODULES
