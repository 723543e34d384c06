"""Hosts that refuse something: the job is done, or an error says what is missing and what to do.

What an error says is done here as well, and works.
"""

from __future__ import annotations

import errno
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import PROGRAMS, Program

import hyperslab as hs
from hyperslab.running.progress import make_progress
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.host import refused, remedy, temporary_directory, working_somewhere


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def _start(*arguments: object) -> Program:
        started.append(Program(tmp_path, "hosts.py", *arguments))
        return started[-1]

    yield _start
    for program in started:
        program.kill()


def shell(directory: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which $PROGRAM stands for the programs of this test."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={
            **os.environ,
            "PROGRAM": f"{sys.executable} {PROGRAMS / 'hosts.py'}",
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, _entries("PYTHONPATH"))),
            "HYPERSLAB_WORKERS": "2",
            "HYPERSLAB_LOCK_DIR": str(directory / "locks"),
            "TMPDIR": str(directory),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=90,
        start_new_session=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _entries(variable: str) -> list[str]:
    return [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]


def nothing_of(directory: Path) -> bool:
    return not list(directory.glob("hyperslab-*"))


def can(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


mounts = pytest.mark.skipif(
    not can("unshare", "-m", "true"), reason="needs the right to change mounts (root)"
)

NOBODY = "setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps +dac_read_search"
NOBODY += " --ambient-caps +dac_read_search"
users = pytest.mark.skipif(
    not can(*NOBODY.split(), "true"), reason="needs setpriv and the right to be another user (root)"
)


# --- Limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "low", "words"),
    [
        ("RLIMIT_NOFILE", 12, "ulimit -n"),
        ("RLIMIT_NOFILE", 16, "ulimit -n"),
        ("RLIMIT_NOFILE", 40, None),
        ("RLIMIT_AS", 900_000_000, None),
    ],
)
def test_under_a_limit_the_job_is_done_or_the_limit_is_named(start, kind, low, words):
    """Half of what programs may usually have is always enough; and lifting the limit helps."""
    if (
        resource.getrlimit(getattr(resource, kind))[1] not in (resource.RLIM_INFINITY,)
        and low > 1e6
    ):
        pytest.skip("this process is limited itself")
    program = start("limited", kind, low)
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    limited, serial, lifted = out.splitlines()
    if words is None:
        assert limited == "right"
    else:
        assert limited == "right" or words in limited
    assert serial == "right" or (words and words in serial)
    assert lifted == "right"
    program.assert_nothing_left()


@users
@pytest.mark.parametrize("low", [2, 4, 6])
def test_under_a_limit_of_processes_it_is_named_and_serial_works(tmp_path, low):
    tmp_path.chmod(0o1777)
    command = f"ulimit -u {low}; exec {NOBODY} $PROGRAM both"
    done = shell(tmp_path, command, OPENBLAS_NUM_THREADS="1")
    workers, serial = done.stdout.splitlines()
    # Six are enough where not all of them are wanted at once.
    named = "ulimit -u" in workers and "executor='serial'" in workers
    assert named or (low == 6 and workers == "right")
    assert serial == "right"
    assert nothing_of(tmp_path)


@users
def test_a_user_without_a_home_and_without_a_name(tmp_path):
    tmp_path.chmod(0o1777)
    done = shell(tmp_path, f"exec {NOBODY} env -u HOME -u USER -u LOGNAME $PROGRAM both")
    assert done.stdout == "right\nright\n"
    assert nothing_of(tmp_path)


def test_the_end_needs_no_descriptors(start):
    program = start("exhausted")
    assert program.end() == (0, "none left\n", "")
    program.assert_nothing_left()


@pytest.mark.parametrize("limit", [60, 61])
@pytest.mark.parametrize("keep", ["let go", "keep"])
def test_more_files_than_may_be_open(start, keep, limit):
    """One by one needs few descriptors; who keeps them all is told of the limit, and can let go."""
    program = start("many_files", keep, limit)
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    if keep == "let go":
        assert out == "right\n"
    else:
        refusal, after = out.splitlines()
        assert "ulimit -n" in refusal and "let go of arrays" in refusal
        assert after == "right"
    program.assert_nothing_left()


# --- Places ---------------------------------------------------------------------------------

SHARED_MEMORY = {
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "full": "mount -t tmpfs -o size=4k none /dev/shm; head -c 4096 /dev/zero > /dev/shm/fill",
    "without inodes": "mount -t tmpfs -o nr_inodes=1 none /dev/shm",
    "no directory": "mount -t tmpfs none /mnt; mkdir /mnt/dev; "
    "cp -a /dev/null /dev/zero /dev/urandom /dev/random /mnt/dev; mount --bind /mnt/dev /dev",
}


@mounts
@pytest.mark.parametrize("how", SHARED_MEMORY)
def test_no_shared_memory_is_needed(tmp_path, how):
    command = f"{SHARED_MEMORY[how]}; exec $PROGRAM both"
    done = shell(tmp_path, f"exec unshare -m bash -c {shlex.quote(command)}")
    assert done.stdout == "right\nright\n", done.stderr


@mounts
@pytest.mark.parametrize("size", ["4k", "40k", "1m"])
def test_scratch_on_a_disk_that_is_full(tmp_path, size):
    command = f"mount -t tmpfs -o size={size} none {tmp_path}; exec $PROGRAM both"
    done = shell(tmp_path, f"exec unshare -m bash -c {shlex.quote(command)}")
    for answer in done.stdout.splitlines():
        assert answer == "right" or ("free some" in answer.lower() and str(tmp_path) in answer)
    assert len(done.stdout.splitlines()) == 2
    assert size != "1m" or done.stdout == "right\nright\n"


READ_ONLY = "mount -t tmpfs none {place}; mount -o remount,bind,ro /; cd /; "


@mounts
def test_a_read_only_root_names_what_to_set_and_that_helps(tmp_path):
    os.mkdir(tmp_path / "volume")
    prepare = READ_ONLY.format(place=tmp_path / "volume") + "unset TMPDIR; "
    done = shell(
        Path("/"), f"exec unshare -m bash -c {shlex.quote(prepare + 'exec $PROGRAM both')}"
    )
    for answer in done.stdout.splitlines():
        assert answer.startswith("ArrayFileError: there is no temporary directory")
        assert "HYPERSLAB_SCRATCH" in answer and "TMPDIR" in answer
    for variable in ("HYPERSLAB_SCRATCH", "TMPDIR"):
        helped = f"{prepare} export {variable}={tmp_path / 'volume'}; exec $PROGRAM both"
        done = shell(Path("/"), f"exec unshare -m bash -c {shlex.quote(helped)}")
        assert done.stdout == "right\nright\n", done.stderr


@pytest.mark.parametrize("when", ["cold", "warm"])
def test_a_working_directory_that_was_removed(start, when):
    program = start("gone", when)
    returned, out, err = program.end()
    assert (returned, err) == (0, "")
    *warm, absolute, relative, back = out.splitlines()
    assert {*warm, absolute, back} == {"right"}
    assert relative.startswith("ArrayFileError: 'values.npy' is relative and the working directory")
    program.assert_nothing_left()


SPEC = """
version: 1
arrays:
  a: {path: a.npy}
  o: {path: o.npy, create: {like: a, overwrite: true}}
engine: {workers: 2}
steps:
  - {kernel: 'k.py:double', arguments: [a, {write: o}]}
"""
KERNEL = """
import hyperslab as hs
@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.arange(1000.0))
    (tmp_path / "k.py").write_text(KERNEL)
    (tmp_path / "job.yaml").write_text(SPEC)
    return tmp_path / "job.yaml"


CLOSED = ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-", "2>/dev/full"]


@pytest.mark.parametrize("closed", ["in a folder that is gone", *CLOSED])
def test_the_command_needs_no_streams_and_no_working_directory(tmp_path, spec, closed):
    command = f"{sys.executable} -m hyperslab.jobs.cli run {spec}"
    if closed in CLOSED:
        command = f"{command} {closed}"
    else:
        command = f"mkdir gone; cd gone; rmdir ../gone; {command}"
    done = shell(tmp_path, command)
    assert done.returncode == 0 or closed == "2>/dev/full", done.stderr
    assert np.load(tmp_path / "o.npy").sum() == 999_000


# --- Streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["none", "closed", *CLOSED])
def test_a_program_needs_no_streams(tmp_path, closed):
    how, redirected = (closed, "") if closed in ("none", "closed") else ("open", closed)
    shell(tmp_path, f"exec $PROGRAM streams {how} {redirected}")
    assert (tmp_path / "answer").read_text() == "right\nright"
    assert nothing_of(tmp_path)


class Broken:
    closed = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "the terminal is gone")

    def flush(self) -> None:
        raise OSError(errno.EIO, "the terminal is gone")


def test_progress_that_cannot_be_shown_stops_no_job(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken())
    monkeypatch.setenv("TERM", "xterm")
    display = make_progress(True, "double", 10, 1000)
    for regions in range(10):
        display.update(regions)
    display.close()


# --- In words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "x"), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (MemoryError(), "ulimit -v"),
        (ImportError("x.so: failed to map segment from shared object"), "ulimit -v"),
        (OSError(errno.ENOSPC, "x"), "HYPERSLAB_SCRATCH"),
        (OSError(errno.EROFS, "x"), "read-only"),
        (ValueError("x"), "ulimit -a"),
    ],
)
def test_what_is_refused_is_told_with_what_to_do(error, words):
    assert words in remedy(error)
    assert str(refused("it cannot be done", error)).startswith("it cannot be done (")


def test_python_that_does_not_know_its_own_program(monkeypatch):
    a = hs.from_array(np.zeros(100))

    @hs.kernel
    def add_one(a):
        for i in range(a.shape[0]):
            a[i] += 1

    with hs.Engine(workers=1, progress=False) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "")
            with pytest.raises(HyperslabError, match=r"set sys\.executable"):
                engine.run(add_one, hs.update(a))
        engine.run(add_one, hs.update(a))
    assert (np.asarray(a) == 1).all()


def test_a_temporary_directory_that_cannot_be_looked_for(monkeypatch):
    """Python takes a limit on open files for directories that cannot be written to."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "of/no/use")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, before[1]))
    taken = []
    try:
        with pytest.raises(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(HyperslabError, match="ulimit -n"):
            temporary_directory("SETTING")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)
    assert temporary_directory("SETTING") == tempfile.gettempdir()


def test_working_somewhere_comes_back_to_where_it_was(tmp_path):
    before = os.getcwd()
    os.mkdir(tmp_path / "gone")
    os.chdir(tmp_path / "gone")
    try:
        os.rmdir(tmp_path / "gone")
        with working_somewhere():
            assert os.getcwd() == "/"
        assert os.readlink("/proc/self/cwd").endswith("gone (deleted)")
        with working_somewhere():
            os.chdir(tmp_path)
        assert os.getcwd() == str(tmp_path)
    finally:
        os.chdir(before)
    with working_somewhere():
        assert os.getcwd() == before
