"""The lock that many share or one has alone."""

from __future__ import annotations

import threading

import pytest

from mmsearch.sharing import SharedLock

DEADLINE_S = 60


def test_many_share_it_at_once() -> None:
    lock = SharedLock()
    all_in = threading.Barrier(4, timeout=DEADLINE_S)

    def share() -> None:
        with lock.shared():
            all_in.wait()  # passes only when four hold it

    threads = [threading.Thread(target=share) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not all_in.broken


def test_alone_means_alone() -> None:
    lock = SharedLock()
    inside, most = 0, 0
    count = threading.Lock()

    def work(alone: bool) -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock.alone() if alone else lock.shared():
                with count:
                    inside += 1
                    most = max(most, inside if alone else 0)
                with count:
                    inside -= 1

    threads = [threading.Thread(target=work, args=(n < 2,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (inside, most) == (0, 1)


def test_who_wants_it_alone_is_not_kept_waiting_by_newcomers() -> None:
    lock = SharedLock()
    got_it = threading.Event()
    late = threading.Event()

    def alone() -> None:
        with lock.alone():
            got_it.set()

    def newcomer() -> None:
        with lock.shared():
            assert got_it.is_set()
            late.set()

    with lock.shared():
        wants = threading.Thread(target=alone)
        wants.start()
        while not lock._waiting:
            threading.Event().wait(0.001)
        comes = threading.Thread(target=newcomer)
        comes.start()
        assert not got_it.is_set()
        with lock.shared():  # who has it already does not wait behind them
            pass
    assert late.wait(DEADLINE_S)
    wants.join(DEADLINE_S)
    comes.join(DEADLINE_S)


def test_asked_for_again() -> None:
    lock = SharedLock()
    with lock.alone(), lock.alone(), lock.shared():
        assert not lock.is_shared_here
    with lock.shared(), lock.shared():
        assert lock.is_shared_here
        with pytest.raises(RuntimeError, match="cannot have it alone"), lock.alone():
            pass
    with lock.alone():
        pass
