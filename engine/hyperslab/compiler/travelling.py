"""How kernels get into other processes: by name where there is a module to import, else by value.

What a worker of loky, joblib, dask or Ray is sent was often written in a script, in a notebook or
inside a function, where no other process can import it. Those pools pickle functions by value,
with cloudpickle; each has a copy of its own, so a kernel does not wait to be recognised by one and
does it itself, whoever pickles it, as Numba's functions do.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["by_value", "is_importable"]

_pickling = threading.local()


def is_importable(value: Any) -> bool:
    """Whether another process that imports the value's module finds it there under its name."""
    if value.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def by_value(make: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """What ``__reduce__`` returns for something that is made of functions."""
    if getattr(_pickling, "nested", False):
        # Inside, one pickler remembers all that it has seen: a kernel may refer to itself.
        return make, arguments
    import cloudpickle

    _pickling.nested = True
    try:
        return _made, (cloudpickle.dumps((make, arguments)),)
    finally:
        _pickling.nested = False


def _made(content: bytes) -> Any:
    make, arguments = pickle.loads(content)
    return make(*arguments)
