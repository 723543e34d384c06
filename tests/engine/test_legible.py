"""What a person is told can be printed wherever the program's output goes."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import hyperslab as hs
from hyperslab_workers.legible import legible

NAMES = ["температура→.npy", os.fsdecode(b"mess\xfcng.npy")]


@hs.kernel
def twice(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]


ENCODINGS = ["ascii", "latin-1", "utf-8", "no-such-encoding"]


@contextlib.contextmanager
def output_in(encoding: str) -> Iterator[None]:
    class Stream(io.StringIO):
        pass

    Stream.encoding = encoding
    # Not in a fixture: pytest puts a stream of its own there between set-up and test.
    with contextlib.redirect_stdout(Stream()):
        yield


def printable(told: object, encoding: str) -> str:
    text = str(told)
    text.encode("ascii" if encoding.startswith("no") else encoding)
    return text


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_printed_can_be(tmp_path, encoding, name):
    np.save(tmp_path / name, np.arange(10.0))
    a = hs.open(tmp_path / name)
    with hs.Engine(executor="serial") as engine, output_in(encoding):
        plan = engine.plan(twice, a, hs.write(hs.from_array(np.zeros(10))))
        for told in (a, repr(a), plan, plan.explain(), engine, plan.run(), twice):
            printable(told, encoding)
    with pytest.raises(hs.ArrayFileError) as caught:
        hs.create(tmp_path / name, 3)
    with output_in(encoding):
        told = printable(caught.value, encoding)
    assert "exists already" in told
    if encoding == "ascii":
        assert ("\\u0442" in told) or ("\\udcfc" in told)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_error_keeps_what_it_says_where_it_can_be_shown(encoding):
    error = hs.HyperslabError("5 µm → 3")
    assert error.args == ("5 µm → 3",)
    assert pickle.loads(pickle.dumps(error)).args == error.args
    told = {
        "ascii": r"5 \xb5m \u2192 3",
        "latin-1": r"5 µm \u2192 3",
        "utf-8": "5 µm → 3",
        "no-such-encoding": r"5 \xb5m \u2192 3",
    }
    with output_in(encoding):
        shown = str(error)
    assert shown == told[encoding]


def test_without_a_standard_output_all_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert legible("→") == "→"
