"""The operations: their identities are neutral, and what counts as exact is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from strategies import DTYPES

from hyperslab_workers.reduction import OPERATIONS, identity, is_exact

NUMBERS = [*DTYPES, np.dtype("i2"), np.dtype("u1"), np.dtype("i8")]
PAIRS = [
    (op, dtype)
    for op, dtype in itertools.product(OPERATIONS, NUMBERS)
    if not (dtype.kind == "c" and op in ("minimum", "maximum"))
]


def test_operations_are_numpys_own():
    assert {name: ufunc.__name__ for name, ufunc in OPERATIONS.items()} == {
        name: name for name in OPERATIONS
    }


@given(st.sampled_from(PAIRS), st.data())
def test_the_identity_leaves_every_value_as_it_is(pair, data):
    op, dtype = pair
    values = data.draw(npst.arrays(dtype, 3))
    if op == "multiply" and dtype.kind == "c":
        # (inf + 0j) * (1 + 0j) has a NaN in it: so does NumPy's product of anything.
        values[~np.isfinite(values)] = 0
    neutral = np.full(3, identity(op, dtype), dtype)
    combined = values.copy()
    OPERATIONS[op](combined, neutral, out=combined)
    OPERATIONS[op](neutral, values, out=neutral)
    # The logical operations keep the truth of a value, not the value.
    expected = values.astype(bool).astype(dtype) if op.startswith("logical") else values
    np.testing.assert_array_equal(combined, expected)
    np.testing.assert_array_equal(neutral, expected)


@given(
    st.sampled_from([d for d in NUMBERS if is_exact(d)]), st.sampled_from([*OPERATIONS]), st.data()
)
def test_exact_types_give_the_same_bits_in_any_order(dtype, op, data):
    values = data.draw(npst.arrays(dtype, 3))
    ufunc = OPERATIONS[op]

    def fold(order):
        total = np.full((), identity(op, dtype), dtype)
        for index in order:
            ufunc(total, values[index], out=total)
        return total.tobytes()

    assert len({fold(order) for order in itertools.permutations(range(3))}) == 1


def test_floating_point_is_not_exact():
    a, b, c = np.float32(1e8), np.float32(-1e8), np.float32(1)
    assert (a + b) + c != a + (b + c)
    assert not any(is_exact(np.dtype(code)) for code in ("f4", "f8", "c8", "c16"))


@pytest.mark.parametrize(
    ("op", "dtype", "reason"),
    [
        ("minimum", "c8", "complex numbers have no order"),
        ("maximum", "c16", "complex numbers have no order"),
        ("add", "M8[s]", "add has no identity for datetime64"),
        ("add", "S3", "add has no identity for"),
        ("minimum", [("x", "f4")], "minimum has no identity for"),
    ],
)
def test_what_has_no_identity_is_refused(op, dtype, reason):
    with pytest.raises(TypeError, match=reason):
        identity(op, np.dtype(dtype))
