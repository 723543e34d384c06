"""Kernels become right machine code once per signature, or an error that explains itself."""

from __future__ import annotations

import functools
import math
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperslab.compiler import Kernel, check_dtype, compile_kernel, describe, kernel, publish
from hyperslab.compiler.lowering import pipeline
from hyperslab.compiler.signature import numba_type, unit_strides
from hyperslab.errors import KernelError
from hyperslab_workers.kernel import (
    ArrayType,
    KernelRaised,
    LoadedKernel,
    ScalarType,
    TupleType,
    load,
    rebuild,
    type_of,
)

OFFSET = 2.5
TABLE = np.array([1.0, 10.0, 100.0])
BIG_TABLE = np.zeros(200_000)
SOMETHING = object()


def compiled(function, *args, equal_shapes=(), **options) -> LoadedKernel:
    made = function if isinstance(function, Kernel) else kernel(**options)(function)
    types = tuple(type_of(value) for value in args)
    return rebuild(compile_kernel(made, types, equal_shapes=equal_shapes).payload)


def run(function, *args, route="native", **options) -> None:
    loaded = compiled(function, *args, **options)
    assert loaded.route == route
    loaded(*args)


def frozen(array):
    array.flags.writeable = False
    return array


def line_of(function, text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    start = (getattr(function, "py_func", function)).__code__.co_firstlineno
    return next(n for n, line in enumerate(lines[start - 1 :], start) if text in line)


def copy3(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                out[i, j, k] = a[i, j, k] * 2 + 1


def copy1(a, out):
    for i in range(a.shape[0]):
        out[i] = a[i]


def past_the_end(a, out):
    for i in range(a.shape[0]):
        out[i + 1] = a[i]  # one too far


# ---------------------------------------------------------------- the decorator


def test_decorating_imports_no_numba():
    code = (
        "import sys, hyperslab.compiler as c\n"
        "@c.kernel\ndef f(a, out): out[0] = a[0]\n"
        "@c.kernel(boundscheck=False, fastmath=True)\ndef g(a, out): out[0] = a[0]\n"
        "assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_kernel_looks_like_its_function():
    @kernel(boundscheck=False)
    def scale(a, factor=2.0):
        """Scale in place."""
        a[0] *= factor

    assert scale.name == scale.__name__ == "scale"
    assert scale.__doc__ == "Scale in place."
    assert scale.parameters == ("a", "factor")
    assert dict(scale.options) == {
        "boundscheck": False,
        "fastmath": False,
        "error_model": "numpy",
    }
    assert scale.filename == __file__
    assert repr(scale) == "<hyperslab kernel scale(a, factor)>"


def test_dispatcher_keeps_what_it_was_told():
    @numba.njit(fastmath=True)
    def f(a, out):
        out[0] = a[0]

    assert kernel(f).options["fastmath"] is True
    assert kernel(f).options["error_model"] == "python"
    assert kernel(error_model="numpy")(f).options["error_model"] == "numpy"
    assert kernel(f).function is f.py_func


def generator(a):
    yield a


async def coroutine(a):
    a[0] = 1


def star(*arrays):
    arrays[0][0] = 1


def keywords(a, **more):
    a[0] = 1


def keyword_only(a, *, b):
    a[0] = b


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (generator, "generator"),
        (coroutine, "async"),
        (star, r"\*arrays"),
        (keywords, r"\*\*more"),
        (keyword_only, "by keyword only"),
        (dict, "class"),
        (math.sqrt, "plain Python function"),
        (3, "plain Python function"),
        (kernel(copy1), "already"),
    ],
)
def test_what_cannot_be_a_kernel(thing, says):
    with pytest.raises(KernelError, match=says):
        kernel(thing)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"boundcheck": True}, "did you mean boundscheck"),
        ({"parallel": True}, "takes care of that itself"),
        ({"colour": 1}, "the options are"),
        ({"boundscheck": "yes"}, "'yes': it must be True or False"),
        ({"error_model": "c"}, "'numpy' or 'python'"),
        ({"fastmath": {"fast", "nope"}}, "no flag 'nope'"),
    ],
)
def test_options_are_checked(options, says):
    with pytest.raises(KernelError, match=says):
        kernel(**options)


# ---------------------------------------------------------------- the right answer

DTYPES = [
    "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "c8", "c16",
    "M8[ns]", "m8[D]",
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_copied_exactly(dtype):
    raw = np.random.default_rng(1).integers(0, 2 if dtype == "?" else 256, 96, dtype="u1")
    a = frozen(raw.view(dtype))
    out = np.zeros_like(a)
    run(copy1, a, out)
    assert out.tobytes() == a.tobytes()


def test_structured_records():
    dtype = np.dtype([("time", "i8"), ("value", "f4"), ("grid", "f8", (2,))])
    a = np.zeros(3, dtype)
    a["value"] = [1, 2, 3]
    a["grid"][:, 1] = 7
    out = np.zeros(3)

    def f(a, out):
        for i in range(a.shape[0]):
            out[i] = a[i].value + a[i].grid[1]

    run(f, frozen(a), out)
    assert out.tolist() == [8, 9, 10]


@pytest.mark.parametrize(
    "value",
    [True, 3, -1.5, 2 - 1j, np.float32(0.1), np.int8(-3), np.uint64(2**63), np.complex64(1j)],
    ids=repr,
)
def test_every_scalar_arrives(value):
    out = np.zeros(1, np.asarray(value).dtype)

    def f(x, out):
        out[0] = x

    run(f, value, out)
    assert out[0] == value


def test_tuples_and_times():
    out = np.zeros(2, "i8")
    stamps = np.zeros(1, "M8[s]")

    def f(origin, now, out, stamps):
        out[0] = origin[0]
        out[1] = origin[2]
        stamps[0] = now

    now = np.datetime64("2020-02-02T02:02:02", "s")
    run(f, (5, 6, -7), now, out, stamps)
    assert out.tolist() == [5, -7]
    assert stamps[0] == now


shapes = st.lists(st.integers(0, 4), min_size=3, max_size=3).map(tuple)
COPY3 = kernel(copy3)


@given(shape=shapes, order=st.permutations(range(3)), step=st.sampled_from([1, 2, -1]))
@settings(max_examples=60, deadline=None)
def test_any_shape_and_strides(shape, order, step):
    a = np.arange(math.prod(shape), dtype="f8").reshape(shape).transpose(order)[::step]
    out = np.zeros_like(a)
    compiled(COPY3, a, out)(a, out)
    np.testing.assert_array_equal(out, a * 2 + 1)


def test_zero_dimensional_arrays():
    a, out = np.array(3.0), np.array(0.0)

    def f(a, out):
        out[()] = a[()] * 2

    run(f, a, out)
    assert out[()] == 6


def test_globals_closures_defaults_and_helpers():
    factor = 3.0
    weights = np.array([1.0, 2.0])

    @numba.njit
    def inner(x):
        return x + OFFSET

    @numba.njit(inline="always")
    def outer(x):
        return inner(x) * factor

    @kernel
    def add_one(out):
        out[0] += 1

    @kernel
    def f(a, out, power=2, shift=0.5):
        out[0] = outer(a[0]) ** power + weights[1] + TABLE[2] + shift
        add_one(out)

    a, out = np.array([1.0]), np.zeros(1)
    f(a, out)
    assert out[0] == ((1 + OFFSET) * 3) ** 2 + 2 + 100 + 0.5 + 1
    f(a, out, 1)
    assert out[0] == (1 + OFFSET) * 3 + 2 + 100 + 0.5 + 1
    assert not inner.overloads, "the user's own dispatcher was touched"


def test_temporaries_and_numpy_functions_run_without_numba():
    a = frozen(np.random.default_rng(0).normal(size=(20, 30)))
    out = np.zeros_like(a)

    def f(a, out):
        scratch = np.zeros(a.shape[1])
        for i in range(a.shape[0]):
            scratch += np.exp(a[i])
        out[:] = (a - a.mean()) * scratch

    run(f, a, out)
    np.testing.assert_allclose(out, (a - a.mean()) * np.exp(a).sum(axis=0), rtol=1e-12)


def test_temporaries_are_freed():
    def f(out):
        for i in range(4000):
            block = np.zeros(1 << 17)
            out[0] += block[i] + 1

    out = np.zeros(1)
    limited = (
        "import resource, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from hyperslab_workers.kernel import rebuild\n"
        "run = rebuild(Path(sys.argv[1]).read_bytes())\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)\n"
        "out = np.zeros(1); run(out); assert out[0] == 4000\n"
    )
    code = compile_kernel(kernel(f), (type_of(out),))
    assert code.route == "native"
    with_file(code.payload, limited)


def with_file(payload: bytes, code: str) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        subprocess.run([sys.executable, "-c", code, file.name], check=True, timeout=60)


def test_what_needs_numba_takes_the_other_route(capfd):
    a, out = frozen(np.array([3.0, 1.0, 2.0])), np.zeros(3)

    def f(a, out):
        out[:] = a
        print("first", out[0])

    run(f, a, out, route="numba")
    assert out.tolist() == [3, 1, 2]
    assert capfd.readouterr().out == "first 3.0\n"


def test_both_routes_give_the_same_bits():
    def native(a, out):
        for i in range(a.shape[0]):
            out[i] = math.sin(a[i]) / (a[i] - 1) ** 1.7

    def other(a, out):
        if a[0] > 1e300:
            print("never")
        for i in range(a.shape[0]):
            out[i] = math.sin(a[i]) / (a[i] - 1) ** 1.7

    a = np.linspace(1, 9, 1000)
    first, second = np.zeros_like(a), np.zeros_like(a)
    run(native, a, first)
    run(other, a, second, route="numba")
    assert first.tobytes() == second.tobytes()


def test_error_model():
    def f(a, out):
        out[0] = a[0] / a[1]

    a, out = np.array([1.0, 0.0]), np.zeros(1)
    run(f, a, out)
    assert out[0] == np.inf
    with pytest.raises(KernelRaised, match="ZeroDivisionError"):
        run(f, a, out, error_model="python")


# ---------------------------------------------------------------- bounds


def test_out_of_bounds_is_caught_with_its_line():
    with pytest.raises(KernelRaised) as caught:
        run(past_the_end, np.ones(3), np.zeros(3))
    raised = caught.value
    assert raised.type_name == "IndexError"
    assert raised.filename == __file__
    assert raised.line == line_of(past_the_end, "# one too far")
    assert raised.function == "past_the_end"


@pytest.mark.parametrize("index", [3, -4])
def test_out_of_bounds_in_a_helper_is_caught(index):
    @numba.njit
    def pick(a, i):
        return a[i]  # in the helper

    def f(a, i, out):
        out[0] = pick(a, i)

    with pytest.raises(KernelRaised, match="index is out of bounds") as caught:
        run(f, np.ones(3), index, np.zeros(1))
    assert caught.value.line == line_of(pick, "# in the helper")
    assert caught.value.function == "pick"


def test_negative_indices_wrap():
    def f(a, out):
        for i in range(a.shape[0]):
            out[i] = a[-1 - i]

    a, out = np.arange(4.0), np.zeros(4)
    run(f, a, out, equal_shapes=(((0, 0, 0), (1, 0, 0)),))
    assert out.tolist() == [3, 2, 1, 0]


SAME = (((0, 0, 0), (1, 0, 0)), ((0, 1, 0), (1, 1, 0)), ((0, 2, 0), (1, 2, 0)))


def test_equal_shapes_change_no_bit_and_are_checked():
    a, out = np.random.default_rng(0).normal(size=(3, 4, 5)), np.zeros((3, 4, 5))
    loaded = compiled(COPY3, a, out, equal_shapes=SAME)
    loaded(a, out)
    np.testing.assert_array_equal(out, a * 2 + 1)
    with pytest.raises(TypeError, match=r"a.shape\[1\] = 4, out.shape\[1\] = 3"):
        loaded(a, np.zeros((3, 3, 5)))


def test_equal_shapes_still_catch_an_index_out_of_bounds():
    a, out = np.ones(3), np.zeros(3)
    with pytest.raises(KernelRaised, match="IndexError"):
        run(past_the_end, a, out, equal_shapes=(((0, 0, 0), (1, 0, 0)),))


def test_equal_shapes_with_a_halo():
    def smooth(a, out):
        for i in range(out.shape[0]):
            out[i] = a[i] + a[i + 1] + a[i + 2]

    a, out = np.arange(6.0), np.zeros(4)
    groups = (((0, 0, 2), (1, 0, 0)),)
    run(smooth, a, out, equal_shapes=groups)
    assert out.tolist() == [3, 6, 9, 12]
    with pytest.raises(TypeError, match=r"a.shape\[0\] = 6 \(less 2\), out.shape\[0\] = 5"):
        compiled(smooth, a, out, equal_shapes=groups)(a, np.zeros(5))


def test_equal_shapes_remove_the_check():
    """Where the lengths are known to agree, no IndexError is left in the machine code."""
    a, out = np.zeros((1, 1, 1)), np.zeros((1, 1, 1))
    types = (type_of(a), type_of(out))
    free = pickle.loads(compile_kernel(COPY3, types, equal_shapes=SAME).payload)
    checked = pickle.loads(compile_kernel(COPY3, types).payload)
    assert [what[0] for what in checked["raises"].values()] == ["IndexError"]
    assert not free["raises"]


def test_equal_shapes_that_name_no_axis():
    a = np.zeros(1)
    with pytest.raises(ValueError, match="axis 1 of argument 0"):
        compiled(copy1, a, a, equal_shapes=(((0, 1, 0), (1, 0, 0)),))


# ---------------------------------------------------------------- strides


def add_up(t, total):
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            for k in range(t.shape[2]):
                total[j, k] += t[i, j, k]


def count_above(t, total):
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            for k in range(t.shape[2]):
                if t[i, j, k] > 0.25:
                    total[j, k] += 1


def count(t, total):
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            for k in range(t.shape[2]):
                total[j, k] += t[i, j, k] > 0.25


def count_backwards(t, total):
    """The same loops in the order of a Fortran array, over its first two axes."""
    for k in range(t.shape[2]):
        for j in range(t.shape[1]):
            for i in range(t.shape[0]):
                total[i, j] += t[i, j, k] > 0.25


def count_in_part(t, total):
    part = t[:, 1:-1]
    for i in range(part.shape[0]):
        for j in range(part.shape[1]):
            for k in range(part.shape[2]):
                total[i, j + 1, k] += part[i, j, k] > 0.25


def difference(t, total):
    for i in range(t.shape[0]):
        for j in range(1, t.shape[1] - 1):
            for k in range(1, t.shape[2] - 1):
                total[i, j, k] = (
                    t[i, j + 1, k] + t[i, j - 1, k] + t[i, j, k + 1] + t[i, j, k - 1]
                ) * 0.3 - t[i, j, k] / 0.7


def whole_slices(t, total):
    for i in range(t.shape[0]):
        total += t[i] * 0.1


FIELD = np.random.default_rng(2).normal(size=(7, 12, 33)).astype("f4")
LAST_TWO = (((0, 1, 0), (1, 0, 0)), ((0, 2, 0), (1, 1, 0)))
FIRST_TWO = (((0, 0, 0), (1, 0, 0)), ((0, 1, 0), (1, 1, 0)))
BAND, FORTRAN_BAND = FIELD[:, 3:9], np.asfortranarray(FIELD)[:, 3:9]


def machine_code(function, types, equal_shapes=(), unit=unit_strides) -> str:
    """What LLVM made of a kernel, in its own language."""
    signature = tuple(map(numba_type, types))
    options = {"boundscheck": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made = numba.njit(pipeline_class=pipeline(equal_shapes, unit(types)), **options)(function)
    made.compile(signature)
    return made.inspect_llvm(signature)


VECTOR_LOAD = re.compile(r"load <\d+ x float>")


@pytest.mark.parametrize(
    ("function", "t", "total", "equal_shapes"),
    [
        (count, BAND, np.zeros((6, 33), "i4"), LAST_TWO),
        (count_backwards, FORTRAN_BAND, np.zeros((7, 6), "i4", order="F"), FIRST_TWO),
        (count_in_part, FIELD, np.zeros(FIELD.shape, "i4"), SAME),
    ],
)
def test_neighbours_are_loaded_together(function, t, total, equal_shapes):
    types = (type_of(t), type_of(total))
    assert VECTOR_LOAD.search(machine_code(function, types, equal_shapes))
    # Else the promise would be one that nobody needs.
    ignorant = machine_code(function, types, equal_shapes, unit=lambda types: ())
    assert not VECTOR_LOAD.search(ignorant)


def with_route(function, route):
    if route == "native":
        return function

    # It says that it may print, which takes Numba's runtime.
    source = f"def {function.__name__}_(t, total):\n    if t.size < 0:\n        print('never')\n"
    scope = {"inner": numba.njit(function, inline="always")}
    exec(source + "    inner(t, total)\n", scope)  # noqa: S102
    return scope[function.__name__ + "_"]


@pytest.mark.parametrize(
    ("function", "order", "route"),
    [
        *((f, order, "native") for f in (add_up, count_above, difference) for order in "CF"),
        (whole_slices, "C", "native"),
        (count_above, "C", "numba"),
        (difference, "F", "numba"),
    ],
)
def test_the_layout_changes_no_bit(function, order, route):
    field = np.asarray(FIELD, order=order)
    contiguous = np.asarray(field[:, 3:9], order=order)
    views = [contiguous, field[:, 3:9], np.repeat(contiguous, 2, axis=2)[:, :, ::2]]
    assert np.array_equal(views[0], views[2])
    if order == "C":
        assert [type_of(t).unit_axis for t in views] == [None, 2, None]
    else:
        assert [type_of(t).unit_axis for t in views[:2]] == [None, 0]
    results = []
    for t in views:
        total = np.zeros(t.shape if function is difference else t.shape[1:], "f8")
        run(with_route(function, route), t, total, route=route)
        results.append(total)
    assert results[0].any()
    assert all(result.tobytes() == results[0].tobytes() for result in results)


def test_a_middle_axis_of_neighbours():
    t, out = FIELD.transpose(0, 2, 1)[:, :, 2:], np.zeros((7, 33, 10), "f4")
    assert type_of(t).unit_axis == 1
    run(copy3, t, out)
    assert out.tobytes() == (t * np.float32(2) + np.float32(1)).tobytes()


@settings(max_examples=15)
@given(st.data())
def test_views_of_all_kinds_are_read_right(data):
    cut = st.tuples(st.integers(0, 3), st.integers(4, 12), st.sampled_from([1, 2, -1]))
    key = tuple(slice(*data.draw(cut)) for _ in range(3))
    t = np.asarray(FIELD, order=data.draw(st.sampled_from("CF")))[key]
    t = t.transpose(data.draw(st.permutations(range(3))))
    out = np.zeros(t.shape, "f4")
    for_type(type_of(t), type_of(out))(t, out)
    assert out.tobytes() == (t * np.float32(2) + np.float32(1)).tobytes()


@functools.cache
def for_type(*types):
    return rebuild(compile_kernel(COPY3, types).payload)


def test_an_axis_that_is_none():
    for wrong in ({"layout": "C", "unit_axis": 1}, {"layout": "A", "unit_axis": 2}):
        with pytest.raises(ValueError, match="counted from 0"):
            ArrayType(np.dtype("f4"), 2, mutable=False, **wrong)


# ---------------------------------------------------------------- exceptions


class Unhappy(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_exceptions_of_the_user():
    def f(a, out):
        if a[0] > 0:
            raise Unhappy("salt", 3)  # here
        out[0] = a[0]

    with pytest.raises(KernelRaised) as caught:
        run(f, np.ones(1), np.zeros(1))
    raised = caught.value
    assert (raised.type_name, raised.message) == ("Unhappy", "salt and 3")
    assert raised.line == line_of(f, "# here")
    assert pickle.loads(pickle.dumps(raised)).line == raised.line


def test_exceptions_with_run_time_values():
    def f(a, out):
        if a[0] > 0:
            raise ValueError("too hot", a[0])  # here
        out[0] = a[0]

    with pytest.raises(KernelRaised) as caught:
        run(f, np.array([41.5]), np.zeros(1), route="numba")
    assert caught.value.type_name == "ValueError"
    assert caught.value.message == "('too hot', 41.5)"
    assert caught.value.line == line_of(f, "# here")
    assert caught.value.function == "f"


def test_slice_assignment_of_another_shape():
    def f(a, out):
        out[:] = a  # does not fit

    with pytest.raises(KernelRaised, match="array of another shape") as caught:
        run(f, np.ones(3), np.zeros(4))
    assert caught.value.line == line_of(f, "# does not fit")


# ---------------------------------------------------------------- what cannot be compiled


def assigns_to_input(a, out):
    a[0] = out[0]  # fails


def unknown_name(a, out):
    out[0] = 1
    out[0] = not_defined(a)  # noqa: F821  # fails


def plain_helper(x):
    return x


def calls_plain(a, out):
    out[0] = plain_helper(a[0])  # fails


def python_object(a, out):
    out[0] = SOMETHING.value  # fails


def unsupported_numpy(a, out):
    out[0] = np.gradient(a)  # fails


def too_many_indices(a, out):
    out[0] = a[0, 0]  # fails


def mixed_types(a, out):
    x = "text"
    out[0] = x  # fails


def float_index(a, out):
    out[a.shape[0] / 2] = 1.0  # fails


def changes_input_in_place(a, out):
    a += 1  # fails


def sorts_input(a, out):
    a.sort()  # fails


def mixed_product(a, out):
    out[0] = np.dot(a, out)  # fails


def matches_an_exception(a, out):
    try:
        out[0] = a[0]
    except IndexError:  # fails
        out[0] = 0


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (float_index, ["index type float64", "divide with //"]),
        (sorts_input, ["Cannot modify readonly array", "hs.update(...)"]),
        (matches_an_exception, ["Exception matching", "except Exception:"]),
        (assigns_to_input, ["Cannot modify readonly array", "hs.write(...) or hs.update(...)"]),
        (unknown_name, ["'not_defined' is not defined", "define the name"]),
        (calls_plain, ["plain_helper", "decorate the helper with numba.njit"]),
        (python_object, ["'SOMETHING'", "take the numbers out of the Python object"]),
        (unsupported_numpy, ["numpy.gradient", "write the operation as a loop"]),
        (too_many_indices, ["cannot index", "number of indices"]),
        (mixed_types, ["No implementation of setitem"]),
    ],
)
def test_compile_errors_name_kernel_line_types_and_remedy(function, says):
    a, out = frozen(np.zeros(3, "f4")), np.zeros(3)
    with pytest.raises(KernelError) as caught:
        compile_kernel(kernel(function), (type_of(a), type_of(out)), ("t", "result"))
    message = str(caught.value)
    assert caught.value.kernel == function.__name__
    assert f"{__file__}:{line_of(function, '# fails')}" in message
    assert "t: float32 array, 1 dimension, read-only" in message
    assert "result: float64 array, 1 dimension\n" in message + "\n"
    for words in says:
        assert words in message
    assert "During:" not in message and "\x1b" not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def mask_of_two_axes(a, out):
    out[a > 0] = 1.0


def shape_of_a_number(a, out):
    out[0, 0] = a.shape[0]


@pytest.mark.parametrize(
    ("function", "value", "says"),
    [
        (changes_input_in_place, frozen(np.zeros((2, 2))), ["in place", "hs.update(...)"]),
        (mask_of_two_axes, np.zeros((2, 2)), ["without a reason", "loop over elements"]),
        (shape_of_a_number, 2.5, ["'shape'", "order of the arguments"]),
        (shape_of_a_number, (1, 2), ["'shape'", "order of the arguments"]),
        (mixed_product, np.zeros((2, 2), "f4"), ["np.dot"]),
    ],
)
def test_where_numba_stumbles_the_message_is_about_the_kernel(function, value, says):
    with pytest.raises(KernelError, match="hint") as caught:
        compile_kernel(kernel(function), (type_of(value), type_of(np.zeros((2, 2)))), ("t", "out"))
    message = str(caught.value)
    assert "Failed in nopython" not in message and "NoneType" not in message
    for words in says:
        assert words in message


def test_wrong_number_of_arguments():
    with pytest.raises(KernelError, match=r"copy1\(a, out\) takes 2 arguments and was given 1"):
        compiled(copy1, np.zeros(1))
    with pytest.raises(KernelError, match="was given 3"):
        compiled(copy1, np.zeros(1), np.zeros(1), 1)


def test_returning_a_value_is_refused():
    def f(a):
        return a[0]

    with pytest.raises(KernelError, match=r"returns a value .* output argument"):
        compiled(f, np.zeros(1))


@numba.njit
def fibonacci(n):
    if n < 2:
        return 1
    return fibonacci(n - 1) + fibonacci(n - 2)


def test_recursion_is_refused():
    def f(out):
        out[0] = fibonacci(5)

    with pytest.raises(KernelError, match="recursive"):
        compiled(f, np.zeros(1))


def test_object_mode_is_refused():
    def f(out):
        with numba.objmode():
            print(out)
        out[0] = 1

    with pytest.raises(KernelError, match="objmode"):
        compiled(f, np.zeros(1))


def test_large_constants_are_refused():
    def f(out):
        out[0] = BIG_TABLE[3]

    with pytest.raises(KernelError, match=r"array BIG_TABLE \(1.6 MB\).*whole=True"):
        compiled(f, np.zeros(1))


def test_defaults_must_be_plain():
    def f(out, table=TABLE):
        out[0] = table[0]

    with pytest.raises(KernelError, match="not a number"):
        compiled(f, np.zeros(1))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        ("f2", "np.asarray(a, '<f4')"),
        (np.longdouble, "np.asarray(a, '<f8')"),
        (np.clongdouble, "np.asarray(a, '<c16')"),
        (">f4", "np.asarray(a, '<f4')"),
        ("O", "np.asarray(a, '<f8')"),
        ("S3", "not on text"),
        ("U3", "not on text"),
        ("V7", "dtype='7u1'"),
        ([("good", "f4"), ("bad", ">i2")], "field 'bad'"),
    ],
)
def test_dtypes_kernels_cannot_take(dtype, remedy):
    with pytest.raises(KernelError) as caught:
        compiled(copy1, np.zeros(2, dtype), np.zeros(2))
    assert "argument 'a'" in str(caught.value) and remedy in str(caught.value)
    with pytest.raises(KernelError):
        check_dtype("a", np.dtype(dtype))


def test_numba_disabled_is_said(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(KernelError, match="NUMBA_DISABLE_JIT"):
        compiled(copy1, np.zeros(1), np.zeros(1))


def test_types_in_words():
    assert describe("f", ScalarType(np.dtype("f8"))) == "f: float64 number"
    assert describe("o", TupleType(3)) == "o: tuple of 3 integers"
    strided = ArrayType(np.dtype("i2"), 2, "A", True)
    assert describe("x", strided) == "x: int16 array, 2 dimensions, strided"


# ---------------------------------------------------------------- calling in this process


def test_calling_runs_the_machine_code():
    @kernel
    def f(a, out):
        for i in range(a.shape[0]):
            out[i] = a[i] / 0.0

    out = np.zeros(2)
    f([1.0, -1.0], out)  # Python alone would raise ZeroDivisionError
    assert out.tolist() == [np.inf, -np.inf]


def test_calling_reports_errors():
    out = np.zeros(2)
    with pytest.raises(KernelError, match=r"past_the_end raised IndexError.*test_compiler.py:"):
        kernel(past_the_end)(out, out)
    with pytest.raises(KernelError, match="Cannot modify readonly array"):
        kernel(copy1)(out, [0.0, 0.0])
    with pytest.raises(KernelError, match="not str"):
        kernel(copy1)(out, "text")
    unaligned = np.zeros(17, "u1")[1:].view("f8")
    with pytest.raises(KernelError, match="not aligned"):
        kernel(copy1)(unaligned, out)


# ---------------------------------------------------------------- caching and publishing


def test_compiled_once_per_signature_and_thread():
    made = kernel(copy1)
    types = (type_of(np.zeros(1)), type_of(np.zeros(1)))
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(compile_kernel(made, types)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len({id(r) for r in results}) == 1
    other = (type_of(np.zeros(1, "f4")), types[1])
    assert compile_kernel(made, other) is not results[0]


def test_publish_is_atomic_and_idempotent(tmp_path):
    out = np.zeros(1)
    code = compile_kernel(kernel(copy1), (type_of(out), type_of(out)))
    ref = publish(code, tmp_path)
    before = Path(ref.path).stat()
    assert publish(code, tmp_path) == ref
    assert Path(ref.path).stat().st_mtime_ns == before.st_mtime_ns
    assert [p.name for p in tmp_path.iterdir()] == [Path(ref.path).name]
    assert load(ref).types == code.types


# ---------------------------------------------------------------- where kernels come from

SCRIPT = """\
import numba, numpy as np
from hyperslab.compiler import kernel
@numba.njit
def half(x): return x / 2
@kernel
def f(a, out):
    for i in range(a.shape[0]):
        out[i] = half(a[i])
out = np.zeros(2)
f(np.array([2.0, 4.0]), out)
assert out.tolist() == [1, 2]
try:
    f(np.zeros(3), out)
except Exception as error:
    assert "IndexError" in str(error) and ":8" in str(error), error
else:
    raise SystemExit("not caught")
"""


@pytest.mark.parametrize("how", ["script", "-c", "stdin"])
def test_kernels_of_scripts(how, tmp_path):
    arguments: list[str] = []
    if how == "script":
        (tmp_path / "script.py").write_text(SCRIPT)
        arguments = [str(tmp_path / "script.py")]
    elif how == "-c":
        arguments = ["-c", SCRIPT]
    text = SCRIPT if how == "stdin" else None
    subprocess.run([sys.executable, *arguments], input=text, text=True, check=True, timeout=60)


def test_kernels_made_by_exec():
    scope = {"np": np}
    exec("def f(a, out):\n    out[0] = np.sqrt(a[0])\n", scope)  # noqa: S102
    out = np.zeros(1)
    run(scope["f"], np.array([9.0]), out)
    assert out[0] == 3


def test_kernels_of_notebooks(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "-c", SCRIPT],
        check=True,
        timeout=60,
        cwd=tmp_path,
    )
