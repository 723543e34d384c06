"""Which lock a file has, which stripes its bytes, where locks lie, and whether they exclude."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.locks import StripedLock, default_lock_root, lock_for, probe
from hyperslab_workers.locks import root as lock_root

STRIPE = 65536


def names(directory: str | Path) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def reference(path: Path, **changes: object) -> ArrayRef:
    status = path.stat()
    settings = {
        "path": str(path),
        "device": status.st_dev,
        "inode": status.st_ino,
        "file_size": status.st_size,
        "offset": 0,
        "dtype": np.dtype("u1"),
        "shape": (status.st_size,),
        "strides": (1,),
    }
    return ArrayRef(**{**settings, **changes})


# --- which lock, which stripes -------------------------------------------------------------


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 40))
def test_the_stripes_of_an_extent_are_those_of_its_bytes(first, length, pages, stripes):
    lock = StripedLock("/locks/1-2", "data.npy", pages * 4096, stripes)
    # The first byte of each stripe and of the extent stand for all bytes between.
    edges = range(-(-first // lock.stripe_bytes), -(-(first + length) // lock.stripe_bytes))
    touched = {min(edge, stripes - 1) for edge in edges}
    if length:
        touched.add(min(first // lock.stripe_bytes, stripes - 1))
    assert set(lock.stripes_of((first, first + length))) == touched


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 65536), (64 * 65536, 65536), (64 * 65536 + 1, 69632)]
)
def test_stripes_are_whole_pages_and_64_cover_the_file(tmp_path, size, expected):
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(size)
    lock = lock_for(reference(path), str(tmp_path))
    assert lock.stripe_bytes == expected
    assert len(lock.stripes_of((0, size))) <= 64
    assert lock.stripe_bytes * lock.stripes >= size


def test_a_symlink_and_a_hard_link_share_the_lock(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"12345678")
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "roots").symlink_to(tmp_path)
    locks = {
        lock_for(reference(tmp_path / name), str(root)).directory
        for name in ("data", "soft", "hard")
        for root in (tmp_path, tmp_path / "roots")
    }
    assert len(locks) == 1
    (tmp_path / "copy").write_bytes(b"12345678")
    assert lock_for(reference(tmp_path / "copy"), str(tmp_path)).directory not in locks


def test_the_lock_root_is_the_references_then_the_callers_then_the_default(tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(b"1")
    monkeypatch.setenv("HYPERSLAB_LOCK_DIR", str(tmp_path / "variable"))
    own = reference(path, lock_dir=str(tmp_path / "own"))

    def root(ref, given=None):
        return os.path.dirname(lock_for(ref, given, settle=False).directory)

    assert root(own) == f"{tmp_path}/own"
    assert root(reference(path), str(tmp_path / "given")) == f"{tmp_path}/given"
    assert root(reference(path)) == f"{tmp_path}/variable"
    assert names(tmp_path) == ["data"], "naming a lock creates nothing"


def test_the_default_root_does_not_depend_on_the_session(monkeypatch, tmp_path):
    lock_root._root.cache_clear()
    monkeypatch.delenv("HYPERSLAB_LOCK_DIR", raising=False)
    plain = default_lock_root()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    lock_root._root.cache_clear()
    assert default_lock_root() == plain
    assert plain.endswith(f"-{os.geteuid()}")


# --- permissions ---------------------------------------------------------------------------


def test_a_default_root_is_private_and_goes_with_its_last_directory(tmp_path):
    root = tmp_path / f"hyperslab-locks-{os.geteuid()}"
    lock = StripedLock(str(root / "1-2"), "data.npy", STRIPE)
    with lock.registered(), lock.hold(extents_write=[(0, 1)]):
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in (root / "1-2").iterdir()} == {0o600}
    assert names(tmp_path) == []


def test_a_shared_root_gives_its_permissions_to_the_lock_files(tmp_path):
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o1777)
    lock = StripedLock(str(root / "1-2"), "data.npy", STRIPE)
    before = os.umask(0o077)
    try:
        with lock.registered(), lock.hold(extents_write=[(0, 1)]):
            assert stat.S_IMODE((root / "1-2").stat().st_mode) == 0o777
            modes = {stat.S_IMODE(file.stat().st_mode) for file in (root / "1-2").iterdir()}
            assert modes == {0o666}
    finally:
        os.umask(before)
    assert names(root) == []


@pytest.mark.parametrize("fault", ["symbolic link", "not a directory", "belongs to", "mode 0777"])
def test_a_default_root_laid_out_by_somebody_else_is_refused(tmp_path, monkeypatch, fault):
    root = tmp_path / "hyperslab-locks-7"
    if fault == "symbolic link":
        root.symlink_to(tmp_path)
    elif fault == "not a directory":
        root.write_bytes(b"")
    else:
        root.mkdir()
        root.chmod(0o777 if fault == "mode 0777" else 0o700)
    if fault == "belongs to":
        monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    lock = StripedLock(str(root / "1-2"), "data.npy", STRIPE)
    with pytest.raises(HyperslabError, match=rf"{fault}[\s\S]*HYPERSLAB_LOCK_DIR"):
        lock.retain()


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    lock = StripedLock(str(tmp_path / "file" / "1-2"), "data.npy", STRIPE)
    with pytest.raises(HyperslabError, match=r"cannot be used.*HYPERSLAB_LOCK_DIR"):
        lock.retain()


# --- filesystems whose locks may not exclude ------------------------------------------------


def test_probe_tells_whether_locks_exclude(tmp_path, monkeypatch):
    assert probe(str(tmp_path))
    assert not probe(str(tmp_path / "missing"))
    # A filesystem that grants every lock, as NFS with local_lock does between machines.
    pretend = lock_root._PROBE.replace("import fcntl", "import fcntl; fcntl.lockf = print;", 1)
    monkeypatch.setattr(lock_root, "_PROBE", pretend)
    assert not probe(str(tmp_path))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "doubtful"),
    [("nfs4", True), ("lustre", True), ("fuse.sshfs", True), ("9p", True), ("ext4", False)],
)
def test_only_network_filesystems_are_probed_and_refused(tmp_path, monkeypatch, kind, doubtful):
    asked: list[str] = []

    def no(root: str) -> bool:
        asked.append(root)
        return False

    monkeypatch.setattr(lock_root, "filesystem_type", lambda path: kind)
    monkeypatch.setattr(lock_root, "probe", no)
    lock_root._is_doubtful.cache_clear()
    lock_root._probed.cache_clear()
    lock = StripedLock(str(tmp_path / "1-2"), "data.npy", STRIPE)
    try:
        for _ in range(2):
            if doubtful:
                with pytest.raises(HyperslabError, match=rf"{kind}.*HYPERSLAB_LOCK_DIR"):
                    lock.retain()
            else:
                with lock.registered():
                    pass
    finally:
        lock_root._is_doubtful.cache_clear()
        lock_root._probed.cache_clear()
    assert asked == [str(tmp_path)] * doubtful
    assert names(tmp_path) == []
