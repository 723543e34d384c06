"""Programs whose jobs run in children of theirs, and in threads: children.py HOW, as below."""

import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from chaos import running, wait_until

import hyperslab as hs

LONG = 20_000_000
"""Turns of a region that take so long that others can be told of it."""


@hs.kernel
def spin(values, out, turns):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] += values[i, j] + x * 0.0


def job(engine=None, turns=1, shared=False, regions=8):
    """Run a small job; its regions see what they change, so none may be done twice."""
    with (
        hs.from_array(np.ones((regions, 512))) as values,
        hs.create(f"out-{os.getpid()}-{threading.get_ident()}.npy", values.shape, overwrite=True)
        if not shared
        else hs.create(f"out-{os.getpid()}.npy", values.shape, overwrite=True, shared=True) as out,
    ):
        hs.run(spin, values, hs.update(out), turns, region=(1, None), engine=engine)
        assert (np.asarray(out) == 1).all()
    return True


def said(call=job, *arguments, **options):
    """What a job answers, or the error that a user reads."""
    try:
        return call(*arguments, **options)
    except hs.HyperslabError as error:
        return f"{type(error).__name__}: {error}"


def wait_for(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- os.fork --------------------------------------------------------------------------------


def fork_and_exit(executor):
    """The child ends as Python programs do, with its exit handlers and its parent's engine."""
    engine = hs.Engine(executor=executor)
    job(engine)
    child = os.fork()
    if child == 0:
        print(said(job, engine), flush=True)
        sys.exit(0)
    assert wait_for(child) == 0
    job(engine)


def fork_and_leave(executor):
    """The child ends as servers' children do, without any handler, with arrays left open."""
    engine = hs.Engine(executor=executor)
    child = os.fork()
    if child == 0:
        kept = hs.from_array(np.ones(1000))
        print(said(job, engine), flush=True)
        os._exit(kept.size % 10)
    assert wait_for(child) == 0
    job(engine)


def fork_while(what):
    """Fork when another thread is in the middle of something."""
    engine = hs.Engine()
    begun = threading.Event()

    def work():
        if what == "it starts a pool":
            begun.set()
            engine.start()
        elif what == "it compiles":
            begun.set()
            job(hs.Engine(executor="serial"))
        elif what == "a program's own function is compiled":
            import numba

            text = "\n".join(f"    x = x * {i}.5 + np.sin(x + {i})" for i in range(200))
            space = {"np": np}
            exec(f"def f(x):\n{text}\n    return x", space)  # noqa: S102
            begun.set()
            numba.njit(space["f"])(1.0)
        elif what == "it runs a job":
            job(engine, LONG)
        elif what == "it holds an array's lock":
            with hs.create("held.npy", 100, shared=True) as held, held.lock(write=True):
                begun.set()
                time.sleep(1.0)
        elif what == "it holds an engine":
            with engine._lock:
                begun.set()
                time.sleep(1.0)

    thread = threading.Thread(target=work)
    thread.start()
    if what == "it runs a job":
        wait_until(lambda: running(Path(os.environ["TMPDIR"])), "a task begins")
    else:
        begun.wait()
    time.sleep(0.01)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        print(said(job, engine, shared=True), flush=True)
        sys.exit(0)
    assert wait_for(child) == 0
    thread.join()
    job(engine)


def fork_at_any_instant(forks):
    """Fork again and again, while other threads start and end pools, lock, compile and let go."""
    over = threading.Event()

    def pools():
        while not over.is_set():
            job(hs.Engine(workers=1), shared=True)

    def kernels():
        number = 0
        while not over.is_set():
            number += 1
            space = {}
            text = f"def f(a):\n    for i in range(a.shape[0]):\n        a[i] += {number}\n"
            exec(text, space)  # noqa: S102
            a = np.zeros(10)
            hs.kernel(space["f"])(a)
            assert a[9] == number

    for work in (pools, kernels):
        threading.Thread(target=work).start()
    chance = random.Random(7)
    answers = set()
    for number in range(int(forks)):
        time.sleep(chance.uniform(0.0, 0.15))
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(25, exit=True)
            engine = hs.Engine(executor=["serial", "loky"][number % 2], workers=1)
            answer = said(job, engine, shared=True)
            if answer is not True:
                print(answer, flush=True)
            os._exit(int(answer is not True))
        answers.add(wait_for(child))
    over.set()
    print(answers, flush=True)


def fork_in_a_handler(executor):
    """The child comes back into its parent's job, and must leave it to its parent."""
    children = []
    engine = hs.Engine(executor=ThreadPoolExecutor(2) if executor == "threads" else executor)

    def fork(number, frame):
        children.append(os.fork())

    signal.signal(signal.SIGUSR1, fork)
    threading.Thread(
        target=lambda: (
            wait_until(lambda: running(Path(os.environ["TMPDIR"])), "a task begins"),
            os.kill(os.getpid(), signal.SIGUSR1),
        )
    ).start()
    answer = said(job, engine, LONG)
    if children == [0]:
        signal.alarm(30)
        print("child", answer, said(), flush=True)
        os._exit(0)
    assert wait_for(children[0]) == 0
    print("parent", answer, flush=True)


def inherited_executor(when):
    """Threads of a parent's do not exist in its child."""
    threads = ThreadPoolExecutor(2)
    engine = hs.Engine(executor=threads)
    job(engine)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        print(said(lambda: job(engine if when == "before" else hs.Engine(executor=threads))))
        print(said(lambda: job(hs.Engine(executor=ThreadPoolExecutor(2)))), flush=True)
        os._exit(0)
    assert wait_for(child) == 0
    job(engine)


# --- multiprocessing ------------------------------------------------------------------------


def _in_pool(setting):
    if setting == "serial":
        return said(job, hs.Engine(executor="serial"), shared=True)
    if setting == "threads":
        return said(job, hs.Engine(executor=ThreadPoolExecutor(2)))
    return said()


def pool(method, setting):
    """Workers of a Pool may have no children, and are ended by a signal."""
    if setting == "variable":
        os.environ["HYPERSLAB_EXECUTOR"] = "serial"
    with multiprocessing.get_context(method).Pool(2) as workers:
        print(set(workers.map(_in_pool, [setting] * 4)), flush=True)


def futures(method):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as workers:
        print(set(workers.map(_in_pool, ["loky"] * 4)), flush=True)


def _thread_outlasts_main(executor):
    engine = hs.Engine(executor=ThreadPoolExecutor(2) if executor == "threads" else executor)
    begun = threading.Event()

    def work():
        begun.set()
        print(said(job, engine, LONG), flush=True)
        print(said(), flush=True)

    threading.Thread(target=work).start()
    begun.wait()
    wait_until(lambda: running(Path(os.environ["TMPDIR"])), "a task begins")


def thread(where, executor):
    """A thread whose job is still running when the main program, or a child's, has ended."""
    if where == "main":
        _thread_outlasts_main(executor)
        return
    context = multiprocessing.get_context(where)
    process = context.Process(target=_thread_outlasts_main, args=(executor,))
    process.start()
    process.join()
    sys.exit(process.exitcode)


def thread_of_long_jobs(executor):
    """One that nobody wants to wait for: Ctrl-C calls it off."""
    engine = hs.Engine(executor=ThreadPoolExecutor(2) if executor == "threads" else executor)

    def work():
        print(said(job, engine, LONG, regions=4000), flush=True)

    threading.Thread(target=work).start()
    wait_until(lambda: running(Path(os.environ["TMPDIR"])), "a task begins")
    print("main has ended", flush=True)


def endless_daemon(executor):
    """A kernel that never ends, in a thread that nobody waits for."""
    engine = hs.Engine(executor=executor)
    threading.Thread(target=lambda: job(engine, 10**15), daemon=True).start()
    wait_until(lambda: running(Path(os.environ["TMPDIR"])), "a task begins")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
