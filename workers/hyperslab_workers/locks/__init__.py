"""Striped reader-writer locks: exclusion between all threads of all processes of a machine.

::

    striped     StripedLock and hold_all: what others call
    holding     what each thread holds
    table       what this process uses
    stripe      one stripe: between threads, then between processes
    home        where the locks of each file are, settled once
    directory   the life of one file's lock directory
    root        where lock directories live, and whether locks work there
"""

from hyperslab_workers.locks.home import home_of
from hyperslab_workers.locks.striped import (
    Extent,
    Guard,
    StripedLock,
    default_lock_root,
    held_here,
    hold_all,
    holds,
    lock_for,
    probe,
    release_all,
    sweep,
)

__all__ = [
    "Extent",
    "Guard",
    "StripedLock",
    "default_lock_root",
    "held_here",
    "hold_all",
    "holds",
    "home_of",
    "lock_for",
    "probe",
    "release_all",
    "sweep",
]
