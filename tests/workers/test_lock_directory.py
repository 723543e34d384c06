"""The life of a lock directory: made, shared, removed by the last user, swept after a kill."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperslab_workers import owned
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.locks import directory as lock_directory
from hyperslab_workers.locks import release_all, sweep
from hyperslab_workers.locks import table as lock_table

STRIPE = 65536


def exists(directory: str) -> bool:
    return Path(directory).exists()


def names(directory: str | Path) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def test_the_last_user_removes_the_directory(lock, directory, start):
    other = start("retain", directory)
    assert other.line() == "retained"
    with lock.registered(), lock.registered():
        with lock.hold(extents_write=[(0, 3 * STRIPE)]):
            pass
        assert len(names(directory)) > 1
    assert exists(directory), "another process uses it"
    other.go_on()
    other.end()
    assert not exists(directory)


def test_a_hold_outlives_the_release_of_its_directory(lock, directory, is_free):
    lock.retain()
    with lock.hold(extents_write=[(0, 1)]):
        lock.release()
        assert exists(directory)
        assert not is_free(lock)
    assert not exists(directory)
    lock.release()


def test_holding_without_registering_keeps_the_directory_until_release_all(lock, directory):
    with lock.hold(extents_write=[(0, 1)]):
        assert not release_all(timeout=0.01)
        assert exists(directory)
    assert not exists(directory)
    with lock.hold(extents_write=[(0, 1)]):
        pass
    assert exists(directory)
    assert release_all()
    assert not exists(directory)


def test_a_program_that_only_holds_removes_the_directory_at_exit(directory, start):
    program = start("attempt", directory, "write", 0, 1)
    assert program.line() == "0 1"
    program.end()
    assert not exists(directory)


def test_the_directory_is_made_and_removed_under_others_safely(directory, start):
    """Exclusion holds although each turn makes the lock files anew: `open` with "x" judges."""
    programs = [start("come_and_go", directory, 40) for _ in range(3)]
    assert [program.line() for program in programs] == ["started"] * 3
    assert [program.line() for program in programs] == ["done"] * 3
    assert not exists(directory)


def test_a_directory_removed_while_it_is_entered_is_made_anew(
    lock, directory, monkeypatch, is_free
):
    """Another process leaves between our opening of `users` and our lock on it."""
    Path(directory).mkdir(parents=True)
    Path(directory, "users").write_text(f"64 {STRIPE}\n")
    monkeypatch.setattr(lock_table, "_swept", {str(Path(directory).parent)})
    flock, removed = owned.flock, []

    def late(fd: int, kind: int) -> bool:
        if not removed:
            inside = owned.open_own(directory)
            removed.append(lock_directory._remove(inside, directory))
            os.close(inside)
        return flock(fd, kind)

    monkeypatch.setattr(owned, "flock", late)
    with lock.registered():
        assert removed == [True]
        assert "users" in names(directory)
        with lock.hold(extents_write=[(0, 1)], timeout=0):
            assert not is_free(lock)
    assert not exists(directory)


def test_sweep_removes_what_a_killed_process_left_and_nothing_in_use(lock, directory, start):
    left, used = directory[:-1] + "2", directory[:-1] + "3"
    victim, other = start("hold", left, "write", 0, 1), start("retain", used)
    assert (victim.line(), other.line()) == ("held", "retained")
    root = str(Path(directory).parent)
    with lock.registered():
        Path(root, "not-ours").mkdir()
        Path(root, "b-9").mkdir()  # Its maker died before it went on.
        assert sweep(root) == 1
        victim.kill()
        assert exists(left)
        assert sweep(root) == 1
        assert names(root) == ["a-1", "a-3", "not-ours"]
        assert not start("attempt", directory, "write").line()  # It sweeps too: ours is in use.
        assert exists(directory)
    assert sweep(str(root) + "/missing") == 0


def test_registering_sweeps_the_root_once(lock, directory, start, monkeypatch):
    monkeypatch.setattr(lock_table, "_swept", set())
    left = directory[:-1] + "2"
    victim = start("hold", left, "write", 0, 1)
    assert victim.line() == "held"
    victim.kill()
    with lock.registered():
        assert names(Path(directory).parent) == ["a-1"]


def test_a_foreign_layout_is_refused(lock, directory, monkeypatch):
    monkeypatch.setattr(lock_table, "_swept", {str(Path(directory).parent)})
    Path(directory).mkdir(parents=True)
    Path(directory, "users").write_text("something else")
    with pytest.raises(HyperslabError, match=r"not two numbers.*Remove the directory"):
        lock.retain()
