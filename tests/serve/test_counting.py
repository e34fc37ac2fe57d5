"""The counts of the filters are there before anybody asks, after the start and after a commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from collection import encoded, run, write
from serve_library import BASE_URL
from sqlalchemy import event
from starlette.testclient import TestClient

import mmsearch
from mmsearch.library import Library
from mmsearch.serve import counting, create_app
from mmsearch.serve.service import Service
from mmsearch.settings import Settings

_DEADLINE_S = 60


class Statements:
    """What the catalog of a library is asked, by which threads, and when all is read."""

    def __init__(self, library: Library) -> None:
        self.asked: list[str] = []
        self.read_through = threading.Event()
        event.listen(library.catalog.engine, "before_cursor_execute", self._before)
        event.listen(library.catalog.engine, "after_cursor_execute", self._after)

    def _before(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.asked.append(statement)

    def _after(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM tag" in statement:  # asked last
            self.read_through.set()

    def of_rows(self) -> list[str]:
        return [s for s in self.asked if any(f"FROM {t}" in s for t in ("picture", "image", "tag"))]


@pytest.fixture
def indexed(tmp_path: Path, model: str) -> Path:
    for n in range(4):
        write(tmp_path / f"photos/first{n}.png", encoded(n))
    run(tmp_path / "library", tmp_path / "photos", model=model)
    return tmp_path / "library"


@pytest.fixture
def opened(indexed: Path) -> Iterator[Library]:
    with mmsearch.open(indexed, device="cpu") as library:
        yield library


def test_counts_are_read_before_they_are_asked_for(
    opened: Library, settings: Settings, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "EVERY_S", 0.01)
    said = Statements(opened)
    with TestClient(create_app(opened, settings), base_url=BASE_URL) as client:
        for pictures in (4, 5):
            if pictures == 5:
                said.read_through.clear()
                write(tmp_path / "photos/second.png", encoded(9))
                run(opened.path, tmp_path / "photos", model=model)
            assert said.read_through.wait(_DEADLINE_S)
            _settled(opened)
            said.asked.clear()
            assert client.get("/v1/facets").json()["total"] == pictures
            assert said.of_rows() == []


def _settled(library: Library) -> None:
    """Returns once the part that was being read is kept."""
    library.catalog.select(mmsearch.filters.parse("width:>0"), "image")


def test_what_is_asked_meanwhile_waits_for_a_part_alone(opened: Library) -> None:
    parts = opened.catalog.warm_facets()
    said = Statements(opened)
    for _ in range(6):
        next(parts)
        assert len(said.of_rows()) <= 2
        said.asked.clear()
        asked = threading.Thread(target=_settled, args=(opened,))
        asked.start()
        asked.join(_DEADLINE_S)
        assert not asked.is_alive()
        said.asked.clear()


def test_what_cannot_be_read_is_tried_again(
    opened: Library, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library may lie on a drive that is away for a while."""
    monkeypatch.setattr(counting, "EVERY_S", 0.01)
    service = Service(opened, settings)
    tried: list[int] = []
    revision = opened.catalog.revision

    def away() -> int:
        tried.append(1)
        if len(tried) < 3:
            raise mmsearch.errors.StoreError("the drive is away")
        return revision()

    monkeypatch.setattr(opened.catalog, "revision", away)
    said = Statements(opened)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(counting.keep_counted, service)
            assert await anyio.to_thread.run_sync(said.read_through.wait, _DEADLINE_S)
            group.cancel_scope.cancel()

    anyio.run(main)
    service.close()
    assert len(tried) >= 3
