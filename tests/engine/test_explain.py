"""Explanations: every line says what the plan holds."""

from __future__ import annotations

import numpy as np
from strategies import virtual

import hyperslab as hs
from hyperslab.planning.plan import Plan
from hyperslab.planning.planner import build
from hyperslab.settings import resolve


@hs.kernel
def anomaly(t, clim, factor, at, out):
    t, clim, factor, at, out


@hs.kernel
def stack(shots, image):
    shots, image


def plan(kernel, *arguments, workers=8, memory="2GB", **options) -> Plan:
    return build(
        kernel,
        arguments,
        settings=resolve(workers=workers, memory=memory, environ={}),
        **options,
    )


def array(shape, dtype="f4", inode=10, **changes) -> hs.Array:
    return hs.Array(virtual(shape, dtype, inode=inode, path=f"/data/{inode}.npy", **changes))


T = (2048, 361, 720)


def test_a_person_can_read_what_will_be_done(tmp_path):
    made = plan(
        anomaly,
        hs.read(array(T), halo=(0, 1, 1), boundary="nearest"),
        array((361, 720), inode=11),
        1.5,
        hs.ORIGIN,
        hs.write(array(T, inode=12)),
        region=(4, None, None),
    )
    lines = made.explain().splitlines()
    buffers = 4 * 363 * 722 * 4 + 4 * 361 * 720 * 4
    touched = buffers + 361 * 720 * 4
    batch = made.batch
    assert lines == [
        "kernel   anomaly(t, clim, factor, at, out)",
        "domain   2,048 × 361 × 720",
        f"regions  512 of 4 × 361 × 720, {touched / 1e6:.3g} MB each",
        f"tasks    {made.tasks} of {batch} regions, {touched * batch / 1e6:.3g} MB each",
        "arguments",
        "  t       read        float32 2,048 × 361 × 720, 2.13 GB, halo ((0, 0), (1, 1), (1, 1)), "
        "boundary nearest, /data/10.npy",
        "  clim    read        float32 361 × 720, 1.04 MB, axes (1, 2), /data/11.npy",
        "  factor  sent as it is, 1.5",
        "  at      the region's origin",
        "  out     write       float32 2,048 × 361 × 720, 2.13 GB, /data/12.npy",
        "locks    none: no two tasks touch the same bytes",
        "deaths   what a worker was doing when it died is done again",
        f"memory   {buffers / 1e6:.3g} MB per worker, 8 of 8 workers taking part, "
        f"0 B between them, 0 B in the coordinator: peak {8 * buffers / 1e6:.3g} MB",
        "         budget 2 GB (memory=2 GB); besides, each worker process takes about 60 MB; "
        "mapped file pages are the system's cache and not counted",
        "traffic  reads 2.13 GB, writes 2.13 GB",
    ]


def test_locks_are_told_for_what_is_shared_or_merged():
    text = plan(
        stack,
        array((10**6,), shared=True),
        hs.accumulate(array((10**6,), "f8", inode=11), footprint=lambda r: r),
        region=10**5,
    ).explain()
    assert "shared with other programs" in text
    assert "op add, a buffer a region, merged under locks in region order" in text
    locks = next(line for line in text.splitlines() if line.startswith("locks"))
    # 400,000 bytes a region, in stripes of 64 KiB; and all of the image.
    assert locks == ("locks    shots: up to 7 stripes, shared; image: up to 64 stripes, exclusive")


def test_accumulations_tell_how_they_gather():
    def how(dtype, size=100, memory="2GB", **options):
        into = hs.accumulate(array((size,), dtype, inode=11), **options)
        return plan(stack, array((10**5,)), into, memory=memory).explain()

    assert "op add, a private copy a leaf, merged in order" in how("f8")
    assert "op minimum, a private copy" in how("i4", op="minimum")
    assert "op add, in the file, under its lock\n" not in how("i8")
    assert "in the file, under its lock, /data" in how("i8", memory="700")
    assert "in the file, under its lock in region order" in how("f8", size=2**25 + 1)
    assert "merged under locks, /data" in how("f8", footprint=lambda r: np.s_[:5], order="any")


def test_whole_strided_and_small_arrays_are_told():
    text = plan(
        anomaly,
        array((100, 80))[:, ::2],
        hs.read(array((7,), inode=11), whole=True),
        np.zeros((2, 3), "i4"),
        0,
        hs.write(array((100, 40), inode=12)),
    ).explain()
    assert "100 × 40, 16 kB, strided views, /data/10.npy" in text
    assert "float32 7, 28 B, whole, /data/11.npy" in text
    assert "sent as it is, int32 array 2 × 3" in text


def test_empty_and_single_domains_are_told():
    for shape, domain, regions in [((0, 5), "0 × 5", "0 of"), ((), "a single element", "1 of")]:
        text = plan(stack, array(shape), hs.write(array(shape, inode=11))).explain()
        assert f"domain   {domain}\n" in text
        assert f"regions  {regions}" in text


def test_short_memory_is_told():
    text = plan(stack, array(T), hs.write(array(T, inode=11)), memory="5MB").explain()
    assert "2 of 8 workers taking part" in text
    assert "budget 5 MB (memory=5 MB)" in text
