"""The ``.npy`` header: formats 1.0, 2.0 and 3.0, read and written by NumPy's own code.

Nothing in a header is ever executed or unpickled: NumPy parses it as a literal, and its
length is limited before that.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from hyperslab.errors import ArrayFileError

__all__ = ["MAGIC", "NpyHeader", "checked_dtype", "encode_header", "read_header"]

MAGIC = np.lib.format.MAGIC_PREFIX
"""The six bytes that every ``.npy`` file starts with."""

_ATTEMPTS = 100
"""Times that a header is parsed where other threads parse something, too."""

_LENGTH_FORMATS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}

_LONGEST_HEADER = 64 * 1024
"""Bytes. NumPy's default is 10,000, for fear of what parsing a very long literal costs; a
structured type of a thousand fields needs more."""

_PYTHON_2 = re.compile(rb"(?<=\d)L(?=[\s,)\]])")
"""What Python 2 wrote after a large number."""


_LONGEST_REASON = 200
"""Characters: NumPy quotes the whole header."""


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a ``.npy`` header says."""

    shape: tuple[int, ...]
    """Length of each axis."""

    dtype: np.dtype
    """Type of one element."""

    order: str
    """ "C" or "F"."""

    data_offset: int
    """Position of the first element in the file."""


def read_header(file: BinaryIO, path: str) -> NpyHeader:
    """Read the header of a ``.npy`` file that is open at its start.

    Raises
    ------
    ArrayFileError
        The header is damaged, of an unknown version, too long, or tells of Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        version = (0, 0)
    length_format = _LENGTH_FORMATS.get(version)
    if length_format is None:
        raise ArrayFileError(
            f"{path!r} starts like a .npy file, but of format version {version[0]}.{version[1]}; "
            "1.0, 2.0 and 3.0 are known. It is damaged, or newer than this program"
        )
    (length,) = struct.unpack(length_format, _read(file, struct.calcsize(length_format), path))
    if length > _LONGEST_HEADER:
        raise ArrayFileError(
            f"{path!r} announces a .npy header of {length:,} bytes; at most {_LONGEST_HEADER:,} "
            "are read. The file is damaged, or its type has thousands of fields: save them as "
            "separate arrays"
        )
    text = _read(file, length, path)
    try:
        if version == (3, 0):
            # NumPy reads 3.0 in private functions only. It differs from 2.0 in its encoding
            # alone, and with the field names escaped the same literal is plain ASCII.
            text = text.decode("utf-8").encode("ascii", "backslashreplace")
        shape, fortran, dtype = _parsed(text)
    except Exception as error:
        # Of every kind: NumPy takes a header for one that NumPy wrote, and Python's parser has
        # its own ways to refuse, MemoryError for too many brackets among them.
        raise ArrayFileError(
            f"the .npy header of {path!r} is damaged ({_first_line(error)}). Write the file again, "
            "or open its data as raw with dtype=, shape= and offset="
        ) from None
    if any(n < 0 for n in shape):
        raise ArrayFileError(
            f"the .npy header of {path!r} is damaged: its shape {shape} has a negative length. "
            "Write the file again, or open its data as raw with dtype=, shape= and offset="
        )
    return NpyHeader(
        shape=tuple(int(n) for n in shape),
        dtype=checked_dtype(dtype, f"the array in {path!r}"),
        order="F" if fortran else "C",
        data_offset=file.tell(),
    )


def _parsed(text: bytes) -> tuple[Any, bool, np.dtype]:
    """Shape, order and dtype that a header's text tells."""
    for _ in range(_ATTEMPTS):
        # Python 3.11 refuses what it parses in two threads at a time, with a SystemError.
        with contextlib.suppress(SystemError):
            whole = _without_python_2(text)
            # 1.0 differs from 2.0 in the width of the length alone.
            packed = io.BytesIO(struct.pack("<I", len(whole)) + whole)
            # Escapes take up to ten bytes a character, hence not the limit of headers.
            return np.lib.format.read_array_header_2_0(packed, max_header_size=len(whole))
    raise ValueError("it cannot be parsed in so many threads at a time")


def _without_python_2(text: bytes) -> bytes:
    """A header that Python 2 wrote, as Python 3 does; NumPy would read it with a warning."""
    if _PYTHON_2.search(text):
        try:
            ast.literal_eval(text.decode("latin-1"))
        except SyntaxError:
            return _PYTHON_2.sub(b"", text)
    return text


def encode_header(shape: tuple[int, ...], dtype: np.dtype, order: str) -> bytes:
    """The bytes of a ``.npy`` file before its data, in the oldest format that can say it.

    Their number is a multiple of 64, so that the data are aligned for any machine.

    Raises
    ------
    ArrayFileError
        No ``.npy`` file can hold this type.

    Examples
    --------
    >>> header = encode_header((2, 3), np.dtype("f4"), "C")
    >>> len(header), header[:8]
    (128, b'\\x93NUMPY\\x01\\x00')
    """
    dtype = np.lib.format.drop_metadata(dtype)
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
        faithful = np.lib.format.descr_to_dtype(descr) == dtype
    except (ValueError, TypeError):
        faithful = False
    if not faithful:
        raise ArrayFileError(
            f"dtype {dtype} cannot be told in a .npy header, which knows NumPy's own types and "
            "structures of them without overlaps; use a plain type, or view the data as one"
        )
    fields = {"descr": descr, "fortran_order": order == "F", "shape": shape}
    encoded = _encode(fields)
    if len(encoded) > _LONGEST_HEADER:
        raise ArrayFileError(
            f"dtype with {len(dtype.names or ()):,} fields needs a header of {len(encoded):,} "
            f"bytes; at most {_LONGEST_HEADER:,} are written. Save the fields as separate arrays"
        )
    return encoded


def _encode(fields: Mapping[str, object]) -> bytes:
    writers = (np.lib.format.write_array_header_1_0, np.lib.format.write_array_header_2_0)
    for write in writers:
        buffer = io.BytesIO()
        try:
            write(buffer, dict(fields))
        except UnicodeEncodeError:
            break
        except ValueError:
            continue  # too long for the two bytes of 1.0
        return buffer.getvalue()
    # NumPy writes 3.0 only together with the data.
    text = repr(dict(sorted(fields.items()))).encode()
    padding = -(len(MAGIC) + 2 + 4 + len(text) + 1) % 64
    text += b" " * padding + b"\n"
    return MAGIC + bytes((3, 0)) + struct.pack("<I", len(text)) + text


def checked_dtype(dtype: object, what: str) -> np.dtype:
    """A dtype whose elements can lie in a file: fixed in size, and no Python objects.

    Raises
    ------
    ArrayFileError
        It is none, or no dtype at all.
    """
    try:
        checked: np.dtype = np.dtype(dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise ArrayFileError(
            f"dtype={dtype!r} is no NumPy type ({_first_line(error)}); give one such as "
            '"f4", "<i2" or np.float64'
        ) from None
    if checked.hasobject:
        raise ArrayFileError(
            f"{what} has dtype {checked}, which holds Python objects: they live in the memory of "
            "one process and cannot lie in a file. Give a type of fixed size: a number, 'U10' "
            "for text of up to ten characters, 'M8[ns]' for times"
        )
    if checked.itemsize == 0:
        raise ArrayFileError(
            f"{what} has dtype {checked}, whose elements have no bytes; give the length as well, "
            "for example 'S5' or 'U10'"
        )
    return checked


def _read(file: BinaryIO, count: int, path: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ArrayFileError(
            f"{path!r} ends in the middle of its .npy header: {count:,} more bytes were announced, "
            f"{len(data):,} are there. Copying or writing it broke off; get it again"
        )
    return data


def _first_line(error: BaseException) -> str:
    line = str(error).partition("\n")[0] or type(error).__name__
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…"
