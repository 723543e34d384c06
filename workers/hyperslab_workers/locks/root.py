"""Where lock directories live, and whether a lock can be trusted there.

Locks never lie beside the data: data may be read-only, on a network filesystem, or owned by
somebody else, and a lock file must be writable by all who use it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from hyperslab_workers import host, owned
from hyperslab_workers.descriptors import open_apart
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.host import temporary_directory

__all__ = [
    "PROBES",
    "PROBE_SECONDS",
    "default_lock_root",
    "filesystem_type",
    "is_own_root",
    "names_default_root",
    "open_root",
    "probe",
    "real_root",
]

_VARIABLE = "HYPERSLAB_LOCK_DIR"
_OWN_ROOT = "hyperslab-locks-"

PROBES = ".hyperslab-probe-"
"""How the names of files begin with which locks are tried."""

PROBE_SECONDS = 20.0
"""Seconds that a trial takes at most."""

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
        return real_root(host.since_start(named))
    writable = os.access("/tmp", os.W_OK | os.X_OK)
    parent = "/tmp" if writable else temporary_directory(f"{_VARIABLE} (or lock_dir=)")
    return os.path.join(os.path.realpath(parent), f"{_OWN_ROOT}{os.geteuid()}")


def names_default_root() -> str:
    """What says where the default root is, for a message."""
    return _VARIABLE if os.environ.get(_VARIABLE) else "the default"


def real_root(path: str) -> str:
    """The directory that a path leads to, whichever way it is given.

    Raises
    ------
    HyperslabError
        It is a link that anybody could have put there. Linux can refuse to follow such links by
        itself (``fs.protected_symlinks``), and not everywhere does.
    """
    with contextlib.suppress(OSError):
        link = os.lstat(path)
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            parent = os.stat(os.path.dirname(path))
            if parent.st_mode & stat.S_IWOTH and parent.st_uid != link.st_uid:
                raise HyperslabError(
                    f"the lock root {path} is a symbolic link that belongs to user {link.st_uid},"
                    f" in a directory where every user can make one: set {_VARIABLE} (or lock_dir=)"
                    " to the directory itself"
                )
    return os.path.realpath(path)


def is_own_root(root: str) -> bool:
    """Whether `root` is a default lock root, which is removed when it is empty."""
    return Path(root).name.startswith(_OWN_ROOT)


def open_root(root: str) -> int:
    """Open a lock root, which is made where it is missing, to reach from there what is in it.

    Returns
    -------
    int
        File descriptor, which cannot be listed.

    Raises
    ------
    HyperslabError
        It cannot be made; it is a default root that is no private directory of this user, or one
        where every user can exchange what is in it; or it is on a filesystem whose locks do not
        exclude.
    FileNotFoundError
        It was removed meanwhile.
    """
    try:
        if is_own_root(root):
            with contextlib.suppress(FileExistsError):
                Path(root).mkdir(0o700)
        else:
            Path(root).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Not passed on: a FileNotFoundError would read as "removed meanwhile, try again".
        raise HyperslabError(
            f"the lock root {root} cannot be used ({error.strerror}). Set {_VARIABLE} (or"
            " lock_dir=) to a directory on a local disk"
        ) from None
    fd = open_apart(root, owned.PATH_FLAGS)
    try:
        _check_root(root, os.fstat(fd))
        if _is_doubtful(root) and not _probed(root):
            raise HyperslabError(
                f"the lock root {root} is on a filesystem of type {filesystem_type(root)}, where a"
                " lock held by one process does not keep out another: writes would be lost without"
                f" a sign. Set {_VARIABLE} (or lock_dir=) to a directory on a local disk"
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


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
        False also if no lock can be taken there at all, or not in time.
    """
    try:
        handle, path = tempfile.mkstemp(prefix=PROBES, dir=root)
    except OSError:
        return False
    os.close(handle)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROBE, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
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


def _check_root(root: str, status: os.stat_result) -> None:
    """Refuse a root that somebody else could have laid out for us, or can exchange under us."""
    fault = "" if stat.S_ISDIR(status.st_mode) else "is not a directory"
    mode = status.st_mode
    if is_own_root(root):
        fault = owned.fault_of(status) or fault
        advice = (
            "it must be a directory of yours with mode 0700. Remove it if it is yours, or set"
            f" {_VARIABLE} to another directory on a local disk"
        )
    else:
        if not fault and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            fault = f"has mode {stat.S_IMODE(mode):04o}"
        advice = (
            "every user can remove another's locks there, and then two programs write at once."
            " Set its sticky bit (chmod +t), or take the right to write away from others"
        )
    if fault:
        raise HyperslabError(f"the lock root {root} {fault}; {advice}")
