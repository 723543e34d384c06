"""The partition: alignment against NumPy's broadcasting, region shapes, batches."""

from __future__ import annotations

import math
import mmap
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import access, halos, orders, regions, shapes, virtual

from hyperslab.errors import PlanError
from hyperslab.planning.partition import (
    BUFFERED_TARGET,
    LEAF_TARGET,
    TASK_TARGET,
    TOUCHED_TARGET,
    WORTH_MERGING,
    align,
    checked_region,
    choose_batch,
    choose_leaf,
    choose_region,
    fixed_buffers,
    region_cost,
    representatives,
    split_axes,
)
from hyperslab_workers.access import Placement, Privilege
from hyperslab_workers.box import Grid


@given(st.data())
def test_alignment_is_numpys_broadcasting(data):
    domain = data.draw(shapes())
    shape = data.draw(shapes(max_dims=len(domain)) | st.just(domain) | st.just(domain[1:]))
    shape = tuple(data.draw(st.sampled_from([n, 1])) for n in shape)
    try:
        fits = np.broadcast_shapes(shape, domain) == domain
    except ValueError:
        fits = False
    if not fits:
        with pytest.raises(PlanError, match="does not line up"):
            align(shape, domain, None, "a")
        return
    axes = align(shape, domain, None, "a")
    # A region's part of the array, stretched, is the region's part of the stretched array.
    values = np.arange(math.prod(shape)).reshape(shape)
    stretched = np.broadcast_to(values, domain)
    grid = Grid(domain, data.draw(regions(domain)))
    a = access(virtual(shape), axes=axes)
    for region in grid:
        part = values[a.box(region).slices]
        np.testing.assert_array_equal(np.broadcast_to(part, region.shape), stretched[region.slices])


def test_leading_axes_that_the_domain_lacks_are_shown_whole():
    assert align((5, 3, 4), (3, 4), None, "a") == (None, 0, 1)


@given(st.data())
def test_named_axes_are_followed(data):
    domain = data.draw(shapes(min_dims=1))
    named = data.draw(st.permutations(range(len(domain))))[: data.draw(st.integers(0, 4))]
    given_axes = tuple(axis - data.draw(st.sampled_from([0, len(domain)])) for axis in named)
    shape = tuple(domain[axis] for axis in named)
    assert align(shape, domain, given_axes, "a") == tuple(named)


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((3,), None, ["argument t", "(3,)", "(4, 5)", "length 3", "length 5", "axes=", "over="]),
        ((5, 4), None, ["(5, 4)", "length 5", "length 4", "whole=True"]),
        ((4,), (2,), ["axes=(2,)", "axis 2", "2 axes", "None"]),
        ((4,), (-3,), ["axes=(-3,)", "axis -3", "2 axes"]),
        ((4, 4), (0, -2), ["twice", "None"]),
        ((3,), (0,), ["length 3", "length 4", "axis 0"]),
    ],
)
def test_what_does_not_line_up_is_refused_with_a_way_out(shape, axes, words):
    with pytest.raises(PlanError) as caught:
        align(shape, (4, 5), axes, "t")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_axis_that_a_written_array_lacks_stays_whole():
    domain = (4, 5, 6)
    written = access(virtual((5, 6)), Privilege.WRITE, (1, 2))
    updated = access(virtual((4, 6)), Privilege.UPDATE, (0, 2))
    seen = access(virtual((5,)), axes=(1,))
    summed = access(virtual((3,)), Privilege.ACCUMULATE, (None,))
    assert split_axes(domain, [seen, summed]) == {0, 1, 2}
    assert split_axes(domain, [seen, written]) == {1, 2}
    assert split_axes(domain, [written, updated]) == {2}


@st.composite
def jobs(draw):
    """A large domain with arrays that follow it in various ways."""
    domain = tuple(draw(st.lists(st.integers(1, 3000), min_size=1, max_size=4)))
    assume(math.prod(domain) < 10**12)
    accesses = []
    for _ in range(draw(st.integers(1, 3))):
        axes = draw(st.permutations(range(len(domain))))
        axes = tuple(axes[: draw(st.integers(1, len(axes)))])
        accesses.append(
            access(
                virtual(
                    tuple(domain[axis] for axis in axes),
                    draw(st.sampled_from(["u1", "f4", "c16"])),
                    draw(orders),
                ),
                draw(st.sampled_from([Privilege.READ, Privilege.WRITE, Privilege.UPDATE])),
                axes,
                halo=draw(st.just(((0, 0),) * len(axes)) | halos(len(axes))),
                boundary=draw(st.sampled_from(["clip", "wrap"])),
            )
        )
    return domain, accesses


@given(jobs())
def test_a_region_is_within_the_domain_and_splits_only_what_may_be_split(job):
    domain, accesses = job
    splittable = split_axes(domain, accesses)
    region = choose_region(domain, accesses, splittable, accesses[0])
    assert all(1 <= r <= n for r, n in zip(region, domain, strict=True))
    assert all(region[axis] == domain[axis] for axis in set(range(len(domain))) - splittable)


@given(jobs())
def test_a_region_meets_the_targets_unless_a_single_step_is_too_much(job):
    domain, accesses = job
    splittable = split_axes(domain, accesses)
    region = choose_region(domain, accesses, splittable, accesses[0])
    cost = region_cost(accesses, region)
    if cost.touched > TOUCHED_TARGET or cost.buffered > BUFFERED_TARGET:
        # Then no axis could be made any shorter: all but the last one filled are at 1.
        shortened = [
            tuple(1 if i == axis else n for i, n in enumerate(region)) for axis in splittable
        ]
        assert all(
            shape == region
            or region_cost(accesses, shape).touched < cost.touched
            or region_cost(accesses, shape).buffered <= cost.buffered
            for shape in shortened
        )
        smallest = tuple(1 if i in splittable else n for i, n in enumerate(domain))
        least = region_cost(accesses, smallest)
        assert region == smallest or (
            least.touched > TOUCHED_TARGET or least.buffered > BUFFERED_TARGET
        )


@pytest.mark.parametrize(
    ("order", "whole_axes"), [("C", (1, 2)), ("F", (0, 1))], ids=["C order", "Fortran order"]
)
def test_regions_are_long_runs_in_the_file(order, whole_axes):
    domain = (2048, 361, 2048)
    a = access(virtual(domain, "u1", order))
    region = choose_region(domain, [a], frozenset({0, 1, 2}), a)
    assert all(region[axis] == domain[axis] for axis in whole_axes)
    (split,) = set(range(3)) - set(whole_axes)
    assert 1 < region[split] < domain[split]


def test_large_regions_begin_on_a_page():
    domain = (10**9,)
    a = access(virtual(domain, "f4"), Privilege.WRITE)
    (length,) = choose_region(domain, [a], frozenset({0}), a)
    assert length * 4 % mmap.PAGESIZE == 0
    assert BUFFERED_TARGET // 2 < length * 4 <= BUFFERED_TARGET


def test_a_domain_that_no_array_follows_is_split_all_the_same():
    """Work can be large where the arrays that say so are shown whole, or not at all."""
    assert choose_region((640, 7), [], frozenset({0, 1}), None) == (10, 7)
    assert choose_region((10, 0, 70), [], frozenset({0, 1, 2}), None) == (1, 1, 12)
    assert choose_region((10, 70), [], frozenset({1}), None) == (10, 2)
    grid = Grid((640, 7), (10, 7))
    assert choose_batch(grid, [], workers=8) == 2
    assert choose_leaf(grid, [], private=100) == 1
    assert choose_leaf(Grid((640,), (1,)), [], private=100) == 10


def test_a_small_job_has_work_for_several_workers():
    domain = (300, 36, 72)
    a = access(virtual(domain, "f4"))
    region = choose_region(domain, [a], frozenset({0, 1, 2}), a)
    assert len(Grid(domain, region)) == 3


@given(st.data())
def test_a_region_of_the_users_is_taken_as_it_is(data):
    domain = data.draw(shapes())
    wanted = data.draw(regions(domain))
    checked = checked_region(wanted, domain, frozenset(range(len(domain))))
    assert checked == tuple(min(r, max(n, 1)) for r, n in zip(wanted, domain, strict=True))
    Grid(domain, checked)


@pytest.mark.parametrize(
    ("wanted", "checked"),
    [
        ((None, 5), (40, 5)),
        ((-1, 5), (40, 5)),
        ([8, 100], (8, 50)),
        (np.array([8, 5]), (8, 5)),
        ((np.int64(8), 5), (8, 5)),
    ],
)
def test_a_region_may_be_given_in_several_ways(wanted, checked):
    assert checked_region(wanted, (40, 50), frozenset({0, 1})) == checked


@pytest.mark.parametrize("wanted", [8, np.int64(8), (8,)])
def test_one_number_serves_for_one_axis(wanted):
    assert checked_region(wanted, (40,), frozenset({0})) == (8,)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (8, ["region=8", "1 entries", "2 axes", "None"]),
        ((8, 8, 8), ["3 entries", "2 axes"]),
        ((8, 0), ["(8, 0)", "at least 1", "None"]),
        ((8, -2), ["(8, -2)", "at least 1"]),
        ((8, 2.5), ["whole numbers"]),
        ((8, "2"), ["whole numbers"]),
        ((8, True), ["whole numbers"]),
        ((8, (2,)), ["whole numbers"]),
        (2.5, ["region=2.5", "2 axes"]),
        ((8, 8), ["splits domain axis 1", "None for axis 1"]),
    ],
)
def test_a_region_that_cannot_be_is_refused_with_a_way_out(wanted, words):
    with pytest.raises(PlanError) as caught:
        checked_region(wanted, (40, 50), frozenset({0}))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_way_out_works():
    with pytest.raises(PlanError) as caught:
        checked_region((8, 8), (40, 50), frozenset({0}))
    axis = int(re.search(r"None for axis (\d)", str(caught.value))[1])
    repaired = [None if i == axis else 8 for i in range(2)]
    assert checked_region(repaired, (40, 50), frozenset({0})) == (8, 50)


@given(jobs(), st.integers(1, 300), st.integers(0, 3), st.integers(0, 2**30))
def test_tasks_are_whole_leaves_within_the_grid_and_their_boxes_within_a_message(
    job, workers, footprints, private
):
    domain, accesses = job
    grid = Grid(domain, choose_region(domain, accesses, split_axes(domain, accesses), accesses[0]))
    leaf = choose_leaf(grid, accesses, footprints=footprints, private=private)
    batch = choose_batch(grid, accesses, workers=workers, leaf=leaf, footprints=footprints)
    assert 1 <= leaf <= batch <= max(len(grid), 1)
    assert batch % leaf == 0
    assert batch == 1 or batch * footprints <= 16
    touched = region_cost(accesses, grid.region).touched
    assert leaf == 1 or leaf * touched <= max(LEAF_TARGET, WORTH_MERGING * private)
    assert batch == leaf or batch * touched <= TASK_TARGET


def test_small_regions_are_batched_and_large_ones_are_not():
    def batch(shape, region, workers=2):
        return choose_batch(Grid(shape, region), [access(virtual(shape))], workers=workers)

    assert batch((10**6,), (1000,), workers=100) == 3
    assert batch((4,), (1,)) == 1  # few bytes can be much work
    assert batch((10**6,), (1000,)) == 125  # four for each worker
    assert batch((10**10,), (32 * 2**20,)) == 1
    assert batch((10**10,), (2**18,)) == 32
    assert batch((0,), (1,)) == 1


def test_leaves_are_geometry_and_cost_more_than_their_merge():
    def leaf(shape, region, private=1):
        return choose_leaf(Grid(shape, region), [access(virtual(shape))], private=private)

    assert leaf((10**6,), (1000,)) == 65  # 256 KiB of 4 kB
    assert leaf((10**10,), (8 * 2**20,)) == 1
    assert leaf((10**10,), (2**18,)) == 32
    # As much as pays for 64 MiB to be merged, but sixteen of them at least.
    assert leaf((10**10,), (2**18,), private=2**26) == 10**10 * 4 // 16 // 2**20
    assert leaf((10**10,), (2**18,), private=2**20) == 64
    assert leaf((10**10,), (2**18,), private=0) == 1
    assert leaf((0,), (1,)) == 1


def test_what_is_private_does_not_move_the_leaves_by_its_placement():
    grid = Grid((10**6,), (1000,))
    t = access(virtual((10**6,)))

    def leaf(placement):
        counts = access(
            virtual((1000,), "i8"), Privilege.ACCUMULATE, (None,), op="add", placement=placement
        )
        return choose_leaf(grid, [t, counts], private=counts.array.nbytes)

    assert leaf(Placement.PRIVATE) == leaf(Placement.DIRECT)


def test_cost_counts_halos_and_buffers():
    halo = ((1, 1), (2, 0))
    clipped = access(virtual((100, 100), "f8"), halo=halo)
    padded = access(virtual((100, 100), "f8"), halo=halo, boundary="wrap")
    written = access(virtual((100, 100), "f4"), Privilege.WRITE)
    seen = 12 * 22 * 8
    for accesses, touched, buffered in [
        ([clipped], seen, 0),
        ([padded], seen, seen),
        ([clipped, padded, written], 2 * seen + 800, seen + 800),
    ]:
        cost = region_cost(accesses, (10, 20))
        assert (cost.touched, cost.buffered) == (touched, buffered)


def test_buffers_of_arrays_that_follow_no_axis_are_counted_for_every_region():
    whole = access(virtual((100, 100), "f8"), Privilege.UPDATE, (None, None))
    assert region_cost([whole], (10,)).buffered == 0
    assert fixed_buffers([whole]) == 80_000
    padded = access(virtual((10,), "f8"), axes=(None,), halo=((1, 2),), boundary="wrap")
    assert fixed_buffers([whole, padded]) == 80_000 + 13 * 8
    assert fixed_buffers([access(virtual((10,)), axes=(None,))]) == 0


@given(st.data())
def test_representatives_are_of_every_shape_there_is(data):
    shape = data.draw(shapes(min_side=1))
    grid = Grid(shape, data.draw(regions(shape)))
    chosen = representatives(grid)
    assert len(set(chosen)) == len(chosen) <= 3 ** len(shape)
    assert set(chosen) <= set(grid)
    assert {box.shape for box in chosen} == {box.shape for box in grid}
