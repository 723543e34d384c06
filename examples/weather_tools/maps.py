"""Draws the results of the weather example on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from weather_tools.planet import Grid, land_fraction
from weather_tools.steps import BINS, COLDEST, WARMEST

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["draw_maps"]

_ZERO = 273.15


def draw_maps(results: Path, grid: Grid, hours: int, picture: Path) -> None:
    """Write a PNG with four maps, a detail and the histogram.

    Parameters
    ----------
    results : Path
        Directory with the results.
    grid : Grid
        Of the record.
    hours : int
        Length of the record.
    picture : Path
        The PNG file.
    """
    mean, std, hot, counts = (
        np.load(results / f"{name}.npy") for name in ("mean", "std", "hot_hours", "histogram")
    )
    hour = hours // 2
    anomaly, smooth = (
        np.array(np.load(results / f"{name}.npy", mmap_mode="r")[hour])
        for name in ("anomaly", "smooth")
    )
    when = f"hour {hour}"
    figure, axes = plt.subplots(3, 2, figsize=(14, 10.6), layout="constrained")
    figure.suptitle(
        f"2 m temperature, {hours} hours on {grid.rows} × {grid.columns} points (synthetic)",
        fontsize=15,
    )
    spread = float(np.ceil(np.percentile(np.abs(anomaly), 99.8)))
    _map(axes[0, 0], grid, mean - _ZERO, "Mean", "°C", "RdYlBu_r")
    _map(axes[0, 1], grid, std, "Standard deviation", "K", "viridis")
    _map(
        axes[1, 0], grid, anomaly, f"Anomaly from the mean, {when}", "K", "RdBu_r",
        vmin=-spread, vmax=spread,
    )  # fmt: skip
    _map(axes[1, 1], grid, smooth - _ZERO, f"3 × 3 smoothed, {when}", "°C", "RdYlBu_r")
    never = np.ma.masked_equal(hot, 0)
    _map(axes[2, 0], grid, never, "Hours above 30 °C", "h", "inferno_r")
    _histogram(axes[2, 1], counts)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _map(
    axis: Any, grid: Grid, field: np.ndarray, title: str, unit: str, colours: str, **limits: float
) -> None:
    image = axis.imshow(
        field,
        extent=(-180, 180, -90, 90),
        cmap=colours,
        interpolation="nearest",
        aspect="equal",
        **limits,
    )
    # The record's own coast, at a fixed fineness so that coarse records show it too.
    fine = Grid(361, 720)
    axis.contour(
        fine.longitude, fine.latitude, land_fraction(fine), levels=[0.5], colors="k", linewidths=0.5
    )
    axis.set_title(title)
    axis.set_xticks(range(-180, 181, 60), _degrees(range(-180, 181, 60), "E", "W"))
    axis.set_yticks(range(-90, 91, 30), _degrees(range(-90, 91, 30), "N", "S"))
    axis.figure.colorbar(image, ax=axis, label=unit, shrink=0.85, pad=0.02)


def _degrees(values: range, positive: str, negative: str) -> list[str]:
    return [f"{abs(v)}°{'' if v == 0 else positive if v > 0 else negative}" for v in values]


def _histogram(axis: Any, counts: np.ndarray) -> None:
    edges = np.linspace(COLDEST, WARMEST, BINS + 1) - _ZERO
    share = 100 * counts / counts.sum()
    filled = np.flatnonzero(counts)
    axis.stairs(share, edges, fill=True, color="#4878a8")
    axis.axvline(30, color="#b03030", linewidth=1)
    axis.text(31, share.max(), "30 °C", color="#b03030", va="top")
    axis.set_xlim(edges[filled[0]] - 2, edges[filled[-1] + 1] + 2)
    axis.set_title("All values")
    axis.set_xlabel("°C")
    axis.set_ylabel(f"% per {(WARMEST - COLDEST) / BINS:g} K")
    axis.grid(alpha=0.3)
