"""The files of a job: opened where they are there, described where they are still to be made.

An array that does not exist yet is planned with as a *prospect*: an ``hs.Array`` whose
reference names no file. Plans are arithmetic on shapes and never look at a file, so every
step can be verified before the first output replaces anything. (Sparse stand-ins in a
scratch directory would plan as well, but show their own paths in ``explain()`` and fail
where a file system's largest file is smaller than the array.)
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import hyperslab as hs
from hyperslab.arrays.file import checked_nbytes, expanded
from hyperslab.arrays.indexing import contiguous_strides
from hyperslab.arrays.npy import encode_header
from hyperslab.errors import ArrayFileError
from hyperslab.jobs.models import ArraySpec, CreateSpec
from hyperslab.jobs.problems import Problem
from hyperslab.jobs.spec import Draft
from hyperslab.jobs.words import listed
from hyperslab.units import human_bytes
from hyperslab_workers.array_ref import ArrayRef

__all__ = ["Files", "Output", "create_outputs", "open_files"]

_prospects = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Output:
    """A file that the job will make."""

    path: str
    """Absolute path."""

    shape: tuple[int, ...]
    """Length of each axis."""

    dtype: np.dtype
    """Type of the elements."""

    order: Literal["C", "F"]
    """Memory order."""

    overwrite: bool
    """Whether to replace a file that exists."""

    sparse: bool
    """Whether to reserve no disk space."""

    shared: bool
    """Whether other programs may write it during the job."""

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return len(encode_header(self.shape, self.dtype, self.order)) + checked_nbytes(
            self.shape, self.dtype, repr(self.path)
        )

    def prospect(self) -> hs.Array:
        """An array to plan with, of a file that is not there."""
        header = len(encode_header(self.shape, self.dtype, self.order))
        return hs.Array(
            ArrayRef(
                path=self.path,
                # No file has a negative device number: two prospects differ from each other,
                # and from every file, as the files they become will.
                device=-1,
                inode=next(_prospects),
                file_size=self.file_size,
                offset=header,
                dtype=self.dtype,
                shape=self.shape,
                strides=contiguous_strides(self.shape, self.dtype.itemsize, self.order),
                writable=True,
                shared=self.shared,
            )
        )


@dataclass(frozen=True, slots=True)
class Files:
    """The arrays of a job, before it runs."""

    arrays: Mapping[str, hs.Array]
    """Opened arrays and prospects by name; those with problems are missing."""

    outputs: Mapping[str, Output]
    """What is to be made."""

    problems: tuple[Problem, ...]
    """What was found wrong."""


def open_files(draft: Draft) -> Files:
    """Open the files that are there and describe those to be made. Changes nothing."""
    document = draft.document
    arrays: dict[str, hs.Array] = {}
    outputs: dict[str, Output] = {}
    problems: list[Problem] = []

    for name, array in draft.arrays.items():
        if array is not None and array.create is None:
            try:
                arrays[name] = _open(document.folder, array)
            except ArrayFileError as error:
                problems.append(document.problem(("arrays", name, "path"), str(error)))
    for name, array, create in _in_order(draft, arrays):
        at = ("arrays", name, "create")
        try:
            output = _output(document.folder, array, create, arrays)
            arrays[name] = output.prospect()
        except ArrayFileError as error:
            problems.append(document.problem(at, str(error)))
            continue
        outputs[name] = output
        try:
            _check_target(output)
        except ArrayFileError as error:
            problems.append(document.problem(at, str(error)))
    problems += _same_files(draft)
    problems += _disk_space(draft, outputs)
    return Files(arrays, outputs, tuple(problems))


def _in_order(
    draft: Draft, arrays: Mapping[str, hs.Array]
) -> Iterator[tuple[str, ArraySpec, CreateSpec]]:
    """The arrays to make, each after the one it is like, which has to be in `arrays` by then.

    Those that are like nothing, or each other in a circle, are never reached.
    """
    followers: dict[str | None, list[tuple[str, ArraySpec, CreateSpec]]] = {}
    for name, array in draft.arrays.items():
        if array is not None and array.create is not None:
            followers.setdefault(array.create.like, []).append((name, array, array.create))
    ready: deque[str | None] = deque([None, *arrays])
    while ready:
        for name, array, create in followers.get(ready.popleft(), ()):
            yield name, array, create
            if name in arrays:
                ready.append(name)


def create_outputs(outputs: Mapping[str, Output]) -> dict[str, hs.Array]:
    """Make the outputs. If one cannot be made, those that are new are removed again.

    Raises
    ------
    ArrayFileError
        One cannot be made.
    """
    made: dict[str, hs.Array] = {}
    new: list[Output] = []
    try:
        # Those that replace a file come last, when nothing else is left to go wrong.
        for name, output in sorted(outputs.items(), key=lambda item: item[1].overwrite):
            existed = os.path.lexists(output.path)
            made[name] = hs.create(
                output.path,
                output.shape,
                output.dtype,
                order=output.order,
                overwrite=output.overwrite,
                sparse=output.sparse,
                shared=output.shared,
            )
            if not existed:
                new.append(output)
    except BaseException:
        for output in new:
            with contextlib.suppress(OSError):
                Path(output.path).unlink()
        raise
    return made


def _open(folder: Path, array: ArraySpec) -> hs.Array:
    return hs.open(
        folder / array.path,
        array.mode or "r",
        dtype=array.dtype,
        shape=array.shape,
        offset=array.offset or 0,
        order=array.order,
        shared=array.shared,
    )


def _output(
    folder: Path, array: ArraySpec, create: CreateSpec, arrays: Mapping[str, hs.Array]
) -> Output:
    like = arrays[create.like] if create.like is not None else None
    shape = create.shape if like is None else like.shape
    dtype = np.dtype(create.dtype) if create.dtype is not None or like is None else like.dtype
    assert shape is not None
    # A subarray type such as "3f4" moves its axes into the shape, as hs.create does.
    dtype, shape = expanded(dtype, shape)
    return Output(
        path=os.path.abspath(folder / array.path),
        shape=shape,
        dtype=dtype,
        order=create.order,
        overwrite=create.overwrite,
        sparse=create.sparse,
        shared=array.shared,
    )


def _check_target(output: Output) -> None:
    path = Path(output.path)
    folder = Path(os.path.realpath(path)).parent
    # By os.path, which calls everything missing that cannot be looked at, as names that are too
    # long; pathlib raises.
    if not os.path.isdir(folder):
        raise ArrayFileError(f"the folder {str(folder)!r} does not exist; make it first")
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ArrayFileError(
            f"{output.path!r} cannot be made ({error.strerror}); choose another name"
        ) from None
    if not output.overwrite and os.path.lexists(path):
        raise ArrayFileError(
            f"{output.path!r} exists already; write overwrite: true to replace it, or choose "
            "another name"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise ArrayFileError(
            f"{output.path!r} is no file that could be replaced; choose another name"
        )
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise ArrayFileError(
            f"{output.path!r} is write-protected, and overwrite does not go around that; change "
            "its permissions, or choose another name"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArrayFileError(f"you may not write in {str(folder)!r}; choose another folder")


def _same_files(draft: Draft) -> Iterator[Problem]:
    """Files that are made, and named by another array as well."""
    paths: dict[str, list[str]] = {}
    for name, array in draft.arrays.items():
        if array is not None:
            real = os.path.realpath(draft.document.folder / array.path)
            paths.setdefault(real, []).append(name)
    for names in paths.values():
        made = [name for name in names if (a := draft.arrays[name]) is not None and a.create]
        if made and len(names) > 1:
            others = listed(name for name in names if name != made[-1])
            yield draft.document.problem(
                ("arrays", made[-1], "path"),
                f"the file is that of {others}, too; a file that is made needs one array, which "
                "all steps use",
            )


def _disk_space(draft: Draft, outputs: Mapping[str, Output]) -> Iterator[Problem]:
    """Disks on which not all outputs together fit.

    Files that will be replaced count as used: they go when the new ones are complete.
    """
    disks: dict[int, list[str]] = {}
    for name, output in outputs.items():
        folder = Path(os.path.realpath(output.path)).parent
        if not output.sparse and os.path.isdir(folder):
            disks.setdefault(folder.stat().st_dev, []).append(name)
    for names in disks.values():
        folder = Path(os.path.realpath(outputs[names[0]].path)).parent
        room = os.statvfs(folder)
        available = room.f_bavail * room.f_frsize
        needed = sum(outputs[name].file_size for name in names)
        if room.f_blocks and needed > available:  # no blocks: no limit is told
            largest = max(names, key=lambda name: outputs[name].file_size)
            yield draft.document.problem(
                ("arrays", largest, "create"),
                f"the disk is too small: the outputs {listed(names)} take "
                f"{human_bytes(needed)} and {human_bytes(available)} are available in "
                f"{str(folder)!r}; free some space or use another disk. sparse: true reserves "
                "nothing, at the risk of a full disk later",
            )
