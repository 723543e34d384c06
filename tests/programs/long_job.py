"""A job that takes a minute: long_job.py EXECUTOR PRIVILEGE [catch]."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import hyperslab as hs

# Turns of a region: most of a second in processes, which can be killed, and little elsewhere.
TURNS = {"loky": 200_000_000, "threads": 40_000_000, "serial": 40_000_000}


@hs.kernel
def spin(values, out, turns):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] += values[i, j] + x * 0.0


def main(executor, privilege, then="leave"):
    values = hs.from_array(np.ones((64, 32768)))
    out = hs.create("out.npy", values.shape, shared=privilege == "shared", overwrite=True)
    turns = TURNS[executor]
    declared = {
        "write": hs.write,
        "update": hs.update,
        "shared": hs.update,
        "footprint": lambda a: hs.accumulate(a, footprint=lambda r: r),
        "private": lambda a: hs.accumulate(hs.from_array(np.zeros((1, 32768)))),
    }[privilege](out)
    if executor == "threads":
        executor = ThreadPoolExecutor(2)
    engine = hs.Engine(workers=2, executor=executor)
    print("started", flush=True)
    try:
        engine.run(spin, values, declared, turns, region=(1, None))
    except hs.JobInterrupted as error:
        print(f"interrupted: {error}", flush=True)
        if then == "leave":
            raise
        out[...] = 0
        report = engine.run(spin, values, declared, 1, region=(1, None))
        assert report.regions == 64
        assert then == "again"
        print("second job:", float(np.asarray(out).sum()), flush=True)
        if then == "again":
            engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
