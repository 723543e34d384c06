"""What a kernel's machine code follows from, as a key; found without Numba.

::

    code, defaults, options ──┐
    globals and closures used ├──► key ──► the same machine code, in any process of this machine
    helpers, recursively ─────┤
    signature, lengths ───────┤
    processor, versions ──────┘

What is not understood makes no key, and the kernel is compiled each time: a kernel that is
compiled once too often is slow, and one that is not compiled again is wrong.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np

from hyperslab.compiler.kernel import Kernel, is_jitted
from hyperslab_workers.kernel import FORMAT
from hyperslab_workers.kernel.processor import described

__all__ = ["KNOWN_MODULES", "Unknown", "Use", "key_of", "names_of"]

_FORMAT: Final = b"hyperslab kernel 1"

KNOWN_MODULES: Final = frozenset(["builtins", "math", "cmath", "numpy", "numba", "operator"])
"""What is reached through these follows from Python's, NumPy's and Numba's version."""

_PLAIN: Final = (bool, int, float, complex, str, bytes, tuple, np.generic)

_NOTEBOOK: Final = re.compile(r"/ipykernel_\d+/")
"""Where notebooks' cells seem to lie, by the number of the process."""


class Unknown(Exception):
    """It is not known whether this is the same in another process."""


@dataclass(frozen=True, slots=True)
class Use:
    """A variable that a kernel refers to, and what it was when it was compiled."""

    name: str
    where: dict[str, Any] | CellType
    value: Any

    def changed(self) -> bool:
        """Whether it is something else now."""
        try:
            if isinstance(self.where, CellType):
                now = self.where.cell_contents
            else:
                now = self.where[self.name]
        except (ValueError, KeyError):
            return True
        if now is self.value:
            return False
        # An equal number is as good. Of two other objects, as two helpers, it is not known.
        return type(now) is not type(self.value) or not _same(now, self.value)


def _same(one: Any, other: Any) -> bool:
    # By their words: nan is what it was, and 0.0 is not -0.0.
    return isinstance(one, _PLAIN) and repr(one) == repr(other)


def key_of(kernel: Kernel, *signature: object) -> tuple[str, tuple[Use, ...]]:
    """Key of a kernel's machine code for a signature.

    Parameters
    ----------
    kernel : Kernel
        The kernel, with the values that its globals and closure have now.
    *signature : object
        Whatever else decides, whose ``repr`` says all of it.

    Returns
    -------
    key : str
        SHA-256, in hexadecimal.
    uses : tuple of Use
        The variables that are constants in the machine code.

    Raises
    ------
    Unknown
        It refers to something that is not understood.
    """
    content = _Content()
    content.feed("surroundings", *_surroundings(), _configuration())
    content.feed("signature", *map(repr, signature))
    content.function(kernel.function, kernel.options)
    return content.digest(), tuple(content.uses)


class _Content:
    """A hash of values and functions. Each part begins with its kind and length."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(_FORMAT)
        self._seen: dict[int, int] = {}
        self.uses: list[Use] = []

    def digest(self) -> str:
        return self._hash.hexdigest()

    def feed(self, kind: str, *parts: str | bytes) -> None:
        for part in (kind, *parts):
            data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
            self._hash.update(struct.pack("<q", len(data)))
            self._hash.update(data)

    def function(self, function: Any, options: Any) -> None:
        """A kernel or helper, with all that it refers to."""
        if id(function) in self._seen:
            self.feed("again", str(self._seen[id(function)]))
            return
        self._seen[id(function)] = len(self._seen)
        self.feed("options", *(f"{k}={_stated(v)}" for k, v in sorted(options.items())))
        code = function.__code__
        self._code(code)
        self.value(function.__defaults__)
        if function.__kwdefaults__:
            raise Unknown("keyword-only parameters")
        names = names_of(code)
        for name in sorted(names & function.__globals__.keys()):
            self.feed("global", name)
            value = function.__globals__[name]
            self.uses.append(Use(name, function.__globals__, value))
            self.value(value, names)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self.feed("closure", name)
            try:
                value = cell.cell_contents
            except ValueError:
                raise Unknown(f"{name} has no value yet") from None
            self.uses.append(Use(name, cell, value))
            self.value(value, names)

    def _code(self, code: CodeType) -> None:
        numbers = (
            *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
            *(code.co_flags, code.co_firstlineno),
        )
        self.feed("code", code.co_name, code.co_qualname, repr(numbers), code.co_code)
        self.feed("table", code.co_linetable, code.co_exceptiontable)
        # Errors name the file.
        self.feed("file", _NOTEBOOK.sub("/ipykernel/", code.co_filename))
        for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
            self.feed("names", *names)
        self.feed("constants", str(len(code.co_consts)))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.value(constant)

    def value(self, value: Any, names: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Something that a function refers to; `names` are all names that it looks up."""
        kind = type(value)
        if value is None or value is Ellipsis or kind in (bool, int, str, bytes):
            self.feed(kind.__name__, value if kind is bytes else repr(value))
        elif kind in (float, complex):
            number = complex(value)
            self.feed(kind.__name__, struct.pack("<dd", number.real, number.imag))
        elif kind in (tuple, frozenset):
            items = value if kind is tuple else sorted(value, key=repr)
            self.feed(kind.__name__, str(len(value)))
            for item in items:
                self.value(item, names)
        elif isinstance(value, np.dtype):
            self.feed("dtype", _described(value))
        elif isinstance(value, np.generic):
            self.feed("number", _described(value.dtype), value.tobytes())
        elif kind is np.ndarray:
            layout = (value.shape, value.flags.c_contiguous, value.flags.f_contiguous)
            aligned = (value.flags.aligned, value.flags.writeable)
            self.feed("array", _described(value.dtype), repr(layout + aligned), value.tobytes())
        elif isinstance(value, ModuleType):
            self._module(value, names)
        elif isinstance(value, Kernel):
            self.function(value.function, value.options)
        elif is_jitted(value):
            if type(value).__module__ != "numba.core.registry":
                raise Unknown(f"a {kind.__name__}")
            self.function(value.py_func, value.targetoptions)
        else:
            self.feed("named", _named(value))

    def _module(self, module: ModuleType, names: set[str]) -> None:
        """A module: what of it may be meant is told by the names that the function looks up."""
        self.feed("module", module.__name__)
        if module.__name__.partition(".")[0] in KNOWN_MODULES:
            return
        if id(module) in self._seen:
            return
        self._seen[id(module)] = len(self._seen)
        for name in sorted(names & vars(module).keys()):
            self.feed("attribute", name)
            self.value(vars(module)[name], names)


def names_of(code: CodeType) -> set[str]:
    """Names that a code object, and those inside it, look up: of globals and of attributes."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_of(constant)
    return names


def _stated(value: Any) -> str:
    if isinstance(value, set | frozenset):
        return repr(sorted(value))
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    raise Unknown(f"an option that is {value!r:.60}")


def _described(dtype: np.dtype) -> str:
    if dtype.hasobject or dtype.metadata:
        raise Unknown(f"dtype {dtype}")
    return repr(
        (dtype.str, dtype.descr if dtype.names else "", dtype.itemsize, dtype.isalignedstruct)
    )


def _named(value: Any) -> str:
    """A function or class of Python, NumPy or Numba, which is what its name says."""
    found = isinstance(value, type | BuiltinFunctionType | FunctionType | np.ufunc)
    module = getattr(value, "__module__", None) or ("numpy" if isinstance(value, np.ufunc) else "")
    # NumPy's functions are wrapped in C, and have the module and name of what they wrap.
    if type(value).__module__.startswith("numpy"):
        found = True
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    if not found or not name or str(module).partition(".")[0] not in KNOWN_MODULES:
        raise Unknown(f"{value!r:.60}")
    owner: Any = sys.modules.get(module)
    for part in name.split("."):
        owner = getattr(owner, part, None)
    if owner is not value:
        raise Unknown(f"{value!r:.60}")
    return f"{module}:{name}"


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """Processor and versions."""
    return (
        *(sys.version, sys.implementation.cache_tag or "", os.uname().machine),
        *(_processor(), f"format {FORMAT}"),
        *(f"{name} {_version(name)}" for name in ("numpy", "numba", "llvmlite", "hyperslab")),
        _own_code(),
    )


def _processor() -> str:
    """What the system says of the processor: model and features."""
    lines = described()
    if not lines:
        raise Unknown("the processor")
    return "\n".join(lines)


def _version(package: str) -> str:
    """A package's version, read off a file's name: importlib.metadata takes 40 ms to import."""
    loaded = sys.modules.get(package)
    if loaded is not None and isinstance(version := getattr(loaded, "__version__", None), str):
        return version
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise Unknown(f"the version of {package}")
    found = sorted(p.name for p in Path(spec.origin).parents[1].glob(f"{package}-*.dist-info"))
    if len(found) != 1:
        raise Unknown(f"the version of {package}")
    return found[0].removeprefix(f"{package}-").removesuffix(".dist-info")


def _own_code() -> str:
    """The compiler's own files: in a checkout they change without a new version."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        status = path.stat()
        found.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _configuration() -> str:
    """What Numba is told from outside: variables, and a file in the working directory."""
    variables = sorted((k, v) for k, v in os.environ.items() if k.startswith("NUMBA_"))
    try:
        with open(".numba_config.yaml", "rb") as file:
            said = file.read(1 << 20)
    except OSError:
        said = b""
    return repr((variables, said))
