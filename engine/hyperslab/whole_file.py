"""Files that are there whole or not at all, whenever and however their maker is stopped.

::

    no name ── fill ──► whole ──┬──► link                            (the name must be free)
                                └──► link to a name aside ──► rename      (replace)

What has no name goes when its maker does: nothing is left to be found, or to fill the disk. Where
the system cannot give a name to such a file later (NFS, or no ``/proc``), it is filled under a name
aside. Its maker keeps that locked with ``flock``, and so whatever stands there unlocked was left by
somebody who was killed: the next file that is made in the directory sweeps it away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable

from hyperslab_workers import owned
from hyperslab_workers.descriptors import open_apart

__all__ = ["write_whole"]

_ASIDE = re.compile(r"\.hyperslab-new-[0-9a-f]{16}")
"""A file that is not whole yet. Short, whatever the length of its name will be."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What file systems without hard links answer."""

_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSYS, errno.EINVAL)
"""What file systems and kernels without unnamed files answer."""

_swept: set[tuple[int, int]] = set()
"""Directories that this process has looked through: a directory may hold a million files."""


def write_whole(
    target: str,
    fill: Callable[[int], None],
    *,
    replace: bool,
    permissions: int | None = None,
) -> None:
    """Make a file that appears under its name when it is complete.

    Parameters
    ----------
    target : str
        Its absolute path; a link that stands there is not followed.
    fill : callable
        Writes the content to a descriptor; may be called a second time, for another file.
    replace : bool
        Whether a file that exists is replaced, in one step, or an error.
    permissions : int, optional
        Of the file; default what the umask leaves.

    Raises
    ------
    FileExistsError
        The name is taken.
    OSError
        What the system refused, or `fill` met. Nothing is left.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(f"{folder}/a", lambda fd: os.write(fd, b"all of it"), replace=False)
    ...     os.listdir(folder)
    ['a']
    """
    folder, name = os.path.split(target)
    # What is done to the directory is done to this one, also if it is moved meanwhile.
    directory = open_apart(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        _sweep(directory)
        if not _without_name(directory, name, fill, replace, permissions):
            _aside(directory, name, fill, replace, permissions)
    finally:
        os.close(directory)


def _without_name(
    directory: int,
    name: str,
    fill: Callable[[int], None],
    replace: bool,
    permissions: int | None,
) -> bool:
    """Make the file nameless, then name it; False where that cannot be done."""
    try:
        fd = open_apart(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
        return False
    try:
        own = f"/proc/self/fd/{fd}"
        if not os.path.exists(own):
            return False
        if permissions is not None:
            os.fchmod(fd, permissions)
        fill(fd)
        aside = _new_name()
        if replace:
            # From here to the rename a kill leaves a name: locked, so that it is known as dead.
            _lock(fd)
        try:
            # Only linkat() follows the link in /proc, and Python calls it for a dir_fd only.
            os.link(own, aside if replace else name, dst_dir_fd=directory, follow_symlinks=True)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.ENOENT):
                raise
            return False
        if replace:
            _rename(directory, aside, name)
        return True
    finally:
        os.close(fd)


def _aside(
    directory: int,
    name: str,
    fill: Callable[[int], None],
    replace: bool,
    permissions: int | None,
) -> None:
    """Fill the file under another name, and then give it its own."""
    aside, fd = _new_aside(directory)
    try:
        if permissions is not None:
            os.fchmod(fd, permissions)
        fill(fd)
        if replace:
            _rename(directory, aside, name)
        else:
            _link(directory, aside, name)
    finally:
        # Also on Ctrl-C, and after a link, which leaves the file two names.
        _unlink(directory, aside)
        os.close(fd)


def _new_aside(directory: int) -> tuple[str, int]:
    """A new file under a name aside, locked."""
    while True:
        aside = _new_name()
        fd = open_apart(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
        _lock(fd)
        # Somebody's sweep may have come before the lock.
        if os.fstat(fd).st_nlink:
            return aside, fd
        os.close(fd)


def _link(directory: int, aside: str, name: str) -> None:
    """Give the file its name, unless something has that name already."""
    try:
        os.link(aside, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links the name is claimed by an empty file first: for a moment others
        # see that, but of two creators still only one gets the name.
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory))
        try:
            _rename(directory, aside, name)
        except BaseException:
            _unlink(directory, name)
            raise


def _rename(directory: int, aside: str, name: str) -> None:
    try:
        os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        _unlink(directory, aside)
        raise


def _unlink(directory: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)


def _new_name() -> str:
    return f".hyperslab-new-{os.urandom(8).hex()}"


def _lock(fd: int) -> None:
    # Where there are no such locks, nothing is ever taken for abandoned.
    with contextlib.suppress(OSError):
        owned.flock(fd, fcntl.LOCK_EX)


def _sweep(directory: int) -> None:
    """Remove what killed programs of this user left, once for each directory and process."""
    status = os.fstat(directory)
    identity = (status.st_dev, status.st_ino)
    if identity in _swept:
        return
    _swept.add(identity)
    with contextlib.suppress(OSError):
        for name in owned.names_in(directory):
            if _ASIDE.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_abandoned(directory, name)


def _remove_abandoned(directory: int, name: str) -> None:
    fd = open_apart(name, owned.MARK_FLAGS, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if (
            stat.S_ISREG(status.st_mode)
            and status.st_uid == os.geteuid()
            and owned.flock(fd, fcntl.LOCK_EX)
        ):
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(fd)
