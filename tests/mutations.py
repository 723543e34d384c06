"""Bytes, and what becomes of them in the hands of a careless or hostile writer."""

from __future__ import annotations

import os
import random

__all__ = ["how_many", "mutated"]

NUMBERS = (
    *(b"0", b"-1", b"1", b"64", b"65", b"255", b"65536", b"4294967296", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551616", b"1e400", b"-1e400", b"nan", b"inf", b"1.5"),
    *(b"1" * 400, b"9" * 4301, b"0x" + b"f" * 5000, b"True", b"None", b"true", b"null", b"()"),
)
PIECES = (
    *(b"'", b'"', b"\\", b"\0", b"\n", b" ", b"\t", b"\xff", b"\xed\xa0\xbd", b"\\ud83d", b"\\x00"),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b"(",
        b")",
        b",",
        b":",
        b"#",
        b"&a ",
        b"*a",
        b"!!int ",
        b"<<: ",
        b"$",
    ),
    *(b"[" * 200, b"(" * 200, b"a." * 100, b"x" * 5000, b"/" * 5000, b"../", b"f8", b">f4", b"O"),
    *(b"S0", b"V", b"S2000000000", b"(3,)f4", b"M8[ns]", b"c16", b"f2", b"U5", b"?", b"3f4", b"|"),
)


def how_many(short: int) -> int:
    """How many mutations a test tries: few, unless ``FUZZ_MUTATIONS`` asks for more."""
    return int(os.environ.get("FUZZ_MUTATIONS", short))


def mutated(seed: bytes, chance: random.Random, *, words: tuple[bytes, ...] = ()) -> bytes:
    """The bytes with one to four changes."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((0, 1, 1, 2, 5, 20))
        match chance.randrange(6):
            case 0:
                data[at : at + length] = b""
            case 1:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 2:
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + chance.randrange(60)]
            case 3:
                data[at : at + length] = chance.choice(PIECES)
            case 4:
                data[at : at + length] = chance.choice(NUMBERS)
            case _:
                data[at : at + length] = chance.choice(words or PIECES)
    return bytes(data)
