"""Kernels of a script, of a factory and of modules, sent to the processes of other pools.

python travelling.py POOL      loky, joblib, dask or spawn
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

import hyperslab as hs

FACTOR = 2.0


@numba.njit
def helper(x):
    return FACTOR * x


@hs.kernel
def of_the_script(a, out):
    for i in range(a.shape[0]):
        out[i] = helper(a[i])


@hs.kernel(boundscheck=False)
def that_calls_another(a, out):
    of_the_script(a, out)


def factory(factor: float) -> Any:
    @hs.kernel
    def inner(a, out):
        for i in range(a.shape[0]):
            out[i] = factor * a[i]

    return inner


KERNELS = {"script": of_the_script, "another": that_calls_another, "factory": factory(2.0)}


def used(kernel: Any) -> Callable[[int], float]:
    """A function that calls a kernel, and runs a job of it."""

    def work(n: int) -> float:
        out = np.zeros(3)
        kernel(np.arange(3.0) + n, out)
        with hs.Engine(executor="serial", progress=False) as engine:
            again = hs.from_array(np.zeros(3))
            engine.run(kernel, hs.from_array(np.arange(3.0) + n), hs.write(again))
        assert np.array_equal(again, out)
        return float(out.sum())

    return work


def called(kernel: Any) -> float:
    return used(kernel)(1)


def results(pool: str, kernel: Any) -> list[float]:
    if pool == "loky":
        import loky

        with loky.ProcessPoolExecutor(1) as executor:
            return list(executor.map(used(kernel), [0, 1]))
    if pool == "joblib":
        import joblib

        return joblib.Parallel(n_jobs=2)(joblib.delayed(used(kernel))(n) for n in (0, 1))
    if pool == "dask":
        import dask

        work = dask.delayed(used(kernel))
        with dask.config.set(scheduler="processes", num_workers=1):
            return list(dask.compute(work(0), work(1)))
    # Plain pickle: the function is found by its name, the kernel comes as it is.
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        return [6.0, processes.apply(called, (kernel,))]


if __name__ == "__main__":
    for name, kernel in KERNELS.items():
        assert results(sys.argv[1], kernel) == [6.0, 12.0], name
    print("right")
