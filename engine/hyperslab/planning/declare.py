"""How a user says what a kernel does to its arguments: ``read``, ``write``, ``update``, ….

A :class:`Declaration` holds the user's words, checked for themselves only. The planner holds
it against the domain and turns it into an :class:`~hyperslab_workers.access.Access`.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hyperslab.arrays import Array
from hyperslab.errors import PlanError
from hyperslab_workers.access import BOUNDARIES, Privilege
from hyperslab_workers.box import Box
from hyperslab_workers.reduction import OPERATIONS, identity

__all__ = ["ORIGIN", "Declaration", "Footprint", "accumulate", "read", "update", "write"]

Halo = int | Sequence[int | tuple[int, int]]
Footprint = Callable[[tuple[slice, ...]], Any]


class _Origin:
    """The type of ``hs.ORIGIN``."""

    def __repr__(self) -> str:
        return "hyperslab.ORIGIN"


ORIGIN = _Origin()
"""A kernel argument that becomes the start of the region in the domain, a tuple of ints."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the user said about one argument."""

    array: Array
    """The array; held, so that a scratch array lives as long as the plan."""

    privilege: Privilege
    """What the kernel does to it."""

    axes: tuple[int | None, ...] | None = None
    """Domain axis of each array axis; None: by broadcasting."""

    halo: tuple[tuple[int, int], ...] = ()
    """Elements before and after the region on each array axis."""

    boundary: str | float | int = "clip"
    """What the halo holds beyond the edges."""

    whole: bool = False
    """Whether every task sees all of the array."""

    op: str | None = None
    """Operation of an accumulation."""

    footprint: Footprint | None = None
    """Domain region to array box, for an accumulation with overlapping boxes."""

    any_order: bool = False
    """Whether floating-point contributions may be merged in any order."""


def read(
    array: Array,
    *,
    halo: Halo = 0,
    boundary: str | float = "clip",
    axes: Sequence[int | None] | None = None,
    whole: bool = False,
) -> Declaration:
    """Declare that a kernel only reads `array`.

    Parameters
    ----------
    array : Array
        What is read; it is read-only inside the kernel.
    halo : int, or a sequence with an int or a pair of ints for each axis of the array
        Elements shown before and after the region: ``1``, ``(0, 1, 1)`` or
        ``((0, 0), (1, 2), (1, 2))``.
    boundary : {"clip", "nearest", "reflect", "wrap", "parent"} or a number
        What the halo holds beyond the array's edges. With "clip" the kernel's view is cut at
        the edge, so its shape differs there. "nearest" repeats the edge, "reflect" mirrors
        about it without repeating it, "wrap" goes round (:func:`numpy.pad`'s modes "edge",
        "reflect" and "wrap"); a number is used as it is. "parent" is for views: the halo of
        ``a[1:-1, 1:-1]`` holds the rows and columns of `a` around it, and nothing is copied.
    axes : sequence of int or None, optional
        The domain axis that each array axis follows; None for an axis shown whole.
        Default: NumPy's broadcasting.
    whole : bool
        Show every task all of the array.

    Returns
    -------
    Declaration

    Raises
    ------
    PlanError
        Options that do not fit the array.

    Examples
    --------
    >>> import numpy as np, hyperslab as hs
    >>> field = hs.from_array(np.zeros((4, 5)))
    >>> hs.read(field, halo=(0, 1), boundary="wrap").halo
    ((0, 0), (1, 1))
    """
    _check_array(array, "read")
    widths = _halo(halo, array)
    boundary = _boundary(boundary, array, any(a or b for a, b in widths))
    if boundary == "parent":
        _check_room(array, widths)
    if whole and (axes is not None or any(a or b for a, b in widths)):
        raise PlanError("read(whole=True) shows all of the array: axes= and halo= say nothing then")
    return Declaration(array, Privilege.READ, _axes(axes, array), widths, boundary, whole)


def write(array: Array, *, axes: Sequence[int | None] | None = None) -> Declaration:
    """Declare that a kernel writes `array` without looking at its old values.

    The kernel gets a buffer of zeros; what it does not assign becomes zero in the file.

    Parameters
    ----------
    array : Array
        What is written, opened with mode "r+" or created.
    axes : sequence of int or None, optional
        As for :func:`read`.

    Returns
    -------
    Declaration

    Raises
    ------
    PlanError
        No array, one that is open for reading only, or `axes` that do not fit it.
    """
    _check_array(array, "write", writable=True)
    return Declaration(array, Privilege.WRITE, _axes(axes, array), _no_halo(array))


def update(array: Array, *, axes: Sequence[int | None] | None = None) -> Declaration:
    """Declare that a kernel changes `array` in place: it sees the old values.

    Parameters
    ----------
    array : Array
        What is changed, opened with mode "r+" or created.
    axes : sequence of int or None, optional
        As for :func:`read`.

    Returns
    -------
    Declaration

    Raises
    ------
    PlanError
        No array, one that is open for reading only, or `axes` that do not fit it.
    """
    _check_array(array, "update", writable=True)
    return Declaration(array, Privilege.UPDATE, _axes(axes, array), _no_halo(array))


def accumulate(
    array: Array,
    op: str = "add",
    *,
    footprint: Footprint | None = None,
    order: Literal["region", "any"] = "region",
) -> Declaration:
    """Declare that every task combines its contributions into `array`.

    Parameters
    ----------
    array : Array
        What is accumulated into, opened with mode "r+" or created. Its old values count as
        the first contribution.
    op : {"add", "multiply", "minimum", "maximum", "logical_and", "logical_or"}
        How contributions are combined. The kernel gets an array filled with the operation's
        identity (0 for "add") and must combine by the same operation.
    footprint : callable, optional
        Takes a region of the domain as a tuple of slices and returns the part of `array` that
        the kernel touches for it, as a key of slices (as from ``numpy.s_``). The kernel then
        gets that part only, and parts of different regions may overlap: they are merged under
        the file's lock. Positions are counted from the start: cut them at 0. Without it the
        kernel gets all of `array`.
    order : {"region", "any"}
        Floating-point contributions are merged in region order by default, so that bits do
        not depend on which worker came first; "any" trades that for less waiting.

    Returns
    -------
    Declaration

    Raises
    ------
    PlanError
        No array, one that is open for reading only, an unknown operation, or one that its
        type does not have.

    Examples
    --------
    >>> import numpy as np, hyperslab as hs
    >>> image = hs.from_array(np.zeros(100))
    >>> def around(region):
    ...     (along,) = region
    ...     return np.s_[max(along.start - 2, 0) : along.stop + 2]
    >>> hs.accumulate(image, footprint=around).op
    'add'
    """
    _check_array(array, "accumulate", writable=True)
    if op not in OPERATIONS:
        raise PlanError(f"accumulate(op={op!r}): give one of {', '.join(OPERATIONS)}")
    try:
        identity(op, array.dtype)
    except TypeError as error:
        raise PlanError(f"accumulate(op={op!r}) into {array.dtype}: {error}") from None
    if footprint is not None and not callable(footprint):
        raise PlanError(
            f"accumulate(footprint={footprint!r}): give a function from a region of the domain "
            "(a tuple of slices) to a part of the array (a tuple of slices)"
        )
    if order not in ("region", "any"):
        raise PlanError(f'accumulate(order={order!r}): give "region" or "any"')
    return Declaration(
        array,
        Privilege.ACCUMULATE,
        (None,) * array.ndim,
        _no_halo(array),
        op=op,
        footprint=footprint,
        any_order=order == "any",
    )


def footprint_box(declaration: Declaration, region: Box) -> Box:
    """The box of the array that a footprint gives for a region, checked.

    Raises
    ------
    PlanError
        The footprint raised, or returned something that is no box within the array.
    """
    assert declaration.footprint is not None
    shape = declaration.array.shape
    remedy = f"return a tuple of at most {len(shape)} slices, one for each axis of the array"
    try:
        key = declaration.footprint(region.slices)
    except Exception as error:
        raise PlanError(
            f"footprint= raised {type(error).__name__} for region {region}: {error}; it is called "
            f"with a tuple of {region.ndim} slices, one for each axis of the domain"
        ) from error
    if isinstance(key, Box):
        box = key
    else:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > len(shape) or not all(isinstance(part, slice) for part in parts):
            raise PlanError(f"footprint= returned {key!r} for region {region}: {remedy}")
        lo, hi = [], []
        for position, length in enumerate(shape):
            part = parts[position] if position < len(parts) else slice(None)
            # A region's start less a margin is negative at the edge; counted from the end, as
            # NumPy does, it would show the kernel another part of the array.
            if any(end is not None and end < 0 for end in _ends(part, key, region, remedy)):
                raise PlanError(
                    f"footprint= returned {key!r} for region {region}: a negative position would "
                    f"count from the end of axis {position}; cut it at the edge, "
                    "slice(max(start, 0), stop)"
                )
            first, last, step = part.indices(length)
            if step != 1:
                raise PlanError(
                    f"footprint= returned {key!r} for region {region}: a step of {step} leaves "
                    "gaps; return slices without a step"
                )
            lo.append(first)
            hi.append(max(first, last))
        box = Box(tuple(lo), tuple(hi))
    if box.ndim != len(shape) or not Box.of_shape(shape).contains(box):
        raise PlanError(
            f"footprint= returned {box} for region {region}: that is not within the array of "
            f"shape {shape}; {remedy}"
        )
    return box


def _ends(part: slice, key: object, region: Box, remedy: str) -> list[int | None]:
    """Start and stop of a slice, which are whole numbers; its step is no zero."""
    try:
        ends = [None if end is None else operator.index(end) for end in (part.start, part.stop)]
        part.indices(0)
    except (TypeError, ValueError):
        raise PlanError(f"footprint= returned {key!r} for region {region}: {remedy}") from None
    return ends


def _check_array(array: object, what: str, *, writable: bool = False) -> None:
    if isinstance(array, Declaration):
        raise PlanError(f"{what}() was given what read(), write() … return; give the array itself")
    if not isinstance(array, Array):
        raise PlanError(
            f"{what}() takes a hyperslab Array, not {type(array).__name__}; open a file with "
            "hs.open or hs.create, or put a NumPy array into a scratch file with hs.from_array"
        )
    if writable and array.mode == "r":
        raise PlanError(
            f'{what}() changes {array.path!r}, which was opened with mode="r"; '
            'open it with mode="r+"'
        )


def _no_halo(array: Array) -> tuple[tuple[int, int], ...]:
    return ((0, 0),) * array.ndim


def _halo(halo: Halo, array: Array) -> tuple[tuple[int, int], ...]:
    remedy = (
        f"give one number, or for each of the {array.ndim} axes of the array a number or a pair "
        "(before, after), none negative"
    )
    per_axis: Sequence[Any]
    if isinstance(halo, numbers.Integral):
        per_axis = (int(halo),) * array.ndim
    elif isinstance(halo, list | tuple):
        per_axis = halo
    else:
        raise PlanError(f"halo={halo!r}: {remedy}")
    if len(per_axis) != array.ndim:
        raise PlanError(f"halo={halo!r} has {len(per_axis)} entries: {remedy}")
    widths = []
    for entry in per_axis:
        pair: Any = (entry, entry) if isinstance(entry, numbers.Integral) else entry
        try:
            before, after = (operator.index(width) for width in pair)
        except (TypeError, ValueError):
            raise PlanError(f"halo={halo!r}: {remedy}") from None
        if before < 0 or after < 0:
            raise PlanError(f"halo={halo!r}: {remedy}")
        widths.append((before, after))
    return tuple(widths)


def _boundary(boundary: object, array: Array, used: bool) -> str | float | int:
    if isinstance(boundary, str) and boundary in BOUNDARIES:
        if used and boundary in ("nearest", "reflect", "wrap") and 0 in array.shape:
            raise PlanError(f"boundary={boundary!r} needs at least one element to take values from")
        return boundary
    # A NumPy scalar becomes a plain number: it crosses to workers in the job.
    if isinstance(boundary, numbers.Number):
        plain: Any = boundary.item() if isinstance(boundary, np.generic) else boundary
        # Complex, too, for complex arrays, although the common annotation does not say so.
        return plain if isinstance(plain, int | float | complex) else float(plain)  # type: ignore[return-value]
    raise PlanError(
        f"boundary={boundary!r}: give one of {', '.join(BOUNDARIES)}, or a number to fill with"
    )


def _check_room(array: Array, widths: tuple[tuple[int, int], ...]) -> None:
    """Refuse a halo that reaches beyond the array of which this one is a view."""
    room = array.room_around
    for axis, (wanted, there) in enumerate(zip(widths, room, strict=True)):
        if wanted[0] > there[0] or wanted[1] > there[1]:
            raise PlanError(
                f'boundary="parent" with a halo of {wanted} on axis {axis}: the array that this '
                f"one is a view of has {there[0]} elements before it and {there[1]} after it "
                "there; take a smaller view, as a[1:-1], or another boundary"
            )


def _axes(axes: Sequence[int | None] | None, array: Array) -> tuple[int | None, ...] | None:
    if axes is None:
        return None
    try:
        named = tuple(None if axis is None else operator.index(axis) for axis in axes)
    except TypeError:
        raise PlanError(f"axes={axes!r}: give a domain axis, or None, for each axis") from None
    if len(named) != array.ndim:
        raise PlanError(
            f"axes={axes!r} has {len(named)} entries and the array {array.ndim} axes: name the "
            "domain axis of each, or None where it is to be shown whole"
        )
    return named
