"""Engines that the tests of a module share: starting workers is what takes time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hyperslab as hs


@pytest.fixture(scope="module")
def serial() -> Iterator[hs.Engine]:
    """An engine that runs everything in this process."""
    with hs.Engine(executor="serial", progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def warm() -> Iterator[hs.Engine]:
    """An engine with two worker processes, started once."""
    with hs.Engine(workers=2, progress=False) as engine:
        engine.start()
        yield engine


@pytest.fixture(params=["serial", "warm"])
def engine(request: pytest.FixtureRequest) -> hs.Engine:
    """Both of them, one after the other."""
    chosen: hs.Engine = request.getfixturevalue(request.param)
    return chosen
