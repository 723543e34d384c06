"""From the arguments in a document to what ``Engine.run`` is called with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import hyperslab as hs
from hyperslab.compiler import Kernel
from hyperslab.errors import PlanError
from hyperslab.jobs.fields import ORIGIN_NAME
from hyperslab.jobs.models import Accumulate, Read, StepSpec, Update, Value, Write

__all__ = ["ArgumentProblem", "arguments_of", "call_arguments"]


class ArgumentProblem(Exception):
    """A declaration that was refused; knows whose."""

    def __init__(self, key: str | int, message: str) -> None:
        super().__init__(message)
        self.key = key


def arguments_of(spec: StepSpec) -> Sequence[tuple[str | int, Any]]:
    if isinstance(spec.arguments, list):
        return list(enumerate(spec.arguments))
    return list(spec.arguments.items())


def call_arguments(
    spec: StepSpec,
    kernel: Kernel,
    arrays: Mapping[str, hs.Array],
    functions: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """What ``Engine.plan`` and ``Engine.run`` are called with."""
    values: dict[str | int, Any] = {}
    for key, argument in arguments_of(spec):
        try:
            values[key] = _argument(argument, arrays, functions)
        except PlanError as error:
            raise ArgumentProblem(key, str(error)) from None
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
