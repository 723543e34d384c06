"""Jobs from end to end, against NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hyperslab as hs

MANY = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
SOME = settings(MANY, max_examples=15)


def numbered(shape: tuple[int, ...], dtype: str = "f8", order: str = "C") -> np.ndarray:
    """Every element another value, so that a misplaced one shows."""
    return np.asarray(np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape), dtype, order)


# Elementwise: shapes, orders, strided views, region shapes.


@hs.kernel
def affine(a, out):
    for index in np.ndindex(out.shape):
        out[index] = 2.0 * a[index] + 1.0


@hs.kernel
def affine_0d(a, out):
    out[()] = 2.0 * a[()] + 1.0


@st.composite
def slicings(draw: st.DrawFn, length: int) -> slice:
    """Any part of an axis, forwards or backwards."""
    start = draw(st.integers(0, length))
    stop = draw(st.integers(start, length))
    step = draw(st.sampled_from([1, 1, 2, 3]))
    part = slice(start, stop, step)
    if draw(st.booleans()):
        return part
    indices = range(length)[part]
    if not indices:
        return part
    return slice(indices[-1], indices[0] - 1 if indices[0] else None, -step)


@st.composite
def region_shapes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """A region shape for a domain, or None for the one that is chosen."""
    if draw(st.integers(0, 4)) == 0:
        return None
    return tuple(draw(st.none() | st.integers(1, n + 1)) for n in shape)


@st.composite
def elementwise_jobs(draw: st.DrawFn) -> tuple[Any, ...]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    orders = draw(st.tuples(*[st.sampled_from("CF")] * 2))
    key = tuple(draw(slicings(n)) for n in shape)
    view = np.empty(shape)[key].shape
    return shape, orders, key, draw(region_shapes(view))


def check_elementwise(engine: hs.Engine, job: tuple[Any, ...]) -> None:
    shape, (order_in, order_out), key, region = job
    values = numbered(shape, order=order_in)
    expected = np.full(shape, -7.0, order=order_out)
    a, out = hs.from_array(values), hs.from_array(expected)
    report = engine.run(affine if shape else affine_0d, a[key], hs.write(out[key]), region=region)
    # What lies between the elements of the view is not touched.
    expected[key] = 2 * values[key] + 1
    np.testing.assert_array_equal(np.asarray(out), expected)
    assert report.bytes_read == report.bytes_written == values[key].nbytes
    assert report.regions == sum(span.stop - span.start for span in report.timeline)
    if region is not None and all(n for n in values[key].shape):
        lengths = zip(values[key].shape, region, strict=True)
        assert report.regions == np.prod([-(-n // (r or n)) for n, r in lengths], dtype=int)


@MANY
@given(job=elementwise_jobs())
def test_elementwise_serial(serial: hs.Engine, job: tuple[Any, ...]) -> None:
    check_elementwise(serial, job)


@SOME
@given(job=elementwise_jobs())
def test_elementwise_workers(warm: hs.Engine, job: tuple[Any, ...]) -> None:
    check_elementwise(warm, job)


@hs.kernel
def copy(a, out):
    for i in range(out.shape[0]):
        out[i] = a[i]


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i2", "u4", "i8", "f4", "c8", "c16", "M8[s]", "m8[ms]"]
)
def test_dtypes(engine: hs.Engine, dtype: str) -> None:
    values = np.arange(11).astype("i8").astype(dtype)
    out = hs.from_array(np.zeros(11, dtype))
    engine.run(copy, hs.from_array(values), hs.write(out), region=4)
    assert np.asarray(out).tobytes() == values.tobytes()


# Halos and boundaries.


@hs.kernel
def windowed(u, weights, before, clip, shape, origin, out):
    """Weighted sum over a window; with clip != 0 the view is cut at the array's edges."""
    first, second = origin[0] - before[0], origin[1] - before[1]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = 0
            for a in range(weights.shape[0]):
                for b in range(weights.shape[1]):
                    x, y = i + a, j + b
                    if clip != 0:
                        if not (0 <= first + x < shape[0] and 0 <= second + y < shape[1]):
                            continue
                        x, y = x + min(first, 0), y + min(second, 0)
                    total += weights[a, b] * u[x, y]
            out[i, j] = total


BOUNDARIES: list[Any] = ["clip", "nearest", "reflect", "wrap", 0, -3]
# A few only, because lengths that are known to agree make another machine code for each.
HALOS = [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((7, 0), (2, 3))]
PADDING = {"nearest": "edge", "reflect": "reflect", "wrap": "wrap"}


@st.composite
def halo_jobs(draw: st.DrawFn) -> tuple[Any, ...]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7))
    halo = draw(st.sampled_from(HALOS))
    order = draw(st.sampled_from("CF"))
    return shape, order, halo, draw(st.sampled_from(BOUNDARIES)), draw(region_shapes(shape))


def check_halo(engine: hs.Engine, job: tuple[Any, ...]) -> None:
    shape, order, halo, boundary, region = job
    values = numbered(shape, "i8", order)
    window = tuple(before + 1 + after for before, after in halo)
    weights = numbered(window, "i8") % 101
    out = hs.from_array(np.zeros(shape, "i8"))
    engine.run(
        windowed,
        hs.read(hs.from_array(values), halo=halo, boundary=boundary),
        weights,
        np.array([before for before, _ in halo]),
        int(boundary == "clip"),
        np.array(shape),
        hs.ORIGIN,
        hs.write(out),
        region=region,
    )
    if boundary in PADDING:
        padded = np.pad(values, halo, mode=PADDING[boundary])
    else:
        padded = np.pad(values, halo, constant_values=0 if boundary == "clip" else boundary)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    np.testing.assert_array_equal(np.asarray(out), np.einsum("ijab,ab->ij", windows, weights))


@settings(MANY, max_examples=30)
@given(job=halo_jobs())
def test_halo_serial(serial: hs.Engine, job: tuple[Any, ...]) -> None:
    check_halo(serial, job)


@settings(MANY, max_examples=8)
@given(job=halo_jobs())
def test_halo_workers(warm: hs.Engine, job: tuple[Any, ...]) -> None:
    check_halo(warm, job)


# Alignment: broadcasting, axes=, whole=, over=, ORIGIN.


@hs.kernel
def plus_plane(a, b, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                out[i, j, k] = a[i, j, k] + 1000 * b[j % b.shape[0], k % b.shape[1]]


@pytest.mark.parametrize("region", [None, (1, 2, 2), (2, 3, 4), (None, 1, None)])
@pytest.mark.parametrize("plane", [(3, 4), (1, 4), (3, 1), (1, 1)])
def test_broadcasting(
    engine: hs.Engine, plane: tuple[int, int], region: tuple[int, ...] | None
) -> None:
    a, b = numbered((5, 3, 4)), numbered(plane)
    out = hs.from_array(np.zeros(a.shape))
    engine.run(plus_plane, hs.from_array(a), hs.from_array(b), hs.write(out), region=region)
    np.testing.assert_array_equal(np.asarray(out), a + 1000 * b)


@hs.kernel
def plus_cross(a, b, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                out[i, j, k] = a[i, j, k] + 1000 * b[k, i]


@pytest.mark.parametrize("region", [None, (2, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize("axes", [(2, 0), (-1, -3)])
def test_axes(engine: hs.Engine, axes: tuple[int, int], region: tuple[int, ...] | None) -> None:
    a, b = numbered((5, 3, 4)), numbered((4, 5))
    out = hs.from_array(np.zeros(a.shape))
    engine.run(
        plus_cross,
        hs.from_array(a),
        hs.read(hs.from_array(b), axes=axes),
        hs.write(out),
        region=region,
    )
    np.testing.assert_array_equal(np.asarray(out), a + 1000 * b.T[:, None, :])


@hs.kernel
def column_means(a, out):
    for i in range(out.shape[0]):
        total = 0.0
        for t in range(a.shape[0]):
            total += a[t, i]
        out[i] = total / a.shape[0]


def test_an_axis_that_the_domain_lacks_is_shown_whole(engine: hs.Engine) -> None:
    a = numbered((6, 10))
    out = hs.from_array(np.zeros(10))
    engine.run(column_means, hs.from_array(a), hs.write(out), region=3)
    np.testing.assert_array_equal(np.asarray(out), a.mean(axis=0))
    # The same along the other axis, by name.
    out = hs.from_array(np.zeros(6))
    engine.run(column_means, hs.read(hs.from_array(a.T), axes=(None, 0)), hs.write(out), region=4)
    np.testing.assert_array_equal(np.asarray(out), a.mean(axis=1))


@hs.kernel
def rank(a, everything, out):
    for i in range(out.shape[0]):
        for other in everything:
            if other < a[i]:
                out[i] += 1


def test_whole_shows_every_task_all_of_it(engine: hs.Engine) -> None:
    values = np.array([5.0, 3.0, 9.0, 1.0, 7.0, 2.0, 8.0])
    a, out = hs.from_array(values), hs.from_array(np.zeros(7, int))
    engine.run(rank, a, hs.read(a, whole=True), hs.write(out), region=2)
    np.testing.assert_array_equal(np.asarray(out), values.argsort().argsort())


@hs.kernel
def where_am_i(origin, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (origin[0] + i) * 100 + origin[1] + j


def test_origin_and_over(engine: hs.Engine) -> None:
    out = hs.from_array(np.zeros((7, 9), int))
    engine.run(where_am_i, hs.ORIGIN, hs.write(out), region=(2, 4))
    np.testing.assert_array_equal(np.asarray(out), np.add.outer(np.arange(7) * 100, np.arange(9)))

    counts = hs.from_array(np.array([5]))
    engine.run(count_one, hs.accumulate(counts), over=(10, 3), region=(2, 3))
    assert int(counts[0]) == 5 + 5
    engine.run(count_one, hs.accumulate(counts), over=out, region=(2, None))
    assert int(counts[0]) == 10 + 4


@hs.kernel
def count_one(out):
    out[0] += 1


# Values that are sent.


@hs.kernel
def mix(a, table, n, x, flag, z, small, origin, out, extra=3):
    for i in range(out.shape[0]):
        if flag:
            entry = table[(origin[0] + i) % 3]
            out[i] = a[i] * n + x + z.real + z.imag + small + entry + extra


def test_scalars_small_arrays_and_defaults(engine: hs.Engine) -> None:
    a, table = numbered((10,)), np.array([10.0, 20.0, 30.0])
    out = hs.from_array(np.zeros(10))
    numbers = (2, 0.5, True, 1 + 2j, np.float32(0.25))
    arguments = (hs.from_array(a), table, *numbers, hs.ORIGIN, hs.write(out))
    expected = a * 2 + 0.5 + 3 + 0.25 + np.resize(table, 10)
    engine.run(mix, *arguments, region=4)
    np.testing.assert_array_equal(np.asarray(out), expected + 3)
    engine.run(mix, *arguments, 7, region=4)
    np.testing.assert_array_equal(np.asarray(out), expected + 7)
    engine.run(mix, *arguments[:4], np.False_, *arguments[5:], region=4)
    np.testing.assert_array_equal(np.asarray(out), np.zeros(10))


def test_a_plan_keeps_the_small_array_it_was_given(engine: hs.Engine) -> None:
    table, out = np.array([1.0, 2.0]), hs.from_array(np.zeros(4))
    job = engine.plan(lookup, table, hs.write(out), region=3)
    table[:] = 99
    job.run()
    job.run()
    assert np.asarray(out).tolist() == [1, 1, 1, 1]


@hs.kernel
def lookup(table, out):
    for i in range(out.shape[0]):
        out[i] = table[0]


# In place, and what is left out.


@hs.kernel
def scale(a, factor):
    for index in np.ndindex(a.shape):
        a[index] *= factor


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("region", [None, (2, 3), (None, 1)])
def test_update_in_place(
    engine: hs.Engine, order: str, region: tuple[int | None, ...] | None
) -> None:
    values = numbered((5, 7), order=order)
    a = hs.from_array(values)
    engine.run(scale, hs.update(a[::2, ::-1]), 10.0, region=region)
    values[::2] *= 10
    np.testing.assert_array_equal(np.asarray(a), values)


@hs.kernel
def previous_plus_one(old, new):
    for i in range(new.shape[0]):
        new[i] = old[i] + 1


def test_one_array_read_and_updated_at_the_same_place(engine: hs.Engine) -> None:
    a = hs.from_array(numbered((9,)))
    engine.run(previous_plus_one, a, hs.update(a), region=2)
    np.testing.assert_array_equal(np.asarray(a), numbered((9,)) + 1)


def test_interleaved_views_of_one_file(engine: hs.Engine) -> None:
    a = hs.from_array(numbered((10,)))
    engine.run(previous_plus_one, a[::2], hs.write(a[1::2]), region=2)
    np.testing.assert_array_equal(np.asarray(a), np.repeat(numbered((10,))[::2], 2) + [0, 1] * 5)


@hs.kernel
def every_third(origin, out):
    for i in range(out.shape[0]):
        if (origin[0] + i) % 3 == 0:
            out[i] = 1


def test_what_a_kernel_leaves_out_is_zero(engine: hs.Engine) -> None:
    out = hs.from_array(np.full(20, 9.0))
    engine.run(every_third, hs.ORIGIN, hs.write(out), region=4)
    np.testing.assert_array_equal(np.asarray(out), np.arange(20) % 3 == 0)


def test_outputs_of_different_shapes(engine: hs.Engine) -> None:
    a = numbered((6, 4))
    doubled, sums = hs.from_array(np.zeros((6, 4))), hs.from_array(np.zeros(6))
    report = engine.run(
        double_and_sum,
        hs.from_array(a),
        hs.write(doubled),
        hs.write(sums, axes=(0,)),
        region=(2, 4),
    )
    np.testing.assert_array_equal(np.asarray(doubled), 2 * a)
    np.testing.assert_array_equal(np.asarray(sums), a.sum(axis=1))
    assert report.regions == 3
    # Axis 1 would write each sum several times: it stays whole by itself, and by hand it must.
    with pytest.raises(hs.PlanError, match="splits domain axis 1"):
        engine.run(
            double_and_sum,
            hs.from_array(a),
            hs.write(doubled),
            hs.write(sums, axes=(0,)),
            region=(2, 2),
        )


@hs.kernel
def double_and_sum(a, doubled, sums):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            doubled[i, j] = 2 * a[i, j]
            sums[i] += a[i, j]


# Accumulation.


@hs.kernel
def into_add(a, out):
    for x in a:
        out[0] += x


@hs.kernel
def into_multiply(a, out):
    for x in a:
        out[0] *= x


@hs.kernel
def into_minimum(a, out):
    for x in a:
        out[0] = min(out[0], x)


@hs.kernel
def into_maximum(a, out):
    for x in a:
        out[0] = max(out[0], x)


@hs.kernel
def into_logical_and(a, out):
    for x in a:
        out[0] = (out[0] != 0) and (x != 0)


@hs.kernel
def into_logical_or(a, out):
    for x in a:
        out[0] = (out[0] != 0) or (x != 0)


OPERATIONS = {
    "add": into_add,
    "multiply": into_multiply,
    "minimum": into_minimum,
    "maximum": into_maximum,
    "logical_and": into_logical_and,
    "logical_or": into_logical_or,
}


@pytest.mark.parametrize("dtype", ["i4", "f8"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_operations(engine: hs.Engine, op: str, dtype: str) -> None:
    # Small whole numbers: sums and products are exact in floats too.
    values = np.array([3, -1, 2, 1, -2, 1, 1, 2, 3, -1, 1], dtype)
    a = hs.from_array(values)
    for old, changed in itertools.product((0, 1, -5), (None, 4)):
        part = values if changed is None else np.where(np.arange(11) == changed, 0, values)
        a[...] = part
        out = hs.from_array(np.array([old, old], dtype))
        engine.run(OPERATIONS[op], a, hs.accumulate(out, op=op), region=3)
        ufunc = getattr(np, op)
        expected = ufunc(np.array(old, dtype), ufunc.reduce(part))
        assert out[0].item() == dtype_of(dtype, expected)
        # The element that no contribution reached was combined with the identity.
        assert out[1].item() == (bool(old) if op.startswith("logical") else old)


def dtype_of(dtype: str, value: Any) -> Any:
    return np.asarray(value).astype(dtype).item()


@pytest.mark.parametrize("op", ["minimum", "maximum"])
def test_extremes_start_beyond_every_value(engine: hs.Engine, op: str) -> None:
    for dtype in ("u1", "i8", "f4"):
        limit = np.iinfo(dtype) if dtype != "f4" else np.finfo(dtype)
        worst = limit.max if op == "minimum" else limit.min
        out = hs.from_array(np.full(1, worst, dtype))
        engine.run(OPERATIONS[op], hs.from_array(np.full(5, worst, dtype)), hs.accumulate(out, op))
        assert out[0].item() == worst


@hs.kernel
def histogram(values, low, high, counts):
    for index in np.ndindex(values.shape):
        if low <= values[index] < high:
            counts[int((values[index] - low) / (high - low) * counts.shape[0])] += 1


def test_histogram(engine: hs.Engine) -> None:
    values = np.random.default_rng(1).normal(size=(50, 40))
    counts = hs.from_array(np.ones(16, int))
    report = engine.run(
        histogram, hs.from_array(values), -3.0, 3.0, hs.accumulate(counts), region=(7, 9)
    )
    expected, _ = np.histogram(values, 16, (-3, 3))
    np.testing.assert_array_equal(np.asarray(counts), expected + 1)
    assert report.regions == 40


@hs.kernel
def spread(shots, image):
    for i in range(shots.shape[0]):
        for j in range(shots.shape[1]):
            for k in range(3):
                image[i + k, j] += shots[i, j]


def three_wide(region: tuple[slice, ...]) -> tuple[slice, ...]:
    """A region of shots reaches two rows further in the image than its own."""
    return (slice(region[0].start, region[0].stop + 2), region[1])


def spread_by_numpy(shots: np.ndarray, image: np.ndarray) -> None:
    for k in range(3):
        image[k : k + len(shots)] += shots


@st.composite
def footprint_jobs(draw: st.DrawFn) -> tuple[Any, ...]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
    dtype = draw(st.sampled_from(["i8", "f8"]))
    order = draw(st.sampled_from("CF"))
    waiting = draw(st.sampled_from(["region", "any"]))
    return shape, dtype, order, waiting, draw(region_shapes(shape))


def check_footprint(engine: hs.Engine, job: tuple[Any, ...]) -> None:
    shape, dtype, order, waiting, region = job
    shots = numbered(shape, dtype)
    expected = np.full((shape[0] + 2, shape[1]), 5, dtype, order)
    image = hs.from_array(expected)
    engine.run(
        spread,
        hs.from_array(shots),
        hs.accumulate(image, footprint=three_wide, order=waiting),
        region=region,
    )
    # Whole numbers: the sums are exact whatever the order.
    spread_by_numpy(shots, expected)
    np.testing.assert_array_equal(np.asarray(image), expected)


@settings(MANY, max_examples=30)
@given(job=footprint_jobs())
def test_overlapping_footprints_serial(serial: hs.Engine, job: tuple[Any, ...]) -> None:
    check_footprint(serial, job)


@SOME
@given(job=footprint_jobs())
def test_overlapping_footprints_workers(warm: hs.Engine, job: tuple[Any, ...]) -> None:
    check_footprint(warm, job)


@hs.kernel
def marginals(a, rows, columns, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            rows[i] += a[i, j]
            columns[j] += a[i, j]
            total[0] = max(total[0], a[i, j])


def test_several_accumulations_in_one_job(engine: hs.Engine) -> None:
    values = numbered((6, 8), "i8")
    rows, columns = hs.from_array(np.zeros(6, int)), hs.from_array(np.zeros(8, int))
    top = hs.from_array(np.zeros(1, int))
    engine.run(
        marginals,
        hs.from_array(values),
        hs.accumulate(rows, footprint=lambda region: region[0]),
        hs.accumulate(columns, footprint=lambda region: (region[1],)),
        hs.accumulate(top, op="maximum"),
        region=(2, 3),
    )
    np.testing.assert_array_equal(np.asarray(rows), values.sum(axis=1))
    np.testing.assert_array_equal(np.asarray(columns), values.sum(axis=0))
    assert int(top[0]) == 48


def test_where_private_copies_do_not_fit_tasks_add_into_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=2000)
    counts = hs.from_array(np.zeros(5000, "i8"))
    with hs.Engine(executor="serial", memory=100_000, lock_dir=tmp_path, progress=False) as engine:
        job = engine.plan(
            histogram, hs.from_array(values), -3.0, 3.0, hs.accumulate(counts), region=300
        )
        assert "in the file, under its lock" in job.explain()
        job.run()
    np.testing.assert_array_equal(np.asarray(counts), np.histogram(values, 5000, (-3, 3))[0])


# Files of every kind, and what is left behind.


def test_files_that_numpy_and_others_wrote(engine: hs.Engine, tmp_path: Path) -> None:
    values = numbered((6, 5), "f4")
    np.save(tmp_path / "in.npy", np.asfortranarray(values))
    (tmp_path / "raw.bin").write_bytes(b"16 bytes of junk" + values.tobytes())
    with (
        hs.open(tmp_path / "in.npy") as a,
        hs.open(tmp_path / "raw.bin", dtype="f4", shape=(6, 5), offset=16) as b,
        hs.create(tmp_path / "out.npy", (6, 5), "f4") as out,
    ):
        engine.run(add, a, b, hs.write(out), region=(4, 2))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), 2 * values)


@hs.kernel
def add(a, b, out):
    for index in np.ndindex(out.shape):
        out[index] = a[index] + b[index]


def test_arrays_shared_with_other_programs(engine: hs.Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "shared.npy", numbered((50,)))
    a = hs.open(tmp_path / "shared.npy", "r+", shared=True, lock_dir=tmp_path)
    out = hs.create(tmp_path / "out.npy", (50,), shared=True, lock_dir=tmp_path)
    engine.run(previous_plus_one, a, hs.write(out), region=8)
    engine.run(scale, hs.update(a), 3.0, region=8)
    total = hs.create(tmp_path / "total.npy", (1,), shared=True, lock_dir=tmp_path)
    engine.run(into_add, a, hs.accumulate(total), region=8)
    np.testing.assert_array_equal(np.asarray(out), numbered((50,)) + 1)
    np.testing.assert_array_equal(np.asarray(a), numbered((50,)) * 3)
    assert float(total[0]) == 3 * 1275


def test_an_empty_domain_is_no_work(engine: hs.Engine) -> None:
    for shape in ((0,), (0, 3), (4, 0, 2)):
        a, out = hs.from_array(np.zeros(shape)), hs.from_array(np.zeros(shape))
        report = engine.run(affine, a, hs.write(out))
        assert (report.regions, report.tasks, report.bytes_written) == (0, 0, 0)
    counts = hs.from_array(np.array([4]))
    engine.run(count_one, hs.accumulate(counts), over=(3, 0))
    assert int(counts[0]) == 4


@hs.kernel
def widest(u, out):
    out[0] = u.shape[0] * 100 + u.shape[1]


@pytest.mark.parametrize(("boundary", "width"), [(7.0, 6), ("clip", 4)])
def test_a_halo_around_an_array_without_elements(
    engine: hs.Engine, boundary: str | float, width: int
) -> None:
    nothing, out = hs.from_array(np.zeros((0, 4))), hs.from_array(np.zeros(3, int))
    engine.run(
        widest,
        hs.read(nothing, halo=(0, 1), boundary=boundary, axes=(None, None)),
        hs.write(out),
        region=1,
    )
    assert np.asarray(out).tolist() == [width] * 3


def names_in(directories: Sequence[Path]) -> set[str]:
    return {path.name for directory in directories for path in directory.rglob("*")}


def test_a_job_leaves_nothing_in_the_scratch_directory(tmp_path: Path) -> None:
    a, out = hs.from_array(numbered((100,))), hs.from_array(np.zeros(100))
    with hs.Engine(executor="serial", scratch=tmp_path, progress=False) as engine:
        engine.run(previous_plus_one, a, hs.write(out), region=9)
        del a, out  # As long as its arrays are there, a short job is kept to be run again.
        left = names_in([tmp_path])
    # The machine code stays for the next job, and the owner's mark; of the job nothing.
    assert {name.rpartition(".")[2] for name in left if "session" not in name} == {"kernel", "lock"}
