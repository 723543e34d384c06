"""The ways in turn, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from weather_tools.measure import Measurement

__all__ = ["Round", "take_turns"]

_MOST = 9
"""Rounds after which a median says all that it can."""

Round = dict[str, Measurement]
"""What each way cost that took part."""


def take_turns(
    ways: Sequence[str],
    measure: Callable[[str], Measurement],
    *,
    rounds: int | None,
    seconds: float,
) -> list[Round]:
    """Measure the ways in rounds, each of which begins with another one.

    Parameters
    ----------
    ways : sequence of str
        Their names. The first is what the others are held against: it takes part in every round.
    measure : callable
        Measures the way of that name.
    rounds : int or None
        How many; None for as many as fit, at the least one. Of the later rounds only those ways
        are part for which there is time, the fast ones first.
    seconds : float
        What they have to fit into.
    """
    began = time.monotonic()
    took: dict[str, float] = {}
    done: list[Round] = []
    while len(done) < (rounds or _MOST):
        chosen = list(ways)
        if done and rounds is None:
            chosen = _fitting(ways, took, seconds - (time.monotonic() - began))
            if len(chosen) < min(2, len(ways)):
                break
        turn = len(done) % len(chosen)
        costs: Round = {}
        for way in chosen[turn:] + chosen[:turn]:
            started = time.monotonic()
            costs[way] = measure(way)
            took[way] = time.monotonic() - started
        done.append(costs)
    return done


def _fitting(ways: Sequence[str], took: dict[str, float], left: float) -> list[str]:
    first, *others = ways
    fitting = [first]
    left -= took[first]
    for way in sorted(others, key=took.__getitem__):
        left -= took[way]
        if left >= 0:
            fitting.append(way)
    return [way for way in ways if way in fitting]
