"""Interference against brute force: every element every region touches, marked one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import access, halos, keys, reference, shapes, virtual

from hyperslab.errors import PlanError
from hyperslab.planning.interference import check_interference, overlap
from hyperslab.planning.partition import split_axes
from hyperslab_workers.access import Access, Placement, Privilege
from hyperslab_workers.box import Box, Grid

READ, WRITE, UPDATE, ACCUMULATE = Privilege

ELEMENTS = np.arange(600, dtype="i8")
"""The file: each element holds its own number, so that a view shows which ones it touches."""


@given(st.data())
def test_overlap_is_numpys_shares_memory(data):
    base = ELEMENTS[:360].reshape(data.draw(st.sampled_from([(360,), (18, 20), (6, 6, 10)])))
    views = []
    for _ in range(2):
        of_width = base.view(data.draw(st.sampled_from(["i8", "i4", "u1"])))
        view = of_width[(*data.draw(keys(of_width.shape, keep_axes=True)), ...)]
        views.append(data.draw(st.sampled_from([view, view.T])))
    a, b = (reference(v, base) for v in views)
    assert overlap(a, b) == overlap(b, a) == np.shares_memory(*views)


def test_two_files_never_overlap():
    a = reference(ELEMENTS)
    assert overlap(a, a)
    assert not overlap(a, reference(ELEMENTS, inode=99))
    assert not overlap(a, reference(ELEMENTS, device=99))


def test_two_names_of_one_file_do():
    assert overlap(reference(ELEMENTS, path="/a"), reference(ELEMENTS, path="/link-to-a"))


def test_fields_of_one_record_do_not_overlap():
    records = np.zeros(50, [("x", "f4"), ("y", "f8"), ("z", "u1")])
    x, y, z = (reference(records[name], records) for name in "xyz")
    assert not overlap(x, y)
    assert not overlap(y, z)
    assert overlap(y, reference(records))


def test_arrays_far_into_a_huge_file_are_told_apart():
    shape = (10**6, 10**6)
    even = virtual(shape, "f8", strides=(16 * 10**6, 16))
    odd = virtual(shape, "f8", strides=(16 * 10**6, 16), offset=8)
    assert not overlap(even, odd)
    assert overlap(even, even)


def test_what_is_too_hard_to_decide_counts_as_overlapping(monkeypatch):
    def too_hard(*_, **__):
        raise np.exceptions.TooHardError

    monkeypatch.setattr(np, "shares_memory", too_hard)
    even, odd = (reference(ELEMENTS[start::2], ELEMENTS) for start in (0, 1))
    assert overlap(even, odd)


def touched(a: Access, region: Box) -> set[int]:
    """The elements of the file that a region's kernel sees or changes through one access."""
    box, ref = a.box(region), a.array
    values = np.lib.stride_tricks.as_strided(
        ELEMENTS[ref.offset // 8 :], ref.shape, ref.strides, writeable=False
    )
    if a.privilege is ACCUMULATE:
        return set(values.ravel().tolist())
    axes = []
    for lo, hi, n in zip(box.lo, box.hi, ref.shape, strict=True):
        positions = np.arange(lo, hi)
        if a.boundary == "wrap":
            positions %= n
        axes.append(positions[(positions >= 0) & (positions < n)])
    return set(values[np.ix_(*axes)].ravel().tolist()) if axes else {int(values)}


def conflict(accesses: list[Access], grid: Grid) -> bool:
    """Whether what one region changes meets what another one touches, undeclared."""
    marks = [[touched(a, region) for a in accesses] for region in grid]
    for one, other in itertools.permutations(range(len(grid)), 2):
        for i, a in enumerate(accesses):
            for j in range(len(accesses)):
                declared = i == j and a.privilege is ACCUMULATE
                if a.privilege is READ or declared:
                    continue
                if marks[one][i] & marks[other][j]:
                    return True
    return False


@st.composite
def views(draw, domain):
    """A view of the file that follows the domain: strided, reversed, turned, or lacking an axis."""
    ndim = len(domain)
    axes = draw(st.permutations(range(ndim)) | st.just(tuple(range(ndim))))
    axes = tuple(axes[: draw(st.sampled_from([ndim, ndim, ndim, max(ndim - 1, 0)]))])
    shape = tuple(domain[axis] for axis in axes)
    # Room for a step of two and a start of two on each axis.
    wide = tuple(2 * n + 2 for n in shape)
    base = ELEMENTS[: int(np.prod(wide, dtype=int))].reshape(wide)
    key = []
    for n in shape:
        start, step = draw(st.integers(0, 2)), draw(st.sampled_from([1, 1, 1, 2, -1]))
        where = slice(start, start + n * step, step)
        if step < 0:
            where = slice(start + n - 1, start - 1 if start else None, -1)
        key.append(where)
    view = base[(*key, ...)]
    assert view.shape == shape
    return reference(view, ELEMENTS), axes


@st.composite
def pairs(draw):
    """Two or three accesses to one file, and a grid that splits what may be split."""
    domain = draw(shapes(min_dims=1, max_dims=2, min_side=1))
    ref, axes = draw(views(domain))
    accesses = []
    for number in range(draw(st.integers(1, 3))):
        if draw(st.booleans()) and number:
            ref, axes = draw(views(domain))
        privilege = draw(st.sampled_from([READ, READ, WRITE, UPDATE, ACCUMULATE]))
        changes = {"name": "abc"[number]}
        mine = axes
        if privilege is READ and draw(st.integers(0, 3)) == 0:
            changes |= {
                "halo": draw(halos(ref.ndim, 2)),
                "boundary": draw(st.sampled_from(["clip", "wrap", 0])),
            }
        elif privilege is READ and draw(st.integers(0, 4)) == 0:
            mine = (None,) * ref.ndim
        elif privilege is ACCUMULATE:
            mine = (None,) * ref.ndim
            changes |= {"op": "add", "placement": Placement.PRIVATE}
        accesses.append(access(ref, privilege, mine, **changes))
    splittable = split_axes(domain, accesses)
    region = tuple(
        draw(st.integers(1, n)) if axis in splittable else n for axis, n in enumerate(domain)
    )
    return accesses, splittable, Grid(domain, region)


@settings(max_examples=300)
@given(pairs())
def test_whatever_brute_force_finds_is_refused(case):
    accesses, splittable, grid = case
    interferes = conflict(accesses, grid)
    try:
        check_interference(accesses, splittable, grid.shape)
        refused = False
    except PlanError as error:
        refused = True
        assert "/data/t2m.npy" in str(error)
    event(f"interferes: {interferes}, refused: {refused}")
    assert refused or not interferes


def accepted(*accesses: Access, domain: tuple[int, ...] = (20, 30)) -> None:
    check_interference(accesses, split_axes(domain, accesses), domain)


FIELD = ELEMENTS.reshape(20, 30)


@pytest.mark.parametrize("writer", [WRITE, UPDATE])
def test_the_same_view_read_and_changed_region_by_region_is_fine(writer):
    ref = reference(FIELD)
    accepted(access(ref), access(ref, writer))
    accepted(access(ref, writer), access(ref), access(ref))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.s_[:10], np.s_[10:]),
        (np.s_[:, ::2], np.s_[:, 1::2]),
        (np.s_[1::2], np.s_[::2]),
        (np.s_[::2, ::3], np.s_[1::2]),
    ],
)
@pytest.mark.parametrize("halo", [0, 2])
def test_views_that_share_no_element_are_fine(first, second, halo):
    a, b = reference(FIELD[first], ELEMENTS), reference(FIELD[second], ELEMENTS)
    widths = ((halo, halo),) * 2
    accepted(access(a, halo=widths, boundary="wrap"), access(b, WRITE), domain=b.shape)
    accepted(access(a, WRITE), access(b, UPDATE), domain=a.shape)


def test_two_readers_of_anything_are_fine():
    ref = reference(FIELD)
    halo = ((3, 3), (3, 3))
    accepted(access(ref, halo=halo), access(reference(FIELD[::-1], ELEMENTS)))


def test_one_file_summed_into_another_is_fine():
    total = access(virtual((5,)), ACCUMULATE, (None,), op="add")
    accepted(access(reference(FIELD)), total)


REFUSED = {
    "two writers": (
        [access(reference(FIELD), WRITE, name="new"), access(reference(FIELD), UPDATE, name="c")],
        ["write(new)", "update(c)", "same elements", "its own file"],
    ),
    "one array accumulated twice": (
        [
            access(reference(FIELD), ACCUMULATE, (None, None), name="sums", op="add"),
            access(reference(FIELD), ACCUMULATE, (None, None), name="least", op="minimum"),
        ],
        ["accumulate(sums)", "accumulate(least)", "its own file"],
    ),
    "read while it is accumulated": (
        [
            access(reference(FIELD), name="t"),
            access(reference(FIELD), ACCUMULATE, (None, None), name="sums", op="add"),
        ],
        ["read(t)", "accumulate(sums)", "copy", "another file"],
    ),
    "halo of what is updated": (
        [
            access(reference(FIELD), name="old", halo=((0, 0), (1, 2))),
            access(reference(FIELD), UPDATE, name="new"),
        ],
        ["read(old)", "halo (0, (1, 2))", "update(new)", "second file", "swap"],
    ),
    "shifted by one": (
        [
            access(reference(FIELD[1:], ELEMENTS), name="next"),
            access(reference(FIELD[:-1], ELEMENTS), WRITE, name="c"),
        ],
        ["read(next)", "write(c)", "without lining up", "copy", "second file"],
    ),
    "turned": (
        [
            access(reference(FIELD[:, :20].T, ELEMENTS), name="turned"),
            access(reference(FIELD[:, :20], ELEMENTS), UPDATE, name="c"),
        ],
        ["read(turned)", "update(c)", "without lining up"],
    ),
    "shown whole": (
        [
            access(reference(FIELD), axes=(None, None), name="all"),
            access(reference(FIELD), WRITE, name="c"),
        ],
        ["read(all)", "write(c)", "without lining up"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_both_accesses_the_file_and_the_way_out(case):
    accesses, words = REFUSED[case]
    for order in (accesses, accesses[::-1]):
        with pytest.raises(PlanError) as caught:
            accepted(*order, domain=accesses[-1].array.shape)
        said = str(caught.value)
        assert all(word in said for word in [*words, "'/data/t2m.npy'"]), said
