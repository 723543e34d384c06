"""Opening and creating files: every format that is read, every mistake that is named."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hyperslab as hs
from hyperslab_workers import mapping


@pytest.fixture(autouse=True)
def _no_maps_left() -> Iterator[None]:
    yield
    mapping.forget_all()


def npy(values: np.ndarray, version: tuple[int, int], path: Path) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, values, version)
    return path


def refusal(path: object, *args: object, **options: object) -> str:
    with pytest.raises(hs.ArrayFileError) as caught:
        hs.open(path, *args, **options)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# --- .npy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_versions_by_their_magic_not_their_name(tmp_path, version, order):
    values = np.asarray(np.arange(24, dtype=">i4").reshape(2, 3, 4), order=order)
    a = hs.open(npy(values, version, tmp_path / "data.anything"))
    assert np.array_equal(np.asarray(a), values)
    assert (a.order, a.dtype.str, a.mode) == (order, ">i4", "r")


def test_field_names_beyond_latin(tmp_path):
    dtype = np.dtype([("température_€", "f4"), ("湿度", "<i2", (3,)), ("plain", "U4")])
    values = np.zeros(5, dtype)
    values["湿度"][3] = [1, 2, 3]
    a = hs.open(npy(values, (3, 0), tmp_path / "a.npy"))
    assert a.dtype == dtype
    mine = hs.create(tmp_path / "b.npy", 5, dtype)
    mine[...] = values
    assert Path(mine.path).read_bytes()[6:8] == b"\x03\x00"
    assert mine.ref.offset % 64 == 0
    assert np.load(mine.path).tobytes() == values.tobytes()


def test_headers_longer_than_64_kib_are_refused_and_shorter_ones_not(tmp_path):
    wide = np.dtype([(f"field_{n:05d}", "f4") for n in range(2000)])
    a = hs.create(tmp_path / "wide.npy", 3, wide)
    a["field_01999"] = 2
    assert np.load(a.path, max_header_size=10**6)["field_01999"].tolist() == [2, 2, 2]
    too_wide = np.dtype([(f"field_{n:05d}", "f4") for n in range(4000)])
    with pytest.raises(hs.ArrayFileError, match=r"4,000 fields .* at most 65,536"):
        hs.create(tmp_path / "wider.npy", 3, too_wide)
    npy(np.zeros(3, too_wide), (2, 0), tmp_path / "wider.npy")
    assert "at most 65,536" in refusal(tmp_path / "wider.npy")
    head = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
    (tmp_path / "bomb.npy").write_bytes(head + b"(" * 1000)
    assert "4,294,967,295 bytes" in refusal(tmp_path / "bomb.npy")


def with_header(path: Path, text: str, data: bytes = b"", version: int = 1) -> Path:
    raw = text.encode("latin1")
    form = "<H" if version == 1 else "<I"
    path.write_bytes(b"\x93NUMPY" + bytes((version, 0)) + struct.pack(form, len(raw)) + raw + data)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 7}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<q99', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1,)}",
        "(" * 5000,
        "\xff\xfe",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_damaged_headers(tmp_path, text, version):
    assert "damaged" in refusal(with_header(tmp_path / "a.npy", text, b"1234", version))


def test_objects_are_refused_and_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, 1], object), allow_pickle=True)
    assert "Python objects" in refusal(tmp_path / "a.npy")
    assert "Python objects" in refusal(__file__, dtype=object)
    with pytest.raises(hs.ArrayFileError, match="Python objects"):
        hs.create(tmp_path / "b.npy", 3, [("a", "f4"), ("b", object)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_file_and_header_that_disagree(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(10, dtype="i8"))
    with path.open("ab") as file:
        file.write(b"x")
    said = refusal(path)
    assert "takes 208 bytes, and it has 209" in said
    # The remedy that the message gives works as it stands.
    remedy = re.search(r"dtype=.*", said)
    assert remedy is not None
    options = eval(f"dict({remedy[0]})")  # noqa: S307
    assert np.asarray(hs.open(path, **options)).tolist() == list(range(10))

    os.truncate(path, 207)
    assert re.search(r"truncated.*\(10,\) of int64.*208 bytes, and it has 207", refusal(path))
    os.truncate(path, 40)
    assert "ends in the middle of its .npy header" in refusal(path)
    os.truncate(path, 7)
    assert "damaged" in refusal(path)

    with path.open("wb") as file:
        np.save(file, np.zeros(3))
        np.save(file, np.zeros(3))
    assert "further arrays follow" in refusal(path)


def test_unknown_version(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x09\x01" + bytes(100))
    assert "format version 9.1; 1.0, 2.0 and 3.0 are known" in refusal(tmp_path / "a.npy")


def test_what_is_said_of_a_npy_file_must_agree_with_its_header(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3), "<f4"))
    a = hs.open(path, "r+", dtype="<f4", shape=(2, 3), order="C")
    a[...] = 1
    assert np.load(path).sum() == 6
    assert "dtype float32, not int32" in refusal(path, dtype="i4")
    assert "shape (2, 3), not (6,)" in refusal(path, "r+", dtype="<f4", shape=6)
    assert "order C, not F" in refusal(path, order="F")
    assert "ends at byte 128" in refusal(path, "r+", dtype="u1", offset=64)
    raw = hs.open(path, dtype="<f4", offset=128 + 12)
    assert np.asarray(raw).tolist() == [1, 1, 1]


# --- raw ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_raw_files(tmp_path, order):
    values = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    path = tmp_path / "raw.bin"
    path.write_bytes(b"HEAD!" + values.tobytes(order) + b"tail")
    a = hs.open(path, "r+", dtype="<f4", shape=(2, 3, 4), offset=5, order=order)
    assert np.array_equal(np.asarray(a), values)
    a[1, :, 2] = 9
    values[1, :, 2] = 9
    assert path.read_bytes() == b"HEAD!" + values.tobytes(order) + b"tail"


def test_raw_shapes_by_themselves(tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(bytes(range(24)))
    assert hs.open(path, dtype="<i2").shape == (12,)
    assert hs.open(path, dtype="<i2", offset=4).shape == (10,)
    assert hs.open(path, dtype="u1", shape=np.int64(7)).shape == (7,)
    assert hs.open(path, dtype="u1", shape=()).item() == 0
    assert hs.open(path, dtype=("u1", (2, 3)), shape=4).shape == (4, 2, 3)
    assert hs.open(path, dtype="u1", shape=(0, 5), offset=24).shape == (0, 5)
    (tmp_path / "empty").touch()
    assert np.asarray(hs.open(tmp_path / "empty", dtype="f4", shape=(0, 3))).shape == (0, 3)


def test_raw_mistakes(tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(bytes(24))
    assert 'dtype="<f4", shape=' in refusal(path)
    assert "takes 32 bytes, and it has 24" in refusal(path, dtype="<f4", shape=8)
    assert "takes 28 bytes" in refusal(path, "r+", dtype="<f4", shape=6, offset=4)
    assert path.stat().st_size == 24
    assert "23 bytes from offset=1 on" in refusal(path, dtype="<f4", offset=1)
    assert "0 bytes from offset=99 on" in refusal(path, dtype="<f4", offset=99)
    assert "offset=-1" in refusal(path, dtype="<f4", offset=-1)
    assert "offset=1.5" in refusal(path, dtype="<f4", offset=1.5)
    assert "negative length" in refusal(path, dtype="<f4", shape=(-1, 2))
    assert "is no shape" in refusal(path, dtype="<f4", shape="ab")
    assert "at most" in refusal(path, dtype="u1", shape=(1,) * 65)
    assert "is no NumPy type" in refusal(path, dtype="floaty")
    assert "'S5' or 'U10'" in refusal(path, dtype="S", shape=3)
    assert "order='K' is not known; give \"C\"" in refusal(path, dtype="u1", order="K")
    assert "the most that a file" in refusal(path, dtype="f8", shape=(2**40, 2**40))


# --- what is no array ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x89HDF\r\n\x1a\n", "an HDF5"),
        (b"CDF\x02", "a netCDF-3"),
        (b"PK\x03\x04", "an .npz"),
        (b"\x1f\x8b\x08", "a gzip"),
        (b"SIMPLE  =   T", "a FITS"),
        (b"GRIB", "a GRIB"),
    ],
)
def test_other_formats_are_named(tmp_path, start, name):
    (tmp_path / "a.npy").write_bytes(start + bytes(100))
    said = refusal(tmp_path / "a.npy")
    assert f"is {name}" in said
    assert "np.save" in said
    assert hs.open(tmp_path / "a.npy", dtype="u1").size == len(start) + 100  # who insists


def test_what_is_no_file(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.npy")
    assert "is a directory" in refusal(tmp_path)
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zarray").touch()
    assert "is a zarr store" in refusal(tmp_path / "a.zarr")
    os.mkfifo(tmp_path / "pipe")
    assert "is a FIFO" in refusal(tmp_path / "pipe", dtype="f4")
    assert "is a device" in refusal("/dev/zero", dtype="f4", shape=3)
    (tmp_path / "empty.npy").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.npy")
    assert "no whole, positive number" in refusal(tmp_path / "empty.npy", dtype="f4")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be opened" in refusal(tmp_path / "loop")
    assert "cannot be opened" in refusal(tmp_path / "empty.npy" / "below")
    assert "cannot be opened" in refusal("a\0b")
    with pytest.raises(TypeError):
        hs.open(7)


def test_modes(tmp_path):
    hs.create(tmp_path / "a.npy", 3).close()
    before = (tmp_path / "a.npy").read_bytes()
    for mode in ("w+", "w"):
        assert "create(path, shape, dtype)" in refusal(tmp_path / "a.npy", mode)
    assert '"r+" to read and write' in refusal(tmp_path / "a.npy", "c")
    assert (tmp_path / "a.npy").read_bytes() == before


def test_without_permission(tmp_path):
    """As another user, because root may do everything."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    hs.create(tmp_path / "a.npy", 3).close()
    (tmp_path / "a.npy").chmod(0o644)
    (tmp_path / "secret.npy").touch(0o600)
    closed = {place: place.stat().st_mode for place in (tmp_path, *tmp_path.parents)}
    closed = {place: mode for place, mode in closed.items() if not mode & stat.S_IXOTH}
    for place, mode in closed.items():
        place.chmod(mode | stat.S_IROTH | stat.S_IXOTH)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.seteuid(65534)
            said = [refusal(tmp_path / "a.npy", "r+"), refusal(tmp_path / "secret.npy")]
            try:
                hs.create(tmp_path / "new.npy", 3)
            except hs.ArrayFileError as error:
                said.append(str(error))
            os.write(write, "\n".join(said).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read().splitlines()
    os.waitpid(child, 0)
    for place, mode in closed.items():
        place.chmod(mode)
    for line, part in zip(said, ('mode="r"', "right to read", "may not write"), strict=True):
        assert part in line


def test_a_link_is_opened_and_shown_as_given(tmp_path, monkeypatch):
    hs.create(tmp_path / "a.npy", 3).close()
    (tmp_path / "link.npy").symlink_to("a.npy")
    monkeypatch.chdir(tmp_path)
    a = hs.open("link.npy", "r+")
    a[0] = 1
    assert a.path == str(tmp_path / "link.npy")
    assert np.load("a.npy")[0] == 1


# --- create -------------------------------------------------------------------------------


def test_disk_is_reserved_unless_sparse(tmp_path):
    full = hs.create(tmp_path / "full.npy", (100, 1000), "f8")
    thin = hs.create(tmp_path / "thin.npy", (100, 1000), "f8", sparse=True)
    for a in (full, thin):
        assert Path(a.path).stat().st_size == 128 + 800_000
        assert not np.asarray(a).any()
    assert Path(full.path).stat().st_blocks * 512 >= 800_000
    assert Path(thin.path).stat().st_blocks * 512 <= 65_536


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("dtype", ["f4", np.int16, float, "M8[ns]", "g", "i1,f8", "V7"])
@pytest.mark.parametrize("shape", [5, (), (0,), (3, 0, 2), [2, 3], np.array([2, 2])])
def test_created_files_are_numpys(tmp_path, dtype, align, shape):
    dtype = np.dtype(dtype, align=align)
    a = hs.create(tmp_path / "a.npy", shape, dtype, order="F")
    loaded = np.load(a.path)
    expected = np.zeros(shape, dtype)
    assert (loaded.shape, loaded.dtype) == (expected.shape, expected.dtype)
    assert (a.shape, a.dtype, a.mode) == (expected.shape, expected.dtype, "r+")
    assert a.ref.offset % 64 == 0


def test_subarray_types_become_axes(tmp_path):
    a = hs.create(tmp_path / "a.npy", (2,), ("f4", (3, 4)))
    assert (a.shape, a.dtype) == ((2, 3, 4), np.dtype("f4"))


def test_existing_files_are_kept_or_replaced_whole(tmp_path):
    path = tmp_path / "a.npy"
    old = hs.create(path, 3, "f4")
    old[...] = 5
    path.chmod(0o640)
    seen, mapped_elsewhere = np.asarray(old), np.load(path, mmap_mode="r")
    with pytest.raises(hs.ArrayFileError, match="overwrite=True"):
        hs.create(path, 7, "i8")
    new = hs.create(path, 7, "i8", overwrite=True)
    assert np.load(path).shape == new.shape == (7,)
    assert seen.tolist() == mapped_elsewhere.tolist() == [5, 5, 5]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(hs.ArrayFileError, match="replaced or moved; open it again"):
        np.asarray(old)
    assert os.listdir(tmp_path) == ["a.npy"]
    del mapped_elsewhere


def test_overwrite_follows_links_and_stops_at_what_is_no_file(tmp_path):
    hs.create(tmp_path / "a.npy", 3).close()
    (tmp_path / "link.npy").symlink_to("a.npy")
    hs.create(tmp_path / "link.npy", 4, overwrite=True).close()
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "a.npy").shape == (4,)
    (tmp_path / "dangling.npy").symlink_to("nowhere")
    with pytest.raises(hs.ArrayFileError, match="exists already"):
        hs.create(tmp_path / "dangling.npy", 3)
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        with pytest.raises(hs.ArrayFileError, match="does not replace"):
            hs.create(tmp_path / name, 3, overwrite=True)


def test_create_mistakes_leave_nothing(tmp_path):
    for options, said in [
        ({"shape": (-1,)}, "negative length"),
        ({"shape": 2.5}, "is no shape"),
        ({"shape": 3, "dtype": "S"}, "have no bytes"),
        ({"shape": 3, "dtype": np.dtypes.StringDType()}, "Python objects"),
        ({"shape": 3, "order": "A"}, "order='A'"),
        ({"shape": (2**62,)}, "the most that a file"),
        ({"shape": 3, "dtype": np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"],
                                         "offsets": [0, 2]})}, "without overlaps"),
    ]:  # fmt: skip
        with pytest.raises(hs.ArrayFileError, match=said):
            hs.create(tmp_path / "a.npy", **options)
    with pytest.raises(hs.ArrayFileError, match=r"directory '.*none' does not exist"):
        hs.create(tmp_path / "none" / "a.npy", 3)
    hs.create(tmp_path / "file", 3).close()
    for below in (tmp_path / "file" / "a.npy", "a\0b"):
        with pytest.raises(hs.ArrayFileError, match="cannot be made"):
            hs.create(below, 3)
    (tmp_path / "file").unlink()
    with pytest.raises(hs.ArrayFileError, match="File name too long"):
        hs.create(tmp_path / ("n" * 256), 3)
    hs.create(tmp_path / ("n" * 255), 3).close()
    assert os.listdir(tmp_path) == ["n" * 255]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        hs.create(tmp_path / "a.npy", 3).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.npy").stat().st_mode) == 0o640


def test_of_many_creators_one_wins(tmp_path):
    won: list[int] = []
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait(20)
        try:
            a = hs.create(tmp_path / "a.npy", number, "i8")
        except hs.ArrayFileError as error:
            assert "exists already" in str(error)
        else:
            won.append(number)
            a.close()

    threads = [threading.Thread(target=make, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert np.load(tmp_path / "a.npy").shape == tuple(won)
    assert os.listdir(tmp_path) == ["a.npy"]


def test_where_nothing_can_be_reserved_zeros_are_written(tmp_path, monkeypatch):
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    a = hs.create(tmp_path / "a.npy", (3, 10**6), "u1")
    assert Path(a.path).stat().st_blocks * 512 >= 3 * 10**6
    assert np.load(a.path).shape == (3, 10**6)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    mounted = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        mapping.forget_all()
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk_is_an_error_that_leaves_nothing(tiny_disk, monkeypatch):
    needs = r"needs 8,000,128 bytes and 1,048,576 bytes are available .*sparse=True"
    with pytest.raises(hs.ArrayFileError, match=needs):
        hs.create(tiny_disk / "a.npy", 10**6)
    # A disk that fills up between the question and the reservation.
    roomy = os.statvfs("/")
    monkeypatch.setattr(os, "fstatvfs", lambda fd: roomy)
    with pytest.raises(hs.ArrayFileError, match=needs):
        hs.create(tiny_disk / "a.npy", 10**6)
    assert os.listdir(tiny_disk) == []

    kept = hs.create(tiny_disk / "a.npy", 10**4)
    kept[...] = 1
    with pytest.raises(hs.ArrayFileError, match=r"are available"):
        hs.create(tiny_disk / "a.npy", 10**6, overwrite=True)
    assert np.load(kept.path).sum() == 10**4

    thin = hs.create(tiny_disk / "thin.npy", 10**6, sparse=True)
    with pytest.raises(hs.ArrayFileError, match="No space left on device"):
        thin[...] = 1
    kept.close()
    thin.close()


def test_limit_on_the_size_of_files(tmp_path):
    code = (
        "import os, resource, sys, hyperslab as hs\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "for sparse in (False, True):\n"
        "    try: hs.create(sys.argv[1] + '/a.npy', 10**6, sparse=sparse)\n"
        "    except hs.ArrayFileError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 2
    assert all("8,000,128 bytes" in line and "ulimit -f" in line for line in lines)
    assert os.listdir(tmp_path) == []
