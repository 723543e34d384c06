"""Plans: what is split and how, what depends on what, every refusal, and that remedies work."""

from __future__ import annotations

import functools
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import boundaries, halos, orders, regions, shapes, virtual

import hyperslab as hs
from hyperslab.memory import Budget
from hyperslab.plan import Memory, Plan
from hyperslab.planner import PRIVATE_LIMIT, SENT_LIMIT, build
from hyperslab.settings import resolve
from hyperslab_workers.access import Access, Placement
from hyperslab_workers.bindings import bind
from hyperslab_workers.box import Grid
from hyperslab_workers.kernel import ArrayType, ScalarType, TupleType
from hyperslab_workers.task import Task, Value

MB, TB = 10**6, 10**12


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


# The domain.


def test_the_domain_is_the_first_array_written_else_the_first_read():
    small, large, out = array((5,)), array((4, 5)), array((3, 4, 5))
    assert plan(small, large).grid.shape == (5,)
    assert plan(large, small).grid.shape == (4, 5)
    assert plan(small, large, hs.write(out)).grid.shape == (3, 4, 5)
    assert plan(small, hs.update(out)).grid.shape == (3, 4, 5)
    assert plan(hs.read(small, whole=True), large).grid.shape == (4, 5)


@pytest.mark.parametrize(
    ("over", "domain"),
    [((7, 5), (7, 5)), ([7, 5], (7, 5)), (np.zeros((7, 5)), (7, 5)), (np.array([7, 5]), (2,)),
     (5, (5,)), (np.int64(5), (5,))],
)  # fmt: skip
def test_over_names_another_domain(over, domain):
    summed = hs.accumulate(array((3,)))
    assert plan(summed, over=over).grid.shape == domain


def test_over_takes_an_array_of_that_shape():
    a = array((7, 5))
    assert plan(hs.read(a, whole=True), over=a).grid.shape == (7, 5)
    assert plan(hs.accumulate(array((3,))), over=()).grid.shape == ()


@pytest.mark.parametrize("over", [(-1, 2), 2.5, "ab", (2, 2.5), [[1, 2], [3, 4]], ((1, 2),)])
def test_a_domain_that_is_no_shape_is_refused(over):
    gives(said(array((3,)), over=over), f"over={over!r}", "a shape", "Array")


def test_a_job_that_does_not_say_what_to_split_is_refused():
    gives(said(hs.accumulate(array((3,)))), "what to split", "over=")
    gives(said(hs.read(array((3,)), whole=True), 2.0), "what to split", "over=")


# The arguments.


def test_arguments_of_every_kind():
    made = plan(array((4, 5)), 1.5, hs.ORIGIN)
    assert made.types == (
        ArrayType(np.dtype("f4"), 2, "C", mutable=False),
        ScalarType(np.dtype("f8")),
        TupleType(2),
    )
    assert [type(a).__name__ for a in made.arguments] == ["Access", "Value", "Origin"]
    assert [a.name for a in made.arguments] == ["a", "b", "c"]


def test_defaults_of_the_kernel_are_filled_in():
    assert plan(array((3,)), kernel=with_default).arguments[1] == Value("factor", 2.0)
    assert plan(array((3,)), 5.0, kernel=with_default).arguments[1] == Value("factor", 5.0)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_wrong_number_of_arguments_is_refused_with_their_names(count):
    arguments = [array((3,)) for _ in range(count)]
    text = said(*arguments, kernel=three, error=hs.KernelError)
    gives(text, "kernel three", "3 arguments (a, b, c)", f"given {count}")


def test_what_is_no_kernel_is_refused():
    def plain(a):
        a

    gives(said(array((3,)), kernel=plain), "'plain'", "@hs.kernel")


def test_a_small_array_is_sent_as_a_copy():
    values = np.arange(6.0).reshape(2, 3)
    made = plan(array((3,)), values)
    values[:] = -1
    sent = made.arguments[1].value
    assert sent.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert made.types[1] == ArrayType(np.dtype("f8"), 2, "C", mutable=False)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.zeros(SENT_LIMIT + 1, "u1"), hs.PlanError, ["argument b", "1 MB", "hs.from_array(b)"]),
        (np.ma.zeros(3), hs.PlanError, ["argument b", "masked", "filled"]),
        (np.zeros(3, object), hs.KernelError, ["'b'", "Python objects"]),
        (np.zeros(3, ">f4"), hs.KernelError, ["'b'", ">f4", "astype"]),
        (np.float16(1), hs.KernelError, ["'b'", "float16", "astype"]),
        (2**63, hs.PlanError, ["argument b", str(2**63), "64-bit", "np.uint64"]),
        ("text", hs.PlanError, ["argument b", "str", "hs.from_array", "numbers"]),
        (None, hs.PlanError, ["argument b", "NoneType"]),
        ([1, 2], hs.PlanError, ["argument b", "list", "small NumPy arrays"]),
        (hs.read, hs.PlanError, ["argument b", "function"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_sent_is_refused_with_what_to_do(value, error, words):
    gives(said(array((3,)), value, error=error), *words)


def test_a_memmap_is_refused_and_not_copied(tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(bytes(80))
    mapped = np.memmap(path, "f8", "r")
    gives(said(array((3,)), mapped), "argument b", "numpy.memmap", f"hs.open({str(path)!r})")


@pytest.mark.parametrize("dtype", ["f2", ">i4", "S3"])
def test_a_type_no_kernel_can_take_is_refused_at_plan_time(dtype):
    gives(said(array((3,), dtype), error=hs.KernelError), "'a'", "kernels cannot take")


@pytest.mark.parametrize(
    ("dtype", "boundary"),
    [("u1", -1), ("u1", 256), ("i4", 0.5), ("i4", np.nan), ("i4", np.inf), ("b1", 2), ("f4", 1j),
     ("f4", 1e39), ("f8", 10**400), ("M8[s]", 0), ([("x", "f4")], 0)],
    ids=lambda value: f"{value}"[:20],
)  # fmt: skip
def test_a_boundary_that_no_element_can_be_is_refused(dtype, boundary):
    halo = hs.read(array((9,), np.dtype(dtype)), halo=1, boundary=boundary)
    gives(said(halo), "argument a", f"boundary={boundary!r}", str(np.dtype(dtype)), "nearest")


@pytest.mark.parametrize(
    ("dtype", "boundary"),
    [("u1", 255), ("i4", -1.0), ("b1", True), ("f4", np.nan), ("f4", -np.inf), ("f4", 0.1),
     ("f8", 2**70), ("c8", 1j), ("c16", 2), ("u8", 2**64 - 1), ("M8[s]", "nearest")],
)  # fmt: skip
def test_a_boundary_that_an_element_can_be_is_kept(dtype, boundary):
    kept = plan(hs.read(array((9,), dtype), halo=1, boundary=boundary)).arguments[0].boundary
    assert kept == boundary or np.isnan(kept)


def test_interference_is_refused_when_planning():
    a = array((100, 100))
    gives(said(hs.read(a, halo=1), hs.update(a)), "read(a)", "update(b)", "second file")
    plan(hs.read(a), hs.update(a))


def test_shared_arrays_are_guarded():
    accesses = plan(array((9,), shared=True), hs.write(array((9,)))).accesses
    assert [a.guarded for a in accesses] == [True, False]


# Regions and tasks.


@given(st.data())
def test_tasks_are_all_regions_in_order_once(data):
    shape = data.draw(shapes())
    made = plan(array(shape), region=data.draw(regions(shape)))
    tasks = list(made)
    assert len(tasks) == made.tasks
    assert [region for t in tasks for region in range(t.start, t.stop)] == [*range(made.regions)]
    assert [t.index for t in tasks] == [*range(made.tasks)]


def test_ten_terabytes_are_planned_and_streamed_by_arithmetic(monkeypatch):
    calls = []
    real = Grid.box
    monkeypatch.setattr(Grid, "box", lambda self, i: calls.append(i) or real(self, i))
    t, clim, out = array((2500, 1000, 10**6)), array((1000, 10**6)), array((2500, 1000, 10**6))
    made = plan(hs.read(t, halo=(0, 1, 1), boundary="wrap"), clim, hs.write(out))
    assert t.nbytes == 10 * TB
    assert made.regions > 10**6
    assert len(calls) <= 3 * 3**3, "as many as there are kinds of regions, for each argument"
    calls.clear()
    stream = iter(made)
    first = [next(stream) for _ in range(10)]
    assert made.task(made.tasks - 1).stop == made.regions
    assert first[-1].stop == 10 * made.batch
    assert calls == [], "a task names its regions and computes none"


def test_planning_costs_the_same_for_ten_bytes_and_ten_terabytes(monkeypatch):
    def steps(n):
        calls = []
        real = Access.box
        with monkeypatch.context() as patch:
            patch.setattr(Access, "box", lambda self, r: calls.append(r) or real(self, r))
            plan(hs.read(array((n, 64)), halo=1), hs.write(array((n, 64))), region=(1, None))
        return len(calls)

    assert steps(10) == steps(39 * 10**9)


def test_a_job_without_elements_has_no_tasks():
    made = plan(array((0, 5)), hs.write(array((0, 5))))
    assert (made.regions, made.tasks, list(made)) == (0, 0, [])
    assert (made.bytes_read, made.bytes_written) == (0, 0)


def test_a_job_without_axes_has_one_task():
    made = plan(array(()), hs.write(array(())))
    assert [(t.start, t.stop) for t in made] == [(0, 1)]


def test_traffic_counts_each_array_once_by_what_is_done_to_it():
    made = plan(array((10, 5)), hs.update(array((10, 5))), hs.write(array((10, 5), "f8")))
    assert (made.bytes_read, made.bytes_written) == (400, 600)


def test_footprints_travel_with_the_task_as_boxes():
    image = array((100,))
    made = plan(
        array((40,)),
        hs.accumulate(image, footprint=lambda r: np.s_[2 * r[0].start : 2 * r[0].stop]),
        region=4,
    )
    assert made.tasks == 1
    (task,) = made
    boxes = [str(box) for (box,) in task.footprints]
    assert boxes == [f"[{i}:{i + 8}]" for i in range(0, 80, 8)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_task_with_footprints_is_under_4_kb(count):
    huge = (2**15,) * 4
    images = [hs.accumulate(array(huge, "i8"), footprint=lambda r: tuple(r)) for _ in range(count)]
    made = plan(*images, over=huge, region=(1, 1, 1, 8))
    part = made.task(made.tasks - 1)
    task = Task("/scratch/" + "x" * 100, part.index, part.start, part.stop, 7, part.footprints)
    assert len(task.footprints) >= 1
    assert len(pickle.dumps(task, protocol=5)) < 4096


def test_a_footprint_outside_the_array_is_refused_when_planning():
    outside = hs.accumulate(array((10,)), footprint=lambda r: np.s_[r[0].start - 1 : r[0].stop])
    gives(said(array((40,)), outside, region=4), "footprint=", "max(start, 0)")


def test_run_calls_the_engine_with_the_plan():
    made = plan(array((3,)))
    assert made.run(progress=False) == (made, {"progress": False})
    assert made.explain().startswith("kernel")


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
            assert made.batch == reference.batch
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


def test_private_copies_that_do_not_fit_are_refused_with_a_way_out():
    sums = array((10**6,), "f8")
    text = said(array((10**7,)), hs.accumulate(sums), memory="30MB")
    gives(text, "needs 32 MB", "private copies", "8 MB each", "footprint=", "raise memory=")
    assert plan(array((10**7,)), hs.accumulate(sums), memory="32MB").memory.at_once == 1
    small = hs.accumulate(sums, footprint=lambda r: np.s_[:1000])
    assert plan(array((10**7,)), small, memory="30MB").memory.at_once == 2


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
    assert made.memory == Memory(12 * 8000 + 80_000 + 200, 600, 8)
    assert made.memory.peak == 8 * made.memory.per_worker + 600


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
    bindings = [bind(*pair) for pair in zip(made.arguments, made.buffer_orders, strict=True)]
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


def test_a_plan_cannot_be_changed_and_keeps_its_arrays():
    made = plan(array((3,)))
    with pytest.raises(AttributeError):
        made.batch = 2
    assert isinstance(made.budget, Budget)
    assert made.declarations[0].array.shape == (3,)
