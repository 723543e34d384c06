"""Plans of arrays of any size: planning reads no data, so none of them needs to exist."""

from __future__ import annotations

import pytest
from strategies import virtual

import hyperslab as hs
from hyperslab.planning.plan import Plan
from hyperslab.planning.planner import build
from hyperslab.settings import resolve


@hs.kernel
def one(a):
    a


@hs.kernel
def two(a, b):
    a, b


@hs.kernel
def three(a, b, c):
    a, b, c


@hs.kernel
def with_default(a, factor=2.0):
    a, factor


KERNELS = {1: one, 2: two, 3: three}


def array(shape, dtype="f4", order="C", **changes) -> hs.Array:
    """An array of any size, of which only the reference exists: planning reads no data.

    Each has an inode of its own, so that no two of them are one file.
    """
    inode = changes.pop("inode", None) or next(_inodes)
    return hs.Array(virtual(shape, dtype, order, inode=inode, **changes))


_inodes = iter(range(100, 10**9))


def plan(*arguments, workers=2, memory="100GB", kernel=None, **options) -> Plan:
    return build(
        kernel or KERNELS[len(arguments)],
        arguments,
        settings=resolve(workers=workers, memory=memory, environ={}),
        runner=lambda job, **given: (job, given),
        **options,
    )


def said(*arguments, error=hs.PlanError, **options) -> str:
    with pytest.raises(error) as caught:
        plan(*arguments, **options)
    return str(caught.value)


def gives(text: str, *words: str) -> bool:
    return all(word in text for word in words) or pytest.fail(text)
