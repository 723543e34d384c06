"""What can be said in a job spec, as pydantic models: one for each kind of mapping in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    PlainValidator,
    Tag,
    model_validator,
)

from hyperslab.jobs import fields
from hyperslab.jobs.fields import one_of
from hyperslab.jobs.words import shown
from hyperslab.units import human_bytes

__all__ = [
    "ACCESSES",
    "Accumulate",
    "Argument",
    "ArraySpec",
    "CreateSpec",
    "EngineSpec",
    "Model",
    "Read",
    "StepSpec",
    "Update",
    "Value",
    "Write",
]


_LARGEST_VALUE = 2**24
"""Bytes of the largest value that stands in a document."""


class Model(BaseModel):
    """Settings of all models: unknown keys are mistakes, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateSpec(Model):
    """A ``.npy`` file that the job makes before its first step."""

    shape: fields.Shape | None = None
    """Length of each axis; or give `like`."""

    like: fields.ArrayName | None = None
    """Another array whose shape, and dtype unless it is given, are taken over."""

    dtype: fields.DtypeText | None = None
    """Type of the elements."""

    order: Annotated[Literal["C", "F"], PlainValidator(one_of("C", "F"))] = "C"
    """Memory order."""

    overwrite: fields.Flag = False
    """Whether to replace a file that exists."""

    sparse: fields.Flag = False
    """Whether to reserve no disk space."""

    @model_validator(mode="after")
    def _one_source(self) -> CreateSpec:
        if (self.shape is None) == (self.like is None):
            raise ValueError("give either shape, or like with the name of another array")
        if self.dtype is None and self.like is None:
            raise ValueError("dtype is missing; give the type of the elements, such as f4")
        return self


class ArraySpec(Model):
    """An array in a file: one that is there, or with `create` one that the job makes."""

    path: fields.FilePathText
    """The file, relative to the document."""

    mode: Annotated[Literal["r", "r+"], PlainValidator(one_of("r", "r+"))] | None = None
    """ "r+" to let steps change a file that is there."""

    dtype: fields.DtypeText | None = None
    """Type of the elements, for raw files."""

    shape: fields.Shape | None = None
    """Shape, for raw files."""

    offset: fields.Offset | None = None
    """Bytes before the data of a raw file."""

    order: Annotated[Literal["C", "F"], PlainValidator(one_of("C", "F"))] | None = None
    """Memory order, for raw files."""

    shared: fields.Flag = False
    """Whether other programs may write the file meanwhile."""

    create: CreateSpec | None = None
    """How the file is made, if it is."""

    @model_validator(mode="after")
    def _open_or_create(self) -> ArraySpec:
        if self.create is not None:
            opening = ("mode", "dtype", "shape", "offset", "order")
            given = [name for name in opening if getattr(self, name) is not None]
            if given:
                raise ValueError(
                    f"{', '.join(given)} beside create: these describe a file that is there; say "
                    "what is to be made inside create"
                )
        return self


class EngineSpec(Model):
    """Settings of the engine, as for ``hs.Engine``."""

    workers: fields.Count | None = None
    memory: fields.ByteSize | None = None
    executor: Annotated[str, PlainValidator(one_of("auto", "loky", "serial"))] | None = None
    scratch: fields.FilePathText | None = None
    lock_dir: fields.FilePathText | None = None
    lock_timeout: fields.Seconds | None = None
    progress: fields.Switch | None = None
    release: fields.Switch | None = None


class Read(Model):
    """An array that the kernel reads."""

    read: fields.ArrayName
    halo: fields.Halo = 0
    boundary: fields.Boundary = "clip"
    axes: fields.Axes | None = None
    whole: fields.Flag = False


class Write(Model):
    """An array that the kernel writes without looking at its old values."""

    write: fields.ArrayName
    axes: fields.Axes | None = None


class Update(Model):
    """An array that the kernel changes in place."""

    update: fields.ArrayName
    axes: fields.Axes | None = None


class Accumulate(Model):
    """An array into which every task combines its contributions."""

    accumulate: fields.ArrayName
    op: fields.Operation = "add"
    order: Annotated[Literal["region", "any"], PlainValidator(one_of("region", "any"))] = "region"
    footprint: fields.Reference | None = None
    """A function from a region of the domain to the part of the array that it touches."""


class Value(Model):
    """A number or a small array with its dtype."""

    value: Any
    dtype: fields.DtypeText | None = None

    @model_validator(mode="after")
    def _convertible(self) -> Value:
        self.as_numpy()
        return self

    def as_numpy(self) -> Any:
        """The value as the kernel gets it: a scalar, or an array for a list.

        Raises
        ------
        ValueError
            It is no number, or its dtype cannot hold it.
        """
        said = shown(self.value)
        if self.value is None or isinstance(self.value, dict):
            raise ValueError(f"{said} is no value for a kernel; give a number or a list of numbers")
        if self._nbytes() > _LARGEST_VALUE:
            raise ValueError(
                f"{said} takes more than {human_bytes(_LARGEST_VALUE)} as an array, the most for "
                "a value in a job spec; put it in a file"
            )
        try:
            plain = np.array(self.value)
            result = plain if self.dtype is None else np.array(self.value, dtype=self.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            target = "an array" if self.dtype is None else f"dtype {self.dtype}"
            raise ValueError(f"{said} cannot be {target}: {error}") from None
        if result.dtype.kind in "OU":
            raise ValueError(
                f"{said} is no number; for times and complex numbers, which are written as text, "
                "give dtype as well"
            )
        # Assigned to a smaller type, NumPy cuts 1.5 to 1 without a word.
        if result.dtype.kind in "iub" and plain.dtype.kind in "biuf" and (result != plain).any():
            raise ValueError(f"{said} cannot be dtype {self.dtype} without changing; give another")
        if self.dtype is None and plain.ndim == 0:
            return self.value
        return result if result.ndim else result[()]

    def _nbytes(self) -> int:
        """Bytes that NumPy may take for the value: every element takes those of the longest."""
        count, longest = 0, np.dtype(self.dtype).itemsize
        waiting = [self.value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, list):
                waiting += item
            else:
                count += 1
                longest = max(longest, 4 * len(item) if isinstance(item, str) else 0)
        return count * longest


ACCESSES: dict[str, type[Model]] = {
    "read": Read,
    "write": Write,
    "update": Update,
    "accumulate": Accumulate,
    "value": Value,
}
"""The models of an argument that is a mapping, each by the key that tells it."""


def _kind(argument: Any) -> str | None:
    """The tag of an argument. In angle brackets, so that no key of a document is a tag."""
    if isinstance(argument, str):
        return "<name>"
    if isinstance(argument, bool | int | float):
        return "<number>"
    if isinstance(argument, dict):
        found = [name for name in ACCESSES if name in argument]
        return f"<{found[0]}>" if len(found) == 1 else None
    return None


Argument = Annotated[
    Annotated[fields.ArrayName, Tag("<name>")]
    | Annotated[fields.Number, Tag("<number>")]
    | Annotated[Read, Tag("<read>")]
    | Annotated[Write, Tag("<write>")]
    | Annotated[Update, Tag("<update>")]
    | Annotated[Accumulate, Tag("<accumulate>")]
    | Annotated[Value, Tag("<value>")],
    Discriminator(_kind),
]
"""What a kernel is called with: an array's name (it is read), "origin", a number, an access."""


class StepSpec(Model):
    """One kernel run over one domain."""

    kernel: fields.Reference
    """``file.py:function``, relative to the document, or ``package.module:function``."""

    arguments: Annotated[
        Annotated[list[Argument], Tag("<list>")] | Annotated[dict[str, Argument], Tag("<mapping>")],
        Discriminator(lambda value: {list: "<list>", dict: "<mapping>"}.get(type(value))),
    ]
    """In the order of the kernel's parameters, or by their names."""

    over: fields.Over | None = None
    """The domain: a shape, or an array that has it."""

    region: fields.RegionShape | None = None
    """Shape of a region in place of the one chosen."""
