"""Where lock directories live, and whether a lock can be trusted there.

Locks never lie beside the data: data may be read-only, on a network filesystem, or owned by
somebody else, and a lock file must be writable by all who use it.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from hyperslab_workers import host
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.host import temporary_directory

__all__ = [
    "default_lock_root",
    "filesystem_type",
    "is_own_root",
    "make_directory",
    "names_default_root",
    "probe",
]

_VARIABLE = "HYPERSLAB_LOCK_DIR"
_OWN_ROOT = "hyperslab-locks-"

# Filesystems on which a lock may be granted to everybody (NFS mounted with `nolock`, Lustre
# without `flock`, many FUSE filesystems). A name ends in a dot where a family is meant.
_DOUBTFUL = re.compile(
    r"nfs\d?|lustre|gpfs|cifs|smb\d?|smbfs|9p|fuse|fuse\..*|fuseblk|afs|ceph|beegfs|beegfs_nodev"
    r"|glusterfs|panfs|orangefs|pvfs2|wekafs|virtiofs|vboxsf|prl_fs|davfs"
)

# Runs by itself in a fresh interpreter, where forking is safe whatever threads the caller has.
# Exit status 0: the second process was kept out, and let in once the first had let go.
_PROBE = """
import fcntl, os, sys
def attempt():
    with open(sys.argv[1], "a+") as lock_file:
        try:
            fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 1
        return 0
def other():
    pid = os.fork()
    if pid == 0:
        os._exit(attempt())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
mine = open(sys.argv[1], "a+")
fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
kept_out = other() == 1
mine.close()
sys.exit(not (kept_out and other() == 0))
"""


def default_lock_root() -> str:
    """Return the directory that holds the lock directories of this user's programs.

    It is ``$HYPERSLAB_LOCK_DIR``, else ``/tmp/hyperslab-locks-<uid>`` with mode 0700 (under the
    system's temporary directory where ``/tmp`` is not writable). It is made, and its owner and mode
    are checked, when it is first used.

    Programs exclude each other only if they agree on this directory, so the default follows no
    variable that differs from one session to the next: ``$XDG_RUNTIME_DIR`` is missing in cron
    and batch jobs and is deleted at the user's last logout, under programs that still run;
    ``$TMPDIR`` is set for each job by many schedulers. Programs of different users have to name
    a common ``HYPERSLAB_LOCK_DIR``.

    Returns
    -------
    str
        Absolute path, without symbolic links.

    Examples
    --------
    >>> default_lock_root().startswith("/")
    True
    """
    return _root(os.environ.get(_VARIABLE))


@functools.lru_cache(maxsize=16)
def _root(named: str | None) -> str:
    if named:
        return os.path.realpath(host.since_start(named))
    writable = os.access("/tmp", os.W_OK | os.X_OK)
    parent = "/tmp" if writable else temporary_directory(f"{_VARIABLE} (or lock_dir=)")
    return os.path.join(os.path.realpath(parent), f"{_OWN_ROOT}{os.geteuid()}")


def names_default_root() -> str:
    """What says where the default root is, for a message."""
    return _VARIABLE if os.environ.get(_VARIABLE) else "the default"


def is_own_root(root: str) -> bool:
    """Whether `root` is a default lock root, which is removed when it is empty."""
    return Path(root).name.startswith(_OWN_ROOT)


def make_directory(path: str) -> int:
    """Make the lock directory `path`, and its root where missing.

    The permissions are those of the root: private under a default root; under a root that
    several users share (say mode 2770), the lock directory and its files are theirs as well.

    Returns
    -------
    int
        Permission bits for the files in it.

    Raises
    ------
    HyperslabError
        If a default root is not a private directory of this user, or the root is on a
        filesystem whose locks do not exclude.
    OSError
        If it cannot be made; ``FileNotFoundError`` also if the root was removed meanwhile.
    """
    root = str(Path(path).parent)
    if is_own_root(root):
        try:
            Path(root).mkdir(0o700)
        except FileExistsError:
            _check_private(root)
    else:
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # Not passed on: a FileNotFoundError would read as "removed meanwhile, try again".
            raise HyperslabError(
                f"the lock root {root} cannot be used ({error.strerror}). Set {_VARIABLE} (or"
                " lock_dir=) to a directory on a local disk"
            ) from None
    if _is_doubtful(root) and not _probed(root):
        raise HyperslabError(
            f"the lock root {root} is on a filesystem of type {filesystem_type(root)}, where a lock"
            " held by one process does not keep out another: writes would be lost without a sign."
            f" Set {_VARIABLE} (or lock_dir=) to a directory on a local disk"
        )
    # Without the sticky bit, which would keep the last user from removing another's files.
    mode = stat.S_IMODE(Path(root).stat().st_mode) & ~stat.S_ISVTX
    try:
        Path(path).mkdir(0o700)
        Path(path).chmod(mode)
    except FileExistsError:
        pass
    return mode & 0o666


def probe(root: str) -> bool:
    """Try with two real processes whether an exclusive lock in `root` excludes.

    Parameters
    ----------
    root : str
        An existing directory.

    Returns
    -------
    bool
        True if a second process was kept out while the first held the lock and let in after;
        False also if no lock can be taken there at all, or not within 20 s.
    """
    try:
        handle, path = tempfile.mkstemp(prefix=".hyperslab-probe-", dir=root)
    except OSError:
        return False
    os.close(handle)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROBE, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        Path(path).unlink()
    return done.returncode == 0


def filesystem_type(path: str, mountinfo: str | None = None) -> str:
    """Return the type of the filesystem `path` is on (``"ext4"``, ``"nfs4"``).

    Parameters
    ----------
    path : str
        A path that need not exist yet.
    mountinfo : str, optional
        Text in the format of ``/proc/self/mountinfo``, which is the default.

    Returns
    -------
    str
        The type as the kernel names it, ``""`` where it cannot be told.

    Examples
    --------
    >>> table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\\n30 22 0:40 / /home rw - nfs4 nas:/home rw"
    >>> filesystem_type("/home/ada/run", table), filesystem_type("/homes", table)
    ('nfs4', 'ext4')
    """
    if mountinfo is None:
        try:
            with open("/proc/self/mountinfo", errors="surrogateescape") as table:
                mountinfo = table.read()
        except OSError:
            return ""
    path = os.path.realpath(path)
    longest, kind = "", ""
    for line in mountinfo.splitlines():
        mount, _, filesystem = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mount.split(" ")[4])
        below = path == point or path.startswith(point.rstrip("/") + "/")
        # Not `>`: of two mounts on one point the later hides the earlier.
        if below and len(point) >= len(longest):
            longest, kind = point, filesystem.split(" ")[0]
    return kind


@functools.cache
def _is_doubtful(root: str) -> bool:
    return _DOUBTFUL.fullmatch(filesystem_type(root)) is not None


@functools.cache
def _probed(root: str) -> bool:
    return probe(root)


def _check_private(root: str) -> None:
    """Refuse a default root that somebody else could have laid out for us in ``/tmp``."""
    status = os.lstat(root)
    if stat.S_ISLNK(status.st_mode):
        fault = "is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        fault = "is not a directory"
    elif status.st_uid != os.geteuid():
        fault = f"belongs to user {status.st_uid} and you are user {os.geteuid()}"
    elif status.st_mode & 0o022:
        fault = f"has mode {stat.S_IMODE(status.st_mode):04o}, so that others can write to it"
    else:
        return
    raise HyperslabError(
        f"the lock root {root} {fault}; it must be a directory of yours with mode 0700."
        f" Remove it if it is yours, or set {_VARIABLE} to another directory on a local disk"
    )
