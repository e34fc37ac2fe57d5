"""Libraries of every released schema, as they were written then, open today."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from collection import run

from indexer import manage
from mmsearch.encode.protocol import Encoder
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store import Catalog, CatalogWriter, engine
from mmsearch.store.schema import SCHEMA_HEAD

LIBRARIES = Path(__file__).parent / "libraries"
VERSIONS = sorted(folder.name for folder in LIBRARIES.iterdir() if folder.name.isdigit())


def rows(catalog: Path, query: str) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(catalog)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folder that the libraries were made from, at another place."""
    return Path(shutil.copytree(LIBRARIES / "photos", tmp_path / "photos"))


@pytest.fixture
def library(tmp_path: Path, photos: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of an old library; the photos have the times that it knows."""
    copy = Path(shutil.copytree(LIBRARIES / request.param, tmp_path / "library"))
    for table in ("image", "container", "failure"):
        for path, mtime_ns in rows(
            copy / CATALOG_NAME, f"SELECT path, mtime_ns FROM {table} WHERE mtime_ns > 0"
        ):
            if (photos / path).exists():  # git does not keep times
                os.utime(photos / path, ns=(mtime_ns, mtime_ns))
    return copy


every_version = pytest.mark.parametrize("library", VERSIONS, indirect=True)


def test_there_is_one_of_every_schema_but_the_newest() -> None:
    known = {file.name[:4] for file in (Path(engine.__file__).parent / "migrations").rglob("0*.py")}
    assert set(VERSIONS) >= known - {SCHEMA_HEAD}


@every_version
def test_it_is_migrated_and_kept_as_it_was(library: Path, request: pytest.FixtureRequest) -> None:
    path = library / CATALOG_NAME
    (version,) = rows(path, "SELECT version_num FROM alembic_version")[0]
    names = ("content", "picture", "passage", "image", "text", "embedding", "failure")
    columns = {  # those of then: later schemas may add some
        table: ", ".join(
            name for name, _ in rows(path, f"SELECT name, 0 FROM pragma_table_info('{table}')")
        )
        for table in names
    }
    before = {table: rows(path, f"SELECT {columns[table]} FROM {table}") for table in names}
    CatalogWriter(path).close()
    assert rows(path, "SELECT version_num FROM alembic_version") == [(SCHEMA_HEAD,)]
    for table, was in before.items():
        assert rows(path, f"SELECT {columns[table]} FROM {table}") == was
    assert rows(path, "PRAGMA foreign_key_check") == []
    backup = library / f"{CATALOG_NAME}.{version}.bak"
    assert backup.exists() == (version != SCHEMA_HEAD)
    if version != SCHEMA_HEAD:
        assert rows(backup, "SELECT version_num FROM alembic_version") == [(version,)]
        for table, was in before.items():
            assert rows(backup, f"SELECT {columns[table]} FROM {table}") == was


@every_version
def test_it_is_searched_and_counted(library: Path) -> None:
    CatalogWriter(library / CATALOG_NAME).close()
    with Library(library, device="cpu") as lib:
        status = lib.status()
        assert (status.images, status.texts, status.links, status.carried) == (7, 4, 3, 1)
        assert (status.missing, status.failed) == (1, 1)
        (source,) = lib.sources()
        assert (source.name, source.location) == ("photos", "/tmp/fix/photos")
        # The same picture and its copy are one; the one that is gone is not found.
        near = lib.similar(1, k=100)
        assert sorted(hit.image.id for hit in near) == [2, 4, 5, 7, 8]
        assert [hit.score for hit in near] == sorted((hit.score for hit in near), reverse=True)
        captions = {hit.image.id: hit.captions for hit in near}
        assert captions[4] == ("a calm sea", "waves beside picture two")
        assert captions[5] == ("what picture 3 says",)
        assert lib.image(1).copies == ("/tmp/fix/photos/copy of 0.jpg",)
        assert [hit.text.body for hit in lib.captions_of(1, k=1)]


@every_version
def test_relocated_it_has_nothing_to_read(
    library: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model is nowhere to be found, so nothing can be read anew."""

    def refuse(*_args: object, **_kwargs: object) -> Encoder:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mmsearch.encode.load_encoder", refuse)
    (moved,) = manage.relocate(library, "/tmp/fix/photos", photos)
    assert (moved.name, moved.old, moved.new) == ("photos", "/tmp/fix/photos", str(photos))
    assert (moved.compared, moved.found) == (9, 8)  # one is gone
    report = run(library)
    assert not report.changed
    assert report.warnings == []
    assert report.files == 6  # one of them is broken
    catalog = Catalog(library / CATALOG_NAME)
    record = catalog.image_records([1])[1]
    catalog.close()
    assert (record.path, record.copies) == (f"{photos}/0.jpg", (f"{photos}/copy of 0.jpg",))
    with Library(library, device="cpu") as lib:
        assert lib.read_image(1) == (photos / "0.jpg").read_bytes()
        assert lib.read_image(7)
        assert lib.thumbnail(4)
        assert len(lib.similar(1, k=100)) == 5


@every_version
def test_what_is_gone_from_it_can_be_forgotten(library: Path) -> None:
    removal = manage.forget_gone(library, None)
    assert (removal.pictures, removal.contents) == (1, 1)
    with Library(library, device="cpu") as lib:
        assert lib.status().missing == 0
        assert sorted(hit.image.id for hit in lib.similar(1, k=100)) == [2, 4, 5, 7, 8]
        assert lib.catalog.hidden("image").tolist() == [3]
