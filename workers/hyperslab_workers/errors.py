"""The error tree of hyperslab.

::

    HyperslabError
    ├── ArrayFileError     a file is not what was asked for, or is no longer what it was
    ├── PlanError          a job that cannot be run as it was described
    ├── KernelError        a kernel does not compile, or raised in a region
    ├── WorkerLost         a worker process died
    ├── LockTimeout        a reader-writer lock was not free in time
    ├── SpecError          a batch job spec with mistakes
    └── JobInterrupted     the job was stopped from outside (Ctrl-C)

Every message gives the value, the limit and the remedy. Everything but the message is an
attribute with a default, so that every error survives pickling: ``BaseException.__reduce__``
calls the class with the message and restores the rest from ``__dict__``.

The tree lives with the workers because locks and maps raise parts of it; the engine
re-exports it as ``hyperslab.<Name>``.
"""

from __future__ import annotations

from hyperslab_workers.legible import legible
from hyperslab_workers.region_span import RegionSpan

__all__ = [
    "ArrayFileError",
    "HyperslabError",
    "JobInterrupted",
    "KernelError",
    "LockTimeout",
    "PlanError",
    "SpecError",
    "WorkerLost",
]


class HyperslabError(Exception):
    """Base of every error that hyperslab raises on purpose.

    Attributes
    ----------
    regions : tuple of RegionSpan
        Where a run failed after it had begun: what became of every region, in their order.
        Empty where nothing had begun.
    """

    regions: tuple[RegionSpan, ...] = ()

    def __str__(self) -> str:
        # Whoever prints an error must not get another one in its place.
        return legible(super().__str__())


class ArrayFileError(HyperslabError):
    """A file cannot be opened or created as asked, or changed under an open handle."""


class PlanError(HyperslabError):
    """A job that cannot be run as described. Raised before it begins, when nothing was touched."""


class KernelError(HyperslabError):
    """A kernel that does not compile, or that raised in a region.

    Attributes
    ----------
    kernel : str
        Name of the kernel.
    region : str or None
        The region it was working on, as a box of the domain; None for a compile error.
    """

    def __init__(self, message: str = "", *, kernel: str = "", region: str | None = None) -> None:
        super().__init__(message)
        self.kernel = kernel
        self.region = region


class WorkerLost(HyperslabError):
    """A worker process died and what it was doing cannot be repeated safely or usefully.

    Attributes
    ----------
    signal : str or None
        Name of the signal that killed it, where known (``"SIGKILL"``).
    regions : tuple of RegionSpan
        What became of every region of the run: ``"done"``, ``"untouched"`` or ``"in doubt"``.
        Those in doubt, which the message names, may be changed in part.
    """

    def __init__(
        self,
        message: str = "",
        *,
        signal: str | None = None,
        regions: tuple[RegionSpan, ...] = (),
    ) -> None:
        super().__init__(message)
        self.signal = signal
        self.regions = regions


class LockTimeout(HyperslabError, TimeoutError):
    """A reader-writer lock was not free within the time allowed.

    What was waited for was not begun. A job may have done other regions before: see `regions`.
    """


class SpecError(HyperslabError):
    """A batch job spec with mistakes: all of them, each with its line.

    Attributes
    ----------
    problems : tuple of str
        One line for each mistake.
    """

    def __init__(self, message: str = "", *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class JobInterrupted(HyperslabError, KeyboardInterrupt):
    """The job was stopped by Ctrl-C.

    It is a ``KeyboardInterrupt`` too, so that a script that knows nothing of hyperslab still
    ends as an interrupted script does.
    """
