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
    with owned.unowned(path) as mark:
        return mark is not None


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


def test_who_sweeps_is_alone_meanwhile(mark):
    with owned.unowned(mark) as swept:
        assert swept is not None
        assert not unowned(mark)


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
    started = time.monotonic()
    for name in ("link", "fifo", "missing"):
        with pytest.raises(OSError), owned.unowned(str(tmp_path / name)):
            pass
    assert time.monotonic() - started < 5


def test_cleaners_are_kept_away(tmp_path):
    kept = owned.keep(str(tmp_path))
    cleaner = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert not owned.flock(cleaner, fcntl.LOCK_EX)
    os.close(kept)
    assert owned.flock(cleaner, fcntl.LOCK_EX)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        owned.keep(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(cleaner)
