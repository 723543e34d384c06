"""Where the locks of each file live: settled once for each file in a process.

There are many ways to come to a file's lock (a lock by hand, an assignment, a job of any engine)
and several settings that may name its place. Were each to look for itself, two of them could lock
in two places, and exclude nobody. So the first one settles it; whoever names no place follows, and
whoever names another one is refused.

Programs that share a file have to agree by themselves: by ``HYPERSLAB_LOCK_DIR``, or by naming
nothing, for then all use the default root.
"""

from __future__ import annotations

import functools

from hyperslab_workers import forks
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.locks.root import default_lock_root, names_default_root, real_root

__all__ = ["home_of"]

_lock = forks.lock()
_homes: dict[tuple[int, int, int], tuple[str, str]] = {}
"""For each file the root of its lock directory, and who named it."""


_real = functools.lru_cache(maxsize=256)(real_root)


def home_of(ref: ArrayRef, engine: str | None = None, *, settle: bool = True) -> str:
    """The lock root of the file behind `ref`.

    Parameters
    ----------
    ref : ArrayRef
        An array in the file; it may name a root itself.
    engine : str, optional
        The root that an engine was given.
    settle : bool
        Whether this settles it, where it is not settled yet.

    Raises
    ------
    HyperslabError
        Two settings disagree; both are named.
    """
    key = (ref.device, ref.inode, ref.born)
    home = _homes.get(key)
    for path, who in ((ref.lock_dir, "its own lock_dir="), (engine, "the engine's lock_dir=")):
        if path is None:
            continue
        named = (_real(path), who)
        if home is None:
            home = named
        elif home[0] != named[0]:
            raise HyperslabError(
                f"the locks of {ref.path!r} are in {home[0]} ({home[1]}), and {who} names"
                f" {named[0]}: who locks in one place does not keep out who locks in the other."
                " Give the same directory in both, or set HYPERSLAB_LOCK_DIR alone, for this"
                " program and all others that share the file"
            )
    if home is None:
        home = (default_lock_root(), names_default_root())
    if settle and key not in _homes:
        with _lock:
            known = _homes.setdefault(key, home)
        if known[0] != home[0]:
            return home_of(ref, engine)  # Another thread was faster.
    return home[0]
