"""A death before and after every step, of every kind of access: what it leaves behind.

The kernels are plain Python, called in place of machine code, so that every combination of
accesses can be tried, each with a death at every point of a small run.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scripted import Script, ScriptedPool

import hyperslab as hs
from hyperslab.planning.plan import Plan
from hyperslab.running.prepare import prepare
from hyperslab.running.progress import make_progress
from hyperslab.running.run import drive
from hyperslab_workers import mapping
from hyperslab_workers.board import Board
from hyperslab_workers.execute import execute
from hyperslab_workers.kernel import KernelRef
from hyperslab_workers.task import Task

ROWS, COLUMNS = 6, 4
START = np.arange(1.0, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS)


@hs.kernel
def one(a):
    a[0, 0] = a[0, 0]


@hs.kernel
def two(a, b):
    b[0, 0] = a[0, 0]


@hs.kernel
def three(a, b, c):
    c[0, 0] = a[0, 0] + b[0, 0]


KERNELS = {1: one, 2: two, 3: three}


def mix(*arguments: np.ndarray) -> None:
    """Every writable argument becomes something that a second time would change again."""
    seen = sum(float(np.sum(a)) for a in arguments if not a.flags.writeable)
    for number, a in enumerate(arguments):
        if a.flags.writeable:
            a += 2 * np.arange(a.size).reshape(a.shape) + np.sum(a) + seen + number


class Compute:
    """The kernel, as a step of whatever script is in force: it may die half-way as well."""

    script: Script | None = None

    def __call__(self, *arguments: np.ndarray) -> None:
        if self.script is None:
            mix(*arguments)
        else:
            self.script.step(lambda: mix(*arguments), lambda: self._half(arguments))

    @staticmethod
    def _half(arguments: tuple[np.ndarray, ...]) -> None:
        for a in arguments:
            if a.flags.writeable:
                a[: len(a) // 2 + 1] = -77

    def frame(self, arguments: tuple[np.ndarray, ...]) -> None:
        """Every region goes the general way."""


compute = Compute()


@pytest.fixture(autouse=True)
def python_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = SimpleNamespace(digest="0", payload=b"")
    monkeypatch.setattr("hyperslab.running.prepare.compile_kernel", lambda *a, **k: compiled)
    monkeypatch.setattr(
        "hyperslab.running.prepare.publish", lambda c, d: KernelRef("nowhere", "0", "mix")
    )
    monkeypatch.setattr("hyperslab_workers.execute.load", lambda ref: compute)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[hs.Engine]:
    with hs.Engine(workers=2, scratch=tmp_path, lock_dir=tmp_path / "locks") as engine:
        yield engine


class Scene:
    """Files with known contents, a plan on them, and runs of it with deaths."""

    def __init__(
        self, engine: hs.Engine, directory: Path, declare: Callable[..., tuple], region=(1, None)
    ) -> None:
        self._directory = directory
        self.a = hs.create(directory / "a.npy", START.shape, overwrite=True)
        self.b = hs.create(directory / "b.npy", START.shape, overwrite=True)
        self.total = hs.create(directory / "total.npy", (1, COLUMNS), overwrite=True)
        self.reset()
        arguments = declare(self)
        self.plan: Plan = engine.plan(KERNELS[len(arguments)], *arguments, region=region)

    def reset(self) -> None:
        self.a[...] = START
        self.b[...] = -START
        self.total[...] = 0.5

    def files(self) -> tuple[np.ndarray, ...]:
        return tuple(np.array(x) for x in (self.a, self.b, self.total))

    def run(self, *deaths: int) -> tuple[Script, hs.HyperslabError | None]:
        self.reset()
        script = Script(*deaths)
        places = self._directory / f"pool-{next(_numbers)}"
        places.mkdir()
        pool = ScriptedPool(places, script)
        compute.script = script
        try:
            drive(self.plan, prepare(self.plan, places, lambda: pool), _SILENT, 0.0)
        except hs.WorkerLost as error:
            return script, error
        finally:
            compute.script = None
        return script, None


_numbers = itertools.count()
_SILENT = make_progress(False, "", 1, 1)


def check_every_death(scene: Scene) -> dict[str, int]:
    """A death at every step, and then at every second pair of steps."""
    script, error = scene.run()
    assert error is None
    before = (START, -START, np.full((1, COLUMNS), 0.5))
    after = scene.files()
    count = {"repaired": 0, "lost": 0}
    for step in range(1, script.steps + 1):
        told, error = scene.run(step)
        assert told.died == 1
        count["repaired" if error is None else "lost"] += 1
        check_what_is_left(scene, before, after, error)
    for step in range(1, script.steps, 3):
        # Another one soon after, in what is repeated.
        told, error = scene.run(step, step + 5)
        check_what_is_left(scene, before, after, error)
    return count


def check_what_is_left(scene: Scene, before, after, error: hs.HyperslabError | None) -> None:
    if error is None:
        for got, expected in zip(scene.files(), after, strict=True):
            np.testing.assert_array_equal(got, expected)
        return
    states = {s: [] for s in ("done", "untouched", "in doubt")}
    for span in error.regions:
        states[span.state] += range(span.start, span.stop)
    assert sorted(itertools.chain(*states.values())) == list(range(scene.plan.regions))
    if "2 times" not in str(error):
        assert not scene.plan.repeatable, error
        assert len(states["in doubt"]) == 1, "one worker died, and it wrote one region"
        assert "may be changed in part" in str(error)
        # What it says is what it holds, whatever the neighbours still did meanwhile.
        assert f"{len(states['done'])} of {scene.plan.regions} regions are done" in str(error)
    for access in scene.plan.accesses:
        if not access.changes or access.in_file:
            continue
        index = 0 if access.array.path.endswith("a.npy") else 1
        got = scene.files()[index]
        view = _view(got, scene, access)
        for state, expected in (("done", after), ("untouched", before)):
            want = _view(expected[index], scene, access)
            for region in states[state]:
                box = access.box(scene.plan.grid.box(region)).slices
                if state == "done" or not _changed_by_others(scene, access):
                    np.testing.assert_array_equal(view[box], want[box])


def _view(array: np.ndarray, scene: Scene, access) -> np.ndarray:
    """The part of a file that an access shows, of the file's contents in memory."""
    data = np.ascontiguousarray(array)
    offset = access.array.offset - scene.a.ref.offset
    return np.ndarray(access.array.shape, data.dtype, data.data, offset, access.array.strides)


def _changed_by_others(scene: Scene, access) -> bool:
    return any(
        other is not access and other.changes and other.array.path == access.array.path
        for other in scene.plan.accesses
    )


SINGLE: dict[str, Callable[[Scene], tuple]] = {
    "write": lambda s: (s.a, hs.write(s.b)),
    "update": lambda s: (hs.update(s.a),),
    "write of what is read": lambda s: (s.a, hs.write(s.a)),
    "two names of one file": lambda s: (
        hs.open(_linked(s.a.path)),
        hs.write(s.a),
    ),
    "private": lambda s: (s.a, hs.accumulate(s.total)),
    "footprint": lambda s: (s.a, hs.accumulate(s.b, footprint=lambda region: region)),
    "write and private": lambda s: (s.a, hs.write(s.b), hs.accumulate(s.total)),
    "update and private": lambda s: (hs.update(s.a), hs.accumulate(s.total)),
    "update and write": lambda s: (hs.update(s.a), hs.write(s.b)),
    "halo": lambda s: (hs.read(s.a, halo=1, boundary="wrap"), hs.write(s.b)),
}


def _linked(path: str) -> str:
    link = Path(path).with_suffix(".link.npy")
    link.unlink(missing_ok=True)
    link.hardlink_to(path)
    return str(link)


REPEATABLE = {"write", "private", "write and private", "halo"}


STORED = ["write", "write and private", "halo"]


@pytest.mark.parametrize(
    ("name", "stored"), [(n, False) for n in SINGLE] + [(n, True) for n in STORED]
)
def test_a_death_at_every_step(engine, tmp_path, monkeypatch, name, stored):
    scene = Scene(engine, tmp_path, SINGLE[name])
    assert any(scene.plan.through_map) == (name in STORED)
    if stored:
        # The kernel stores into the file itself, and may die in the middle of that.
        monkeypatch.setattr("hyperslab.running.run.may_store_through_map", lambda plan, runs: True)
    count = check_every_death(scene)
    assert scene.plan.repeatable == (name in REPEATABLE)
    assert count["repaired"] > 0
    if name != "footprint":
        assert count["lost"] == 0
    else:
        # Only what is written under locks is in doubt: from the mark that a write begins until the
        # mark that it is over.
        files = sum(access.changes for access in scene.plan.accesses)
        assert count["lost"] == scene.plan.regions * (2 + 3 * files)


VIEWS: dict[str, Callable[[hs.Array], hs.Array]] = {
    "all": lambda a: a,
    "upper": lambda a: a[: ROWS // 2],
    "lower": lambda a: a[ROWS // 2 :],
    "even": lambda a: a[::2],
    "odd": lambda a: a[1::2],
    "left": lambda a: a[:, : COLUMNS // 2],
    "right": lambda a: a[:, COLUMNS // 2 :],
}
DECLARE: dict[str, Callable[[hs.Array], object]] = {
    "read": lambda a: a,
    "whole": lambda a: hs.read(a, whole=True),
    "write": hs.write,
    "update": hs.update,
    "private": hs.accumulate,
    "merge": lambda a: hs.accumulate(a, footprint=lambda region: region),
}


def combinations(of: int) -> list[tuple[tuple[str, str], ...]]:
    # Views of one length each: others do not line up and are refused before.
    groups = [["all"], ["upper", "lower", "even", "odd"], ["left", "right"]]
    found = []
    for group in groups:
        uses = list(itertools.product(group, DECLARE))
        found += [
            c
            for c in itertools.combinations_with_replacement(uses, of)
            if any(how not in ("read", "whole") for _, how in c)
        ]
    return found


@pytest.mark.parametrize("of", [2, 3])
def test_every_pair_and_triple_of_accesses_of_one_array(engine, tmp_path, of):
    accepted = refused = 0
    for combination in combinations(of):

        def declare(scene: Scene, combination=combination) -> tuple:
            return tuple(DECLARE[how](VIEWS[view](scene.a)) for view, how in combination)

        try:
            scene = Scene(engine, tmp_path, declare, region=(2, None))
        except hs.PlanError:
            refused += 1
            continue
        accepted += 1
        try:
            check_every_death(scene)
        except AssertionError as error:
            raise AssertionError(f"{combination}: {error}") from error
    assert accepted > 15 and refused > 15


@pytest.mark.parametrize("first", ["update", "write", "private"])
@pytest.mark.parametrize("second", ["update", "private", "footprint"])
def test_two_runs_at_once_know_nothing_of_each_other(engine, tmp_path, first, second):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    scenes = [
        Scene(engine, tmp_path / "one", SINGLE[first]),
        Scene(engine, tmp_path / "two", SINGLE[second]),
    ]
    expected = []
    for scene in scenes:
        scene.run()
        expected.append(scene.files())
    steps = _both(scenes, tmp_path)[0].steps
    for step in range(1, steps + 1):
        script, errors = _both(scenes, tmp_path, step)
        assert script.died <= 1
        assert sum(error is not None for error in errors) <= 1, "one death, two runs lost"
        for scene, after, error in zip(scenes, expected, errors, strict=True):
            before = (START, -START, np.full((1, COLUMNS), 0.5))
            check_what_is_left(scene, before, after, error)


def _both(scenes: list[Scene], directory: Path, *deaths: int):
    places = directory / f"both-{next(_numbers)}"
    places.mkdir()
    script = Script(*deaths)
    pool = ScriptedPool(places, script)
    compute.script = script
    errors: list[hs.HyperslabError | None] = [None, None]

    def run(number: int) -> None:
        scene = scenes[number]
        try:
            drive(scene.plan, prepare(scene.plan, places, lambda: pool), _SILENT, 0.0)
        except hs.HyperslabError as error:
            errors[number] = error

    for scene in scenes:
        scene.reset()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    compute.script = None
    return script, errors


def test_what_was_written_when_the_run_was_called_off_is_done_and_not_in_doubt(
    engine, tmp_path, monkeypatch
):
    scene = Scene(engine, tmp_path, lambda s: (hs.update(s.a),))
    pool = ScriptedPool(tmp_path, Script())
    prepared = prepare(scene.plan, tmp_path, lambda: pool)  # Whose files go with it.
    path = prepared.line.path
    board, write = Board.create(str(tmp_path / "board"), 1), mapping.write_back

    def write_and_call_off(*arguments) -> None:
        write(*arguments)
        board.cells[0].call_off()

    monkeypatch.setattr("hyperslab_workers.bindings.mapping.write_back", write_and_call_off)
    failure = execute(Task(path, 0, 0, ROWS), board.path, 0, 1).failure
    assert failure is not None
    assert (failure.kind, failure.reached, failure.torn) == ("called off", 1, False)
    assert (np.asarray(scene.a)[1:] == START[1:]).all()
