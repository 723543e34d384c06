"""Programs on hosts that refuse something: hosts.py HOW ..., with HOW a function below."""

import os
import resource
import sys

import numpy as np

import hyperslab as hs


@hs.kernel
def double(values, out):
    for i in range(values.shape[0]):
        out[i] = 2 * values[i]


@hs.kernel
def total(values, out):
    for i in range(values.shape[0]):
        out[0] += values[i]


def job(engine=None, path=None, **options):
    """A small job; returns "right", or the error that a user reads."""
    try:
        values = hs.open(path) if path else hs.from_array(np.arange(1000.0))
        out = hs.from_array(np.zeros(1000))
        with engine or hs.Engine(**{"progress": False, **options}) as engine:
            engine.run(double, values, hs.write(out), region=100)
        return "right" if np.asarray(out).sum() == 999_000 else "wrong"
    except hs.HyperslabError as error:
        return f"{type(error).__name__}: {error}".replace("\n", " ")


def both(*options):
    """With workers, and as their errors say where there can be none."""
    print(job())
    print(job(executor="serial"), flush=True)


def _open_files():
    # Not by a listing, which may need one more than there is.
    return sum(os.path.lexists(f"/proc/self/fd/{number}") for number in range(1000))


def limited(kind, low):
    """Under a limit, and when it is lifted, as the error says, with the same engine."""
    limit = getattr(resource, kind)
    hard = resource.getrlimit(limit)[1]
    engine = hs.Engine(progress=False)
    resource.setrlimit(limit, (int(low), hard))
    try:
        values, out = hs.from_array(np.arange(1000.0)), hs.from_array(np.zeros(1000))
        engine.run(double, values, hs.write(out), region=100)
        print("right")
    except hs.HyperslabError as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "))
    print(job(executor="serial"))
    job()
    before = _open_files()
    for _ in range(4):
        job()
    assert _open_files() <= before, "what is refused costs nothing"
    resource.setrlimit(limit, (hard, hard))
    print(job(engine), flush=True)


def exhausted():
    """Every descriptor is taken when the program ends."""
    global engine, arrays, taken
    engine = hs.Engine(progress=False)
    arrays = [hs.create("out.npy", 1000, shared=True), hs.from_array(np.arange(1000.0))]
    engine.run(double, arrays[1], hs.write(arrays[0]), region=100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        print("none left", flush=True)


def many_files(keep, limit):
    """A season of daily files under a small limit, one job each."""
    for day in range(120):
        np.save(f"{day}.npy", np.full(100, float(day)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
    kept, sums = [], hs.from_array(np.zeros(120))
    with hs.Engine(progress=False) as engine:
        try:
            for number in range(120):
                day = hs.open(f"{number}.npy", "r+")
                engine.run(total, day, hs.accumulate(sums[number : number + 1]), region=50)
                if keep == "keep":
                    kept.append(np.asarray(day))
        except hs.HyperslabError as error:
            print(f"{type(error).__name__}: {error}")
            # What the error says: let go of some.
            del kept[:], day
            print(job(), flush=True)
            return
    print("right" if np.array_equal(np.asarray(sums), 100.0 * np.arange(120)) else "wrong")


def gone(when):
    """The working directory is removed, before the first job or after it."""
    here = os.getcwd()
    np.save("values.npy", np.arange(1000.0))
    os.mkdir("gone")
    os.chdir("gone")
    if when == "warm":
        print(job())
    os.rmdir(f"{here}/gone")
    print(job(path=f"{here}/values.npy"))
    print(job(path="values.npy"))
    os.chdir(here)
    print(job(path="values.npy"), flush=True)


def streams(how):
    """Without standard streams; the answer goes into a file."""
    if how == "none":
        sys.stdin = sys.stdout = sys.stderr = None
    elif how == "closed":
        sys.stdout.close()
        sys.stderr.close()
    answers = [job(progress=True), job(executor="serial")]
    with open("answer", "w") as file:
        file.write("\n".join(answers))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
