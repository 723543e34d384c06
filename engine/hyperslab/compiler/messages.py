"""Numba's errors in a scientist's words."""

from __future__ import annotations

import re
from typing import Final

from hyperslab.compiler.kernel import Kernel
from hyperslab.compiler.signature import describe
from hyperslab.errors import KernelError
from hyperslab_workers.kernel import ArgumentType

__all__ = ["explain"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SPECIFIC = re.compile(r"^\s*\w*Error: (?!Failed in nopython mode)(.+)$", re.MULTILINE)
_SIGNATURE = re.compile(r"^ *>>> (.+)$", re.MULTILINE)
_NO_IMPLEMENTATION = re.compile(r"No implementation of function (.+) found for signature")
_WHERE = (
    re.compile(r"\bat (?P<file>[^\n]+?) \((?P<line>\d+)\)"),
    re.compile(r"Raised from (?P<file>[^\n]+?) \((?P<line>\d+)\)"),
)
_NOISE: Final = (
    "Failed in nopython mode pipeline",
    "During:",
    "File ",
    "There are ",
    "Enable logging",
    "raised from ",
    "This error may have been caused by",
)
_ANALYSIS: Final = "The compiler failed to analyze the bytecode. "

# Where Numba stumbles over an unexpected case, its exception speaks of its own insides.
_CRASHES: Final = {
    "": "Numba breaks off without a reason",
    "'NoneType' object has no attribute 'args'": (
        "an operation in place (+=, -=, *=, …) does not fit the array it would change"
    ),
}

_TYPES = (
    (re.compile(r"readonly array\((\w+), (\d)d, \w\)"), r"read-only \1 array of \2 dimensions"),
    (re.compile(r"array\((\w+), (\d)d, \w\)"), r"\1 array of \2 dimensions"),
    (re.compile(r"Literal\[\w+\]\(([^)]*)\)"), r"\1"),
    (re.compile(r"UniTuple\((\w+) x (\d+)\)"), r"\2 indices"),
    (re.compile(r"\bof 1 dimensions"), "of 1 dimension"),
    (re.compile(r"unicode_type"), "text"),
)

_HINTS: Final = (
    (
        r"breaks off without a reason",
        "most often a mask or an index of several dimensions, as in out[a > 0] = 1; write it as "
        "a loop over elements with an if",
    ),
    (
        r"operation in place",
        "the array is an input, which is changed only if it is given to the job with "
        "hs.update(...), or its type cannot hold the result",
    ),
    (
        r"Unsupported array index type float",
        "an index is a whole number: divide with //, or convert with int(...)",
    ),
    (
        r"Unknown attribute '\w+' of type (?:float|int|uint|complex|bool|\d+ indices)",
        "this is a number here and no array: check the order of the arguments in the call",
    ),
    (
        r"Exception matching is limited",
        "catch with except: or except Exception:, or test the value before it is used",
    ),
    (
        r"scipy .*is required",
        "np.dot, np.linalg and the @ operator need the package scipy beside Numba; install it, "
        "or write the operation as a loop over elements",
    ),
    (
        r"object mode",
        "objmode needs the Python interpreter, which a kernel runs without; compute it outside",
    ),
    (
        r"Cannot modify read-?only array|read-only .* array.*setitem|Cannot resolve setattr",
        "an input is assigned to; give it to the job with hs.write(...) or hs.update(...)",
    ),
    (
        r"cannot index",
        "the number of indices differs from the number of dimensions of the array",
    ),
    (
        r"name '?\w+'? is not defined|Variable '\w+' is not defined",
        "define the name before the kernel is run, or hand it over as an argument",
    ),
    (
        r"Cannot determine Numba type of <class 'function'>|<class 'function'>",
        "decorate the helper with numba.njit",
    ),
    (
        r"Untyped global name|Cannot determine Numba type of",
        "kernels see numbers, arrays and functions decorated with numba.njit; take the numbers "
        "out of the Python object and hand them over as arguments",
    ),
    (
        r"unsupported NumPy function|Unknown attribute|has no attribute|No implementation of",
        "kernels know a part of NumPy (numba.readthedocs.io, 'Supported NumPy features'); "
        "write the operation as a loop over elements",
    ),
    (
        r"imprecise type|Cannot unify",
        "the type of a variable must be known and stay the same throughout the kernel",
    ),
    (
        r"construct is not supported|unsupported opcode|not supported",
        "kernels are loops, arithmetic and branches over arrays; do the rest outside",
    ),
)


def explain(
    error: Exception,
    kernel: Kernel,
    names: tuple[str, ...],
    types: tuple[ArgumentType, ...],
) -> KernelError:
    """The KernelError that says what Numba's `error` means for this kernel."""
    text = _ANSI.sub("", str(error))
    filename, line = _place(text, error, kernel)
    reason = _reason(text)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, f"{reason}\n{text}")), "")
    parts = [
        f"kernel {kernel.name} cannot be compiled ({filename}:{line}):",
        f"  {reason}",
        *([f"  hint: {hint}"] if hint else []),
        "arguments:",
        *[f"  {describe(name, declared)}" for name, declared in zip(names, types, strict=True)],
    ]
    return KernelError("\n".join(parts), kernel=kernel.name)


def _place(text: str, error: Exception, kernel: Kernel) -> tuple[str, int]:
    """The failing line, in the kernel's own file where Numba names one there."""
    places = [
        (match["file"].strip(), int(match["line"]))
        for pattern in _WHERE
        for match in pattern.finditer(text)
    ]
    loc = getattr(error, "loc", None)
    if loc is not None:
        places.append((loc.filename, loc.line))
    own = [place for place in places if place[0] == kernel.filename]
    inside = [p for p in own if _first_line(kernel) <= p[1] <= _last_line(kernel)]
    missing = re.search(r"name '(\w+)' is not defined", text)
    if missing:
        found = _line_of_name(kernel, missing[1])
        if found:
            return kernel.filename, found
    return (inside or own or [(kernel.filename, kernel.line)])[0]


def _first_line(kernel: Kernel) -> int:
    return kernel.line


def _last_line(kernel: Kernel) -> int:
    lines = [line for _, _, line in kernel.function.__code__.co_lines() if line]
    return max(lines, default=kernel.line)


def _line_of_name(kernel: Kernel, name: str) -> int:
    """The first line that looks up `name`; Numba gives the line of the definition."""
    import dis

    line = 0
    for instruction in dis.get_instructions(kernel.function):
        # Since Python 3.13 `starts_line` only says whether, and `line_number` which.
        line = getattr(instruction, "line_number", instruction.starts_line) or line
        if instruction.argval == name and "GLOBAL" in instruction.opname:
            return line
    return 0


def _reason(text: str) -> str:
    """The first sentences that mean something."""
    if (crash := _CRASHES.get(text.strip())) is not None:
        return crash
    specific = _SPECIFIC.search(text)
    if specific:
        return _in_words(specific[1])
    missing = _NO_IMPLEMENTATION.search(text)
    if missing:
        signature = _SIGNATURE.search(text)
        return _in_words(f"No implementation of {signature[1] if signature else missing[1]}")
    kept: list[str] = []
    for line in text.replace(_ANALYSIS, "").splitlines():
        stripped = line.strip()
        if stripped.startswith(_NOISE) or not stripped:
            if kept:
                break
            continue
        kept.append(stripped)
    return _in_words(" ".join(kept[:3]) or "Numba gives no reason")


def _in_words(text: str) -> str:
    for pattern, words in _TYPES:
        text = pattern.sub(words, text)
    return re.sub(r"\.*\s*Raised from .*$", "", text).strip()
