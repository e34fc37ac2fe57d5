"""Work in pieces: all of it once, whoever does it, and nobody waits for a thread that is stuck."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.index import crew


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(crew, "cores", lambda: 4)
    crew._helpers.cache_clear()
    yield
    crew.settle()
    crew._helpers().shutdown()
    crew._helpers.cache_clear()


def helping() -> bool:
    return threading.current_thread().name.startswith("mmsearch-index")


def pieces(n: int, least: int = 8, most: int = 1 << 40) -> list[tuple[int, int]]:
    return crew.in_pieces(n, lambda start, stop: (start, stop), least=least, most=most)


@given(
    n=st.integers(0, 5000), least=st.integers(1, 40), most=st.integers(1, 400) | st.just(1 << 30)
)
@settings(deadline=None)
def test_pieces_make_up_the_whole(n: int, least: int, most: int) -> None:
    least, most = 8 * least, 8 * max(least, most)
    found = pieces(n, least, most)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])][: len(found)]
    assert (found[-1][1] if found else 0) == n
    assert all(start % crew.ALIGNED == 0 for start, _ in found)
    for start, stop in found[:-1]:
        assert least <= stop - start <= most
    if n <= least:
        assert len(found) <= 1


def test_helpers_take_part() -> None:
    crew.settle()  # one that is still at a piece of a job that is done leaves no core free
    together = threading.Barrier(2)

    def meet(start: int, _: int) -> int:
        # The helper may be held up after they met: then its piece is done here as well.
        if start == 0 or helping():
            together.wait(60)
        return start

    assert crew.in_pieces(16, meet, least=8, most=8) == [0, 8]


def test_a_helper_that_is_stuck_is_not_waited_for() -> None:
    stuck, free = threading.Event(), threading.Event()
    again = []

    def work(start: int, stop: int) -> int:
        if helping():
            stuck.set()
            assert free.wait(60)
        elif start == 0:
            assert stuck.wait(60)  # one has begun with something
        else:
            again.append(start)
        return stop - start

    assert sum(crew.in_pieces(64, work, least=8, most=8)) == 64
    assert len(again) == 7  # all but the first, what the helpers have begun included
    assert crew._helping
    free.set()
    crew.settle()
    assert not [one for one in crew._helping if not one.done()]


def test_what_a_helper_cannot_do_is_done_here() -> None:
    begun = threading.Event()

    def work(start: int, _: int) -> int:
        if helping():
            begun.set()
            raise MemoryError
        assert begun.wait(60)
        return start

    assert crew.in_pieces(64, work, least=8, most=8) == list(range(0, 64, 8))


def test_what_fails_is_raised() -> None:
    def work(start: int, _: int) -> int:
        raise MemoryError(start)

    with pytest.raises(MemoryError):
        crew.in_pieces(64, work, least=8, most=8)
    assert crew._at_work <= 3
    crew.settle()
    assert crew._at_work == 0


def test_as_many_searches_as_cores_run_alone() -> None:
    """Each on a thread of its own, however much there is to do."""
    together = threading.Barrier(4)
    helped = []

    def work(start: int, _: int) -> None:
        if helping():
            helped.append(start)
        elif start == 0:
            together.wait(60)

    def search() -> None:
        nonlocal helped
        crew.in_pieces(800, work, least=8, most=8)

    threads = [threading.Thread(target=search) for _ in range(4)]
    with crew._lock:
        crew._at_work += 4  # as if the four had begun
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with crew._lock:
        crew._at_work -= 4
    assert not helped
    assert crew._at_work == 0


def test_in_a_process_that_was_forked() -> None:
    """Where helpers did not come along, others are made."""
    script = """
import os, torch
from mmsearch.index import crew
crew.cores = lambda: 2
work = lambda start, stop: stop - start
assert sum(crew.in_pieces(800, work, least=8, most=8)) == 800
child = os.fork()
if not child:
    done = sum(crew.in_pieces(800, work, least=8, most=8)) == 800
    crew.settle()
    os._exit(0 if done else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_how_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for allowed, there in (("1", 1), ("1,2", 1), ("odd", None), ("0", 1)):
        with monkeypatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", allowed)
            crew._cores.cache_clear()
            assert crew.cores() == there or there is None
            assert crew.cores() >= 1
    crew._cores.cache_clear()


def test_no_more_cores_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(crew, "_cores", lambda: 8)
    monkeypatch.setattr(crew, "_limit", crew._limit)
    assert crew.cores() == 8
    crew.limit(3)
    assert crew.cores() == 3
    crew.limit(100)
    assert crew.cores() == 8
