"""Whatever bytes stand where a ``.npy`` header should be: an array, or an ArrayFileError."""

from __future__ import annotations

import io
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from mutations import how_many, mutated

import hyperslab as hs

WORDS = (
    *(
        b"'descr'",
        b"'shape'",
        b"'fortran_order'",
        b"'<f4'",
        b"'|O'",
        b"()",
        b"(3,)",
        b"[]",
        b"True",
    ),
    *(b"[('a', '<f4')]", b"[('a', '<f4', (2,))]", b"('<f4', (2,))", b"1L", b"{}", b"b''", b"1j"),
    b"(" + b"1, " * 65 + b")",
)


def saved(dtype: object, shape: tuple[int, ...], version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(buffer, np.zeros(shape, dtype), version=version)
    return buffer.getvalue()


SEEDS = (
    saved("<f8", (3, 4)),
    saved(">i2", (5,), (2, 0)),
    saved([("a", "<f4"), ("ä", "<i2", (2,))], (2,), (3, 0)),
    saved("U5", ()),
    saved("M8[ns]", (2, 0, 3)),
)


def header(text: str, version: int = 1, *, length: int | None = None) -> bytes:
    data = text.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(data) if length is None else length)
    return b"\x93NUMPY" + bytes((version, 0)) + size + data


def described(descr: str, shape: str = "(3,)", order: str = "False") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


def opened_or_refused(path: Path, data: bytes) -> str:
    """The words of the refusal; empty where there is an array, which can then be read."""
    path.write_bytes(data)
    try:
        with hs.open(path) as a:
            assert a.shape == np.asarray(a).shape
            assert repr(a)
        return ""
    except hs.ArrayFileError as error:
        assert len(str(error)) < 5000
        return str(error)


HOSTILE = {
    "no dtype": described("()"),
    "a dtype of nothing": described("[]"),
    "a number for a dtype": described("7"),
    "a dtype of itself": described("'<f4', (1,)"),
    "a subarray of no length": described("('<f4', (0,))"),
    "a subarray of negative length": described("('<f4', (-1,))"),
    "65 axes": described("'<f4'", "(" + "1, " * 65 + ")"),
    "65 axes with those of a subarray": described("('<f4', (1, 1))", "(" + "1, " * 63 + ")"),
    "a negative length": described("'<f4'", "(-3,)"),
    "a length of 5,000 digits": described("'<f4'", "(" + "9" * 5000 + ",)"),
    "a length of 400 digits": described("'<f4'", "(" + "9" * 400 + ",)"),
    "a product of 400 digits": described("'<f4'", "(" + "9223372036854775807, " * 60 + ")"),
    "lengths that are no numbers": described("'<f4'", "('a',)"),
    "lengths that are true": described("'<f4'", "(True, True)"),
    "a shape that is no tuple": described("'<f4'", "[3]"),
    "an order that is no flag": described("'<f4'", order="'yes'"),
    "one key": header("{'descr': '<f4'}\n"),
    "no mapping": header("[1, 2]\n"),
    "a call": header("__import__('os').system('true')\n"),
    "many brackets": header("[" * 60_000),
    "many minus signs": header("-" * 60_000 + "1"),
    "a long sum": header("1" + "+1j" * 20_000),
    "a surrogate": described("[('\\ud800', '<f4')]"),
    "a NUL in a name": described("[('a\\x00b', '<f4')]"),
    "a dtype of 2 GB": described("'S2000000000'", "(0,)"),
    "a dtype of 2 TB": described("'S2000000000000'"),
    "a text for a structure": described("'f4,f4'", "(0,)"),
    "titles": described("[(('a', 'b'), '<f4')]", "(0,)"),
    "fields of one name": described("[('a', '<f4'), ('a', '<f4')]"),
    "10,000 fields": described("[" + "('', '<f4')," * 4000 + "]", "(0,)"),
    "a header of 4 GB": header("{}", 2, length=2**32 - 1),
    "a header that is not there": header("", 2, length=60_000),
    "version 9": header("{}", 9),
    "a magic number alone": b"\x93NUMPY",
    "Python objects": described("'|O'"),
    "Python objects inside": described("[('a', [('b', '|O')])]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_in_words(tmp_path: Path, name: str) -> None:
    said = opened_or_refused(tmp_path / "a.npy", HOSTILE[name])
    harmless = {"titles", "a text for a structure", "10,000 fields", "lengths that are true"}
    assert said or name in {*harmless, "a dtype of 2 GB", "a subarray of no length"}


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_mutated_header_is_an_array_or_refused(tmp_path: Path, number: int) -> None:
    chance = random.Random(number)
    path = tmp_path / "a.npy"
    for _ in range(how_many(400)):
        data = mutated(SEEDS[number], chance, words=WORDS)
        try:
            opened_or_refused(path, data)
        except Exception as error:
            raise AssertionError(f"{data[:400]!r}") from error


def test_headers_are_read_in_many_threads_at_a_time(tmp_path, monkeypatch):
    """Python 3.11's parser says of one of two threads, now and then, that it is at fault."""
    path, parse, refused = tmp_path / "a.npy", np.lib.format.read_array_header_2_0, []
    np.save(path, np.arange(12.0).reshape(3, 4))

    def sometimes(*arguments, **options):
        if len(refused) < 3:
            refused.append(1)
            raise SystemError("AST constructor recursion depth mismatch (before=33, after=30)")
        return parse(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "read_array_header_2_0", sometimes)
    with hs.open(path) as a:
        assert a.shape == (3, 4) and len(refused) == 3
