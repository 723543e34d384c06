"""Words for messages: short, however large the value or however many the names."""

from __future__ import annotations

import bisect
import difflib
import reprlib
from collections.abc import Iterable

__all__ = ["listed", "near", "shown"]

_LONGEST_NAME = 100
"""Characters up to which a name is compared with others."""

_COMPARED = 1000
"""Known names that an unknown one is compared with, for comparing takes time."""

_LISTED = 20
"""Names that one message lists."""

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxlist = _short.maxtuple = _short.maxdict = 12
_short.maxstring = _short.maxother = 200


def shown(value: object) -> str:
    """A value as in Python, cut where it is long.

    Examples
    --------
    >>> shown([3, -1]), len(shown("x" * 10**6))
    ('[3, -1]', 200)
    """
    return _short.repr(value)


def listed(names: Iterable[str]) -> str:
    """Names with commas between them; of many, how many more there are.

    Examples
    --------
    >>> listed(["a", "b"])
    'a, b'
    """
    every = list(names)
    more = len(every) - _LISTED
    return ", ".join(every[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def near(name: str, known: Iterable[str], what: str) -> str:
    """What to write in place of an unknown name.

    Examples
    --------
    >>> near("halos", ["halo", "axes"], "the keys")
    "did you mean 'halo'?"
    >>> near("colour", ["halo", "axes"], "the keys")
    'the keys are axes, halo'
    """
    candidates = sorted(known)
    if not candidates:
        return f"{what} are none"
    close = []
    if len(name) <= _LONGEST_NAME:
        # Of very many names, those that begin as it does.
        start = max(0, bisect.bisect(candidates, name) - _COMPARED // 2)
        compared = candidates[start : start + _COMPARED]
        close = difflib.get_close_matches(name, compared, n=1)
    if close:
        return f"did you mean {shown(close[0])}?"
    return f"{what} are {listed(candidates)}"
