"""Directories with an owner: who has one, and when it is nobody's."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from hyperslab_workers import owned


@pytest.fixture
def mark(tmp_path):
    path = tmp_path / "mark"
    path.touch()
    return str(path)


def unowned(path: str) -> bool:
    directory = os.open(os.path.dirname(path), owned.DIRECTORY_FLAGS)
    try:
        with owned.unowned(directory, os.path.basename(path)) as free:
            return free
    finally:
        os.close(directory)


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_an_owner_keeps_the_directory_until_it_is_gone(mark, kind):
    assert unowned(mark)
    owner = os.open(mark, owned.MARK_FLAGS)
    assert owned.flock(owner, kind)
    assert not unowned(mark)
    os.close(owner)
    assert unowned(mark)


def test_several_own_together_or_one_alone(mark):
    one, other = os.open(mark, owned.MARK_FLAGS), os.open(mark, owned.MARK_FLAGS)
    assert owned.flock(one, fcntl.LOCK_SH)
    assert owned.flock(other, fcntl.LOCK_SH)
    assert not owned.flock(one, fcntl.LOCK_EX)
    os.close(other)
    assert owned.flock(one, fcntl.LOCK_EX)
    os.close(one)


def test_who_sweeps_is_alone_meanwhile(mark, tmp_path):
    directory = os.open(tmp_path, owned.DIRECTORY_FLAGS)
    with owned.unowned(directory, "mark") as free:
        assert free
        assert not unowned(mark)
    os.close(directory)


def test_without_a_mark_the_directory_itself_is_asked(tmp_path):
    assert unowned(f"{tmp_path}/mark")
    maker = owned.open_own(str(tmp_path))
    owned.keep(maker)
    assert not unowned(f"{tmp_path}/mark")
    os.close(maker)
    assert unowned(f"{tmp_path}/mark")


def test_a_child_that_closes_its_copy_frees_nothing(mark):
    owner = os.open(mark, owned.MARK_FLAGS)
    assert owned.flock(owner, fcntl.LOCK_EX)
    if os.fork() == 0:
        os.close(owner)
        os._exit(0)
    os.wait()
    assert not unowned(mark)
    os.close(owner)


def test_a_mark_that_was_replaced_is_a_lock_on_nothing(mark):
    old = os.open(mark, owned.MARK_FLAGS)
    assert owned.is_at(old, mark)
    Path(mark).unlink()
    assert not owned.is_at(old, mark)
    Path(mark).touch()
    assert not owned.is_at(old, mark)
    assert not owned.is_at(old, mark + "/below")
    os.close(old)


def test_what_is_no_file_is_refused_and_not_waited_for(mark, tmp_path):
    Path(tmp_path, "link").symlink_to(mark)
    os.mkfifo(tmp_path / "fifo")
    Path(tmp_path, "directory").mkdir()
    started = time.monotonic()
    for name in ("link", "fifo", "directory"):
        with pytest.raises(OSError):
            unowned(f"{tmp_path}/{name}")
        with pytest.raises(OSError):
            owned.read_own(f"{tmp_path}/{name}")
    for name in ("link", "fifo", "mark"):
        with pytest.raises(OSError):
            owned.open_own(f"{tmp_path}/{name}")
    assert time.monotonic() - started < 5


def test_what_others_could_have_written_is_not_read(mark, tmp_path, monkeypatch):
    Path(mark).write_bytes(b"1" * 100_000)
    assert owned.read_own(mark) == b"1" * 100_000
    Path(mark).chmod(0o660)
    with pytest.raises(PermissionError, match="mode 0660, so that others can write to it"):
        owned.read_own(mark)
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="mode 0777"):
        owned.open_own(str(tmp_path))
    tmp_path.chmod(0o700)
    Path(mark).chmod(0o600)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for call in (lambda: owned.read_own(mark), lambda: owned.open_own(str(tmp_path))):
        with pytest.raises(
            PermissionError, match=f"belongs to user {me} and you are user {me + 1}"
        ):
            call()


def test_cleaners_are_kept_away(tmp_path):
    kept = owned.open_own(str(tmp_path))
    owned.keep(kept)
    cleaner = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert not owned.flock(cleaner, fcntl.LOCK_EX)
    os.close(kept)
    assert owned.flock(cleaner, fcntl.LOCK_EX)
    late = owned.open_own(str(tmp_path))
    with pytest.raises(BlockingIOError):
        owned.keep(late)
    os.close(late)
    os.close(cleaner)


def test_the_mark_goes_last(mark, tmp_path, monkeypatch):
    """Whoever is killed while clearing leaves something that is known to be nobody's."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").touch()
    (tmp_path / "outside").symlink_to("/")
    seen = []
    unlink = os.unlink

    def spied(name: str, *, dir_fd: int) -> None:
        seen.append((name, set(os.listdir(tmp_path))))
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", spied)
    directory = owned.open_own(str(tmp_path))
    owned.clear(directory, "mark")
    os.close(directory)
    assert list(tmp_path.iterdir()) == []
    assert seen[-1] == ("mark", {"mark"})
