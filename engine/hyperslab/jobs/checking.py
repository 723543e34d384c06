"""Checks of the steps that need their kernels and arrays: each is planned and compiled.

Nothing on disk changes; the kernels' files are executed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import hyperslab as hs
from hyperslab.compiler import Kernel, compile_kernel
from hyperslab.errors import ArrayFileError, KernelError, PlanError
from hyperslab.jobs.arguments import ArgumentProblem, arguments_of, call_arguments
from hyperslab.jobs.files import Output
from hyperslab.jobs.limits import Path
from hyperslab.jobs.loading import Loader, LoadProblem
from hyperslab.jobs.models import Accumulate, StepSpec
from hyperslab.jobs.problems import Problem
from hyperslab.jobs.spec import Draft, uses
from hyperslab.jobs.words import near
from hyperslab.planning.plan import Plan

__all__ = ["Step", "check_steps", "never_written"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that has passed every check."""

    number: int
    """From 1."""

    where: str
    """The document and the line it stands on, for messages."""

    spec: StepSpec
    """What the document says."""

    kernel: Kernel
    """What it runs."""

    functions: Mapping[str, Any]
    """Footprints by their references."""

    plan: Plan
    """How it will be done; for arrays still to be made, on prospects of them."""


def check_steps(
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
            arguments, options = call_arguments(spec, kernel, arrays, functions)
            plan = engine.plan(kernel, *arguments, **options)
            # Kept with the kernel: the run does not compile it again.
            compile_kernel(kernel, plan.types, equal_shapes=plan.equal_lengths)
        except ArgumentProblem as error:
            problems.append(document.problem((*at, "arguments", error.key), str(error)))
        except (PlanError, KernelError, ArrayFileError) as error:
            problems.append(document.problem(at, str(error)))
        else:
            where = document.where(at)
            steps.append(Step(index + 1, where, spec, kernel, functions, plan))
    return steps


def _footprints(
    draft: Draft, at: Path, spec: StepSpec, loader: Loader, problems: list[Problem]
) -> dict[str, Any]:
    functions = {}
    for key, argument in arguments_of(spec):
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


def never_written(draft: Draft, outputs: Mapping[str, Output]) -> Iterator[Problem]:
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
