"""The three ways to get an array in a file: open one, create one, or put one there.

The handle that they return is :class:`~hyperslab.arrays.handle.Array`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hyperslab.arrays.creation import create_file
from hyperslab.arrays.file import open_file
from hyperslab.arrays.handle import Array, Handle
from hyperslab.arrays.npy import checked_dtype
from hyperslab.errors import ArrayFileError

__all__ = ["Array", "create", "from_array", "is_masked", "open"]


def open(
    path: str | os.PathLike[str],
    mode: Literal["r", "r+"] = "r",
    *,
    dtype: npt.DTypeLike | None = None,
    shape: int | Iterable[int] | None = None,
    offset: int = 0,
    order: Literal["C", "F"] | None = None,
    shared: bool = False,
    lock_dir: str | os.PathLike[str] | None = None,
) -> Array:
    """Open the array in a ``.npy`` or raw file; only its header is read.

    Parameters
    ----------
    path : path
        The file. That it is a ``.npy`` file is known by its first bytes, not by its name.
    mode : {"r", "r+"}
        To read, or to read and write.
    dtype : dtype, optional
        Type of the elements: needed for raw files. For a ``.npy`` file it is checked, if
        given, and so are `shape` and `order`.
    shape : int or tuple of int, optional
        Shape of a raw array; default one axis with all that the file holds.
    offset : int
        Bytes before the data of a raw file.
    order : {"C", "F"}, optional
        Memory order of a raw array; default "C".
    shared : bool
        Whether other programs may write the file meanwhile. Whatever the engine touches is then
        taken under the file's reader-writer lock.
    lock_dir : path, optional
        Directory for that lock, the same for all who share the file.

    Returns
    -------
    Array

    Raises
    ------
    ArrayFileError
        There is no such array: the file is missing, of another format, truncated, longer than
        its header says, or holds Python objects.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"HEADER" + np.arange(6, dtype="<i2").tobytes())
    ...     file.flush()
    ...     with open(file.name, dtype="<i2", shape=(2, 3), offset=6) as a:
    ...         print(np.array(a[1]))
    [3 4 5]
    """
    ref = open_file(
        path,
        mode,
        dtype=dtype,
        shape=shape,
        offset=offset,
        order=order,
        shared=shared,
        lock_dir=lock_dir,
    )
    return Array(ref)


def create(
    path: str | os.PathLike[str],
    shape: int | Iterable[int],
    dtype: npt.DTypeLike = float,
    *,
    order: Literal["C", "F"] = "C",
    overwrite: bool = False,
    sparse: bool = False,
    shared: bool = False,
    lock_dir: str | os.PathLike[str] | None = None,
) -> Array:
    """Make a ``.npy`` file of zeros and open it to read and write.

    Its disk space is reserved at once, so that a disk that is too small is an error here and
    not in the middle of a job. The file appears under its name complete or not at all.

    Parameters
    ----------
    path : path
        The new file.
    shape : int or tuple of int
        Length of each axis.
    dtype : dtype
        Type of the elements, of fixed size.
    order : {"C", "F"}
        Memory order.
    overwrite : bool
        Replace a file that exists. Whoever has that one open keeps it as it was.
    sparse : bool
        Reserve nothing: blocks are taken when they are first written. For arrays that stay
        mostly zero.
    shared, lock_dir
        As for :func:`open`.

    Returns
    -------
    Array
        With ``mode="r+"``.

    Raises
    ------
    ArrayFileError
        The file exists, cannot be made there, or does not fit on the disk; nothing is left.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with create(os.path.join(directory, "out.npy"), (2, 3), "f4") as a:
    ...         a[0] = [1, 2, 3]
    ...     np.load(os.path.join(directory, "out.npy"))
    array([[1., 2., 3.],
           [0., 0., 0.]], dtype=float32)
    """
    name = create_file(path, shape, dtype, order=order, overwrite=overwrite, sparse=sparse)
    return open(name, "r+", shared=shared, lock_dir=lock_dir)


def from_array(values: npt.ArrayLike, *, scratch: str | os.PathLike[str] | None = None) -> Array:
    """Put a NumPy array into a scratch file, for all workers to map.

    The file is removed when the last handle on it goes, views included, and at exit.

    Parameters
    ----------
    values : array_like
        Of any type that can lie in a file. Fortran order is kept.
    scratch : path, optional
        Directory for scratch files; default ``HYPERSLAB_SCRATCH``, else the system's.

    Returns
    -------
    Array
        With ``mode="r+"``.

    Raises
    ------
    ArrayFileError
        The values hold Python objects or a mask, or do not fit on the disk.

    Examples
    --------
    >>> from_array([[1, 2], [3, 4]]).T.order
    'F'
    """
    from hyperslab.session import session_directory

    if is_masked(values):
        raise ArrayFileError(
            "a masked array has no place for its mask in a .npy file; give a.filled(value), with "
            "a value such as nan for what is masked, or store data and mask separately"
        )
    source = np.asarray(values)
    dtype = checked_dtype(source.dtype, "the array")
    order = "F" if source.flags.fnc else "C"
    directory = session_directory(None if scratch is None else os.fspath(scratch))
    path = create_file(
        directory / f"array-{os.urandom(8).hex()}.npy", source.shape, dtype, order=order
    )
    try:
        ref = open_file(path, "r+")
        array = Array(ref, Handle(ref, owned=True))
        array[...] = source
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return array


def is_masked(value: object) -> bool:
    """Whether it is a masked array, known without importing ``numpy.ma``, which takes 9 ms."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, masked.MaskedArray)
