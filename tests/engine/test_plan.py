"""Plans: what is split, what the arguments become, and what is refused."""

from __future__ import annotations

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning import array, gives, plan, said, three, with_default
from strategies import regions, shapes

import hyperslab as hs
from hyperslab.planning.arguments import SENT_LIMIT
from hyperslab.planning.memory import Budget
from hyperslab_workers.access import Access
from hyperslab_workers.box import Grid
from hyperslab_workers.kernel import ArrayType, ScalarType, TupleType
from hyperslab_workers.task import Task, Value

TB = 10**12


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
        (np.zeros(3, ">f4"), hs.KernelError, ["'b'", ">f4", "np.asarray(b, "]),
        (np.float16(1), hs.KernelError, ["'b'", "float16", "np.asarray(b, "]),
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
    assert len(calls) <= 3 * 4**3, "as many as there are kinds of regions, for each argument"
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
    task = Task(
        "/scratch/" + "x" * 100, part.index, part.start, part.stop, footprints=part.footprints
    )
    assert len(task.footprints) >= 1
    assert len(pickle.dumps(task, protocol=5)) < 4096


@pytest.mark.parametrize(("order", "batch"), [("region", 1), ("any", 8)])
def test_regions_merged_in_turn_are_tasks_of_their_own(order, batch):
    """Else workers would compute one after the other, each waiting for another's whole task."""
    image = array((64, 2**18), "f8")
    made = plan(
        array((64, 2**18)),
        hs.accumulate(image, footprint=lambda region: region, order=order),
        region=(1, None),
    )
    assert (made.ordered, made.batch) == (order == "region", batch)


def test_a_footprint_outside_the_array_is_refused_when_planning():
    outside = hs.accumulate(array((10,)), footprint=lambda r: np.s_[r[0].start - 1 : r[0].stop])
    gives(said(array((40,)), outside, region=4), "footprint=", "max(start, 0)")


@hs.kernel
def halve(a, out):
    for i in range(a.shape[0]):
        out[i] = a[i] / 2


def test_a_plan_is_a_value_that_runs_elsewhere_too():
    a, out = hs.from_array(np.arange(100.0)), hs.from_array(np.zeros(100))
    with hs.Engine(executor="serial") as engine:
        made = engine.plan(halve, a, hs.write(out))
        sent, parts = pickle.dumps(made), (made.grid, made.arguments, made.types)
    assert len(sent) < 8192
    again = pickle.loads(sent)
    # As in another process, which has no engine of that name.
    del engine, made
    gc.collect()
    assert again.run().regions == again.regions
    assert (again.grid, again.arguments, again.types) == parts
    np.testing.assert_array_equal(np.asarray(out), np.arange(100.0) / 2)


def test_what_depends_on_the_plan_alone_is_got_ready_once(tmp_path):
    a, out = hs.from_array(np.arange(100.0)), hs.from_array(np.zeros(100))
    with hs.Engine(executor="serial", scratch=tmp_path) as engine:
        made = engine.plan(halve, a, hs.write(out))
        made.run()
        (program,) = tmp_path.glob("*/program-*")
        for _ in range(3):
            made.run()
        assert list(tmp_path.glob("*/program-*")) == [program]
        del made
        gc.collect()
        assert not program.exists()


def test_one_plan_run_by_two_threads_at_once(tmp_path):
    values = hs.from_array(np.ones((64, 1000)))
    sums = hs.from_array(np.zeros(1000))

    @hs.kernel
    def add_up(values, sums):
        for i in range(values.shape[0]):
            for j in range(values.shape[1]):
                sums[j] += values[i, j]

    with hs.Engine(workers=2, scratch=tmp_path) as engine:
        made = engine.plan(add_up, values, hs.accumulate(sums), region=(1, None))
        with ThreadPoolExecutor(4) as threads:
            for job in [threads.submit(made.run) for _ in range(12)]:
                job.result(timeout=60)
    # Which of two threads reads the old total first is theirs to arrange; none is half there.
    assert len(set(np.asarray(sums))) == 1
    assert sums[0].item() % 64 == 0


def test_a_plan_cannot_be_changed_and_keeps_its_arrays():
    made = plan(array((3,)))
    with pytest.raises(AttributeError):
        made.batch = 2
    assert isinstance(made.budget, Budget)
    assert made.declarations[0].array.shape == (3,)
