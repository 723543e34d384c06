"""The floating-point environment of kernels: the same in every thread that runs them.

Rounding and the treatment of subnormal numbers are settings of a thread, which a new one inherits
from the one that starts it. In a program of somebody else's they can be anything: a library that
was built with ``-ffast-math`` flushes subnormal numbers to zero in whichever thread loads it. A
worker process is born with the defaults; a thread that is not ours alone is given them for as
long as it computes for us, so that no bit hangs on who runs a task.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["defaults", "set_defaults"]

_ROOM: Final = 256
"""Bytes for an ``fenv_t`` of <fenv.h>, with much to spare."""

_DEFAULTS: Final = ctypes.c_void_p(-1)
"""``FE_DFL_ENV`` of the GNU C library: rounding to nearest, no traps, nothing flushed."""


@functools.cache
def _functions() -> tuple[Any, Any]:
    library = ctypes.CDLL(None)
    save, restore = library.fegetenv, library.fesetenv
    save.argtypes = restore.argtypes = [ctypes.c_void_p]
    return save, restore


def set_defaults() -> None:
    """Give the defaults to this thread, for good."""
    _functions()[1](_DEFAULTS)


@contextlib.contextmanager
def defaults() -> Iterator[None]:
    """A block in which this thread has the defaults; afterwards it has its own again."""
    save, restore = _functions()
    own = ctypes.create_string_buffer(_ROOM)
    save(own)
    restore(_DEFAULTS)
    try:
        yield
    finally:
        restore(own)
