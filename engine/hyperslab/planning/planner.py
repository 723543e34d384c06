"""Makes plans: holds a user's declarations against each other and works out the regions.

::

    kernel + arguments ──► domain ──► alignment ──► interference ──► regions ──► memory ──► Plan

It is arithmetic on shapes: no data is read, and the cost does not grow with the files.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperslab.arrays import Array
from hyperslab.compiler import Kernel
from hyperslab.errors import PlanError
from hyperslab.planning import partition
from hyperslab.planning.arguments import declared, held_against, named_arguments
from hyperslab.planning.declare import Declaration
from hyperslab.planning.interference import check_interference, repeatable
from hyperslab.planning.layout import (
    argument_type,
    buffer_order,
    equal_lengths,
    stores_through_map,
)
from hyperslab.planning.memory import Budget, budget, is_memory
from hyperslab.planning.plan import Plan
from hyperslab.planning.projection import project
from hyperslab.planning.releasing import releases
from hyperslab.session import scratch_root
from hyperslab.settings import Settings
from hyperslab.units import human_bytes
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.box import Grid
from hyperslab_workers.reduction import is_exact
from hyperslab_workers.task import Argument

__all__ = ["build"]

PRIVATE_LIMIT = 256 * 2**20
"""Bytes up to which an accumulation uses private copies. A fixed number, not the memory
budget: adding up floating-point numbers in private first rounds differently from adding into
the file."""


def build(
    kernel: Kernel,
    arguments: Sequence[Any],
    *,
    settings: Settings,
    engine: str = "",
    over: Any = None,
    region: int | Sequence[int | None] | None = None,
) -> Plan:
    """Verify a job and work out how it will be done.

    Parameters
    ----------
    kernel : Kernel
        A function decorated with ``@hs.kernel``.
    arguments : sequence
        What it is called with: declarations, arrays, NumPy arrays, scalars, ``hs.ORIGIN``.
    settings : Settings
        Of the engine that will run it.
    engine : str
        The name by which ``Plan.run`` finds that engine.
    over : tuple of int, or Array, optional
        The domain; default: the shape of the first argument that is written or updated, else
        of the first that is read.
    region : int or tuple, optional
        Shape of a region in place of the one chosen; None in it for a whole axis.

    Raises
    ------
    PlanError
        A job that cannot be run as described.
    KernelError
        A wrong number of arguments, or a type no kernel can take.
    """
    if not isinstance(kernel, Kernel):
        raise PlanError(
            f"{getattr(kernel, '__name__', kernel)!r} is not a kernel: decorate the function "
            "with @hs.kernel"
        )
    named = named_arguments(kernel, arguments)
    declarations = tuple(declared(value) for _, value in named)
    domain = _domain(over, declarations)
    complete = held_against(domain, kernel, named, declarations)
    accesses = [a for a in complete if isinstance(a, Access)]

    splittable = partition.split_axes(domain, accesses)
    check_interference(accesses, splittable, domain)
    shape = (
        partition.choose_region(domain, accesses, splittable, _primary(accesses))
        if region is None
        else partition.checked_region(region, domain, splittable)
    )
    grid = Grid(domain, shape)

    limit = budget(settings.memory, settings.at_once)
    private = sum(
        _private_bytes(a, d)
        for a, d in zip(complete, declarations, strict=True)
        if isinstance(a, Access) and d is not None
    )
    complete = _placed(complete, declarations, private, limit)
    accesses = [a for a in complete if isinstance(a, Access)]
    again = repeatable(accesses)
    undo = not again and not any(access.locked for access in accesses)
    in_memory = is_memory(scratch_root(settings.scratch))
    shares = _shares(grid, complete, declarations, private, settings.at_once, again)
    leaf, batch = shares.leaf, shares.batch
    orders = tuple(buffer_order(a) for a in complete)
    through_map = tuple(
        again and kernel.options["boundscheck"] and stores_through_map(a, order, grid)
        for a, order in zip(complete, orders, strict=True)
    )
    return Plan(
        kernel=kernel,
        arguments=tuple(complete),
        types=tuple(
            argument_type(a, order, grid, mapped)
            for a, order, mapped in zip(complete, orders, through_map, strict=True)
        ),
        equal_lengths=equal_lengths(complete, grid),
        grid=grid,
        leaf=leaf,
        batch=batch,
        buffer_orders=orders,
        ordered=shares.ordered,
        memory=project(
            accesses,
            declarations,
            grid,
            limit,
            settings.at_once,
            splittable,
            tasks=-(-len(grid) // batch),
            leaves=batch // leaf,
            scratch_is_memory=in_memory,
            # Threads of this process keep it in memory of theirs.
            undo_in_memory=undo and (in_memory or settings.executor == "auto"),
        ),
        budget=limit,
        repeatable=again,
        undo=undo,
        through_map=through_map,
        release=releases(settings.release, accesses),
        workers=settings.at_once,
        lock_dir=settings.lock_dir,
        lock_timeout=settings.lock_timeout,
        engine=engine,
        declarations=declarations,
    )


def _placed(
    arguments: Sequence[Argument],
    declarations: Sequence[Declaration | None],
    private: int,
    limit: Budget,
) -> list[Argument]:
    """The arguments, with where each accumulation gathers."""
    return [
        dataclasses.replace(a, placement=_placement(a, d, private, limit))
        if isinstance(a, Access) and d is not None and a.privilege is Privilege.ACCUMULATE
        else a
        for a, d in zip(arguments, declarations, strict=True)
    ]


class _Shares(NamedTuple):
    """How the regions are shared out."""

    leaf: int
    batch: int
    ordered: bool


def _shares(
    grid: Grid,
    arguments: Sequence[Argument],
    declarations: Sequence[Declaration | None],
    private: int,
    workers: int,
    again: bool,
) -> _Shares:
    """Regions in a leaf and in a task, and whether tasks merge in region order."""
    accesses = [a for a in arguments if isinstance(a, Access)]
    footprints = sum(d is not None and d.footprint is not None for d in declarations)
    # Where regions cannot be repeated, each leaves its contribution by itself: one that is lost
    # half-way can then be told from one that is whole. This is geometry, too: it is asked as
    # if all were private that may be, and not as the budget has it.
    apart = not repeatable(
        [a if _must_be_in_file(a) else dataclasses.replace(a, placement=None) for a in accesses]
    )
    leaf = (
        1
        if apart
        else partition.choose_leaf(grid, accesses, footprints=footprints, private=private)
    )
    ordered = any(
        a.in_file and not is_exact(a.array.dtype) and d is not None and not d.any_order
        for a, d in zip(arguments, declarations, strict=True)
        if isinstance(a, Access)
    )
    folded = any(a.placement is Placement.PRIVATE for a in accesses)
    if folded and not again:
        return _Shares(leaf, leaf, ordered)
    batch = partition.choose_batch(
        grid,
        accesses,
        workers=workers,
        leaf=leaf,
        footprints=footprints,
        in_turn=ordered and footprints > 0,
        folded=folded,
    )
    return _Shares(leaf, batch, ordered)


def _domain(over: Any, declarations: Sequence[Declaration | None]) -> tuple[int, ...]:
    if over is not None:
        shape = over.shape if isinstance(over, Array | np.ndarray) else over
        try:
            domain = tuple(operator.index(n) for n in np.atleast_1d(np.array(shape, dtype=object)))
        except TypeError:
            domain = (-1,)
        if any(n < 0 for n in domain):
            raise PlanError(f"over={over!r}: give the domain as a shape, or an Array of that shape")
        return domain
    for privileges in ((Privilege.WRITE, Privilege.UPDATE), (Privilege.READ,)):
        for declaration in declarations:
            if (
                declaration is not None
                and declaration.privilege in privileges
                and not declaration.whole
            ):
                return declaration.array.shape
    raise PlanError(
        "no argument says what to split: pass an array that is written, updated or read "
        "region by region, or name the domain with over=shape"
    )


def _private_bytes(access: Access, declaration: Declaration) -> int:
    """Bytes of an argument that may be accumulated in private: geometry, not the budget."""
    if access.privilege is not Privilege.ACCUMULATE or declaration.footprint is not None:
        return 0
    return access.array.nbytes if access.array.nbytes <= PRIVATE_LIMIT else 0


def _placement(access: Access, declaration: Declaration, private: int, limit: Budget) -> Placement:
    """Where an accumulation gathers, `private` being the bytes of all that may be private."""
    if declaration.footprint is not None:
        return Placement.MERGE
    if access.array.nbytes > PRIVATE_LIMIT:
        if not access.array.aligned:
            raise PlanError(
                f"argument {access.name} takes {human_bytes(access.array.nbytes)} at an odd "
                f"offset in {access.array.path!r}, and accumulations of more than "
                f"{human_bytes(PRIVATE_LIMIT)} work in the file itself, which compiled code can "
                "only do on aligned elements: give a footprint=, or accumulate into an array made "
                "with hs.create"
            )
        return Placement.DIRECT
    # Of integers any way gives the same bits, so the budget may choose. Not so of logical
    # operations on them: a merge makes every element 0 or 1, the kernel only those it touches.
    any_way = is_exact(access.array.dtype) and (
        access.array.dtype.kind == "b" or access.op not in ("logical_and", "logical_or")
    )
    if any_way and access.array.aligned and 8 * private > limit.limit:
        return Placement.DIRECT
    return Placement.PRIVATE


def _must_be_in_file(access: Access) -> bool:
    """Whether an accumulation is in the file whatever the budget."""
    return access.placement is Placement.MERGE or access.array.nbytes > PRIVATE_LIMIT


def _primary(accesses: Sequence[Access]) -> Access | None:
    """The array whose layout in its file decides which axes are split."""
    following = [a for a in accesses if any(axis is not None for axis in a.axes)]
    return max(
        following,
        # The most axes of the domain; among those, one that is written.
        key=lambda a: (
            sum(axis is not None for axis in a.axes),
            a.privilege is not Privilege.READ,
        ),
        default=None,
    )
