"""The locks of a file have one home, and a file that was made again is another file."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import hyperslab as hs
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.file_identity import file_status
from hyperslab_workers.locks import lock_for


@hs.kernel
def one_more(a):
    for i in range(a.shape[0]):
        a[i] += 1


@hs.kernel
def copied(a, out):
    for i in range(a.shape[0]):
        out[i] = a[i]


def shared_file(path: Path, **options) -> hs.Array:
    np.save(path, np.zeros(100))
    return hs.open(path, "r+", shared=True, **options)


def root_of(array: hs.Array) -> str:
    return os.path.dirname(lock_for(array.ref, settle=False).directory)


@pytest.mark.parametrize("executor", ["serial", "loky"])
def test_an_engines_lock_directory_is_that_of_locks_by_hand(tmp_path: Path, executor: str) -> None:
    a = shared_file(tmp_path / "a.npy")
    with hs.Engine(
        workers=1, executor=executor, lock_dir=tmp_path / "locks", lock_timeout=0.3, progress=False
    ) as engine:
        engine.run(one_more, hs.update(a))
        assert root_of(a) == str(tmp_path / "locks")
        entered, done = threading.Event(), threading.Event()

        def by_hand() -> None:
            with a.lock(write=True):
                entered.set()
                done.wait(30)

        thread = threading.Thread(target=by_hand)
        thread.start()
        try:
            assert entered.wait(30)
            with pytest.raises(hs.LockTimeout):
                engine.run(one_more, hs.update(a))
        finally:
            done.set()
            thread.join()
    assert np.array_equal(a, np.ones(100))


@pytest.mark.parametrize("first", ["by hand", "assignment", "open", "engine"])
def test_settings_that_disagree_are_refused_with_both_named(tmp_path: Path, first: str) -> None:
    options = {"lock_dir": tmp_path / "one"} if first == "open" else {}
    a = shared_file(tmp_path / "a.npy", **options)
    if first == "by hand":
        with a.lock():
            pass
    elif first == "assignment":
        a[0] = 0
    elif first == "engine":
        with hs.Engine(executor="serial", lock_dir=tmp_path / "one", progress=False) as engine:
            engine.run(one_more, hs.update(a))
    before = np.array(a)
    known = root_of(a)
    with (
        hs.Engine(executor="serial", lock_dir=tmp_path / "other", progress=False) as engine,
        pytest.raises(HyperslabError, match="HYPERSLAB_LOCK_DIR alone") as refused,
    ):
        engine.run(one_more, hs.update(a))
    assert known in str(refused.value) and str(tmp_path / "other") in str(refused.value)
    assert np.array_equal(a, before)


def test_another_handle_of_the_file_has_the_same_home(tmp_path: Path) -> None:
    a = shared_file(tmp_path / "a.npy", lock_dir=tmp_path / "locks")
    with a.lock():
        pass
    os.symlink(tmp_path / "a.npy", tmp_path / "link.npy")
    assert root_of(hs.open(tmp_path / "link.npy", "r+", shared=True)) == root_of(a)
    with (
        pytest.raises(HyperslabError, match="keep out"),
        hs.open(tmp_path / "link.npy", "r+", shared=True, lock_dir=tmp_path / "other").lock(),
    ):
        pass


def test_planning_settles_nothing(tmp_path: Path) -> None:
    a = shared_file(tmp_path / "a.npy")
    with hs.Engine(executor="serial", lock_dir=tmp_path / "one", progress=False) as engine:
        assert "lock" in engine.plan(one_more, hs.update(a)).explain()
    with hs.Engine(executor="serial", lock_dir=tmp_path / "two", progress=False) as engine:
        engine.run(one_more, hs.update(a))
    assert root_of(a) == str(tmp_path / "two")


PROGRAM = """
import os, sys
import numpy as np, hyperslab as hs
@hs.kernel
def one_more(a):
    for i in range(a.shape[0]):
        a[i] += 1
folder = sys.argv[1]
a = hs.open(os.path.join(folder, "a.npy"), "r+", shared=True)
given = dict(lock_dir="locks", scratch="scratch") if sys.argv[2] == "given" else {}
engine = hs.Engine(executor="serial", progress=False, **given)
os.chdir("/")
engine.run(one_more, hs.update(a))
from hyperslab_workers.locks import lock_for
print(os.path.dirname(lock_for(a.ref, settle=False).directory))
print(engine.settings.scratch)
"""


@pytest.mark.parametrize("way", ["given", "variable"])
def test_a_relative_path_counts_from_where_it_was_given(tmp_path: Path, way: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(10))
    (tmp_path / "scratch").mkdir()
    environ = dict(os.environ)
    if way == "variable":
        environ |= {"HYPERSLAB_LOCK_DIR": "locks", "HYPERSLAB_SCRATCH": "scratch"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), way],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "locks"), str(tmp_path / "scratch")]


@pytest.mark.parametrize("what", ["file", "directory", "root"])
def test_a_lock_that_was_removed_while_it_was_held_is_an_error(tmp_path: Path, what: str) -> None:
    a = shared_file(tmp_path / "a.npy", lock_dir=tmp_path / "locks")
    with pytest.raises(HyperslabError, match="was removed while it was held"), a.lock(write=True):
        (directory,) = (tmp_path / "locks").iterdir()
        if what == "file":
            for path in directory.glob("*.rw"):
                path.unlink()
        else:
            shutil.rmtree(directory if what == "directory" else tmp_path / "locks")
    with a.lock(write=True):  # In a new one, with all others.
        assert (tmp_path / "locks").is_dir()


def test_a_lock_that_was_removed_while_nobody_held_it_is_an_error_once(tmp_path: Path) -> None:
    a = shared_file(tmp_path / "a.npy", lock_dir=tmp_path / "locks")
    with a.lock(write=True):
        pass
    for directory in (tmp_path / "locks").iterdir():
        shutil.rmtree(directory)
    with (
        pytest.raises(HyperslabError, match="was removed while it was waited for"),
        a.lock(write=True),
    ):
        pass
    with a.lock(write=True):
        pass


def made_again(path: Path, values: np.ndarray) -> bool:
    """Save another file under that name; whether it got the same inode."""
    before = os.stat(path).st_ino
    for _ in range(50):
        path.unlink()
        np.save(path, values)
        if os.stat(path).st_ino == before:
            return True
    return False


def test_a_file_that_was_made_again_is_another_file(engine: hs.Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(1000))
    if not file_status(str(path)).born:
        pytest.skip("this file system tells no birth time")
    a, out = hs.open(path), hs.from_array(np.zeros(1000))
    plan = engine.plan(copied, a, hs.write(out))
    if not made_again(path, np.ones(1000)):
        pytest.skip("this file system gives no inode twice in a row")
    for use in (
        plan.run,
        lambda: engine.run(copied, a, hs.write(out)),
        lambda: np.array(pickle.loads(pickle.dumps(a))),
    ):
        with pytest.raises(hs.ArrayFileError, match="no longer the file"):
            use()
    assert not np.asarray(out).any()


def test_a_raw_file_may_grow_and_must_not_shrink(engine: hs.Engine, tmp_path: Path) -> None:
    path = tmp_path / "frames.raw"
    frames = np.arange(200.0)
    frames.tofile(path)
    a, out = hs.open(path, dtype=float, shape=(200,)), hs.from_array(np.zeros(200))
    for _ in range(3):
        engine.run(copied, a, hs.write(out))
        assert np.array_equal(out, frames) and np.array_equal(np.array(a), frames)
        out[...] = 0
        with path.open("ab") as file:
            file.write(frames.tobytes())
    os.truncate(path, 100)
    with pytest.raises(hs.ArrayFileError, match="changed its size"):
        engine.run(copied, a, hs.write(out))


def test_scratch_where_everybody_may_rename_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(hs.ArrayFileError, match=r"sticky bit \(chmod \+t\)"):
        hs.from_array(np.zeros(3), scratch=root)
    assert not list(root.iterdir())
    root.chmod(0o1777)
    hs.from_array(np.zeros(3), scratch=root)
