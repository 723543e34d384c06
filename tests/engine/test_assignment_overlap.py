"""Assignment from the array's own file, against NumPy in memory, and how little memory it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hyperslab as hs
from hyperslab import session
from hyperslab.arrays import assignment
from hyperslab.arrays.overlap import Source, chunk_grid, in_file_order, safe_direction
from hyperslab_workers import mapping

PAIR = np.dtype([("x", "<f4"), ("n", "<i2"), ("y", "<f4", (2,))])
DTYPES = st.sampled_from([*map(np.dtype, ["u1", "i8", ">i2", "f4", "c16", "M8[s]", "S3"]), PAIR])
ORDERS = st.sampled_from(["C", "F"])


@pytest.fixture(autouse=True)
def _no_maps_left() -> Iterator[None]:
    yield
    mapping.forget_all()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overlap")


@contextlib.contextmanager
def small(chunk: int, copied: int = -1) -> Iterator[None]:
    """Chunks of a few bytes, and nothing small enough to be copied whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_CHUNK_BYTES", chunk)
        patch.setattr(assignment, "_COPIED_WHOLE", copied)
        yield


def different(shape: tuple[int, ...], dtype: np.dtype, order: str) -> np.ndarray:
    """Every element has bytes of its own, as far as there are enough."""
    size = int(np.prod(shape)) * dtype.itemsize
    data = np.frombuffer((np.arange(size) * 37 % 101 + 1).astype("u1").tobytes(), dtype)
    return np.array(data.reshape(shape, order=order), order=order)


@st.composite
def two_views(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[list[object], list[object]]:
    """Two chains of keys and of permutations, the second of which fits into the first."""

    def chain(view: np.ndarray) -> tuple[list[object], np.ndarray]:
        steps: list[object] = []
        for _ in range(draw(st.integers(1, 2))):
            key = draw(hnp.basic_indices(view.shape, allow_newaxis=True, max_dims=5))
            key = key if isinstance(key, tuple) else (key,)
            key = key if ... in key else (*key, ...)
            axes = tuple(draw(st.permutations(range(view[key].ndim))))
            steps += [key, axes]
            view = view[key].transpose(axes)
        return steps, view

    base = np.zeros(shape)
    written, target = chain(base)
    read, source = chain(base)
    extra = max(source.ndim - target.ndim, 0)
    assume(0 not in source.shape[:extra])
    read += [((0,) * extra + (...,)), tuple(range(source.ndim - extra))]
    source = source[(0,) * extra + (...,)]
    # Cut both to the length they have in common, unless the source's is to be repeated.
    cut_target, cut_source = [slice(None)] * target.ndim, [slice(None)] * source.ndim
    for axis in range(-min(source.ndim, target.ndim), 0):
        n, m = target.shape[axis], source.shape[axis]
        if m != 1:
            cut_target[axis], cut_source[axis] = slice(min(n, m)), slice(min(n, m))
    written += [(*cut_target, ...), tuple(range(target.ndim))]
    read += [(*cut_source, ...), tuple(range(source.ndim))]
    return written, read


def follow(array, steps):
    for key, axes in zip(steps[::2], steps[1::2], strict=True):
        array = array[key]
        array = array.transpose(axes)
    return array


def fits(target: np.ndarray, source: np.ndarray) -> bool:
    try:
        np.broadcast_to(source, target.shape)
    except ValueError:
        return False
    return True


@settings(max_examples=500, deadline=None)
@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=6),
    dtype=DTYPES,
    order=ORDERS,
    chunk=st.sampled_from([1, 24, 64, 4096]),
    reader=st.sampled_from(["array", "view", "other", "memmap"]),
)
def test_any_two_views_are_assigned_as_by_numpy(
    directory, data, shape, dtype, order, chunk, reader
):
    written, read = data.draw(two_views(shape))
    expected = different(shape, dtype, order)
    a = hs.create(directory / "a.npy", shape, dtype, order=order, overwrite=True)
    a[...] = expected
    target, source = follow(expected, written), follow(expected, read)
    assume(fits(target, source))
    sources = {
        "array": lambda: a,
        "view": lambda: np.asarray(a),
        "other": lambda: hs.open(a.path),
        "memmap": lambda: np.load(a.path, mmap_mode="r"),
    }
    with small(chunk):
        follow(a, written)[...] = follow(sources[reader](), read)
    target[...] = source.copy()
    assert np.load(a.path).tobytes("A") == expected.tobytes("A")
    assert list(session.session_directory().glob("moved-*")) == []


STEPS = st.integers(-8, 8).filter(bool)


@settings(max_examples=1000, deadline=None)
@given(
    types=st.tuples(*[st.sampled_from(["u1", "<i2", ">f4", "f8"])] * 2),
    offsets=st.tuples(*[st.integers(0, 60)] * 2),
    steps=st.tuples(STEPS, STEPS),
    count=st.integers(2, 20),
    chunk=st.integers(1, 64),
)
@example(types=("u1", "u1"), offsets=(1, 0), steps=(1, 1), count=20, chunk=4)
@example(types=("u1", "u1"), offsets=(0, 1), steps=(1, 1), count=20, chunk=4)
@example(types=("u1", "f8"), offsets=(4, 0), steps=(8, 1), count=20, chunk=4)
def test_any_two_rows_of_elements_in_one_file(directory, types, offsets, steps, count, chunk):
    """Of any types and steps, at any distance, with chunks that end anywhere."""
    path = directory / "row.bin"
    content = (np.arange(60 + 8 * 20 * 8) * 7 % 90).astype("u1")
    content.tofile(path)
    arrays, views = [], []
    for dtype, offset, step in zip(map(np.dtype, types), offsets, steps, strict=True):
        length = 1 + (count - 1) * abs(step)
        arrays.append(hs.open(path, "r+", dtype=dtype, offset=offset, shape=length)[::step])
        memory = content[offset : offset + length * dtype.itemsize].view(dtype)
        views.append(memory[::step])
    with small(chunk), np.errstate(all="ignore"):
        arrays[0][...] = arrays[1]
        views[0][...] = views[1].copy()
    assert path.read_bytes() == content.tobytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=7), order=ORDERS)
def test_shifts_need_neither_scratch_nor_memory(directory, data, shape, order):
    """Views with equal strides: the order of the chunks is all it takes, in every direction."""
    a = hs.create(directory / "a.npy", shape, "i4", order=order, overwrite=True)
    expected = different(shape, np.dtype("i4"), order)
    a[...] = expected
    to, of = [], []
    for length in shape:
        shift = data.draw(st.integers(1 - length, length - 1))
        step = data.draw(st.sampled_from([1, 2, -1]))
        ends = slice(max(shift, 0), length + min(shift, 0))
        to.append(slice(*ends.indices(length)[:2]))
        of.append(slice(max(-shift, 0), length - max(shift, 0)))
        to[-1], of[-1] = ((to[-1], step), (of[-1], step))
    axes = data.draw(st.permutations(range(len(shape))))

    def cut(array, parts):
        array = array[tuple([part for part, _ in parts])]
        return array[tuple([slice(None, None, step) for _, step in parts])].transpose(axes)

    with small(data.draw(st.sampled_from([1, 8, 32]))), pytest.MonkeyPatch.context() as patch:
        patch.delattr(assignment, "_in_scratch")
        patch.delattr(assignment, "_may_meet")
        cut(a, to)[...] = cut(a, of)
    cut(expected, to)[...] = cut(expected, of).copy()
    assert np.array_equal(np.asarray(a), expected)


@pytest.mark.parametrize(
    ("to", "of", "way"),
    [
        (np.s_[:50], np.s_[::2], 1),  # close up
        (np.s_[::2], np.s_[:50], -1),  # spread out
        (np.s_[1::2], np.s_[:50], -1),
        (np.s_[:], np.s_[::-1], 0),
        (np.s_[20:], np.s_[:1], -1),
        (np.s_[:20], np.s_[:1], -1),
        (np.s_[:20], np.s_[10:11], 0),
    ],
)
def test_the_way_is_known_from_the_layouts(tmp_path, to, of, way):
    a = hs.create(tmp_path / "a.npy", 100, "f8")
    values = np.broadcast_to(np.asarray(a[of]), a[to].shape)
    target, values = in_file_order(a[to].ref, values)
    source = Source.at(mapping.origin_of(values)[1][0], values)
    assert safe_direction(target, source, chunk_grid(target, 32)) == way
    overlapping = dataclasses.replace(target, strides=(4,))
    assert safe_direction(overlapping, source, chunk_grid(target, 32)) == 0


def test_fields_and_columns_between_each_other_are_not_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(assignment, "_COPIED_WHOLE", -1)
    monkeypatch.delattr(assignment, "_in_scratch")
    a = hs.from_array(different((30, 30), PAIR, "C"), scratch=tmp_path)
    expected = np.array(a)
    a["x"][::-1] = a["n"].T
    a["y"][:, ::-2, 0] = a["x"][:, ::2].T[:30].T
    expected["x"][::-1] = expected["n"].T
    expected["y"][:, ::-2, 0] = expected["x"][:, ::2]
    assert np.array_equal(np.asarray(a), expected)


# ------------------------------------------------------------------- memory


ROWS, COLUMNS = 40, 2**17 + 3


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "move",
    [
        lambda a: (a[1:], a[:-1]),
        lambda a: (a[:-1], a[1:]),
        lambda a: (a[:, 1:], a[:, :-1]),
        lambda a: (a[:, :-1], a[:, 1:]),
        lambda a: (a[1:, :-1], a[:-1, 1:]),
        lambda a: (a[...], a[::-1]),
        lambda a: (a[...], a[:, ::-1]),
        lambda a: (a[::-2], a[: len(a) // 2]),
        lambda a: (a[...], a[:1]),
        lambda a: (a[...], a[:, 7:8]),
    ],
)
def test_a_large_assignment_takes_little_memory(tmp_path, order, move):
    expected = np.asarray(np.arange(ROWS * COLUMNS, dtype="f8").reshape(ROWS, COLUMNS), order=order)
    a = hs.create(tmp_path / "a.npy", expected.shape, order=order)
    a[...] = expected
    to, of = move(a)
    assert peak_of(lambda: to.__setitem__(..., of)) < 6e6
    to, of = move(expected)
    to[...] = of.copy()
    assert np.array_equal(np.asarray(a), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_transposed_square_takes_little_memory(tmp_path, order):
    expected = np.asarray(np.arange(1500.0**2).reshape(1500, 1500), order=order)
    a = hs.create(tmp_path / "a.npy", expected.shape, order=order)
    a[...] = expected
    assert peak_of(lambda: a.__setitem__(..., a.T)) < 6e6
    assert np.array_equal(np.asarray(a), expected.T)


def peak_of(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------- errors


def test_a_value_that_cannot_be_cast_leaves_the_array_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(assignment, "_COPIED_WHOLE", -1)
    monkeypatch.setattr(assignment, "_CHUNK_BYTES", 4)
    content = np.frombuffer(b"  12  34  56  xx", "u1").copy()
    content.tofile(tmp_path / "a.bin")
    numbers = hs.open(tmp_path / "a.bin", "r+", dtype="i4")
    words = hs.open(tmp_path / "a.bin", dtype="S4")
    with pytest.raises(ValueError, match="xx"):
        numbers[...] = words[::-1]
    assert np.array_equal(np.asarray(words).view("u1"), content)
    assert list(session.session_directory().glob("moved-*")) == []


def test_a_scratch_disk_without_room_is_explained_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setattr(assignment, "_COPIED_WHOLE", -1)
    monkeypatch.setattr(assignment, "_CHUNK_BYTES", 4)
    a = hs.from_array(np.arange(1000.0), scratch=tmp_path)
    room = os.fstatvfs

    def full(fd: int) -> os.statvfs_result:
        found = list(room(fd))
        found[4] = 0  # f_bavail
        return os.statvfs_result(found)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", full)
        with pytest.raises(hs.ArrayFileError, match=r"8,000 bytes.*HYPERSLAB_SCRATCH"):
            a[...] = a[::-1]
    assert np.array_equal(np.asarray(a), np.arange(1000.0))
    a[...] = a[::-1]
    assert a[0].item() == 999
