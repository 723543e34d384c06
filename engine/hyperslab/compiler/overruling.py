"""Settings of the environment that must not change what a kernel means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["as_stated"]


@contextlib.contextmanager
def as_stated() -> Iterator[None]:
    """A block in which kernels are compiled as their options say.

    ``NUMBA_BOUNDSCHECK``, or a ``.numba_config.yaml`` in the working directory, goes before the
    option of every function: at 0 an index out of bounds would be a store into memory of others,
    in a job whose kernels were promised to be checked, and at 1 kernels that have done without
    would be slower. The user's own functions are compiled as the variable says.
    """
    from numba.core import config
    from numba.core.compiler_lock import global_compiler_lock

    # Numba's own lock: another thread's functions must not be compiled in between.
    with global_compiler_lock:
        # Every compilation looks whether the environment has changed. Done now, it is quiet later.
        config.reload_config()
        before, config.BOUNDSCHECK = config.BOUNDSCHECK, None
        try:
            yield
        finally:
            config.BOUNDSCHECK = before
