"""The decorator that makes a function a kernel. Nothing is compiled here, nor Numba imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, overload

from hyperslab.compiler.build import compile_kernel
from hyperslab.compiler.kernel import Kernel, is_jitted
from hyperslab.errors import KernelError

__all__ = ["kernel"]

_ERROR_MODELS: Final = ("numpy", "python")
_FASTMATH_FLAGS: Final = frozenset(
    {"fast", "nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}
)
_DEFAULTS: Final = MappingProxyType(
    {"boundscheck": True, "fastmath": False, "error_model": "numpy"}
)


@overload
def kernel(function: Callable[..., None], /) -> Kernel: ...


@overload
def kernel(
    function: None = None,
    /,
    *,
    boundscheck: bool = True,
    fastmath: bool | set[str] = False,
    error_model: str = "numpy",
) -> Callable[[Callable[..., None]], Kernel]: ...


def kernel(
    function: Callable[..., None] | None = None,
    /,
    **options: Any,
) -> Kernel | Callable[[Callable[..., None]], Kernel]:
    """Make a function a kernel: compiled by Numba and run on every region of a job.

    The function takes arrays, numbers and tuples of integers, writes its results into its
    output arrays and returns nothing. It may call functions decorated with ``numba.njit``,
    other kernels, and what Numba knows of NumPy. Globals and closure variables are constants.

    Parameters
    ----------
    function : callable
        A plain function, or one decorated with ``numba.njit`` (whose ``fastmath``,
        ``error_model`` and ``boundscheck`` it keeps).
    boundscheck : bool
        Whether an index out of bounds raises IndexError (default) or silently touches other
        memory. Where the plan knows that lengths agree, the check costs nothing.
    fastmath : bool or set of str
        Whether floating-point arithmetic may be reordered, and NaN assumed away.
    error_model : {"numpy", "python"}
        Whether dividing by zero gives inf or nan (default), or raises ZeroDivisionError.

    Returns
    -------
    Kernel
        Or a decorator, where only options are given.

    Raises
    ------
    KernelError
        The function cannot be a kernel, or an option is not one.

    Examples
    --------
    >>> import numpy as np
    >>> @kernel
    ... def scale(a, factor, out):
    ...     for i in range(a.shape[0]):
    ...         out[i] = a[i] * factor
    >>> scale
    <hyperslab kernel scale(a, factor, out)>
    >>> result = np.zeros(3)
    >>> scale(np.arange(3.0), 1.5, result)
    >>> print(result)
    [0.  1.5 3. ]
    """
    _check_options(options)
    if function is None:
        return lambda function: _make(function, options)
    return _make(function, options)


def _make(function: Any, options: dict[str, Any]) -> Kernel:
    if isinstance(function, Kernel):
        raise KernelError(
            f"{function.name} is a kernel already: decorate it once", kernel=function.name
        )
    merged = dict(_DEFAULTS)
    if is_jitted(function):
        stated = {k: v for k, v in function.targetoptions.items() if v is not None}
        # What njit was told, and what its silence means, is what its user has tested.
        merged["error_model"] = "python"
        merged.update({k: stated[k] for k in _DEFAULTS if k in stated})
        function = function.py_func
    merged.update(options)
    _check_function(function)
    return Kernel(function, merged, compile_kernel)


def _check_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in _DEFAULTS:
            import difflib

            near = difflib.get_close_matches(name, _DEFAULTS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(_DEFAULTS)}"
            if name in ("parallel", "nogil", "nopython", "cache"):
                hint = "the engine takes care of that itself; leave it out"
            raise KernelError(f"a kernel has no option {name!r}: {hint}")
        if name == "error_model":
            if value not in _ERROR_MODELS:
                raise KernelError(f"error_model is {value!r}: it must be 'numpy' or 'python'")
        elif name == "fastmath" and isinstance(value, (set, frozenset)):
            unknown = sorted(value - _FASTMATH_FLAGS)
            if unknown:
                raise KernelError(
                    f"fastmath has no flag {unknown[0]!r}: the flags are "
                    f"{', '.join(sorted(_FASTMATH_FLAGS))}"
                )
        elif not isinstance(value, bool):
            raise KernelError(f"{name} is {value!r}: it must be True or False")


def _check_function(function: Any) -> None:
    name = getattr(function, "__name__", repr(function))
    problem = ""
    if inspect.isclass(function):
        problem = "is a class: decorate a function"
    elif not inspect.isfunction(function):
        problem = f"is a {type(function).__name__}: decorate a plain Python function"
    elif inspect.isgeneratorfunction(function):
        problem = "is a generator: write the results into an output argument instead of yielding"
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problem = "is async: a kernel only computes; define it with def"
    else:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                problem = f"takes {star}{parameter.name}: name each argument"
            elif parameter.kind is parameter.KEYWORD_ONLY:
                problem = f"takes {parameter.name} by keyword only: arguments are given by position"
    if problem:
        raise KernelError(f"{name} cannot be a kernel, it {problem}", kernel=name)
