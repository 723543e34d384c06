"""Ctrl-C is not lost, and a script that it stopped ends as interrupted scripts do.

Python ends a process that an uncaught ``KeyboardInterrupt`` leaves by the signal itself, which
is how a shell knows that it has to leave its loop over scripts too. It does so for exactly
that class, not for one derived from it, and an uncaught ``JobInterrupted`` would count as any
error.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from hyperslab.errors import HyperslabError, JobInterrupted
from hyperslab_workers import forks

__all__ = [
    "end_as_interrupted",
    "exit_as_interrupted_if_uncaught",
    "exiting",
    "interrupts_kept",
    "raise_if_swallowed",
    "taken_for_default",
    "uninterrupted",
]

_armed = False
_ends_interrupted = False


def exit_as_interrupted_if_uncaught() -> None:
    """If the error that is about to be raised stays uncaught, end as by ``KeyboardInterrupt``."""
    global _armed
    if _armed:
        return
    _armed = True
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        global _ends_interrupted
        _ends_interrupted = issubclass(kind, JobInterrupted)
        previous(kind, error, trace)

    sys.excepthook = hook


_defaults: set[Any] = {signal.default_int_handler}


def taken_for_default(handler: Callable[[int, FrameType | None], None]) -> None:
    """A handler that does for its signal what Python's own does for Ctrl-C: it raises.

    What it raises is kept where libraries swallow it, and at exit is raised to nobody, either.
    """
    _defaults.add(handler)


def end_as_interrupted() -> None:
    """End as by ``KeyboardInterrupt``: it came when nobody was left to raise it to."""
    global _ends_interrupted
    _ends_interrupted = True


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise a Ctrl-C at the end of the block, if a library has swallowed it inside.

    Numba and what it imports hold many an ``except:``, and what is raised in a callback of LLVM's
    or in a finalizer is printed and dropped; a job of hours would then go on as if nobody had asked
    it to stop. So it does for a SIGTERM of which a handler says that it stands for Ctrl-C (see
    :func:`taken_for_default`). A handler that the program has set itself is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    ours = {n: _noting(seen, h) for n, h in handlers.items() if callable(h) and h in _defaults}
    _defaults.update(ours.values())
    _open.append(seen)
    try:
        for number, handler in ours.items():
            signal.signal(number, handler)
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number])
        _open[:] = [other for other in _open if other is not seen]
        _defaults.difference_update(ours.values())
    if seen:
        raise KeyboardInterrupt


def raise_if_swallowed() -> None:
    """Raise a Ctrl-C that was swallowed since the block of :func:`interrupts_kept` began.

    Raises
    ------
    KeyboardInterrupt
        There was one.
    """
    if any(_open) and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


_open: list[list[int]] = []
"""What has come in each block that is under way."""


def _noting(seen: list[int], handler: Callable[[int, FrameType | None], Any]) -> Callable[..., Any]:
    def heed(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        handler(number, frame)

    return heed


def uninterrupted(call: Callable[[], None]) -> None:
    """Run a call that Ctrl-C must not cut in half; it is raised when the call has returned.

    Python handles signals in the main thread, so the call is made in another one, and a handler
    of the program's own is heard at once. Blocking the signal was rejected: the system then
    gives it to some thread of a library, which has it handled in the main thread all the same.

    Where no thread can be started, the call is made in this one, and Ctrl-C is noted meanwhile:
    a limit on threads may be reached, and at exit Python 3.12 refuses them while later ones
    start them and may let them hang. At exit there is nobody to catch an exception either: a
    Ctrl-C that comes then ends the program by that signal when the exit is through, unless
    ``sys.exit()`` has given a status, which stands.
    """
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    if exiting():
        _with_interrupts_noted(call)
        return
    failed: list[BaseException] = []
    claim, over = threading.Lock(), threading.Event()

    def run() -> None:
        if claim.acquire(blocking=False):
            try:
                call()
            except BaseException as error:
                failed.append(error)
            finally:
                over.set()

    interrupted: KeyboardInterrupt | None = None
    refused = False
    # Where a signal handler forks meanwhile, and comes back here in the child, it is told at once.
    _waited_for[over] = failed
    try:
        # Not threading.Thread, which waits until the thread has begun: in that child, for ever.
        try:
            _thread.start_new_thread(run, ())
        except KeyboardInterrupt as error:
            if claim.acquire(blocking=False):
                raise  # The call has not begun, and now never will.
            interrupted = error
        except Exception:
            refused = claim.acquire(blocking=False)
        while not (refused or over.is_set()):
            try:
                over.wait()
            except KeyboardInterrupt as error:
                interrupted = error
    finally:
        _waited_for.pop(over, None)
    if refused:
        _with_interrupts_noted(call)
        return
    if interrupted is not None:
        raise interrupted
    if failed:
        raise failed[0]


_waited_for: dict[threading.Event, list[BaseException]] = {}
"""What a call in another thread has raised, by the event that tells its end."""


def _leave_to_parent() -> None:
    """End the waits of a forked child: the threads that make the calls are its parent's."""
    while _waited_for:
        over, failed = _waited_for.popitem()
        failed.append(
            HyperslabError(
                "this process was forked while its parent was starting or ending worker "
                "processes, which go on there: leave the child by os._exit(), or run the job anew"
            )
        )
        over.set()


forks.in_child(_leave_to_parent)


def exiting() -> bool:
    """Whether Python has begun to end; ``sys.is_finalizing()`` is not yet true in exit handlers.

    First it runs what was registered with :mod:`threading`, then it takes its main thread for
    ended and waits for the others, then it runs what was registered with :mod:`atexit`.
    """
    begun: bool = getattr(threading, "_SHUTTING_DOWN", False)
    return begun or not threading.main_thread().is_alive()


def _with_interrupts_noted(call: Callable[[], None]) -> None:
    """Run a call in the main thread, and afterwards answer every Ctrl-C that came meanwhile."""
    handler = signal.getsignal(signal.SIGINT)
    # What the system does by itself, or code that is not Python's, cuts no call in half.
    if not callable(handler):
        call()
        return
    noted: list[FrameType | None] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: noted.append(frame))
    except ValueError:
        call()  # A subinterpreter: it hears no signals.
        return
    try:
        call()
    finally:
        signal.signal(signal.SIGINT, handler)
        for frame in noted:
            if handler in _defaults and exiting():
                end_as_interrupted()
            else:
                handler(signal.SIGINT, frame)


# Registered at import, so that it runs after almost all else: whatever executes source text
# afterwards would undo it.
@atexit.register
def _mark() -> None:
    """Have the interpreter note that a ``KeyboardInterrupt`` ended the program.

    Sending the signal from here was rejected: it would cut the rest of the exit short.
    """
    if not _ends_interrupted:
        return
    run = ctypes.pythonapi.PyRun_String
    run.restype = ctypes.py_object
    run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object]
    file_input = 257
    with contextlib.suppress(KeyboardInterrupt):
        run(b"raise KeyboardInterrupt", file_input, {}, {})
