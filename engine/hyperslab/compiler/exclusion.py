"""One compilation at a time in this process, and none during a fork.

A lock for each kernel was rejected: Numba compiles one function at a time anyway, and a child
forked during a compilation inherits its kernel's lock shut for ever. A fork waits instead, for
seconds at most, and the child finds Numba as it is between two compilations.
"""

from __future__ import annotations

import os
import threading

__all__ = ["compiling"]

compiling = threading.RLock()
"""Held while a kernel is compiled, or machine code is made callable in the coordinator.

Reentrant: whoever forks in the middle is a signal handler of the thread that compiles.
"""

os.register_at_fork(
    before=compiling.acquire,
    after_in_parent=compiling.release,
    # The child is the thread that forked: it has the lock.
    after_in_child=compiling.release,
)
