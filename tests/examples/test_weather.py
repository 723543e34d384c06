"""The weather example in its small setting, as a user runs it; NumPy is the oracle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
HOURS, ROWS, COLUMNS = 96, 46, 90
RECORD = f"t2m-{HOURS}x{ROWS}x{COLUMNS}-seed1979.npy"


def run_weather(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "weather.py"), *arguments]
    environment = {**os.environ, "HYPERSLAB_WORKERS": "2"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weather")


@pytest.fixture(scope="module")
def printed(data: Path) -> str:
    shape = ("--hours", str(HOURS), "--grid", f"{ROWS}x{COLUMNS}")
    result = run_weather(*shape, "--rounds", "2", "--data", str(data))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def record(data: Path, printed: str) -> np.ndarray:
    return np.load(data / RECORD)


@pytest.fixture(scope="module")
def tools() -> Iterator[None]:
    """``weather_tools`` as the example itself finds it."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))
    for name in [name for name in sys.modules if name.partition(".")[0] == "weather_tools"]:
        del sys.modules[name]


def module(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"weather_tools.{name}")


def result_of(data: Path, name: str) -> np.ndarray:
    return np.load(data / "hyperslab" / f"{name}.npy")


def test_the_record_is_the_sum_of_its_patterns_to_the_bit(tools: None, record: np.ndarray) -> None:
    grid = module("planet").Grid(ROWS, COLUMNS)
    expected = np.zeros((HOURS, ROWS, COLUMNS), np.float32)
    maps, weights = module("planet").patterns(grid), module("planet").weights(HOURS)
    for p, pattern in enumerate(maps):
        expected += weights[:, p, None, None] * pattern
    bits = (np.arange(expected.size, dtype=np.uint64) + np.uint64(1979)).reshape(expected.shape)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    total = sum((bits >> np.uint64(16 * n)) & np.uint64(0xFFFF) for n in range(4))
    noise = np.float32(0.7 * 3**0.5 / 65535) * (np.float32(total) - np.float32(2 * 65535))
    assert noise.std() == pytest.approx(0.7, rel=0.01)
    np.testing.assert_array_equal(record, expected + noise)


def test_moments(data: Path, record: np.ndarray) -> None:
    exact = record.astype(float)
    np.testing.assert_allclose(result_of(data, "mean"), exact.mean(axis=0), rtol=2e-7)
    np.testing.assert_allclose(result_of(data, "std"), exact.std(axis=0), rtol=1e-5)


def test_anomalies(data: Path, record: np.ndarray) -> None:
    expected = record - result_of(data, "mean")
    np.testing.assert_array_equal(result_of(data, "anomaly"), expected)


def test_smoothing_wraps_in_longitude_and_stops_at_the_poles(
    data: Path, record: np.ndarray
) -> None:
    padded = np.pad(record.astype(float), ((0, 0), (1, 1), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, 0), (0, 0), (1, 1)), mode="wrap")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    np.testing.assert_allclose(result_of(data, "smooth"), windows.mean(axis=(3, 4)), rtol=1e-6)


def test_counts(data: Path, record: np.ndarray) -> None:
    hot = (record > np.float32(303.15)).sum(axis=0)
    assert 0 < hot.max() < HOURS
    np.testing.assert_array_equal(result_of(data, "hot_hours"), hot)
    counts, _ = np.histogram(record, bins=320, range=(180, 340))
    assert counts.sum() == record.size
    np.testing.assert_array_equal(result_of(data, "histogram"), counts)


def test_the_findings_printed_are_those_of_numpy(printed: str, record: np.ndarray) -> None:
    celsius = record.astype(float).mean(axis=0) - 273.15
    hot = (record > np.float32(303.15)).sum(axis=0)
    area = np.cos(np.deg2rad(np.linspace(90, -90, ROWS)))[:, None] * np.ones(COLUMNS)
    expected = {
        "Mean over the Earth's surface": np.average(celsius, weights=area),
        "Warmest on average": celsius.max(),
        "Coldest on average": celsius.min(),
        "Most variable": record.std(axis=0, dtype=float).max(),
        "Most hours above 30 °C": hot.max(),
        "Surface ever above 30 °C": 100 * np.average(hot > 0, weights=area),
    }
    for words, value in expected.items():
        match = re.search(rf"^{re.escape(words)} +(-?[0-9.]+) ", printed, re.MULTILINE)
        assert match is not None, f"{words!r} is not in:\n{printed}"
        assert float(match[1]) == pytest.approx(value, abs=0.0051)
    match = re.search(r"Half of all values are below +(-?[0-9.]+) °C", printed)
    assert match is not None
    assert 0 <= float(match[1]) + 273.15 - np.median(record) <= 0.5


def test_every_way_is_measured_and_agrees(printed: str) -> None:
    for step in ("mean, standard deviation", "3 × 3 mean to a new file", "whole program"):
        lines = printed.splitlines()
        first = next(n for n, line in enumerate(lines) if step in line)
        block = [line for line in lines[first : first + 4] if "1st run" not in line][:3]
        for line, way in zip(block, ("hyperslab", "np.load", "np.load mmap"), strict=True):
            cells = [cell.strip() for cell in line.split("│")[1:-1]]
            assert cells[1] == way
            seconds, private, resident = (float(cells[i].replace(",", "")) for i in (2, 4, 5))
            # More than an interpreter, less than a machine has.
            assert seconds > 0 and 10 < private < resident < 10_000
    table = printed[printed.index("Largest difference from") :]
    for name in ("mean", "std", "anomaly", "smooth", "hot_hours", "histogram"):
        assert re.search(rf"^  {name} ", table, re.MULTILINE)
    assert "WRONG" not in printed


def test_the_picture_shows_something(data: Path, printed: str) -> None:
    from matplotlib import image

    path = data / "weather.png"
    assert str(path) in printed
    pixels = image.imread(path)[..., :3]
    assert pixels.shape[0] > 800 and pixels.shape[1] > 1000
    # Six panels, two across: each has its own colours, none is blank.
    for band in np.array_split(pixels, 3, axis=0):
        for panel in np.array_split(band, 2, axis=1):
            white = (panel == 1).all(axis=-1).mean()
            assert 0.1 < white < 0.95
    colours = (255 * pixels).astype(int) @ [65536, 256, 1]
    assert len(np.unique(colours)) > 1000


def test_a_second_run_uses_the_record_and_can_leave_nothing_else(data: Path, printed: str) -> None:
    before = (data / RECORD).stat()
    small = ("--small", "--hours", str(HOURS), "--grid", f"{ROWS}x{COLUMNS}", "--rounds", "1")
    result = run_weather(*small, "--data", str(data), "--no-keep")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "made earlier" in result.stdout
    after = (data / RECORD).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(path.name for path in data.iterdir()) == [RECORD, "weather.png"]


def test_a_wrong_result_is_found(
    tools: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = dict.fromkeys(("anomaly", "smooth"), (4, 3, 5))
    shapes |= dict.fromkeys(("mean", "std", "hot_hours"), (3, 5)) | {"histogram": (320,)}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
        for name, shape in shapes.items():
            np.save(directory / f"{name}.npy", np.full(shape, 7.0, np.float32))
    report = module("report")
    assert report.print_differences({"np.load": report.compare(ours, theirs, 4)})
    for wrong in (8.0, np.nan):
        values = np.full((3, 5), 7.0)
        values[2, 4] = wrong
        np.save(theirs / "hot_hours.npy", values)
        capsys.readouterr()
        assert not report.print_differences({"np.load": report.compare(ours, theirs, 4)})
        assert re.search(r"^  hot_hours .* WRONG", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "2x2"], "too coarse"),
        (["--grid", "wide"], "361x720"),
        (["--hours", "0"], "at least 1"),
        (["--hours", "1000000000"], "--data"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    earlier = tmp_path / "hyperslab" / "mean.npy"
    earlier.parent.mkdir()
    earlier.touch()
    result = run_weather("--data", str(tmp_path), *arguments)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["hyperslab", "mean.npy"]
