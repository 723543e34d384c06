"""A worker process from its first line of ours to its last."""

from __future__ import annotations

import contextlib
import faulthandler
import os
from dataclasses import dataclass

from hyperslab_workers.host import remedy

__all__ = ["Posting", "said_path"]


def said_path(directory: str, number: int) -> str:
    """Where a worker says why it leaves."""
    return f"{directory}/said-{number}"


@dataclass(frozen=True, slots=True)
class Posting:
    """What a worker process is told when it is started."""

    directory: str
    """The pool's."""

    number: int
    """Which of the pool's workers it is."""

    coordinator: int
    """Process number of the coordinator."""

    session: str
    """The coordinator's scratch directory."""

    program_path: tuple[str, ...] = ()
    """Where modules of the program lie that are imported by nothing but its exceptions."""

    def _bootstrap(self) -> int:
        """Be that worker; returns the exit status. The name is loky's: its main calls it."""
        try:
            # Where a kernel crashes the process, the terminal shows in which line of which program.
            with contextlib.suppress(Exception):  # There may be no terminal.
                faulthandler.enable()
            # What it was told came through descriptor 0: the next file must not become that.
            os.open(os.devnull, os.O_RDONLY)
            # Imported in here, so that a module that cannot be is told as anything else is.
            from hyperslab_workers.kernel import rebuilt
            from hyperslab_workers.resident import reside
            from hyperslab_workers.startup import start_worker, stay_for_tidying

            rebuilt.program_path = self.program_path
            start_worker(self.coordinator, self.session)
            try:
                reside(self.directory, self.number)
            finally:
                stay_for_tidying()
        except BaseException as error:
            # To the coordinator and not to the terminal: it may try a few times, and tells once.
            with contextlib.suppress(OSError):
                text = f"{type(error).__name__}: {str(error)[:500]}: {remedy(error)}"
                with open(said_path(self.directory, self.number), "w", errors="replace") as file:
                    file.write(text)
        return 1
