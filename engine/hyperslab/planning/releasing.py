"""Whether workers let go of a region's file pages when they are done with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperslab.planning.memory import group_limit
from hyperslab.settings import Release
from hyperslab_workers.access import Access

__all__ = ["releases"]


def releases(wanted: Release, accesses: Sequence[Access], root: Path = Path("/")) -> bool:
    """What the setting means for a job.

    Pages of files count against the control group of whoever touches them first. Where all of
    them have room, to let go of one means to fetch it again for the next job. Where not, the
    system has to look for some to drop at every step, and it drops program code and what is
    just being computed along with what nobody will look at again.

    Parameters
    ----------
    wanted : bool or "auto"
        The setting.
    accesses : sequence of Access
        The arrays of the job.
    root : Path
        Root of the file system, for tests.
    """
    if wanted != "auto":
        return wanted
    limit = group_limit(root)
    if limit is None:
        return False
    sizes: dict[tuple[int, int], int] = {}
    for access in accesses:
        first, last = access.array.extent()
        # Views of one file may be neighbours, but take no more than the file.
        known = sizes.get(access.array.identity, 0)
        sizes[access.array.identity] = min(known + last - first, access.array.file_size)
    return sum(sizes.values()) > limit
