"""Settings: precedence, and what every wrong value says."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperslab.errors import PlanError
from hyperslab.settings import resolve
from hyperslab.units import parse_bytes


def test_defaults():
    settings = resolve(environ={})
    assert settings.workers >= 1
    assert settings == dataclasses.replace(
        settings,
        memory=None,
        executor="auto",
        scratch=None,
        lock_dir=None,
        lock_timeout=None,
        progress="auto",
        release="auto",
    )


VARIABLES = {
    "HYPERSLAB_WORKERS": "3",
    "HYPERSLAB_MEMORY": "2GiB",
    "HYPERSLAB_EXECUTOR": "serial",
    "HYPERSLAB_SCRATCH": "/scratch",
    "HYPERSLAB_LOCK_DIR": "/locks",
    "HYPERSLAB_LOCK_TIMEOUT": "2.5",
    "HYPERSLAB_PROGRESS": "0",
    "HYPERSLAB_RELEASE": "true",
}
FROM_VARIABLES = {
    "workers": 3,
    "memory": 2 * 2**30,
    "executor": "serial",
    "scratch": "/scratch",
    # The default of every way to a lock, and not a setting of the engine's: see locks/home.py.
    "lock_dir": None,
    "lock_timeout": 2.5,
    "progress": False,
    "release": True,
}
GIVEN = {
    "workers": 5,
    "memory": 10**6,
    "executor": "loky",
    "scratch": "/other",
    "lock_dir": "/elsewhere",
    "lock_timeout": 0.0,
    "progress": True,
    "release": False,
}


def as_dict(settings):
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def test_a_variable_comes_before_the_default():
    assert as_dict(resolve(environ=VARIABLES)) == FROM_VARIABLES


@pytest.mark.parametrize("name", GIVEN)
def test_an_argument_comes_before_its_variable_and_only_before_that(name):
    settings = resolve(**{name: GIVEN[name]}, environ=VARIABLES)
    assert as_dict(settings) == FROM_VARIABLES | {name: GIVEN[name]}


def test_empty_variables_count_as_unset():
    assert resolve(environ=dict.fromkeys(VARIABLES, "")) == resolve(environ={})


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        resolve(environ={}).workers = 2


def test_numpy_integers_and_paths_are_taken_as_what_they_are():
    settings = resolve(workers=np.int64(2), memory=np.uint32(4096), scratch=Path("/s"), environ={})
    assert (settings.workers, settings.memory, settings.scratch) == (2, 4096, "/s")
    assert type(settings.workers) is int
    assert type(settings.memory) is int


def test_an_executor_is_kept_as_it_is():
    with ThreadPoolExecutor(1) as pool:
        assert resolve(executor=pool, environ={}).executor is pool


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workers": 0}, ["workers=0", "at least 1"]),
        ({"workers": True}, ["workers=True", "whole number"]),
        ({"workers": 2.5}, ["workers=2.5", "whole number"]),
        ({"workers": "many"}, ["workers='many'", "whole number"]),
        ({"memory": "lots"}, ["memory='lots'", "16GB"]),
        ({"memory": "4 parsec"}, ["memory='4 parsec'", "16GB"]),
        ({"memory": -1}, ["memory=-1", "at least one byte"]),
        ({"memory": "0GB"}, ["memory='0GB'", "at least one byte"]),
        ({"memory": "0.5B"}, ["memory='0.5B'", "at least one byte"]),
        ({"memory": math.nan}, ["memory=nan", "16GB"]),
        ({"memory": []}, ["memory=[]", "16GB"]),
        ({"memory": 2**63}, [f"memory={2**63}", "below 2**63"]),
        ({"executor": "dask"}, ["executor='dask'", "loky", "serial"]),
        ({"executor": 3}, ["executor=3", "submit", "concurrent.futures.Executor"]),
        ({"lock_timeout": -1}, ["lock_timeout=-1", "0 or more"]),
        ({"lock_timeout": math.nan}, ["lock_timeout=nan", "0 or more"]),
        ({"lock_timeout": "soon"}, ["lock_timeout='soon'", "seconds"]),
        ({"progress": "loud"}, ["progress='loud'", "True, False"]),
        ({"release": "never"}, ["release='never'", "True, False"]),
        ({"scratch": 3}, ["scratch=3", "path"]),
        ({"lock_dir": 3}, ["lock_dir=3", "path"]),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(given, words):
    with pytest.raises(PlanError) as caught:
        resolve(**given, environ={})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("HYPERSLAB_WORKERS", "two", "whole number"),
        ("HYPERSLAB_WORKERS", "0", "at least 1"),
        ("HYPERSLAB_MEMORY", "lots", "16GB"),
        ("HYPERSLAB_EXECUTOR", "dask", "serial"),
        ("HYPERSLAB_PROGRESS", "loud", "give auto, 1 or 0"),
        ("HYPERSLAB_RELEASE", "never", "give auto, 1 or 0"),
        ("HYPERSLAB_LOCK_TIMEOUT", "soon", "seconds"),
        ("HYPERSLAB_LOCK_TIMEOUT", "-1", "0 or more"),
        ("HYPERSLAB_LOCK_TIMEOUT", "nan", "0 or more"),
    ],
)
def test_a_wrong_variable_is_named_as_the_variable(name, value, remedy):
    with pytest.raises(PlanError, match=f"^{name}={value!r}") as caught:
        resolve(environ={name: value})
    assert remedy in str(caught.value)


@given(
    st.integers(1, 999),
    st.sampled_from([("", 1), ("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("T", 10**12),
                     ("KiB", 2**10), ("MiB", 2**20), ("gib", 2**30), ("TIB", 2**40)]),
    st.sampled_from(["", " "]),
)  # fmt: skip
def test_sizes_are_read_with_their_units(count, unit, space):
    name, factor = unit
    assert parse_bytes(f"{count}{space}{name}") == count * factor
