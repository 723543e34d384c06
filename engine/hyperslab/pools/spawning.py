"""Starts worker processes, looks after them, and sees them end.

The process runs loky's main, which reads from a pipe what it is to be. loky's executor is not
used: for one task that never ends it brings two queues, four semaphores in ``/dev/shm``, three
threads in the coordinator and a process that tracks them, every one of which the host may refuse,
a fork may cut in half, and the end of the program has to wait for. Nor does ``multiprocessing``
know of the worker: it would wait for it at exit and, in a copy of this process, fail to.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
from pathlib import Path

import hyperslab_workers
from hyperslab.errors import HyperslabError
from hyperslab.pools.death import Death, death_of_exit
from hyperslab_workers import forks
from hyperslab_workers.host import refused
from hyperslab_workers.mapping import sparing
from hyperslab_workers.posting import Posting, said_path
from hyperslab_workers.startup import BLOCKED, ENVIRONMENT

__all__ = ["WorkerProcess", "cannot_start", "check_may_have_children", "program_path", "spawn"]

_LAST_WAIT = 10.0
"""Seconds for which a killed process is waited for: one that hangs in a network file system does
not end before that answers."""


class WorkerProcess:
    """A process that was started, known by a descriptor, which no other process can take over."""

    def __init__(self, popen: subprocess.Popen[bytes], posting: Posting) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._said = said_path(posting.directory, posting.number)
        # Nobody has reaped it yet, so the number is still its own.
        self.pidfd = os.pidfd_open(popen.pid)

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Whether the process has ended, or does so within that many seconds."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(1000 * timeout))

    def send(self, number: int) -> None:
        """Send a signal; nothing happens where the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def death(self) -> Death:
        """What ended the process, which has ended."""
        death = death_of_exit(self._reap())
        try:
            with open(self._said, errors="replace") as file:
                said = file.read()
            os.unlink(self._said)
        except OSError:
            return death
        return Death(None, f"it raised {said}") if said and death.signal is None else death

    def _reap(self) -> int | None:
        """The exit status; None where somebody else in this program collected it."""
        try:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            self._popen.returncode = 0
            return None
        return self._popen.wait()

    def close(self) -> None:
        """End the process and wait until it has ended."""
        self.send(signal.SIGKILL)
        if self.has_ended(_LAST_WAIT):
            self._reap()
        self.let_go()

    def let_go(self) -> None:
        """Forget the process. It has ended, or belongs to the process of which this is a copy."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self._popen.returncode is None:
            self._popen.returncode = 0  # Else Python complains that nobody has waited for it.


def check_may_have_children() -> None:
    """Refuse where processes are forbidden.

    Raises
    ------
    HyperslabError
        This process is one that may have no children.
    """
    forks.check_whole("start worker processes")
    if multiprocessing.current_process().daemon:
        raise HyperslabError(
            "this is a daemonic process of multiprocessing, such as a worker of its Pool, and may "
            'have no children: give the engine executor="serial" (or set '
            "HYPERSLAB_EXECUTOR=serial) or a ThreadPoolExecutor, or make the outer pool a "
            "concurrent.futures.ProcessPoolExecutor, whose workers may have children"
        )
    if not sys.executable:
        raise HyperslabError(
            "worker processes cannot be started because Python does not know its own program here, "
            "as where it is embedded in another one: set sys.executable to a Python with the same "
            'packages, or give executor="serial"'
        )


def cannot_start(
    error: Exception, what: str = "a worker process could not be started"
) -> HyperslabError:
    """The error for a worker process, or what it needs, that the host refused."""
    told = refused(what, error)
    return HyperslabError(f"{told}; the next job tries again, and executor='serial' does without")


def spawn(posting: Posting) -> WorkerProcess:
    """Start a worker's process. It gets ready while the caller goes on.

    Raises
    ------
    OSError, MemoryError
        What the host refused.
    """
    # Named, so that a fork of another thread's waits: a process that is being started has
    # descriptors that the copy would keep open.
    with forks.undisturbed():
        return sparing(lambda: _spawn(posting))


def _spawn(posting: Posting) -> WorkerProcess:
    name = f"hyperslab-worker-{posting.number}"
    command = [sys.executable, "-m", "loky.backend.popen_loky_posix"]
    # Born with these blocked: before start_worker() has run, a Ctrl-C that reaches the process
    # would end it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        popen = subprocess.Popen(
            [*command, "--process-name", name, "--pipe", "0"],
            stdin=subprocess.PIPE,
            stdout=_inherited(1),
            stderr=_inherited(2),
            cwd=_working_directory(),
            env={**os.environ, **ENVIRONMENT},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        process = WorkerProcess(popen, posting)
        assert popen.stdin is not None
        # It may be dead already, and will be found so.
        with contextlib.suppress(BrokenPipeError), popen.stdin as pipe:
            pipe.write(pickle.dumps(_preparation(posting, name)) + pickle.dumps(posting))
    except BaseException:
        popen.kill()
        popen.wait()
        raise
    return process


def program_path() -> tuple[str, ...]:
    """Where modules of the program lie that workers do not import from: its working directory.

    What lies there is data, of whoever may write there, and a ``types.py`` or ``yaml.py`` among it
    is not Python's. Kernels come as machine code; of the program's modules they need the classes of
    its exceptions at most, see ``kernel/rebuilt``.
    """
    here = getattr(multiprocessing.process, "ORIGINAL_DIR", None)
    known = {here}
    with contextlib.suppress(OSError):
        known.add(os.getcwd())
    # An empty entry stands for the directory in which the program was started.
    found = (entry or here for entry in sys.path if not entry or entry in known)
    return tuple(entry for entry in found if entry)


def _preparation(posting: Posting, name: str) -> dict[str, object]:
    """What loky's main has to know to be able to import what this process can import."""
    path = [entry for entry in sys.path if entry and entry not in posting.program_path]
    # Even where it is run from its own source, as in a checkout.
    path.append(str(Path(hyperslab_workers.__file__).parents[1]))
    return {"name": name, "sys_path": path, "sys_argv": sys.argv, "orig_dir": None}


def _inherited(descriptor: int) -> int | None:
    """A standard stream for the worker: that of this process, or nowhere if that is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        return subprocess.DEVNULL
    return None


def _working_directory() -> str | None:
    try:
        os.getcwd()
    except OSError:
        return "/"  # It was removed. Workers look for nothing there.
    return None
