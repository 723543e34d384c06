"""Scratch directories, as those see them who remove what a dead process left.

That is a worker whose coordinator is gone, or the next program that uses the same root. What is
removed is taken from its *mark* first (see ``owned``), so nobody removes what is in use, whatever
a list or a name may say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hyperslab_workers import owned
from hyperslab_workers.fresh_file import write_in_place

__all__ = ["OWNER", "SESSIONS", "list_sessions", "listed_sessions", "remove_abandoned"]

OWNER = "owner.lock"
"""Mark of a scratch directory. It holds the number of its process, for a person to read."""

SESSIONS = "sessions"
"""File in a scratch directory that lists all scratch directories of its process."""


def list_sessions(directory: int, paths: Iterable[str]) -> None:
    """Write into an open scratch directory which ones there are: a worker knows of one only."""
    # What separates them is in no path: a line break may be.
    data = b"\0".join(os.fsencode(path) for path in paths)
    write_in_place(SESSIONS, data, f"{SESSIONS}.{os.urandom(8).hex()}", dir_fd=directory)


def listed_sessions(session: str) -> list[str]:
    """All scratch directories of a process, of which it names the others in each."""
    try:
        directory = owned.open_own(session)
    except OSError:
        return []
    try:
        return os.fsdecode(owned.read_own(SESSIONS, directory)).split("\0")
    except OSError:
        return [session]
    finally:
        os.close(directory)


def remove_abandoned(path: str, dir_fd: int | None = None) -> bool:
    """Remove a scratch directory of this user that no process owns.

    Returns
    -------
    bool
        Whether it was nobody's.
    """
    try:
        directory = owned.open_own(path, dir_fd)
    except OSError:
        return False
    try:
        with owned.unowned(directory, OWNER) as free:
            if free:
                owned.clear(directory, OWNER)
                os.rmdir(path, dir_fd=dir_fd)
            return free
    except OSError:
        return False
    finally:
        os.close(directory)
