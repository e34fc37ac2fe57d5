"""Calls that do not end: they are given up, and everything else goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from mmsearch.errors import DecodeTimeoutError, OverloadedError
from mmsearch.watchdog import Task, Workers

#: What else is to be done is done sooner, also on a machine that has a lot to do.
SOON = 0.5


@pytest.fixture
def release() -> threading.Event:
    """Set at the end, so that no thread of a test outlives it."""
    return threading.Event()


def workers(threads: int = 1, seconds: float = 30, max_stuck: int = 4) -> Workers:
    return Workers(threads, seconds, name="test", max_stuck=max_stuck)


def test_results_errors_and_order() -> None:
    pool, order = workers(), []

    def work(number: int) -> int:
        order.append(number)
        return 10 // number

    tasks = [pool.submit(lambda task, n=n: work(n), "x") for n in (5, 0, 2)]  # type: ignore[misc]
    assert tasks[2].result() == 5
    assert tasks[0].result() == 2
    with pytest.raises(ZeroDivisionError):
        tasks[1].result()
    assert order == [5, 0, 2]  # one thread, first come first
    assert pool.run(lambda: 7, "x") == 7


def test_no_more_threads_than_asked_for() -> None:
    pool, lock, at_once = workers(3), threading.Lock(), [0, 0]

    def work(task: Task[None]) -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        threading.Event().wait(0.001)
        with lock:
            at_once[0] -= 1

    for task in [pool.submit(work, "x") for _ in range(60)]:
        task.result()
    assert 1 <= at_once[1] <= 3


def test_a_stuck_call_is_given_up_and_its_place_is_taken(release: threading.Event) -> None:
    pool = workers(1, SOON)
    stuck = pool.submit(lambda task: release.wait(), "slow.jpg")
    fine = pool.submit(lambda task: "done", "fine.jpg")
    with pytest.raises(DecodeTimeoutError, match=rf"slow.jpg: took longer than {SOON} s to decode"):
        stuck.result()
    assert fine.result() == "done"
    release.set()
    with pytest.raises(DecodeTimeoutError):  # what it comes to later changes nothing
        stuck.result()


def test_waiting_for_another_task_finds_the_stuck_one(release: threading.Event) -> None:
    pool = workers(1, SOON)
    pool.submit(lambda task: release.wait(), "slow.jpg")
    assert pool.submit(lambda task: 1, "x").result() == 1
    release.set()


def test_each_stage_has_its_own_time(release: threading.Event) -> None:
    pool = workers(1, SOON)

    def work(task: Task[None]) -> None:
        task.stage("read")
        release.wait()

    with pytest.raises(DecodeTimeoutError) as caught:
        pool.submit(work, "x").result()
    assert caught.value.during == "read"
    release.set()


def test_a_stopped_process_is_no_stuck_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z for an hour, then fg: the clock has gone on, the call has not."""
    clock, begun, release = [0.0], threading.Event(), threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pool = workers(1, 60)

    def work(task: Task[str]) -> str:
        begun.set()
        release.wait()
        return "done"

    task = pool.submit(work, "x")
    begun.wait()
    clock[0] = 3600.0
    with pool.changed:
        pool._give_up_overdue()
    release.set()
    assert task.result() == "done"


def test_too_many_stuck_calls_are_the_last(release: threading.Event) -> None:
    pool = workers(4, SOON, max_stuck=2)
    for _ in range(2):
        assert not pool.is_full
        with pytest.raises(DecodeTimeoutError):
            pool.run(release.wait, "x")
    assert pool.is_full
    with pytest.raises(OverloadedError, match="start the service again"):
        pool.run(lambda: 1, "x")
    release.set()
    deadline = time.monotonic() + 30
    while pool.is_full and time.monotonic() < deadline:
        release.wait(0.001)
    assert pool.run(lambda: 1, "x") == 1  # they came back


def test_draining_drops_what_waits_and_gives_up_what_is_stuck(release: threading.Event) -> None:
    pool, ran = workers(1, SOON), []
    pool.submit(lambda task: release.wait(), "x")
    pool.submit(lambda task: ran.append(1), "x")
    pool.drain()
    assert ran == []
    release.set()


def test_a_stuck_thread_does_not_keep_the_process() -> None:
    code = (
        "import threading\n"
        "from mmsearch.errors import DecodeTimeoutError\n"
        "from mmsearch.watchdog import Workers\n"
        "pool = Workers(1, 0.05, name='x', max_stuck=1)\n"
        "try:\n"
        "    pool.run(threading.Event().wait, 'x')\n"
        "except DecodeTimeoutError:\n"
        "    print('given up')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "given up\n"
