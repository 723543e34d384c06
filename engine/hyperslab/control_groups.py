"""Where the limits of this process's control groups stand (cgroup v1 and v2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

__all__ = ["directories"]


def directories(
    controller: Literal["memory", "cpu"], root: Path = Path("/")
) -> Iterator[tuple[Path, Literal[1, 2]]]:
    """Directories that may hold a limit for this process: its own group's, and all above.

    Parameters
    ----------
    controller : {"memory", "cpu"}
        Whose limits.
    root : Path
        Root of the file system, for tests.

    Yields
    ------
    directory : Path
        It need not exist.
    version : {1, 2}
        The version of control groups, which name their files differently.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    version: Literal[1, 2]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, version = root / "sys/fs/cgroup", 2
        elif controller in controllers.split(","):
            base, version = root / "sys/fs/cgroup" / controller, 1
        else:
            continue
        group = base / path.lstrip("/")
        while True:
            yield group, version
            if group == base or base not in group.parents:
                break
            group = group.parent
        # Inside a container the path may be the host's: its own mount is the base then.
        yield base, version
