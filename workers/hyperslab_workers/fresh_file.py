"""Writing a small file that is not there yet, or that appears whole."""

from __future__ import annotations

import contextlib
import os

from hyperslab_workers.descriptors import open_apart

__all__ = ["write_fresh", "write_in_place"]


def write_fresh(path: str, data: bytes, *, dir_fd: int | None = None) -> None:
    """Write a new file.

    Not by ``open()``, which takes longer than all the rest of launching a small job, and whose
    file object complains of being left open where Ctrl-C comes before its ``with``.

    Raises
    ------
    OSError
        It exists, or cannot be written.
    """
    fd = open_apart(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dir_fd)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def write_in_place(path: str, data: bytes, aside: str, *, dir_fd: int | None = None) -> None:
    """Write a file that appears whole, in place of one that may stand there.

    Parameters
    ----------
    path : str
        Its name.
    data : bytes
        All that it holds.
    aside : str
        A new name on the same file system, which it has until then.
    dir_fd : int, optional
        Directory from which both names count.

    Raises
    ------
    OSError
        It cannot be written. Nothing is left.
    """
    try:
        write_fresh(aside, data, dir_fd=dir_fd)
        os.replace(aside, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside, dir_fd=dir_fd)
        raise
