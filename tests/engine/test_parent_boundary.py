"""A halo that holds what surrounds a view: the array it was taken from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import slices

import hyperslab as hs


@hs.kernel
def cross(u, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = u[i, j + 1] + 10 * u[i + 2, j + 1] + 100 * u[i + 1, j] + u[i + 1, j + 2]


def expected(whole: np.ndarray) -> np.ndarray:
    middle, up, down = whole[1:-1], whole[:-2], whole[2:]
    return up[:, 1:-1] + 10 * down[:, 1:-1] + 100 * middle[:, :-2] + middle[:, 2:]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("region", [None, (3, None), (4, 5)])
def test_a_stencil_sees_what_surrounds_the_view(order, region, serial):
    values = np.arange(20.0 * 30).reshape(20, 30)
    u = hs.from_array(np.asarray(values, order=order))
    out = hs.from_array(np.zeros((20, 30)))
    read = hs.read(u[1:-1, 1:-1], halo=1, boundary="parent")
    plan = serial.plan(cross, read, hs.write(out[1:-1, 1:-1]), region=region)
    assert plan.memory.per_worker == plan.grid.region[0] * plan.grid.region[1] * 8
    plan.run()
    np.testing.assert_array_equal(np.asarray(out)[1:-1, 1:-1], expected(values))
    assert not np.asarray(out)[0].any() and not np.asarray(out)[:, -1].any()


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_the_room_around_a_view_is_what_numpy_would_find(data):
    base = np.arange(11 * 7).reshape(11, 7)
    if data.draw(st.booleans()):
        base = np.asfortranarray(base)
    array = hs.from_array(base)
    key = tuple(data.draw(slices(n)) for n in base.shape)
    if data.draw(st.booleans()):
        array, base, key = array.T, base.T, key[::-1]
    view, seen = array[key], base[key]
    assume(seen.size)
    room = view.room_around
    for axis, part in enumerate(key):
        indices = range(*part.indices(base.shape[axis]))
        step = indices.step if len(indices) > 1 else None
        if step is None:
            continue  # The steps of a single element are NumPy's own affair.
        before = len(range(indices[0], -1 if step > 0 else base.shape[axis], -step)) - 1
        after = len(range(indices[-1], base.shape[axis] if step > 0 else -1, step)) - 1
        assert room[axis] == (before, after)


def test_a_halo_beyond_the_parent_is_refused_with_what_there_is():
    u = hs.from_array(np.zeros((10, 10)))
    with pytest.raises(hs.PlanError, match="has 1 elements before it and 1 after"):
        hs.read(u[1:-1, 1:-1], halo=2, boundary="parent")
    with pytest.raises(hs.PlanError, match="has 0 elements before it"):
        hs.read(u, halo=1, boundary="parent")
    hs.read(u, halo=0, boundary="parent")


def test_a_stencil_in_place_is_refused(serial):
    u = hs.from_array(np.zeros((10, 10)))
    view = u[1:-1, 1:-1]
    with pytest.raises(hs.PlanError):
        serial.plan(cross, hs.read(view, halo=1, boundary="parent"), hs.write(view))


def test_results_do_not_depend_on_the_way_they_are_stored(tmp_path):
    values = np.random.default_rng(4).random((257, 130))
    u, v = hs.from_array(values), hs.from_array(np.zeros_like(values))
    with hs.Engine(workers=2, scratch=tmp_path) as engine:
        read = hs.read(u[1:-1, 1:-1], halo=1, boundary="parent")
        plan = engine.plan(cross, read, hs.write(v[1:-1, 1:-1]), region=(20, None))
        for _ in range(3):  # From the second run on the pages are there.
            v[...] = -1
            plan.run()
            np.testing.assert_array_equal(np.asarray(v)[1:-1, 1:-1], expected(values))
            assert (np.asarray(v)[0] == -1).all()
