"""Views, gathers and write-backs against NumPy, and files that change underneath."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hyperslab_workers import mapping
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box
from hyperslab_workers.errors import ArrayFileError, PlanError
from hyperslab_workers.mapping import maps, transfer

OFFSET = 24  # of the data in their files: aligned for no type larger than eight bytes

DTYPES = ["?", "u1", "<i2", ">i4", "<f2", "<f4", ">f8", "<c16", "<M8[ns]", "S5", "<U3"]
STRUCTURED = np.dtype([("time", "<M8[s]"), ("flag", "?"), ("wind", ">f4", (2,))])
BOUNDARIES = ["nearest", "reflect", "wrap", -3]
PAD_MODES = {"nearest": "edge", "reflect": "reflect", "wrap": "wrap"}


@pytest.fixture(autouse=True)
def _no_maps_left() -> Iterator[None]:
    yield
    mapping.forget_all()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mapping")


def ref_to(path: Path, values: np.ndarray, *, order: str = "C", writable: bool = True) -> ArrayRef:
    """A new file with `values` in it, in that memory order."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(b"#" * OFFSET + values.tobytes(order))
    status = path.stat()
    strides = np.empty(values.shape, values.dtype, order=order).strides
    if values.size == 0:
        strides = (values.itemsize,) * values.ndim
    return ArrayRef(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        file_size=status.st_size,
        offset=OFFSET,
        dtype=values.dtype,
        shape=values.shape,
        strides=strides,
        writable=writable,
    )


def sample(shape: tuple[int, ...], dtype: np.dtype | str, start: int = 0) -> np.ndarray:
    """Different values wherever the type can tell them apart."""
    dtype = np.dtype(dtype)
    values = np.empty(shape, dtype)
    if dtype.names:
        for number, name in enumerate(dtype.names):
            field = values[name]
            field[...] = sample(field.shape, field.dtype, start + number)
        return values
    count = np.arange(start, start + values.size) % 97
    if dtype.kind == "M":
        values[...] = count.astype("i8").astype(dtype).reshape(shape)
    elif dtype.kind == "b":
        values[...] = (count % 3 == 0).reshape(shape)
    else:
        values[...] = count.astype(dtype).reshape(shape)
    return values


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


def whole(path: Path, ref: ArrayRef, order: str) -> np.ndarray:
    """What stands in the file, read without a map; what stands before it must be untouched."""
    raw = path.read_bytes()
    assert raw[:OFFSET] == b"#" * OFFSET
    return np.frombuffer(raw[OFFSET:], ref.dtype).reshape(ref.shape, order=order)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...], halo: int = 0) -> Box:
    lo, hi = [], []
    for n in shape:
        a, b = sorted((draw(st.integers(-halo, n + halo)), draw(st.integers(-halo, n + halo))))
        lo.append(a)
        hi.append(b)
    return Box(tuple(lo), tuple(hi))


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ANY_DTYPE = st.sampled_from([*map(np.dtype, DTYPES), STRUCTURED])
ORDERS = st.sampled_from(["C", "F"])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=SHAPES, dtype=ANY_DTYPE, order=ORDERS, writable=st.booleans())
def test_view_is_numpys_slice(directory, data, shape, dtype, order, writable):
    values = sample(shape, dtype)
    ref = ref_to(directory / "a.bin", values, order=order)
    box = data.draw(boxes(shape))
    view = mapping.view(ref, box, writable=writable)
    same(view, values[(*box.slices, ...)])
    assert view.flags.writeable == writable
    same(mapping.view(ref), values)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=5),
    boundary=st.sampled_from(BOUNDARIES),
    order=ORDERS,
)
def test_gather_is_numpy_pad(directory, data, shape, boundary, order):
    values = sample(shape, ">i4")
    ref = ref_to(directory / "a.bin", values, order=order)
    halo = 13  # wider than any axis, several times for the short ones
    box = data.draw(boxes(shape, halo))
    if boundary in PAD_MODES:
        padded = np.pad(values, halo, mode=PAD_MODES[boundary])
    else:
        padded = np.pad(values, halo, constant_values=boundary)
    expected = padded[tuple(slice(a + halo, b + halo) for a, b in zip(box.lo, box.hi, strict=True))]
    out = np.full(box.shape, 99, "i4", order=order)
    mapping.gather(ref, box, boundary, out)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
def test_gather_of_a_halo_many_times_wider_than_the_array(directory, boundary):
    values = sample((2, 3), "i8")
    ref = ref_to(directory / "a.bin", values)
    expected = np.pad(values, 300, mode=boundary)
    out = np.empty(expected.shape, "i8")
    mapping.gather(ref, Box((-300, -300), (302, 303)), boundary, out)
    assert np.array_equal(out, expected)


def test_gather_of_an_empty_axis(directory):
    ref = ref_to(directory / "a.bin", np.empty((0, 3), "f4"))
    out = np.zeros((2, 3), "f4")
    mapping.gather(ref, Box((-1, 0), (1, 3)), 7.5, out)
    assert np.array_equal(out, np.full((2, 3), 7.5, "f4"))
    with pytest.raises(PlanError, match="length 0; give a number"):
        mapping.gather(ref, Box((-1, 0), (1, 3)), "wrap", out)


def test_gather_refuses_what_it_does_not_know(directory):
    ref = ref_to(directory / "a.bin", sample((4,), "f4"))
    with pytest.raises(PlanError, match=r"boundary='mirror'.*\"reflect\""):
        mapping.gather(ref, Box((-1,), (4,)), "mirror", np.empty(5, "f4"))
    with pytest.raises(ValueError, match=r"out has shape \(4,\)"):
        mapping.gather(ref, Box((-1,), (4,)), "wrap", np.empty(4, "f4"))


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    shape=SHAPES,
    dtype=ANY_DTYPE,
    order=ORDERS,
    values_order=st.sampled_from(["C", "F", "strided"]),
)
def test_write_back_is_numpys_assignment(directory, data, shape, dtype, order, values_order):
    path = directory / "a.bin"
    expected = sample(shape, dtype)
    ref = ref_to(path, expected, order=order)
    box = data.draw(boxes(shape))
    new = sample(box.shape, dtype, start=50)
    if values_order == "strided":
        spread = np.empty(tuple(2 * n for n in box.shape), dtype)
        every_other = spread[(*(slice(None, None, 2),) * len(shape), ...)]
        every_other[...] = new
        new = every_other
    else:
        new = np.asarray(new, order=values_order)
    mapping.write_back(ref, box, new)
    expected[box.slices] = new
    same(whole(path, ref, order), expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), order=ORDERS)
def test_write_back_into_strided_and_reversed_views(directory, data, order):
    path = directory / "a.bin"
    expected = sample((6, 5, 4), "<i4")
    ref = ref_to(path, expected, order=order)
    key = data.draw(hnp.basic_indices(expected.shape, allow_newaxis=False, allow_ellipsis=False))
    target = expected[(*key, ...)]
    axes = data.draw(st.permutations(range(target.ndim)))
    target = target.transpose(axes)
    assume(target.size)
    array = np.ndarray(ref.shape, ref.dtype, path.read_bytes(), OFFSET, ref.strides)
    part = array[(*key, ...)].transpose(axes)
    start = part.__array_interface__["data"][0] - array.__array_interface__["data"][0]
    view = dataclasses.replace(ref, offset=OFFSET + start, shape=part.shape, strides=part.strides)
    new = sample(part.shape, "<i4", start=300)
    mapping.write_back(view, Box.of_shape(part.shape), new)
    target[...] = new
    same(whole(path, ref, order), expected)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [5000, 300])
def test_write_back_of_long_and_of_short_runs(directory, order, columns):
    """Runs of 20 kB have a system call each, runs of 1.2 kB go through the map."""
    path = directory / "a.bin"
    shape = (7, columns + 11) if order == "C" else (columns + 11, 7)
    expected = sample(shape, "<f4")
    ref = ref_to(path, expected, order=order)
    box = Box((2, 3), (5, 3 + columns)) if order == "C" else Box((3, 2), (3 + columns, 5))
    for values_order in "CF":
        new = np.asarray(sample(box.shape, "<f4", start=7), order=values_order)
        mapping.write_back(ref, box, new)
        expected[box.slices] = new
        same(whole(path, ref, order), expected)


def test_write_back_goes_on_after_short_writes(directory, monkeypatch):
    path = directory / "a.bin"
    ref = ref_to(path, np.zeros((3, 9000), "<f4"))
    real, calls = os.pwrite, []

    def some(fd: int, data: memoryview, offset: int) -> int:
        calls.append(len(data))
        return real(fd, data[: min(len(data), 10_001)], offset)

    monkeypatch.setattr(os, "pwrite", some)
    new = sample((3, 8000), "<f4")
    mapping.write_back(ref, Box((0, 1000), (3, 9000)), new)
    same(whole(path, ref, "C")[:, 1000:], new)
    assert calls[:4] == [32_000, 21_999, 11_998, 1_997]


def test_write_back_casts_as_assignment_does(directory):
    path = directory / "a.bin"
    ref = ref_to(path, np.zeros((2, 2), ">i2"))
    mapping.write_back(ref, Box.of_shape((2, 2)), np.array([[1.9, -1.9], [7.0, 0.5]]))
    assert whole(path, ref, "C").tolist() == [[1, -1], [7, 0]]


def test_write_back_refuses(directory):
    ref = ref_to(directory / "a.bin", np.zeros((4, 4)))
    box = Box((0, 0), (2, 2))
    with pytest.raises(ArrayFileError, match=r"mode='r\+'"):
        mapping.write_back(dataclasses.replace(ref, writable=False), box, np.zeros((2, 2)))
    with pytest.raises(ArrayFileError, match=r"mode='r\+'"):
        mapping.view(dataclasses.replace(ref, writable=False), writable=True)
    with pytest.raises(ValueError, match="values have shape"):
        mapping.write_back(ref, box, np.zeros((2, 3)))
    with pytest.raises(IndexError, match="beyond an array"):
        mapping.write_back(ref, Box((3, 0), (5, 2)), np.zeros((2, 2)))
    with pytest.raises(IndexError, match="beyond an array"):
        mapping.view(ref, Box((0, -1), (1, 1)))


def test_reader_sees_what_was_written(directory):
    ref = ref_to(directory / "a.bin", np.zeros(10_000, "i8"))
    reader = mapping.view(ref)
    mapping.write_back(ref, Box((0,), (10_000,)), np.arange(10_000))
    assert reader[-1] == 9_999
    mapping.view(ref, writable=True)[0] = 5
    assert reader[0] == 5


def test_replaced_changed_and_removed_files_are_errors(directory):
    path = directory / "a.bin"
    ref = ref_to(path, sample((10,), "i8"))
    old = mapping.view(ref)
    keeper = path.rename(directory / "old.bin")  # keeps the inode from being used again
    ref_to(path, np.zeros(10, "i8"))
    for check in (mapping.verify, mapping.view):
        with pytest.raises(ArrayFileError, match=r"no longer the file that was opened.*open it"):
            check(ref)
    assert old[9] == 9
    keeper.unlink()

    ref = ref_to(path, sample((10,), "i8"))
    os.truncate(path, 40)
    with pytest.raises(ArrayFileError, match="had 104 bytes when it was opened and has 40 now"):
        mapping.verify(ref)
    path.unlink()
    with pytest.raises(ArrayFileError, match="was removed or renamed"):
        mapping.view(ref)


def test_one_map_for_each_file_and_use(directory):
    ref = ref_to(directory / "a.bin", sample((10,), "i8"))
    link = directory / "link.bin"
    link.symlink_to(ref.path)
    bases = {id(mapping.view(r).base) for r in (ref, dataclasses.replace(ref, path=str(link)))}
    assert len(bases) == 1
    assert id(mapping.view(ref, writable=True).base) not in bases
    link.unlink()


def test_views_outlive_their_maps(directory):
    ref = ref_to(directory / "a.bin", sample((10,), "i8"))
    views = [mapping.view(ref), mapping.view(ref, writable=True)]
    with pytest.raises(BufferError):
        views[0].base.base.obj.close()
    mapping.release(ref)
    Path(ref.path).unlink()
    gc.collect()
    assert [view[9] for view in views] == [9, 9]


def test_many_files_keep_few_descriptors(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    views = []
    for number in range(150):
        ref = ref_to(tmp_path / f"{number}.bin", np.full(3, number))
        mapping.write_back(ref, Box((0,), (3,)), np.full(3, number + 1))
        views.append(mapping.view(ref)[0])
    assert views == list(range(1, 151))
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * maps._KEPT_FILES
    mapping.forget_all()
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_that_map_and_drop(directory):
    refs = [ref_to(directory / f"t{n}.bin", np.full(5000, n)) for n in range(4)]
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(300):
                number = int(rng.integers(4))
                lo = int(rng.integers(4000))
                box = Box((lo,), (lo + 1000,))
                mapping.write_back(refs[number], box, np.full(1000, number))
                if not (mapping.view(refs[number], box) == number).all():
                    wrong.append(number)
                if rng.random() < 0.2:
                    mapping.release(refs[number])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_forked_child_maps_while_the_parent_holds_the_table(directory):
    ref = ref_to(directory / "a.bin", sample((10,), "i8"))
    other = ref_to(directory / "b.bin", sample((10,), "i8"))
    mapping.view(ref)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with maps._lock:
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if mapping.view(ref)[3] == 3 and mapping.view(other)[4] == 4 else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def resident(view: np.ndarray) -> int:
    """Bytes of a map that are in this process's memory now."""
    address = view.__array_interface__["data"][0] & -4096
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(part, 16) for part in head.split("-"))
            found = low <= address < high
        elif found and head == "Rss:":
            return int(line.split()[1]) * 1024
    raise AssertionError("no such map")


def test_advise_dontneed_lets_go_and_loses_nothing(directory):
    n = 2**20
    ref = ref_to(directory / "a.bin", np.zeros(n, "i8"))
    reader, writer = mapping.view(ref), mapping.view(ref, writable=True)
    writer[:] = np.arange(n)
    assert reader.sum() == n * (n - 1) // 2
    full = resident(reader)
    mapping.advise_dontneed(ref, Box((n // 2,), (n,)))
    assert full >= 8 * n
    assert resident(reader) <= full - 3 * n
    assert resident(writer) <= full - 3 * n
    mapping.advise_dontneed(ref)
    assert resident(reader) <= 2 * 4096
    assert np.array_equal(reader, np.arange(n))
    mapping.advise_dontneed(ref, Box((5,), (6,)))  # less than a page: nothing to drop


def test_flush_of_an_extent(directory):
    ref = ref_to(directory / "a.bin", np.zeros(100_000, "i8"))
    mapping.write_back(ref, Box((50_000,), (60_000,)), np.ones(10_000, "i8"))
    mapping.flush(ref, Box((50_000,), (60_000,)))
    mapping.flush(ref, Box((3,), (3,)))
    mapping.flush(dataclasses.replace(ref, writable=False))
    assert whole(directory / "a.bin", ref, "C").sum() == 10_000


def test_origin_of_views_and_of_other_arrays(directory):
    ref = ref_to(directory / "a.bin", sample((10,), "i8"))
    for writable in (False, True):
        part = mapping.view(ref, writable=writable)[7:2:-2].reshape(3, 1)
        identity, extent = mapping.origin_of(part)
        assert identity == ref.identity
        assert extent == (OFFSET + 3 * 8, OFFSET + 8 * 8)
    assert mapping.origin_of(np.zeros(3)) is None
    assert mapping.origin_of(mapping.view(ref).copy()) is None
    assert mapping.origin_of(np.frombuffer(b"12345678")) is None
    # Through a buffer, and as NumPy's own map of a part of the file.
    again = np.frombuffer(memoryview(mapping.view(ref))[2:], "i8")[1:]
    assert mapping.origin_of(again) == (ref.identity, (OFFSET + 24, OFFSET + 80))
    other = np.memmap(ref.path, "i8", "r", offset=OFFSET + 8, shape=(9,))
    assert mapping.origin_of(other[1:][::2]) == (ref.identity, (OFFSET + 16, OFFSET + 72))
    assert mapping.origin_of(np.asarray(other)) == (ref.identity, (OFFSET + 8, OFFSET + 80))
    Path(ref.path).unlink()
    assert mapping.origin_of(other) is None


def test_what_became_a_fifo_is_an_error_not_a_wait(directory):
    path = directory / "a.bin"
    ref = ref_to(path, sample((10,), "i8"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArrayFileError, match="open it again"):
        maps.mapped(ref, False)
    path.unlink()


def test_address_space_limit_is_explained(directory):
    path = directory / "a.bin"
    ref = ref_to(path, sample((10,), "i8"))
    os.truncate(path, 2**43)
    big = dataclasses.replace(ref, file_size=2**43)
    code = (
        "import resource, pickle, sys\n"
        "from hyperslab_workers import mapping\n"
        "ref = pickle.load(sys.stdin.buffer)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**42, 2**42))\n"
        "try: mapping.view(ref)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    said = run_python(code, big)
    assert said.startswith("ArrayFileError")
    assert "ulimit -v" in said
    path.unlink()


def run_python(code: str, ref: ArrayRef) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(ref),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    return done.stdout.decode()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        stderr=subprocess.PIPE,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        mapping.forget_all()
        gc.collect()
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("columns", [2**21, 8, 1])
def test_full_disk_is_an_error_whatever_the_runs(tiny_disk, columns):
    """In one run, in rows through the map, and in a column with a page for each element."""
    path = tiny_disk / "a.bin"
    path.touch()
    os.truncate(path, 2**23)
    status = path.stat()
    ref = ArrayRef(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        file_size=2**23,
        offset=0,
        dtype=np.dtype("<i4"),
        shape=(2**21,) if columns == 2**21 else (2048, 1024),
        strides=(4,) if columns == 2**21 else (4096, 4),
        writable=True,
    )
    box = Box((0,), (columns,)) if columns == 2**21 else Box((0, 3), (2048, 3 + columns))
    with pytest.raises(ArrayFileError, match=r"No space left on device.*free some space"):
        mapping.write_back(ref, box, np.ones(box.shape, "<i4"))


def test_without_populate_short_runs_are_still_safe(tiny_disk, monkeypatch):
    """Before Linux 5.14 a hole is written by system calls, one for each run."""
    monkeypatch.setattr(transfer, "_POPULATE_WRITE", 12345)  # an advice no kernel knows
    path = tiny_disk / "a.bin"
    path.touch()
    os.truncate(path, 2**23)
    status = path.stat()
    ref = ArrayRef(str(path), status.st_dev, status.st_ino, 2**23, 0, np.dtype("<i4"),
                   (2048, 1024), (4096, 4), writable=True)  # fmt: skip
    mapping.write_back(ref, Box((5, 2), (25, 4)), np.ones((20, 2), "<i4"))
    assert mapping.view(ref)[:30].sum() == 40
    with pytest.raises(ArrayFileError, match="No space left on device"):
        mapping.write_back(ref, Box((0, 3), (2048, 4)), np.ones((2048, 1), "<i4"))
