"""A program and its end: endings.py HOW, with HOW one of the functions below."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from chaos import running, wait_until

import hyperslab as hs
from hyperslab.interruption import uninterrupted

LONG = 40_000_000
"""Turns of a region that takes so long that a job of 16 goes on while the program ends."""


@hs.kernel
def spin(values, out, turns):
    x = 0.0
    for _ in range(turns):
        x = x * 0.5 + 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] += values[i, j] + x * 0.0


def job(engine=None, turns=1, shared=False):
    """Run a job of 16 regions; returns its arrays."""
    values = hs.from_array(np.ones((16, 4096)))
    out = hs.create("out.npy", values.shape, overwrite=True, shared=shared)
    hs.run(spin, values, hs.update(out), turns, region=(1, None), engine=engine)
    assert np.asarray(out).sum() == out.size
    return values, out


def finished_job(**options):
    job(**options)
    print("finished", flush=True)


class Model:
    """Something that holds an engine."""

    def __init__(self):
        self.engine = hs.Engine(workers=2)
        self.arrays = job(self.engine)


class ClosingModel(Model):
    def __del__(self):
        self.engine.close()


# --- What is left open ----------------------------------------------------------------------


def default_engine():
    job()


def serial_engine():
    job(hs.Engine(executor="serial"))


def engine_left_open():
    global engine, arrays
    engine = hs.Engine(workers=2)
    arrays = job(engine)


def engine_only_started():
    global engine
    engine = hs.Engine(workers=2)
    engine.start()


def engine_in_a_cycle():
    model = Model()
    model.itself = model


def engine_closed_by_an_exit_handler():
    atexit.register(Model().engine.close)


def engine_closed_by_a_finalizer():
    global model
    model = Model()
    weakref.finalize(model, model.engine.close)


def engine_closed_by_a_destructor():
    global model
    model = ClosingModel()


def threads_left_open():
    global executor
    executor = ThreadPoolExecutor(2)
    job(hs.Engine(executor=executor))


def arrays_left_open():
    global arrays
    arrays = [hs.from_array(np.arange(1000.0)) for _ in range(100)]
    arrays += [array[::2] for array in arrays]
    arrays += [np.asarray(array) for array in arrays]
    arrays.append(arrays)


# --- How main ends --------------------------------------------------------------------------


def exception():
    engine_left_open()
    raise ValueError("as planned")


def exit_status():
    engine_left_open()
    sys.exit(3)


def exit_words():
    engine_left_open()
    sys.exit("as planned")


def ctrl_c():
    engine_left_open()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)


def leaving():
    engine_left_open()
    print("leaving", flush=True)


# --- Ctrl-C during the exit, in what must not be cut in half --------------------------------


def _interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    print("whole", flush=True)


def ctrl_c_at_exit():
    engine_left_open()
    atexit.register(uninterrupted, _interrupted)


def ctrl_c_at_exit_of_threads():
    # Where concurrent.futures and loky end what they have started.
    threading._register_atexit(uninterrupted, _interrupted)


def ctrl_c_at_exit_after_an_exception():
    atexit.register(uninterrupted, _interrupted)
    raise ValueError("as planned")


def ctrl_c_at_exit_with_a_status():
    atexit.register(uninterrupted, _interrupted)
    sys.exit(3)


def ctrl_c_at_exit_with_a_handler():
    signal.signal(signal.SIGINT, lambda number, frame: print("heard", flush=True))
    atexit.register(uninterrupted, _interrupted)


# --- Jobs that outlast main, or begin after it ----------------------------------------------


def thread():
    threading.Thread(target=finished_job, kwargs={"turns": LONG}).start()
    _wait_for_a_task()


def daemon_thread():
    threading.Thread(target=finished_job, kwargs={"turns": LONG}, daemon=True).start()
    _wait_for_a_task()


def _wait_for_a_task():
    wait_until(lambda: running(Path(os.environ["TMPDIR"])), "a task begins")


def _after_main(call, **options):
    def wait():
        threading.main_thread().join()
        call(**options)

    threading.Thread(target=wait).start()


def thread_after_main():
    job()
    _after_main(finished_job)


def serial_thread_after_main():
    _after_main(finished_job, engine=hs.Engine(executor="serial"))


def exit_handler():
    job()
    atexit.register(finished_job)


def exit_handler_with_the_first_job():
    atexit.register(finished_job)


def serial_exit_handler():
    atexit.register(finished_job, engine=hs.Engine(executor="serial"))


# --- Children of multiprocessing ------------------------------------------------------------


def _child(close):
    global engine, arrays
    engine = hs.Engine(workers=2)
    arrays = job(engine, shared=True)
    with arrays[1].lock(write=True):
        arrays[1][0] = 5
    if close:
        engine.close()
    print("finished", flush=True)


def child(method, how):
    if method == "fork":
        job()
    process = multiprocessing.get_context(method).Process(target=_child, args=(how == "closed",))
    process.start()
    process.join()
    sys.exit(process.exitcode)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
