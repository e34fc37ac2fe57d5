"""What is known of pictures follows them and the files beside them, whoever writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from catalog_rows import INFO, SPACE, digest, image

from mmsearch.store import Catalog, CatalogWriter, ToldRow
from mmsearch.store.details import TRIGGER_SQL
from mmsearch.told import Details, Told, told_json
from mmsearch.types import PictureInfo

TITLED = told_json(Told(over=Details(title="told")))


@pytest.fixture
def source(writer: CatalogWriter) -> int:
    writer.ensure_space(SPACE)
    return writer.ensure_source("/photos", "folder", [], False)


@pytest.fixture
def read(writer: CatalogWriter, catalog_path: Path) -> Iterator[Catalog]:
    with closing(Catalog(catalog_path)) as catalog:
        yield catalog


def known(catalog: Catalog, content: str) -> PictureInfo:
    id_ = catalog.content_id("image", digest(content))
    assert id_ is not None
    return catalog.image_records([id_])[id_].info


def own(catalog: Catalog, content: str) -> PictureInfo | None:
    id_ = catalog.content_id("image", digest(content))
    assert id_ is not None
    return catalog.image_info(id_)


def test_the_migration_makes_what_the_code_knows(writer: CatalogWriter, catalog_path: Path) -> None:
    with closing(sqlite3.connect(catalog_path)) as connection:
        made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type='trigger'"))
    assert {name: sql for name, sql in made.items() if name.startswith("details_")} == TRIGGER_SQL


def test_what_is_told_comes_and_goes(writer: CatalogWriter, read: Catalog, source: int) -> None:
    writer.commit(1, [replace(image(source, "a.jpg", "A"), beside="[1]", told=TITLED)])
    assert known(read, "A") == replace(INFO, title="told")
    assert own(read, "A") == INFO
    writer.commit(1, told=[ToldRow(source, "a.jpg", "", "", None)])
    assert known(read, "A") == own(read, "A") == INFO
    # As a file of another content, whose picture says other things.
    writer.commit(1, [replace(image(source, "a.jpg", "A"), beside="[1]", told=TITLED)])
    writer.commit(1, [image(source, "a.jpg", "B"), image(source, "old.jpg", "A", known=True)])
    assert known(read, "A") == INFO


def test_a_place_that_is_gone_tells_nothing(
    writer: CatalogWriter, read: Catalog, source: int
) -> None:
    writer.commit(
        1,
        [
            replace(image(source, "a.jpg", "A"), told=TITLED),
            image(source, "b.jpg", "A", known=True),
        ],
    )
    assert known(read, "A").title == "told"
    writer.scan.begin()
    writer.scan.saw([])
    writer.scan.saw_unreadable(source, ["b.jpg"])
    writer.scan.sweep(source)
    assert known(read, "A").title is None


def test_readers_drop_only_what_is_others(
    writer: CatalogWriter, read: Catalog, source: int
) -> None:
    from mmsearch.filters import parse

    writer.commit(1, [image(source, "a.jpg", "A")])
    condition = parse("keyword:new")
    assert read.select(condition, "image").tolist() == []
    told = told_json(Told(gaps=Details(keywords=("new",))))
    writer.commit(1, told=[ToldRow(source, "a.jpg", "", "[1]", told)])
    assert len(read.select(condition, "image")) == 1
    writer.commit(1, [replace(image(source, "b.jpg", "B"), told=told)])
    assert len(read.select(condition, "image")) == 2


@pytest.mark.parametrize("place", [(None, None), (1.5, -2.5), (1.5, None)])
def test_what_it_says_of_itself_is_kept_to_the_letter(
    writer: CatalogWriter, read: Catalog, source: int, place: tuple[float | None, float | None]
) -> None:
    info = replace(
        INFO, title="It's “own”", latitude=place[0], longitude=place[1], keywords=("ß", "a,b")
    )
    told = told_json(Told(over=Details(title="x", place=(3.0, 4.0), keywords=("more",))))
    writer.commit(1, [replace(image(source, "a.jpg", "A"), info=info, told=told)])
    assert known(read, "A").keywords == ("more", "ß", "a,b")
    writer.commit(1, told=[ToldRow(source, "a.jpg", "", "", None)])
    assert known(read, "A") == info
