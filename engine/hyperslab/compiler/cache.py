"""Machine code on disk, so that a kernel is compiled once on a machine and not once a process.

One file for each key (see ``content``) in a directory that is this user's alone. A file appears
whole, and what it says of itself has to agree with what is asked for; whatever is wrong with it
(cut short, bits flipped, another user's, a link) makes it a miss. Nothing that the disk refuses
is an error: without a cache the kernel is compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from typing import Final, Literal

from hyperslab_workers import host, owned
from hyperslab_workers.fresh_file import write_in_place

__all__ = ["Entry", "clear", "directory", "find", "keep", "usage"]

_VARIABLE: Final = "HYPERSLAB_CACHE_DIR"
_MAGIC: Final = b"hsk2"
_KINDS: Final[dict[bytes, tuple[Literal["native", "numba"], bool]]] = {
    b"n": ("native", True),
    b"u": ("native", False),
    b"r": ("numba", False),
}
_HEAD: Final = len(_MAGIC) + 1 + 32 + 32
_TEMPORARY: Final = ".new-"
_OLD: Final = 3600.0
"""Seconds after which a file that is not whole was left by somebody who was killed."""

LARGEST: Final = 256 << 20
"""Bytes of all files together. A kernel takes 5 to 50 kB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Machine code that was found."""

    route: Literal["native", "numba"]
    """Whether it runs without Numba."""

    payload: bytes
    """The machine code, and what is needed to call it."""

    contained: bool = True
    """Whether it keeps within its arguments and its stack."""


def directory() -> str | None:
    """Where the cache is; None where it is switched off, or the user has no directory for it.

    ``HYPERSLAB_CACHE_DIR``, which switches it off as ``0``, else the user's cache directory
    (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    named = os.environ.get(_VARIABLE)
    if named == "0":
        return None
    if named:
        return os.path.join(host.since_start(named), "kernels")
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(root, "hyperslab", "kernels") if os.path.isabs(root) else None


def find(key: str) -> Entry | None:
    """The machine code kept under a key, if there is any."""
    try:
        inside = _opened(make=False)
    except OSError:
        return None
    if inside is None:
        return None
    try:
        data = owned.read_own(key, inside)
        entry = _entry(key, data)
        if entry is None:
            os.unlink(key, dir_fd=inside)
        else:
            # What is used is not the oldest.
            os.utime(key, dir_fd=inside, follow_symlinks=False)
        return entry
    except OSError:
        return None
    finally:
        os.close(inside)


def keep(key: str, entry: Entry) -> None:
    """Keep machine code under a key, as far as that can be."""
    with contextlib.suppress(OSError):
        inside = _opened(make=True)
        if inside is None:
            return
        try:
            data = _head(key, _letter(entry), entry.payload) + entry.payload
            write_in_place(key, data, f"{_TEMPORARY}{os.urandom(8).hex()}", dir_fd=inside)
            _bound(inside, LARGEST)
        finally:
            os.close(inside)


def usage() -> tuple[int, int]:
    """Number of kernels in the cache, and bytes that they take."""
    try:
        inside = _opened(make=False)
    except OSError:
        return 0, 0
    if inside is None:
        return 0, 0
    try:
        sizes = [size for _, size, _ in _files(inside)]
    finally:
        os.close(inside)
    return len(sizes), sum(sizes)


def clear() -> int:
    """Remove every kernel; returns how many there were.

    Raises
    ------
    OSError
        What the system refused.
    """
    inside = _opened(make=False)
    if inside is None:
        return 0
    try:
        count = 0
        for _, _, name in _files(inside):
            os.unlink(name, dir_fd=inside)
            count += 1
        return count
    finally:
        os.close(inside)


def _opened(*, make: bool) -> int | None:
    path = directory()
    if path is None:
        return None
    if make:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    return owned.open_own(path)


def _entry(key: str, data: bytes) -> Entry | None:
    """What a file holds, if it is whole and what its name says."""
    head, payload = data[:_HEAD], data[_HEAD:]
    kind = _KINDS.get(head[4:5])
    if len(head) < _HEAD or kind is None or head != _head(key, head[4:5], payload):
        return None
    route, contained = kind
    return Entry(route, payload, contained)


def _letter(entry: Entry) -> bytes:
    if entry.route == "numba":
        return b"r"
    return b"n" if entry.contained else b"u"


def _head(key: str, letter: bytes, payload: bytes) -> bytes:
    own = bytes.fromhex(key)
    return _MAGIC + letter + own + hashlib.sha256(own + letter + payload).digest()


def _bound(inside: int, largest: int) -> None:
    """Remove those that were not used for longest, down to three quarters of what is allowed."""
    files = sorted(_files(inside))
    total = sum(size for _, size, _ in files)
    limit = largest if total <= largest else largest * 3 // 4
    now = time.time()
    for used, size, name in files:
        abandoned = name.startswith(_TEMPORARY) and now - used > _OLD
        if total > limit or abandoned:
            # Another process may have been at it as well.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=inside)
            total -= size


def _files(inside: int) -> list[tuple[float, int, str]]:
    """When last used, size and name of each file."""
    found = []
    for name in os.listdir(inside):
        with contextlib.suppress(OSError):
            status = os.lstat(name, dir_fd=inside)
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, status.st_size, name))
    return found
