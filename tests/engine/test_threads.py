"""Short jobs run in threads of this process: which, with what bits, and what they cannot harm."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numba
import numpy as np
import pytest
import threads_helpers
from hypothesis import given
from hypothesis import strategies as st

import hyperslab as hs
from hyperslab.running.routing import PATIENCE, is_short


@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]


@hs.kernel
def add_up(a, total):
    for i in range(a.shape[0]):
        total[0] += a[i]


@hs.kernel
def smooth(a, out):
    for i in range(out.shape[0]):
        out[i] = (a[i] + a[i + 1] + a[i + 2]) / 3


@hs.kernel
def increment(a):
    for i in range(a.shape[0]):
        a[i] += 1


@hs.kernel(boundscheck=False)
def unchecked(a, out):
    for i in range(a.shape[0]):
        out[i] = a[i]


@hs.kernel
def middle(a, out):
    out[0] = np.median(a)


@hs.kernel
def out_of_bounds(a, out):
    out[a.shape[0]] = a[0]


@hs.kernel
def spin(a, go_on):
    # Until somebody outside says so, which none of the tests does.
    while go_on[0] >= 0:
        a[0] += 1e-9


@pytest.fixture
def auto():
    with hs.Engine(executor="auto", progress=False) as engine:
        yield engine


def children():
    listing = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "hyperslab|loky"], capture_output=True, text=True
    )
    return listing.stdout.split()


def test_a_short_job_starts_no_process(auto):
    a, out = hs.from_array(np.arange(1000.0)), hs.from_array(np.zeros(1000))
    before = children()
    report = auto.run(double, a, hs.write(out))
    assert np.array_equal(np.asarray(out), 2 * np.arange(1000.0))
    assert report.route == "threads" and "in this process" in str(report)
    assert report.to_dict()["route"] == "threads"
    assert children() == before


def test_started_workers_take_short_jobs_too(auto):
    a, out = hs.from_array(np.arange(1000.0)), hs.from_array(np.zeros(1000))
    plan = auto.plan(double, a, hs.write(out))
    assert plan.run().route == "threads"
    auto.start()
    assert plan.run().route == "processes"
    assert auto.run(double, a, hs.write(out)).route == "processes"


@pytest.mark.parametrize("settings", [{"workers": 2}, {"executor": "loky"}])
def test_who_asks_for_workers_gets_workers(settings, monkeypatch):
    monkeypatch.delenv("HYPERSLAB_EXECUTOR")
    a, out = hs.from_array(np.arange(10.0)), hs.from_array(np.zeros(10))
    with hs.Engine(progress=False, **settings) as engine:
        assert engine.run(double, a, hs.write(out)).route == "processes"


def test_auto_is_the_default_and_a_number_in_the_environment_only_a_number(monkeypatch):
    monkeypatch.delenv("HYPERSLAB_EXECUTOR")
    monkeypatch.setenv("HYPERSLAB_WORKERS", "3")
    with hs.Engine() as engine:
        assert engine.settings.executor == "auto" and engine.settings.workers == 3


def test_many_short_jobs_start_workers(auto):
    a, out = hs.from_array(np.zeros(2**20)), hs.from_array(np.zeros(2**20))
    routes = []
    while not routes or routes[-1] == "threads":
        routes.append(auto.run(double, a, hs.write(out)).route)
    assert len(routes) - 1 == PATIENCE // (5 * 2**23) + 1  # The last one starts them.
    assert set(routes[:-1]) == {"threads"} and routes[-1] == "processes"


def long_array(tmp_path):
    return hs.create(tmp_path / "long.npy", (PATIENCE // 8 + 1,), "f8")


def test_what_is_not_short(tmp_path, auto):
    short = hs.from_array(np.zeros(10))
    shared = hs.open(hs.create(tmp_path / "s.npy", (10,), "f8").path, "r+", shared=True)
    assert is_short(auto.plan(double, short, hs.write(short[:10])))
    assert not is_short(auto.plan(add_up, long_array(tmp_path), hs.accumulate(short[:1])))
    assert not is_short(auto.plan(unchecked, short, hs.write(hs.from_array(np.zeros(10)))))
    assert not is_short(auto.plan(increment, hs.update(shared)))
    footprint = hs.accumulate(short[:1], footprint=lambda region: (slice(0, 1),))
    assert not is_short(auto.plan(add_up, hs.from_array(np.zeros(10)), footprint, region=5))
    many = hs.from_array(np.zeros(3000))
    assert not is_short(auto.plan(double, many, hs.write(hs.from_array(np.zeros(3000))), region=1))


def test_what_needs_numbas_runtime_runs_in_workers(auto):
    a, out = hs.from_array(np.arange(9.0)), hs.from_array(np.zeros(1))
    whole = hs.read(a, whole=True)
    report = auto.run(middle, whole, hs.write(out))
    assert report.route == "processes" and float(np.asarray(out)[0]) == 4


@given(st.integers(1, 400_000), st.sampled_from(["f4", "f8"]), st.integers(0, 2**31))
def test_same_bits_as_in_workers(same_bits_engines, size, dtype, seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(size) * 10.0 ** rng.integers(-30, 30, size)).astype(dtype)
    results = []
    for engine in same_bits_engines:
        a = hs.from_array(values)
        total, out = hs.from_array(np.zeros(1, dtype)), hs.from_array(np.zeros(size, dtype))
        engine.run(add_up, a, hs.accumulate(total))
        engine.run(smooth, hs.read(a, halo=1, boundary="reflect"), hs.write(out))
        routes = {engine.run(increment, hs.update(out)).route}
        results.append((np.asarray(total).tobytes(), np.asarray(out).tobytes(), routes))
    (*one, here), (*other, there) = results
    assert one == other and (here, there) == ({"threads"}, {"processes"})


@pytest.fixture(scope="module")
def same_bits_engines(warm):
    with hs.Engine(executor="auto", progress=False) as engine:
        yield engine, warm


def flushing():
    """Have this thread flush subnormal numbers to zero, as code built with -ffast-math does."""
    library = ctypes.CDLL(None)
    environment = (ctypes.c_uint32 * 64)()
    library.fegetenv(environment)
    environment[7] |= 0x8040  # MXCSR: flush to zero, subnormals are zero.
    library.fesetenv(environment)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="MXCSR is an x86 register")
@pytest.mark.parametrize("executor", ["auto", "serial", "threads", "loky"])
def test_flushed_subnormals_of_the_program_change_no_bit(executor):
    from concurrent.futures import ThreadPoolExecutor

    values = np.full(64, 1e-310)
    found: list[tuple[float, float]] = []

    def job():
        flushing()
        a, out = hs.from_array(values), hs.from_array(np.ones(64))
        with ThreadPoolExecutor(1, initializer=flushing) as own:
            chosen = own if executor == "threads" else executor
            with hs.Engine(executor=chosen, progress=False) as engine:
                engine.run(double, a, hs.write(out))
        tiny = np.full(64, 1e-310) * 2.0
        found.append((float(np.asarray(out)[5]), float(tiny[5])))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    ((kernel, program),) = found
    assert program == 0.0, "this thread was to flush"
    assert kernel.hex() == (2e-310).hex()


def test_errors_are_those_of_workers(auto, warm):
    texts = []
    for engine in (auto, warm):
        a, out = hs.from_array(np.arange(5.0)), hs.from_array(np.zeros(5))
        with pytest.raises(hs.KernelError, match="IndexError") as raised:
            engine.run(out_of_bounds, a, hs.write(out))
        texts.append(str(raised.value))
        assert not np.asarray(out).any()
    assert texts[0] == texts[1]
    assert auto.run(double, a, hs.write(out)).route == "threads"


def test_two_runs_do_not_wait_for_each_other(auto):
    go_on = np.zeros(1)
    started = threading.Event()
    outcome: list[BaseException] = []

    def endless():
        started.set()
        try:
            auto.run(spin, hs.update(hs.from_array(np.zeros(4))), go_on)
        except hs.HyperslabError as error:
            outcome.append(error)

    a, out = hs.from_array(np.arange(100.0)), hs.from_array(np.zeros(100))
    thread = threading.Thread(target=endless, daemon=True)
    thread.start()
    started.wait()
    time.sleep(0.2)
    for _ in range(5):
        assert auto.run(double, a, hs.write(out)).route == "threads"
    auto.close()
    thread.join(10)
    assert "closed while a job ran" in str(outcome[0])


PROGRAM = """
import os, signal, threading, time
import numpy as np, hyperslab as hs

@hs.kernel
def spin(a, go_on):
    while go_on[0] >= 0:
        a[0] += 1e-9

@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]

if __name__ == "__main__":
    engine = hs.Engine(executor="auto", progress=False)
    a, out = hs.from_array(np.arange(8.0)), hs.from_array(np.zeros(8))
    engine.run(double, a, hs.write(out))
    x = hs.from_array(np.zeros(4))
    {body}
"""


def run_program(body, **options):
    text = PROGRAM.replace("{body}", textwrap.indent(textwrap.dedent(body), "    ").lstrip())
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_ctrl_c_ends_the_wait_for_a_kernel_that_does_not_end():
    done = run_program(
        """
        threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        try:
            engine.run(spin, hs.update(x), np.zeros(1))
        except hs.JobInterrupted as error:
            print(error.regions[0].state, time.monotonic() - began < 20)
        print(np.asarray(x).any())
        report = engine.run(double, a, hs.write(out))
        print(report.route, np.asarray(out)[3])
        """
    )
    assert done.stdout == "untouched True\nFalse\nthreads 6.0\n", done.stderr
    assert done.returncode == 0


def test_an_interrupted_script_ends_as_one():
    done = run_program(
        """
        threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        engine.run(spin, hs.update(x), np.zeros(1))
        """
    )
    assert "JobInterrupted" in done.stderr and done.returncode == -signal.SIGINT


def test_a_forked_child_has_threads_of_its_own():
    done = run_program(
        """
        child = os.fork()
        out[...] = np.zeros(8)
        report = engine.run(double, a, hs.write(out)) if child == 0 else None
        if child == 0:
            print(report.route, np.asarray(out)[7], flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    assert done.stdout == "threads 14.0\n", done.stderr


@pytest.mark.parametrize("after", [0.05, 0.4, 2.0])
def test_a_child_that_comes_back_from_a_handler_leaves_the_run_to_its_parent(after):
    # Early it comes back to the compilation, late to the wait for the kernel.
    done = run_program(
        """
        def fork(*_):
            if (child := os.fork()):
                os.waitpid(child, 0)
                os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGUSR1, fork)
        threading.Timer(AFTER, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        me = os.getpid()
        try:
            engine.run(spin, hs.update(x), np.zeros(1))
        except hs.HyperslabError as error:
            print("parent" if os.getpid() == me else "child", type(error).__name__, flush=True)
            os._exit(0)
        """.replace("AFTER", str(after))
    )
    assert done.stdout == "child HyperslabError\nparent JobInterrupted\n", done.stderr


def test_a_job_in_an_exit_handler():
    done = run_program(
        """
        import atexit
        @atexit.register
        def late():
            out[...] = np.zeros(8)
            with hs.Engine(executor="auto", progress=False) as other:
                print(other.run(double, a, hs.write(out)).route, np.asarray(out)[7])
        """
    )
    assert done.stdout == "threads 14.0\n", done.stderr
    assert done.stderr == ""


def test_where_no_thread_can_be_started_the_caller_computes(auto, monkeypatch):
    from hyperslab.pools import threads

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._Hand, "start", refuse)
    a, out = hs.from_array(np.arange(100.0)), hs.from_array(np.zeros(100))
    report = auto.run(double, a, hs.write(out))
    assert np.asarray(out)[99] == 198 and report.route == "threads"


def test_no_thread_remains_of_a_closed_engine():
    before = set(threading.enumerate())
    with hs.Engine(executor="auto", progress=False) as engine:
        a, out = hs.from_array(np.zeros(2**21)), hs.from_array(np.zeros(2**21))
        engine.run(double, a, hs.write(out))
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before


def test_an_engine_that_nobody_holds_ends_its_threads():
    before = set(threading.enumerate())
    engine = hs.Engine(executor="auto", progress=False)
    engine.run(double, hs.from_array(np.zeros(8)), hs.write(hs.from_array(np.zeros(8))))
    del engine
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) == before


@hs.kernel(boundscheck=False)
def put_unchecked(x, i):
    x[i] = 1.0


@numba.njit
def descend(n):
    return 1.0 if n <= -1 else 1.0 + descend(n + 1) * 1.0000001


@hs.kernel
def through_unchecked(a, out):
    put_unchecked(out, 0)


@hs.kernel
def through_recursion(a, out):
    out[0] = descend(-1)


@hs.kernel
def through_module(a, out):
    out[0] = threads_helpers.first(a)


@hs.kernel
def through_checked(a, out):
    double(a, out)


@pytest.mark.parametrize(
    ("kernel", "route"),
    [
        (through_checked, "threads"),
        (through_unchecked, "processes"),
        (through_recursion, "processes"),
        (through_module, "processes"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("cached", [False, True])
def test_what_a_kernel_calls_counts_too(tmp_path, monkeypatch, kernel, route, cached):
    if cached:
        monkeypatch.setenv("HYPERSLAB_CACHE_DIR", str(tmp_path))
    for _ in range(1 + cached):
        kernel._compiled.clear()
        with hs.Engine(executor="auto", progress=False) as engine:
            a, out = hs.from_array(np.ones(4)), hs.from_array(np.zeros(4))
            assert engine.run(kernel, a, hs.write(out)).route == route
        assert np.asarray(out)[0] != 0


def stop(*_):
    raise KeyboardInterrupt


# One of the thousands comes in a finalizer, where Python prints and drops it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("executor", ["auto", "loky", "serial"])
def test_what_is_said_after_an_interrupt_is_true(executor):
    """Whenever it comes: an update that is said to be untouched must not have been made."""
    rng = np.random.default_rng(3)
    before = signal.signal(signal.SIGALRM, stop)
    told = 0
    try:
        with hs.Engine(executor=executor, progress=False) as engine:
            array = hs.from_array(np.zeros(3200))
            engine.run(increment, hs.update(array), region=100)
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                old = np.array(array)[::100]
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0003, 0.004))
                    engine.run(increment, hs.update(array), region=100)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except hs.JobInterrupted as error:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    told += 1
                    changed = np.array(array)[::100] - old
                    for span in error.regions:
                        part = changed[span.start : span.stop]
                        assert span.state != "untouched" or not part.any(), error.regions
                        assert span.state != "done" or (part == 1).all(), error.regions
                except KeyboardInterrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert told


def test_where_there_can_be_no_workers_short_jobs_stay_in_threads(monkeypatch):
    from hyperslab import staff

    def refuse(self):
        raise hs.HyperslabError("this process may have no children")

    monkeypatch.setattr("hyperslab.pools.resident.ResidentPool.start", refuse)
    monkeypatch.setattr(staff, "PATIENCE", 3 * 2**18)
    with hs.Engine(executor="auto", progress=False) as engine:
        a, out = hs.from_array(np.zeros(8)), hs.from_array(np.zeros(8))
        routes = {engine.run(double, a, hs.write(out)).route for _ in range(10)}
        assert routes == {"threads"}
        with pytest.raises(hs.HyperslabError, match="no children"):
            engine.run(unchecked, a, hs.write(out))
        assert engine.run(double, a, hs.write(out)).route == "threads"


def test_many_runs_at_once_leave_few_threads(auto):
    before = set(threading.enumerate())

    def job():
        a, out = hs.from_array(np.zeros(2**18)), hs.from_array(np.zeros(2**18))
        for _ in range(5):
            auto.run(double, a, hs.write(out))

    users = [threading.Thread(target=job) for _ in range(20)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    deadline = time.monotonic() + 5
    while len(set(threading.enumerate()) - before) > auto.settings.workers:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_plan_that_threads_run_again_and_again_leaves_nothing_open(auto):
    a, total = hs.from_array(np.ones(2**16)), hs.from_array(np.zeros(1))
    plan = auto.plan(add_up, a, hs.accumulate(total))

    def runs():
        for _ in range(60):
            plan.run()

    def opened():
        return len(os.listdir("/proc/self/fd"))

    plan.run()
    before = opened()
    users = [threading.Thread(target=runs) for _ in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert opened() < before + 40
    files = [name for name in os.listdir(auto._staff._threads.directory) if "program-" in name]
    assert len(files) < 20
