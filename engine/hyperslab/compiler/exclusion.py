"""One compilation at a time in this process, and none during a fork.

A lock for each kernel was rejected: Numba compiles one function at a time anyway, and a child
forked during a compilation inherits its kernel's lock shut for ever. A fork waits instead, for
seconds as a rule, and the child finds Numba as it is between two compilations. It waits for
Numba's own lock as well: the program may compile functions of its own, and a child whose copy of
that lock is shut would wait at its first kernel for a thread that it does not have. So it would
at llvmlite's lock, which is held for moments wherever machine code is let go.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from hyperslab.interruption import interrupts_kept
from hyperslab_workers import forks
from hyperslab_workers.host import working_somewhere

__all__ = ["compiling"]

# Reentrant: whoever compiles in the middle is a signal handler of the thread that compiles.
_one_at_a_time = forks.lock()


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Held while a kernel is compiled, or machine code is made callable in the coordinator.

    Raises
    ------
    HyperslabError
        This process was forked in the middle of a compilation that took too long to wait for.
    KeyboardInterrupt
        Ctrl-C, also one that a library has swallowed.
    """
    forks.check_whole("compile a kernel")
    # Numba imports what asks for the working directory.
    with interrupts_kept(), forks.undisturbed(), _one_at_a_time, working_somewhere():
        yield


def _lock_of_numba() -> Any:
    module = sys.modules.get("numba.core.compiler_lock")
    # Numba's attribute; without it there is nothing to wait for.
    return getattr(getattr(module, "global_compiler_lock", None), "_lock", None)


def _lock_of_llvmlite() -> Any:
    """Taken for every call of LLVM, also by the collector for machine code that nobody holds."""
    library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    return getattr(getattr(library, "_lock", None), "_lock", None)


# In this order, which is Numba's.
forks.wait_for(_lock_of_numba)
forks.wait_for(_lock_of_llvmlite)
