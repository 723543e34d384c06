"""What hypothesis draws: shapes, layouts, keys, regions, halos; and values made of them.

Shapes are small, with empty and length-1 axes on purpose: bugs in geometry live there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hyperslab_workers.access import Access, Privilege
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box

DTYPES = tuple(np.dtype(code) for code in ("b1", "i1", "u2", "i4", "u8", "f4", "f8", "c8", "c16"))
"""What kernels compute on."""

orders = st.sampled_from("CF")
dtypes = st.sampled_from(DTYPES)
lengths = st.integers(0, 7)


def shapes(min_dims: int = 0, max_dims: int = 4, min_side: int = 0) -> st.SearchStrategy:
    """Shapes; lengths 0 and 1 are as likely as all others."""
    side = st.one_of(st.sampled_from([n for n in (0, 1) if n >= min_side] or [min_side]), lengths)
    return st.lists(side.filter(lambda n: n >= min_side), min_size=min_dims, max_size=max_dims).map(
        tuple
    )


def regions(shape: tuple[int, ...]) -> st.SearchStrategy:
    """Region shapes for a domain; some longer than it."""
    return st.tuples(*[st.integers(1, max(n, 1) + 2) for n in shape])


def boxes(shape: tuple[int, ...]) -> st.SearchStrategy:
    """Boxes within an array, empty ones included."""
    return st.tuples(
        *[st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in shape]
    ).map(lambda ends: Box(tuple(a for a, _ in ends), tuple(b for _, b in ends)))


def halos(ndim: int, widest: int = 3) -> st.SearchStrategy:
    """Widths before and after, per axis."""
    width = st.integers(0, widest)
    return st.tuples(*[st.tuples(width, width)] * ndim)


boundaries = st.one_of(
    st.sampled_from(["clip", "nearest", "reflect", "wrap"]), st.integers(-1, 1), st.just(0.5)
)


@st.composite
def slices(draw: Any, length: int) -> slice:
    """Any slice of an axis: negative ends, ends out of reach, steps in both directions."""
    end = st.none() | st.integers(-length - 2, length + 2)
    step = draw(st.sampled_from([None, 1, 2, 3, -1, -2]))
    return slice(draw(end), draw(end), step)


@st.composite
def keys(draw: Any, shape: tuple[int, ...], *, keep_axes: bool = False) -> tuple[Any, ...]:
    """Basic indices: slices, integers, ``None`` and ``...``, or slices only."""
    key: list[Any] = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        if length and not keep_axes and draw(st.integers(0, 4)) == 0:
            key.append(draw(st.integers(-length, length - 1)))
        else:
            key.append(draw(slices(length)))
    if not keep_axes and draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    if not keep_axes and draw(st.booleans()):
        key.append(Ellipsis)
    return tuple(key)


def reference(values: np.ndarray, base: np.ndarray | None = None, **changes: Any) -> ArrayRef:
    """A reference that describes `values` as lying in a file that is a copy of `base`."""
    base = values if base is None else base
    start = base.__array_interface__["data"][0]
    offset = values.__array_interface__["data"][0] - start if values.size else 0
    described: dict[str, Any] = {
        "path": "/data/t2m.npy",
        "device": 1,
        "inode": 2,
        "file_size": base.nbytes,
        "offset": offset,
        "dtype": values.dtype,
        "shape": values.shape,
        "strides": values.strides,
        "writable": True,
    }
    return ArrayRef(**described | changes)


def virtual(
    shape: tuple[int, ...], dtype: Any = "f4", order: str = "C", **changes: Any
) -> ArrayRef:
    """A reference to an array of any size; nothing of it exists."""
    dtype = np.dtype(dtype)
    axes = range(len(shape)) if order == "F" else range(len(shape) - 1, -1, -1)
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in axes:
        strides[axis], step = step, step * max(shape[axis], 1)
    described: dict[str, Any] = {
        "path": "/data/big.npy",
        "device": 1,
        "inode": 3,
        "file_size": math.prod(shape) * dtype.itemsize,
        "offset": 0,
        "dtype": dtype,
        "shape": shape,
        "strides": tuple(strides),
        "writable": True,
    }
    return ArrayRef(**described | changes)


def access(
    array: ArrayRef,
    privilege: Privilege = Privilege.READ,
    axes: tuple[int | None, ...] | None = None,
    **changes: Any,
) -> Access:
    """An access that follows the domain axis by axis, unless told otherwise."""
    described: dict[str, Any] = {
        "name": "a",
        "array": array,
        "privilege": privilege,
        "axes": tuple(range(array.ndim)) if axes is None else axes,
        "halo": ((0, 0),) * array.ndim,
    }
    return Access(**described | changes)
