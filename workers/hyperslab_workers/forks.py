"""What a fork of this process finds: said in one place, for both packages.

A child of ``os.fork`` is a copy of this process with one thread in it. Whatever the other threads
were at stays half done for ever: a lock that one of them held stays shut, a table that one was
changing stays half changed. ``multiprocessing`` forks as well, and so do servers and dask; nobody
asks us when. So every lock of ours is made here, and every module says here what else a child has
to know::

    lock()             in a child it is free, unless it belongs to the very thread that forked
    lock(whole=True)   as well, and a fork waits until what it guards is whole
    undisturbed()      a fork waits until the block is left: for what libraries do under locks of
                       their own (Numba compiles, loky starts a process)
    wait_for(lock)     a fork waits for somebody else's lock
    in_child(call)     called in every child, when the locks are free

Imports of other threads are waited for by themselves: Python's locks of modules stay shut as well,
and a child would wait for ever at its first import of a module that was half imported.

A fork waits a minute at most, because what it waits for may be waiting for it. Then it goes on, and
in the child :func:`check_whole` refuses what can no longer be done there, instead of letting it
wait for ever for a thread that does not exist.

Rejected: ``os.register_at_fork`` wherever a lock is. Its calls are made in an order that follows
from imports, so two modules whose locks nest could stop a fork for good, and nobody can check that
none was forgotten. Also rejected: to renew the locks of others in the child. They open, and what
they guard is half changed.
"""

from __future__ import annotations

import _frozen_importlib
import _thread
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from hyperslab_workers.errors import HyperslabError

__all__ = [
    "check_whole",
    "in_child",
    "is_forked",
    "lock",
    "undisturbed",
    "wait_for",
]

_PATIENCE = 60.0
"""Seconds that a fork waits for what other threads are at."""

_Lock = Any
"""An ``RLock``, whose type has no name."""


class _Inside:
    """A thread in an undisturbed block. Its end is the block's, however the block was left."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


_locks: weakref.WeakSet[_Lock] = weakref.WeakSet()
_whole: list[_Lock] = []
_others: list[Callable[[], _Lock | None]] = []
_calls: list[Callable[[], object]] = []

_inside: weakref.WeakSet[_Inside] = weakref.WeakSet()
_entrance = threading.Condition(threading.RLock())
"""Held through every fork: nobody enters an undisturbed block meanwhile."""


class _Fork:
    """What a fork under way has taken."""

    def __init__(self) -> None:
        self.entered = False
        self.tried: list[_Lock] = []
        self.whole = False
        self.interrupted = False

    def give_back(self) -> None:
        for one in reversed(self.tried):
            # Not held where Ctrl-C came just before it was taken.
            with contextlib.suppress(RuntimeError):
                one.release()


_forks: list[_Fork] = []
"""A stack: a signal handler may fork while the fork of its own thread waits."""

_forked = False
_cut = False


def lock(*, whole: bool = False) -> _Lock:
    """A reentrant lock that a forked child finds free.

    Reentrant, because a signal handler or the garbage collector may come to any function of ours
    in the middle of another one.

    Parameters
    ----------
    whole : bool
        Whether a fork waits for it, so that the child finds whole what it guards. Who holds such
        a lock enters no :func:`undisturbed` block: a fork waits for those first.
    """
    made = threading.RLock()
    _locks.add(made)
    if whole:
        _whole.append(made)
    return made


def wait_for(find: Callable[[], _Lock | None]) -> None:
    """Have forks wait for a lock of somebody else's.

    Parameters
    ----------
    find : callable
        Gives the lock, an ``RLock``, or None where there is none (yet).
    """
    _others.append(find)


def in_child(call: Callable[[], object]) -> None:
    """Have `call` made in every forked child, in the order in which they were said."""
    _calls.append(call)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A block during which this process is not forked by another thread.

    It may be entered again inside, and while a fork waits: only the fork itself keeps others out.
    """
    me = _Inside()
    with _entrance:
        _inside.add(me)
    try:
        yield
    finally:
        # Harmless in a child that was forked inside, by a signal handler: there nobody is in.
        with _entrance:
            _inside.discard(me)
            _entrance.notify_all()


def check_whole(what: str) -> None:
    """Refuse what a forked child cannot do, where the fork could not wait for it.

    Parameters
    ----------
    what : str
        What is refused, as "compile a kernel".

    Raises
    ------
    HyperslabError
        The fork cut another thread short, in what the child can neither finish nor undo.
    """
    if _cut:
        raise HyperslabError(
            f"this process cannot {what}: it was forked while another thread of its parent was "
            f"compiling or starting processes and did not come to an end within {_PATIENCE:.0f} s, "
            "and what that thread held stays shut here. Fork before such threads begin, or start "
            'the child with multiprocessing.get_context("spawn")'
        )


def is_forked() -> bool:
    """Whether this process is a copy of another one: no exit handler is sure to be run here."""
    return _forked


def _before() -> None:
    fork = _Fork()
    # Known before it takes anything. What is raised here is printed by Python and forgotten, and
    # the fork goes on.
    _forks.append(fork)
    try:
        _take_all(fork)
    except KeyboardInterrupt:
        fork.interrupted = True


def _take_all(fork: _Fork) -> None:
    fork.entered = _entrance.acquire()
    deadline = time.monotonic() + _PATIENCE
    here = threading.get_ident()
    while any(one.thread != here for one in list(_inside)) or _imported_elsewhere():
        if time.monotonic() >= deadline:
            return
        # In steps: nobody tells of imports, nor of a block that was cut short by Ctrl-C.
        _entrance.wait(0.01)
    whole = True
    for one in [*(find() for find in _others), *_whole]:
        if one is None:
            continue
        fork.tried.append(one)
        if not one.acquire(timeout=max(deadline - time.monotonic(), 0.1)):
            fork.tried.pop()
            # One of our own is renewed, and whoever uses what it guards checks that.
            whole = whole and one in _whole
    fork.whole = whole


def _imported_elsewhere() -> bool:
    """Whether another thread is importing something, and not just waiting for this one."""
    # Without these tables of Python's nothing can be waited for.
    locks = getattr(_frozen_importlib, "_module_locks", {})
    waiting = getattr(_frozen_importlib, "_blocking_on", {})
    for find in list(locks.values()):
        owner = getattr(find(), "owner", None)
        if owner not in (None, threading.get_ident()) and owner not in waiting:
            return True
    return False


def _in_parent() -> None:
    fork = _forks.pop()
    fork.give_back()
    if fork.entered:
        _entrance.release()
    if fork.interrupted:
        # From another thread, because it would be forgotten if it was raised in here.
        _thread.start_new_thread(_thread.interrupt_main, ())


def _in_child() -> None:
    global _entrance, _forked, _cut
    _forked = True
    fork = _forks.pop()
    fork.give_back()
    _cut = _cut or not fork.whole
    _forks.clear()
    _inside.clear()
    _entrance = threading.Condition(threading.RLock())
    for one in list(_locks):
        # One that the forking thread holds is its own here too, and it will release it.
        if not one._is_owned():
            one._at_fork_reinit()
    for call in _calls:
        # One that fails must not keep the others from being made, and a fork has nobody to tell.
        with contextlib.suppress(Exception):
            call()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
