"""Makes a script that Ctrl-C stopped end as interrupted scripts do.

Python ends a process that an uncaught ``KeyboardInterrupt`` leaves by the signal itself, which
is how a shell knows that it has to leave its loop over scripts too. It does so for exactly
that class, not for one derived from it, and an uncaught ``JobInterrupted`` would count as any
error.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import sys
from types import TracebackType

from hyperslab.errors import JobInterrupted

__all__ = ["exit_as_interrupted_if_uncaught"]

_armed = False
_uncaught = False


def exit_as_interrupted_if_uncaught() -> None:
    """If the error that is about to be raised stays uncaught, end as by ``KeyboardInterrupt``."""
    global _armed
    if _armed:
        return
    _armed = True
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        global _uncaught
        _uncaught = issubclass(kind, JobInterrupted)
        previous(kind, error, trace)

    sys.excepthook = hook


# Registered at import, so that it runs after almost all else: whatever executes source text
# afterwards would undo it.
@atexit.register
def _mark() -> None:
    """Have the interpreter note that a ``KeyboardInterrupt`` ended the program.

    Sending the signal from here was rejected: it would cut the rest of the exit short.
    """
    if not _uncaught:
        return
    run = ctypes.pythonapi.PyRun_String
    run.restype = ctypes.py_object
    run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object]
    file_input = 257
    with contextlib.suppress(KeyboardInterrupt):
        run(b"raise KeyboardInterrupt", file_input, {}, {})
