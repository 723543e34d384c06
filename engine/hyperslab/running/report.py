"""What a job did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from hyperslab.pools.protocol import Route
from hyperslab.units import human_bytes
from hyperslab_workers.legible import legible

__all__ = ["Report", "Span"]


_WHERE = {
    "processes": "",
    "threads": " in this process: short jobs do not wait for workers to start",
    "serial": " in this process",
    "executor": " of the executor given",
}


@dataclass(frozen=True, slots=True)
class Span:
    """One task in time."""

    task: int
    """Number of the task."""

    start: int
    """First region."""

    stop: int
    """One past the last region."""

    worker: int
    """Process number of the worker."""

    began: float
    """Seconds from the start of the job until the task began."""

    seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a job did, in numbers. Prints as a short table."""

    kernel: str
    """Name of the kernel."""

    seconds: float
    """From the call of ``run`` to its return, compilation included."""

    compile_seconds: float
    """Of these, for compiling the kernel; 0.0 where it was compiled before."""

    regions: int
    """Regions computed."""

    tasks: int
    """Tasks they were sent in."""

    bytes_read: int
    """Bytes of the arrays that were read, updated or accumulated into, each counted once."""

    bytes_written: int
    """Bytes of the arrays that were written, updated or accumulated into."""

    retries: int
    """Tasks that were run again because a worker died."""

    workers: int
    """Worker processes, or threads, that took part."""

    route: Route = "processes"
    """Where it ran: in worker processes; in threads of this process, as short jobs do until there
    are workers; in the caller's own thread; or in an executor of the caller's."""

    timeline: tuple[Span, ...] = field(repr=False, default=())
    """Every task in time, in task order."""

    @property
    def throughput(self) -> float:
        """Bytes read and written per second."""
        return (self.bytes_read + self.bytes_written) / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return {**dataclasses.asdict(self), "throughput": self.throughput}

    def __str__(self) -> str:
        compiled = f", {self.compile_seconds:.2f} s of it compiling" if self.compile_seconds else ""
        retried = f", {self.retries} run again" if self.retries else ""
        plural = "" if self.tasks == 1 else "s"
        rows = [
            ("kernel", self.kernel),
            ("time", f"{self.seconds:.3f} s{compiled}"),
            ("regions", f"{self.regions:,} in {self.tasks:,} task{plural}{retried}"),
            ("read", human_bytes(self.bytes_read)),
            ("written", human_bytes(self.bytes_written)),
            ("throughput", f"{human_bytes(self.throughput)}/s"),
            ("workers", f"{self.workers}{_WHERE[self.route]}"),
        ]
        return legible("\n".join(f"{name:<10}  {value}" for name, value in rows))
