"""Small job specs that could cost much: each ends soon, in little memory, in a short message."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from specs import GOOD, problems, with_argument, write

import hyperslab as hs
from hyperslab.jobs import document
from hyperslab.jobs.limits import DEEPEST, LARGEST, MOST_VALUES, Unreadable
from hyperslab.jobs.spec import read_spec
from hyperslab.jobs.words import near
from hyperslab.jobs.yaml_text import read_yaml

HEAD = "version: 1\narrays:\n"
STEP = "steps: [{kernel: 'k.py:f', arguments: [a0]}]\n"
LIKES = "  a0: {path: a.npy}\n" + "".join(
    f"  a{n}: {{path: {n}.npy, create: {{like: a{n - 1}}}}}\n" for n in range(1, 2400)
)


def value(text: str) -> str:
    return GOOD.replace("2.5", f"{{value: {text}}}")


BOMBS = {
    "aliases of a long text": (
        "yaml",
        'a0: &a0 "' + "x" * 100_000 + '"\nversion: [' + "*a0," * 20 + "]\n",
        "with its aliases written out, has more than 262,144 characters",
    ),
    "aliases of aliases": (
        "yaml",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 10}]\n" for n in range(1, 11)),
        "with its aliases written out, has more than 10,000 values",
    ),
    "aliases of a long key": (
        "yaml",
        "a0: &a0 {? " + "x" * 100_000 + " : 1}\nversion: [" + "*a0," * 20 + "]\n",
        "with its aliases written out, has more than 262,144 characters",
    ),
    "a large YAML file": ("yaml", "- a\n" * 1_000_000, "longer than 262,144 bytes"),
    "many values in YAML": ("yaml", "- a\n" * 60_000, ":20000: the document has more than"),
    "many values in JSON": ("json", "[" + "1," * 100_000 + "1]", "more than 10,000 values"),
    "many values in TOML": ("toml", "a = [" + "1," * 100_000 + "]", "more than 10,000 values"),
    "deep YAML": ("yaml", "[" * 200_000, ":1: values are nested too deeply"),
    "deep JSON": ("json", "[" * 200_000, "values are nested too deeply"),
    "deep TOML": ("toml", "a = " + "[" * 200_000, "values are nested too deeply"),
    "a long dotted key": ("toml", "a" + ".a" * 20_000 + " = 1", "values are nested too deeply"),
    "a long quoted key": (
        "toml",
        'x = ["""a"""", """b"""]\n"a"' + " . 'a'" * 20_000 + " = 1",
        "values are nested too deeply",
    ),
    "a long number in YAML": ("yaml", "version: 0x" + "f" * 5000, ":1: version: no number of 64"),
    "a long number in JSON": ("json", '{"version": ' + "9" * 5000 + "}", "the limit (4300 digits)"),
    "a long number in TOML": ("toml", "version = 0x" + "f" * 5000, "version: no number of 64"),
    "a wide dtype": (
        "yaml",
        value("[1, 2], dtype: S2000000000"),
        "takes 2,000,000,000 bytes an element",
    ),
    "a long dtype": ("yaml", value("[1, 2], dtype: '" + "f4," * 80_000 + "'"), "longer than 1,000"),
    "a wide dtype for a file": (
        "yaml",
        GOOD.replace("dtype: f4", "dtype: S2000000000"),
        "takes 2,000,000,000 bytes an element",
    ),
    "a text among numbers": (
        "yaml",
        value("[" + "1," * 9_000 + "x" * 200_000 + "]"),
        "takes more than 16.8 MB",
    ),
    "workers without number": ("yaml", GOOD + "engine: {workers: 1" + "0" * 400 + "}", "64 bits"),
    "workers without end": ("yaml", GOOD + "engine: {workers: 1.0e+400}", "inf is no number of"),
    "a long path": ("yaml", GOOD.replace("a.npy", "a" * 200_000), "File name too long"),
    "arrays each like the one before": ("yaml", HEAD + LIKES + STEP, "accepted"),
    "arrays in a large circle": (
        "yaml",
        HEAD
        + "".join(
            f"  a{n}: {{path: {n}.npy, create: {{like: a{(n + 1) % 2400}}}}}\n" for n in range(2400)
        )
        + STEP,
        ":3: arrays.a0.create.like: a0 like a1 like",
    ),
    "many unknown names among many": (
        "yaml",
        HEAD
        + "".join(f"  a{n}: {{path: a.npy}}\n" for n in range(2400))
        + "steps:\n- kernel: k.py:f\n  arguments:\n"
        + "".join(f"  - b{n}\n" for n in range(2400)),
        "there is no array 'b0'",
    ),
}

# What a text costs is told by a process of its own.
READ = textwrap.dedent("""\
    import re, sys, time
    from hyperslab.errors import SpecError
    from hyperslab.jobs.files import open_files
    from hyperslab.jobs.problems import spec_error
    from hyperslab.jobs.spec import read_draft

    def peak():
        with open("/proc/self/status") as status:
            return int(re.search(r"VmHWM:[^0-9]*([0-9]+)", status.read())[1])

    began, before = time.process_time(), peak()
    try:
        draft = read_draft(sys.argv[1])
        problems = [*draft.problems, *open_files(draft).problems]
        said = str(spec_error(draft.document.name, problems)) if problems else "accepted"
    except SpecError as error:
        said = str(error)
    print(said[:2000])
    print(len(said))
    print(time.process_time() - began)
    print((peak() - before) << 10)
""")


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_document_costs_little(tmp_path: Path, name: str) -> None:
    ending, text, message = BOMBS[name]
    np.save(tmp_path / "a.npy", np.zeros(3))
    path = write(tmp_path, text, f"job.{ending}")
    # A second, on a machine with nothing else to do: without limits it is minutes or for ever.
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, length, processor, memory = done.stdout.rstrip().rsplit("\n", 3)
    assert message in said
    assert int(length) < 60_000
    # Of the processor, which others may be using as well; alone it is a third of that.
    assert float(processor) < 3
    assert int(memory) < 100 << 20


@pytest.mark.parametrize("name", ["j.yaml", "j.json", "j.toml"])
def test_what_is_just_within_the_limits_is_read(tmp_path: Path, name: str) -> None:
    before = "a = " if name == "j.toml" else ""
    levels = DEEPEST - 1 if before else DEEPEST
    text = before + "[" * levels + "1" + "]" * levels
    value = document.read_document(write(tmp_path, text, name))[0].value
    for _ in range(DEEPEST):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value == 1
    with pytest.raises(hs.SpecError, match="too deeply"):
        document.read_document(write(tmp_path, text.replace("1", "[1]"), name))

    items = MOST_VALUES - 2 if before else MOST_VALUES - 1
    text = before + "[" + "1," * (items - 1) + "1]"
    document.read_document(write(tmp_path, text, name))
    with pytest.raises(hs.SpecError, match="more than"):
        document.read_document(write(tmp_path, text.replace("1]", "1,1]"), name))


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    text = GOOD + "#" * (LARGEST - len(GOOD))
    assert read_spec(write(tmp_path, text)).steps
    assert "longer than" in problems(tmp_path, text + "#")[0]


@pytest.mark.parametrize(
    "text",
    [
        "dotted = 'a.a.a.a' # a.a.a.a",
        'dotted = "a.\\"a.a.a"',
        '"""a.a.a.a"""',
        "dotted = [1.1, 1.1, 1.1, 1.1]",
        'dotted = ["""a""""", """a.\n\\"""a.a.a"""]',
        "dotted = '''a.a\n'a.a.a'''",
    ],
)
def test_dots_that_are_no_key_are_not_counted(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "version = 1\n" + text.replace(".a.", ".a" * DEEPEST + "."), "j.toml")
    with pytest.raises(hs.SpecError) as caught:
        read_spec(path)
    assert "too deeply" not in str(caught.value)


def test_numbers_up_to_64_bits_are_read(tmp_path: Path) -> None:
    for number in (-(2**63), 2**64 - 1):
        read_spec(write(tmp_path, with_argument(str(number))))
    for number in (-(2**63) - 1, 2**64):
        (found,) = problems(tmp_path, with_argument(str(number)))
        assert found == ("job.yaml:7: steps[0].arguments[1]: no number of 64 bits is so large")


def test_the_nearest_of_very_many_names_is_found() -> None:
    names = [f"a{n}" for n in range(5000)] + ["temperature"]
    assert near("temperatur", names, "the arrays") == "did you mean 'temperature'?"
    assert near("x" * 10**6, names, "the arrays").endswith("and 4,981 more")


@pytest.mark.parametrize("character", ["\\0", "\\ud83d"])
@pytest.mark.parametrize("key", ["path: a.npy", "kernel: kernels.py"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, key: str, character: str) -> None:
    name, text = key.split(": ")
    wrong = GOOD.replace("kernels.py:scale", "'kernels.py:scale'").replace("'", '"')
    wrong = wrong.replace("a.npy", '"a.npy"').replace(f'"{text}', f'"{character}{text}')
    (found,) = problems(tmp_path, wrong)
    assert f".{name}: " in found and "characters that no file's name can have" in found
    found.encode()


PIECES = (
    *("a", "1", ":", ": ", "- ", "? ", "\n", " ", "  ", "[", "]", "{", "}", ",", "&a ", "*a", "="),
    *("!", "!!str ", "!<", ">", "|", "%", "%YAML 1.1\n", "---", "...", "#", "'", '"', "\t", "<<"),
    *("\\", "\\ud83d", "\x85", "\u2028", "\ufeff", "\r", "0x", "version", "~", "null", "!!int "),
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example('"\\U00110000"')
@example("%YAML 1.21\n---\na: 1")
def test_no_yaml_is_anything_but_read_or_refused(text: str) -> None:
    try:
        read_yaml(text)
    except Unreadable as error:
        assert str(error)
