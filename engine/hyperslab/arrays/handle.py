"""The handle on an array in a file.

A handle is a reference and never holds data: indexing gives further handles on the same
file, ``np.asarray`` shows what a handle refers to, and assignment writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from hyperslab.arrays.assignment import assign, locked
from hyperslab.arrays.indexing import index_layout, memory_order
from hyperslab.arrays.surroundings import room_around
from hyperslab.errors import ArrayFileError
from hyperslab_workers import mapping
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.legible import legible

__all__ = ["Array", "Handle"]


class Handle:
    """What all views of one opened file share: whether it is still open, and who removes it."""

    __slots__ = ("__weakref__", "base", "closed", "finish", "owned")

    def __init__(self, ref: ArrayRef, *, owned: bool = False) -> None:
        self.base = ref
        """The array that all these are views of."""
        self.closed = False
        self.owned = owned
        self.finish = weakref.finalize(self, _finish, ref, owned, os.getpid())
        # Maps of ordinary files need no farewell at exit; files of our own do.
        self.finish.atexit = owned


def _finish(ref: ArrayRef, owned: bool, pid: int) -> None:
    # A forked child inherits its parent's handles, but not the right to remove their files.
    if owned and os.getpid() == pid:
        with contextlib.suppress(OSError):
            Path(ref.path).unlink(missing_ok=True)
    # A map kept of a removed file would go on taking its space on disk.
    mapping.release(ref)


class Array:
    """An array in a file, or a view of one.

    Made by :func:`open`, :func:`create` and :func:`from_array`, and by indexing another.

    Indexing follows NumPy's rules for basic indexing (integers, slices, ``...``, ``None``,
    and a field's name for structured types) and gives a view, which reads nothing.
    ``np.asarray(a)`` is a NumPy view of the file's pages: read-only for ``mode="r"``, and for
    ``mode="r+"`` writable, with stores going straight to the file. It stays valid after
    :meth:`close`. ``np.array(a)`` and ``np.array(a[key])`` copy into memory. Assignment
    broadcasts and casts as NumPy does.

    Notes
    -----
    Of a ``shared`` array assignment takes the write lock of what it touches, unless the thread
    holds it through :meth:`lock`. NumPy views do not: read them inside ``with a.lock(...)``.

    Assignment reports a full disk as an error. A store into a NumPy view of a *sparse* file
    (``create(..., sparse=True)``) cannot: the system kills the process (SIGBUS).

    Examples
    --------
    >>> import hyperslab as hs
    >>> a = hs.from_array(np.arange(12.0).reshape(3, 4))
    >>> a[1, ::2]
    <hyperslab.Array shape=(2,) dtype=float64 order=None mode='r+' scratch>
    >>> np.asarray(a[1, ::2])
    array([4., 6.])
    >>> a[:, 0] = -1
    >>> float(a[2, 0])
    -1.0
    """

    __slots__ = ("__weakref__", "_handle", "_ref")

    def __init__(self, ref: ArrayRef, handle: Handle | None = None) -> None:
        self._ref = ref
        self._handle = handle if handle is not None else Handle(ref)

    @property
    def ref(self) -> ArrayRef:
        """The reference that crosses to workers.

        Raises
        ------
        ArrayFileError
            The array was closed.
        """
        if self._handle.closed:
            raise ArrayFileError(
                f"the array in {self._ref.path!r} was closed (its views with it); open it again"
            )
        return self._ref

    @property
    def handle(self) -> Handle:
        """What it shares with its views."""
        return self._handle

    @property
    def room_around(self) -> tuple[tuple[int, int], ...]:
        """Elements of the opened array that continue this view, before and after, on each axis."""
        return room_around(self._ref, self._handle.base)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self._ref.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of one element, as it lies in the file."""
        return self._ref.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._ref.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._ref.size

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._ref.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, without gaps between them."""
        return self._ref.nbytes

    @property
    def order(self) -> str | None:
        """ "C" or "F" where elements lie without gaps ("C" if both), None for strided views."""
        return memory_order(self._ref.shape, self._ref.strides, self._ref.dtype.itemsize)

    @property
    def path(self) -> str:
        """Absolute path of the file."""
        return self._ref.path

    @property
    def mode(self) -> Literal["r", "r+"]:
        """ "r" for reading, "r+" for reading and writing."""
        return "r+" if self._ref.writable else "r"

    @property
    def shared(self) -> bool:
        """Whether other programs may write the file meanwhile."""
        return self._ref.shared

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, on this array or on one it shares a handle with."""
        return self._handle.closed

    @property
    def T(self) -> Array:  # noqa: N802
        """The view with all axes reversed."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Array:
        """The view with its axes in another order, by default reversed.

        Raises
        ------
        ValueError
            `axes` is no permutation of the array's axes.
        """
        given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order: tuple[int, ...] = tuple(reversed(range(self.ndim)))
        if given:
            order = np.lib.array_utils.normalize_axis_tuple(given, self.ndim, "axes")
            if len(order) != self.ndim:
                raise ValueError(f"axes={given} do not name all {self.ndim} axes, each once")
        shape, strides = self._ref.shape, self._ref.strides
        return self._view(
            shape=tuple([shape[axis] for axis in order]),
            strides=tuple([strides[axis] for axis in order]),
        )

    def __getitem__(self, key: Any) -> Array:
        if isinstance(key, str):
            return self._field(key)
        ref = self.ref
        offset, shape, strides = index_layout(key, (ref.offset, ref.shape, ref.strides))
        return self._view(offset=offset, shape=shape, strides=strides)

    def __setitem__(self, key: Any, value: Any) -> None:
        assign(self[key].ref, value)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        ref = self.ref
        view = mapping.view(ref, writable=ref.writable)
        wanted = ref.dtype if dtype is None else np.dtype(dtype)
        if wanted == ref.dtype:
            return view.copy(order="K") if copy else view
        if copy is False:
            raise ValueError(
                f"the file holds {ref.dtype}, which becomes {wanted} only by copying; ask without "
                "copy=False, or for the file's own dtype"
            )
        return view.astype(wanted)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object: the array has no axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, value: object) -> bool:
        # Python would compare handles, and answer False whatever the file holds.
        raise TypeError("'in' would read the whole file; use (np.asarray(a) == value).any()")

    def item(self) -> Any:
        """The only element of an array of size 1, as a Python scalar.

        Raises
        ------
        ValueError
            The array has more than one element, or none.
        """
        if self.size != 1:
            raise ValueError(
                f"the array has {self.size:,} elements, and only one of size 1 is a scalar; index "
                "one element, or read with np.asarray(a)"
            )
        return np.asarray(self).item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def flush(self) -> None:
        """Wait until this array, or the part that this view shows, is on the disk.

        Only loss of power needs it: other processes see what was assigned at once.

        Raises
        ------
        ArrayFileError
            The array was closed, or the disk failed.
        """
        ref = self.ref
        if ref.writable:
            mapping.verify(ref)
            mapping.flush(ref)

    def close(self) -> None:
        """Let go of the file; to use the array or any of its views afterwards is an error.

        NumPy views that were taken stay valid. A scratch file is removed.
        """
        self._handle.closed = True
        self._handle.finish()

    def __enter__(self) -> Self:
        _ = self.ref
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def lock(
        self, key: Any = Ellipsis, write: bool = False, timeout: float | None = None
    ) -> Iterator[None]:
        """Hold the reader-writer lock of a part, against all threads and processes that do too.

        Parameters
        ----------
        key : basic index
            The part, as between brackets; ``np.s_[10:20]`` makes one from slices.
        write : bool
            To write, alone; default to read, together with other readers.
        timeout : float, optional
            Seconds to wait; default for ever.

        Raises
        ------
        LockTimeout
            The lock was not free in time.
        HyperslabError
            This thread holds a lock already: take all that is needed in one call.
        """
        with locked(self[key].ref, write=write, timeout=timeout):
            yield

    def _field(self, name: str) -> Array:
        ref = self.ref
        fields = ref.dtype.fields
        if fields is None or name not in fields:
            known = ", ".join(map(repr, fields or ())) or "none"
            raise ValueError(f"no field of name {name!r}; the fields of {ref.dtype} are: {known}")
        field, position = fields[name][:2]
        # The axes of a subarray field come last, as in NumPy.
        one: np.ndarray = np.empty((), field)
        return self._view(
            offset=ref.offset + position,
            shape=ref.shape + one.shape,
            strides=ref.strides + one.strides,
            dtype=one.dtype,
        )

    def _view(self, **changes: Any) -> Array:
        return Array(dataclasses.replace(self.ref, **changes), self._handle)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.ref,)

    def __repr__(self) -> str:
        ref = self._ref
        owned = self._handle.owned
        words = [
            "hyperslab.Array",
            "" if owned else repr(ref.path),
            f"shape={ref.shape} dtype={ref.dtype} order={self.order!r} mode={self.mode!r}",
            "scratch" if owned else "",
            "shared" if ref.shared else "",
            "closed" if self.closed else "",
        ]
        return legible(f"<{' '.join(filter(None, words))}>")


def _reopen(ref: ArrayRef) -> Array:
    """Unpickle: the file must still be the one that was pickled."""
    mapping.verify(ref)
    return Array(ref)
