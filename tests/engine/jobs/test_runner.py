"""Job specs from end to end: what they compute, and that mistakes touch nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperslab as hs
from hyperslab.jobs.runner import prepare

KERNELS = """\
import hyperslab as hs
from helpers import offset        # beside this file

@hs.kernel
def scale(a, factor, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, j] * factor

@hs.kernel
def smooth(a, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (a[i, j] + a[i + 1, j] + a[i + 2, j]) / 3

@hs.kernel
def number(origin, out, plus=offset):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += 1000 * (origin[0] + i) + origin[1] + j + plus

@hs.kernel
def column_sums(a, weights, sums):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            sums[j] += a[i, j] * weights[j]

@hs.kernel
def spread(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] += a[i, j]
            out[i + 1, j] += a[i, j]

@hs.kernel
def fails(a, out):
    for i in range(a.shape[0]):
        if a[i, 0] > 50:
            raise ValueError("too large")

@hs.kernel
def does_not_compile(a, out):
    out[0, 0] = a.no_such_attribute

def one_more_row(region):
    rows, columns = region
    return slice(rows.start, rows.stop + 1), columns

def plain(a):
    pass
"""

A = np.arange(80.0).reshape(10, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with kernels, a module beside them, and an input."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "helpers.py").write_text("offset = 7\n")
    np.save(tmp_path / "a.npy", A)
    return tmp_path


def spec(folder: Path, arrays: str, steps: str, engine: str = "executor: serial") -> Path:
    path = folder / "job.yaml"
    indented = "\n".join("  " + line for line in arrays.strip().splitlines())
    text = f"version: 1\narrays:\n  a: {{path: a.npy}}\n{indented}\n"
    path.write_text(f"{text}engine: {{{engine}, progress: false}}\nsteps:\n{steps}\n")
    return path


def run(path: Path, **options: Any) -> list[dict[str, Any]]:
    with prepare(path, **options) as job:
        return [report.to_dict() for report in job.run()]


def listing(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files with inode, time and content: what "nothing was touched" means."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            found[path.name] = (status.st_ino, status.st_mtime_ns, path.read_bytes())
    return found


def refused(path: Path) -> list[str]:
    """The problems of a spec, after a look that nothing was touched."""
    before = listing(path.parent)
    with pytest.raises(hs.SpecError) as caught:
        prepare(path)
    assert listing(path.parent) == before
    return [problem.removeprefix(str(path.parent) + "/") for problem in caught.value.problems]


ARRAYS = """\
raw: {path: raw.bin, dtype: "<f4", shape: [8, 2], offset: 4, order: F}
b: {path: b.npy, create: {like: a, dtype: f4, order: F}}
smoothed: {path: smoothed.npy, create: {like: b}}
numbers: {path: numbers.npy, create: {shape: [10, 8], dtype: i8, sparse: true}}
sums: {path: sums.npy, create: {shape: 8, dtype: f8}}
image: {path: image.npy, create: {shape: [11, 8], dtype: i8}}
"""

STEPS = """\
  - kernel: kernels.py:scale
    arguments: [a, {value: 0.5, dtype: f4}, {write: b}]
    region: [3, null]
  - kernel: kernels.py:smooth
    arguments: {out: {write: smoothed}, a: {read: b, halo: [[1, 1], [0, 0]], boundary: nearest}}
  - kernel: kernels.py:number
    arguments: {origin: origin, out: {update: numbers}}
    region: [2, 3]
  - kernel: kernels.py:column_sums
    arguments: [a, {value: [1, 1, 1, 1, 1, 1, 1, 2], dtype: f4}, {accumulate: sums}]
    over: a
  - kernel: kernels.py:spread
    arguments: [numbers, {accumulate: image, footprint: "kernels.py:one_more_row"}]
    region: [1, null]
"""


@pytest.mark.parametrize("engine", ["executor: serial", "workers: 2"])
def test_a_job_computes_what_numpy_computes(folder: Path, engine: str) -> None:
    (folder / "raw.bin").write_bytes(b"HEAD" + np.arange(16, dtype="<f4").tobytes())
    reports = run(spec(folder, ARRAYS, STEPS, engine))

    b = (A * np.float32(0.5)).astype("f4")
    assert np.load(folder / "b.npy").flags.f_contiguous
    np.testing.assert_array_equal(np.load(folder / "b.npy"), b)
    padded = np.pad(b, ((1, 1), (0, 0)), mode="edge").astype("f8")
    expected = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    np.testing.assert_allclose(np.load(folder / "smoothed.npy"), expected, rtol=1e-6)
    numbers = 1000 * np.arange(10)[:, None] + np.arange(8) + 7
    np.testing.assert_array_equal(np.load(folder / "numbers.npy"), numbers)
    sums = A.sum(axis=0) * [1, 1, 1, 1, 1, 1, 1, 2]
    np.testing.assert_allclose(np.load(folder / "sums.npy"), sums)
    image = np.zeros((11, 8), "i8")
    image[:-1] += numbers
    image[1:] += numbers
    np.testing.assert_array_equal(np.load(folder / "image.npy"), image)

    assert [r["step"] for r in reports] == [1, 2, 3, 4, 5]
    assert [r["regions"] for r in reports][0:3:2] == [4, 15]
    assert reports[0]["kernel"] == "kernels.py:scale"
    assert [r["bytes_written"] for r in json.loads(json.dumps(reports))[:2]] == [320, 320]


def test_nothing_is_compiled_again_after_the_check(folder: Path) -> None:
    (folder / "raw.bin").write_bytes(bytes(68))
    with prepare(spec(folder, ARRAYS, STEPS)) as job:
        before = [dict(step.kernel._compiled) for step in job.steps]
        assert all(before)
        list(job.run())
        assert [dict(step.kernel._compiled) for step in job.steps] == before


def test_raw_files_and_files_changed_in_place(folder: Path) -> None:
    raw = np.arange(16, dtype="<i4").reshape(8, 2)
    (folder / "raw.bin").write_bytes(b"HEAD" + raw.tobytes(order="F"))
    path = spec(
        folder,
        'raw: {path: raw.bin, mode: r+, dtype: "<i4", shape: [8, 2], offset: 4, order: F}',
        "  - {kernel: kernels.py:number, arguments: [origin, {update: raw}, 1]}",
    )
    run(path)
    content = (folder / "raw.bin").read_bytes()
    got = np.frombuffer(content, "<i4", offset=4).reshape((8, 2), order="F")
    np.testing.assert_array_equal(got, raw + 1000 * np.arange(8)[:, None] + np.arange(2) + 1)
    assert content[:4] == b"HEAD"


def test_a_module_by_name_and_a_spec_in_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"kernels_of_{os.getpid()}"
    (folder / "kernels.py").rename(folder / f"{name}.py")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    path = spec(
        folder,
        "b: {path: sub/b.npy, create: {like: a}}",
        f"  - {{kernel: {name}:scale, arguments: [a, 2, {{write: b}}]}}",
    )
    before = list(sys.path)
    run(Path("..") / path.name)
    assert sys.path == before
    np.testing.assert_array_equal(np.load("b.npy"), 2 * A)


def test_overwriting_replaces_and_does_not_truncate(folder: Path) -> None:
    np.save(folder / "b.npy", np.ones(3))
    mapped = np.load(folder / "b.npy", mmap_mode="r")
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a, overwrite: true}}",
        "  - {kernel: kernels.py:scale, arguments: [a, 3, {write: b}]}",
    )
    run(path)
    run(path)
    np.testing.assert_array_equal(np.load(folder / "b.npy"), 3 * A)
    np.testing.assert_array_equal(mapped, np.ones(3))


def test_what_the_caller_says_comes_before_the_document(folder: Path) -> None:
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a}}",
        "  - {kernel: kernels.py:scale, arguments: [a, 3, {write: b}]}",
        "workers: 3, memory: 1GB",
    )
    with prepare(path) as job:
        assert job.steps[0].plan.workers == 3
    with prepare(path, workers=1, memory="2GB") as job:
        plan = job.steps[0].plan
        assert (plan.workers, plan.budget.limit) == (1, 2 * 10**9)


def test_a_plan_shows_the_outputs_and_touches_nothing(folder: Path) -> None:
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a}}",
        "  - {kernel: kernels.py:scale, arguments: [a, 3, {write: b}]}",
    )
    before = listing(folder)
    with prepare(path) as job:
        assert str(folder / "b.npy") in job.steps[0].plan.explain()
        assert job.outputs["b"].file_size == 128 + A.nbytes
    assert listing(folder) == before


def test_a_10_tb_output_is_planned_without_a_file(folder: Path) -> None:
    np.save(folder / "row.npy", np.zeros((1, 1000)))
    path = spec(
        folder,
        "row: {path: row.npy}\n"
        "out: {path: out.npy, create: {shape: [1250000000, 1000], dtype: f8, sparse: true}}",
        "  - {kernel: kernels.py:scale, arguments: [row, 1, {write: out}]}",
    )
    with prepare(path) as job:
        assert job.steps[0].plan.bytes_written == 10 * 10**12
    assert not (folder / "out.npy").exists()


# Mistakes.


def test_all_problems_of_files_kernels_and_plans_at_once(folder: Path) -> None:
    np.save(folder / "old.npy", A)
    np.save(folder / "short.npy", np.zeros((3, 8)))
    path = spec(
        folder,
        """\
missing: {path: none.npy}
old: {path: old.npy, create: {like: a}}
far: {path: no/such/far.npy, create: {like: a}}
b: {path: b.npy, create: {like: a}}
twin: {path: ./b.npy}
short: {path: short.npy}
unused: {path: unused.npy, create: {like: a}}
broken: {path: broken.npy, mode: rw}
""",
        """\
  - {kernel: "kernels.py:scael", arguments: [a, 1, {write: b}]}
  - {kernel: "kernels.py:plain", arguments: [a]}
  - {kernel: "none.py:f", arguments: [a]}
  - {kernel: "no_such_module_at_all:f", arguments: [a]}
  - {kernel: "kernels.py:scale", arguments: [a, {write: b}]}
  - {kernel: "kernels.py:scale", arguments: {a: a, facto: 2, out: {write: b}}}
  - {kernel: "kernels.py:scale", arguments: [a, 1, {write: short}]}
  - {kernel: "kernels.py:scale", arguments: [short, 1, {write: b}]}
  - {kernel: "kernels.py:scale", arguments: [{read: a, halo: [1, 1, 1]}, 1, {write: b}]}
  - {kernel: "kernels.py:scale", arguments: [{read: b, halo: 1}, 1, {update: b}]}
  - {kernel: "kernels.py:does_not_compile", arguments: [a, {write: b}]}
  - {kernel: "kernels.py:spread", arguments: [a, {accumulate: old, footprint: "kernels.py:f"}]}
  - {kernel: "kernels.py:scale", arguments: [missing, 1, {write: far}]}
""",
    )
    found = refused(path)
    expected = [
        ("4: arrays.missing.path: ", "does not exist"),
        ("5: arrays.old.create: ", "write overwrite: true to replace it"),
        ("6: arrays.far.create: ", "does not exist; make it first"),
        ("7: arrays.b.path: ", "the file is that of twin, too"),
        ("8: arrays.twin.path: ", "does not exist"),
        ("10: arrays.unused.create: ", "no step writes unused"),
        ("11: arrays.broken.mode: ", "'rw' is not known; give r or r+"),
        ("14: steps[0].kernel: ", "did you mean 'scale'?"),
        ("15: steps[1].kernel: ", "decorate it with @hs.kernel"),
        ("16: steps[2].kernel: ", "does not exist"),
        ("17: steps[3].kernel: ", "there is no module"),
        ("18: steps[4].arguments: ", "scale(a, factor, out) takes 3 arguments and is given 2"),
        ("19: steps[5].arguments.facto: ", "did you mean 'factor'?"),
        ("19: steps[5].arguments: ", "is not given factor"),
        ("20: steps[6].arguments[2].write: ", "mode: r+ in arrays.short"),
        ("21: steps[7]: ", "(3, 8)"),
        ("22: steps[8].arguments[0]: ", "halo"),
        ("23: steps[9]: ", ""),
        ("24: steps[10]: ", "no_such_attribute"),
        ("25: steps[11].arguments[1].footprint: ", "has no 'f'"),
    ]
    got = "\n".join(found)
    for start, words in expected:
        assert any(p.startswith(f"job.yaml:{start}") and words in p for p in found), (start, got)
    assert len(found) == len(expected), got


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(folder: Path) -> None:
    room = os.statvfs(folder)
    half = room.f_bavail * room.f_frsize // 16 // 8 + 10**6
    path = spec(
        folder,
        # Each fits, both together do not.
        "".join(
            f"{name}: {{path: {name}.npy, create: {{shape: [{half * 10}, 1], dtype: f8}}}}\n"
            for name in "bc"
        ),
        "  - {kernel: kernels.py:number, arguments: [origin, {update: b}]}\n"
        "  - {kernel: kernels.py:number, arguments: [origin, {update: c}]}",
    )
    (found,) = refused(path)
    assert "the outputs b, c take" in found


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import hyperslab as hs\n1 / 0\n", "ZeroDivisionError: division by zero at "),
        ("def f(:\n", "SyntaxError"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
    ],
)
def test_a_kernel_file_that_cannot_be_loaded(folder: Path, code: str, words: str) -> None:
    (folder / "kernels.py").write_text(code)
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a}}",
        "  - {kernel: kernels.py:f, arguments: [a, {write: b}]}",
    )
    (found,) = refused(path)
    assert found.startswith("job.yaml:7: steps[0].kernel: ") and words in found
    line = 1 + code.count("\n", 0, code.find("1 / 0"))
    assert "1 / 0" not in code or found.endswith(f"kernels.py:{line}")


def test_variables_of_the_environment_that_make_no_sense(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERSLAB_MEMORY", "lots")
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a}}",
        "  - {kernel: kernels.py:none, arguments: [a, {write: b}]}",
    )
    found = refused(path)
    assert any("HYPERSLAB_MEMORY='lots'" in problem for problem in found)
    assert any("has no 'none'" in problem for problem in found)


def test_a_failing_step_names_itself_and_keeps_what_was_done(folder: Path) -> None:
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a}}\nc: {path: c.npy, create: {like: a}}",
        "  - {kernel: kernels.py:scale, arguments: [a, 2, {write: b}]}\n"
        "  - {kernel: kernels.py:fails, arguments: [a, {write: c}]}",
    )
    with prepare(path) as job:
        steps = job.run()
        assert next(steps).number == 1
        with pytest.raises(hs.KernelError, match="too large") as caught:
            next(steps)
    assert caught.value.__notes__ == [f"in step 2 of 2, kernels.py:fails ({path}:9)"]
    np.testing.assert_array_equal(np.load(folder / "b.npy"), 2 * A)


def test_outputs_that_cannot_all_be_made_leave_none(folder: Path) -> None:
    np.save(folder / "c.npy", np.ones(3))
    path = spec(
        folder,
        "b: {path: b.npy, create: {like: a}}\n"
        "c: {path: c.npy, create: {like: a, overwrite: true}}\n"
        "d: {path: d.npy, create: {like: a}}",
        "  - {kernel: kernels.py:scale, arguments: [a, 2, {write: b}]}\n"
        "  - {kernel: kernels.py:scale, arguments: [a, 2, {write: c}]}\n"
        "  - {kernel: kernels.py:scale, arguments: [a, 2, {write: d}]}",
    )
    with prepare(path) as job:
        (folder / "d.npy").touch()  # somebody was faster
        with pytest.raises(hs.ArrayFileError, match="exists already"):
            list(job.run())
    assert not (folder / "b.npy").exists()
    np.testing.assert_array_equal(np.load(folder / "c.npy"), np.ones(3))
