"""The queue before the model: what goes together, what is refused, what is dropped."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from mmsearch.errors import OverloadedError, QueryError
from mmsearch.serve.batching import Batcher
from mmsearch.serve.exchange import ClientGoneError, Exchange

DEADLINE_S = 60


class Model:
    """Runs batches when it is let, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.may_run = threading.Semaphore(0)
        self.began = threading.Event()

    def run(self, items: Sequence[Any]) -> Sequence[str]:
        self.batches.append(list(items))
        self.began.set()
        assert self.may_run.acquire(timeout=DEADLINE_S)
        if "bad" in items:
            raise QueryError("a bad one")
        return [f"<{item}>" for item in items]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def make() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(**options: Any) -> Batcher:
        made.append(Batcher(**{"max_batch": 8, "max_queue": 100} | options))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main

    asyncio.run(bounded())


async def begun(model: Model) -> None:
    await asyncio.to_thread(model.began.wait, DEADLINE_S)


def test_what_waits_together_is_run_together(model: Model, make: Callable[..., Batcher]) -> None:
    seen: list[Sequence[float]] = []
    batcher = make(max_batch=4, on_batch=seen.append)

    async def main() -> None:
        first = batcher.submit("text", model.run, "first")
        await begun(model)
        # The model works: these gather, in their order, four at a time.
        more = [batcher.submit("text", model.run, n) for n in range(6)]
        model.may_run.release(3)
        assert await first == "<first>"
        assert await asyncio.gather(*more) == [f"<{n}>" for n in range(6)]

    run(main())
    assert model.batches == [["first"], [0, 1, 2, 3], [4, 5]]
    assert [len(waited) for waited in seen] == [1, 4, 2]


def test_who_is_answered_has_been_counted(model: Model, make: Callable[..., Batcher]) -> None:
    """Also where counting takes its time: the metrics are not behind the answers."""
    seen: list[int] = []

    def counts(waited: Sequence[float]) -> None:
        time.sleep(0.05)
        seen.append(len(waited))

    batcher = make(on_batch=counts)
    model.may_run.release(1)

    async def main() -> None:
        await batcher.submit("text", model.run, "first")
        assert seen == [1]

    run(main())


def test_kinds_do_not_mix_and_keep_their_order(model: Model, make: Callable[..., Batcher]) -> None:
    other = Model()
    other.may_run.release(10)
    batcher = make()

    async def main() -> None:
        jobs: list[asyncio.Future[Any]] = [batcher.submit("text", model.run, "first")]
        await begun(model)
        jobs.append(batcher.submit("text", model.run, "t1"))
        jobs.append(batcher.submit("image", other.run, "i1"))
        jobs.append(batcher.submit("text", model.run, "t2"))
        jobs.append(batcher.call(lambda: "alone"))
        jobs.append(batcher.submit("image", other.run, "i2"))
        model.may_run.release(10)
        assert await asyncio.gather(*jobs) == ["<first>", "<t1>", "<i1>", "<t2>", "alone", "<i2>"]

    run(main())
    assert model.batches == [["first"], ["t1", "t2"]]
    assert other.batches == [["i1", "i2"]]


def test_sizes_are_added_up(model: Model, make: Callable[..., Batcher]) -> None:
    batcher = make(max_batch=8)

    async def main() -> None:
        jobs = [batcher.submit("text", model.run, "first")]
        await begun(model)
        sizes = [3, 6, 2, 20]
        jobs += [batcher.submit("text", model.run, size, size) for size in sizes]
        model.may_run.release(10)
        await asyncio.gather(*jobs)

    run(main())
    # 6 does not go with 3, 2 does; what is larger than a batch goes by itself.
    assert model.batches == [["first"], [3, 2], [6], [20]]


def test_a_batch_that_fails_is_tried_one_by_one(model: Model, make: Callable[..., Batcher]) -> None:
    batcher = make()

    async def main() -> None:
        first = batcher.submit("text", model.run, "first")
        await begun(model)
        jobs = [batcher.submit("text", model.run, item) for item in ("good", "bad", "fine")]
        model.may_run.release(10)
        await first
        answers = await asyncio.gather(*jobs, return_exceptions=True)
        assert answers[0] == "<good>"
        assert isinstance(answers[1], QueryError)
        assert answers[2] == "<fine>"

    run(main())


def test_a_full_queue_refuses(model: Model, make: Callable[..., Batcher]) -> None:
    batcher = make(max_queue=2)

    async def main() -> None:
        jobs = [batcher.submit("text", model.run, "first")]
        await begun(model)
        jobs += [batcher.submit("text", model.run, n) for n in range(2)]
        with pytest.raises(OverloadedError, match="2 questions are waiting"):
            batcher.submit("text", model.run, "too many")
        # Room that nobody waits in any more is given to who comes.
        jobs[1].cancel()
        jobs[1] = batcher.submit("text", model.run, "another")
        model.may_run.release(10)
        assert await asyncio.gather(*jobs) == ["<first>", "<another>", "<1>"]

    run(main())


def test_who_hangs_up_costs_nothing(model: Model, make: Callable[..., Batcher]) -> None:
    dropped: list[int] = []
    batcher = make(on_dropped=dropped.append)
    hang_up = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def main() -> None:
        first = batcher.submit("text", model.run, "first")
        await begun(model)
        exchange = Exchange("id", receive)
        asked = asyncio.create_task(
            exchange.unless_gone(batcher.submit("text", model.run, "nobody"))
        )
        stays = batcher.submit("text", model.run, "stays")
        hang_up.set()
        with pytest.raises(ClientGoneError):
            await asked
        assert exchange.is_gone
        model.may_run.release(10)
        assert await asyncio.gather(first, stays) == ["<first>", "<stays>"]
        exchange.end()

    run(main())
    assert model.batches == [["first"], ["stays"]]
    assert dropped == [1]


def test_closing_refuses_what_waits(model: Model, make: Callable[..., Batcher]) -> None:
    batcher = make()

    async def main() -> None:
        first = batcher.submit("text", model.run, "first")
        await begun(model)
        waits = batcher.submit("text", model.run, "waits")
        batcher.close()
        with pytest.raises(OverloadedError, match="stopping"):
            await waits
        with pytest.raises(OverloadedError, match="stopping"):
            batcher.submit("text", model.run, "late")
        model.may_run.release(1)
        assert await first == "<first>"

    run(main())


def test_under_load_it_waits_for_the_next_batch(model: Model, make: Callable[..., Batcher]) -> None:
    """Whoever was answered asks again: their questions go together, however slowly they come."""
    batcher = make(max_wait_ms=1000 * DEADLINE_S)

    async def main() -> None:
        first = batcher.submit("text", model.run, "first")
        await begun(model)  # though nothing else came: an idle thread waits for nobody
        three = [batcher.submit("text", model.run, n) for n in range(3)]
        model.may_run.release(2)
        await asyncio.gather(first, *three)
        again = []
        for n in range(3):
            again.append(batcher.submit("text", model.run, f"again {n}"))
            await asyncio.sleep(0)
        model.may_run.release(1)
        await asyncio.gather(*again)

    run(main())
    assert len(model.batches[1]) == 3


def test_a_burst_is_waited_for_as_long_as_it_goes_on(
    model: Model, make: Callable[..., Batcher]
) -> None:
    """Each job that comes in time extends the wait; the first that does not come ends it."""

    async def longest_pause(batcher: Batcher, model: Model) -> float:
        first = batcher.submit("text", model.run, "first")
        await begun(model)
        four = [batcher.submit("text", model.run, n) for n in range(4)]
        times = [time.perf_counter()]
        model.may_run.release(2)
        await asyncio.gather(first, *four)
        again = []
        for n in range(3):  # the fourth has gone
            again.append(batcher.submit("text", model.run, f"again {n}"))
            times.append(time.perf_counter())
            await asyncio.sleep(0.6)  # in time for each, not for all three together
        model.may_run.release(3)
        await asyncio.gather(*again)
        return max(later - one for one, later in itertools.pairwise(times))

    async def main() -> None:
        nonlocal model
        while await longest_pause(make(max_wait_ms=1000), model) >= 1:
            model = Model()  # what asks was held up, and too late itself

    run(main())
    assert model.batches[2] == ["again 0", "again 1", "again 2"]


@pytest.mark.parametrize("jobs", [3, 8])
def test_as_many_as_are_waited_for_are_enough(
    model: Model, make: Callable[..., Batcher], jobs: int
) -> None:
    """The last of them wakes the thread, which else would wait for one more: here, for ever."""
    batcher = make(max_wait_ms=10_000 * DEADLINE_S)

    async def main() -> None:
        first = batcher.submit("text", model.run, "first")
        await begun(model)
        several = [batcher.submit("text", model.run, n) for n in range(jobs)]
        model.may_run.release(3)
        await asyncio.gather(first, *several)
        for _ in range(100):  # all answers are sent: nothing else wakes it
            await asyncio.sleep(0.001)
        again = []
        async with asyncio.timeout(DEADLINE_S / 4):
            for n in range(jobs):
                again.append(batcher.submit("text", model.run, f"again {n}"))
                while n < jobs - 1 and batcher._wake_at != jobs:  # until it waits for them
                    await asyncio.sleep(0.001)
            await asyncio.gather(*again)

    run(main())
    assert model.batches[2] == [f"again {n}" for n in range(jobs)]
