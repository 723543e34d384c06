"""What goes wrong, and whether a scientist can tell from the message what, where and why."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperslab as hs


@hs.kernel
def picky(a, limit, out):
    for i in range(a.shape[0]):
        if a[i] > limit:
            raise ValueError("value beyond the limit")  # the line that raises
        out[i] = a[i]


@hs.kernel
def reaches_too_far(a, out):
    for i in range(out.shape[0]):
        out[i] = a[i + 1]  # the line that reaches


@hs.kernel
def copy(a, out):
    for i in range(out.shape[0]):
        out[i] = a[i]


@hs.kernel
def add_into(a, out):
    for i in range(a.shape[0]):
        out[0] += a[i]


def plain(a, out):
    out[:] = a


def line_with(comment: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith("# " + comment))


def test_an_exception_in_a_region(engine: hs.Engine) -> None:
    values = np.zeros(100)
    values[63] = 9
    a, out = hs.from_array(values), hs.from_array(np.zeros(100))
    with pytest.raises(hs.KernelError) as caught:
        engine.run(picky, a, 5.0, hs.write(out), region=10)
    error, text = caught.value, str(caught.value)
    assert (error.kernel, error.region) == ("picky", "[60:70]")
    assert "picky" in text and "ValueError" in text and "value beyond the limit" in text
    assert "[60:70]" in text
    assert f"line {line_with('the line that raises')}" in text
    assert 'raise ValueError("value beyond the limit")' in text
    assert re.search(r"\ba: float64 \(10,\), read-only", text)
    assert re.search(r"\bout: float64 \(10,\)", text)
    # A user's mistake: nothing of the library's insides.
    assert "Traceback" not in text and "hyperslab_workers" not in text
    # The region that failed was not written, and the engine goes on.
    assert not np.asarray(out)[60:70].any()
    engine.run(copy, a, hs.write(out), region=10)
    np.testing.assert_array_equal(np.asarray(out), values)


def test_an_index_out_of_bounds(engine: hs.Engine) -> None:
    a, out = hs.from_array(np.arange(20.0)), hs.from_array(np.zeros(20))
    with pytest.raises(hs.KernelError) as caught:
        engine.run(reaches_too_far, a, hs.write(out), region=20)
    text = str(caught.value)
    assert "IndexError" in text and "[0:20]" in text
    assert f"line {line_with('the line that reaches')}" in text
    assert "halo=" in text
    assert not np.asarray(out).any()


@hs.kernel
def gives_no_message(a, out):
    raise ValueError


def test_an_exception_without_a_message_leaves_no_colon(serial: hs.Engine) -> None:
    with pytest.raises(hs.KernelError, match=r"ValueError in region \[0:3\]\n"):
        serial.run(
            gives_no_message, hs.from_array(np.zeros(3)), hs.write(hs.from_array(np.zeros(3)))
        )


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"engine": 3}, "engine=3 is no engine"),
        ({"engine": hs.Engine}, "is no engine; make one"),
        ({"progress": "maybe"}, "progress='maybe' is not known"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_by_name(option: dict[str, Any], says: str) -> None:
    out = hs.from_array(np.zeros(3))
    with pytest.raises(hs.PlanError, match=says):
        hs.run(copy, hs.from_array(np.ones(3)), hs.write(out), **option)
    assert not np.asarray(out).any()


def test_a_plan_refuses_an_unknown_progress(serial: hs.Engine) -> None:
    job = serial.plan(copy, hs.from_array(np.ones(3)), hs.write(hs.from_array(np.zeros(3))))
    with pytest.raises(hs.PlanError, match="progress='maybe' is not known"):
        job.run(progress="maybe")  # type: ignore[arg-type]


def test_an_accumulation_that_fails_adds_nothing(engine: hs.Engine) -> None:
    values = np.ones(100)
    values[95] = 9
    total = hs.from_array(np.array([7.0]))
    with pytest.raises(hs.KernelError, match=r"in region \[90:100\]"):
        engine.run(picky_sum, hs.from_array(values), hs.accumulate(total), region=10)
    assert float(total[0]) == 7


@hs.kernel
def picky_sum(a, total):
    for i in range(a.shape[0]):
        if a[i] > 5:
            raise ValueError("too large")
        total[0] += a[i]


def test_the_error_model(engine: hs.Engine) -> None:
    a, out = hs.from_array(np.zeros(3)), hs.from_array(np.zeros(3))
    engine.run(hs.kernel(_inverse), a, hs.write(out))
    assert np.isinf(np.asarray(out)).all()
    with pytest.raises(hs.KernelError, match="ZeroDivisionError"):
        engine.run(hs.kernel(_inverse, error_model="python"), a, hs.write(out))


def _inverse(a, out):
    for i in range(out.shape[0]):
        out[i] = 1 / a[i]


# Mistakes that are found before anything is touched.


def test_wrong_number_of_arguments(serial: hs.Engine) -> None:
    a, out = hs.from_array(np.ones(3)), hs.from_array(np.zeros(3))
    for arguments in ((a,), (a, hs.write(out), 3)):
        with pytest.raises(hs.KernelError, match=r"copy takes 2 arguments \(a, out\)") as caught:
            serial.run(copy, *arguments)
        assert f"given {len(arguments)}" in str(caught.value)


def test_a_function_that_is_no_kernel(serial: hs.Engine) -> None:
    a, out = hs.from_array(np.ones(3)), hs.from_array(np.zeros(3))
    with pytest.raises(hs.PlanError, match=r"plain.*decorate.*@hs\.kernel"):
        serial.run(plain, a, hs.write(out))  # type: ignore[arg-type]


def test_a_memmap_as_argument(serial: hs.Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    out = hs.from_array(np.zeros(3))
    with pytest.raises(hs.PlanError, match=r"numpy\.memmap.*hs\.open\('.*a\.npy'\)"):
        serial.run(copy, mapped, hs.write(out))
    # So is a part of it.
    with pytest.raises(hs.PlanError, match="memmap"):
        serial.run(copy, mapped[:2], hs.write(out[:2]))


def test_a_large_numpy_array_as_argument(serial: hs.Engine) -> None:
    out = hs.from_array(np.zeros(3))
    with pytest.raises(hs.PlanError, match=r"1\.6 MB.*1 MB.*hs\.from_array\(a\)"):
        serial.run(copy, np.zeros(200_000), hs.write(out))


@pytest.mark.parametrize("value", ["text", [1, 2], None, {"a": 1}, 2**70, object()])
def test_arguments_that_no_kernel_takes(serial: hs.Engine, value: object) -> None:
    out = hs.from_array(np.zeros(3))
    with pytest.raises(hs.PlanError, match=r"argument a\b"):
        serial.run(copy, value, hs.write(out))


@pytest.mark.parametrize("dtype", ["f2", ">f8", "S3", "f16"])
def test_types_that_no_kernel_takes(serial: hs.Engine, dtype: str) -> None:
    a, out = hs.from_array(np.zeros(3, dtype)), hs.from_array(np.zeros(3))
    with pytest.raises(hs.KernelError, match=r"\ba\b"):
        serial.run(copy, a, hs.write(out))


def test_a_file_opened_for_reading_is_not_written(serial: hs.Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    for declare in (hs.write, hs.update, hs.accumulate):
        with pytest.raises(hs.PlanError, match=r'mode="r".*mode="r\+"'):
            declare(hs.open(tmp_path / "a.npy"))


def test_an_array_that_was_closed(serial: hs.Engine) -> None:
    a, out = hs.from_array(np.ones(3)), hs.from_array(np.zeros(3))
    a.close()
    with pytest.raises(hs.ArrayFileError, match="was closed"):
        serial.run(copy, a, hs.write(out))


def test_an_engine_that_was_closed() -> None:
    a, out = hs.from_array(np.ones(3)), hs.from_array(np.zeros(3))
    engine = hs.Engine(executor="serial", progress=False)
    job = engine.plan(copy, a, hs.write(out))
    engine.run(copy, a, hs.write(out))
    engine.close()
    engine.close()
    for call in (job.run, engine.start, lambda: engine.run(copy, a, hs.write(out))):
        with pytest.raises(hs.HyperslabError, match=r"closed.*hs\.Engine"):
            call()


# Files that change between open and run.


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    np.save(tmp_path / "in.npy", np.arange(10_000.0))
    np.save(tmp_path / "out.npy", np.zeros(10_000))
    return tmp_path / "in.npy", tmp_path / "out.npy"


def replaced(path: Path) -> None:
    np.save(path.with_suffix(".new.npy"), np.full(10_000, 7.0))
    path.with_suffix(".new.npy").rename(path)


def truncated(path: Path) -> None:
    os.truncate(path, 4096)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced, r"no longer the file.*replaced or moved"),
        (truncated, r"80,128 bytes.*4,096 now"),
        (removed, r"No such file"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_changed_since_it_was_opened(
    engine: hs.Engine,
    files: tuple[Path, Path],
    change: object,
    words: str,
    which: int,
) -> None:
    assert callable(change)
    a, out = hs.open(files[0]), hs.open(files[1], "r+")
    # With a map kept from an earlier run, and with a plan made before.
    job = engine.plan(copy, a, hs.write(out))
    job.run()
    change(files[which])
    before = files[which].read_bytes() if files[which].exists() else None
    with pytest.raises(hs.ArrayFileError, match=words) as caught:
        job.run()
    assert str(files[which]) in str(caught.value)
    # What stands there now is somebody else's, and was left alone.
    assert before == (files[which].read_bytes() if files[which].exists() else None)


def test_an_accumulated_file_that_was_replaced(engine: hs.Engine, files: tuple[Path, Path]) -> None:
    a, out = hs.open(files[0]), hs.open(files[1], "r+")
    job = engine.plan(add_into, a, hs.accumulate(out))
    replaced(files[1])
    with pytest.raises(hs.ArrayFileError, match="no longer the file"):
        job.run()
    assert float(np.load(files[1])[0]) == 7


@pytest.fixture
def small_files_only() -> Iterator[int]:
    """A limit on the size of files: a write beyond it is refused, as by a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = 2**20
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_the_system_refuses(
    serial: hs.Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    a = hs.from_array(np.ones(400_000))
    out = hs.create(tmp_path / "out.npy", (400_000,))
    limit = request.getfixturevalue("small_files_only")
    with pytest.raises(hs.ArrayFileError) as caught:
        serial.run(copy, a, hs.write(out), region=50_000)
    text = str(caught.value)
    # The region that straddles the limit, in bytes from the start of the data.
    first = (limit - 128) // 8 // 50_000 * 50_000
    assert f"[{first}:{first + 50_000}]" in text
    assert str(tmp_path / "out.npy") in text and "ulimit -f" in text


def test_scratch_space_that_cannot_be_used(tmp_path: Path) -> None:
    a, out = hs.from_array(np.ones(3)), hs.from_array(np.zeros(3))
    with (
        hs.Engine(executor="serial", scratch=tmp_path / "missing", progress=False) as engine,
        pytest.raises(hs.ArrayFileError, match=r"scratch directory.*missing.*HYPERSLAB_SCRATCH"),
    ):
        engine.run(copy, a, hs.write(out))


def test_a_budget_that_is_too_small_names_regions_that_fit() -> None:
    a, out = hs.from_array(np.arange(100_000.0)), hs.from_array(np.zeros(100_000))
    with hs.Engine(executor="serial", memory="100 kB", progress=False) as engine:
        with pytest.raises(hs.PlanError, match=r"region=\((\d+),\) would fit") as caught:
            engine.run(copy, a, hs.write(out))
        proposed = re.search(r"region=\((\d+),\)", str(caught.value))
        assert proposed is not None
        assert not np.asarray(out).any()
        engine.run(copy, a, hs.write(out), region=int(proposed[1]))
    np.testing.assert_array_equal(np.asarray(out), np.arange(100_000.0))


@hs.kernel
def names_a_new_array(a, out):
    out = a * 2  # noqa: F841


@hs.kernel
def takes_a_part(a, out):
    out = out[1:]
    for i in range(out.shape[0]):
        out[i] = a[i]


def test_a_kernel_that_cannot_change_its_output_is_refused() -> None:
    a, out = hs.from_array(np.ones(5)), hs.from_array(np.full(5, 7.0))
    with pytest.raises(hs.KernelError, match=re.escape("assign to its elements, `out[...] = ")):
        hs.plan(names_a_new_array, a, hs.write(out))
    assert np.asarray(out).tolist() == [7.0] * 5


def test_a_kernel_may_rename_a_part_of_its_output(serial: hs.Engine) -> None:
    a, out = hs.from_array(np.ones(5)), hs.from_array(np.zeros(5))
    serial.run(takes_a_part, a, hs.write(out), region=5)
    assert np.asarray(out).tolist() == [0, 1, 1, 1, 1]


def test_a_job_inside_ones_own_lock_is_refused_and_does_not_hang(tmp_path, warm) -> None:
    with hs.create(tmp_path / "s.npy", 10, shared=True, lock_dir=tmp_path / "locks") as shared:
        a = hs.from_array(np.ones(10))
        with shared.lock(write=True), pytest.raises(hs.PlanError, match="leave the `with"):
            warm.run(takes_a_part, a, hs.write(shared))
        warm.run(takes_a_part, a, hs.write(shared))


def test_a_lock_directory_that_cannot_be_made_is_an_error(tmp_path) -> None:
    shared = hs.create(tmp_path / "s.npy", 10, shared=True, lock_dir="/proc/none")
    with pytest.raises(hs.HyperslabError, match="cannot be used"), shared.lock():
        pass


@hs.kernel
def spread(a, image):
    for i in range(image.shape[0]):
        image[i] += a[0]


@pytest.mark.parametrize("regions", [100, 5000])
def test_a_footprint_beyond_the_budget_is_refused_wherever_it_comes(regions, serial) -> None:
    """Of few regions before anything runs, of many when its task is made."""
    a = hs.from_array(np.ones(regions))
    image = hs.from_array(np.zeros(2_000_000))

    def where(region):
        return np.s_[0 : 2_000_000 if region[0].start == regions // 2 else 10]

    with (
        hs.Engine(executor="serial", memory="1MB") as engine,
        pytest.raises(hs.PlanError, match="footprint"),
    ):
        engine.run(spread, a, hs.accumulate(image, footprint=where), region=1)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">c16", "<f2", ">f2", "g"])
def test_what_a_refused_dtype_is_told_to_do_can_be_done(tmp_path, monkeypatch, dtype):
    """Word by word, on a handle and on an array in memory."""

    @hs.kernel
    def double(a, out):
        for i in range(a.shape[0]):
            out[i] = 2 * a[i]

    monkeypatch.chdir(tmp_path)
    values = np.arange(300).astype(dtype)
    np.save("a.npy", values)
    with hs.Engine(executor="serial", progress=False) as engine:
        for a in (hs.open("a.npy"), values):
            out = hs.from_array(np.zeros(300, "c16"))
            with pytest.raises(hs.KernelError) as caught:
                engine.run(double, a, hs.write(out), over=out)
            text = str(caught.value)
            in_memory = re.search(r"by (np\.asarray\(.*?\)) where", text)[1]
            in_a_file = re.search(r"of its own: (.*)", text)[1]
            names = {"np": np, "hs": hs, "a": a}
            exec(in_a_file, names)  # noqa: S102
            converted = eval(in_memory, names)  # noqa: S307
            for remedy in (converted, names["converted"]):
                engine.run(double, hs.from_array(remedy), hs.write(out), region=64)
                assert np.array_equal(np.asarray(out), 2 * values.astype("c16"))
            Path("converted.npy").unlink()
