"""What ``hyperslab info`` tells of a file. Reads its header and its inode, and no data."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hyperslab.arrays.file import open_file
from hyperslab.arrays.indexing import memory_order
from hyperslab.arrays.npy import MAGIC
from hyperslab.errors import ArrayFileError
from hyperslab.units import human_bytes
from hyperslab_workers.array_ref import ArrayRef

__all__ = ["FileInfo", "describe", "inspect_file"]

_STAT_BLOCK = 512
"""Bytes of what ``st_blocks`` counts, whatever the file system's own blocks are."""

_ORDERS = {"C": "C (last axis contiguous)", "F": "F (first axis contiguous)"}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Header and blocks of a file."""

    path: str
    """Absolute path."""

    size: int
    """Bytes from the first to the last, holes included."""

    allocated: int
    """Bytes that it takes on the disk."""

    block: int
    """Bytes of one block of the file system."""

    version: tuple[int, int] | None
    """Version of the ``.npy`` format; None for other files."""

    array: ArrayRef | None
    """What the header says; None where there is none or it is not to be believed."""

    problem: str
    """Why there is no array; empty where there is one."""

    @property
    def sparse_share(self) -> float:
        """Part of the file that is holes, from 0 to 1."""
        return max(0.0, 1.0 - self.allocated / self.size) if self.size else 0.0


def inspect_file(path: str | os.PathLike[str]) -> FileInfo:
    """Look at a file.

    Raises
    ------
    ArrayFileError
        There is no such file, or it cannot be read.
    """
    name = os.path.abspath(path)
    if os.path.isfile(name) and os.access(name, os.R_OK):
        status = os.stat(name)
        with open(name, "rb") as file:
            start = file.read(len(MAGIC) + 2)
        version = (start[-2], start[-1]) if start[:-2] == MAGIC else None
        array, problem = None, ""
        try:
            array = open_file(name, "r")
        except ArrayFileError as error:
            problem = str(error)
        return FileInfo(
            path=name,
            size=status.st_size,
            allocated=status.st_blocks * _STAT_BLOCK,
            block=status.st_blksize,
            version=version,
            array=array,
            problem=problem,
        )
    open_file(name, "r")  # raises, and says what stands in the way
    raise ArrayFileError(f"{name!r} changed while it was being looked at; try again")


def describe(info: FileInfo) -> list[tuple[str, str]]:
    """What is known of a file, as rows of name and words."""
    rows = [("file", info.path)]
    rows.append(("format", f".npy {info.version[0]}.{info.version[1]}" if info.version else "raw"))
    array = info.array
    if array is not None:
        byte_order = {"<": ", little-endian", ">": ", big-endian"}.get(array.dtype.str[0], "")
        order = memory_order(array.shape, array.strides, array.dtype.itemsize)
        rows += [
            ("dtype", f"{array.dtype} ({array.dtype.str!r}{byte_order})"),
            ("shape", str(array.shape)),
            ("order", _ORDERS[order or "C"]),
            ("data offset", f"{array.offset:,} bytes"),
            ("elements", f"{array.size:,}"),
        ]
    rows += [
        ("size", f"{human_bytes(info.size)} ({info.size:,} bytes)"),
        (
            "on disk",
            f"{human_bytes(info.allocated)} ({info.allocated:,} bytes) allocated in blocks of "
            f"{info.block:,} bytes",
        ),
        ("sparse", f"{info.sparse_share:.1%} of the file is holes"),
    ]
    return rows
