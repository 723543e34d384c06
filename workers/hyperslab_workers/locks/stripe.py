"""One stripe: a reader-writer lock between the threads of all processes.

``fasteners.InterProcessReaderWriterLock`` is a POSIX lock on a file, and that belongs to the
process: it knows nothing of threads, two objects on one file do not exclude each other, and it
lets a steady stream of readers starve a writer. A stripe adds what is missing::

    claim -> queue of this process        first come, first served; readers side by side
          -> gate file, shared/exclusive  whoever waits for the rw file holds it: no overtaking
          -> rw file, shared/exclusive    fasteners' lock, once for all claims of this process

Rejected: ``fasteners.ReaderWriterLock`` for the threads (no time-outs, and an interrupted
writer leaves it shut for readers for ever); a count of readers instead of a queue (with "no
reader enters while a writer waits", two writers in a loop starve the readers).

Every step can be interrupted by a signal handler that raises. So nothing is counted: what a
claim holds follows from its place in the queue, and :meth:`Stripe.release` may be called in any
state and as often as needed.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import threading
import time
from io import FileIO

import fasteners

from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.locks.directory import LockDirectory

__all__ = ["Claim", "LockRemoved", "Stripe"]

# Seconds between two tries for a file another process holds. fasteners' own polling starts at
# 10 ms, longer than most regions are held.
_FIRST_DELAY = 0.0001
_LAST_DELAY = 0.003

# struct flock of <fcntl.h>: type, whence, start, length, pid; padded at its end.
_FLOCK = struct.Struct("@hhqqi0q")

_kept_open: set[_LockFile] = set()
_KEEP_OPEN = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class LockRemoved(HyperslabError):
    """The lock file was removed: whoever comes next makes a new one, and is not kept out."""


class Claim:
    """One thread's wish to hold one stripe, from its first try to its release."""

    __slots__ = ("exclusive", "granted", "stripe")

    def __init__(self, stripe: Stripe, exclusive: bool) -> None:
        self.stripe = stripe
        self.exclusive = exclusive
        self.granted = False


class Stripe:
    """One stripe in this process; there must be no second object for its files.

    Parameters
    ----------
    directory : LockDirectory
        Where its lock files are.
    number : int
        Its number there.
    """

    def __init__(self, directory: LockDirectory, number: int) -> None:
        self._gate = _GateFile(directory, f"{number:02d}.gate")
        self._rw = _LockFile(directory, f"{number:02d}.rw")
        self._gate_kept = False
        self._claims: list[Claim] = []
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)

    def acquire(self, claim: Claim, deadline: float | None) -> bool:
        """Wait for the stripe; False if it was not free by `deadline` (of ``time.monotonic``).

        Whether it returns or raises, :meth:`release` has to follow.

        Raises
        ------
        LockRemoved
            The lock file is no longer there, and a lock on it keeps nobody out.
        """
        delay = _FIRST_DELAY
        with self._mutex:
            self._claims.append(claim)
            while True:
                wait = None
                if self._is_next(claim):
                    if self._take_files(claim.exclusive):
                        claim.granted = True
                        if self._rw.is_removed():
                            raise self.removed("was removed while it was waited for")
                        return True
                    wait, delay = delay, min(delay * 1.5, _LAST_DELAY)
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    wait = left if wait is None else min(wait, left)
                # Also the pause between two tries: a release in this process ends it early.
                self._changed.wait(wait)

    def release(self, claim: Claim) -> None:
        """Give back whatever `claim` holds; harmless if that is nothing."""
        with self._mutex:
            if claim not in self._claims:
                return
            if not claim.granted:
                self._gate.unlock()
                self._gate_kept = False
            if not any(other.granted for other in self._claims if other is not claim):
                self._rw.unlock()
            if len(self._claims) > 1:
                self._changed.notify_all()
            self._claims.remove(claim)  # Last: an interrupted release is called again.

    def is_removed(self) -> bool:
        """Whether the lock file has no name any more."""
        with self._mutex:
            return self._rw.is_removed()

    def removed(self, what: str) -> LockRemoved:
        """The error for that."""
        return LockRemoved(
            f"the lock file {self._rw.path_of_file} {what}, perhaps by a cleaner of old files:"
            " others may have written at the same time. Check the data, and keep the lock directory"
            " where nobody cleans up (HYPERSLAB_LOCK_DIR or lock_dir=)"
        )

    def blocker(self, claim: Claim) -> str:
        """Who keeps `claim` waiting, in words; ``""`` if that cannot be told (any more)."""
        with self._mutex:
            if not self._is_next(claim):
                return "another thread of this process"
            pid = self._rw.holder(claim.exclusive) or self._gate.holder(claim.exclusive)
        if not pid:
            return ""
        try:
            with open(f"/proc/{pid}/comm") as name:
                return f"process {pid} ({name.read().strip()})"
        except OSError:
            return f"process {pid}"

    def close(self) -> None:
        """Close the lock files, which drops what this process holds of them."""
        self._gate.close()
        self._rw.close()

    def _is_next(self, claim: Claim) -> bool:
        """Whether nobody before `claim` in the queue, holding or waiting, excludes it."""
        for earlier in self._claims:
            if earlier is claim:
                return True
            if earlier.exclusive or claim.exclusive:
                return False
        return True

    def _take_files(self, exclusive: bool) -> bool:
        """One try for the files, without waiting, for a claim that is next in the queue."""
        if not exclusive and any(claim.granted for claim in self._claims):
            # The file is ours already. Yet pass through the gate: readers of this process that
            # relieve one another would otherwise shut out another process's writer for ever.
            passed = self._gate.try_lock(exclusive=False)
            self._gate.unlock()
            return passed
        if not self._gate_kept:
            if not self._gate.try_lock(exclusive):
                return False
            self._gate_kept = True
        if not self._rw.try_lock(exclusive):
            return False
        self._gate.unlock()
        self._gate_kept = False
        return True


class _LockFile(fasteners.InterProcessReaderWriterLock):  # type: ignore[misc]
    """fasteners' lock on a file that stays open between uses: 3 µs instead of 20.

    Should a later fasteners name its two hooks otherwise, they are no longer called and the
    lock is as slow as it was, and as safe.
    """

    # fasteners' attribute: the open file, None while it is shut.
    lockfile: FileIO | None

    def __init__(self, directory: LockDirectory, name: str) -> None:
        super().__init__(f"{directory.path}/{name}")
        self._directory = directory
        self._name = name

    def try_lock(self, exclusive: bool) -> bool:
        try:
            return self._try_lock(exclusive)
        except (RuntimeError, OSError) as error:
            raise HyperslabError(
                f"the lock file {self.path_of_file} cannot be locked: {error}. Set"
                " HYPERSLAB_LOCK_DIR (or lock_dir=) to a directory on a local disk that you may"
                " write to"
            ) from error

    def _try_lock(self, exclusive: bool) -> bool:
        if exclusive:
            return bool(self.acquire_write_lock(blocking=False))
        return bool(self.acquire_read_lock(blocking=False))

    def unlock(self) -> None:
        if self.lockfile is not None:
            self.release_write_lock()

    def close(self) -> None:
        if self.lockfile is not None:
            self.lockfile.close()
            self.lockfile = None
        _kept_open.discard(self)

    @property
    def path_of_file(self) -> str:
        """Where it was made."""
        return f"{self._directory.path}/{self._name}"

    def is_removed(self) -> bool:
        """Whether the open file has no name any more."""
        return self.lockfile is not None and os.fstat(self.lockfile.fileno()).st_nlink == 0

    def holder(self, exclusive: bool) -> int:
        """Process id of another process whose lock excludes this one; 0 if there is none."""
        if self.lockfile is None:
            return 0
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        question = _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)
        try:
            answer = fcntl.fcntl(self.lockfile, fcntl.F_GETLK, question)
        except OSError:
            return 0
        found, *_, pid = _FLOCK.unpack(answer)
        return 0 if found == fcntl.F_UNLCK else max(int(pid), 0)

    def _do_open(self) -> None:
        if self.lockfile is None:
            # Not fasteners' way, which makes a directory that is missing and gives the file the
            # umask's permissions.
            self.lockfile = FileIO(self._directory.open(self._name), "r+")
            _kept_open.add(self)

    def _do_close(self) -> None:
        # Within a share of the open files a process may have: 64 stripes are 128 files.
        if len(_kept_open) > _KEEP_OPEN:
            self.close()


class _GateFile(_LockFile):
    """A lock file without fasteners' timing and logging, 1 µs instead of 8: only ever tried."""

    def _try_lock(self, exclusive: bool) -> bool:
        self._do_open()
        assert self.lockfile is not None
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.lockf(self.lockfile, kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the system likes.
            return False
        return True

    def unlock(self) -> None:
        if self.lockfile is not None:
            fcntl.lockf(self.lockfile, fcntl.LOCK_UN)
            self._do_close()
