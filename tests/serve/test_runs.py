"""The runs of a service, beside other processes that write to its library."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from collection import encoded, run, write

from mmsearch.serve import logs
from mmsearch.serve.exchange import Exchange, current
from mmsearch.serve.runs import Run, Runs
from mmsearch.store.lock import writing

_DEADLINE_S = 120


@pytest.fixture
def library(tmp_path: Path, model: str) -> Path:
    write(tmp_path / "photos" / "0.png", encoded(0))
    run(tmp_path / "library", tmp_path / "photos", model=model)
    write(tmp_path / "photos" / "1.png", encoded(1))
    return tmp_path / "library"


async def one_child(runs: Runs) -> None:
    """Returns when a process of the runs has begun and ended again."""
    async with asyncio.timeout(_DEADLINE_S):
        while runs._child is None:
            await asyncio.sleep(0.01)
        while runs._child is not None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("forget", [False, True])
def test_a_writer_that_begins_first_is_waited_for(
    library: Path, monkeypatch: pytest.MonkeyPatch, forget: bool
) -> None:
    # Each time it looks, nobody writes; each time its process comes, somebody does.
    monkeypatch.setattr(Runs, "writer", lambda _: None)

    async def main() -> None:
        runs = Runs(library, "cpu")
        with writing(library):
            asked = runs.start("photos", str(library.parent / "photos"), forget=forget)
            await one_child(runs)
            assert (asked.state, asked.step, asked.error) == ("running", "waiting", None)
        await runs.ended(asked, _DEADLINE_S)
        assert (asked.state, asked.error) == ("done", None)
        assert asked.report is not None
        assert asked.report["encoded_images"] == 1
        await runs.close()

    asyncio.run(main())


def test_what_holds_on_is_told_and_not_for_another_request(
    library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mmsearch.serve.runs._PATIENCE_S", 0.0)
    caplog.handler.addFilter(logs._request)

    async def never() -> dict[str, str]:
        raise AssertionError

    async def main() -> None:
        current.set(Exchange("the first request", never))
        runs = Runs(library, "cpu")
        with writing(library):
            asked = runs.start("photos", str(library.parent / "photos"))
            await runs.ended(asked, _DEADLINE_S)
        assert asked.state == "failed"
        assert asked.error is not None
        assert "is writing to the library" in asked.error
        await runs.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    (line,) = [record for record in caplog.records if "indexing photos" in record.getMessage()]
    assert line.request_id is None


def test_what_changes_while_a_state_is_taken_in_is_told_too(tmp_path: Path) -> None:
    async def main() -> None:
        runs = Runs(tmp_path, "cpu")
        changes = runs.changes(60, at_most_every_s=0.01)
        assert await anext(changes)
        for told in range(3):
            runs._tell()  # after the state was read, before the next is asked for
            async with asyncio.timeout(10):
                assert await anext(changes), told
        between = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)  # it rests after the last one
        runs._tell()
        async with asyncio.timeout(10):
            assert await between
        waiting = asyncio.create_task(anext(changes))
        await asyncio.sleep(0.1)
        assert not waiting.done()  # and nothing is told twice
        runs.end_streams()
        assert await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(changes)

    asyncio.run(main())


def test_an_error_of_our_own_ends_one_run_and_not_those_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    async def call(_: Runs, run: Run, *__: str) -> int:
        called.append(run.source)
        if run.source == "first":
            raise ValueError("of ours")
        return 0

    monkeypatch.setattr(Runs, "_call", call)

    async def main() -> None:
        runs = Runs(tmp_path, "cpu")
        first, second = runs.start("first", "/first"), runs.start("second", "/second")
        await runs.ended(second, _DEADLINE_S)
        assert (first.state, second.state) == ("failed", "done")
        assert first.error is not None
        assert "service's log" in first.error
        await runs.close()

    asyncio.run(main())
    assert called == ["first", "second"]
    assert "of ours" in caplog.text
