"""One of several programs that change one shared file: share.py HOW PATH TIMES."""

import sys

import numpy as np

import hyperslab as hs


@hs.kernel
def add_one(out):
    for i in range(out.shape[0]):
        out[i] += 1


@hs.kernel
def add_ones(values, out):
    for i in range(values.shape[0]):
        out[i] += values[i]


def update(engine, a, times):
    for _ in range(times):
        engine.run(add_one, hs.update(a), region=(a.shape[0] // 8,))


def footprint(engine, a, times):
    ones = hs.from_array(np.ones(a.shape))
    for _ in range(times):
        engine.run(
            add_ones,
            ones,
            hs.accumulate(a, footprint=lambda region: region),
            region=(a.shape[0] // 8,),
        )


def private(engine, a, times):
    ones = hs.from_array(np.ones(a.shape))
    for _ in range(times):
        engine.run(add_ones, ones, hs.accumulate(a), region=a.shape)


def by_hand(engine, a, times):
    half = a.shape[0] // 2
    for turn in range(times):
        for part in (np.s_[:half], np.s_[half:]):
            with a.lock(part, write=True):
                a[part] = np.array(a[part]) + 1
        with a.lock():
            now = np.array(a)
        # Everybody adds whole numbers to whole halves: anything else was torn.
        assert len(np.unique(now[:half])) == 1, f"torn in turn {turn}"
        assert len(np.unique(now[half:])) == 1, f"torn in turn {turn}"


def for_ever(engine, a, times):
    while True:
        by_hand(engine, a, 1)


def hold(engine, a, times):
    with a.lock(np.s_[:1], write=True):
        print("held", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    how, path, times = sys.argv[1:]
    array = hs.open(path, "r+", shared=True)
    with hs.Engine(workers=2) as engine:
        print("ready", flush=True)
        if how not in ("hold", "for_ever"):
            sys.stdin.readline()
        globals()[how](engine, array, int(times))
