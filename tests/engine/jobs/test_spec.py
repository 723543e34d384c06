"""Job specs as text: formats, lines, values, and every kind of mistake."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperslab as hs
from hyperslab.jobs import document, models
from hyperslab.jobs.positions import json_lines, toml_lines
from hyperslab.jobs.spec import read_spec

GOOD = """\
version: 1
arrays:
  a: {path: a.npy}
  b: {path: b.npy, create: {like: a, dtype: f4}}
steps:
  - kernel: kernels.py:scale
    arguments: [a, 2.5, {write: b}]
"""


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str, name: str = "job.yaml") -> list[str]:
    """The problems of a document, without the path of its folder."""
    with pytest.raises(hs.SpecError) as caught:
        read_spec(write(folder, text, name))
    error = caught.value
    assert error.problems
    assert all(problem in str(error) for problem in error.problems)
    return [problem.removeprefix(f"{folder}/") for problem in error.problems]


def with_argument(argument: str) -> str:
    return GOOD.replace("2.5", argument)


# Formats.

TOML = """\
version = 1
[arrays]
a = {path = "a.npy"}
[arrays.b]
path = "b.npy"
create = {like = "a", dtype = "f4"}
[[steps]]
kernel = "kernels.py:scale"
arguments = ["a", 2.5, {write = "b"}]
"""

JSON = json.dumps(
    {
        "version": 1,
        "arrays": {
            "a": {"path": "a.npy"},
            "b": {"path": "b.npy", "create": {"like": "a", "dtype": "f4"}},
        },
        "steps": [{"kernel": "kernels.py:scale", "arguments": ["a", 2.5, {"write": "b"}]}],
    },
    indent="\t",
)


def test_three_formats_say_the_same(tmp_path: Path) -> None:
    drafts = [
        read_spec(write(tmp_path, text, name))
        for text, name in ((GOOD, "j.yaml"), (GOOD, "j.yml"), (TOML, "j.toml"), (JSON, "j.json"))
    ]
    assert all(draft.arrays == drafts[0].arrays for draft in drafts)
    assert all(draft.steps == drafts[0].steps for draft in drafts)
    first = drafts[0].steps[0]
    assert first is not None
    assert first.arguments == ["a", 2.5, models.Write(write="b")]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("j.yaml", GOOD.replace("dtype: f4", "dtpye: f4"), 4),
        ("j.toml", TOML.replace("dtype =", "dtpye ="), 6),
        ("j.json", JSON.replace('"dtype"', '"dtpye"'), 11),
    ],
)
def test_problems_have_the_line_in_every_format(
    tmp_path: Path, name: str, text: str, line: int
) -> None:
    found = problems(tmp_path, text, name)
    assert found == [f"{name}:{line}: arrays.b.create.dtpye: unknown key; did you mean 'dtype'?"]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("j.yaml", "version: 1\narrays: {a: [}\n", 2),
        ("j.yaml", "version: 1\n---\nversion: 1\n", 2),
        ("j.yaml", "version: 1\n\x07", 2),
        ("j.yaml", "a: &x [*x]\n", 1),
        ("j.toml", "version = 1\narrays = = 3\n", 2),
        ("j.json", '{"version": 1,\n "arrays": }', 2),
        ("j.json", "[" * 100_000, 1),
    ],
)
def test_broken_syntax_is_told_with_its_line(
    tmp_path: Path, name: str, text: str, line: int
) -> None:
    (found,) = problems(tmp_path, text, name)
    assert found.startswith(f"{name}:{line}: ")


@pytest.mark.parametrize(
    ("name", "text", "line", "first"),
    [
        ("j.yaml", GOOD.replace("steps:", "  a: {path: c.npy}\nsteps:"), 5, 3),
        ("j.json", '{"version": 1,\n"arrays": {"a": {"path": "a"},\n"a": {"path": "b"}}}', 3, 2),
    ],
)
def test_repeated_keys_are_refused(
    tmp_path: Path, name: str, text: str, line: int, first: int
) -> None:
    expected = f"{name}:{line}: arrays.a: this key stands on line {first} already; keep one"
    assert expected in problems(tmp_path, text, name)


def test_a_table_that_stands_twice_in_toml_is_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, TOML + "[arrays.b]\n", "j.toml")
    assert found.startswith("j.toml:10: ")


def test_tags_that_construct_objects_are_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    tag = f"!!python/object/apply:os.mkdir ['{mark}']"
    found = problems(tmp_path, with_argument(tag))
    assert any(p.startswith("job.yaml:7: steps[0].arguments[1]: the tag") for p in found)
    assert not mark.exists()


def test_aliases_that_grow_exponentially_are_refused(tmp_path: Path) -> None:
    levels = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 8)}]" for n in range(1, 12)]
    (found,) = problems(tmp_path, "\n".join(levels))
    assert "with its aliases" in found


def test_aliases_and_merged_mappings_are_followed(tmp_path: Path) -> None:
    text = GOOD.replace("a: {path: a.npy}", "a: &base {path: a.npy, shared: true}").replace(
        "steps:", "  c: {<<: *base, path: c.npy}\nsteps:"
    )
    arrays = read_spec(write(tmp_path, text)).arrays
    assert arrays["c"] == models.ArraySpec.model_validate({"path": "c.npy", "shared": True})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-5", -5),
        ("+.5E2", 50.0),
        ("1.", 1.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("true", True),
        ("-.inf", -math.inf),
        ("{value: 12}", 12),
    ],
)
def test_numbers_are_read_as_yaml_1_2_and_json_read_them(
    tmp_path: Path, text: str, value: float
) -> None:
    step = read_spec(write(tmp_path, with_argument(text))).steps[0]
    assert step is not None and isinstance(step.arguments, list)
    got: Any = step.arguments[1]
    got = got.value if isinstance(got, models.Value) else got
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", ["no", "on", "12:30", "2020-01-01", "1_000"])
def test_what_yaml_1_1_turns_into_something_else_stays_text(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, with_argument(text))
    assert len(found) == 1 and f"there is no array {text!r}" in found[0]


def trees(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """What a JSON document can hold."""
    numbers = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=12,
    )


def positions(value: Any, path: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
    """All paths of a tree."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return {path}.union(*(positions(item, (*path, key)) for key, item in items))


@settings(max_examples=60)
@given(trees(st.text(max_size=8)), st.sampled_from([None, 1, "\t"]))
def test_json_has_a_line_for_every_value(tree: Any, indent: Any) -> None:
    text = json.dumps(tree, indent=indent)
    lines, repeated = json_lines(text)
    assert set(lines) == positions(tree)
    assert not repeated
    for path, line in lines.items():
        if path and isinstance(path[-1], str) and indent is not None:
            assert json.dumps(path[-1]) in text.split("\n")[line - 1]


# JSON is YAML but for its odd line separators and surrogate pairs, which these leave out.
plain = st.text("ab c:#-'\"\\{[,&*!é\n\t", max_size=6)


@settings(max_examples=60)
@given(st.dictionaries(plain, trees(plain), max_size=3))
def test_yaml_reads_what_json_writes(tree: Any) -> None:
    value, lines, found = document._yaml(json.dumps(tree, ensure_ascii=False))
    assert (value, found) == (tree, [])
    assert set(lines) == positions(tree)


def test_toml_lines_of_everything_toml_has() -> None:
    text = '''\
# comment [not.a.table]
version = 1  # = 2
a.b."c d" = """
[[steps]] in a string \\" """
list = [ # comment ]
  1,
  [2, 3], '[',
  {x = 1, y = [
    4]},
]

[t.u]
when = 1979-05-27 07:32:00
[[s]]
k = 1
[[s]]
[s.deep]
k = 2
[[s.more]]
k = "three"
'''
    lines = toml_lines(text)
    expected = {
        ("version",): 2,
        ("a", "b", "c d"): 3,
        ("list",): 5,
        ("list", 0): 6,
        ("list", 1): 7,
        ("list", 1, 1): 7,
        ("list", 2): 7,
        ("list", 3): 8,
        ("list", 3, "y"): 8,
        ("list", 3, "y", 0): 9,
        ("t", "u"): 12,
        ("t", "u", "when"): 13,
        ("s", 0, "k"): 15,
        ("s", 1): 16,
        ("s", 1, "deep", "k"): 18,
        ("s", 1, "more", 0, "k"): 20,
    }
    assert {path: lines.get(path) for path in expected} == expected


# The document as a whole.


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
        "7: engine.executor: 'dask' is not known; give loky or serial",
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


def test_missing_file_ending_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(hs.SpecError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")
    with pytest.raises(hs.SpecError, match=r"should end in \.yaml"):
        read_spec(write(tmp_path, GOOD, "job.txt"))
    (tmp_path / "latin.yaml").write_bytes(b"version: 1\n# \xe4\n")
    with pytest.raises(hs.SpecError, match=r"latin\.yaml:2: byte 0xe4 is not UTF-8"):
        read_spec(tmp_path / "latin.yaml")


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


@settings(max_examples=40)
@given(st.text(max_size=200))
def test_any_text_is_a_spec_error_and_nothing_else(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("j.yaml", "j.toml", "j.json"):
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8", errors="replace")
            with pytest.raises(hs.SpecError):
                read_spec(path)
