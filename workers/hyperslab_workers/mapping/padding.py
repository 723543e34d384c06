"""How one axis of a box that reaches beyond an array is put together from the array: pure.

The words and results are those of ``numpy.pad``; "nearest" (SciPy's word) is its "edge".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hyperslab_workers.errors import PlanError

__all__ = ["Run", "indices", "runs"]

Run = tuple[slice, slice | None]
"""Where in the target, and from where in the array: an origin of length one is repeated,
None stands for the constant."""


def runs(lo: int, hi: int, length: int, boundary: str | float | int) -> list[Run]:
    """Cut ``[lo, hi)`` into runs that lie in the array, or beyond it.

    Raises
    ------
    PlanError
        The boundary is not known, or an axis of length 0 leaves nothing to repeat.

    Examples
    --------
    >>> runs(-1, 3, 3, "wrap")
    [(slice(0, 1, None), slice(2, 3, None)), (slice(1, 4, None), slice(0, 3, None))]
    """
    if lo >= 0 and hi <= length:
        return [(slice(0, hi - lo), slice(lo, hi))]
    constant = not isinstance(boundary, str)
    if not constant:
        if boundary not in ("nearest", "reflect", "wrap"):
            raise PlanError(
                f"boundary={boundary!r} cannot fill [{lo}:{hi}] on an axis of length {length}; "
                'give "nearest", "reflect", "wrap" or a number'
            )
        if length == 0:
            raise PlanError(
                f"boundary={boundary!r} has nothing to repeat on an axis of length 0; give a "
                "number as the boundary"
            )
        # A single element is its own mirror image and its own period.
        if boundary != "nearest" and length > 1:
            return list(_periodic(lo, hi, length, mirrored=boundary == "reflect"))
    start = min(max(lo, 0), hi)
    stop = max(min(hi, length), start)
    pieces = (
        (lo, start, None if constant else slice(0, 1)),
        (start, stop, slice(start, stop)),
        (stop, hi, None if constant else slice(length - 1, length)),
    )
    return [(slice(a - lo, b - lo), origin) for a, b, origin in pieces if a < b]


def _periodic(lo: int, hi: int, length: int, mirrored: bool) -> Iterator[Run]:
    # Mirrored, one period is the array forwards, then backwards without its two end elements.
    period = 2 * (length - 1) if mirrored else length
    position = lo
    while position < hi:
        phase = position % period
        if phase < length:
            count = min(length - phase, hi - position)
            origin = slice(phase, phase + count)
        else:
            count = min(period - phase, hi - position)
            origin = slice(period - phase, period - phase - count, -1)
        yield slice(position - lo, position - lo + count), origin
        position += count


def indices(axis: list[Run], count: int) -> np.ndarray:
    """The runs of one axis, none of them constant, as one index per element of the target.

    Examples
    --------
    >>> indices(runs(-2, 5, 3, "reflect"), 7)
    array([2, 1, 0, 1, 2, 1, 0])
    """
    found = np.empty(count, np.intp)
    for target, origin in axis:
        assert origin is not None
        found[target] = np.arange(origin.start, origin.stop, origin.step)
    return found
