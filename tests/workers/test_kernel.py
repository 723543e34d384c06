"""A worker loads machine code, checks every argument, and never compiles."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from hyperslab.compiler import CompiledKernel, compile_kernel, kernel, publish
from hyperslab.errors import KernelError
from hyperslab_workers.kernel import (
    ArrayType,
    KernelRaised,
    KernelRef,
    ScalarType,
    TupleType,
    load,
    rebuild,
    type_of,
)


def add(a, b, out):
    for i in range(a.shape[0]):
        out[i] = a[i] + b


def sort(a, out):
    """Takes the route through Numba, because it may print."""
    out[:] = a
    for i in range(a.shape[0]):
        for j in range(i):
            if out[i] < out[j]:
                out[i], out[j] = out[j], out[i]
    if a.shape[0] < 0:
        print("never")


KERNELS = {add: kernel(add), sort: kernel(sort)}


def compiled(function, *args) -> CompiledKernel:
    made = KERNELS.get(function) or kernel(function)
    return compile_kernel(made, tuple(map(type_of, args)))


@pytest.fixture
def published(tmp_path):
    def make(function, *args) -> KernelRef:
        return publish(compiled(function, *args), tmp_path)

    return make


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, ScalarType(np.dtype(bool))),
        (1, ScalarType(np.dtype("i8"))),
        (1.0, ScalarType(np.dtype("f8"))),
        (1j, ScalarType(np.dtype("c16"))),
        (np.float32(1), ScalarType(np.dtype("f4"))),
        ((1, 2), TupleType(2)),
        (np.zeros(()), ArrayType(np.dtype("f8"), 0, "C", True)),
        (np.zeros((2, 3)), ArrayType(np.dtype("f8"), 2, "C", True)),
        (np.zeros((2, 3)).T, ArrayType(np.dtype("f8"), 2, "F", True)),
        (np.zeros((2, 1)).T, ArrayType(np.dtype("f8"), 2, "C", True)),
        (np.zeros((4, 4))[:, ::2], ArrayType(np.dtype("f8"), 2, "A", True)),
        (np.zeros((4, 4))[:, :2], ArrayType(np.dtype("f8"), 2, "A", True, unit_axis=1)),
        (np.zeros((4, 4))[:, :2].T, ArrayType(np.dtype("f8"), 2, "A", True, unit_axis=0)),
        (np.zeros((4, 4))[::2, :1], ArrayType(np.dtype("f8"), 2, "A", True)),
        (np.broadcast_to(1.0, 3), ArrayType(np.dtype("f8"), 1, "A", False)),
    ],
)
def test_type_of(value, expected):
    found = type_of(value)
    assert found == expected
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("value", ["text", None, [1], (1.0, 2), 2**63, object()])
def test_type_of_anything_else(value):
    with pytest.raises(TypeError):
        type_of(value)


@pytest.mark.parametrize("function", [add, sort])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a.astype("f4"),
        lambda a: a.astype("i8"),
        lambda a: a.reshape(2, 2),
        lambda a: np.zeros(8)[::2],
        lambda a: list(a),
        lambda a: a.view(np.memmap),
        lambda a: np.zeros(33, "u1")[1:].view("f8"),
        lambda a: a.astype(">f8"),
    ],
    ids=["float32", "int64", "2-D", "strided", "list", "subclass", "unaligned", "big-endian"],
)
def test_a_mismatch_is_a_type_error_and_never_a_call(function, spoil):
    a, out = np.arange(4.0), np.full(4, 9.0)
    args = (a, 1.0, out) if function is add else (a, out)
    loaded = rebuild(compiled(function, *args).payload)
    with pytest.raises(TypeError, match="compiled for"):
        loaded(spoil(a), *args[1:])
    with pytest.raises(TypeError, match="compiled for"):
        loaded(*args[:-1], spoil(out))
    assert (out == 9).all()
    loaded(*args)
    np.testing.assert_array_equal(out, a + 1 if function is add else a)


def double(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = 2 * a[i, j]


def double_or_print(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = 2 * a[i, j]
    if a.size < 0:
        print("never")


@pytest.mark.parametrize("function", [double, double_or_print])
def test_a_stride_of_one_element_is_checked(function):
    field = np.arange(48.0).reshape(6, 8)
    band, out = field[:, 2:5], np.full((6, 3), 9.0)
    code = compiled(function, band, out)
    assert code.types[0].unit_axis == 1
    assert code.route == ("native" if function is double else "numba")
    loaded = rebuild(code.payload)
    for wrong in (field[:, 2:7:2], field[:, 4:1:-1], field[:3, :6].T, np.broadcast_to(1.0, (6, 3))):
        assert wrong.shape == band.shape
        with pytest.raises(
            TypeError, match=r"compiled for .*unit_axis=1.*got .*unit_axis=(0|None)"
        ):
            loaded(wrong, out)
    assert (out == 9).all()
    loaded(band, out)
    np.testing.assert_array_equal(out, 2 * band)
    # A contiguous array keeps the promise too, and where an axis has one element or the array
    # none, its stride leads nowhere.
    loaded(band.copy(), out)
    np.testing.assert_array_equal(out, 2 * band)
    single = np.zeros((6, 1))
    loaded(field[:, 3:8:5], single)
    np.testing.assert_array_equal(single, 2 * field[:, 3:4])
    loaded(field[:0, ::2], np.zeros((0, 4)))


def test_read_only_memory_is_not_written():
    a = np.zeros(2)
    loaded = rebuild(compiled(add, a, 1.0, a).payload)
    sealed = np.zeros(2)
    sealed.flags.writeable = False
    with pytest.raises(TypeError, match="mutable=True"):
        loaded(a, 1.0, sealed)
    with pytest.raises(TypeError, match="'b'"):
        loaded(a, 1, a)
    with pytest.raises(TypeError, match="takes 3 arguments, not 2"):
        loaded(a, 1.0)


# ---------------------------------------------------------------- files


def test_loaded_once_even_by_many_threads(published):
    a = np.zeros(2)
    ref = published(add, a, 1.0, a)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(load(ref))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len({id(one) for one in found}) == 1
    Path(ref.path).unlink()
    assert load(ref) is found[0]


def test_damaged_and_missing_files(published):
    a = np.zeros(2, "f4")
    ref = published(add, a, 1.0, a)
    data = Path(ref.path).read_bytes()
    Path(ref.path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(KernelError, match="damaged"):
        load(ref)
    Path(ref.path).unlink()
    with pytest.raises(KernelError, match="cannot be read"):
        load(ref)


@pytest.mark.parametrize(
    ("what", "value", "says"),
    [
        ("processors of type", "vax", "compiled for processors of type vax"),
        ("Python", "2.7.18", "compiled for Python 2.7.18"),
        ("CPU features", "mmx,warp", "with .*warp"),
    ],
)
def test_foreign_machine_code_is_refused(what, value, says):
    a = np.zeros(2)
    code = compiled(add, a, 1.0, a)
    content = pickle.loads(code.payload)
    content["machine"] = tuple((k, value if k == what else v) for k, v in content["machine"])
    with pytest.raises(KernelError, match=says):
        rebuild(pickle.dumps(content))


def test_other_versions_are_refused():
    a = np.zeros(2)
    code = compiled(sort, a, a)
    content = pickle.loads(code.payload)
    with pytest.raises(KernelError, match="format 99"):
        rebuild(pickle.dumps({**content, "format": 99}))
    with pytest.raises(KernelError, match=r"compiled by numba 0\.1"):
        rebuild(pickle.dumps({**content, "numba": "0.1"}))


def test_a_symbol_this_process_lacks():
    a = np.zeros(2)
    for function, args in ((add, (a, 1.0, a)), (sort, (a, a))):
        code = compiled(function, *args)
        content = {**pickle.loads(code.payload), "undefined": ("no_such_function",)}
        with pytest.raises(KernelError, match=r"no_such_function\(\)"):
            rebuild(pickle.dumps(content))


def test_references_are_small(published):
    a = np.zeros(2)
    ref = published(add, a, 1.0, a)
    assert len(pickle.dumps(ref)) < 512


# ---------------------------------------------------------------- in another process


def in_worker(ref: KernelRef, shape: int) -> tuple[list[float], bool, int, str]:
    from hyperslab_workers.kernel import compilations

    before = compilations()
    loaded = load(ref)
    a, out = np.arange(shape, 0.0, -1.0), np.zeros(shape)
    loaded(*((a, out) if len(loaded.types) == 2 else (a, 1.0, out)))
    return out.tolist(), "numba" in sys.modules, compilations() - before, loaded.route


WORKER = (
    "import pickle, sys\n"
    "import numpy as np\n"
    "from hyperslab_workers.kernel import compilations, load\n"
    "ref = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
    "loaded = load(ref)\n"
    "a, out = np.array([3.0, 1.0]), np.zeros(2)\n"
    "loaded(*((a, out) if len(loaded.types) == 2 else (a, 1.0, out)))\n"
    "print(out.tolist(), loaded.route, compilations(), 'numba' in sys.modules,"
    " 'hyperslab' in sys.modules)\n"
)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (add, "[4.0, 2.0] native 0 False False"),
        (sort, "[1.0, 3.0] numba 0 True False"),
    ],
)
def test_workers_never_compile(published, function, expected):
    a = np.zeros(2)
    args = (a, 1.0, a) if function is add else (a, a)
    ref = published(function, *args)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, pickle.dumps(ref).hex()],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == expected
    assert done.stderr == ""


def test_compilations_are_counted():
    code = (
        "import numba\n"
        "from hyperslab_workers.kernel import compilations\n"
        "assert compilations() == 0\n"
        "numba.njit(lambda x: x + 1)(1)\n"
        "assert compilations() >= 1, compilations()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_two_coordinators_with_the_same_names_share_a_worker(tmp_path):
    """The same kernel and helper names, from two processes, in one: each runs its own code."""
    code = (
        "import pickle, sys\n"
        "import numba, numpy as np\n"
        "from hyperslab.compiler import CompiledKernel, compile_kernel, kernel, publish\n"
        "from hyperslab_workers.kernel import type_of\n"
        "number = int(sys.argv[1])\n"
        "@numba.njit\n"
        "def helper(x):\n"
        "    s = 0.0\n"
        "    for i in range(x.shape[0]):\n"
        "        s += x[i] * number\n"
        "    return s\n"
        "@kernel\n"
        "def same(a, out):\n"
        "    out[0] = helper(a) + number\n"
        "@kernel\n"
        "def same_numba(a, out):\n"
        "    out[0] = helper(a) + number\n"
        "    if a[0] < 0: print('never')\n"
        "a = np.zeros(2)\n"
        "for made in (same, same_numba):\n"
        "    c = compile_kernel(made, (type_of(a), type_of(a)))\n"
        "    print(pickle.dumps((c.route, publish(c, sys.argv[2]))).hex())\n"
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", code, number, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.split()
        for number in ("10", "1000")
    ]
    found = [[pickle.loads(bytes.fromhex(line)) for line in pair] for pair in lines]
    assert [[route for route, _ in pair] for pair in found] == [["native", "numba"]] * 2
    loaded = [[load(ref) for _, ref in pair] for pair in found]
    for _ in range(2):
        for number, pair in zip((10, 1000), loaded, strict=True):
            for one in pair:
                out = np.zeros(2)
                one(np.array([1.0, 2.0]), out)
                assert out[0] == 4 * number


def test_after_fork(published):
    """Code loaded before a fork runs after it, and a fork loads new code."""
    a = np.zeros(3)
    first, second = published(add, a, 1.0, a), published(add, a, 1.0, a)
    load(first)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            out = np.zeros(3)
            for ref in (first, replace(second, digest=second.digest)):
                load(ref)(np.ones(3), 1.0, out)
            status = 0 if out.tolist() == [2, 2, 2] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_process_pool(published):
    a = np.zeros(3)
    ref = published(add, a, 1.0, a)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(in_worker, ref, 3).result(60)[0] == [4, 3, 2]


# ---------------------------------------------------------------- threads and failures


def test_the_interpreter_lock_is_released():
    flag, out = np.zeros(1, "i8"), np.zeros(1, "i8")

    def spin(flag, out):
        # Bounded, so that a held lock is a failure and not a hang.
        for _ in range(2_000_000_000):
            out[0] += 1
            if out[0] % 1000 == 0 and flag[out[0] % 1] == 1:
                break

    loaded = rebuild(compiled(spin, flag, out).payload)
    thread = threading.Thread(target=loaded, args=(flag, out))
    thread.start()
    flag[0] = 1
    thread.join(60)
    assert not thread.is_alive()
    assert 0 < out[0] < 2_000_000_000


def test_a_failed_call_leaves_the_kernel_usable():
    def picky(a, out):
        if a[0] < 0:
            raise ValueError("negative")
        out[0] = a[0]

    a, out = np.array([-1.0]), np.zeros(1)
    loaded = rebuild(compiled(picky, a, out).payload)
    for _ in range(3):
        with pytest.raises(KernelRaised, match="ValueError: negative"):
            loaded(a, out)
    a[0] = 5
    loaded(a, out)
    assert out[0] == 5
