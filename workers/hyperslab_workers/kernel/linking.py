"""A linker for what the compiler emits: objects in which every address is a whole 64-bit word.

Numba compiles for the large code model, in which code and constants may lie anywhere: nothing is
reached by a distance, so there are no stubs, tables or limits of range, and a symbol's address is
stored where it is asked for (``R_X86_64_64``). An object that needs any more than that is left to
LLVM, whose libraries take a worker 20 ms and 20 MB to load.

Sections and relocations: System V ABI, and its AMD64 supplement, table 4.9.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Linked", "link"]

_HEAD: Final = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1.
_RELOCATABLE, _X86_64 = 1, 62
_ABSOLUTE: Final = 1
"""``R_X86_64_64``: the address of the symbol, and a number."""

_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_UNDEFINED, _FIRST_RESERVED = 0, 0xFF00
_UNWINDING: Final = ".eh_frame"
"""How to leave functions by C++ exceptions, of which kernels have none."""

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_WORD = struct.Struct("<Q")


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _NotUnderstood(Exception):
    """Something that LLVM has to see to."""


class Linked:
    """Machine code in this process, for as long as the object lives."""

    def __init__(self, memory: mmap.mmap, entry: int) -> None:
        self._memory = memory
        self.entry = entry
        """Address of the function that was asked for."""


def link(image: bytes, symbol: str, needed: Mapping[str, int]) -> Linked | None:
    """Bring an object into memory, or None where it has to be left to LLVM.

    Parameters
    ----------
    image : bytes
        Relocatable ELF object.
    symbol : str
        The function that is wanted.
    needed : mapping
        Address of each symbol that the object does not define.

    Raises
    ------
    OSError
        The system gives no memory for machine code.
    """
    try:
        return _link(image, symbol, needed)
    except (_NotUnderstood, struct.error, IndexError, KeyError, ValueError, OverflowError):
        return None


def _link(image: bytes, symbol: str, needed: Mapping[str, int]) -> Linked:
    if image[:7] != _HEAD or struct.unpack_from("<HH", image, 16) != (_RELOCATABLE, _X86_64):
        raise _NotUnderstood
    (table,) = _WORD.unpack_from(image, 40)
    size, count, names = struct.unpack_from("<HHH", image, 58)
    if size != _SECTION.size:
        raise _NotUnderstood
    sections = [
        _Section(*_SECTION.unpack_from(image, table + number * size)) for number in range(count)
    ]
    text = functools.partial(_text, image, sections[names].offset)
    loaded = {
        number: section
        for number, section in enumerate(sections)
        if section.flags & _ALLOC and text(section.name) != _UNWINDING
    }
    places, parts, length = _lay_out(loaded)
    memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for number, section in loaded.items():
        if section.kind == _PROGBITS:
            piece = image[section.offset : section.offset + section.size]
            memory[places[number] : places[number] + len(piece)] = piece
    (symbols,) = (section for section in sections if section.kind == _SYMTAB)
    name_of = functools.partial(_text, image, sections[symbols.link].offset)

    def address(number: int) -> int:
        at = symbols.offset + number * _SYMBOL.size
        name, _, _, where, value, _ = _SYMBOL.unpack_from(image, at)
        if where == _UNDEFINED:
            return needed[name_of(name)]
        if where >= _FIRST_RESERVED:
            raise _NotUnderstood
        return base + places[where] + int(value)

    for section in sections:
        if section.kind != _RELA or section.info not in loaded:
            continue
        end = section.offset + section.size
        for at in range(section.offset, end, _RELOCATION.size):
            offset, info, addend = _RELOCATION.unpack_from(image, at)
            if info & 0xFFFFFFFF != _ABSOLUTE or offset + 8 > loaded[section.info].size:
                raise _NotUnderstood
            value = (address(info >> 32) + addend) % 2**64
            _WORD.pack_into(memory, places[section.info] + offset, value)
    entry = _defined(image, symbols, symbol, name_of, address)
    for flags, start, stop in parts:
        _protect(base + start, stop - start, flags)
    return Linked(memory, entry)


def _lay_out(
    loaded: Mapping[int, _Section],
) -> tuple[dict[int, int], list[tuple[int, int, int]], int]:
    """Where each section goes, in parts of whole pages with one protection each."""
    places: dict[int, int] = {}
    parts: list[tuple[int, int, int]] = []
    at = 0
    for flags in sorted({section.flags & (_WRITE | _EXECUTE) for section in loaded.values()}):
        if flags == _WRITE | _EXECUTE:
            raise _NotUnderstood
        start = at
        for number, section in loaded.items():
            if section.flags & (_WRITE | _EXECUTE) != flags:
                continue
            alignment = max(section.alignment, 1)
            if section.kind not in (_PROGBITS, _NOBITS) or alignment > mmap.PAGESIZE:
                raise _NotUnderstood
            places[number] = -(-at // alignment) * alignment
            at = places[number] + section.size
        at = -(-max(at, start + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        parts.append((flags, start, at))
    return places, parts, at


def _defined(image: bytes, symbols: _Section, wanted: str, name_of: Any, address: Any) -> int:
    for number in range(1, symbols.size // _SYMBOL.size):
        name, _, _, where, _, _ = _SYMBOL.unpack_from(image, symbols.offset + number * _SYMBOL.size)
        if where != _UNDEFINED and name_of(name) == wanted:
            return int(address(number))
    raise _NotUnderstood


def _text(image: bytes, table: int, at: int) -> str:
    return image[table + at : image.index(b"\0", table + at)].decode()


def _protect(address: int, size: int, flags: int) -> None:
    protection = mmap.PROT_READ
    protection |= mmap.PROT_WRITE if flags & _WRITE else 0
    protection |= mmap.PROT_EXEC if flags & _EXECUTE else 0
    if _mprotect()(address, size, protection) != 0:
        raise OSError(ctypes.get_errno(), "no memory for machine code can be had")


@functools.cache
def _mprotect() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mprotect
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
