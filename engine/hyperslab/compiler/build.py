"""Compile a kernel for one signature and put the machine code where workers find it."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from hyperslab.compiler.exclusion import compiling
from hyperslab.compiler.kernel import Kernel
from hyperslab.compiler.overruling import as_stated
from hyperslab.compiler.signature import EqualShapes, check_types, numba_type, unit_strides
from hyperslab.errors import KernelError
from hyperslab_workers.fresh_file import write_in_place
from hyperslab_workers.kernel import (
    FORMAT,
    ArgumentType,
    ArrayType,
    KernelRef,
    Route,
    fingerprint,
    type_of,
)

__all__ = ["CompiledKernel", "compile_kernel", "publish"]


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """Machine code for one signature of a kernel."""

    name: str
    """The kernel's name."""

    digest: str
    """SHA-256 of the payload, in hexadecimal."""

    payload: bytes
    """What `hyperslab_workers.kernel.load` reads."""

    types: tuple[ArgumentType, ...]
    """Type of each parameter."""

    route: Route
    """``"native"``: runs without Numba; ``"numba"``: needs it in the worker."""

    contained: bool
    """Whether it keeps within its arguments and its stack, and cannot harm whoever calls it: every
    index is checked, nothing calls itself, and nothing is called that was not seen."""

    seconds: float
    """How long the compilation took."""


def compile_kernel(
    kernel: Kernel,
    types: tuple[ArgumentType, ...],
    argument_names: tuple[str, ...] | None = None,
    *,
    equal_shapes: EqualShapes = (),
) -> CompiledKernel:
    """Compile a kernel for one signature; the second time it is at hand.

    Parameters
    ----------
    kernel : Kernel
        The kernel.
    types : tuple of ArgumentType
        One for each parameter; trailing parameters with defaults may be left out.
    argument_names : tuple of str, optional
        What the messages call the arguments, if not the kernel's parameters.
    equal_shapes : tuple of groups
        A group is a tuple of ``(position, axis, delta)``: the arguments' ``shape[axis] - delta``
        are equal within it, which is checked before every call. It lets LLVM drop the bounds
        checks that the equality answers; it never changes what the kernel computes.

    Raises
    ------
    KernelError
        Wrong number of arguments, a dtype kernels cannot take, or code Numba cannot compile.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperslab.compiler import kernel
    >>> @kernel
    ... def double(a, out):
    ...     for i in range(a.shape[0]):
    ...         out[i] = 2 * a[i]
    >>> a, out = type_of(np.ones(4)), type_of(np.empty(4))
    >>> compile_kernel(double, (a, out), equal_shapes=(((0, 0, 0), (1, 0, 0)),)).route
    'native'
    """
    names = argument_names or kernel.parameters
    defaults = _defaults(kernel, len(types))
    full = types + tuple(type_of(value) for value in defaults)
    names = (*names[: len(types)], *kernel.parameters[len(types) :])
    check_types(kernel.name, names, full)
    _check_equal_shapes(kernel, full, equal_shapes)
    key = (full, equal_shapes, len(defaults))
    compiled: CompiledKernel | None = kernel._compiled.get(key)
    if compiled is not None:
        kernel.warn_of_changes()
    else:
        with compiling():
            compiled = kernel._compiled.get(key)
            if compiled is None:

                def make() -> CompiledKernel:
                    with as_stated():
                        return _compile(kernel, full, names, defaults, equal_shapes)

                compiled = _found_or_made(kernel, full, (defaults, equal_shapes), make)
                kernel._compiled[key] = compiled
    return compiled


def _found_or_made(
    kernel: Kernel,
    types: tuple[ArgumentType, ...],
    others: tuple[object, ...],
    make: Callable[[], CompiledKernel],
) -> CompiledKernel:
    """Machine code from the cache on disk, or else compiled and kept there."""
    # Not before a kernel is needed: who only opens arrays does without.
    from hyperslab.compiler import cache
    from hyperslab.compiler.content import Unknown, key_of

    start = time.perf_counter()
    try:
        key, kernel._uses = key_of(kernel, types, *others)
    except (Unknown, OSError):  # The system tells nothing of the processor, or of packages' files.
        return make()
    entry = cache.find(key)
    if entry is not None:
        return _made(kernel, types, entry.route, entry.payload, entry.contained, start)
    compiled = make()
    cache.keep(key, cache.Entry(compiled.route, compiled.payload, compiled.contained))
    return compiled


def _made(
    kernel: Kernel,
    types: tuple[ArgumentType, ...],
    route: Route,
    payload: bytes,
    contained: bool,
    start: float,
) -> CompiledKernel:
    return CompiledKernel(
        name=kernel.name,
        digest=hashlib.sha256(payload).hexdigest(),
        payload=payload,
        types=types,
        route=route,
        contained=contained,
        seconds=time.perf_counter() - start,
    )


def _defaults(kernel: Kernel, given: int) -> tuple[Any, ...]:
    """Values of the parameters that were not given."""
    known = tuple(kernel.function.__defaults__ or ())
    missing = len(kernel.parameters) - given
    if not 0 <= missing <= len(known):
        expected = ", ".join(
            f"{p.name}={p.default!r}" if p.default is not p.empty else p.name
            for p in inspect.signature(kernel.function).parameters.values()
        )
        raise KernelError(
            f"kernel {kernel.name}({expected}) takes {len(kernel.parameters)} "
            f"argument{'s' if len(kernel.parameters) != 1 else ''} and was given {given}",
            kernel=kernel.name,
        )
    values = known[len(known) - missing :]
    for value in values:
        try:
            plain = not isinstance(type_of(value), ArrayType)
        except TypeError:
            plain = False
        if not plain:
            raise KernelError(
                f"the default {value!r:.60} of kernel {kernel.name} is not a number or a tuple "
                "of integers: give the argument explicitly",
                kernel=kernel.name,
            )
    return values


def _check_equal_shapes(
    kernel: Kernel, types: tuple[ArgumentType, ...], equal_shapes: EqualShapes
) -> None:
    for group in equal_shapes:
        for position, axis, _ in group:
            declared = types[position] if 0 <= position < len(types) else None
            if not isinstance(declared, ArrayType) or not 0 <= axis < declared.ndim:
                raise ValueError(
                    f"equal_shapes names axis {axis} of argument {position} of kernel "
                    f"{kernel.name}, which is {declared}"
                )


def _compile(
    kernel: Kernel,
    types: tuple[ArgumentType, ...],
    names: tuple[str, ...],
    defaults: tuple[Any, ...],
    equal_shapes: EqualShapes,
) -> CompiledKernel:
    start = time.perf_counter()
    import numba

    if numba.config.DISABLE_JIT:
        raise KernelError(
            f"kernel {kernel.name} cannot be compiled: NUMBA_DISABLE_JIT is set; unset it, or "
            "call kernel.function to run the Python code",
            kernel=kernel.name,
        )
    from numba.core.serialize import dumps

    from hyperslab.compiler.lowering import helper_pipeline, pipeline
    from hyperslab.compiler.machine import Machine, finish
    from hyperslab.compiler.snapshot import Snapshot

    bare = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

    def jit(function: FunctionType, stated: dict[str, Any]) -> Any:
        # Regions run in parallel already; a helper's own threads would fight over the cores.
        left_out = ("nopython", "parallel", "boundscheck")
        options = {k: v for k, v in stated.items() if v is not None and k not in left_out}
        options["boundscheck"] = bool(
            kernel.options["boundscheck"]
            if stated.get("boundscheck") is None
            else stated["boundscheck"]
        )
        return numba.njit(pipeline_class=helper_pipeline(), **{**options, **bare})(function)

    signature = tuple(numba_type(declared) for declared in types)
    snapshot = Snapshot(kernel, jit)
    unit = unit_strides(types)
    function = snapshot.copy(f"{signature} {sorted(kernel.options.items())} {equal_shapes} {unit}")
    options = {"nogil": True, "pipeline_class": pipeline(equal_shapes, unit), **kernel.options}

    def build(**more: bool) -> tuple[Any, Machine]:
        dispatcher = numba.njit(**options, **more)(function)
        try:
            dispatcher.compile(signature)
        except Exception as error:
            from hyperslab.compiler.messages import explain

            raise explain(error, kernel, names, types) from None
        result = dispatcher.overloads[signature]
        _check_result(kernel, result)
        entry = result.fndesc.llvm_func_name
        # Numba finds the Python wrapper and the environments by their names.
        keep = () if more else (result.fndesc.llvm_cpython_wrapper_name, "_ZN08NumbaEnv")
        return result, finish(result.library, entry, keep)

    result, machine = build(**bare)
    route: Route = "native" if machine.stands_alone else "numba"
    content = {
        "format": FORMAT,
        "name": kernel.name,
        "parameters": kernel.parameters,
        "types": types,
        "defaults": defaults,
        "equal_shapes": equal_shapes,
        "machine": fingerprint(),
        "route": route,
    }
    if route == "numba":
        # The Python wrapper is wanted after all. Wrapping every kernel was rejected: it is
        # compiled with the kernel inlined, so it costs as much again; this way the helpers
        # are at hand and few kernels come here.
        result, machine = build()
        _, *rest = result._reduce()
        library = (result.library.name, "object", (machine.image, machine.bitcode))
        content["numba"] = numba.__version__
        content["result"] = dumps((library, *rest))
        content["suffix"] = f"_{snapshot.tag}"
    else:
        content["object"] = machine.image
        content["symbol"] = machine.symbol
        content["arguments"] = machine.arguments
        content["raises"] = {
            data: (*what, function.removesuffix(f"_{snapshot.tag}"))
            for data, (*what, function) in machine.raises.items()
        }
    content["undefined"] = machine.undefined
    contained = snapshot.contained and bool(kernel.options["boundscheck"])
    return _made(kernel, types, route, pickle.dumps(content, protocol=5), contained, start)


def _check_result(kernel: Kernel, result: Any) -> None:
    """Refuse what compiles but cannot run in another process, or would lose its result."""
    from numba.core import types

    problem = ""
    if result.signature.return_type != types.none:
        problem = (
            f"returns a value ({result.signature.return_type}), which would be lost: write it "
            "into an output argument"
        )
    elif result.library.has_dynamic_globals:
        problem = (
            "uses a function pointer (ctypes, cffi) whose address means nothing in another "
            "process: call a numba.njit function instead"
        )
    elif result.lifted:
        problem = "uses objmode, which needs the Python interpreter: compute it outside the kernel"
    elif any(
        value.name.startswith(".numba.unresolved$")
        for value in result.library._final_module.global_variables
    ):
        problem = "is recursive, or calls a function that is: write the recursion as a loop"
    if problem:
        raise KernelError(
            f"kernel {kernel.name} ({kernel.filename}:{kernel.line}) {problem}",
            kernel=kernel.name,
        )


def publish(compiled: CompiledKernel, directory: str | os.PathLike[str]) -> KernelRef:
    """Write a compiled kernel into `directory`, unless it is there, and refer to it.

    The file appears whole or not at all, under a name that contains its digest, so that any
    number of processes may publish at once.

    Parameters
    ----------
    compiled : CompiledKernel
        What to write.
    directory : path
        An existing directory that every worker can read.
    """
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in compiled.name)[:40]
    target = Path(directory).absolute() / f"{stem}-{compiled.digest[:32]}.kernel"
    if not target.exists():
        temporary = target.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}.tmp")
        # For this user alone, whatever the umask: what others could write is not loaded.
        write_in_place(str(target), compiled.payload, str(temporary))
    return KernelRef(str(target), compiled.digest, compiled.name)
