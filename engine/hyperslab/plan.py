"""The plan of a job: verified, immutable, and known to the byte before anything is touched.

::

    kernel + arguments ──► domain ──► alignment ──► interference ──► regions ──► memory ──► Plan

Building one is arithmetic on shapes: it reads no data and its cost does not grow with the
files. Iterating one yields the runs of regions that become tasks.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperslab import partition
from hyperslab.array import Array
from hyperslab.compiler import Kernel, check_dtype
from hyperslab.declare import ORIGIN, Declaration, footprint_box, read
from hyperslab.errors import KernelError, PlanError
from hyperslab.explain import explain
from hyperslab.interference import check_interference
from hyperslab.memory import Budget, budget, human_bytes
from hyperslab.settings import Settings
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.box import Box, Grid
from hyperslab_workers.kernel import ArgumentType, ArrayType, TupleType, type_of
from hyperslab_workers.reduction import is_exact
from hyperslab_workers.task import Argument, Origin, Value

if TYPE_CHECKING:
    from hyperslab.report import Report

__all__ = ["Plan", "TaskRange", "build"]

SENT_LIMIT = 10**6
"""Bytes up to which a NumPy array is sent to the workers as it is."""

PRIVATE_LIMIT = 256 * 2**20
"""Bytes up to which a floating-point accumulation uses private copies. A fixed number, not
the memory budget: adding up in private first rounds differently from adding into the file."""


@dataclass(frozen=True, slots=True)
class TaskRange:
    """The regions of one task."""

    index: int
    """Number of the task."""

    start: int
    """First region."""

    stop: int
    """One past the last region."""

    footprints: tuple[tuple[Box, ...], ...] = ()
    """For each region the boxes of the arguments that have a footprint."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Private memory that a job needs, in bytes; mapped file pages are not counted."""

    per_worker: int
    """Buffers and private accumulations of one worker."""

    coordinator: int
    """Accumulations being merged."""

    at_once: int
    """Workers that may be busy at a time within the budget."""

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.per_worker * self.at_once + self.coordinator


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that has passed every check. Made by :func:`hyperslab.plan`."""

    kernel: Kernel
    """What runs on every region."""

    arguments: tuple[Argument, ...]
    """What it is called with."""

    types: tuple[ArgumentType, ...]
    """The machine types of the arguments: the one signature that will be compiled."""

    grid: Grid
    """The regions."""

    batch: int
    """Consecutive regions in one task."""

    buffer_orders: tuple[str, ...]
    """Memory order of a private copy of each argument."""

    ordered: bool
    """Whether merges into files happen in region order."""

    memory: Memory
    """Projected private memory."""

    budget: Budget
    """What it was held against."""

    settings: Settings
    """Settings of the engine it was made for."""

    declarations: tuple[Declaration | None, ...] = field(repr=False)
    """What the user said about each argument; keeps the arrays open."""

    runner: Callable[..., Report] = field(repr=False)
    """What :meth:`run` calls."""

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The arguments that are arrays in files."""
        return tuple(a for a in self.arguments if isinstance(a, Access))

    @property
    def regions(self) -> int:
        """Number of regions."""
        return len(self.grid)

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return -(-len(self.grid) // self.batch)

    @property
    def bytes_read(self) -> int:
        """Bytes of the arrays that are read or updated, each counted once."""
        return sum(a.array.nbytes for a in self.accesses if a.privilege is not Privilege.WRITE)

    @property
    def bytes_written(self) -> int:
        """Bytes of the arrays that are written, updated or accumulated into."""
        return sum(a.array.nbytes for a in self.accesses if a.privilege is not Privilege.READ)

    def __iter__(self) -> Iterator[TaskRange]:
        return (self.task(index) for index in range(self.tasks))

    def task(self, index: int) -> TaskRange:
        """The regions of task number `index`."""
        start = index * self.batch
        stop = min(start + self.batch, len(self.grid))
        with_footprint = [
            d for d in self.declarations if d is not None and d.footprint is not None
        ]
        footprints = (
            tuple(
                tuple(footprint_box(d, self.grid.box(region)) for d in with_footprint)
                for region in range(start, stop)
            )
            if with_footprint
            else ()
        )
        return TaskRange(index, start, stop, footprints)

    def run(self, *, progress: bool | str | None = None) -> Report:
        """Run the job on the engine that the plan was made for.

        Parameters
        ----------
        progress : bool or "auto", optional
            Whether to show progress; default: the engine's setting.
        """
        return self.runner(self, progress=progress)

    def explain(self) -> str:
        """What the job will do, as text for a person."""
        return explain(self)


def build(
    kernel: Kernel,
    arguments: Sequence[Any],
    *,
    settings: Settings,
    runner: Callable[..., Report],
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
    runner : callable
        What ``Plan.run`` calls.
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
    named = _name_arguments(kernel, arguments)
    declarations = tuple(_declared(value) for _, value in named)
    domain = _domain(over, declarations)

    complete: list[Argument] = []
    for (name, value), declaration in zip(named, declarations, strict=True):
        if declaration is not None:
            complete.append(_access(name, declaration, domain))
        elif value is ORIGIN:
            complete.append(Origin(name))
        else:
            complete.append(Value(name, _sendable(name, value)))
    accesses = [a for a in complete if isinstance(a, Access)]

    splittable = partition.split_axes(domain, accesses)
    check_interference(accesses, splittable, domain)
    shape = (
        partition.choose_region(domain, accesses, splittable, _primary(accesses))
        if region is None
        else partition.checked_region(region, domain, splittable)
    )
    grid = Grid(domain, shape)

    limit = budget(settings.memory, settings.workers)
    complete = [
        dataclasses.replace(a, placement=_placement(a, d, limit))
        if isinstance(a, Access) and d is not None and a.privilege is Privilege.ACCUMULATE
        else a
        for a, d in zip(complete, declarations, strict=True)
    ]
    accesses = [a for a in complete if isinstance(a, Access)]
    footprints = sum(d is not None and d.footprint is not None for d in declarations)
    orders = tuple(
        _buffer_order(a) if isinstance(a, Access) else "C" for a in complete
    )
    return Plan(
        kernel=kernel,
        arguments=tuple(complete),
        types=tuple(
            _type(a, order, grid) for a, order in zip(complete, orders, strict=True)
        ),
        grid=grid,
        batch=partition.choose_batch(grid, accesses, footprints),
        buffer_orders=orders,
        ordered=any(
            a.placement in (Placement.MERGE, Placement.DIRECT)
            and not is_exact(a.array.dtype)
            and d is not None
            and not d.any_order
            for a, d in zip(complete, declarations, strict=True)
            if isinstance(a, Access)
        ),
        memory=_memory(accesses, declarations, grid, limit, settings.workers),
        budget=limit,
        settings=settings,
        declarations=declarations,
        runner=runner,
    )


def _name_arguments(kernel: Kernel, arguments: Sequence[Any]) -> list[tuple[str, Any]]:
    parameters = list(inspect.signature(kernel.function).parameters.values())
    required = [p for p in parameters if p.default is inspect.Parameter.empty]
    if not len(required) <= len(arguments) <= len(parameters):
        wanted = ", ".join(p.name for p in parameters)
        raise KernelError(
            f"kernel {kernel.name} takes {len(parameters)} arguments ({wanted}) and was given "
            f"{len(arguments)}",
            kernel=kernel.name,
        )
    values = [*arguments, *(p.default for p in parameters[len(arguments) :])]
    return [(p.name, value) for p, value in zip(parameters, values, strict=True)]


def _declared(value: Any) -> Declaration | None:
    if isinstance(value, Array):
        return read(value)
    return value if isinstance(value, Declaration) else None


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


def _access(name: str, declaration: Declaration, domain: tuple[int, ...]) -> Access:
    array = declaration.array.ref
    check_dtype(name, array.dtype)
    if declaration.whole or declaration.privilege is Privilege.ACCUMULATE:
        axes: tuple[int | None, ...] = (None,) * array.ndim
    else:
        axes = partition.align(array.shape, domain, declaration.axes, name)
    return Access(
        name=name,
        array=array,
        privilege=declaration.privilege,
        axes=axes,
        halo=declaration.halo,
        boundary=_typed_boundary(name, declaration),
        op=declaration.op,
        guarded=array.shared and declaration.privilege is not Privilege.ACCUMULATE,
    )


def _typed_boundary(name: str, declaration: Declaration) -> str | float | int:
    """The boundary, a number only where the array can hold it."""
    boundary = declaration.boundary
    if isinstance(boundary, str):
        return boundary
    dtype = declaration.array.dtype
    try:
        if dtype.kind in "iu" and boundary != int(np.array(boundary, dtype)[()]):
            raise OverflowError
    except (OverflowError, ValueError, TypeError):
        raise PlanError(
            f"argument {name}: boundary={boundary!r} cannot be an element of type {dtype}; give a "
            "number that it holds"
        ) from None
    return boundary


def _sendable(name: str, value: Any) -> Any:
    """A scalar or a small array, as a copy that later changes by the caller do not reach."""
    if isinstance(value, np.ndarray):
        if isinstance(value, np.memmap):
            raise PlanError(
                f"argument {name} is a numpy.memmap, which would be copied to every worker; "
                f"open its file with hs.open({str(value.filename)!r}) instead"
            )
        if value.nbytes > SENT_LIMIT:
            raise PlanError(
                f"argument {name} is a NumPy array of {human_bytes(value.nbytes)}; up to "
                f"{human_bytes(SENT_LIMIT)} are sent to the workers as they are: put it into a "
                f"scratch file with hs.from_array({name}), or open the file it came from"
            )
        check_dtype(name, value.dtype)
        return np.array(value, order="F" if value.flags.fnc else "C", subok=False)
    if isinstance(value, np.generic):
        check_dtype(name, value.dtype)
        return value
    if isinstance(value, bool | float | complex):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise PlanError(f"argument {name}={value} does not fit a 64-bit integer")
        return value
    raise PlanError(
        f"argument {name} is of type {type(value).__name__}: a kernel takes arrays "
        "(hs.open, hs.create, hs.from_array, or small NumPy arrays), numbers, and hs.ORIGIN"
    )


def _placement(access: Access, declaration: Declaration, limit: Budget) -> Placement:
    if declaration.footprint is not None:
        return Placement.MERGE
    if is_exact(access.array.dtype):
        # Any way gives the same bits, so the budget may choose.
        return Placement.PRIVATE if 8 * access.array.nbytes <= limit.limit else Placement.DIRECT
    return Placement.PRIVATE if access.array.nbytes <= PRIVATE_LIMIT else Placement.DIRECT


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


def _buffer_order(access: Access) -> str:
    strides = [abs(s) for s, n in zip(access.array.strides, access.array.shape, strict=True) if n > 1]
    return "F" if len(strides) > 1 and strides == sorted(strides) else "C"


def _type(argument: Argument, order: str, grid: Grid) -> ArgumentType:
    if isinstance(argument, Origin):
        return TupleType(len(grid.shape))
    if isinstance(argument, Value):
        kind = type_of(argument.value)
        return dataclasses.replace(kind, mutable=False) if isinstance(kind, ArrayType) else kind
    array = argument.array
    # One signature serves all regions: contiguous where every region's view is.
    orders = {"C", "F"}
    for region in partition.representatives(grid) if len(grid) else ():
        box = argument.box(region)
        outside = not Box.of_shape(array.shape).contains(box)
        if argument.privilege is Privilege.READ and not (argument.has_halo and outside):
            orders &= _orders(box.shape, array.strides, array.dtype.itemsize)
        elif argument.placement is Placement.DIRECT:
            orders &= _orders(array.shape, array.strides, array.dtype.itemsize)
        else:
            own = "C" if argument.placement is Placement.PRIVATE else order
            orders &= {own} if sum(n > 1 for n in box.shape) > 1 else {"C", "F"}
    layout = "C" if "C" in orders else "F" if "F" in orders else "A"
    return ArrayType(array.dtype, array.ndim, layout, argument.privilege is not Privilege.READ)


def _orders(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> set[str]:
    """The memory orders in which a view is contiguous, by NumPy's own rule."""
    if 0 in shape:
        return {"C", "F"}
    orders = set()
    for order, axes in (("C", range(len(shape) - 1, -1, -1)), ("F", range(len(shape)))):
        expected = itemsize
        for axis in axes:
            if shape[axis] != 1 and strides[axis] != expected:
                break
            expected *= shape[axis]
        else:
            orders.add(order)
    return orders


def _memory(
    accesses: Sequence[Access],
    declarations: Sequence[Declaration | None],
    grid: Grid,
    limit: Budget,
    workers: int,
) -> Memory:
    """The projection, or a refusal that says what to lower."""
    private = sum(a.array.nbytes for a in accesses if a.placement is Placement.PRIVATE)
    merged = _largest_footprint(declarations, grid)
    # The coordinator holds the sum so far, the partial being added, and the old values.
    coordinator = 3 * private

    def per_worker(shape: tuple[int, ...]) -> int:
        return partition.region_cost(accesses, shape).buffered + private + merged

    need = per_worker(grid.region)
    left = limit.limit - coordinator
    at_once = min(workers, left // need) if need else workers
    if left < 0 or at_once < 1:
        raise PlanError(
            f"the job needs {human_bytes(need + coordinator)} of private memory with a single "
            f"worker busy, and the budget is {human_bytes(limit.limit)} ({limit.source}); "
            + _memory_remedy(per_worker, grid, left, private, merged)
        )
    return Memory(need, coordinator, at_once)


def _memory_remedy(
    per_worker: Callable[[tuple[int, ...]], int],
    grid: Grid,
    left: int,
    private: int,
    merged: int,
) -> str:
    if private > left:
        return (
            f"private copies of what is accumulated take {human_bytes(private)} each: give "
            "accumulate() a footprint=, so that each region holds only the part it touches, or "
            "raise memory="
        )
    if merged > left:
        return (
            f"the largest footprint takes {human_bytes(merged)}: make it smaller, split the "
            "domain further with region=, or raise memory="
        )
    shape = list(grid.region)
    while per_worker(tuple(shape)) > left and max(shape, default=1) > 1:
        axis = next(i for i, n in enumerate(shape) if n > 1)
        shape[axis] = -(-shape[axis] // 2)
    if per_worker(tuple(shape)) > left:
        return "not even single elements fit: raise memory="
    return f"give smaller regions, region={tuple(shape)} would fit, or raise memory="


def _largest_footprint(declarations: Sequence[Declaration | None], grid: Grid) -> int:
    """Bytes of the largest footprints among the regions of every kind.

    A footprint is the user's function and could do anything in between; asking it for every
    region would make planning grow with the file.
    """
    total = 0
    for declaration in declarations:
        if declaration is not None and declaration.footprint is not None and len(grid):
            boxes = (footprint_box(declaration, r) for r in partition.representatives(grid))
            total += max(box.size for box in boxes) * declaration.array.dtype.itemsize
    return total
