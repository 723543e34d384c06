"""Writing a small file that is not there yet."""

from __future__ import annotations

import os

from hyperslab_workers.descriptors import open_apart

__all__ = ["write_fresh"]


def write_fresh(path: str, data: bytes) -> None:
    """Write a new file.

    Not by ``open()``, which takes longer than all the rest of launching a small job, and whose
    file object complains of being left open where Ctrl-C comes before its ``with``.

    Raises
    ------
    OSError
        It exists, or cannot be written.
    """
    fd = open_apart(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
