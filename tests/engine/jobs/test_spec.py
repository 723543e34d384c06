"""Job specs as text: every kind of mistake in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specs import GOOD, problems, with_argument, write

from hyperslab.jobs import models
from hyperslab.jobs.spec import read_spec


def test_all_problems_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
version: 2
arrays:
  a: {path: a.npy, mdoe: r+}
  b: {path: b.npy, create: {shape: [3, -1], dtype: f4}}
  c: {path: c.npy, create: {dtype: f4}}
  origin: {path: d.npy}
engine: {workers: 0, memory: lots, executor: dask, progress: maybe}
step: []
steps:
  - kernel: smooth
    arguments: [{read: a, halo: -1}, {raed: a}, {read: a, write: b}, [1, 2], null]
  - {kernel: k.py:f, arguments: {x: {read: aa}}, over: d, region: [0]}
  - {arguments: [a], kernel: k.py:f, axes: 3}
  - just text
""",
    )
    expected = [
        "1: version: is 2; this hyperslab reads version 1",
        "3: arrays.a.mdoe: unknown key; did you mean 'mode'?",
        "4: arrays.b.create.shape: [3, -1] is no shape",
        "5: arrays.c.create: give either shape, or like",
        "6: arrays.origin: 'origin' cannot name an array",
        "7: engine.executor: 'dask' is not known; give auto or loky or serial",
        "7: engine.memory: 'lots' is no size",
        "7: engine.progress: 'maybe' is not known",
        "7: engine.workers: 0 is no number of workers",
        "8: step: unknown section; did you mean 'steps'?",
        "10: steps[0].kernel: 'smooth' names no function",
        "11: steps[0].arguments[0].halo: -1 is no halo",
        "11: steps[0].arguments[1]: it does not say what the kernel does",
        "11: steps[0].arguments[2]: read and write in one argument",
        "11: steps[0].arguments[3]: a list stands for no argument by itself",
        "11: steps[0].arguments[4]: None is no argument",
        "12: steps[1].arguments.x.read: there is no array 'aa'; did you mean 'a'?",
        "12: steps[1].over: there is no array 'd'",
        "12: steps[1].region: [0] is no region shape",
        "13: steps[2].axes: unknown key",
        "14: steps[3]: 'just text': give a mapping with kernel, arguments",
    ]
    assert len(found) == len(expected), "\n".join(found)
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith("job.yaml:" + start), problem


@pytest.mark.parametrize("text", ["", "- 1\n", "text", "3", "null"])
def test_what_is_no_mapping_is_no_spec(tmp_path: Path, text: str) -> None:
    assert "is a mapping" in problems(tmp_path, text)[0]


@pytest.mark.parametrize("section", ["arrays", "steps"])
@pytest.mark.parametrize("value", ["", "3", "text", "[]", "{}"])
def test_sections_of_another_kind(tmp_path: Path, section: str, value: str) -> None:
    rest = {"arrays": "a: {path: a.npy}", "steps": "- {kernel: k.py:f, arguments: [1]}"}
    other = "steps" if section == "arrays" else "arrays"
    text = f"version: 1\n{other}:\n  {rest[other]}\n{section}: {value}\n"
    assert any(p.startswith(f"job.yaml:4: {section}: is ") for p in problems(tmp_path, text))


def test_like_in_a_circle_and_like_nothing(tmp_path: Path) -> None:
    text = GOOD.replace("like: a,", "like: c,").replace(
        "steps:", "  c: {path: c.npy, create: {like: b}}\n"
        "  d: {path: d.npy, create: {like: x}}\nsteps:"
    )  # fmt: skip
    found = problems(tmp_path, text)
    assert [problem.split(": ", 1)[0] for problem in found] == [f"job.yaml:{n}" for n in (4, 5, 6)]
    assert "b like c like b: a circle" in found[0]
    assert "there is no array 'x'" in found[2]


def test_describing_a_file_beside_create(tmp_path: Path) -> None:
    text = GOOD.replace("path: b.npy,", "path: b.npy, mode: r+, offset: 8,")
    (found,) = problems(tmp_path, text)
    assert "arrays.b: mode, offset beside create" in found


# Arguments.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{value: 3, dtype: u1}", np.uint8(3)),
        ("{value: 1, dtype: f4}", np.float32(1)),
        ("{value: [1, 2]}", np.array([1, 2])),
        ("{value: [[1, 2], [3, 4]], dtype: f4}", np.array([[1, 2], [3, 4]], "f4")),
        ("{value: 1+2j, dtype: c16}", np.complex128(1 + 2j)),
        ("{value: [0.5, .nan]}", np.array([0.5, np.nan])),
    ],
)
def test_values_become_what_numpy_makes_of_them(tmp_path: Path, text: str, expected: Any) -> None:
    step = read_spec(write(tmp_path, with_argument(text))).steps[0]
    assert step is not None and isinstance(step.arguments, list)
    argument = step.arguments[1]
    assert isinstance(argument, models.Value)
    got = argument.as_numpy()
    assert type(got) is type(expected) and got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{value: 300, dtype: u1}", "cannot be dtype u1"),
        ("{value: 1.5, dtype: i4}", "without changing"),
        ("{value: [1, [2, 3]]}", "cannot be an array"),
        ("{value: cold}", "is no number"),
        ("{value: null}", "is no value"),
        ("{value: 1, dtype: f5}", "is no NumPy type"),
        ("{value: 1, dtype: O}", "Python objects"),
        ("{accumulate: a, op: sum}", "is no operation"),
        ("{accumulate: a, op: maximun}", "did you mean 'maximum'?"),
        ("{read: a, boundary: mirror}", "is no boundary"),
        ("{read: a, halo: [1, [1]]}", "is no halo"),
        ("{read: a, axes: 1}", "names no axes"),
        ("{read: a, whole: 1}", "neither true nor false"),
        ("{read: 3}", "is no array name"),
        ("{accumulate: a, footprint: where}", "names no function"),
        ("{}", "does not say what the kernel does"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (found,) = problems(tmp_path, with_argument(text))
    assert found.startswith("job.yaml:7: steps[0].arguments[1]") and message in found


# Environment variables.


def test_variables_are_replaced_in_paths_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "/data/run")
    monkeypatch.setenv("CPUS", "3")
    monkeypatch.setenv("GB", "2GB")
    text = GOOD.replace("a.npy", '"${DATA}/x$$y.npy"') + (
        'engine: {workers: "${CPUS}", memory: "${GB}", lock_timeout: "${CPUS}"}\n'
    )
    draft = read_spec(write(tmp_path, text))
    array = draft.arrays["a"]
    assert array is not None and array.path == "/data/run/x$y.npy"
    assert draft.engine == models.EngineSpec(workers=3, memory="2GB", lock_timeout=3.0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("${UNSET_BY_TEST}/a.npy", "UNSET_BY_TEST is not set"),
        ("${EMPTY_BY_TEST}/a.npy", "EMPTY_BY_TEST is empty"),
        ("${HOME:-x}/a.npy", "only ${NAME} is replaced"),
    ],
)
def test_variables_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.delenv("UNSET_BY_TEST", raising=False)
    monkeypatch.setenv("EMPTY_BY_TEST", "")
    (found,) = problems(tmp_path, GOOD.replace("a.npy", f'"{path}"'))
    assert found.startswith("job.yaml:3: arrays.a.path: ") and message in found


def test_numbers_in_the_wrong_words_are_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUS", "all")
    (found,) = problems(tmp_path, GOOD + 'engine: {workers: "${CPUS}"}\n')
    assert "'all' is no number of workers" in found
    (found,) = problems(tmp_path, GOOD + 'engine: {workers: "4"}\n')
    assert "'4' is no number of workers" in found
