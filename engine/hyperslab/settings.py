"""Settings of an engine: one frozen object, one rule of precedence.

An argument of the call comes first, then what was given to :class:`hyperslab.Engine`, then
the ``HYPERSLAB_*`` variable, then the default.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hyperslab import processors
from hyperslab.errors import PlanError
from hyperslab.units import parse_bytes
from hyperslab_workers import host

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Progress", "Release", "Settings", "checked_progress", "resolve"]

Progress = bool | Literal["auto"]
Release = bool | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine was told, completed with variables and defaults."""

    workers: int
    """Worker processes."""

    memory: int | None
    """Budget in bytes for all processes of a job together; None: what the system allows."""

    executor: str | Executor
    """``"auto"``, ``"loky"``, ``"serial"``, or an executor of the caller's."""

    scratch: str | None
    """Directory for scratch files; None: the system's temporary directory."""

    lock_dir: str | None
    """Directory of the reader-writer locks; None: a per-user runtime directory."""

    lock_timeout: float | None
    """Seconds a task waits for a lock before it gives up; None: for ever."""

    progress: Progress
    """Whether to show progress; "auto": on jobs of more than half a second."""

    release: Release
    """Whether workers let go of a region's file pages after it; "auto": where the control group's
    memory is smaller than the files."""

    @property
    def at_once(self) -> int:
        """Tasks that can run at a time: the serial executor is one worker, this process."""
        return 1 if self.executor == "serial" else self.workers


def resolve(
    *,
    workers: int | None = None,
    memory: int | float | str | None = None,
    executor: str | Executor | None = None,
    scratch: str | os.PathLike[str] | None = None,
    lock_dir: str | os.PathLike[str] | None = None,
    lock_timeout: float | None = None,
    progress: Progress | None = None,
    release: Release | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Complete what was given with ``HYPERSLAB_*`` variables and defaults.

    Raises
    ------
    PlanError
        A value that makes no sense, named with where it came from.
    """
    # Who says how many workers there are to be wants workers, and not threads of this process.
    usual = "auto" if workers is None else "loky"
    if workers is not None:
        workers = _checked_workers(workers, "workers")
    elif text := environ.get("HYPERSLAB_WORKERS"):
        workers = _checked_workers(text, "HYPERSLAB_WORKERS")
    else:
        # An executor of the user's says itself how many it has.
        workers = int(getattr(executor, "_max_workers", None) or 0) or processors.usable()

    if memory is None and (text := environ.get("HYPERSLAB_MEMORY")):
        memory = parse_bytes(text, "HYPERSLAB_MEMORY")
    source = "executor"
    if executor is None:
        source, executor = "HYPERSLAB_EXECUTOR", environ.get("HYPERSLAB_EXECUTOR") or usual
    if isinstance(executor, str):
        if executor not in ("auto", "loky", "serial"):
            raise PlanError(
                f'{source}={executor!r} is not known; give "auto", "loky", "serial" (in this '
                "process, for debugging), or a concurrent.futures.Executor"
            )
    elif not callable(getattr(executor, "submit", None)):
        raise PlanError(
            f"executor={executor!r} has no submit method; give a concurrent.futures.Executor"
        )
    if progress is None:
        progress = _switch(environ, "HYPERSLAB_PROGRESS")
    else:
        progress = checked_progress(progress)
    if release is None:
        release = _switch(environ, "HYPERSLAB_RELEASE")
    else:
        release = _checked_switch(release, "release")
    if lock_timeout is not None:
        lock_timeout = _checked_seconds(lock_timeout, "lock_timeout")
    elif text := environ.get("HYPERSLAB_LOCK_TIMEOUT"):
        lock_timeout = _checked_seconds(text, "HYPERSLAB_LOCK_TIMEOUT")
    return Settings(
        workers=workers,
        memory=None if memory is None else parse_bytes(memory),
        executor=executor,
        scratch=_checked_path(scratch, "scratch") or _of_variable(environ.get("HYPERSLAB_SCRATCH")),
        # Not the variable's: that is the default of all ways to a lock, and gives way to a
        # directory that a file was opened with.
        lock_dir=_checked_path(lock_dir, "lock_dir"),
        lock_timeout=lock_timeout,
        progress=progress,
        release=release,
    )


def checked_progress(value: Progress) -> Progress:
    """`value`, or a PlanError where it is none of the choices."""
    return _checked_switch(value, "progress")


def _checked_switch(value: bool | Literal["auto"], name: str) -> bool | Literal["auto"]:
    if value not in (True, False, "auto"):
        raise PlanError(f'{name}={value!r} is not known; give True, False or "auto"')
    return value


def _switch(environ: Mapping[str, str], name: str) -> bool | Literal["auto"]:
    text = environ.get(name, "auto").lower()
    choices: dict[str, bool | Literal["auto"]] = {
        "auto": "auto", "": "auto", "1": True, "true": True, "0": False, "false": False
    }  # fmt: skip
    if text not in choices:
        raise PlanError(f"{name}={text!r} is not known; give auto, 1 or 0")
    return choices[text]


def _checked_workers(value: object, name: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        count = int(value) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise PlanError(f"{name}={value!r}: give a whole number of worker processes, at least 1")
    return count


def _checked_seconds(value: float | str, name: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:
        raise PlanError(f"{name}={value!r}: give seconds, 0 or more, or nothing to wait for ever")
    return seconds


def _checked_path(value: str | os.PathLike[str] | None, name: str) -> str | None:
    try:
        # Made absolute now: the program may change its directory before it is used.
        return host.absolute(value) if value else None
    except TypeError:
        raise PlanError(f"{name}={value!r}: give the path of a directory") from None


def _of_variable(path: str | None) -> str | None:
    return host.since_start(path) if path else None
