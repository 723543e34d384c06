"""The heat equation on a square: a thousand steps between two files, on one warm engine.

Explicit steps of ∂u/∂t = ∂²u/∂x² + ∂²u/∂y² on the unit square with its edges held at zero.
Each step reads one file with a halo of one point, writes the other, and the two swap roles.

The start is a sum of sine modes, of which the exact answer is known twice over: the *scheme*
multiplies each mode by a known factor per step, which the files must show to rounding, and the
*equation* damps each mode by a known exponential, which they must approach with the square of
the grid spacing.

    python examples/heat.py --size 1024 --steps 1000 --workers 2 --plot heat.png
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

import hyperslab as hs

RATIO = 0.2
"""Time step over the spacing squared; explicit steps in two dimensions are stable up to 1/4."""

MODES = np.array([(1.0, 1, 1), (0.5, 3, 2), (0.25, 5, 6)])
"""Amplitude and number of half waves along each axis. No two are mirror images, so a swapped
axis or a misplaced region shows."""


@hs.kernel
def step(u, ratio, new):
    """One explicit step; `u` shows one point more than `new` on every side."""
    for i in range(new.shape[0]):
        for j in range(new.shape[1]):
            around = u[i, j + 1] + u[i + 2, j + 1] + u[i + 1, j] + u[i + 1, j + 2]
            new[i, j] = u[i + 1, j + 1] + ratio * (around - 4.0 * u[i + 1, j + 1])


@numba.njit
def mode_sum(modes, x, y):
    """The sum of sine modes at one point."""
    total = 0.0
    for m in range(modes.shape[0]):
        total += (
            modes[m, 0] * math.sin(math.pi * modes[m, 1] * x) * math.sin(math.pi * modes[m, 2] * y)
        )
    return total


@hs.kernel
def fill(modes, spacing, origin, u):
    """The sum of modes on the grid; its first point lies one spacing inside the square."""
    for i in range(u.shape[0]):
        for j in range(u.shape[1]):
            x, y = (origin[0] + i + 1) * spacing, (origin[1] + j + 1) * spacing
            u[i, j] = mode_sum(modes, x, y)


@hs.kernel
def deviation(u, modes, spacing, origin, largest):
    """The largest distance between the grid and a sum of modes."""
    for i in range(u.shape[0]):
        for j in range(u.shape[1]):
            x, y = (origin[0] + i + 1) * spacing, (origin[1] + j + 1) * spacing
            largest[0] = max(largest[0], abs(u[i, j] - mode_sum(modes, x, y)))


def damped(factors: np.ndarray) -> np.ndarray:
    """The modes with each amplitude multiplied by its factor."""
    modes = MODES.copy()
    modes[:, 0] *= factors
    return modes


def discrete_modes(size: int, steps: int) -> np.ndarray:
    """What `steps` steps of the scheme make of the modes, without rounding."""
    waves = np.sin(np.pi * MODES[:, 1:] / (2 * size)) ** 2
    return damped((1 - 4 * RATIO * waves.sum(axis=1)) ** steps)


def continuous_modes(size: int, steps: int) -> np.ndarray:
    """What the equation makes of the modes in the same time."""
    elapsed = steps * RATIO / size**2
    return damped(np.exp(-(np.pi**2) * (MODES[:, 1:] ** 2).sum(axis=1) * elapsed))


class Square:
    """Two files with the points of a square of `size` × `size` cells, edges included.

    A step writes the inner points and reads their neighbours: the edges, which are zero and stay
    so, are seen as what surrounds the inner points, and nothing is ever copied.
    """

    def __init__(self, engine: hs.Engine, size: int) -> None:
        self.engine = engine
        self.size = size
        points = (size + 1, size + 1)
        self._files = [hs.from_array(np.zeros(points)) for _ in range(2)]
        self.now, self.next = (file[1:-1, 1:-1] for file in self._files)
        engine.run(fill, MODES, 1 / size, hs.ORIGIN, hs.write(self.now))
        # Both directions are planned once: a plan can be run any number of times.
        self._plan = self._step_between(self.now, self.next)
        self._back = self._step_between(self.next, self.now)

    def _step_between(self, old: hs.Array, new: hs.Array) -> hs.Plan:
        around = hs.read(old, halo=1, boundary="parent")
        return self.engine.plan(step, around, RATIO, hs.write(new))

    def advance(self, steps: int) -> float:
        """Take that many steps and return the seconds they took."""
        started = time.perf_counter()
        for _ in range(steps):
            self._plan.run()
            self._plan, self._back = self._back, self._plan
            self.now, self.next = self.next, self.now
        return time.perf_counter() - started

    def distance_to(self, modes: np.ndarray) -> float:
        """The largest difference, over all points, from a sum of modes."""
        largest = hs.from_array(np.zeros(1))
        self.engine.run(
            deviation,
            self.now,
            modes,
            1 / self.size,
            hs.ORIGIN,
            hs.accumulate(largest, op="maximum"),
        )
        return float(largest[0])


@dataclass(frozen=True, slots=True)
class Checks:
    """How far the result is from what is known, and how far it may be."""

    rounding: float
    """Largest difference from the scheme's exact result."""

    rounding_limit: float
    """What the rounding of every step could add up to."""

    discretisation: float
    """Largest difference from the equation's solution."""

    order: float
    """Power of the spacing with which that difference shrinks."""

    @property
    def passed(self) -> bool:
        """Whether both agree."""
        return self.rounding <= self.rounding_limit and abs(self.order - 2) < 0.25


def check(square: Square, steps: int) -> Checks:
    """Hold the result after `steps` steps against both exact solutions.

    The order is measured on a second square, of twice the spacing: four times longer steps, so
    a quarter as many.
    """
    size = square.size
    coarse, coarse_steps = Square(square.engine, size // 2), steps // 4
    coarse.advance(coarse_steps)
    far = coarse.distance_to(continuous_modes(coarse.size, coarse_steps))
    near = square.distance_to(continuous_modes(size, steps))
    # The difference grows with time, which a quarter of the steps may miss by a little.
    times = steps / (4 * coarse_steps)
    # A step forms a mean with weights that are positive and add up to 1, so it never magnifies
    # an error: what each step rounds, and what the sines at the start did, only adds up.
    unit = np.finfo(float).eps * float(np.abs(MODES[:, 0]).sum())
    return Checks(
        rounding=square.distance_to(discrete_modes(size, steps)),
        rounding_limit=(8 * steps + 100) * unit,
        discretisation=near,
        order=math.log2(times * far / near),
    )


@numba.njit(parallel=True)
def by_hand(u, ratio, new):
    """The same step as one writes it with Numba's own threads."""
    for i in numba.prange(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            around = u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1]
            new[i, j] = u[i, j] + ratio * (around - 4.0 * u[i, j])


def side_by_side(square: Square, repeats: int) -> tuple[float, float, float]:
    """Median times of a step here and by hand, in turn on the same files, and of their ratio.

    By hand the files are mapped by ``np.load(mmap_mode="r+")`` and stay mapped.
    """
    numba.set_num_threads(min(square.engine.settings.workers, numba.config.NUMBA_NUM_THREADS))
    # Two files more, which both ways know equally well.
    other = Square(square.engine, square.size)
    maps = [np.load(file.path, mmap_mode="r+").view(np.ndarray) for file in other._files]
    other.advance(4)
    for k in range(4):
        by_hand(maps[k % 2], RATIO, maps[1 - k % 2])
    ours, theirs = [], []
    for k in range(repeats):
        ours.append(other.advance(1))
        started = time.perf_counter()
        by_hand(maps[k % 2], RATIO, maps[1 - k % 2])
        theirs.append(time.perf_counter() - started)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return statistics.median(ours), statistics.median(theirs), ratio


def launch_seconds(engine: hs.Engine, repeats: int = 30) -> float:
    """Median time of a step on a square so small that only the launch counts."""
    tiny = Square(engine, 8)
    tiny.advance(2)
    return statistics.median(tiny.advance(1) for _ in range(repeats))


def draw(path: Path, before: np.ndarray, after: np.ndarray, steps: int) -> None:
    """Start and result side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    limit = float(np.abs(before).max())
    for axis, values, title in zip(
        axes, (before, after), ("start", f"after {steps:,} steps"), strict=True
    ):
        image = axis.imshow(
            values.T, origin="lower", extent=(0, 1, 0, 1), cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        axis.set(title=title, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=axes, label="temperature")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="2-D heat equation between two files")
    parser.add_argument("--size", type=int, default=1024, help="cells along one side, even")
    parser.add_argument("--steps", type=int, default=1000, help="time steps, at least 4")
    parser.add_argument("--workers", type=int, help="worker processes (HYPERSLAB_WORKERS)")
    parser.add_argument("--plot", type=Path, help="draw start and result into this PNG")
    options = parser.parse_args(arguments)
    if options.size < 64 or options.size % 2:
        parser.error(f"--size {options.size}: an even number, at least 64, resolves the modes")
    if options.steps < 4:
        parser.error(f"--steps {options.steps}: at least 4, for the check takes a quarter of them")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run, check, and print what a step cost; 1 if a check failed."""
    options = parse(arguments)
    with hs.Engine(workers=options.workers, progress=False) as engine:
        square = Square(engine, options.size)
        # A picture needs no more points than it has pixels.
        thin = max(1, options.size // 1000)
        before = np.array(square.now[::thin, ::thin])
        square.advance(2)  # starts the workers and compiles: not a step's cost
        seconds = square.advance(options.steps - 2) / (options.steps - 2)
        checks = check(square, options.steps)
        here, by_hand_seconds, ratio = side_by_side(square, max(options.steps // 4, 20))
        launch = launch_seconds(engine)
        workers = engine.settings.workers
        if options.plot:
            after = np.array(square.now[::thin, ::thin])
            draw(options.plot, before, after, options.steps)

    points = (options.size - 1) ** 2
    rows = [
        ("grid", f"{options.size - 1:,} × {options.size - 1:,} points, {options.steps:,} steps"),
        ("workers", f"{workers}"),
        ("per step", f"{seconds * 1e3:.3f} ms, {points / seconds / 1e6:,.0f} M points/s"),
        ("by hand", f"{by_hand_seconds * 1e3:.3f} ms with numba.prange on the same mapped files, "
                    f"step by step in turn with {here * 1e3:.3f} ms here: {ratio:.2f} ×"),
        ("launch", f"{launch * 1e3:.3f} ms for a step of 7 × 7 points"),
        ("rounding", f"{checks.rounding:.1e} from the scheme's exact result, "
                     f"at most {checks.rounding_limit:.1e} allowed"),
        ("equation", f"{checks.discretisation:.1e} from its solution, of order "
                     f"{checks.order:.2f} in the spacing, 2 expected"),
    ]  # fmt: skip
    print("\n".join(f"{name:<12}{words}" for name, words in rows))
    print("checks passed" if checks.passed else "CHECKS FAILED")
    return 0 if checks.passed else 1


if __name__ == "__main__":
    sys.exit(main())
