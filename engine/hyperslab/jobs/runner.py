"""Runs a job spec: verifies all of it, then makes its outputs, then runs it step by step.

::

    read_draft ──► open_files ──► load kernels ──► plan and compile each step ──► Job
                                                                                   │
                              create_outputs ──► Engine.run, step by step ◄── Job.run()

Everything up to the ``Job`` changes nothing on disk, and what is wrong is told at once.
"""

from __future__ import annotations

import inspect

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, Self

import hyperslab as hs
from hyperslab.compiler import Kernel, compile_kernel
from hyperslab.errors import ArrayFileError, HyperslabError, KernelError, PlanError
from hyperslab.jobs.document import Problem, spec_error
from hyperslab.jobs.fields import ORIGIN_NAME, near
from hyperslab.jobs.files import Output, create_outputs, open_files
from hyperslab.jobs.loading import Loader, LoadProblem
from hyperslab.jobs.positions import Path
from hyperslab.jobs.spec import (
    Accumulate,
    Draft,
    Read,
    StepSpec,
    Update,
    Value,
    Write,
    read_draft,
    uses,
)
from hyperslab.plan import Plan
from hyperslab.report import Report
from hyperslab.settings import Progress

__all__ = ["Job", "Step", "StepReport", "prepare"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that has passed every check."""

    number: int
    """From 1."""

    line: int
    """Line of the document it stands on."""

    spec: StepSpec
    """What the document says."""

    kernel: Kernel
    """What it runs."""

    functions: Mapping[str, Any]
    """Footprints by their references."""

    plan: Plan
    """How it will be done; for arrays still to be made, on prospects of them."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did."""

    number: int
    """From 1."""

    kernel: str
    """The kernel's reference in the document."""

    report: Report
    """The figures."""

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return {"step": self.number, **self.report.to_dict(), "kernel": self.kernel}


class Job:
    """A job spec that has passed every check. Made by :func:`prepare`.

    Attributes
    ----------
    name : str
        The document's file, as it was given.
    steps : tuple of Step
        What will be done.
    outputs : mapping of str to Output
        Files that will be made, by the names of their arrays.
    """

    def __init__(
        self,
        name: str,
        engine: hs.Engine,
        arrays: Mapping[str, hs.Array],
        outputs: Mapping[str, Output],
        steps: tuple[Step, ...],
    ) -> None:
        self.name = name
        self.steps = steps
        self.outputs = outputs
        self._engine = engine
        self._arrays = arrays

    def run(self) -> Iterator[StepReport]:
        """Make the outputs, then run the steps in order; gives a report as each is done.

        What finished steps wrote stays when a later one fails.

        Raises
        ------
        HyperslabError
            What went wrong, with a note that names the step.
        """
        made = create_outputs(self.outputs)
        arrays = {**self._arrays, **made}
        try:
            for step in self.steps:
                try:
                    arguments, options = _arguments(step.spec, step.kernel, arrays, step.functions)
                    report = self._engine.run(step.kernel, *arguments, **options)
                except HyperslabError as error:
                    error.add_note(
                        f"in step {step.number} of {len(self.steps)}, {step.spec.kernel} "
                        f"({self.name}:{step.line})"
                    )
                    raise
                yield StepReport(step.number, step.spec.kernel, report)
        finally:
            for array in made.values():
                array.close()

    def close(self) -> None:
        """Stop the workers and close the files."""
        self._engine.close()
        for array in self._arrays.values():
            array.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def prepare(
    path: str | FilePath,
    *,
    workers: int | None = None,
    memory: int | float | str | None = None,
    progress: Progress | None = None,
) -> Job:
    """Read a job spec and verify all of it. Changes nothing on disk and starts no worker.

    The kernels' files are executed: that is how Python finds the functions in them.

    Parameters
    ----------
    path : path
        The document: ``.yaml``, ``.yml``, ``.toml`` or ``.json``.
    workers, memory, progress : optional
        In place of what its engine section says; see :class:`hyperslab.Engine`.

    Returns
    -------
    Job
        To be closed: use it as a context manager.

    Raises
    ------
    SpecError
        All problems that were found, each with its line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     folder = pathlib.Path(folder)
    ...     np.save(folder / "a.npy", np.arange(4.0))
    ...     _ = (folder / "k.py").write_text('''
    ... import hyperslab as hs
    ... @hs.kernel
    ... def scale(a, factor, out):
    ...     for i in range(a.shape[0]):
    ...         out[i] = factor * a[i]
    ... ''')
    ...     _ = (folder / "job.yaml").write_text('''
    ... version: 1
    ... arrays:
    ...   a: {path: a.npy}
    ...   b: {path: b.npy, create: {like: a}}
    ... engine: {executor: serial}
    ... steps:
    ...   - {kernel: "k.py:scale", arguments: [a, 10, {write: b}]}
    ... ''')
    ...     with prepare(folder / "job.yaml") as job:
    ...         reports = list(job.run())
    ...     np.load(folder / "b.npy")
    array([ 0., 10., 20., 30.])
    """
    draft = read_draft(path)
    problems = list(draft.problems)
    engine = _engine(draft, workers, memory, progress, problems)
    files = open_files(draft)
    problems += files.problems
    arrays = files.arrays
    try:
        steps = _checked_steps(draft, arrays, engine, problems)
        problems += _never_written(draft, files.outputs)
        if problems or engine is None:
            raise spec_error(draft.document.name, problems)
    except BaseException:
        if engine is not None:
            engine.close()
        for array in arrays.values():
            array.close()
        raise
    opened = {name: array for name, array in arrays.items() if name not in files.outputs}
    return Job(draft.document.name, engine, opened, files.outputs, tuple(steps))


def _engine(
    draft: Draft,
    workers: int | None,
    memory: int | float | str | None,
    progress: Progress | None,
    problems: list[Problem],
) -> hs.Engine | None:
    given: dict[str, Any] = draft.engine.model_dump(exclude_none=True)
    for name in ("scratch", "lock_dir"):
        if name in given:
            given[name] = folder = draft.document.folder / given[name]
            if not folder.is_dir():
                message = f"the folder {str(folder)!r} does not exist; make it first"
                problems.append(draft.document.problem(("engine", name), message))
    stated = {"workers": workers, "memory": memory, "progress": progress}
    given |= {name: value for name, value in stated.items() if value is not None}
    try:
        return hs.Engine(**given)
    except PlanError as error:
        # The document's own settings were checked: this is a variable or an option.
        problems.append(draft.document.problem((), str(error)))
        return None


def _checked_steps(
    draft: Draft,
    arrays: Mapping[str, hs.Array],
    engine: hs.Engine | None,
    problems: list[Problem],
) -> list[Step]:
    document = draft.document
    loader = Loader(document.folder)
    steps = []
    for index, spec in enumerate(draft.steps):
        if spec is None:
            continue
        raw = draft.raw_steps[index]
        at: Path = ("steps", index)
        found: list[Problem] = []
        kernel = None
        try:
            kernel = loader.kernel(spec.kernel)
        except LoadProblem as error:
            found.append(document.problem((*at, "kernel"), str(error)))
        functions = _footprints(draft, at, spec, loader, found)
        found += _read_only(draft, at, raw, arrays)
        if kernel is not None:
            found += _wrong_parameters(draft, at, spec, kernel)
        if found or kernel is None:
            problems += found
            continue
        if engine is None or any(name not in arrays for _, name, _ in uses(raw)):
            continue  # whose problem has been told
        try:
            arguments, options = _arguments(spec, kernel, arrays, functions)
            plan = engine.plan(kernel, *arguments, **options)
            # Kept with the kernel: the run does not compile it again.
            compile_kernel(kernel, plan.types)
        except _ArgumentProblem as error:
            problems.append(document.problem((*at, "arguments", error.key), str(error)))
        except (PlanError, KernelError, ArrayFileError) as error:
            problems.append(document.problem(at, str(error)))
        else:
            line = document.problem(at, "").line
            steps.append(Step(index + 1, line, spec, kernel, functions, plan))
    return steps


def _footprints(
    draft: Draft, at: Path, spec: StepSpec, loader: Loader, problems: list[Problem]
) -> dict[str, Any]:
    functions = {}
    for key, argument in _items(spec):
        if isinstance(argument, Accumulate) and argument.footprint is not None:
            try:
                functions[argument.footprint] = loader.function(argument.footprint)
            except LoadProblem as error:
                path = (*at, "arguments", key, "footprint")
                problems.append(draft.document.problem(path, str(error)))
    return functions


def _read_only(
    draft: Draft, at: Path, raw: Any, arrays: Mapping[str, hs.Array]
) -> Iterator[Problem]:
    """Writes to arrays that were opened for reading, in this document's words."""
    for path, name, privilege in uses(raw):
        writes = privilege in ("write", "update", "accumulate")
        if writes and name in arrays and arrays[name].mode == "r":
            yield draft.document.problem(
                (*at, *path),
                f"{name} is opened for reading; to change the file write mode: r+ in "
                f"arrays.{name}, or make a new file with create",
            )


def _wrong_parameters(draft: Draft, at: Path, spec: StepSpec, kernel: Kernel) -> Iterator[Problem]:
    """Arguments that do not fit the kernel's parameters, in number or by name."""
    document = draft.document
    parameters = inspect.signature(kernel.function).parameters
    needed = [name for name, p in parameters.items() if p.default is p.empty]
    signature = f"{kernel.name}({', '.join(parameters)})"
    if isinstance(spec.arguments, list):
        if not len(needed) <= len(spec.arguments) <= len(parameters):
            count = len(parameters)
            yield document.problem(
                (*at, "arguments"),
                f"{signature} takes {count} argument{'s' * (count != 1)} and is given "
                f"{len(spec.arguments)}",
            )
        return
    for name in spec.arguments:
        if name not in parameters:
            hint = near(name, parameters, "its parameters")
            yield document.problem(
                (*at, "arguments", name), f"{signature} has no parameter {name!r}; {hint}"
            )
    for name in needed:
        if name not in spec.arguments:
            yield document.problem((*at, "arguments"), f"{signature} is not given {name}")


def _never_written(draft: Draft, outputs: Mapping[str, Output]) -> Iterator[Problem]:
    written = {
        name
        for step in draft.raw_steps
        for _, name, privilege in uses(step)
        if privilege in ("write", "update", "accumulate")
    }
    for name in outputs:
        if name not in written:
            yield draft.document.problem(
                ("arrays", name, "create"),
                f"no step writes {name}: the file would hold zeros only; remove it, or write it",
            )


class _ArgumentProblem(Exception):  # noqa: N818
    """A declaration that was refused; knows whose."""

    def __init__(self, key: str | int, message: str) -> None:
        super().__init__(message)
        self.key = key


def _items(spec: StepSpec) -> Sequence[tuple[str | int, Any]]:
    if isinstance(spec.arguments, list):
        return list(enumerate(spec.arguments))
    return list(spec.arguments.items())


def _arguments(
    spec: StepSpec,
    kernel: Kernel,
    arrays: Mapping[str, hs.Array],
    functions: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """What ``Engine.plan`` and ``Engine.run`` are called with."""
    values: dict[str | int, Any] = {}
    for key, argument in _items(spec):
        try:
            values[key] = _argument(argument, arrays, functions)
        except PlanError as error:
            raise _ArgumentProblem(key, str(error)) from None
    if isinstance(spec.arguments, dict):
        # What stands between given arguments and is not given has a default: that was checked.
        parameters = inspect.signature(kernel.function).parameters
        ordered = [values.get(name, p.default) for name, p in parameters.items()]
    else:
        ordered = list(values.values())
    over = arrays[spec.over] if isinstance(spec.over, str) else spec.over
    return ordered, {"over": over, "region": spec.region}


def _argument(argument: Any, arrays: Mapping[str, hs.Array], functions: Mapping[str, Any]) -> Any:
    match argument:
        case str():
            return hs.ORIGIN if argument == ORIGIN_NAME else hs.read(arrays[argument])
        case Read():
            return hs.read(
                arrays[argument.read],
                halo=argument.halo,
                boundary=argument.boundary,
                axes=argument.axes,
                whole=argument.whole,
            )
        case Write():
            return hs.write(arrays[argument.write], axes=argument.axes)
        case Update():
            return hs.update(arrays[argument.update], axes=argument.axes)
        case Accumulate():
            return hs.accumulate(
                arrays[argument.accumulate],
                argument.op,
                footprint=functions.get(argument.footprint or ""),
                order=argument.order,
            )
        case Value():
            return argument.as_numpy()
        case _:
            return argument
