"""What all tests share: a temporary directory of the run's own, and a look at what they leave."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent

# Makes the strategies, and the helpers under ``programs``, importable from every test.
sys.path.append(str(HERE))
sys.path.append(str(HERE / "programs"))

# Before anything asks for the temporary directory. Short, because a socket's path has to fit in
# 108 bytes. Registered here, the removal runs after the exit handlers of all that tests import.
_ROOT = Path(tempfile.mkdtemp(prefix="hst-"))
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)
os.environ["TMPDIR"] = str(_ROOT)
tempfile.tempdir = None

# A developer's own settings must not decide what the tests see.
for _name in [name for name in os.environ if name.startswith("HYPERSLAB_")]:
    del os.environ[_name]
_LOCKS = _ROOT / "locks"
os.environ["HYPERSLAB_LOCK_DIR"] = str(_LOCKS)
# Most tests are about compiling: what an earlier run of theirs has compiled would hide that.
os.environ["HYPERSLAB_CACHE_DIR"] = "0"
# Most are about workers; those about threads of the program say so.
os.environ["HYPERSLAB_EXECUTOR"] = "loky"

# Under nohup, or in a shell's background, programs that the tests start would inherit that they do
# not hear what the tests send them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines stall: a deadline would fail tests for what others do.
settings.register_profile("hyperslab", deadline=None)
settings.load_profile("hyperslab")


def _children() -> set[int]:
    """Child processes of this one; loky's resource tracker lives as long as we do."""
    found = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        for pid in listing.read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if command and b"resource_tracker" not in command:
                found.add(int(pid))
    return found


def _semaphores() -> set[str]:
    """loky's named semaphores of this process; those of other runs are not ours to judge."""
    return {path.name for path in Path("/dev/shm").glob(f"sem.loky-{os.getpid()}-*")}


def _strays() -> set[str]:
    """Scratch directories of other processes, and lock directories."""
    sessions = {path.name for path in _ROOT.glob("hyperslab-session-*")}
    if "hyperslab.session" in sys.modules:
        known = sys.modules["hyperslab.session"]._sessions.values()
        sessions -= {directory.name for directory, _ in known}
    locks = {path.name for path in _LOCKS.iterdir()} if _LOCKS.exists() else set()
    return sessions | locks | {path.name for path in _ROOT.glob("hyperslab-locks-*")}


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A module of tests leaves no process, semaphore, scratch or lock directory behind.

    Per module and not per test, because a warm engine may serve several of them.
    """
    before = _children(), _semaphores(), _strays()
    yield
    if "hyperslab.api" in sys.modules:
        default = sys.modules["hyperslab.api"]._default
        if default is not None:
            default.close()
    gc.collect()
    if "hyperslab_workers.locks" in sys.modules:
        sys.modules["hyperslab_workers.locks"].release_all()
    after = _children(), _semaphores(), _strays()
    left = [sorted(now - then) for then, now in zip(before, after, strict=True)]
    assert left == [[], [], []], "processes, semaphores, directories left by this module"
