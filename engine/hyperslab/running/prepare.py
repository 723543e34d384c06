"""What depends on a plan alone, got ready once however often it is run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperslab.compiler import compile_kernel, publish
from hyperslab.interruption import interrupts_kept
from hyperslab.planning.plan import Plan
from hyperslab.planning.projection import slots_needed
from hyperslab.pools.protocol import Line, Pool
from hyperslab.running.slots import lay_aside, reserve, take_up
from hyperslab_workers.access import Access
from hyperslab_workers.partials import slot_bytes
from hyperslab_workers.resident import program_path
from hyperslab_workers.task import Argument, Program, Slots

__all__ = ["Prepared", "prepare"]

_numbers = itertools.count(1)

_COMPILED = 0.01
"""Seconds above which getting the machine code was a compilation and not a look-up."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Prepared:
    """A plan, ready to be run on one pool."""

    pool: Pool
    """Who runs it."""

    line: Line
    """What each run asks of the pool."""

    lock_roots: frozenset[str | None]
    """Where its tasks take locks; None stands for the default."""

    compile_seconds: float
    """What its kernel's compilation took; 0.0 from the second run on."""

    runs: int = 0
    """Runs that came to their end."""


def prepare(
    plan: Plan, session: Path, workers: Callable[[], Pool], here: Pool | None = None
) -> Prepared:
    """Compile the kernel and write down what all tasks have in common.

    The files go when what is returned does.

    Parameters
    ----------
    plan : Plan
        What is to be run.
    session : Path
        The scratch directory.
    workers : callable
        Gives the pool of the engine.
    here : Pool, optional
        Threads of this process which run it instead, if its machine code cannot harm them, and
        needs no runtime of Numba's: to import that takes as long as to start workers.

    Raises
    ------
    KernelError
        The kernel does not compile.
    HyperslabError
        There is no room in scratch.
    KeyboardInterrupt
        Ctrl-C, also one that a library has swallowed.
    """
    with interrupts_kept():
        pool = here or workers()
        # Workers start while the kernel is compiled.
        pool.start()
        before = time.monotonic()
        compiled = compile_kernel(plan.kernel, plan.types, equal_shapes=plan.equal_lengths)
        compile_seconds = time.monotonic() - before
        if here is not None and not (compiled.route == "native" and compiled.contained):
            pool = workers()
            pool.start()
    number = next(_numbers)
    path = program_path(pool.directory, number)
    slots, used = None, None
    # Only our own workers are known to have stopped when a run that failed is over. A thread of the
    # user's executor may go on adding to a slot for as long as its kernel takes.
    reused = pool.capabilities.restartable
    if plan.bytes_accumulated and plan.tasks:
        count = slots_needed(plan.tasks, plan.memory.at_once)
        if reused:
            used = take_up(pool.directory, count * slot_bytes(plan.arguments))
        slots = Slots(used or f"{path}-slots", count)
    arguments = tuple(_with_home(argument, plan.lock_dir) for argument in plan.arguments)
    program = Program(
        kernel=publish(compiled, session),
        arguments=arguments,
        grid=plan.grid,
        leaf=plan.leaf,
        buffer_orders=plan.buffer_orders,
        through_map=plan.through_map,
        slots=slots,
        lock_dir=plan.lock_dir,
        lock_timeout=plan.lock_timeout,
        ordered=plan.ordered,
        memory=plan.memory.per_worker,
        release=plan.release,
        undo=plan.undo,
    )
    prepared = Prepared(
        pool=pool,
        line=Line(program, path, number, plan.memory.at_once, plan.ordered),
        lock_roots=frozenset(
            a.array.lock_dir for a in arguments if isinstance(a, Access) and a.locked
        ),
        compile_seconds=compile_seconds if compile_seconds > _COMPILED else 0.0,
    )
    weakref.finalize(prepared, _remove, path, slots, reused, os.getpid())
    program.dump(path)
    if slots is not None and used is None:
        reserve(slots, plan)
    return prepared


def _with_home(argument: Argument, lock_dir: str | None) -> Argument:
    """The argument, saying where its file's locks are: workers must not settle that again."""
    if not isinstance(argument, Access) or not argument.locked:
        return argument
    from hyperslab_workers.locks import home_of

    home = home_of(argument.array, lock_dir)
    return dataclasses.replace(argument, array=dataclasses.replace(argument.array, lock_dir=home))


def _remove(program: str, slots: Slots | None, reused: bool, pid: int) -> None:
    # A forked child has its parent's plans, but not the right to remove their files.
    if os.getpid() != pid:
        return
    with contextlib.suppress(OSError):
        os.unlink(program)
    if slots is not None:
        if reused:
            lay_aside(slots.path)
            return
        with contextlib.suppress(OSError):
            os.unlink(slots.path)
