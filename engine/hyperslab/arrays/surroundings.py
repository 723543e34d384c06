"""What lies around a view in the array that it was taken from."""

from __future__ import annotations

import dataclasses

from hyperslab_workers.array_ref import ArrayRef

__all__ = ["grown", "room_around"]


def room_around(view: ArrayRef, base: ArrayRef) -> tuple[tuple[int, int], ...]:
    """How many elements of the base continue a view, before and after it, on each axis.

    A view's axis goes on in its own steps: of ``a[2:10:2]`` one element before and, if `a` has
    eleven, one after. An axis that was made by ``None`` or lies in a field has nothing around it.

    Examples
    --------
    >>> import numpy as np
    >>> base = ArrayRef("a", 1, 1, 200, 0, np.dtype("u1"), (20, 10), (10, 1))
    >>> view = dataclasses.replace(base, offset=11, shape=(18, 8))
    >>> room_around(view, base)
    ((1, 1), (1, 1))
    """
    # The position of the first element, taken apart along the base's axes, longest step first.
    # A base is contiguous, so that its steps are a positional system.
    axes = sorted(range(base.ndim), key=lambda axis: -base.strides[axis])
    rest, start = view.offset - base.offset, [0] * base.ndim
    for axis in axes:
        if base.shape[axis] > 1:
            start[axis], rest = divmod(rest, base.strides[axis])
    room = []
    for length, stride in zip(view.shape, view.strides, strict=True):
        along = next(
            (
                axis
                for axis in axes
                if base.shape[axis] > 1
                and base.strides[axis] <= abs(stride) < base.strides[axis] * base.shape[axis]
                and stride % base.strides[axis] == 0
            ),
            None,
        )
        if along is None or not length:
            room.append((0, 0))
            continue
        step = stride // base.strides[along]
        low, high = start[along], base.shape[along] - 1 - start[along]
        ahead, behind = (low, high) if step > 0 else (high, low)
        room.append((ahead // abs(step), behind // abs(step) - (length - 1)))
    return tuple(room)


def grown(view: ArrayRef, widths: tuple[tuple[int, int], ...]) -> ArrayRef:
    """The view with so many elements more before and after it on each axis."""
    offset = view.offset - sum(
        before * stride for (before, _), stride in zip(widths, view.strides, strict=True)
    )
    shape = tuple(n + before + after for n, (before, after) in zip(view.shape, widths, strict=True))
    return dataclasses.replace(view, offset=offset, shape=shape)
