"""A good job spec, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

import hyperslab as hs
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
