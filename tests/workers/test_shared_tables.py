"""The tables of a process, under many threads, finalizers, signal handlers and forks at once."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from stress import ends, held, in_child, together

from hyperslab_workers import mapping, owned
from hyperslab_workers.array_ref import ArrayRef
from hyperslab_workers.box import Box
from hyperslab_workers.errors import HyperslabError
from hyperslab_workers.kernel import KernelRef, load, loading
from hyperslab_workers.locks import Guard, StripedLock, held_here, holds, release_all, sweep
from hyperslab_workers.locks import holding as lock_holding
from hyperslab_workers.locks import stripe as lock_stripe
from hyperslab_workers.locks import table as lock_table
from hyperslab_workers.mapping import maps

STRIPE = 65536


def ref_to(path: Path, number: int) -> ArrayRef:
    np.full(8, number).tofile(path)
    status = path.stat()
    return ArrayRef(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        file_size=status.st_size,
        offset=0,
        dtype=np.dtype("i8"),
        shape=(8,),
        strides=(8,),
        writable=True,
    )


@pytest.fixture
def refs(tmp_path):
    yield [ref_to(tmp_path / f"{number}.bin", number) for number in range(40)]
    mapping.forget_all()


# ------------------------------------------------------------------- maps


def test_maps_are_looked_up_while_others_are_made_and_dropped(refs, tmp_path):
    def look() -> None:
        for number, ref in enumerate(refs):
            assert mapping.view(ref)[3] == number

    made = iter(range(10**6))

    def come_and_go() -> None:
        ref = ref_to(tmp_path / f"new-{next(made)}.bin", -1)
        assert mapping.view(ref)[0] == -1
        Path(ref.path).unlink()
        mapping.release(ref)

    def drop() -> None:
        mapping.release(refs[7])
        mapping.advise_dontneed(refs[8])

    assert together(look, look, come_and_go, come_and_go, drop) > 0
    assert len(maps._files) <= maps._KEPT_FILES


def test_a_finalizer_drops_maps_while_a_map_is_made(refs, tmp_path, monkeypatch):
    """The garbage collector may come at any allocation: here, at each file that is looked at."""
    for ref in refs:
        mapping.view(ref)
    real = maps.os.stat

    def stat(path):
        if refs:
            mapping.release(refs.pop())
        return real(path)

    new = ref_to(tmp_path / "new.bin", 5)
    monkeypatch.setattr(maps.os, "stat", stat)
    assert maps.mapped(new, False).data[0] == 5
    assert list(maps._files) != []


def test_to_drop_a_map_waits_for_nobody(refs):
    """Whoever adds may be waiting for a thread whose finalizer this is."""
    mapping.view(refs[0])
    with held(maps._lock, 2):
        assert ends(lambda: mapping.release(refs[0]), 1)
    assert not mapping.maps.kept(refs[0])


def test_the_maps_used_last_are_kept(tmp_path):
    often = ref_to(tmp_path / "often.bin", 0)
    first = maps.mapped(often, False)
    for number in range(2 * maps._KEPT_FILES):
        mapping.view(ref_to(tmp_path / f"{number}.bin", number))
        assert maps.mapped(often, False) is first
    assert len(maps._files) == maps._KEPT_FILES
    mapping.forget_all()


# ------------------------------------------------------------------- locks


class Forgotten:
    """A block that nobody leaves, in a reference cycle: the garbage collector closes it."""

    def __init__(self, lock: StripedLock) -> None:
        self.me = self
        self.block = self.enter(lock)
        next(self.block)

    @staticmethod
    def enter(lock: StripedLock):
        with lock.hold(extents_write=[(0, 1)]):
            yield


def in_thread(call) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.fixture
def collected_by_hand():
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def test_a_forgotten_block_is_closed_by_a_thread_that_waits_for_it(
    lock, monkeypatch, collected_by_hand
):
    """It is inside the stripe when the collector comes: it must not wait for itself."""
    in_thread(lambda: Forgotten(lock))
    real = lock_stripe.Stripe._is_next

    def is_next(stripe, claim):
        gc.collect()
        return real(stripe, claim)

    got: list[str | None] = []

    def wait() -> None:
        with lock.hold(extents_write=[(0, 1)], timeout=20):
            got.append(held_here())

    with monkeypatch.context() as patch:
        patch.setattr(lock_stripe.Stripe, "_is_next", is_next)
        assert ends(wait)
    assert got == ["data.npy"]


def test_a_thread_has_nothing_to_do_with_what_an_earlier_one_of_its_number_left(
    lock, is_free, collected_by_hand
):
    numbers: list[int] = []
    holders: list[int] = []

    def forget() -> None:
        numbers.append(threading.get_ident())
        Forgotten(lock)

    def use_it() -> None:
        numbers.append(threading.get_ident())
        if numbers[0] != numbers[-1]:
            return
        with lock.hold(extents_write=[(5 * STRIPE, 5 * STRIPE + 1)], timeout=5):
            gc.collect()
            # The other one's end must not take the directory from under this one.
            assert is_free(lock)
            assert not is_free(lock, (5 * STRIPE, 5 * STRIPE + 1))
            holders.append(len(lock_table._table[lock.directory].holders))

    in_thread(forget)
    for _ in range(1000):
        in_thread(use_it)
        if numbers[0] == numbers[-1]:
            break
    else:
        pytest.skip("the system did not give the thread's number out again")
    assert holders == [1]
    release_all()


def test_a_block_may_be_left_by_another_thread(lock, is_free):
    block = lock.hold(extents_write=[(0, 1)])
    block.__enter__()
    in_thread(lambda: block.__exit__(None, None, None))
    assert is_free(lock)
    assert held_here() is None
    with lock.hold(extents_write=[(0, 1)], timeout=0):
        pass


def test_a_directory_left_in_the_middle_of_leaving_it(lock, directory, monkeypatch):
    """A signal handler ends another use of it: it is removed once, and no stranger's file shut."""
    real = owned.flock
    lock.retain()
    used = lock_table._table[directory]
    again = [1]

    def flock(fd, kind):
        if again and again.pop():
            used.directory.leave()
            lock.release()
        return real(fd, kind)

    monkeypatch.setattr(owned, "flock", flock)
    lock.release()
    assert not again
    assert not Path(directory).exists()
    assert directory not in lock_table._table


def test_a_directory_left_between_looking_it_up_and_using_it(lock, directory, monkeypatch):
    class Table(dict):
        def get(self, key, default=None):
            found = super().get(key, default)
            if left:
                left.pop()
                lock.release()  # As a finalizer would: the last user leaves.
            return found

    left: list[int] = []
    monkeypatch.setattr(lock_table, "_table", Table())
    lock.retain()
    left.append(1)
    with lock.hold(extents_write=[(0, 1)], timeout=5):
        assert not left
        assert Path(directory).exists()
    release_all()


def test_threads_use_leave_and_sweep_one_directory(lock, directory):
    """Blocks are forgotten too, and closed by whichever thread comes to allocate."""
    inside: list[int] = []
    root = str(Path(directory).parent)

    def hold() -> None:
        with lock.hold(extents_write=[(0, 1)], extents_read=[(3 * STRIPE, 4 * STRIPE)]):
            inside.append(1)
            assert len(inside) == 1
            assert Path(directory, "00.rw").exists()
            inside.pop()

    def read() -> None:
        with lock.registered(), lock.hold(extents_read=[(2 * STRIPE, 4 * STRIPE)], timeout=30):
            assert held_here() == "data.npy"

    def forget() -> None:
        # In a thread of its own, which ends with the block open.
        in_thread(lambda: Forgotten(StripedLock(directory, "other.npy", STRIPE)))
        gc.collect()

    def come_and_go() -> None:
        release_all()
        sweep(root)

    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        assert together(hold, hold, read, forget, come_and_go, seconds=1.5) > 50
    finally:
        gc.set_threshold(*before)
        gc.collect()
    assert release_all(timeout=5)
    assert not Path(directory).exists()


def test_what_this_thread_holds(lock, monkeypatch):
    wanted = Guard(lock, (10, 20), exclusive=True)
    other = StripedLock(lock.directory[:-1] + "2", "data.npy", STRIPE)
    assert not holds(wanted)
    real = lock_stripe.Stripe.acquire

    def acquire(stripe, claim, deadline):
        assert not holds(wanted), "not before it has all"
        return real(stripe, claim, deadline)

    monkeypatch.setattr(lock_stripe.Stripe, "acquire", acquire)
    with lock.hold(extents_write=[(5, 25)]):
        assert holds(wanted)
        assert holds(Guard(lock, (10, 20), exclusive=False))
        assert not holds(Guard(lock, (10, 26), exclusive=True))
        assert not holds(Guard(other, (10, 20), exclusive=True))
        elsewhere: list[bool] = []
        in_thread(lambda: elsewhere.append(holds(wanted)))
        assert elsewhere == [False]

        def look() -> None:
            assert not holds(wanted)

        assert in_child(look) == 0
    assert not holds(wanted)
    with lock.hold(extents_read=[(5, 25)]):
        assert not holds(wanted)


def test_a_fork_waits_for_the_table(lock):
    def use_it() -> None:
        with lock.hold(extents_write=[(9 * STRIPE, 9 * STRIPE + 1)], timeout=5):
            pass
        release_all()

    with held(lock_table._table_lock):
        assert in_child(use_it) == 0


def test_a_thread_that_cannot_be_started_is_no_error(lock, monkeypatch):
    """At the interpreter's end: the process's end frees what it holds."""

    def start(*_arguments) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    block = lock.hold(extents_write=[(0, 1)])
    in_thread(block.__enter__)
    with monkeypatch.context() as patch:
        patch.setattr(lock_holding._thread, "start_new_thread", start)
        block.__exit__(None, None, None)
    used = lock_table._table[lock.directory]
    next(iter(used.holders)).end()
    release_all()


# ------------------------------------------------------------------- machine code


def test_machine_code_is_loaded_by_many_threads_once(monkeypatch, tmp_path):
    import hashlib

    refs = []
    for number in range(30):
        payload = b"kernel %d" % number
        (tmp_path / f"{number}").write_bytes(payload)
        digest = hashlib.sha256(payload).hexdigest()
        refs.append(KernelRef(str(tmp_path / f"{number}"), digest, f"k{number}"))
    built: list[bytes] = []
    monkeypatch.setattr(loading, "_loaded", {})

    def rebuild(payload: bytes) -> bytes:
        built.append(payload)
        if payload.endswith(b" 7"):
            load(refs[8])  # A signal handler runs another kernel.
        return payload

    monkeypatch.setattr(loading, "rebuild", rebuild)

    def use_them() -> None:
        for number, ref in enumerate(refs):
            assert load(ref) == b"kernel %d" % number

    assert ends(lambda: load(refs[7]))
    together(use_them, use_them, use_them, seconds=0.5)
    assert sorted(built) == sorted(set(built))
    assert len(built) == 30
    with held(loading._lock, 1):
        loading._loaded.clear()
        assert in_child(lambda: load(refs[3])) == 0


def test_nested_blocks_are_still_refused(lock):
    with lock.hold(extents_write=[(0, 1)]):
        with pytest.raises(HyperslabError, match=r"while it holds one of data\.npy"):
            lock.hold(extents_read=[(0, 1)]).__enter__()
        assert held_here() == "data.npy"


def test_views_and_maps_in_a_child_of_a_busy_process(refs):
    def look() -> None:
        for number, ref in enumerate(refs):
            assert mapping.view(ref, Box((0,), (8,)))[3] == number

    with held(maps._lock, 0.5):
        assert in_child(look) == 0
