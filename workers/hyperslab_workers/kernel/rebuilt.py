"""Machine code that needs Numba's runtime: Numba is imported, and rebuilds it from object code."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

from hyperslab_workers.errors import KernelError
from hyperslab_workers.kernel.types import KernelRaised

__all__ = ["compilations", "numba_call", "program_path"]

program_path: tuple[str, ...] = ()
"""Directories of the program's own modules that are not on this worker's path.

Numba makes an exception from a pickle of its class, whose module has to be imported then. By that
time all that Python and Numba import by themselves is there: nothing of theirs is looked for here.
"""


def numba_call(content: dict[str, Any]) -> Callable[[tuple[Any, ...]], None]:
    """Rebuild the compile result of a payload; returns what runs it on checked arguments."""
    import numba

    compilations()  # Starts to count, so that a test can show that loading compiles nothing.
    name = content["name"]
    if numba.__version__ != content["numba"]:
        raise KernelError(
            f"kernel {name} was compiled by numba {content['numba']}, and this process has "
            f"{numba.__version__}: install one version for all processes of a job",
            kernel=name,
        )
    import llvmlite.binding as llvm
    from numba.core import compiler, utils
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys

    target = cpu_target.target_context
    # refresh() would do too, and register every implementation Numba knows: 0.2 s to learn
    # what only a compiler needs.
    rtsys.initialize(target)
    for needed in content["undefined"]:
        # MCJIT would jump to address 0.
        if not llvm.address_of_symbol(needed):
            raise KernelError(
                f"kernel {name} calls {needed}(), which this process does not have",
                kernel=name,
            )
    sys.path.extend(entry for entry in program_path if entry not in sys.path)
    # Array expressions run in an environment of this name (numba.core.utils).
    sys.modules.setdefault("<dynamic>", utils._dynamic_module)
    # Numba's own lock: in the coordinator another thread may be compiling, and both fill the
    # tables of one target.
    with global_compiler_lock:
        result = compiler.CompileResult._rebuild(target, *pickle.loads(content["result"]))
    entry = result.entry_point

    # Not through a Dispatcher: LoadedKernel has checked the very same types already.
    def call(args: tuple[Any, ...], _keep: Any = result) -> None:
        try:
            entry(*args)
        except Exception as error:
            raise _from_exception(error, content["suffix"]) from error

    return call


def _from_exception(error: Exception, suffix: str) -> KernelRaised:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised = KernelRaised(str(error), type_name=type(error).__name__)
    # Numba adds a frame for the line that raised; without it the last frame is our own.
    if traceback is not None and traceback.tb_frame.f_code.co_filename != __file__:
        raised.filename = traceback.tb_frame.f_code.co_filename
        raised.line = traceback.tb_lineno
        raised.function = traceback.tb_frame.f_code.co_name.removesuffix(suffix)
    return raised


_listener: Any = None


def compilations() -> int:
    """How many compilations Numba started in this process since it was first imported here.

    0 where Numba was never imported. Where something else imported it first, the count starts
    at the first call of this function or the first kernel of route ``numba``.
    """
    global _listener
    if "numba" not in sys.modules:
        return 0
    if _listener is None:
        from numba.core import event

        class Counter(event.Listener):  # type: ignore[misc]
            count = 0

            def on_start(self, event: Any) -> None:
                self.count += 1

            def on_end(self, event: Any) -> None:
                pass

        _listener = Counter()
        event.register("numba:compile", _listener)
    count: int = _listener.count
    return count
