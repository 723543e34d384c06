"""A kernel is compiled once on a machine: found again as long as nothing differs, and only then."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest

import hyperslab as hs
from hyperslab.compiler import cache, content
from hyperslab.compiler.content import Unknown, key_of
from hyperslab.jobs import cli

PROGRAM = """
import math, sys
import numba, numpy as np
import hyperslab as hs
from helpers import helper
import constants
FACTOR = 2.0
TABLE = np.array([1.0, 2.0])
def made(offset):
    @hs.kernel
    def kernel(a, out, power=1):
        for i in range(a.shape[0]):
            out[i] = helper(FACTOR * a[i] + TABLE[1] + offset) + constants.BIAS + math.sqrt(4.0)
    return kernel
kernel = made(3.0)
if __name__ == "__main__":
    out = np.zeros(3)
    kernel(np.arange(3.0), out)
    print(*out.tolist(), "numba.core.compiler" in sys.modules and "compiled" or "found")
"""
HELPERS = "import numba\n@numba.njit\ndef helper(x):\n    return x + 1.0\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERSLAB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def program(tmp_path: Path, place: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "constants.py").write_text("BIAS = 10.0\nOTHER = 1\n")
    return tmp_path / "program.py"


def files(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.exists() else []


def outcome(program: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()[:3]]


def expected(factor=2.0, table=2.0, offset=3.0, step=1.0, bias=10.0) -> list[float]:
    return [factor * a + table + offset + step + bias + 2.0 for a in range(3)]


EDITS = {
    "a helper in another file": ("helpers.py", "x + 1.0", "x + 5.0", {"step": 5.0}),
    "a global": ("program.py", "FACTOR = 2.0", "FACTOR = 4.0", {"factor": 4.0}),
    "a closure value": ("program.py", "made(3.0)", "made(7.0)", {"offset": 7.0}),
    "an array": ("program.py", "[1.0, 2.0]", "[1.0, 9.0]", {"table": 9.0}),
    "a module's constant": ("constants.py", "BIAS = 10.0", "BIAS = 20.0", {"bias": 20.0}),
    "the code": ("program.py", "FACTOR * a[i]", "FACTOR * a[i] + 0.0", {}),
    "a type": ("program.py", "FACTOR = 2.0", "FACTOR = 2", {}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_compiles_anew_and_the_old_way_is_found_again(program, place, edit):
    name, old, new, change = EDITS[edit]
    assert outcome(program) == expected()
    (first,) = files(place)
    before = first.stat().st_mtime_ns
    assert outcome(program) == expected()
    assert files(place) == [first] and first.stat().st_mtime_ns > before, "it was not found"
    path = program.with_name(name)
    path.write_text(path.read_text().replace(old, new))
    assert outcome(program) == expected(**change)
    assert len(files(place)) == 2
    path.write_text(path.read_text().replace(new, old))
    assert outcome(program) == expected()
    assert len(files(place)) == 2


def test_what_is_not_referred_to_is_nothing_to_a_kernel(program, place):
    outcome(program)
    constants = program.with_name("constants.py")
    constants.write_text(constants.read_text().replace("OTHER = 1", "OTHER = 2"))
    outcome(program)
    assert len(files(place)) == 1


JOB = """
import sys, numpy as np, hyperslab as hs
@hs.kernel
def double(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * np.sin(a[i])
if __name__ == "__main__":
    a, out = hs.from_array(np.arange(1000.0)), hs.from_array(np.zeros(1000))
    with hs.Engine(workers=2, progress=False) as engine:
        engine.run(double, a, hs.write(out))
    assert np.allclose(out, 2 * np.sin(np.arange(1000.0)))
    print([name for name in ("numba", "llvmlite") if name in sys.modules])
"""


def test_a_job_whose_kernel_is_found_imports_no_compiler(tmp_path, place):
    (tmp_path / "job.py").write_text(JOB)
    told = [
        subprocess.run(
            [sys.executable, tmp_path / "job.py"], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert told == ["['numba', 'llvmlite']\n", "[]\n"]


# --- what makes a key ------------------------------------------------------------------------


@hs.kernel
def plain(a, out):
    for i in range(a.shape[0]):
        out[i] = a[i]


def closure(value):
    @hs.kernel
    def kernel(a, out):
        out[0] = value

    return kernel


def test_a_key_is_the_same_in_every_process(tmp_path):
    text = "import sys; sys.path.insert(0, sys.argv[1]); import k; "
    text += "from hyperslab.compiler.content import key_of; print(key_of(k.kernel, 'f8')[0])"
    (tmp_path / "k.py").write_text(PROGRAM.replace("from helpers", "from k_h"))
    (tmp_path / "k_h.py").write_text(HELPERS)
    (tmp_path / "constants.py").write_text("BIAS = 1\n")
    # From source, from byte code, and with hashes of other seeds.
    found = {
        subprocess.run(
            [sys.executable, "-c", text, tmp_path],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(found) == 1


VALUES = [
    *(0, False, 0.0, -0.0, 0j, complex(0, -0.0), np.float32(0), np.float64(0), np.int8(0)),
    *(float("nan"), None, "0", b"0", (), (0,), ((0,),), (0.0,), np.zeros(1), np.zeros((1, 1))),
    *(
        np.zeros(1, "f4"),
        np.zeros(1, ">f8"),
        np.zeros(2),
        np.zeros(4)[::2],
        np.ones(1),
        np.dtype("f4"),
    ),
    *(np.sin, np.cos, np.sum, abs, np.float32, float),
]


def test_values_that_differ_in_anything_make_other_keys():
    keys = [key_of(closure(value), "f8")[0] for value in VALUES]
    assert len(set(keys)) == len(VALUES)
    assert keys == [key_of(closure(value), "f8")[0] for value in VALUES]


def test_signature_options_and_settings_make_other_keys(monkeypatch):
    keys = [key_of(plain, "f8")[0], key_of(plain, "f4")[0], key_of(plain, "f8", ())[0]]
    stated = ({"boundscheck": False}, {"fastmath": True}, {"fastmath": {"nnan", "ninf"}})
    keys += [key_of(hs.kernel(plain.function, **options), "f8")[0] for options in stated]
    monkeypatch.setenv("NUMBA_OPT", "1")
    keys.append(key_of(plain, "f8")[0])
    monkeypatch.setattr(content, "_surroundings", lambda: ("another processor",))
    keys.append(key_of(plain, "f8")[0])
    assert len(set(keys)) == len(keys)


def a_function(x):
    return x


@pytest.mark.parametrize(
    "value", [object(), [1], {1: 2}, a_function, numba.vectorize(a_function), np.array([None])]
)
def test_what_is_not_understood_makes_no_key(value):
    with pytest.raises(Unknown):
        key_of(closure(value), "f8")


def test_helpers_that_refer_to_each_other_end():
    @numba.njit
    def one(x):
        return x if x < 1 else two(x - 1)

    @numba.njit
    def two(x):
        return one(x)

    assert key_of(closure(one), "f8") != key_of(closure(two), "f8")


# --- the files -------------------------------------------------------------------------------

KEY = "ab" * 32
ENTRY = cache.Entry("native", b"machine code" * 100)


def test_what_is_kept_is_found_by_its_key_alone(place):
    assert cache.find(KEY) is None
    cache.keep(KEY, ENTRY)
    assert cache.find(KEY) == ENTRY
    assert cache.find("cd" * 32) is None
    assert cache.usage() == (1, len(ENTRY.payload) + 69)
    # Not under another's name either.
    (place / KEY).rename(place / ("cd" * 32))
    assert cache.find("cd" * 32) is None
    assert cache.clear() == 0


def test_whatever_is_wrong_with_a_file_is_a_miss(place):
    cache.keep(KEY, ENTRY)
    whole = (place / KEY).read_bytes()
    chance = random.Random(5)
    for _ in range(300):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        if chance.random() < 0.5:
            data[at] ^= 1 << chance.randrange(8)
        else:
            del data[at:]
        (place / KEY).write_bytes(data)
        (place / KEY).chmod(0o600)
        assert cache.find(KEY) is None
    cache.keep(KEY, ENTRY)
    assert cache.find(KEY) == ENTRY


def _link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


OTHERS = {
    "everybody may write the file": lambda place: (place / KEY).chmod(0o666),
    "everybody may write the directory": lambda place: place.chmod(0o777),
    "a link": lambda place: _link(place / KEY),
    "a fifo": lambda place: _fifo(place / KEY),
    "another user's file": lambda place: os.chown(place / KEY, 65534, 65534),
    "another user's directory": lambda place: os.chown(place, 65534, 65534),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_others_may_have_written_is_a_miss(place, what):
    if "another" in what and os.geteuid() != 0:
        pytest.skip("only root can give files to others: run the tests as root")
    cache.keep(KEY, ENTRY)
    OTHERS[what](place)
    assert cache.find(KEY) is None
    cache.keep("cd" * 32, ENTRY)
    result = np.zeros(3)
    hs.kernel(plain.function)(np.arange(3.0), result)
    assert result.tolist() == [0, 1, 2]


def test_a_disk_that_refuses_is_no_error(place, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    cache.keep(KEY, ENTRY)
    assert files(place) == []
    assert cache.find(KEY) is None


@pytest.mark.parametrize("named", ["0", "/proc/none", "/dev/null/x"])
def test_it_can_be_off_or_impossible(monkeypatch, named):
    monkeypatch.setenv("HYPERSLAB_CACHE_DIR", named)
    cache.keep(KEY, ENTRY)
    assert cache.find(KEY) is None
    assert cache.usage() == (0, 0)


def test_its_place_is_the_users_cache(monkeypatch):
    monkeypatch.delenv("HYPERSLAB_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.directory() == "/somewhere/hyperslab/kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache.directory() == "/home/ada/.cache/hyperslab/kernels"


def test_it_is_bounded_and_what_was_not_used_goes_first(place, monkeypatch):
    monkeypatch.setattr(cache, "LARGEST", 20_000)
    keys = [f"{number:064x}" for number in range(30)]
    for number, key in enumerate(keys):
        cache.keep(key, ENTRY)
        os.utime(place / key, (number, number))
        if number > 1:
            assert cache.find(keys[0]) is not None
    assert cache.usage()[1] <= 20_000
    left = {path.name for path in files(place)}
    assert keys[0] in left and keys[-1] in left and keys[1] not in left


def test_what_a_killed_writer_left_is_swept(place):
    cache.keep(KEY, ENTRY)
    (place / ".new-old").touch()
    (place / ".new-young").touch()
    os.utime(place / ".new-old", (0, 0))
    cache.keep("cd" * 32, ENTRY)
    assert not (place / ".new-old").exists()
    assert (place / ".new-young").exists()


WRITERS = """
import os, random, sys
from hyperslab.compiler import cache
cache.LARGEST = 100_000
chance = random.Random(os.getpid())
print("begun", flush=True)
while True:
    number = chance.randrange(40)
    key, entry = f"{number:064x}", cache.Entry("native", b"%02d" % number * 3000)
    found = cache.find(key)
    assert found is None or found == entry, "a wrong kernel"
    cache.keep(key, entry)
"""


def test_processes_that_write_at_once_and_are_killed_leave_nothing_wrong(place):
    chance, end = random.Random(3), time.monotonic() + 3.0
    while time.monotonic() < end:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITERS], stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for writer in writers:
            assert writer.stdout.readline() == "begun\n"
        time.sleep(chance.uniform(0.05, 0.3))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
            writer.stdout.close()
    for number in range(40):
        found = cache.find(f"{number:064x}")
        assert found is None or found.payload == b"%02d" % number * 3000


# --- what a user sees ------------------------------------------------------------------------


def test_the_command_shows_and_clears_it(place, capsys):
    def told(*arguments: str) -> str:
        cli.app(["cache", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    assert "nothing in" in told("--clear")
    cache.keep(KEY, ENTRY)
    assert told() == f"1 kernels, 1.27 kB of at most 268 MB, in {place}\n"
    assert told("--clear") == f"removed 1 kernels from {place}\n"
    assert files(place) == []


FACTOR = 2.0


def test_a_changed_global_that_is_frozen_gives_a_warning(monkeypatch):
    @hs.kernel
    def scaled(a, out):
        for i in range(a.shape[0]):
            out[i] = FACTOR * a[i]

    a, out = hs.from_array(np.ones(4)), hs.from_array(np.zeros(4))
    with hs.Engine(executor="serial") as engine, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        engine.run(scaled, a, hs.write(out))
        engine.run(scaled, a, hs.write(out))
        assert not seen
        monkeypatch.setitem(globals(), "FACTOR", float("2"))
        engine.run(scaled, a, hs.write(out))
        assert not seen, "an equal number is no change"
        monkeypatch.setitem(globals(), "FACTOR", 3.0)
        engine.run(scaled, a, hs.write(out))
        engine.run(scaled, a, hs.write(out))
    (one,) = seen
    assert "scaled was compiled with FACTOR" in str(one.message)
    assert np.asarray(out).tolist() == [2.0] * 4
