"""A map, a reduction and a stencil over a file that is larger than the control group.

    python small_group.py DIRECTORY RELEASE GROUP

Enters the group, unless that is "-", and prints one line of JSON: seconds and a digest for each
job. RELEASE is "auto", "1" or "0".
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import hyperslab as hs

COLUMNS = 2**18 // 8


@hs.kernel
def scale(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, j] * 2 + 1


@hs.kernel
def add_rows(a, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total[j] += a[i, j]


@hs.kernel
def laplacian(a, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (
                a[i, j + 1] + a[i + 2, j + 1] + a[i + 1, j] + a[i + 1, j + 2] - 4 * a[i + 1, j + 1]
            )


def _digest(path: Path) -> str:
    digest, size = hashlib.blake2b(), 2**20
    with open(path, "rb", buffering=0) as file:
        at = 0
        while block := file.read(size):
            digest.update(block)
            # Read once and not needed again: it must not count against the group for long.
            os.posix_fadvise(file.fileno(), at, len(block), os.POSIX_FADV_DONTNEED)
            at += len(block)
    return digest.hexdigest()


def _main(directory: Path, release: str, group: str) -> None:
    if group != "-":
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    os.environ["HYPERSLAB_RELEASE"] = release
    a = hs.open(directory / "a.npy")
    found: dict[str, object] = {}
    with hs.Engine(workers=2, progress=False, scratch=directory) as engine:
        for name in ("map", "reduction", "stencil"):
            path = directory / f"{name}.npy"
            started = time.monotonic()
            shape = (COLUMNS,) if name == "reduction" else a.shape
            out = hs.create(path, shape, "f8", overwrite=True)
            if name == "map":
                plan = engine.plan(scale, a, hs.write(out))
            elif name == "reduction":
                plan = engine.plan(add_rows, a, hs.accumulate(out))
            else:
                halo = hs.read(a, halo=1, boundary="nearest")
                plan = engine.plan(laplacian, halo, hs.write(out))
            plan.run()
            seconds = time.monotonic() - started
            found[name] = {
                "seconds": round(seconds, 2),
                "released": plan.release,
                "digest": _digest(path),
            }
            out.close()
            path.unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
