"""The examples in docstrings, of every module of both packages."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import hyperslab
import hyperslab_workers


def modules() -> Iterator[str]:
    for package in (hyperslab, hyperslab_workers):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield found.name


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The default engine runs jobs here: the examples are about what, not about who."""
    from hyperslab import api

    monkeypatch.setenv("HYPERSLAB_EXECUTOR", "serial")
    monkeypatch.setattr(api, "_default", None)
    yield
    if api._default is not None:
        api._default.close()


@pytest.mark.parametrize("name", list(modules()))
def test_the_examples_of_a_module_are_right(name: str, in_this_process: None) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for name in modules() for t in finder.find(importlib.import_module(name))]
    assert sum(bool(t.examples) for t in found) >= 20
