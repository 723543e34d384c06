"""Progress of a running job: a bar on a terminal, log lines elsewhere, or silence."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from hyperslab.settings import Progress
from hyperslab.units import human_bytes

if TYPE_CHECKING:
    import logging

__all__ = ["ProgressDisplay", "make_progress"]

_PATIENCE = 0.5
"""Seconds a job may take before anything is shown: short jobs would only flicker."""

_LOG_EVERY = 10.0
"""Seconds between log lines where there is no terminal."""


class ProgressDisplay(Protocol):
    """What the coordinator tells while it waits."""

    def update(self, regions: int) -> None:
        """So many regions are finished."""

    def close(self) -> None:
        """The job is over."""


class _Silent:
    def update(self, regions: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Unfailing:
    """A display that falls silent where it cannot show anything any more.

    A terminal that was closed, a full disk behind a redirected stream, or a thread that cannot be
    started any more must not stop a job of hours.
    """

    def __init__(self, display: ProgressDisplay) -> None:
        self._display = display

    def update(self, regions: int) -> None:
        try:
            self._display.update(regions)
        except Exception:
            self.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._display.close()
        self._display = _Silent()


class _Bar:
    """rich's progress bar, made when the job has lasted long enough to want one."""

    def __init__(self, name: str, regions: int, size: int, *, patience: float) -> None:
        self._name = name
        self._regions = regions
        self._size = size
        self._patience = patience
        self._shown_from: float | None = None
        self._bar: Any = None
        self._task: Any = None

    def update(self, regions: int) -> None:
        if self._bar is None:
            if self._shown_from is None:
                self._shown_from = time.monotonic() + self._patience
            if time.monotonic() < self._shown_from:
                return
            self._open()
        done = regions / max(self._regions, 1)
        self._bar.update(self._task, completed=done * self._size, regions=f"{regions:,}")

    def _open(self) -> None:
        # Imported here: it costs 60 ms, which a short job should not pay.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[regions]}/{task.fields[of]} regions"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            self._name, total=max(self._size, 1), regions="0", of=f"{self._regions:,}"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Lines:
    """Log lines, through :mod:`logging` so that a batch script decides where they go.

    One every ten seconds, and one at the end of a job that was not short: a script of many
    jobs is to have a line for each and not a page.
    """

    def __init__(self, name: str, regions: int, size: int, *, at_once: bool) -> None:
        self._name = name
        self._regions = regions
        self._size = size
        self._wait = 0.0 if at_once else _LOG_EVERY
        self._patience = 0.0 if at_once else _PATIENCE
        self._started: float | None = None
        self._next = 0.0
        self._done = 0

    def update(self, regions: int) -> None:
        now = time.monotonic()
        self._done = regions
        if self._started is None:
            # The clock starts with the first task: compiling is not progress.
            self._started, self._next = now, now + self._wait
        if now >= self._next:
            self._next = now + _LOG_EVERY
            self._say(now - self._started, "in")

    def close(self) -> None:
        if self._started is None:
            return
        elapsed = time.monotonic() - self._started
        if elapsed >= self._patience:
            self._say(elapsed, "all in" if self._done >= self._regions else "stopped after")

    def _say(self, elapsed: float, when: str) -> None:
        _ensure_handler()
        done = self._done / self._regions if self._regions else 1.0
        rate = f"{human_bytes(done * self._size / max(elapsed, 1e-9))}/s"
        left = ""
        if when == "in":
            left = f", {elapsed * (1 - done) / done:.0f} s left" if done else ", time left unknown"
        _logger().info(
            "%s: %d of %d regions (%.0f %%) %s %.1f s, %s%s",
            *(self._name, self._done, self._regions, 100 * done, when, elapsed, rate, left),
        )


def make_progress(wanted: Progress, name: str, regions: int, size: int) -> ProgressDisplay:
    """The display that fits the setting and the terminal.

    Parameters
    ----------
    wanted : bool or "auto"
        False for silence; "auto" for jobs of more than half a second; True at once.
    name : str
        Name of the job.
    regions, size : int
        What there is to do: regions, and bytes.
    """
    if wanted is False:
        return _Silent()
    # On a dumb terminal rich draws nothing at all.
    dumb = os.environ.get("TERM") in ("dumb", "unknown")
    if _is_open(sys.stderr) and sys.stderr.isatty() and not dumb:
        bar = _Bar(name, regions, size, patience=0.0 if wanted is True else _PATIENCE)
        return _Unfailing(bar)
    if not (_is_open(sys.stderr) or _logger().hasHandlers()):
        return _Silent()
    return _Unfailing(_Lines(name, regions, size, at_once=wanted is True))


def _is_open(stream: TextIO | None) -> bool:
    """Whether anything can be shown there: daemons have no streams, or closed ones."""
    return stream is not None and not getattr(stream, "closed", False)


def _ensure_handler() -> None:
    """Show the lines where the program set up no logging; where it did, that decides."""
    log = _logger()
    if not log.hasHandlers():
        import logging

        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _logger() -> logging.Logger:
    import logging  # Here, because most programs never need it.

    return logging.getLogger("hyperslab")
