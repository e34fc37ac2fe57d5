"""From the name of a picture in a text to the picture."""

from __future__ import annotations

import pytest
from catalog_rows import SPACE, digest, image, saw, text

from mmsearch.store import Catalog, CatalogWriter


@pytest.fixture
def space_id(writer: CatalogWriter) -> int:
    return writer.ensure_space(SPACE)


def linked(catalog: Catalog, body: str) -> list[str]:
    """Paths of the pictures that a text belongs to."""
    text_id = catalog.content_id("text", digest(body))
    assert text_id is not None
    ids = catalog.text_records([text_id])[text_id].image_ids
    return [record.path for record in catalog.image_records(list(ids)).values()]


PICTURES = ("a.jpg", "sub/a.jpg", "sub/only.jpg", "sub/deep/x.jpg", "naïve ☃.jpg", "two words.jpg")


@pytest.mark.parametrize(
    ("where", "ref", "expected"),
    [
        ("c.txt", "a.jpg", "a.jpg"),  # beside the text
        ("sub/c.txt", "a.jpg", "sub/a.jpg"),  # beside the text, though the root has one too
        ("sub/c.txt", "sub/a.jpg", "sub/a.jpg"),  # from the root
        ("sub/c.txt", "../a.jpg", "a.jpg"),
        ("sub/c.txt", "./deep//x.jpg", "sub/deep/x.jpg"),
        ("sub/c.txt", "deep\\x.jpg", "sub/deep/x.jpg"),  # as Windows writes it
        ("c.txt", "/photos/sub/a.jpg", "sub/a.jpg"),  # absolute
        ("c.txt", "images/val2017/only.jpg", "sub/only.jpg"),  # the only one of that name
        ("c.txt", "C:\\stuff\\only.jpg", "sub/only.jpg"),
        ("c.txt", "naïve ☃.jpg", "naïve ☃.jpg"),
        ("c.txt", "two words.jpg", "two words.jpg"),
        ("sub/deep/c.txt", "elsewhere/a.jpg", None),  # two of that name
        ("c.txt", "absent.jpg", None),
        ("c.txt", "only", None),
        ("c.txt", "..", None),
        ("c.txt", "/", None),
    ],
)
def test_ways_to_name_a_picture(
    writer: CatalogWriter,
    catalog: Catalog,
    source: int,
    space_id: int,
    where: str,
    ref: str,
    expected: str | None,
) -> None:
    writer.commit(space_id, images=[image(source, path, path) for path in PICTURES])
    writer.commit(space_id, texts=[text(source, where, "1", "words", ref)])
    found = writer.link()
    if expected is None:
        assert (found.linked, found.unknown, linked(catalog, "words")) == (0, 1, [])
        (problem,) = catalog.failures()
        assert problem.path == f"/photos/{where}:1"
        assert repr(ref) in problem.reason
        assert ("2 pictures" in problem.reason) == ("a.jpg" in ref)
    else:
        assert (found.linked, found.unknown) == (1, 0)
        assert linked(catalog, "words") == [f"/photos/{expected}"]
        assert catalog.failures() == []


def test_a_picture_that_comes_later(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "words", "late.jpg")])
    first = writer.link()
    assert (first.unknown, first.changed) == (1, True)
    again = writer.link()
    assert (again.unknown, again.changed) == (1, False)
    assert len(catalog.failures()) == 1
    writer.commit(space_id, images=[image(source, "deep/late.jpg", "A")])
    assert writer.link().linked == 1
    assert catalog.failures() == []
    assert linked(catalog, "words") == ["/photos/deep/late.jpg"]


def test_a_list_named_by_itself_finds_pictures_of_the_folder(
    writer: CatalogWriter, catalog: Catalog, space_id: int
) -> None:
    """Its own source has the same folder; the picture lies in the other one."""
    listed = writer.ensure_source("/photos/list.csv", "file", (), False)
    folder = writer.ensure_source("/photos", "folder", (), False)
    single = writer.ensure_source("/elsewhere/one.jpg", "file", (), False)
    writer.commit(space_id, images=[image(folder, p, p) for p in ("x/a.jpg", "y/a.jpg")])
    writer.commit(space_id, images=[image(single, "one.jpg", "1")])
    writer.commit(
        space_id,
        texts=[
            text(listed, "list.csv", "1", "of a", "x/a.jpg"),
            text(listed, "list.csv", "2", "of one", "/elsewhere/one.jpg"),
        ],
    )
    assert writer.link().linked == 2
    assert linked(catalog, "of a") == ["/photos/x/a.jpg"]
    assert linked(catalog, "of one") == ["/elsewhere/one.jpg"]


def test_pictures_that_are_gone_are_not_linked_to(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "old/a.jpg", "A"), image(source, "b.jpg", "B")])
    writer.scan.begin()
    writer.scan.saw([saw("b.jpg"), saw("new/a.jpg"), saw("c.txt", "texts")])
    writer.scan.sweep(source)
    writer.commit(space_id, images=[image(source, "new/a.jpg", "changed")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "words", "a.jpg")])
    assert writer.link().linked == 1
    assert linked(catalog, "words") == ["/photos/new/a.jpg"]


def test_a_caption_follows_a_picture_that_moves_and_waits_for_one_that_is_gone(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "words", "a.jpg")])
    writer.link()
    for place, expected in (("deep/a.jpg", True), ("deep/renamed.jpg", False), ("a.jpg", True)):
        writer.scan.begin()
        writer.scan.saw([saw(place), saw("c.txt", "texts")])
        writer.scan.sweep(source)
        writer.commit(space_id, images=[image(source, place, "A", known=True)])
        writer.link()
        assert linked(catalog, "words") == ([f"/photos/{place}"] if expected else [])
        assert len(catalog.failures()) == (not expected)


def test_texts_of_a_file_that_is_gone_complain_no_more(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "words", "absent.jpg")])
    writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    writer.link()
    writer.scan.begin()
    writer.scan.saw([saw("a.jpg")])
    writer.scan.sweep(source)
    assert writer.link().unknown == 0
    assert catalog.failures() == []


def test_many_texts(writer: CatalogWriter, catalog: Catalog, source: int, space_id: int) -> None:
    """More than one chunk, some of them without a picture."""
    n = 5000
    writer.commit(space_id, images=[image(source, f"{i}.jpg", str(i)) for i in range(0, n, 2)])
    rows = [text(source, "c.txt", str(i), f"text {i}", f"{i}.jpg") for i in range(n)]
    writer.commit(space_id, texts=rows)
    found = writer.link()
    assert (found.linked, found.unknown) == (n // 2, n // 2)
    assert catalog.counts()["links"] == n // 2
    assert linked(catalog, "text 4242") == ["/photos/4242.jpg"]
