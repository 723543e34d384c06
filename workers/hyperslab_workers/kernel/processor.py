"""What machine code depends on: where that is equal, it may be exchanged."""

from __future__ import annotations

import functools
import os
import re
import sys
from typing import Final

__all__ = ["described", "fingerprint"]

_DESCRIBING: Final = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")

_COMPUTING: Final = re.compile(
    r"(3dnow|abm|adx|amx|as[id]|atomics|avx|bf16|bmi|cmov|cx16|f16c|fcma|fma|fp|gfni|i8mm|jscvt"
    r"|lrcpc|movbe|popcnt|s?sse|sha|sve|sm[34]|tbm|v?aes|v?pclmul|pmull|xop|crc)"
)
"""Features of a processor that show in the code. The system lists others as well, and which of
those depends on its own version."""


def described() -> tuple[str, ...]:
    """What the system says of the first processor, line by line; nothing where it does not.

    Raises
    ------
    OSError
        It cannot be asked.
    """
    with open("/proc/cpuinfo", "rb") as file:
        first = file.read(1 << 16).partition(b"\n\n")[0].decode("latin-1")
    return tuple(line for line in first.splitlines() if line.startswith(_DESCRIBING))


@functools.cache
def fingerprint() -> tuple[tuple[str, str], ...]:
    """What machine code depends on, as (name, value) pairs; equal where it may be exchanged.

    The model of the processor is not part of it: what is not among its features changes which
    instructions are chosen, but neither whether they can be run nor what they give.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        ("Python", version),
        ("processors of type", os.uname().machine),
        ("CPU features", ",".join(sorted(_features()))),
    )


def _features() -> set[str]:
    try:
        lines = described()
    except OSError:
        lines = ()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return {word for word in value.split() if _COMPUTING.match(word)}
    # The system tells nothing: LLVM asks the processor.
    import llvmlite.binding as llvm

    return {name for name, on in llvm.get_host_cpu_features().items() if on}
