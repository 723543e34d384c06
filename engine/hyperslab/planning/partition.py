"""How a domain is split: alignment of arrays, shape of regions, regions in a task.

All of it is geometry. Neither the number of workers nor the memory budget has a say, because
both would change where rounding happens: the same job gives the same bits on any machine.
"""

from __future__ import annotations

import math
import mmap
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyperslab.errors import PlanError
from hyperslab_workers.access import Access, Privilege
from hyperslab_workers.box import Box, Grid

__all__ = ["align", "choose_batch", "choose_region", "region_cost", "split_axes"]

BUFFERED_TARGET = 2 * 2**20
"""Bytes of private buffers a region: they should stay in a core's own cache between the
kernel that fills them and the system call that takes them to the file."""

TOUCHED_TARGET = 16 * 2**20
"""Bytes of all arrays a region: large enough that a region's fixed cost does not count."""

TASK_TARGET = 32 * 2**20
"""Bytes a task, some milliseconds of a memory-bound kernel: the last one leaves the other workers
idle for no longer than that, and what a task costs by itself does not show."""

TASKS_PER_WORKER = 4
"""Tasks for each worker that a job is split into as long as they stay below the target: enough
that the last one running does not leave the other workers idle for long."""

SMALLEST_TASK = 256 * 2**10
"""Bytes below which a leaf, or a task that merges in its turn, is not worth sending."""

LEAVES = 64
"""Leaves that a job with private accumulations is split into as long as they stay below the
target: a task is made of whole leaves, so this is how many workers can share the work."""

LEAF_TARGET = 32 * 2**20
"""Bytes a leaf."""

WORTH_MERGING = 64
"""How many times as much a leaf should read as it leaves to be merged: a merge reads two
contributions and writes a third."""

FEWEST_LEAVES = 16
"""Leaves below which contributions are not made fewer for that."""

SMALL_PARTS = 16
"""Regions that a job gets at least, where they would not be smaller than a MiB: nobody knows how
much a kernel computes for each byte, and a job of few bytes can be a long one."""

SMALL_REGION = 2**20
"""Bytes below which a region is not made smaller for that."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """Bytes that a region of some shape costs."""

    touched: int
    buffered: int


def align(
    shape: tuple[int, ...],
    domain: tuple[int, ...],
    axes: tuple[int | None, ...] | None,
    name: str,
) -> tuple[int | None, ...]:
    """The domain axis that each axis of an array follows; None for one shown whole.

    Without `axes` the last axes line up, as NumPy broadcasts; an axis of length 1 and leading
    axes that the domain lacks are shown whole.

    Raises
    ------
    PlanError
        Lengths that do not agree.

    Examples
    --------
    >>> align((361, 720), (2048, 361, 720), None, "clim")
    (1, 2)
    """
    remedy = (
        f"give axes= to say which domain axis each axis of {name} follows, whole=True to show "
        "all of it to every task, or over= to name another domain"
    )
    if axes is None:
        first = len(domain) - len(shape)
        axes = tuple(first + i if first + i >= 0 else None for i in range(len(shape)))
        # A length of 1 stretches over any domain axis.
        axes = tuple(
            None if axis is not None and n == 1 != domain[axis] else axis
            for n, axis in zip(shape, axes, strict=True)
        )
    else:
        for axis in axes:
            if axis is not None and not -len(domain) <= axis < len(domain):
                raise PlanError(
                    f"argument {name}: axes={axes} names axis {axis} of the domain {domain}, which "
                    f"has {len(domain)} axes, counted from 0; None stands for an axis shown whole"
                )
        axes = tuple(None if axis is None else axis % len(domain) for axis in axes)
        named = [axis for axis in axes if axis is not None]
        if len(set(named)) != len(named):
            raise PlanError(
                f"argument {name}: axes={axes} names a domain axis twice, and a region has only "
                "one place on it; give None for one of the two, which is then shown whole"
            )
        axes = tuple(
            None if axis is not None and n == 1 != domain[axis] else axis
            for n, axis in zip(shape, axes, strict=True)
        )
    for n, axis in zip(shape, axes, strict=True):
        if axis is not None and n != domain[axis]:
            raise PlanError(
                f"argument {name} has shape {shape}, which does not line up with the domain "
                f"{domain}: length {n} meets length {domain[axis]} of domain axis {axis}; {remedy}"
            )
    return axes


def split_axes(domain: tuple[int, ...], accesses: Sequence[Access]) -> frozenset[int]:
    """The domain axes that may be split.

    An array that is written and does not follow an axis would be written once for every part
    of it: such an axis stays whole.
    """
    allowed = set(range(len(domain)))
    for access in accesses:
        if access.privilege in (Privilege.WRITE, Privilege.UPDATE):
            allowed &= {axis for axis in access.axes if axis is not None}
    return frozenset(allowed)


def region_cost(accesses: Sequence[Access], region: tuple[int, ...]) -> _Cost:
    """Bytes touched and bytes buffered for one region of that shape.

    Arrays that follow no domain axis cost the same for every shape and are left out.
    """
    touched = buffered = 0
    for access in accesses:
        if all(axis is None for axis in access.axes):
            continue
        size = access.array.dtype.itemsize
        for n, axis, (before, after) in zip(
            access.array.shape, access.axes, access.halo, strict=True
        ):
            size *= (n if axis is None else region[axis]) + before + after
        touched += size
        if access.buffered:
            buffered += size
    return _Cost(touched, buffered)


def fixed_buffers(accesses: Sequence[Access]) -> int:
    """Bytes buffered for every region, whatever its shape: of arrays that follow no axis."""
    total = 0
    for access in accesses:
        if access.buffered and all(axis is None for axis in access.axes):
            box = access.box(Box((), ()))
            total += box.size * access.array.dtype.itemsize
    return total


def choose_region(
    domain: tuple[int, ...],
    accesses: Sequence[Access],
    splittable: frozenset[int],
    primary: Access | None,
) -> tuple[int, ...]:
    """The shape of a region, from the geometry of the arrays alone.

    Axes are filled from the one that is fastest in the primary array's file to the slowest
    until a target is met, so that regions are long contiguous runs.
    """
    if primary is None:
        return _equal_parts(domain, splittable)
    region = [1 if axis in splittable else max(n, 1) for axis, n in enumerate(domain)]
    total = region_cost(accesses, tuple(max(n, 1) for n in domain)).touched
    touched = min(max(total // SMALL_PARTS, SMALL_REGION), TOUCHED_TARGET)
    for axis in _fastest_first(domain, primary):
        if axis not in splittable or domain[axis] <= 1:
            continue
        length = min(_largest(accesses, region, axis, touched), domain[axis])
        if length < domain[axis]:
            region[axis] = _even(length, domain[axis], _page_unit(primary, axis))
            break
        region[axis] = length
    return tuple(region)


def _equal_parts(domain: tuple[int, ...], splittable: frozenset[int]) -> tuple[int, ...]:
    """Regions of a domain that no array follows: there are no bytes to go by, only work."""
    region = [max(n, 1) for n in domain]
    parts = LEAVES
    for axis in sorted(splittable):
        region[axis] = max(1, -(-domain[axis] // parts))
        parts = max(1, parts // max(domain[axis], 1))
    return tuple(region)


def checked_region(
    wanted: int | Sequence[int | None], domain: tuple[int, ...], splittable: frozenset[int]
) -> tuple[int, ...]:
    """A region shape given by the user; None and -1 mean the whole axis.

    Raises
    ------
    PlanError
        A wrong number of axes, a length below 1, or a split of an axis that has to stay whole.
    """
    try:
        entries = tuple(wanted) if isinstance(wanted, Iterable) else (operator.index(wanted),)
    except TypeError:
        entries = (0,)
    if len(entries) != len(domain):
        raise PlanError(
            f"region={wanted!r} has {len(entries)} entries and the domain {domain} has "
            f"{len(domain)} axes: give a length for each, None for a whole axis"
        )
    region = []
    for axis, (entry, n) in enumerate(zip(entries, domain, strict=True)):
        try:
            length = -1 if entry is None else operator.index(entry)
        except TypeError:
            length = 0
        if length < -1 or length == 0 or isinstance(entry, bool):
            raise PlanError(
                f"region={wanted!r}: lengths are whole numbers, at least 1, or None for the whole "
                f"axis; the domain is {domain}"
            )
        length = max(n, 1) if length == -1 else min(length, max(n, 1))
        if axis not in splittable and length < n:
            raise PlanError(
                f"region={wanted!r} splits domain axis {axis}, which a written argument does not "
                f"follow: it would be written several times; give None for axis {axis}"
            )
        region.append(length)
    return tuple(region)


def choose_leaf(
    grid: Grid, accesses: Sequence[Access], *, footprints: int = 0, private: int = 0
) -> int:
    """Consecutive regions over which a private accumulation runs before it is merged.

    This is where sums are rounded, so it is geometry: neither workers nor memory have a say.

    Parameters
    ----------
    grid : Grid
        The regions.
    accesses : sequence of Access
        What they touch.
    footprints : int
        Number of arguments with a footprint.
    private : int
        Bytes of everything that may be accumulated in private, whether the budget allows it or
        not; 0 where nothing is, and a leaf is a region.
    """
    count = len(grid)
    if not private or not count:
        return 1
    leaf = -(-count // LEAVES)
    touched = region_cost(accesses, grid.region).touched
    if touched:
        # Merging a contribution should cost little beside computing it, but leaves should be
        # enough for a machine with many processors.
        worth = min(WORTH_MERGING * private, count * touched // FEWEST_LEAVES)
        least = max(SMALLEST_TASK, 4 * private, worth)
        most = max(LEAF_TARGET, least)
        leaf = max(min(leaf, most // touched), least // touched, 1)
    return min(leaf, _most_regions(footprints), count)


def choose_batch(
    grid: Grid,
    accesses: Sequence[Access],
    *,
    workers: int,
    leaf: int = 1,
    footprints: int = 0,
    in_turn: bool = False,
    folded: bool = False,
) -> int:
    """Consecutive regions in one task: whole leaves, as many as suit the workers.

    How leaves are put together into tasks changes no bit.

    Parameters
    ----------
    grid : Grid
        The regions.
    accesses : sequence of Access
        What they touch.
    workers : int
        Worker processes.
    leaf : int
        Regions in one leaf.
    footprints : int
        Number of arguments with a footprint.
    in_turn : bool
        Whether regions are merged in their order, by tasks that compute meanwhile.
    folded : bool
        Whether a task folds its leaves into one contribution: then they are a power of two, a
        whole subtree of the tree by which all are merged.
    """
    count = len(grid)
    if count == 0:
        return 1
    # A region that is merged in its turn waits for all before it: of two tasks the second stands
    # still at its first region until the first is through.
    batch = 1 if in_turn else -(-count // (TASKS_PER_WORKER * workers))
    touched = region_cost(accesses, grid.region).touched
    if touched:
        batch = min(batch, max(TASK_TARGET // touched, 1))
        if in_turn:
            batch = max(batch, SMALLEST_TASK // touched)
    leaves = max(min(batch, _most_regions(footprints), count) // leaf, 1)
    return (1 << (leaves.bit_length() - 1) if folded else leaves) * leaf


def _most_regions(footprints: int) -> int:
    """Regions in a task, whose footprints travel in it: it is to stay below 4 KB."""
    return max(1, 16 // footprints) if footprints else 2**62


def representatives(grid: Grid, access: Access | None = None) -> list[Box]:
    """One region of every kind: first, inner and last along each axis.

    With an access, whose halo may be wider than a region, also the first along each axis that
    is so far from the start that the halo before it lies within the array.
    """
    import itertools

    positions = [{0, min(1, n - 1), n - 1} for n in grid.counts]
    if access is not None:
        for axis, (before, _) in zip(access.axes, access.halo, strict=True):
            if axis is not None:
                clear = -(-before // grid.region[axis])
                positions[axis].add(min(clear, grid.counts[axis] - 1))
    boxes = []
    for place in itertools.product(*map(sorted, positions)):
        index = 0
        for position, n in zip(place, grid.counts, strict=True):
            index = index * n + position
        boxes.append(grid.box(index))
    return boxes


def _fastest_first(domain: tuple[int, ...], primary: Access | None) -> list[int]:
    """Domain axes by the distance between neighbours in the primary array's file."""
    distance = dict.fromkeys(range(len(domain)), math.inf)
    if primary is not None:
        for stride, axis in zip(primary.array.strides, primary.axes, strict=True):
            if axis is not None:
                distance[axis] = abs(stride)
    # Axes of one distance (length 1, or not followed): later ones are faster, as in C order.
    return sorted(range(len(domain)), key=lambda axis: (distance[axis], -axis))


def _largest(accesses: Sequence[Access], region: Sequence[int], axis: int, touched: int) -> int:
    """The most elements along `axis` that keep a region below both targets."""

    def cost(length: int) -> _Cost:
        shape = list(region)
        shape[axis] = length
        return region_cost(accesses, tuple(shape))

    # Cost is linear in one length: two points give the line.
    one, two = cost(1), cost(2)
    best = 2**62
    for target, first, second in (
        (touched, one.touched, two.touched),
        (BUFFERED_TARGET, one.buffered, two.buffered),
    ):
        step = second - first
        if step > 0:
            best = min(best, max(1, 1 + (target - first) // step))
    return best


def _page_unit(primary: Access | None, axis: int) -> int:
    """Elements along `axis` after which the primary array is back on a page boundary."""
    if primary is None:
        return 1
    for stride, followed in zip(primary.array.strides, primary.axes, strict=True):
        if followed == axis and stride:
            return mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, abs(stride))
    return 1


def _even(length: int, total: int, unit: int) -> int:
    """A little less than `length`: a multiple of `unit`, or equal parts of `total`.

    Page-aligned regions never share a page between two workers; where a page is too coarse
    for that, equal parts leave no small remainder at the end.
    """
    if length >= 8 * unit > 8:
        return length // unit * unit
    parts = -(-total // length)
    return -(-total // parts)
