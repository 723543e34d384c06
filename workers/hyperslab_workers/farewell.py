"""How processes end in which ``atexit`` does not serve, and what is done for those that just stop.

A child of multiprocessing ends by ``os._exit()``. Up to Python 3.12 it runs no exit handler at
all; later ones run those that were registered in the child itself, and drop what a forked one has
inherited. Before that, it waits for its own children, and after it for its threads. Finalizers of
:mod:`multiprocessing` are run in every version, whatever the start method.

Some processes say no farewell at all, and are none the worse for it: the workers of a
``multiprocessing.Pool`` are ended by SIGTERM when their pool is left, and a child of ``os.fork``
calls ``os._exit()``. For what these leave on disk a helper waits that outlives them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

from hyperslab_workers import forks

__all__ = ["before_child_ends", "is_sure", "note_exit", "remove_after_end", "threads_remain"]


# Of a forked child's parent too, whose finalizers a child has not inherited.
_promised: set[tuple[int, Callable[[], object]]] = set()
_exited = False

# Reads until its end a pipe that only the other process has open for writing. In the background,
# so that nobody has to wait for it; signals for a whole group are not for it.
_HELPER = 'exec 3<&0; (trap "" HUP INT TERM; read -r x <&3; exec rm -rf -- "$1") &'


def before_child_ends(call: Callable[[], object], *, processes: bool = False) -> None:
    """Have `call` made at the end of this process, if it is a child of multiprocessing.

    May be said again and again. At that time the child has not yet waited for its threads.

    Parameters
    ----------
    call : callable
        A function of a module, harmless if called twice: where ``atexit`` serves, it may run
        there as well.
    processes : bool
        Whether it ends processes. What does so comes first, and what removes files after they
        have ended.
    """
    promise = (os.getpid(), call)
    if not _is_child() or promise in _promised:
        return
    _promised.add(promise)
    from multiprocessing import util

    util.Finalize(None, call, exitpriority=100 if processes else -100)


def _is_child() -> bool:
    """Whether this is a child of multiprocessing, which is imported in every one of them."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def threads_remain() -> bool:
    """Whether this process will wait for threads that may go on using what it has."""
    here = threading.current_thread(), threading.main_thread()
    return any(not one.daemon and one not in here for one in threading.enumerate())


def note_exit() -> None:
    """The exit handlers that remove files have been run: there will be no further farewell."""
    global _exited
    _exited = True


def is_sure() -> bool:
    """Whether this process will say farewell, unless somebody kills it."""
    return not _is_child() and not forks.is_forked() and not _exited


def remove_after_end(directory: str) -> int | None:
    """Have a directory removed when this process has ended, whatever way it goes.

    Parameters
    ----------
    directory : str
        Absolute path.

    Returns
    -------
    int or None
        A descriptor: what is to be removed goes when it is closed, in every copy of this process.
        None where no helper can be started; then the next program sweeps.
    """
    # A shell and not a Python, which takes twenty times as long to start. Rejected: the resource
    # tracker of multiprocessing, which complains on the terminal about what it removes; and a
    # handler for SIGTERM, which a kernel that runs would delay for as long as it takes.
    import subprocess

    with contextlib.suppress(OSError):
        reader, writer = os.pipe()
        try:
            subprocess.run(
                ["/bin/sh", "-c", _HELPER, "hyperslab", directory],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                check=True,
            )
            return writer
        except (OSError, subprocess.SubprocessError):
            os.close(writer)
        finally:
            os.close(reader)
    return None
