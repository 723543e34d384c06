"""Runs a job spec: verifies all of it, then makes its outputs, then runs it step by step.

::

    read_draft ──► open_files ──► load kernels ──► plan and compile each step ──► Job
                                                                                   │
                              create_outputs ──► Engine.run, step by step ◄── Job.run()

Everything up to the ``Job`` changes nothing on disk, and what is wrong is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hyperslab as hs
from hyperslab.errors import HyperslabError, PlanError
from hyperslab.jobs.arguments import call_arguments
from hyperslab.jobs.checking import Step, check_steps, never_written
from hyperslab.jobs.files import Output, create_outputs, open_files
from hyperslab.jobs.problems import Problem, spec_error
from hyperslab.jobs.spec import Draft, read_draft
from hyperslab.running.report import Report
from hyperslab.settings import Progress

__all__ = ["Job", "StepReport", "prepare"]


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
                    arguments, options = call_arguments(
                        step.spec, step.kernel, arrays, step.functions
                    )
                    report = self._engine.run(step.kernel, *arguments, **options)
                except HyperslabError as error:
                    error.add_note(
                        f"in step {step.number} of {len(self.steps)}, {step.spec.kernel} "
                        f"({step.where})"
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
    path: str | Path,
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
        steps = check_steps(draft, arrays, engine, problems)
        problems += never_written(draft, files.outputs)
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
            if not os.path.isdir(folder):
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
