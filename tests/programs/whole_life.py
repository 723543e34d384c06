"""A program from start to exit: whole_life.py HOW, with HOW one of the functions below."""

import os
import sys
import time

import numpy as np

import hyperslab as hs

OTHER = f"{os.environ['TMPDIR']}/other"


@hs.kernel
def add_one(values, out):
    for i in range(values.shape[0]):
        out[i] += values[i] + 1


@hs.kernel
def out_of_bounds(values, out):
    out[values.shape[0]] = values[0]


def arrays(**options):
    values = hs.from_array(np.arange(200_000.0))
    return values, hs.create("out.npy", values.shape, overwrite=True, **options)


def default_engine():
    values, out = arrays()
    hs.run(add_one, values, hs.write(out))
    assert np.array_equal(np.asarray(out), np.asarray(values) + 1)


def two_sessions():
    values, out = arrays()
    with hs.Engine(scratch=OTHER) as engine:
        engine.run(add_one, values, hs.write(out))
    assert np.array_equal(np.asarray(out), np.asarray(values) + 1)


def shared():
    values, out = arrays(shared=True)
    hs.run(add_one, values, hs.update(out))
    hs.run(add_one, values, hs.accumulate(out))
    with out.lock(write=True):
        out[0] = 5


def footprint():
    values, out = arrays()
    hs.run(add_one, values, hs.accumulate(out, footprint=lambda region: region))


def foreign_processes():
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    values, out = arrays(shared=True)
    executor = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with hs.Engine(executor=executor) as engine:
        engine.run(add_one, values, hs.update(out))


def abandoned_engine():
    values, out = arrays(shared=True)
    engine = hs.Engine()
    engine.run(add_one, values, hs.update(out))
    del engine


def kernel_error():
    values, out = arrays()
    try:
        hs.run(out_of_bounds, values, hs.write(out))
    except hs.KernelError:
        sys.exit(3)


def uncaught_kernel_error():
    values, out = arrays()
    hs.run(out_of_bounds, values, hs.write(out))


def plan_error():
    _, out = arrays()
    hs.run(add_one, hs.read(out, halo=1), hs.update(out))


def idle():
    values, out = arrays(shared=True)
    hs.run(add_one, values, hs.update(out))
    scratch = hs.from_array(np.zeros(10), scratch=OTHER)
    print("idle", flush=True)
    time.sleep(60)
    scratch.close()


def forked():
    values, out = arrays()
    hs.run(add_one, values, hs.write(out))
    child = os.fork()
    if child == 0:
        hs.run(add_one, values, hs.update(out))
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    hs.run(add_one, values, hs.update(out))
    assert np.array_equal(np.asarray(out), 3 * np.asarray(values) + 3)


def compiling():
    # As many operations as keep LLVM busy for a while.
    body = "\n".join(f"        x = x * {i}.5 + np.sin(x + {i})" for i in range(600))
    loop = f"    for i in range(out.shape[0]):\n        x = values[i]\n{body}\n        out[i] = x\n"
    with open("slow_kernel.py", "w") as file:
        file.write(f"import numpy as np\n\n\ndef slow(values, out):\n{loop}")
    sys.path.insert(0, os.getcwd())
    from slow_kernel import slow

    values, out = arrays()
    print("compiling", flush=True)
    hs.run(hs.kernel(slow), values, hs.write(out))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
