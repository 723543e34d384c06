"""Job specs as files: the three formats, the lines in them, and what values are read as."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import GOOD, problems, with_argument, write

import hyperslab as hs
from hyperslab.jobs import document, models
from hyperslab.jobs.spec import read_spec

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
    ("name", "text", "place"),
    [
        ("j.yaml", GOOD.replace("dtype: f4", "dtpye: f4"), "j.yaml:4"),
        ("j.json", JSON.replace('"dtype"', '"dtpye"'), "j.json:11"),
        ("j.toml", TOML.replace("dtype =", "dtpye ="), "j.toml"),
    ],
)
def test_problems_have_the_path_in_every_format_and_the_line_in_yaml_and_json(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    found = problems(tmp_path, text, name)
    assert found == [f"{place}: arrays.b.create.dtpye: unknown key; did you mean 'dtype'?"]


def test_where_a_value_stands(tmp_path: Path) -> None:
    for name, text, place in (("j.yaml", GOOD, "j.yaml:6"), ("j.toml", TOML, "j.toml, steps[0]")):
        read, _ = document.read_document(write(tmp_path, text, name))
        assert read.where(("steps", 0)) == f"{tmp_path}/{place}"


def test_problems_without_lines_are_told_in_the_order_of_the_document(tmp_path: Path) -> None:
    steps = "".join(f'[[steps]]\nkernel = "k.py:f"\narguments = ["x{n}"]\n' for n in range(12))
    found = problems(tmp_path, TOML + steps, "j.toml")
    assert [p.split(": ")[1] for p in found] == [f"steps[{n + 1}].arguments[0]" for n in range(12)]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("j.yaml", "version: 1\narrays: {a: [}\n", 2),
        ("j.yaml", "version: 1\n---\nversion: 1\n", 2),
        ("j.yaml", "version: 1\n\x07", 2),
        ("j.yaml", "a: &x [*x]\n", 1),
        ("j.toml", "version = 1\narrays = = 3\n", 2),
        ("j.json", '{"version": 1,\n "arrays": }', 2),
        ("j.yaml", "version: 1\na: *b\n", 2),
        ("j.yaml", "version: 1\n\ta: 1\n", 2),
        ("j.yaml", "%YAML 3.0\n---\na: 1\n", 1),
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


def test_repeated_keys_are_refused_in_json_that_is_no_yaml(tmp_path: Path) -> None:
    text = '{"version"\n: 1, "arrays": {"a": {"path": "a", "path": "b"}}, "step": 3}'
    found = problems(tmp_path, text, "j.json")
    assert "j.json: 'path': this key stands twice in one mapping; keep one" in found
    assert "j.json: step: unknown section; did you mean 'steps'?" in found


def test_a_table_that_stands_twice_in_toml_is_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, TOML + "[arrays.b]\n", "j.toml")
    assert found.startswith("j.toml:10: ")


def test_tags_that_construct_objects_are_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    tag = f"!!python/object/apply:os.mkdir ['{mark}']"
    found = problems(tmp_path, with_argument(tag))
    assert any(p.startswith("job.yaml:7: steps[0].arguments[1]: the tag") for p in found)
    assert not mark.exists()


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


TEXT = ["no", "on", "off", "yes", "Y", "12:30", "2020-01-01", "1_000", "0b11", "0o8", "+0x1", "="]


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("directive", ["", "%YAML 1.1\n---\n"])
def test_what_is_no_number_by_the_core_schema_stays_text(
    tmp_path: Path, text: str, directive: str
) -> None:
    found = problems(tmp_path, directive + with_argument(text))
    assert len(found) == 1 and f"there is no array {text!r}" in found[0]


def test_an_anchor_may_be_used_again(tmp_path: Path) -> None:
    text = GOOD.replace("arguments: [a, 2.5", "arguments: [&x a, &x 2.5, *x")
    step = read_spec(write(tmp_path, text)).steps[0]
    assert step is not None
    assert step.arguments == ["a", 2.5, 2.5, models.Write(write="b")]


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
@given(trees(st.text(max_size=8)), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_json_has_a_line_for_every_value(tree: Any, indent: Any, ascii_only: bool) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=ascii_only)
    value, lines, found = document._json(text)
    assert (value, found) == (tree, [])
    assert set(lines) == positions(tree)
    for path, line in lines.items():
        if path and isinstance(path[-1], str) and indent is not None:
            key = json.dumps(path[-1], ensure_ascii=ascii_only)
            assert key in text.split("\n")[line - 1]


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\u2028", "\ufffe", "\U0001f600"])
@pytest.mark.parametrize("key", ["{}", "\\{}", '"{}', "\\ud83d{}"])
def test_no_character_of_json_moves_its_lines(key: str, character: str) -> None:
    tree = {key.format(character): 1, "b" + character: [character, character + "\\"]}
    for ascii_only in (True, False):
        text = json.dumps(tree, indent=1, ensure_ascii=ascii_only).replace("\n", "\r\n")
        value, lines, _ = document._json(text)
        assert value == tree
        assert [lines[path] for path in lines] == [1, 2, 3, 4, 5]


# What YAML reads as JSON does, without any of JSON's escapes.
plain = st.text("ab c:#-'\"\\{[,&*!é\n\t", max_size=6)


@settings(max_examples=60)
@given(st.dictionaries(plain, trees(plain), max_size=3))
def test_yaml_reads_what_json_writes(tree: Any) -> None:
    value, lines, found = document.read_yaml(json.dumps(tree, ensure_ascii=False))
    assert (value, found) == (tree, [])
    assert set(lines) == positions(tree)


def test_missing_file_ending_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(hs.SpecError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")
    with pytest.raises(hs.SpecError, match=r"should end in \.yaml"):
        read_spec(write(tmp_path, GOOD, "job.txt"))
    (tmp_path / "latin.yaml").write_bytes(b"version: 1\n# \xe4\n")
    with pytest.raises(hs.SpecError, match=r"latin\.yaml:2: byte 0xe4 is not UTF-8"):
        read_spec(tmp_path / "latin.yaml")


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
