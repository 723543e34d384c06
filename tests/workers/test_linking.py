"""The linker: what it links is what LLVM links, and what it does not know it leaves to LLVM."""

from __future__ import annotations

import contextlib
import ctypes
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperslab.compiler import compile_kernel, kernel
from hyperslab_workers.errors import KernelError
from hyperslab_workers.kernel import linking, native, rebuild, type_of
from hyperslab_workers.kernel.linking import link

TABLE = np.arange(1000.0)


@kernel
def look_up(a, out):
    for i in range(a.shape[0]):
        out[i] = TABLE[int(a[i])]


@kernel
def functions(a, out):
    for i in range(a.shape[0]):
        out[i] = np.sin(a[i]) ** 2.5 + np.exp(-a[i]) + np.hypot(a[i], 3.0)


@kernel
def temporaries(a, out):
    out[:] = np.sqrt(a * a + 1) - np.floor(a)


@kernel
def choose(a, out):
    for i in range(a.shape[0]):
        kind = int(a[i]) % 7
        if kind == 0:
            out[i] = 1
        elif kind == 1:
            out[i] = a[i] * 2
        elif kind == 2:
            out[i] = -a[i]
        elif kind == 5:
            out[i] = 8
        else:
            out[i] = kind


@kernel
def raises(a, out):
    for i in range(a.shape[0]):
        if a[i] > 3:
            raise ValueError("more than three")
        out[i] = a[i]


ALL = [look_up, functions, temporaries, choose, raises]


def content_of(chosen):
    a = np.zeros(3)
    content = pickle.loads(compile_kernel(chosen, (type_of(a), type_of(a))).payload)
    assert content["route"] == "native"
    return content


def addresses(content):
    process = ctypes.CDLL(None)
    return {
        name: ctypes.cast(getattr(process, name), ctypes.c_void_p).value
        for name in content["undefined"]
    }


@pytest.mark.parametrize("chosen", ALL, ids=lambda k: k.name)
def test_gives_what_llvm_gives(chosen, monkeypatch):
    content = content_of(chosen)
    assert link(content["object"], content["symbol"], addresses(content)) is not None
    a = np.linspace(0, 3, 700)
    ours, theirs = np.zeros_like(a), np.zeros_like(a)
    rebuild(pickle.dumps(content))(a, ours)
    monkeypatch.setattr(native, "link", lambda *_: None)
    rebuild(pickle.dumps(content))(a, theirs)
    assert ours.tobytes() == theirs.tobytes()


def test_errors_come_through():
    loaded = rebuild(pickle.dumps(content_of(raises)))
    with pytest.raises(Exception, match="more than three"):
        loaded(np.full(3, 4.0), np.zeros(3))


def test_a_process_that_links_needs_no_llvm(tmp_path):
    (tmp_path / "kernel").write_bytes(pickle.dumps(content_of(functions)))
    program = (
        "import sys, numpy as np\n"
        "from hyperslab_workers.kernel import rebuild\n"
        "out = np.zeros(3)\n"
        "rebuild(open(sys.argv[1], 'rb').read())(np.ones(3), out)\n"
        "assert out.any() and not {'numba', 'llvmlite'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "kernel"], check=True)


def test_code_cannot_be_written_nor_data_run():
    content = content_of(look_up)
    linked = link(content["object"], content["symbol"], addresses(content))
    assert linked is not None
    base = ctypes.addressof(ctypes.c_char.from_buffer(linked._memory))
    parts = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, mode = line.split()[:2]
            start, stop = (int(end, 16) for end in span.split("-"))
            if start < base + len(linked._memory) and stop > base:
                parts.append(mode)
    assert "r-xp" in parts and not any("w" in mode and "x" in mode for mode in parts)


def relocations(image):
    """Where each relocation of an object stands."""
    (table,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    for number in range(count):
        section = linking._Section(*linking._SECTION.unpack_from(image, table + number * size))
        if section.kind == linking._RELA:
            yield from range(section.offset, section.offset + section.size, 24)


def test_another_kind_of_relocation_is_left_to_llvm():
    content = content_of(functions)
    image = bytearray(content["object"])
    first = next(relocations(image))
    image[first + 8 : first + 12] = struct.pack("<I", 2)  # R_X86_64_PC32
    assert link(bytes(image), content["symbol"], addresses(content)) is None


@pytest.mark.parametrize(
    ("at", "value"), [(4, 1), (5, 2), (16, 2), (18, 183)], ids=["32-bit", "big", "linked", "arm"]
)
def test_another_kind_of_object_is_left_to_llvm(at, value):
    content = content_of(look_up)
    image = bytearray(content["object"])
    image[at] = value
    assert link(bytes(image), content["symbol"], {}) is None


def test_a_missing_symbol_is_none_of_its_business():
    content = content_of(functions)
    assert link(content["object"], content["symbol"], {}) is None
    assert link(content["object"], "another", addresses(content)) is None


@given(st.data())
def test_damage_is_no_crash(data):
    content = content_of(look_up)
    image = bytearray(content["object"])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(image) - 1))
        image[at] = data.draw(st.integers(0, 255))
    image = image[: data.draw(st.integers(0, len(image)))]
    with contextlib.suppress(OSError):
        link(bytes(image), content["symbol"], {})  # Nothing is run.


def test_no_memory_for_code_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(linking, "_mprotect", lambda: lambda *_: -1)
    with pytest.raises(KernelError, match="cannot be brought into memory"):
        rebuild(pickle.dumps(content_of(choose)))
