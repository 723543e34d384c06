"""The handle on an array in a file, against NumPy; its life, and what it refuses."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hyperslab as hs
from hyperslab.arrays import assignment
from hyperslab_workers import mapping

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
STRUCTURED = np.dtype([("time", "<M8[s]"), ("flag", "?"), ("wind", ">f4", (2,))])
DTYPES = st.sampled_from(
    [
        *map(np.dtype, ["?", "u1", "i8", ">i2", "f2", "f4", ">f8", "c16", "M8[ns]", "S5", "<U3"]),
        STRUCTURED,
    ]
)
ORDERS = st.sampled_from(["C", "F"])


@pytest.fixture(autouse=True)
def _no_maps_left() -> Iterator[None]:
    yield
    mapping.forget_all()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays")


def sample(shape: tuple[int, ...], dtype: np.dtype | str, start: int = 0) -> np.ndarray:
    """Different values wherever the type can tell them apart."""
    dtype = np.dtype(dtype)
    values = np.zeros(shape, dtype)
    if dtype.names:
        for number, name in enumerate(dtype.names):
            values[name] = sample(values[name].shape, dtype[name].base, start + number)
        return values
    count = np.arange(start, start + values.size).reshape(shape) % 97
    if dtype.kind == "M":
        values[...] = count.astype("i8").astype(dtype)
    else:
        values[...] = (count % 3 == 0) if dtype.kind == "b" else count.astype(dtype)
    return values


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, dtype=DTYPES, order=ORDERS)
def test_round_trip_with_numpys_own_files(directory, shape, dtype, order):
    values = np.asarray(sample(shape, dtype), order=order)
    path = directory / "numpy.npy"
    np.save(path, values)
    a = hs.open(path)
    same(np.asarray(a), values)
    assert (a.shape, a.dtype, a.ndim, a.size, a.nbytes, a.itemsize) == (
        values.shape, values.dtype, values.ndim, values.size, values.nbytes, values.itemsize,
    )  # fmt: skip
    mine = hs.create(directory / "mine.npy", shape, dtype, order=order, overwrite=True)
    same(np.asarray(mine), np.zeros(shape, dtype))
    mine[...] = values
    same(np.load(mine.path), values)
    # Byte for byte what NumPy writes, but for its fortran_order of arrays that are both.
    if values.flags.fnc or order == "C":
        assert Path(mine.path).read_bytes() == path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shape=SHAPES, dtype=DTYPES, order=ORDERS)
def test_views_of_views_are_numpys(directory, data, shape, dtype, order):
    expected = np.asarray(sample(shape, dtype), order=order)
    a = hs.create(directory / "a.npy", shape, dtype, order=order, overwrite=True)
    a[...] = expected
    base = expected
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(hnp.basic_indices(expected.shape, allow_newaxis=True, max_dims=6))
        # NumPy gives a scalar for a full index, we an array without axes.
        expected = expected[key if ... in as_tuple(key) else (*as_tuple(key), ...)]
        a = a[key]
        if data.draw(st.booleans()):
            axes = data.draw(st.permutations(range(expected.ndim)))
            expected, a = expected.transpose(axes), a.transpose(*axes)
    assert np.shares_memory(expected, base) or expected.size == 0
    same(np.asarray(a), expected)
    assert a.order == order_of(expected)


def as_tuple(key: object) -> tuple[object, ...]:
    return key if isinstance(key, tuple) else (key,)


def order_of(values: np.ndarray) -> str | None:
    if values.flags.c_contiguous:
        return "C"
    return "F" if values.flags.f_contiguous else None


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shape=SHAPES, dtype=DTYPES, order=ORDERS, chunk=st.sampled_from([1, 64]))
def test_assignment_through_views_is_numpys(directory, data, shape, dtype, order, chunk):
    expected = np.asarray(sample(shape, dtype), order=order)
    a = hs.create(directory / "a.npy", shape, dtype, order=order, overwrite=True)
    a[...] = expected
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    target = expected[(*as_tuple(key), ...) if ... not in as_tuple(key) else key]
    fits = data.draw(hnp.broadcastable_shapes(target.shape, max_dims=target.ndim, max_side=5))
    try:
        np.broadcast_to(np.zeros(fits), target.shape)
    except ValueError:
        fits = ()
    values = sample((1, *fits), dtype, start=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_CHUNK_BYTES", chunk)
        a[key] = values
    target[...] = values
    same(np.load(a.path), expected)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("i4", 3.99),
        ("i4", -1),
        ("u1", np.int64(300)),
        ("f4", [1, 2.5, True]),
        ("i2", np.array([1.5, 2.5, -3.5])),
        ("?", [0, 2, 0]),
        ("S3", "abcdef"),
        ("U2", ["x", "yy", "zzz"]),
        ("M8[ns]", "2024-02-29"),
        ("c8", 1 + 2j),
        ([("a", "i4"), ("b", "f8")], (7, 1.5)),
        ([("a", "i4"), ("b", "f8")], [(1, 1.0), (2, 2.0), (3, 3.0)]),
        (">f8", range(3)),
    ],
)
def test_assignment_casts_as_numpy_does(tmp_path, dtype, value):
    expected = np.zeros(3, dtype)
    expected[...] = value
    a = hs.create(tmp_path / "a.npy", 3, dtype)
    a[...] = value
    same(np.asarray(a), expected)


@pytest.mark.parametrize(
    ("dtype", "value", "error"),
    [
        ("u1", 300, OverflowError),
        ("i4", float("nan"), ValueError),
        ("i4", "seven", ValueError),
        ("f4", [1, 2], ValueError),
        ("f4", np.zeros((2, 3)), ValueError),
        ("f4", {}, TypeError),
    ],
)
def test_assignment_refuses_as_numpy_does(tmp_path, dtype, value, error):
    with pytest.raises(error):
        np.zeros(3, dtype)[...] = value
    a = hs.create(tmp_path / "a.npy", 3, dtype)
    with pytest.raises(error):
        a[...] = value
    assert not np.asarray(a).any()


def test_assignment_from_the_same_file_however_it_is_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(assignment, "_CHUNK_BYTES", 64)
    a = hs.from_array(np.arange(100.0), scratch=tmp_path)
    expected = np.arange(100.0)
    readers = [lambda: a, lambda: np.asarray(a), lambda: hs.open(a.path),
               lambda: np.asarray(hs.open(a.path))]  # fmt: skip
    for reader in readers:
        a[3:] = reader()[:-3]
        expected[3:] = expected[:-3].copy()
        a[...] = reader()[::-1]
        expected[...] = expected[::-1].copy()
        assert np.array_equal(np.asarray(a), expected)


def test_fields_of_structured_arrays(tmp_path):
    expected = sample((4, 3), STRUCTURED)
    a = hs.from_array(expected, scratch=tmp_path)
    same(np.asarray(a["time"]), expected["time"])
    same(np.asarray(a[1:, ::2]["wind"][..., 1]), expected[1:, ::2]["wind"][..., 1])
    a["wind"][2] = 5
    a["flag"] = True
    expected["wind"][2] = 5
    expected["flag"] = True
    same(np.asarray(a), expected)
    with pytest.raises(ValueError, match="'time', 'flag', 'wind'"):
        a["rain"]


def test_views_do_not_read_and_show_later_writes(tmp_path):
    a = hs.create(tmp_path / "a.npy", (10, 10), "i4")
    row, column = a[3], a[:, 3]
    seen = np.asarray(column)
    a[3, 3] = 7
    assert (int(row[3]), int(column[3]), int(seen[3])) == (7, 7, 7)
    assert not np.asarray(row)[:3].any()


def test_asarray_is_a_view_and_array_a_copy(tmp_path):
    a = hs.create(tmp_path / "a.npy", (3, 4), ">f4")
    view, copied = np.asarray(a), np.array(a)
    view[0, 0] = 5
    assert np.load(a.path)[0, 0] == 5
    assert copied[0, 0] == 0
    reader = hs.open(a.path)
    assert not np.asarray(reader).flags.writeable
    assert np.array(reader).flags.writeable
    assert np.asarray(a, "f8").dtype == np.dtype("f8")
    assert np.asarray(a, ">f4", copy=False).dtype == np.dtype(">f4")
    with pytest.raises(ValueError, match="only by copying"):
        np.asarray(a, "f8", copy=False)
    assert np.add(a, 1).sum() == 12 + 5
    assert np.sum(reader) == 5


def test_indexing_refuses_what_numpy_would_copy_or_refuse(tmp_path):
    a = hs.create(tmp_path / "a.npy", (4, 5), "f4")
    for key in ([0, 1], np.array([1, 2]), True, np.True_, np.ones((4, 5), "?"), (0, [1]), 1.5,
                (slice(None), np.array(True))):  # fmt: skip
        with pytest.raises(IndexError, match=r"np\.asarray\(a\)\[\.\.\.\]"):
            a[key]
    with pytest.raises(IndexError, match="index 4 is out of bounds for axis 0 with size 4"):
        a[4]
    with pytest.raises(IndexError, match="index -6 is out of bounds for axis 1 with size 5"):
        a[0, -6]
    with pytest.raises(IndexError, match="2-dimensional, but 3 were indexed"):
        a[0, 0, 0]
    with pytest.raises(IndexError, match="single ellipsis"):
        a[..., ...]
    assert a[np.int8(-1), np.array(2)].shape == ()


def test_transpose_takes_numpys_arguments(tmp_path):
    expected = sample((2, 3, 4), "i4")
    a = hs.from_array(expected, scratch=tmp_path)
    for axes in ((), (None,), (0, 2, 1), ((2, 0, 1),), (-1, 0, 1), ([1, 0, 2],)):
        same(np.asarray(a.transpose(*axes)), expected.transpose(*axes))
    same(np.asarray(a.T), expected.T)
    for axes in ((0, 1), (0, 0, 1), (0, 1, 3)):
        with pytest.raises(ValueError, match="axes"):
            a.transpose(*axes)


def test_python_protocols(tmp_path):
    a = hs.from_array(sample((3, 2), "i4"), scratch=tmp_path)
    assert len(a) == 3
    assert [np.asarray(row).tolist() for row in a] == [[0, 1], [2, 3], [4, 5]]
    one = a[1, 1]
    assert (one.item(), int(one), float(one), complex(one), bool(one)) == (3, 3, 3.0, 3 + 0j, True)
    for call in (a.item, lambda: bool(a), lambda: float(a), lambda: bool(a[:0])):
        with pytest.raises(ValueError, match="size 1"):
            call()
    with pytest.raises(TypeError, match="unsized"):
        len(one)
    with pytest.raises(TypeError, match="0-d"):
        iter(one)
    with pytest.raises(TypeError, match=r"\.any\(\)"):
        _ = 3 in a


def test_repr_tells_what_matters(tmp_path):
    a = hs.create(tmp_path / "t2m.npy", (3, 4), "f4", order="F", shared=True)
    assert repr(a) == (
        f"<hyperslab.Array '{tmp_path}/t2m.npy' shape=(3, 4) dtype=float32 order='F' "
        "mode='r+' shared>"
    )
    a.close()
    assert repr(a).endswith("shared closed>")


def test_reading_mode_refuses_assignment(tmp_path):
    hs.create(tmp_path / "a.npy", 3).close()
    a = hs.open(tmp_path / "a.npy")
    for key in (..., slice(0, 0)):
        with pytest.raises(hs.ArrayFileError, match=r"mode='r\+'"):
            a[key] = 1
    a.flush()


def test_flush_of_a_part(tmp_path):
    a = hs.create(tmp_path / "a.npy", (1000, 1000), "f4")
    a[500:600] = 1
    a[500:600, ::2].flush()
    a[3:3].flush()
    assert np.load(a.path).sum() == 100_000


def test_closed_handles_and_their_views(tmp_path):
    a = hs.create(tmp_path / "a.npy", (3, 4), "f4")
    view, seen = a[1:], np.asarray(a)
    seen[2, 3] = 9
    with a as same_handle:
        assert same_handle is a
    a.close()
    for use in (lambda: np.asarray(a), lambda: view[0], lambda: view.__setitem__(0, 1), a.flush,
                lambda: a.ref, lambda: pickle.dumps(view), lambda: a.__enter__(),
                lambda: a.lock().__enter__()):  # fmt: skip
        with pytest.raises(hs.ArrayFileError, match="was closed"):
            use()
    gc.collect()
    assert (a.shape, seen[2, 3]) == ((3, 4), 9)  # what is known, and what was taken, stays
    assert view.closed


def test_pickles_to_a_reference(tmp_path):
    a = hs.create(tmp_path / "a.npy", (2000, 1000), "f8")
    a[3, 5] = 2.5
    view = a[::-2, 5]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(view, protocol)
        assert len(data) < 1000
        again = pickle.loads(data)
        same(np.asarray(again), np.asarray(view))
        assert (again.mode, again.path) == ("r+", a.path)
    same(np.asarray(copy.deepcopy(view)), np.asarray(view))
    data = pickle.dumps(view)
    hs.create(tmp_path / "a.npy", (2000, 1000), "f8", overwrite=True)
    with pytest.raises(hs.ArrayFileError, match="open it again"):
        pickle.loads(data)


def test_two_handles_on_one_file(tmp_path):
    a = hs.create(tmp_path / "a.npy", 4)
    b = hs.open(a.path)
    a.close()
    assert np.asarray(b).tolist() == [0, 0, 0, 0]


def test_scratch_goes_with_its_last_handle(tmp_path):
    values = np.asfortranarray(sample((3, 4), "f4"))
    a = hs.from_array(values, scratch=tmp_path)
    same(np.asarray(a), values)
    assert (a.order, a.mode) == ("F", "r+")
    path, view, borrowed = Path(a.path), a[1:], pickle.loads(pickle.dumps(a))
    assert path.is_relative_to(tmp_path)
    del a
    assert path.exists()
    seen = np.asarray(view)
    del view
    assert not path.exists()
    same(seen, values[1:])
    with pytest.raises(hs.ArrayFileError, match="removed"):
        np.asarray(borrowed)

    b = hs.from_array([1, 2], scratch=tmp_path)
    b.close()
    assert not Path(b.path).exists()


def test_a_borrowed_scratch_array_is_not_removed(tmp_path):
    a = hs.from_array([1, 2], scratch=tmp_path)
    pickle.loads(pickle.dumps(a)).close()
    assert np.asarray(a).tolist() == [1, 2]


def test_removed_scratch_gives_its_space_back(tmp_path):
    a = hs.from_array(np.ones(1000), scratch=tmp_path)
    path = a.path
    assert np.asarray(a).sum() == 1000
    assert path in Path("/proc/self/maps").read_text()
    del a
    assert path not in Path("/proc/self/maps").read_text()


def test_scratch_is_removed_at_exit_but_not_by_a_forked_child(tmp_path):
    code = (
        "import os, sys, numpy as np, hyperslab as hs\n"
        "a = hs.from_array(np.arange(5), scratch=sys.argv[1])\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert np.asarray(a).sum() == 10\n"
        "print(a.path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    path = Path(done.stdout.decode().strip())
    assert path.name.startswith("array-")
    assert list(tmp_path.iterdir()) == []


def test_from_array_refuses_what_cannot_lie_in_a_file(tmp_path):
    with pytest.raises(hs.ArrayFileError, match="Python objects"):
        hs.from_array([{}, None], scratch=tmp_path)
    with pytest.raises(hs.ArrayFileError, match=r"a\.filled"):
        hs.from_array(np.ma.masked_array([1, 2], [0, 1]), scratch=tmp_path)
    assert list(tmp_path.glob("*/array-*")) == []


def test_lock_excludes_and_assignment_under_it_does_not_wait(tmp_path):
    a = hs.create(tmp_path / "a.npy", (64, 64 * 1024), "f4", shared=True, lock_dir=tmp_path / "l")
    (tmp_path / "l").mkdir()
    done: list[str] = []

    def other() -> None:
        try:
            with a.lock(np.s_[3], timeout=0.05):
                done.append("read")
        except hs.LockTimeout:
            done.append("waited")
        a[60, 0] = 1  # another part: nobody is in the way
        a[3, 5] = 2
        done.append("wrote")

    thread = threading.Thread(target=other)
    with a.lock(np.s_[2:5], write=True, timeout=5.0):
        thread.start()
        a[3:4, 1::2] = 7  # under the lock that this thread holds
        wait_for(lambda: float(a[60, 0]) == 1)
        assert done == ["waited"]
        assert float(a[3, 5]) == 7
        with pytest.raises(hs.HyperslabError, match="nested"):
            a[10] = 1
    thread.join()
    assert (done, float(a[3, 5])) == (["waited", "wrote"], 2)
    with a.lock(), pytest.raises(hs.HyperslabError, match="nested"):
        a[3] = 1  # held to read is not held to write
    a[3] = 1


def wait_for(condition) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen within ten seconds")


def test_ten_terabytes_in_little_memory(tmp_path):
    code = (
        "import resource, sys, numpy as np, hyperslab as hs\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before, path = peak(), sys.argv[1]\n"
        "shape = (2_500_000, 1000, 1000)\n"
        "hs.create(path, shape, 'f4', sparse=True).close()\n"
        "with hs.open(path, 'r+') as a:\n"
        "    assert a.nbytes == 10**13\n"
        "    a[-1, 5:7] = np.arange(1000)\n"
        "    a[::500_000, 3, 4] = 8\n"
        "with hs.open(path) as a:\n"
        "    assert np.asarray(a[-1, 6]).sum() == 499_500\n"
        "    assert np.asarray(a[0:2_500_000:500_000, 3, 4]).tolist() == [8] * 5\n"
        "    assert not np.asarray(a[1_000_001:1_000_005]).any()\n"
        "print(peak() - before)\n"
    )
    path = tmp_path / "ten.npy"
    try:
        path.touch()
        os.truncate(path, 10**13 + 128)
    except OSError as error:
        pytest.skip(f"no file of 10 TB here: {error}")
    finally:
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    assert int(done.stdout) < 100 * 10**6
    assert path.stat().st_blocks * 512 < 10**6
