"""Scratch directories: one for each process and root, gone with it whatever way it goes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hyperslab import session
from hyperslab.errors import ArrayFileError
from hyperslab.session import session_directory
from hyperslab_workers import owned, scratch

MAKE = "import sys; from hyperslab.session import session_directory as s; print(s(sys.argv[1]))"


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A root of the test's own, with what was made there removed from the table after it."""
    yield tmp_path
    for key in [key for key in session._sessions if key[1].startswith(str(tmp_path))]:
        session._sessions.pop(key).abandon()


def program(*lines: str, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join([MAKE, "sys.stdout.flush()", *lines]), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_one_directory_for_one_root(fresh):
    first = session_directory(fresh)
    assert first == session_directory(str(fresh))
    assert first.parent == fresh
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert first.name.startswith(f"hyperslab-session-{os.getuid()}-")


def test_a_link_to_the_root_is_the_same_root(fresh, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "scratch"
    link.symlink_to(fresh)
    assert session_directory(link) == session_directory(fresh)


def test_the_variable_names_the_root(fresh, monkeypatch):
    monkeypatch.setenv("HYPERSLAB_SCRATCH", str(fresh))
    assert session_directory().parent == fresh


def test_a_directory_that_was_removed_is_made_again(fresh):
    first = session_directory(fresh)
    shutil.rmtree(first)
    descriptors = len(os.listdir("/proc/self/fd"))
    second = session_directory(fresh)
    assert second != first
    assert second.is_dir()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_root_that_does_not_exist_is_an_error_with_its_remedy(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ArrayFileError, match="HYPERSLAB_SCRATCH") as caught:
        session_directory(missing)
    assert repr(str(missing)) in str(caught.value)
    assert "No such file" in str(caught.value)


def test_a_process_that_ends_removes_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_is_not(fresh):
    dead = program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", root=fresh)
    left = Path(dead.stdout.readline().strip())
    assert dead.wait() == -signal.SIGKILL
    dead.communicate()
    assert left.is_dir()
    alive = program("sys.stdin.readline()", root=fresh)
    used = Path(alive.stdout.readline().strip())
    try:
        # The live program has swept already; a sweep of ours must leave it alone.
        assert not left.exists()
        mine = session_directory(fresh)
        assert used.is_dir()
        assert mine != used
    finally:
        alive.communicate("\n")
    assert alive.returncode == 0
    assert not used.exists()
    assert mine.is_dir()


def test_what_was_cut_short_while_it_was_made_or_removed_is_swept(fresh):
    for name in ("half-made", "half-removed"):
        (fresh / f"hyperslab-session-{os.getuid()}-{name}").mkdir()
    (fresh / f"hyperslab-session-{os.getuid()}-half-made" / "owner.lock.new").touch()
    mine = session_directory(fresh)
    assert list(fresh.iterdir()) == [mine]


def test_a_directory_that_is_being_made_is_left_alone(fresh):
    half = fresh / f"hyperslab-session-{os.getuid()}-half"
    half.mkdir()
    maker = owned.open_own(str(half))
    owned.keep(maker)
    session_directory(fresh)
    assert half.is_dir()
    os.close(maker)


def test_a_directory_that_is_swept_before_it_has_an_owner_is_made_anew(fresh, monkeypatch):
    swept = []
    keep = owned.keep

    def late(directory: int) -> None:
        if not swept:
            (made,) = fresh.iterdir()
            swept.append(scratch.remove_abandoned(str(made)))
        keep(directory)

    monkeypatch.setattr(owned, "keep", late)
    mine = session_directory(fresh)
    assert swept == [True]
    assert list(fresh.iterdir()) == [mine]
    assert (mine / "owner.lock").is_file()


# --- what others can do ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2770, 0o755])
def test_a_root_where_everybody_can_rename_is_refused(fresh, mode):
    root = fresh / "root"
    root.mkdir()
    root.chmod(mode)
    if mode != 0o777:
        session_directory(root)
        return
    with pytest.raises(ArrayFileError, match=r"mode 0777.*mkdir -m 700.*chmod \+t"):
        session_directory(root)
    assert list(root.iterdir()) == []


def test_a_directory_that_takes_ours_place_is_not_used_and_stays(fresh):
    first = session_directory(fresh)
    moved = first.rename(fresh / "moved")
    first.mkdir()
    first.chmod(0o777)  # Or another user's, which takes another user to make.
    (first / "planted").touch()
    second = session_directory(fresh)
    assert second not in (first, moved)
    assert (first / "planted").exists()


def test_what_takes_ours_place_is_not_removed_at_the_end(fresh):
    made = session_directory(fresh)
    (made / "scrap").touch()
    made.rename(fresh / "moved")
    precious = fresh / "precious"
    precious.mkdir()
    (precious / "file").touch()
    made.symlink_to(precious)
    for key in [key for key in session._sessions if key[1] == str(fresh)]:
        session._sessions.pop(key).remove()
    assert (precious / "file").exists()
    assert list((fresh / "moved").iterdir()) == []


def test_a_link_or_a_file_in_place_of_a_left_directory_is_not_swept(fresh):
    precious = fresh / "precious"
    precious.mkdir()
    (precious / "file").touch()
    prefix = f"hyperslab-session-{os.getuid()}-"
    (fresh / f"{prefix}link").symlink_to(precious)
    (fresh / f"{prefix}file").touch()
    os.mkfifo(fresh / f"{prefix}fifo")
    session_directory(fresh)
    assert (precious / "file").exists()
    assert len(list(fresh.glob(f"{prefix}*"))) == 4


@pytest.mark.parametrize("text", ["a\nb", "back\\slash\\n", "\x0b\u2028\r", "\udcff"])
def test_a_root_may_have_any_name(tmp_path, text):
    """Each directory lists all: what a line may hold must not become another directory's name."""
    root = tmp_path / text
    (tmp_path / text.partition("\n")[0]).mkdir(exist_ok=True)
    root.mkdir(exist_ok=True)
    made = session_directory(root)
    try:
        assert scratch.listed_sessions(str(made)) == [
            str(one.directory) for one in session._sessions.values()
        ]
    finally:
        session._sessions.pop((os.getpid(), str(root))).remove()


def test_the_owner_file_has_its_name_only_when_it_is_locked(fresh, monkeypatch):
    """A sweep at any moment takes a directory for abandoned only if it is."""
    seen = []
    real = fcntl.flock

    def flock(fd, how):
        if stat.S_ISREG(os.fstat(fd).st_mode):
            seen.extend(path.name for path in fresh.glob("*/owner.lock"))
        return real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    directory = session_directory(fresh)
    assert seen == []
    assert (directory / "owner.lock").is_file()


def test_a_forked_child_has_a_directory_of_its_own_and_leaves_its_parents(fresh):
    forked = program(
        "import os",
        "mine = s(sys.argv[1])",
        "sys.stdout.flush()",
        "pid = os.fork()",
        "if pid: os.waitpid(pid, 0)",
        "print(s(sys.argv[1]), flush=True)",
        "assert not pid or mine.is_dir()",
        root=fresh,
    )
    output, _ = forked.communicate()
    assert forked.returncode == 0
    before, child, after = output.split()
    assert before == after != child
    assert list(fresh.iterdir()) == []
