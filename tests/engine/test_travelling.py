"""Kernels get into other processes, whoever sends them."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import hyperslab as hs

PROGRAM = Path(__file__).parent.parent / "programs" / "travelling.py"


@hs.kernel
def importable(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]


def plain(a, out):
    for i in range(a.shape[0]):
        out[i] = 3 * a[i]


def result(kernel: hs.Kernel) -> list[float]:
    out = np.zeros(3)
    kernel(np.arange(3.0), out)
    return out.tolist()


@pytest.mark.parametrize("pool", ["loky", "joblib", "dask", "spawn"])
def test_kernels_of_a_script_are_sent_to_the_pools_of_others(pool: str) -> None:
    if pool in ("joblib", "dask") and importlib.util.find_spec(pool) is None:
        pytest.skip(f"{pool} is not installed")
    done = subprocess.run(
        [sys.executable, PROGRAM, pool], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr[-3000:]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_kernel_of_a_module_goes_by_its_name(pickler) -> None:
    assert pickle.loads(pickler.dumps(importable)) is importable
    assert len(pickler.dumps(importable)) < 200


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_one_that_its_module_does_not_hold_goes_by_value(pickler) -> None:
    kernel = hs.kernel(plain, fastmath=True, error_model="python")
    again = pickle.loads(pickler.dumps(kernel))
    assert again is not kernel
    assert result(again) == [0.0, 3.0, 6.0]
    assert (again.name, again.options) == (kernel.name, kernel.options)
    assert again.signature == kernel.signature


def test_closures_and_what_they_refer_to_go_along() -> None:
    factor = np.float32(1.5)

    @hs.kernel
    def inner(a, out):
        for i in range(a.shape[0]):
            out[i] = factor * a[i]

    @hs.kernel
    def outer(a, out):
        inner(a, out)

    assert result(pickle.loads(pickle.dumps(outer))) == [0.0, 1.5, 3.0]


def test_one_that_refers_to_itself_is_sent() -> None:
    @hs.kernel
    def endless(a, out):
        endless(a, out)

    again = pickle.loads(cloudpickle.dumps(endless))
    (cell,) = again.function.__closure__
    assert cell.cell_contents.function is again.function


def test_copies_are_the_kernel_itself() -> None:
    kernel = hs.kernel(plain)
    assert copy.copy(kernel) is kernel
    assert copy.deepcopy([kernel])[0] is kernel
