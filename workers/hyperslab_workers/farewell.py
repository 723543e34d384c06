"""What a child of multiprocessing does before it ends: there, ``atexit`` does not serve.

Such a child ends by ``os._exit()``. Up to Python 3.12 it runs no exit handler at all; later ones
run those that were registered in the child itself, and drop what a forked one has inherited.
Before that, it waits for its own children: for ever, if those are workers that wait for tasks.
Finalizers of :mod:`multiprocessing` are run in every version, whatever the start method.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

__all__ = ["before_child_ends"]

# Of a forked child's parent too, whose finalizers a child has not inherited.
_promised: set[tuple[int, Callable[[], object]]] = set()


def before_child_ends(call: Callable[[], object], *, processes: bool = False) -> None:
    """Have `call` made at the end of this process, if it is a child of multiprocessing.

    May be said again and again.

    Parameters
    ----------
    call : callable
        A function of a module, harmless if called twice: where ``atexit`` serves, it may run
        there as well.
    processes : bool
        Whether it ends processes that this one would wait for. What does so comes first, and
        what removes files after they have ended.
    """
    promise = (os.getpid(), call)
    if multiprocessing.parent_process() is None or promise in _promised:
        return
    _promised.add(promise)
    from multiprocessing import util

    # From 0 on before it waits for its children; queues of loky are closed at 10.
    util.Finalize(None, call, exitpriority=100 if processes else -100)
