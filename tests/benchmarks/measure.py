"""Contenders in turn, on the same inputs, in one run: A B C A B C …

Whatever disturbs the machine disturbs neighbours in time alike, so times are compared within a
round and the median of those ratios is believed, not the ratio of two medians. Each round begins
with another contender, because what the one before leaves behind (a warm cache, memory just
freed) favours or hurts the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from contender import CONTENDERS, Contender
from machine import wait_for_idle
from memory import Peak, Watch, cached_share, evict, provide, warm
from workloads import WORKLOADS, Inputs, Workload

__all__ = ["Process", "Ratios", "Times", "new_file", "race", "ratios"]


@dataclass(slots=True)
class Times:
    """What one contender took for one workload."""

    seconds: list[float] = field(default_factory=list)
    """One for each round."""

    memory: Peak | None = None
    """Peak of the round before, which is not timed."""

    @property
    def median(self) -> float:
        """The median over all rounds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Ratios:
    """How many times as long somebody else took, round by round."""

    low: float
    """First quartile; of less than four rounds the smallest."""

    median: float
    """The figure to believe."""

    high: float
    """Third quartile; of less than four rounds the largest."""


def ratios(ours: Times, theirs: Times) -> Ratios:
    """The other's time by our own, within each round."""
    pairs = zip(ours.seconds, theirs.seconds, strict=True)
    found = sorted(other / own for own, other in pairs)
    low, high = found[0], found[-1]
    if len(found) >= 4:
        low, _, high = statistics.quantiles(found, n=4)
    return Ratios(low, statistics.median(found), high)


class Process:
    """A contender's process, seen from here."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        here = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, str(here / "contender.py"), contender.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.workloads: list[str] = self._answer()["workloads"]

    def run(self, workload: Workload, inputs: Inputs, out: Path) -> float:
        """Have a workload computed; returns seconds."""
        request = {"workload": workload.name, "a": inputs.a, "b": inputs.b, "out": str(out)}
        assert self._process.stdin is not None
        # Should it be gone, the missing answer tells.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise SystemExit(f"{self.contender.name}, {workload.name}:\n{answer['error']}")
        return float(answer["seconds"])

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender.name} ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def race(
    contenders: Sequence[str],
    workloads: Sequence[str],
    inputs: Inputs,
    directory: Path,
    rounds: int,
    *,
    patience: float,
    cold: bool = False,
) -> dict[str, dict[str, Times]]:
    """Times by workload and contender.

    Parameters
    ----------
    contenders : sequence of str
        Their names; the first one's results are what the others' are compared with.
    workloads : sequence of str
        Their names.
    inputs : Inputs
        What they compute on.
    directory : Path
        Where results are written, and removed.
    rounds : int
        Timed rounds; one more goes before, which compiles, measures memory and is compared.
    patience : float
        Seconds to wait, before each run, for a moment in which nobody else uses the processors.
    cold : bool
        Whether inputs are dropped from the page cache before each run, rather than read in.

    Raises
    ------
    SystemExit
        A contender failed, two results differ, or inputs would not leave the page cache.
    """
    chosen = [w for w in WORKLOADS if w.name in workloads]
    found: dict[str, dict[str, Times]] = {w.name: {} for w in chosen}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(CONTENDERS[name])) for name in contenders]
        for workload in chosen:
            able = [p for p in processes if workload.name in p.workloads]
            times = found[workload.name] = {p.contender.name: Times() for p in able}
            _rehearse(able, workload, inputs, directory, times)
            for number in range(rounds):
                turn = number % len(able)
                for process in able[turn:] + able[:turn]:
                    _prepare(inputs, workload, directory, cold, patience)
                    with new_file(directory) as out:
                        seconds = process.run(workload, inputs, out)
                    times[process.contender.name].seconds.append(seconds)
                _say(workload, number, times)
    return found


def _rehearse(
    processes: Sequence[Process],
    workload: Workload,
    inputs: Inputs,
    directory: Path,
    times: dict[str, Times],
) -> None:
    """Run everybody once, for memory and to compare the results."""
    with contextlib.ExitStack() as stack:
        first: np.ndarray | None = None
        for process in processes:
            _prepare(inputs, workload, directory)
            out = stack.enter_context(new_file(directory)) if first is None else None
            with contextlib.nullcontext(out) if out else new_file(directory) as path:
                # Compilation takes more memory than the work, and a worker's maps fill up.
                process.run(workload, inputs, path)
                path.unlink()
                with Watch(process.pid) as watch:
                    process.run(workload, inputs, path)
                times[process.contender.name].memory = watch.peak
                result = np.load(path, mmap_mode="r")
                if first is None:
                    first = result
                else:
                    _compare(first, result, workload, process.contender)


def _compare(ours: np.ndarray, theirs: np.ndarray, workload: Workload, who: Contender) -> None:
    if ours.shape != theirs.shape:
        raise SystemExit(f"{workload.name}: {who.name} gives {theirs.shape}, not {ours.shape}")
    # Plane by plane: a field does not fit into memory twice on every machine.
    planes = zip(ours, theirs, strict=True) if ours.ndim == 3 else [(ours, theirs)]
    for own, other in planes:
        # A Laplacian is near zero where values cancel: errors scale with the values, some 300.
        if not np.allclose(own, other, rtol=workload.tolerance, atol=workload.tolerance):
            raise SystemExit(
                f"{workload.name}: {who.name} differs by up to "
                f"{np.max(np.abs(np.subtract(own, other))):.3g}, more than {workload.tolerance:g}"
            )


def _prepare(
    inputs: Inputs,
    workload: Workload,
    directory: Path,
    cold: bool = False,
    patience: float = 0.0,
) -> None:
    """The same state of the machine for everybody."""
    wait_for_idle(patience)
    paths = (inputs.a, inputs.b)[: workload.inputs]
    for path in paths:
        if not cold:
            warm(path)
            continue
        evict(path)
        share = cached_share(path)
        if share is not None and share > 0.01:
            raise SystemExit(
                f"{share:.0%} of {path} stayed in the page cache: another process has it mapped"
            )
    if workload.writes_field:
        provide(directory, os.path.getsize(inputs.a))


@contextlib.contextmanager
def new_file(directory: Path) -> Iterator[Path]:
    """A name for a result, removed afterwards: before the system starts to write it."""
    path = directory / f"result-{os.urandom(4).hex()}.npy"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _say(workload: Workload, number: int, times: dict[str, Times]) -> None:
    shown = "  ".join(f"{name} {t.seconds[-1]:.3f}" for name, t in times.items())
    print(f"{workload.name:<12}{number + 1:>3}  {shown}", flush=True)
