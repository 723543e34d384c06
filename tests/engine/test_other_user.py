"""What another user of the machine can do: nothing but keep a program from starting, with a reason.

These tests need a second user to play: they run as root, who can be nobody as well.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import hyperslab as hs
from hyperslab_workers.errors import KernelError
from hyperslab_workers.kernel import KernelRef, load
from hyperslab_workers.locks import table
from hyperslab_workers.task import Program

NOBODY = 65534

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can play another user as well: run the tests as root"
)

VICTIM = """
import sys
import numpy as np
import hyperslab as hs
@hs.kernel
def one_more(out):
    for i in range(out.shape[0]):
        out[i] += 1
if __name__ == "__main__":
    try:
        out = hs.create(sys.argv[1], 100, shared=True)
        scratch = hs.from_array(np.zeros(100))
        with hs.Engine(executor="serial", progress=False) as engine:
            engine.run(one_more, hs.update(out))
            engine.run(one_more, hs.update(scratch))
        print("fine", out[0].item(), scratch[0].item())
    except hs.HyperslabError as error:
        print("refused:", error)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory as /tmp is. The tests' own cannot be entered by others."""
    directory = Path(tempfile.mkdtemp(prefix="hst-public-", dir="/tmp"))
    directory.chmod(0o1777)
    yield directory
    shutil.rmtree(directory)


BECOME_NOBODY = f"""
import os, sys
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
os.umask(0)
path = sys.argv[1]
"""


def as_nobody(program: str, *arguments: object) -> None:
    # From within: nobody may not have the right to start this Python.
    command = [sys.executable, "-S", "-c", BECOME_NOBODY + program, *map(str, arguments)]
    subprocess.run(command, check=True)


def victim(tmp_path: Path, **variables: object) -> str:
    (tmp_path / "victim.py").write_text(VICTIM)
    done = subprocess.run(
        [sys.executable, tmp_path / "victim.py", tmp_path / "out.npy"],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


SESSION = f"hyperslab-session-{os.getuid()}-planted"

PLANTED = {
    "a file": "open(path, 'w').write('abc')",
    "a fifo": "os.mkfifo(path)",
    "an owner that says nothing": "os.mkdir(path); open(path + '/owner.lock', 'w').write('abc')",
    "an owner that is a fifo": "os.mkdir(path); os.mkfifo(path + '/owner.lock')",
    "a link": "os.symlink(sys.argv[2], path)",
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_scratch_directory_is_neither_waited_for_nor_swept(public, tmp_path, what):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "owner.lock").write_text("1")
    as_nobody(PLANTED[what], public / SESSION, precious)
    assert victim(tmp_path, TMPDIR=public) == "fine 1.0 1.0"
    assert os.listdir(public) == [SESSION]
    assert (precious / "owner.lock").exists()


@pytest.mark.parametrize("what", [*PLANTED, "a directory"])
def test_a_planted_lock_root_is_refused_with_its_owner(public, tmp_path, what):
    root = public / f"hyperslab-locks-{os.geteuid()}"
    precious = tmp_path / "precious"
    (precious / "1-2").mkdir(parents=True)
    (precious / "1-2" / "users").write_text("64 65536\n")
    as_nobody(PLANTED.get(what, "os.mkdir(path)"), root, precious)
    told = victim(tmp_path, TMPDIR=tmp_path, HYPERSLAB_LOCK_DIR=root)
    assert told.startswith("refused")
    assert f"the lock root {root} " in told
    assert "HYPERSLAB_LOCK_DIR" in told
    assert (precious / "1-2" / "users").exists()


@pytest.mark.parametrize("name", ["users", "00.rw", "00.gate"])
def test_a_fifo_in_a_root_that_all_share_is_an_error_and_not_waited_for(
    public, tmp_path, monkeypatch, name
):
    np.save(tmp_path / "out.npy", np.zeros(3))
    shared = hs.open(tmp_path / "out.npy", "r+", shared=True, lock_dir=public)
    status = os.stat(tmp_path / "out.npy")
    planted = public / f"{status.st_dev:x}-{status.st_ino:x}"
    as_nobody(
        "os.mkdir(path)\n"
        "if sys.argv[2] != 'users':\n"
        "    open(path + '/users', 'w').write('64 65536\\n')\n"
        "os.mkfifo(path + '/' + sys.argv[2])\n",
        planted,
        name,
    )
    # Else our program sweeps away what nobody uses: that is one way to be rid of it.
    monkeypatch.setattr(table, "_swept", {str(public)})
    with pytest.raises(hs.HyperslabError, match=r"cannot be (used|locked)"):
        shared[...] = 1


def test_scratch_where_everybody_can_rename_is_refused(public, tmp_path):
    public.chmod(0o777)
    told = victim(tmp_path, HYPERSLAB_SCRATCH=public)
    assert told.startswith("refused")
    assert "mode 0777" in told
    assert "mkdir -m 700" in told
    assert os.listdir(public) == []


# --- what is unpickled or linked is looked at first ------------------------------------------


class Evil:
    """Says so when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.proof,)


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "planted"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "proof")))
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    yield path
    assert not (tmp_path / "proof").exists()


def test_a_program_of_another_user_is_not_unpickled(planted):
    with pytest.raises(PermissionError, match=f"belongs to user {NOBODY}"):
        Program.load(str(planted))


def test_machine_code_of_another_user_is_not_loaded(planted):
    with pytest.raises(KernelError, match=f"belongs to user {NOBODY}"):
        load(KernelRef(str(planted), "0" * 64, "kernel"))


@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]


@pytest.mark.parametrize("executor", ["serial", "loky"])
def test_a_program_that_is_exchanged_in_a_job_is_not_run(tmp_path, planted, monkeypatch, executor):
    dump = Program.dump

    def exchanged(self: Program, path: str) -> None:
        dump(self, path)
        os.replace(planted, path)

    monkeypatch.setattr(Program, "dump", exchanged)
    a, out = hs.from_array(np.ones(10)), hs.from_array(np.zeros(10))
    with (
        hs.Engine(workers=1, executor=executor, scratch=tmp_path, progress=False) as engine,
        pytest.raises(hs.HyperslabError, match=f"belongs to user {NOBODY}"),
    ):
        engine.run(double, a, hs.write(out))
    assert not np.asarray(out).any()
