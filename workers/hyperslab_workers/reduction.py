"""The operations of an ACCUMULATE access: their ufuncs, identities and exactness."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["OPERATIONS", "identity", "is_exact"]

OPERATIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "multiply": np.multiply,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}
"""Each operation by its NumPy name."""


def identity(op: str, dtype: np.dtype) -> Any:
    """The value that leaves every other unchanged under `op`.

    Raises
    ------
    TypeError
        The operation has none for this type, as "minimum" for complex numbers.

    Examples
    --------
    >>> identity("minimum", np.dtype("u1")), identity("add", np.dtype("f8"))
    (255, 0)
    """
    if dtype.kind not in "biufc":
        raise TypeError(f"{op} has no identity for {dtype}")
    if op in ("add", "logical_or"):
        return 0
    if op in ("multiply", "logical_and"):
        return 1
    if dtype.kind == "c":
        raise TypeError("complex numbers have no order")
    lowest = op == "maximum"
    if dtype.kind == "b":
        return not lowest
    if dtype.kind == "f":
        return -np.inf if lowest else np.inf
    limits = np.iinfo(dtype)
    return limits.min if lowest else limits.max


def is_exact(dtype: np.dtype) -> bool:
    """Whether contributions may be combined in any order without changing a bit.

    True for integers and booleans. Floating-point minimum and maximum are left out: which
    zero, or which NaN, wins depends on the order.
    """
    return dtype.kind in "biu"
