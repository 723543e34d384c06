"""Files appear whole or not at all, and whoever is killed while making one leaves nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hyperslab as hs
from hyperslab import whole_file
from hyperslab.whole_file import write_whole

STOPS = """
import os, sys, time
from hyperslab.whole_file import write_whole

def fill(fd):
    os.write(fd, b"half")
    print("begun", flush=True)
    time.sleep(60)

write_whole(sys.argv[1], fill, replace=sys.argv[2] == "replace")
"""

# Flags that every file system refuses.
WITHOUT_UNNAMED = "import os; os.O_TMPFILE = os.O_EXCL | os.O_DIRECTORY | os.O_CREAT\n" + STOPS


def content(text: bytes):
    return lambda fd: os.write(fd, text)


def killed_in_the_middle(program: str, target: Path, how: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", program, target, how],
        stdin=subprocess.PIPE,  # Of which it waits for the end; the tests' own may be at it.
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)


@pytest.fixture(autouse=True)
def unswept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_file, "_swept", set())


@pytest.fixture(params=["unnamed", "aside", "no hard links"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems that can do less and less."""
    if request.param != "unnamed":
        really = os.open

        def refuse(path, flags, mode=0o777, *, dir_fd=None):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return really(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refuse)
    if request.param == "no hard links":

        def no_link(*args: object, **options: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_link)
    return str(request.param)


def test_a_file_is_made_and_replaced_and_nothing_else_is_there(tmp_path, file_system):
    target = tmp_path / "a"
    write_whole(str(target), content(b"one"), replace=False)
    with pytest.raises(FileExistsError):
        write_whole(str(target), content(b"two"), replace=False)
    assert target.read_bytes() == b"one"
    write_whole(str(target), content(b"three"), replace=True, permissions=0o640)
    assert target.read_bytes() == b"three"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_what_was_there(tmp_path, file_system):
    target = tmp_path / "a"
    target.write_text("old")

    def fail(fd: int) -> None:
        os.write(fd, b"new")
        raise OSError(errno.ENOSPC, "No space left on device")

    for replace in (True, False):
        with pytest.raises(OSError, match="No space left"):
            write_whole(str(target), fail, replace=replace)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_that_cannot_be_made_later_is_made_another_way(tmp_path, monkeypatch):
    """An unnamed file may turn out to get no name: the content is made again, under one."""
    really, refused = os.link, []

    def link(source, target, **options):
        if str(source).startswith("/proc/"):
            refused.append(source)
            raise OSError(errno.ENOENT, "No such file or directory")
        return really(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    write_whole(str(tmp_path / "a"), content(b"all"), replace=False)
    assert refused
    assert (tmp_path / "a").read_bytes() == b"all"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("how", ["new", "replace"])
def test_a_kill_leaves_nothing(tmp_path, how):
    target = tmp_path / "a"
    if how == "replace":
        target.write_text("old")
    killed_in_the_middle(STOPS, target, how)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"] * (how == "replace")


def test_what_a_kill_leaves_where_files_have_names_is_swept(tmp_path):
    killed_in_the_middle(WITHOUT_UNNAMED, tmp_path / "a", "new")
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half"
    hs.create(tmp_path / "b.npy", 3).close()
    assert [path.name for path in tmp_path.iterdir()] == ["b.npy"]


def test_only_what_was_left_is_swept(tmp_path):
    """Not what somebody still fills, nor what is no file, nor another's name."""
    alive = tmp_path / ".hyperslab-new-0000000000000000"
    folder = tmp_path / ".hyperslab-new-0000000000000001"
    fifo = tmp_path / ".hyperslab-new-0000000000000002"
    other = tmp_path / ".hyperslab-new-mine"
    folder.mkdir()
    os.mkfifo(fifo)
    other.write_text("mine")
    with open(alive, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(str(tmp_path / "a"), content(b"all"), replace=False)
    assert all(path.exists() for path in (alive, folder, fifo, other))


def test_create_is_killed_while_it_reserves_the_disk(tmp_path):
    program = """
import os, sys
import hyperslab as hs
really = os.posix_fallocate
def stop(fd, offset, size):
    really(fd, offset, size)
    print("begun", flush=True)
    sys.stdin.read()
os.posix_fallocate = stop
hs.create(sys.argv[1], 10**6)
"""
    killed_in_the_middle(program, tmp_path / "a.npy", "new")
    assert not list(tmp_path.iterdir())


def test_the_descriptor_is_no_standard_stream(tmp_path):
    """With its streams closed, a program prints into nothing, and never into an array's file."""
    program = f"""
import os
for fd in (0, 1, 2):
    os.close(fd)
import numpy as np
import hyperslab as hs
out = hs.create({str(tmp_path / "a.npy")!r}, 1000)
out[...] = 1.0
for fd in (1, 2):
    try:
        os.write(fd, b"printed")
    except OSError:
        pass
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (np.load(tmp_path / "a.npy") == 1.0).all()
