"""What touches a file or two costs the same in a large library as in a small one.

Told by the steps that SQLite takes, of which every machine takes as many.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from catalog_rows import SPACE, image, saw, text
from sqlalchemy import event

from mmsearch.store import Catalog, CatalogWriter

SMALL, LARGE = 300, 3000
_A_COUNT = 20


class Steps:
    """Counts what the connections of an engine do."""

    def __init__(self) -> None:
        self.taken = 0

    def of(self, owner: CatalogWriter | Catalog) -> None:
        """From now on also those of this one."""
        if isinstance(owner, CatalogWriter):
            self._count(owner._connection.connection.driver_connection)
        else:
            event.listen(owner.engine, "checkout", lambda driver, *_: self._count(driver))

    def _count(self, driver: object) -> None:
        def one() -> int:
            self.taken += _A_COUNT
            return 0

        driver.set_progress_handler(one, _A_COUNT)  # type: ignore[attr-defined]


def path_of(n: int) -> str:
    return f"{n // 100:03}/IMG_{n:05}.jpg"


def filled(path: Path, n: int) -> tuple[CatalogWriter, int, int]:
    """A library of n pictures, 100 a folder, with a caption each."""
    writer = CatalogWriter(path)
    space_id = writer.ensure_space(SPACE)
    source = writer.ensure_source("/photos", "folder", (), False)
    numbers = range(n)
    writer.commit(
        space_id,
        images=[image(source, path_of(k), f"picture {k}") for k in numbers],
        texts=[text(source, "c.csv", str(k), f"words {k}", path_of(k)) for k in numbers],
    )
    writer.link()
    return writer, source, space_id


Work = Callable[[CatalogWriter, Catalog, int, int], object]


def a_new_picture(writer: CatalogWriter, catalog: Catalog, source: int, space_id: int) -> None:
    writer.scan.begin()
    writer.scan.saw([saw("000/new.jpg"), *(saw(path_of(n)) for n in range(100))])
    writer.scan.sweep(source, "000")
    list(writer.scan.pending(source, space_id, ["image", "sidecar"]))
    writer.commit(space_id, images=[image(source, "000/new.jpg", "new")])
    assert writer.link().unknown == 0


def a_picture_that_goes(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.scan.begin()
    writer.scan.saw([saw(path_of(n)) for n in range(99)])
    assert writer.scan.sweep(source, "000").missing == 1


def what_is_where(writer: CatalogWriter, catalog: Catalog, source: int, space_id: int) -> None:
    assert [place.location for place in catalog.places()] == ["/photos"]


@pytest.mark.parametrize("work", [a_new_picture, a_picture_that_goes, what_is_where])
def test_effort_does_not_grow_with_the_library(tmp_path: Path, work: Work) -> None:
    taken = []
    for n in (SMALL, LARGE):
        path = tmp_path / f"{n}.db"
        writer, source, space_id = filled(path, n)
        writer.close()
        # Another one, which remembers nothing.
        with closing(CatalogWriter(path)) as writer, closing(Catalog(path)) as catalog:
            steps = Steps()
            steps.of(writer)
            steps.of(catalog)
            work(writer, catalog, source, space_id)
            taken.append(steps.taken)
    small, large = taken
    assert large <= 1.1 * small + 500


def test_a_library_of_before_gets_its_indexes_from_who_writes_first(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    writer, _, _ = filled(path, 10)
    names = ("ix_image_gone", "ix_text_gone")

    def there() -> list[str]:
        found = writer._connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'index'"
        ).scalars()
        return sorted(set(names) & set(found))

    assert there() == sorted(names)
    for name in names:
        writer._connection.exec_driver_sql(f"DROP INDEX {name}")
    writer._connection.commit()
    writer.close()
    with closing(Catalog(path)) as catalog:  # who only reads does without
        assert catalog.counts()["images"] == 10
    writer = CatalogWriter(path)
    try:
        assert there() == sorted(names)
    finally:
        writer.close()
