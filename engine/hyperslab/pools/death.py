"""What killed a worker, in words that help."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

__all__ = ["Death", "death_of_error", "death_of_exit"]

_CAUSES = {
    "SIGKILL": "it was killed from outside: most often by the system because memory ran out "
    "(dmesg tells), by a batch system at its limit, or by hand",
    "SIGSEGV": "it touched memory that is not its own: a kernel with boundscheck=False that "
    "indexes out of bounds, or a fault in a library it calls",
    "SIGBUS": "a mapped file lost the page it touched: the file was truncated meanwhile, or "
    "the disk is full under a sparse file",
    "SIGFPE": "an integer operation that the processor refuses",
    "SIGTERM": "it was asked to stop from outside, most often by a batch system",
    "SIGABRT": "a library gave up",
    "SIGILL": "machine code that this processor does not know",
}


class Death(NamedTuple):
    """What is known of a worker's death."""

    signal: str | None = None
    """Name of the signal that killed it, where it was one."""

    detail: str = "the cause is not known"
    """What else is known."""

    false_starts: int = 0
    """How many workers in a row, up to this one, died before they began a task."""

    ours: bool = False
    """Whether the engine killed it itself: then it says nothing about the tasks."""

    @property
    def cause(self) -> str:
        """The likely cause, in words."""
        return _CAUSES.get(self.signal or "", self.detail)


def death_of_exit(status: int | None) -> Death:
    """The death behind an exit status: a signal's number, negative, or what was given to exit."""
    if status is None:
        return Death()
    if status >= 0:
        return Death(None, f"it left with exit code {status}")
    try:
        return Death(signal.Signals(-status).name)
    except ValueError:
        return Death(None, f"signal {-status} killed it")


def death_of_error(error: BaseException) -> Death:
    """What a broken executor's exception says about its dead worker."""
    text = str(error)
    # loky lists the exit codes of the workers that were dead when it looked.
    names = re.findall(r"\b(SIG[A-Z0-9]+)\(-\d+\)", text)
    if names:
        # Workers that loky itself kills show SIGKILL too: another name is more telling.
        name = next((n for n in names if n != "SIGKILL"), names[0])
        return Death(name, text)
    exits = re.findall(r"\b(?:EXIT|UNKNOWN)\((-?\d+)\)", text)
    if exits:
        return Death(None, f"it left with exit code {exits[0]}")
    return Death()
