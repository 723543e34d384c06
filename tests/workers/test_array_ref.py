"""References: their arithmetic against NumPy's, and what they weigh on the way to a worker."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes, dtypes, keys, orders, reference, shapes, virtual

from hyperslab_workers.box import Box


@st.composite
def views(draw):
    """A base array and a view of it, by any basic index."""
    shape, dtype, order = draw(shapes()), draw(dtypes), draw(orders)
    base = np.zeros(shape, dtype, order=order)
    key = draw(keys(shape))
    # With an ellipsis, so that a single element is a view as well.
    return base, base[key if Ellipsis in key else (*key, ...)]


def bytes_of(values: np.ndarray) -> tuple[int, int]:
    """First and last byte that NumPy says an array touches."""
    return np.lib.array_utils.byte_bounds(values)


@given(views())
def test_sizes_are_those_of_numpy(pair):
    base, view = pair
    ref = reference(view, base)
    assert (ref.ndim, ref.size, ref.nbytes) == (view.ndim, view.size, view.nbytes)


@given(views(), st.data())
def test_the_extent_of_a_box_is_the_span_of_its_bytes(pair, data):
    base, view = pair
    ref = reference(view, base)
    assert ref.extent() == ref.extent(Box.of_shape(view.shape))
    box = data.draw(boxes(view.shape))
    part = view[(*box.slices, ...)]
    first, last = ref.extent(box)
    if part.size == 0:
        assert (first, last) == (ref.offset, ref.offset)
    else:
        start = base.__array_interface__["data"][0]
        low, high = bytes_of(part)
        assert (first, last) == (low - start, high - start)
        assert 0 <= first < last <= base.nbytes


def test_identity_is_that_of_the_file_and_not_of_its_name():
    a = virtual((3,), path="/data/a.npy")
    b = virtual((3,), path="/data/link-to-a.npy")
    assert a.identity == b.identity == (1, 3)


@pytest.mark.parametrize("shape", [(3,), (10**6, 10**6), (10**3,) * 4])
def test_a_reference_weighs_the_same_whatever_the_array(shape):
    ref = virtual(shape, "f8", path="/data/" + "x" * 100)
    packed = pickle.dumps(ref, protocol=5)
    assert len(packed) < 1000
    assert pickle.loads(packed) == ref


def test_a_reference_cannot_be_changed():
    ref = virtual((3,))
    with pytest.raises(AttributeError):
        ref.offset = 8
