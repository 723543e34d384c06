"""Letters arrive whole and in order, and a wait for them ends in time."""

from __future__ import annotations

import signal
import threading
import time

from hyperslab.pools.mailbox import Mailbox


def test_everything_arrives_in_order():
    box: Mailbox[int] = Mailbox()
    thread = threading.Thread(target=lambda: [box.put(n) for n in range(10_000)])
    thread.start()
    found: list[int] = []
    while len(found) < 10_000:
        found += box.take(5.0)
    thread.join()
    assert found == list(range(10_000)) and box.take(0.0) == []


def test_who_waits_is_woken():
    box: Mailbox[str] = Mailbox()
    threading.Timer(0.1, box.put, ["here"]).start()
    began = time.monotonic()
    assert box.take(30.0) == ["here"]
    assert time.monotonic() - began < 10


def test_a_handler_that_takes_longer_than_the_wait_does_not_make_it_endless():
    box: Mailbox[str] = Mailbox()
    before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.5))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        began = time.monotonic()
        assert box.take(0.2) == []
        assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGALRM, before)
