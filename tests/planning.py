"""Plans of arrays of any size: planning reads no data, so none of them needs to exist."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from strategies import virtual

import hyperslab as hs
from hyperslab.planning.plan import Plan
from hyperslab.planning.planner import build
from hyperslab.settings import resolve
from hyperslab_workers.arena import Arena
from hyperslab_workers.bindings import Binding, bind
from hyperslab_workers.partials import private_accesses


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
        **options,
    )


def said(*arguments, error=hs.PlanError, **options) -> str:
    with pytest.raises(error) as caught:
        plan(*arguments, **options)
    return str(caught.value)


def gives(text: str, *words: str) -> bool:
    return all(word in text for word in words) or pytest.fail(text)


def bind_all(made: Plan) -> list[Binding]:
    """The bindings that a worker makes for a plan, with memory in place of slots."""
    fold = SimpleNamespace(
        values={
            position: np.zeros(access.array.shape, access.array.dtype)
            for position, access in private_accesses(made.arguments).items()
        }
    )
    return [
        bind(argument, order, Arena(), number, fold)
        for number, (argument, order) in enumerate(
            zip(made.arguments, made.buffer_orders, strict=True)
        )
    ]
