"""From Numba's optimised module to an object image that shows one symbol and nothing else.

Numba leaves helpers, reference counting and environments visible in a module. Made private,
what is not used falls away, and with it most needs for Numba at run time; and no symbol can
meet one of the same name from another kernel.

This module imports llvmlite: it is imported only where something is compiled.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import llvmlite.binding as llvm

from hyperslab.compiler.temporaries import link_allocator

__all__ = ["Machine", "finish"]

_MATH: Final = """
    acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1
    fabs fdim floor fma fmax fmin fmod frexp hypot ldexp lgamma llround log log10 log1p log2
    lround modf nearbyint nextafter pow remainder rint round sin sincos sinh sqrt tan tanh
    tgamma trunc
"""
_MEMORY: Final = "memcpy memmove memset memcmp bcmp malloc free"
_C_LIBRARY: Final = frozenset(
    [*_MEMORY.split(), *_MATH.split(), *(name + "f" for name in _MATH.split())]
)
"""What an object may need and still run without Numba: functions every process has."""

_INTERNAL: Final = "internal"


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine code of one kernel."""

    image: bytes
    """Relocatable ELF object."""

    symbol: str
    """Its entry point."""

    arguments: tuple[str, ...]
    """LLVM's names for the types of the entry's arguments, without the first two."""

    undefined: tuple[str, ...]
    """Symbols it needs from elsewhere."""

    raises: dict[bytes, tuple[str, str, str, int, str]]
    """Exceptions it can raise: Numba's pickle -> class, message, file, line, function."""

    bitcode: bytes
    """The module, for Numba's own way of loading."""

    @property
    def stands_alone(self) -> bool:
        """Whether the C library is all it needs."""
        return _C_LIBRARY.issuperset(self.undefined)


def finish(library: Any, entry: str, keep: tuple[str, ...] = ()) -> Machine:
    """Make everything in a compiled library private but `entry` and `keep`, and emit it.

    Parameters
    ----------
    library : numba CPUCodeLibrary
        A finished library; it is not changed.
    entry : str
        Symbol of the kernel.
    keep : tuple of str
        Further symbols that must stay visible, or the beginnings of them.
    """
    module = llvm.parse_bitcode(library._final_module.as_bitcode())
    target = library.codegen._tm
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options())
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    visible = (entry, *keep)
    _hide(module, visible)
    passes.run(module, builder)
    arguments = tuple(str(a.type) for a in module.get_function(entry).arguments)[2:]
    if not keep:
        # A kernel that goes to Numba gets its memory from there.
        link_allocator(module)
        module.link_in(llvm.parse_assembly(_frame_entry(module, entry, arguments)))
        entry += FRAME_SUFFIX
        _hide(module, (entry,))
        passes.run(module, builder)
    image = target.emit_object(module)
    return Machine(
        image=image,
        symbol=entry,
        arguments=arguments,
        undefined=tuple(sorted(_undefined_symbols(image))),
        raises=dict(_exceptions(module)),
        bitcode=module.as_bitcode(),
    )


FRAME_SUFFIX: Final = ".frame"


def _frame_entry(module: Any, entry: str, arguments: tuple[str, ...]) -> str:
    """A function that takes the address of all arguments in place of the arguments.

    They stand one behind the other in slots of eight bytes, and behind them is room for Numba's
    result and for its exception. From Python a call with one argument takes a fraction of the
    time of one with twenty, of which most are the same for every region.
    """
    lines, values = [], []
    for number, kind in enumerate(arguments):
        lines.append(f"  %p{number} = getelementptr i64, ptr %frame, i64 {number}")
        lines.append(f"  %v{number} = load {kind}, ptr %p{number}")
        values.append(f"{kind} %v{number}")
    count = len(arguments)
    passed = ", ".join(["ptr %result", "ptr %exception", *values])
    return "\n".join(
        [
            f'target triple = "{module.triple}"',
            f'target datalayout = "{module.data_layout}"',
            f'declare i32 @"{entry}"({", ".join(["ptr", "ptr", *arguments])})',
            f'define i32 @"{entry}{FRAME_SUFFIX}"(ptr %frame) {{',
            *lines,
            f"  %result = getelementptr i64, ptr %frame, i64 {count}",
            f"  %exception = getelementptr i64, ptr %frame, i64 {count + 1}",
            f'  %status = call i32 @"{entry}"({passed})',
            "  ret i32 %status",
            "}",
        ]
    )


def _hide(module: Any, visible: tuple[str, ...]) -> None:
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and not value.name.startswith(visible):
            value.linkage = _INTERNAL


_PICKLE = re.compile(r' constant \[\d+ x i8\] c"(.*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(\\|[0-9A-Fa-f]{2})")


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"\\" if match[1] == b"\\" else bytes([int(match[1], 16)])


def _exceptions(module: Any) -> Iterator[tuple[bytes, tuple[str, str, str, int, str]]]:
    """Decode the exceptions of a module, here, where their classes can be imported."""
    for value in module.global_variables:
        # A copy from a linked library has a number after its name, its checksum's too.
        if not value.name.startswith(".const.pickledata.") or ".sha1" in value.name:
            continue
        text = _PICKLE.search(str(value))
        if text is None:
            continue
        data = _ESCAPE.sub(_unescape, text[1].encode("latin-1"))
        match pickle.loads(data):
            case (type() as raised, tuple() as arguments, place):
                function, filename, line = place or ("", "", 0)
                try:
                    message = str(raised(*arguments))
                except Exception:
                    # The class wants other arguments: that is the user's bug to see.
                    message = ", ".join(map(str, arguments))
                yield data, (raised.__name__, message, filename, line, function)


def _undefined_symbols(image: bytes) -> Iterator[str]:
    """The undefined symbols of an ELF64 object: what the linker will ask for.

    Read from the object and not from the module, because LLVM turns some of its own
    operations (powers, remainders, copies) into library calls only when it emits code.
    """
    if image[:5] != b"\x7fELF\x02":
        raise RuntimeError("LLVM did not emit a 64-bit ELF object: this platform is unsupported")
    order = "<" if image[5] == 1 else ">"
    table = struct.unpack_from(order + "Q", image, 40)[0]
    size, count = struct.unpack_from(order + "HH", image, 58)
    sections = [
        struct.unpack_from(order + "IIQQQQIIQQ", image, table + i * size) for i in range(count)
    ]
    symbol_table = 2  # SHT_SYMTAB
    for section in sections:
        if section[1] != symbol_table:
            continue
        names = sections[section[6]][4]
        start, length, entry_size = section[4], section[5], section[9]
        for position in range(start + entry_size, start + length, entry_size):
            name, _, _, where = struct.unpack_from(order + "IBBH", image, position)
            if where == 0 and name:
                end = image.index(b"\0", names + name)
                yield image[names + name : end].decode()
