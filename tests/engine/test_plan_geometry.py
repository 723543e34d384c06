"""Plans: what depends on geometry alone, what on memory, and that remedies work when followed."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import array, bind_all, gives, plan, said
from strategies import boundaries, halos, orders, regions, shapes

import hyperslab as hs
from hyperslab.planning.plan import Memory
from hyperslab.planning.planner import PRIVATE_LIMIT
from hyperslab.planning.projection import slots_needed
from hyperslab_workers.access import Placement

MB = 10**6


# Same geometry for any number of workers and any memory.


def jobs():
    """Arguments of jobs of many kinds, made anew for each plan from the same references."""
    t = array((2000, 361, 720))
    clim = array((361, 720))
    out = array((2000, 361, 720))
    fortran = array((720, 361, 2000), order="F")
    counts = array((1000,), "i8")
    many = array((2000, 1500), "i8")
    many_f = array((2000, 1500), "i8", order="F")
    sums = array((1000, 1000), "f8")
    image = array((361, 720), "f8")
    narrow = array((361, 720))
    wide = array((20, 10**8))
    wide_out = array((20, 10**8))
    return {
        "anomaly": lambda: (t, clim, hs.write(out)),
        "in place": lambda: (hs.update(t), 1.8),
        "stencil": lambda: (hs.read(t, halo=(0, 1, 1), boundary="wrap"), hs.write(out)),
        "Fortran": lambda: (hs.read(fortran, halo=2, boundary=0), hs.update(fortran.T[:1, :1, :1])),
        "mean over time": lambda: (t, hs.write(narrow, axes=(1, 2))),
        "rows": lambda: (hs.read(wide, axes=(0, 1)), hs.write(wide_out)),
        "histogram": lambda: (t, hs.accumulate(counts), 3.0),
        "large histogram": lambda: (t, hs.accumulate(many)),
        "large histogram in Fortran order": lambda: (t, hs.accumulate(many_f)),
        "sum beside a large histogram": lambda: (t, hs.accumulate(many), hs.accumulate(sums)),
        "footprint": lambda: (t, hs.accumulate(image, footprint=lambda r: r[1:])),
    }


OVER = {"mean over time": (2000, 361, 720)}


@pytest.mark.parametrize("name", jobs())
def test_the_geometry_depends_on_neither_workers_nor_memory(name):
    arguments = jobs()[name]
    shape = functools.partial(plan, *_without_overlap(arguments), over=OVER.get(name))
    reference = shape(workers=1, memory="1TB")
    tight = 0
    for workers in (1, 2, 8):
        for memory in (None, "1GB", "40MB", "3MB", "100kB"):
            try:
                made = shape(workers=workers, memory=memory)
            except hs.PlanError as error:
                tight += 1
                _follow_the_remedy(str(error), shape, workers, memory)
                continue
            assert made.grid == reference.grid
            assert made.leaf == reference.leaf
            assert made.batch % made.leaf == 0
            assert made.types == reference.types
            assert made.buffer_orders == reference.buffer_orders
            assert 1 <= made.memory.at_once <= workers
            if memory is not None:
                assert made.memory.peak <= made.budget.limit
    assert tight < 15, "some budget is enough"


def _without_overlap(arguments):
    """The Fortran job updates a corner of what it reads: give it a file of its own."""
    made = list(arguments())
    for position, value in enumerate(made[1:], 1):
        if getattr(value, "halo", None) is not None and value.array.shape == (1, 1, 1):
            made[position] = hs.write(array((720, 361, 2000), order="F"))
    return made


def _follow_the_remedy(message, shape, workers, memory):
    found = re.search(r"region=\(([\d, ]+)\) would fit", message)
    if found is None:
        assert "raise memory=" in message
        needed = re.search(r"needs ([\d.]+ \w+) of private memory", message)[1]
        # The figure is rounded to three places: a little more is surely enough.
        number, unit = needed.split()
        assert shape(workers=workers, memory=f"{float(number) * 1.01:.4g}{unit}")
        return
    region = tuple(int(n) for n in re.findall(r"\d+", found[1]))
    repaired = shape(workers=workers, memory=memory, region=region)
    assert repaired.memory.peak <= repaired.budget.limit
    assert repaired.memory.at_once >= 1


def test_a_refusal_for_memory_gives_need_budget_and_remedy():
    out = array((10**4, 10**6))
    text = said(hs.write(out), memory="1MB", region=(1, None))
    gives(text, "needs 4 MB", "budget is 1 MB (memory=1 MB)", "region=(1, 250000) would fit")
    assert plan(hs.write(out), memory="1MB", region=(1, 250000)).memory.at_once == 1


def test_the_region_that_would_fit_leaves_whole_what_must_stay_whole():
    t, out = array((1000, 300, 10**6)), array((300, 10**6))
    # The mean over time: axis 0 may not be split, and shall not be in the remedy.
    call = functools.partial(
        plan, t, hs.write(out, axes=(1, 2)), over=(1000, 300, 10**6), memory="100kB"
    )
    with pytest.raises(hs.PlanError, match=r"region=\(1000, \d+, \d+\) would fit") as caught:
        call(region=(None, 1, None))
    named = re.search(r"region=\((.*?)\)", str(caught.value))[1]
    region = tuple(int(n) for n in named.split(","))
    assert call(region=region).memory.at_once >= 1


def test_when_nothing_helps_but_memory_it_says_so():
    out = array((5, 10**6))
    call = functools.partial(plan, hs.write(out, axes=(None, None)), over=(5,), memory="1MB")
    with pytest.raises(hs.PlanError, match="not even the smallest regions") as caught:
        call()
    assert "raise memory=" in str(caught.value)


@pytest.fixture
def scratch_in_memory(monkeypatch):
    monkeypatch.setattr("hyperslab.planning.planner.is_memory", lambda directory: True)


def test_private_copies_that_do_not_fit_are_refused_with_a_way_out(scratch_in_memory):
    sums = array((10**6,), "f8")
    # Contributions: two under way, one a level of the tree, and those that are being merged.
    (tasks, least) = plan(array((10**7,)), hs.accumulate(sums), workers=1).tasks, 8 * MB
    need = least * (slots_needed(tasks, 1) + 1)
    text = said(array((10**7,)), hs.accumulate(sums), memory=need - 1)
    gives(text, f"needs {need / MB:.3g} MB", "private copies", "8 MB each", "footprint=", "raise")
    assert plan(array((10**7,)), hs.accumulate(sums), memory=need).memory.peak <= need
    small = hs.accumulate(sums, footprint=lambda r: np.s_[:1000])
    assert plan(array((10**7,)), small, memory="30MB").memory.at_once == 2


def test_contributions_on_disk_are_no_private_memory():
    sums = array((10**6,), "f8")
    assert plan(array((10**7,)), hs.accumulate(sums), memory="10MB").memory.shared == 0
    said(array((10**7,)), hs.accumulate(sums), memory="7MB")


def test_a_footprint_that_does_not_fit_is_refused_with_a_way_out():
    image = hs.accumulate(array((10**7,), "f8"), footprint=lambda r: r)
    call = functools.partial(plan, array((10**7,)), image, memory="4MB")
    with pytest.raises(hs.PlanError, match="largest footprint takes 80 MB") as caught:
        call(region=(None,))
    gives(str(caught.value), "region=", "raise memory=")
    assert call(region=(10**5,)).memory.at_once == 2


def test_the_projection_is_what_the_buffers_take():
    out = array((100, 1000), "f8")
    made = plan(
        hs.read(array((100, 1000), "f8"), halo=(1, 0), boundary="nearest"),
        hs.write(out),
        hs.accumulate(array((50,), "f4")),
        workers=8,
        region=(10, 1000),
    )
    assert made.memory == Memory(12 * 8000 + 80_000, 200, 8)
    assert made.memory.peak == 8 * made.memory.per_worker + 200


def test_fewer_workers_are_busy_where_memory_is_short():
    made = plan(hs.write(array((100, 10**6))), workers=8, memory="9MB", region=(1, 500_000))
    assert made.memory.at_once == 4
    assert made.memory.peak <= 9 * MB


def test_reading_alone_needs_no_private_memory():
    assert plan(array((100, 10**6)), memory="1").memory == Memory(0, 0, 2)


# Where accumulations gather.


def placement(argument, **options) -> Placement:
    return plan(array((10**6,)), argument, **options).accesses[1].placement


def test_floating_point_gathers_by_size_alone():
    small = array((1000,), "f8")
    large = array((PRIVATE_LIMIT // 8 + 1,), "f8")
    for memory in ("100kB", "1TB"):
        assert placement(hs.accumulate(small), memory=memory) is Placement.PRIVATE
        assert placement(hs.accumulate(large), memory=memory) is Placement.DIRECT


def test_integers_gather_in_private_where_the_budget_allows_it():
    counts = array((1000,), "i8")
    assert placement(hs.accumulate(counts), memory="64kB") is Placement.PRIVATE
    assert placement(hs.accumulate(counts), memory="63kB") is Placement.DIRECT


@pytest.mark.parametrize("op", ["logical_and", "logical_or"])
def test_logical_operations_on_integers_gather_by_size_alone(op):
    # A merge makes every element 0 or 1, a kernel in the file only those that it touches.
    for memory in ("40kB", "1TB"):
        assert placement(hs.accumulate(array((1000,), "i8"), op), memory=memory) is (
            Placement.PRIVATE
        )
    assert placement(hs.accumulate(array((9000,), "b1"), op), memory="40kB") is Placement.DIRECT


def test_a_large_accumulation_at_an_odd_offset_is_refused_with_a_way_out():
    odd = array((PRIVATE_LIMIT // 8 + 1,), "f8", offset=3, path="/data/odd.bin")
    text = said(array((10,)), hs.accumulate(odd))
    gives(text, "argument b", "'/data/odd.bin'", "268 MB", "footprint=", "hs.create")
    inside = hs.accumulate(odd, footprint=lambda r: np.s_[:10])
    assert plan(array((10,)), inside).accesses[1].placement is Placement.MERGE


def test_several_integer_accumulations_share_the_budget():
    parts = [hs.accumulate(array((10**6,), "i8")) for _ in range(2)]
    made = plan(array((10**7,)), *parts, memory="65MB")
    assert {a.placement for a in made.accesses[1:]} == {Placement.DIRECT}


def test_a_footprint_gathers_in_the_region():
    counts = array((1000,), "i8")
    assert placement(hs.accumulate(counts, footprint=lambda r: np.s_[:5])) is Placement.MERGE


@pytest.mark.parametrize(
    ("dtype", "order", "footprint", "ordered"),
    [
        ("f8", "region", True, True),
        ("f8", "any", True, False),
        ("i8", "region", True, False),
        ("f8", "region", False, False),
    ],
)
def test_only_floats_in_a_shared_place_wait_for_their_turn(dtype, order, footprint, ordered):
    into = hs.accumulate(
        array((50,), dtype), order=order, footprint=(lambda r: np.s_[:5]) if footprint else None
    )
    assert plan(array((10,)), into).ordered is ordered


# Types: one signature for all regions.


@st.composite
def real_jobs(draw):
    """Arrays in real files under one domain, viewed and declared in every way."""
    domain = draw(shapes(max_dims=3))
    arguments = []
    for _ in range(draw(st.integers(1, 2))):
        values = np.zeros(tuple(n + 1 for n in domain), draw(st.sampled_from(["f4", "i8"])))
        file = hs.from_array(np.asarray(values, order=draw(orders)))
        view = file[tuple(slice(draw(st.integers(0, 1)), None) for _ in domain)]
        view = view[tuple(slice(0, n) for n in domain)]
        turned = draw(st.booleans())
        axes = tuple(range(len(domain)))
        if turned:
            view, axes = view.T, axes[::-1]
        how = draw(st.sampled_from(["read", "halo", "write", "update", "sum", "footprint"]))
        if how == "read":
            arguments.append(hs.read(view, axes=axes))
        elif how == "halo" and 0 not in domain:
            widths = draw(halos(len(domain)))
            boundary = draw(boundaries.filter(lambda b: b != 0.5))
            arguments.append(hs.read(view, axes=axes, halo=widths, boundary=boundary))
        elif how in ("write", "update"):
            arguments.append(getattr(hs, how)(view, axes=axes))
        elif how == "sum":
            arguments.append(hs.accumulate(view))
        else:
            arguments.append(
                hs.accumulate(view, footprint=lambda r, turned=turned: r[::-1] if turned else r)
            )
    return domain, arguments, draw(regions(domain))


@settings(max_examples=60)
@given(real_jobs())
def test_every_region_is_of_the_type_that_was_compiled(job):
    domain, arguments, region = job
    made = plan(*arguments, over=domain, region=region)
    bindings = bind_all(made)
    for task in made:
        for binding in bindings:
            binding.begin_task()
        for index in range(task.start, task.stop):
            boxes = iter(task.footprints[index - task.start] if task.footprints else ())
            for binding, kind in zip(bindings, made.types, strict=True):
                box = next(boxes, None) if binding.guards_commit else None
                binding.locate(made.grid.box(index), box)
                values = binding.prepare(made.grid.box(index))
                assert values.dtype == kind.dtype
                assert values.ndim == kind.ndim
                assert values.flags.writeable == kind.mutable
                assert values.flags.aligned
                assert kind.layout != "C" or values.flags.c_contiguous
                assert kind.layout != "F" or values.flags.f_contiguous
    for declared in arguments:
        declared.array.close()


@pytest.mark.parametrize(
    ("make", "region", "layout"),
    [
        (lambda: array((50, 40)), (5, None), "C"),
        (lambda: array((50, 40)), (5, 10), "A"),
        (lambda: array((50, 40)), (1, 10), "C"),
        (lambda: array((50, 40), order="F"), (None, 5), "F"),
        (lambda: array((50, 40), order="F"), (5, None), "A"),
        (lambda: array((50, 40))[:, ::2], (5, None), "A"),
        (lambda: array((50, 40))[::-1], (5, None), "A"),
        (lambda: hs.read(array((50, 40)), halo=1), (5, None), "C"),
        (lambda: hs.read(array((50, 40)), halo=1), (5, 10), "A"),
        (lambda: hs.read(array((50, 40)), halo=1, boundary="wrap"), (5, None), "C"),
        (lambda: hs.read(array((50, 40)), halo=1, boundary="wrap"), (5, 10), "A"),
        (lambda: hs.write(array((50, 40))[:, ::2]), (5, 10), "C"),
        (lambda: hs.update(array((50, 40), order="F")), (5, 10), "F"),
    ],
)
def test_layouts_are_contiguous_where_all_regions_are(make, region, layout):
    assert plan(make(), region=region).types[0].layout == layout
