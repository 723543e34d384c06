"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from hyperslab import control_groups

__all__ = ["usable"]


def usable(root: Path = Path("/")) -> int:
    """Processors that this process may keep busy: its affinity, and its control groups' quotas.

    loky's count, which looks at the mount's own group alone, takes 30 ms to import.

    Parameters
    ----------
    root : Path
        Root of the file system, for tests.
    """
    count = len(os.sched_getaffinity(0))
    for directory, version in control_groups.directories("cpu", root):
        with contextlib.suppress(OSError, ValueError):
            if version == 2:
                quota, period = (directory / "cpu.max").read_text().split()
            else:
                quota = (directory / "cpu.cfs_quota_us").read_text()
                period = (directory / "cpu.cfs_period_us").read_text()
            # v2 says "max" for no limit, which is no number; v1 says -1.
            if int(quota) > 0:
                count = min(count, math.ceil(int(quota) / int(period)))
    return max(count, 1)
