"""One place in which jobs run, and three of them there: places.py PLACE EXECUTOR.

The first has an answer, the second's kernel raises, the third is interrupted. What became of each
is a line in the file ``answers``, because not every place has streams.
"""

import atexit
import inspect
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from chaos import running, wait_until

import hyperslab as hs

HERE = Path(os.environ["TMPDIR"]).parent


@hs.kernel
def spin(values, out, turns, wrong):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        if values[i] == wrong:
            raise ValueError("as planned")
        out[i] += values[i] + x * 0.0


def job(executor, turns=1, wrong=-1.0, regions=8):
    if executor == "threads":
        executor = ThreadPoolExecutor(2)
    elif executor == "short":
        executor = "auto"
    engine = hs.Engine(executor=executor, workers=2, progress=False)
    values, out = hs.from_array(np.arange(regions * 4.0)), hs.from_array(np.zeros(regions * 4))
    try:
        with engine:
            engine.run(spin, values, hs.update(out), turns, wrong, region=4)
    except BaseException as error:
        name = type(error).__name__ if isinstance(error, hs.HyperslabError) else "foreign"
        return f"{name}: {error!s:.300}".replace("\n", " ")
    return "right" if np.array_equal(np.asarray(out), np.asarray(values)) else "wrong"


def say(answer):
    with open(HERE / "answers", "a") as file:
        file.write(f"{answer}\n")


def jobs(executor):
    """The three."""
    say(os.getpid())
    say(job(executor))
    say(job(executor, wrong=9.0))
    # So many regions that it is not taken for a short job; 32 are.
    regions, turns = (32, 200_000_000) if executor == "short" else (4000, 20_000_000)
    say(job(executor, turns=turns, regions=regions))


def until(over):
    """Wait as a program does that Ctrl-C does not end."""
    while True:
        try:
            over()
            return
        except KeyboardInterrupt:
            continue


def main(executor):
    jobs(executor)


def thread(executor):
    """It outlasts the main program: Ctrl-C is for whoever is still there."""
    threading.Thread(target=jobs, args=(executor,)).start()
    answers = HERE / "answers"
    while not answers.exists() or len(answers.read_text().splitlines()) < 3:
        time.sleep(0.01)
    wait_until(lambda: executor == "short" or running(HERE / "scratch"), "the third job")
    (HERE / "ended").touch()


def _child(method, executor):
    process = multiprocessing.get_context(method).Process(target=jobs, args=(executor,))
    process.start()
    until(process.join)
    sys.exit(process.exitcode)


def fork(executor):
    job("serial")  # So that there is something to inherit.
    _child("fork", executor)


def spawn(executor):
    _child("spawn", executor)


def forkserver(executor):
    _child("forkserver", executor)


def bare_fork(executor):
    engine = hs.Engine(workers=2)
    engine.start()
    child = os.fork()
    if child == 0:
        jobs(executor)
        os._exit(0)
    until(lambda: os.waitpid(child, 0))


def pool(executor):
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        over = workers.apply_async(jobs, (executor,))
        until(lambda: over.get(60))


def dask(executor):
    import dask

    try:
        dask.compute(dask.delayed(jobs)(executor), scheduler="processes", num_workers=1)
    except KeyboardInterrupt:
        sys.exit(130)


def distributed(executor):
    """Its worker runs jobs in daemon threads, which end with it."""
    from dask.distributed import Client

    os.environ["PYTHONWARNINGS"] = "default"
    with Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        over = client.submit(jobs, executor)
        try:
            over.result(60)
        except KeyboardInterrupt:
            sys.exit(130)


def at_exit(executor):
    atexit.register(jobs, executor)


def daemon(executor):
    """Twice forked, in a session of its own, without standard streams."""
    if os.fork():
        os._exit(0)
    os.setsid()
    for descriptor in range(3):
        os.close(descriptor)
    sys.stdin = sys.stdout = sys.stderr = None
    jobs(executor)


def notebook(executor):
    """Cells of a Jupyter kernel, which a second thread of this program interrupts by request."""
    from jupyter_client.manager import start_new_kernel

    os.environ["PYTHONWARNINGS"] = "default"  # Jupyter's own.
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        path = str(Path(__file__).parent)
        client.execute_interactive(f"import sys; sys.path.insert(0, {path!r}); import places")
        # Its own file's kernel, and one that is defined in a cell.
        client.execute_interactive(f"{CELL}\nplaces.spin = spin")

        def interrupt(number, frame):
            manager.interrupt_kernel()

        signal.signal(signal.SIGINT, interrupt)
        client.execute_interactive(f"places.jobs({executor!r})", timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


CELL = f"import hyperslab as hs\n\n{inspect.getsource(spin.function)}"

if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
