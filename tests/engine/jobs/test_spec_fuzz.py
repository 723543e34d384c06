"""Whatever a document says: it is run, or a SpecError tells why not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from mutations import how_many, mutated

import hyperslab as hs
from hyperslab.jobs.runner import prepare

KERNELS = """
import hyperslab as hs

@hs.kernel
def scale(a, factor, out):
    for i in range(a.shape[0]):
        out[i] = factor * a[i]

@hs.kernel
def total(a, out):
    for i in range(a.shape[0]):
        out[0] += a[i]
"""

SEEDS = {
    "yaml": b"""\
version: 1
defaults: &all {mode: r}
arrays:
  a: {path: a.npy, <<: *all}
  raw: {path: a.dat, dtype: '<f4', shape: [20], offset: 16, order: C, shared: true}
  b: {path: b.npy, create: {like: a, dtype: f4, overwrite: true}}
  c: {path: c.npy, create: {shape: [1], dtype: f8, overwrite: true, sparse: true}}
engine: {workers: 1, memory: 1GB, executor: serial, progress: false}
steps:
  - kernel: k.py:scale
    arguments: [{read: a, halo: 0, boundary: nearest}, 2.5, {write: b, axes: [0]}]
    region: [7]
  - {kernel: "k.py:total", arguments: {a: a, out: {accumulate: c, op: add}}, over: a}
""",
    "toml": b"""\
version = 1
[arrays]
a.path = "a.npy"
b = {path = "b.npy", create = {like = "a", dtype = "f4", overwrite = true}}
[engine]
executor = "serial"
progress = false
[[steps]]
kernel = "k.py:scale"
arguments = ["a", {value = 2, dtype = "i2"}, {write = "b"}]
""",
    "json": b"""\
{"version": 1,
 "arrays": {"a": {"path": "a.npy"},
            "b": {"path": "b.npy", "create": {"like": "a", "dtype": "f4", "overwrite": true}}},
 "engine": {"executor": "serial", "progress": false},
 "steps": [{"kernel": "k.py:scale", "arguments": ["a", 2.5, {"write": "b"}], "region": 7}]}
""",
}

LARGEST_OUTPUT = 10**6
"""Bytes up to which outputs are made: what the disk could take is no fault of the document's."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "k.py").write_text(KERNELS)
    np.save(tmp_path / "a.npy", np.arange(20.0))
    (tmp_path / "a.dat").write_bytes(bytes(16 + 80))
    return tmp_path


def run(path: Path) -> None:
    with prepare(path) as job:
        outputs = job.outputs.values()
        inside = all(Path(o.path).parent == path.parent for o in outputs)
        if inside and sum(o.file_size for o in outputs) <= LARGEST_OUTPUT:
            for _ in job.run():
                pass


@pytest.mark.parametrize("ending", SEEDS)
def test_the_seeds_are_good(folder: Path, ending: str) -> None:
    path = folder / f"job.{ending}"
    path.write_bytes(
        SEEDS[ending].replace(b"defaults: &all {mode: r}\n", b"").replace(b", <<: *all", b"")
    )
    run(path)
    assert (np.load(folder / "b.npy") != 0).any()


@pytest.mark.parametrize("ending", SEEDS)
def test_a_mutated_document_is_run_or_refused(folder: Path, ending: str) -> None:
    chance = random.Random(ending)
    path = folder / f"job.{ending}"
    for _ in range(how_many(60)):
        data = mutated(SEEDS[ending], chance)
        path.write_bytes(data)
        try:
            run(path)
        except hs.HyperslabError as error:
            assert str(error).encode()  # and can be written to a terminal
            assert len(str(error)) < 60_000
        except Exception as error:
            raise AssertionError(data.decode("utf-8", "backslashreplace")[:3000]) from error
