"""What is said of the regions when a run ends before its end."""

from __future__ import annotations

from types import SimpleNamespace

from hyperslab.running.recovery import verdict
from hyperslab.running.standing import Standing
from hyperslab_workers.board import FAILED, RUNNING, Mark
from hyperslab_workers.box import Grid
from hyperslab_workers.task import Task


def standing(regions: int) -> Standing:
    grid = Grid((regions,), (1,))
    plan = SimpleNamespace(grid=grid, regions=regions, bytes_accumulated=8, repeatable=True)
    return Standing(plan)  # type: ignore[arg-type]


def spans(standing: Standing) -> list[tuple[str, int, int]]:
    return [(span.state, span.start, span.stop) for span in standing.spans()]


def test_a_region_that_was_done_and_is_repeated_can_come_into_doubt():
    # What is written beside an accumulation is written again from the task's start.
    told = standing(10)
    told.done(0, 7)
    told.in_doubt(7, 8)
    told.in_doubt(3, 4)
    assert spans(told) == [
        ("done", 0, 3),
        ("in doubt", 3, 4),
        ("done", 4, 7),
        ("in doubt", 7, 8),
        ("untouched", 8, 10),
    ]
    assert told.regions_done == 6
    told.done(0, 10)
    assert spans(told) == [("done", 0, 10)]


def test_nothing_in_doubt_changes_nothing():
    told = standing(4)
    told.done(0, 4)
    told.in_doubt(0, 0)
    assert spans(told) == [("done", 0, 4)]


def test_a_kernel_that_raised_has_stored_through_the_map_all_the_same():
    plan = SimpleNamespace(repeatable=True, bytes_accumulated=0)
    for state in (RUNNING, FAILED):
        for through_map, torn in ((True, (5, 6)), (False, (0, 0))):
            task = Task("", 0, 2, 9, through_map=through_map)
            what = verdict(task, Mark(1, state, 5), plan)  # type: ignore[arg-type]
            assert (what.done, what.again, what.torn) == ((2, 5), 5, torn)
