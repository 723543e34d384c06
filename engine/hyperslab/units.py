"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import math
import operator
import re

from hyperslab.errors import PlanError

__all__ = ["human_bytes", "parse_bytes"]

_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9,
          "gb": 10**9, "t": 10**12, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30,
          "tib": 2**40}  # fmt: skip


def parse_bytes(value: int | float | str, name: str = "memory") -> int:
    """A number of bytes from a number, or from text such as ``"16GB"`` or ``"512 MiB"``.

    Examples
    --------
    >>> parse_bytes("16GB"), parse_bytes("1.5 KiB"), parse_bytes(42)
    (16000000000, 1536, 42)

    Raises
    ------
    PlanError
        It is no size, or less than one byte.
    """
    remedy = 'give bytes as a number, or text such as "16GB" or "512MiB"'
    number: float
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", value)
        if match is None or match[2].lower() not in _UNITS:
            raise PlanError(f"{name}={value!r} is not a size; {remedy}")
        number = float(match[1]) * _UNITS[match[2].lower()]
    else:
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = value if isinstance(value, float) else math.nan
    if not 1 <= number < 2**63:
        raise PlanError(
            f"{name}={value!r} is no size, or out of range: at least one byte and below 2**63; "
            f"{remedy}"
        )
    return int(number)


def human_bytes(count: float) -> str:
    """Bytes in words: decimal units, three figures.

    Examples
    --------
    >>> human_bytes(2129264640), human_bytes(12)
    ('2.13 GB', '12 B')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    unit = 0
    # 999,600 bytes are "1 MB": from 999.5 on, three figures would be "1e+03".
    while abs(count) >= 999.5 and unit < len(units) - 1:
        count /= 1000
        unit += 1
    figures = f"{count:.0f}" if unit == 0 or abs(count) >= 100 else f"{count:.3g}"
    return f"{figures} {units[unit]}"
