"""Programs that test_locks.py runs as processes of their own: ``lock_programs.py NAME ARGUMENT...``

They say on standard output how far they are, a line at a time, and wait for standard input.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

from hyperslab_workers.errors import LockTimeout
from hyperslab_workers.locks import Guard, StripedLock, hold_all

STRIPE = 65536


def lock_at(directory: str, stripe_bytes: int = STRIPE) -> StripedLock:
    return StripedLock(directory, "data.npy", stripe_bytes)


def say(word: str) -> None:
    print(word, flush=True)


def hold(directory: str, kind: str, first: str, last: str) -> None:
    """Hold some bytes until a line comes in."""
    lock, extents = lock_at(directory), [(int(first), int(last))]
    with lock.registered():
        with lock.hold(**{f"extents_{kind}": extents}):
            say("held")
            sys.stdin.readline()
        say("released")
        sys.stdin.readline()


def attempt(directory: str, kind: str, *numbers: str) -> None:
    """Try some stripes, each by itself and without waiting; say which are free."""
    lock = lock_at(directory)
    free = []
    for number in map(int, numbers):
        extents = [(number * STRIPE, number * STRIPE + 1)]
        try:
            with lock.hold(**{f"extents_{kind}": extents}, timeout=0):
                free.append(str(number))
        except LockTimeout:
            pass
    say(" ".join(free))


def increment(directory: str, path: str, threads: str, times: str) -> None:
    """Add one to a number kept in two places of a file; each place must show the same."""
    lock = lock_at(directory)
    faults = []

    def work() -> None:
        for _ in range(int(times)):
            with lock.hold(extents_write=[(0, 8), (8 * STRIPE, 8 * STRIPE + 8)]):
                (one,) = struct.unpack_from("q", memory, 0)
                (two,) = struct.unpack_from("q", memory, 8 * STRIPE)
                if one != two:
                    faults.append(f"{one} and {two}")
                struct.pack_into("q", memory, 0, one + 1)
                time.sleep(0)
                struct.pack_into("q", memory, 8 * STRIPE, two + 1)
            with lock.hold(extents_read=[(0, 8), (8 * STRIPE, 8 * STRIPE + 8)]):
                (one,) = struct.unpack_from("q", memory, 0)
                time.sleep(0)
                (two,) = struct.unpack_from("q", memory, 8 * STRIPE)
                if one != two:
                    faults.append(f"{one} and {two}")

    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        workers = [threading.Thread(target=work) for _ in range(int(threads))]
        say("started")
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    say(f"faults: {faults[:3]}" if faults else "whole")


def be_killed(directory: str, seed: str) -> None:
    """Take and leave the stripes of `increment` until killed, at times half-way through."""
    lock = lock_at(directory)
    chance = random.Random(int(seed))
    say("started")
    while True:
        kind = chance.choice(["read", "write"])
        with lock.hold(**{f"extents_{kind}": [(0, 8), (8 * STRIPE, 8 * STRIPE + 8)]}):
            time.sleep(chance.uniform(0, 0.004))


def keep_reading(directory: str, threads: str) -> None:
    """Hold stripe 0 to read for 4 ms, again and again without a gap, until a line comes in."""
    lock = lock_at(directory)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock.hold(extents_read=[(0, 1)]):
                time.sleep(0.004)

    readers = [threading.Thread(target=work) for _ in range(int(threads))]
    for reader in readers:
        reader.start()
    say("started")
    sys.stdin.readline()
    stop.set()
    for reader in readers:
        reader.join()


def take_two(one: str, other: str, times: str) -> None:
    """Hold two files together, named in the order given."""
    guards = [Guard(lock_at(name), (0, 3 * STRIPE), exclusive=True) for name in (one, other)]
    say("started")
    for _ in range(int(times)):
        with hold_all(guards, timeout=20):
            pass
    say("done")


def fork_inside(directory: str) -> None:
    """Fork inside a block: the child holds nothing, and its leaving the block frees nothing."""
    lock = lock_at(directory)
    pid = -1
    verdict = "child did not try"
    with lock.registered():
        with lock.hold(extents_write=[(0, 1)]):
            pid = os.fork()
            if pid == 0:
                try:
                    with lock.hold(extents_write=[(0, 1)], timeout=0.05):
                        verdict = "child got in"
                except LockTimeout:
                    verdict = "child kept out"
            else:
                os.waitpid(pid, 0)
        if pid == 0:
            say(verdict)
            os._exit(0)
        with lock.hold(extents_write=[(0, 1)], timeout=0):
            say("parent whole")


def fork_then_wait(directory: str) -> None:
    """Fork inside a block; the child leaves the block while the parent stays in it."""
    lock = lock_at(directory)
    with lock.hold(extents_write=[(0, 1)]):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            say("child gone")
            sys.stdin.readline()
    if pid == 0:
        os._exit(0)


def retain(directory: str) -> None:
    """Keep the lock directory in use until a line comes in, then end as a script ends."""
    lock_at(directory).retain()
    say("retained")
    sys.stdin.readline()


def come_and_go(directory: str, times: str) -> None:
    """Use and leave the directory again and again, so that it is made and removed each time."""
    lock, inside = lock_at(directory), Path(directory + ".inside")
    say("started")
    for _ in range(int(times)):
        with lock.registered(), lock.hold(extents_write=[(0, 1)], timeout=20):
            inside.touch(exist_ok=False)
            inside.unlink()
    say("done")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
