"""From the name of a picture in a text to the picture."""

from __future__ import annotations

import pytest
from catalog_rows import SPACE, digest, failure, image, saw, text

from mmsearch.store import Catalog, CatalogWriter, claims


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


def test_a_better_place_or_a_second_meaning_that_comes_later(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """Links are those of a clean run, whatever the order; and at once, not at the next link()."""
    writer.commit(space_id, images=[image(source, "far/a.jpg", "A"), image(source, "b.jpg", "B")])
    writer.commit(
        space_id,
        texts=[
            text(source, "c.txt", "1", "of a", "a.jpg"),
            text(source, "c.txt", "2", "of b", "b.jpg"),
        ],
    )
    writer.link()
    assert linked(catalog, "of a") == ["/photos/far/a.jpg"]
    writer.commit(space_id, images=[image(source, "near/a.jpg", "A", known=True)])
    assert linked(catalog, "of a") == ["/photos/far/a.jpg"]  # a copy: still one picture
    writer.commit(
        space_id, images=[image(source, "near/a.jpg", "other"), image(source, "x/b.jpg", "C")]
    )
    assert linked(catalog, "of a") == []
    assert linked(catalog, "of b") == ["/photos/b.jpg"]  # the one beside it, now as before
    assert writer.link().unknown == 1
    (problem,) = catalog.failures()
    assert "2 pictures are called that" in problem.reason
    writer.commit(space_id, images=[image(source, "a.jpg", "third")])
    assert writer.link().linked == 1
    assert linked(catalog, "of a") == ["/photos/a.jpg"]
    assert catalog.failures() == []


def test_a_second_meaning_that_comes_with_another_run(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """What a writer remembers of the texts there are, it must first find out."""
    writer.commit(space_id, images=[image(source, "far/a.jpg", "A")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "of a", "a.jpg")])
    writer.link()
    writer.close()
    later = CatalogWriter(catalog.path)
    later.commit(space_id, images=[image(source, "other/a.jpg", "other")])
    later.close()
    assert linked(catalog, "of a") == []


def test_a_second_meaning_that_comes_in_an_archive(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "far/a.jpg", "A")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "of a", "a.jpg")])
    writer.link()
    assert linked(catalog, "of a") == ["/photos/far/a.jpg"]
    writer.commit(space_id, images=[image(source, "z.zip", "other", member="in/a.jpg")])
    assert linked(catalog, "of a") == []


def test_the_same_place_in_another_source_is_not_beside_the_text(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    drive = writer.ensure_source("/drive", "folder", (), False)
    writer.commit(space_id, images=[image(drive, "a.jpg", "A")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "of a", "a.jpg")])
    writer.link()
    assert linked(catalog, "of a") == ["/drive/a.jpg"]
    writer.commit(space_id, images=[image(drive, "in/a.jpg", "other")])
    assert linked(catalog, "of a") == []


def test_what_a_picture_carries_is_linked_as_it_comes(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    members = ("", "m/a.jpg")
    pictures = [image(source, "a.zip", f"in {member}", member=member) for member in members]
    titles = [
        text(source, "a.zip", "title", f"of {m}", m or "a.zip", origin="embedded", member=m)
        for m in members
    ]
    for _ in range(2):  # the second time nothing is new
        writer.commit(space_id, images=pictures, texts=titles)
        assert linked(catalog, "of ") == ["/photos/a.zip"]
        assert linked(catalog, "of m/a.jpg") == ["/photos/a.zip!/m/a.jpg"]
        assert not writer.link().changed


def test_a_picture_that_returns_is_a_second_meaning(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    def sweep(*pictures: str) -> None:
        writer.scan.begin()
        writer.scan.saw([saw("c.txt", "texts"), *map(saw, pictures)])
        writer.scan.sweep(source)
        writer.link()

    writer.commit(space_id, images=[image(source, "x/a.jpg", "A"), image(source, "y/a.jpg", "B")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "words", "a.jpg")])
    sweep("y/a.jpg")
    assert linked(catalog, "words") == ["/photos/y/a.jpg"]
    sweep("x/a.jpg", "y/a.jpg")
    assert linked(catalog, "words") == []
    sweep("x/a.jpg")
    assert linked(catalog, "words") == ["/photos/x/a.jpg"]


def test_the_reason_why_a_text_has_no_picture_is_that_of_today(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "words", "a.jpg")])
    writer.link()
    assert "not in the library" in catalog.failures()[0].reason
    writer.commit(space_id, images=[image(source, "x/a.jpg", "A"), image(source, "y/a.jpg", "B")])
    assert writer.link().changed
    (problem,) = catalog.failures()
    assert "2 pictures" in problem.reason


def test_a_sidecar_belongs_to_the_picture_beside_it_only(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """Not to another one of that name when its own cannot be read."""
    writer.commit(space_id, images=[image(source, "x/a.png", "A")])
    writer.commit(
        space_id, texts=[text(source, "y/a.txt", "sidecar", "words", "a.png", origin="sidecar")]
    )
    assert writer.link().unknown == 1
    assert linked(catalog, "words") == []


def test_a_sidecar_follows_when_its_picture_is_another(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """ "a.txt" goes with a.png, until that is called a.jpg; the sidecar is the same file."""
    name = "caf\udce9/a.png"
    writer.commit(space_id, images=[image(source, name, "A")])
    writer.commit(
        space_id,
        texts=[text(source, "caf\udce9/a.txt", "sidecar", "words", "a.png", origin="sidecar")],
    )
    writer.link()
    assert linked(catalog, "words") == [f"/photos/{name}"]
    new = "caf\udce9/a.jpg"
    writer.scan.begin()
    writer.scan.saw([saw(new), saw("caf\udce9/a.txt", "sidecar", of=new)])
    writer.scan.sweep(source)
    writer.commit(space_id, images=[image(source, new, "A", known=True)])
    assert writer.link().linked == 1
    assert linked(catalog, "words") == [f"/photos/{new}"]


# --- a name that says the folder ------------------------------------------------------------------


def test_a_name_in_a_folder_that_is_known_means_no_picture_elsewhere(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """Cameras give the same names again."""
    pictures = ("2019/other.jpg", "2020/IMG_1.jpg")
    writer.commit(space_id, images=[image(source, path, path) for path in pictures])
    writer.commit(space_id, texts=[text(source, "c.csv", "2", "a goldfinch", "2019/IMG_1.jpg")])
    assert writer.link().unknown == 1
    assert linked(catalog, "a goldfinch") == []
    (problem,) = catalog.failures()
    assert problem.reason == (
        "names the picture '2019/IMG_1.jpg', which is not in the library "
        "(one of that file name is, elsewhere)"
    )


def test_a_folder_that_is_known_once_a_source_has_moved_there(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    drive = writer.ensure_source("/drive", "folder", (), False)
    writer.commit(space_id, images=[image(source, "2020/IMG_1.jpg", "A")])
    writer.commit(space_id, images=[image(drive, "2019/other.jpg", "B")])
    name = "/mnt/2019/IMG_1.jpg"
    writer.commit(space_id, texts=[text(source, "c.csv", "2", "a goldfinch", name)])
    writer.link()
    assert linked(catalog, "a goldfinch") == ["/photos/2020/IMG_1.jpg"]
    writer.sources.move({drive: "/mnt"})
    assert linked(catalog, "a goldfinch") == []


def test_a_folder_that_is_known_once_it_is_a_source(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """In a run that has looked already for what its texts may mean."""
    writer.commit(space_id, images=[image(source, "2020/IMG_1.jpg", "A")])
    name = "/mnt/2019/IMG_1.jpg"
    writer.commit(space_id, texts=[text(source, "c.csv", "2", "a goldfinch", name)])
    writer.link()
    writer.commit(space_id, images=[image(source, "2021/other.jpg", "B")])
    assert linked(catalog, "a goldfinch") == ["/photos/2020/IMG_1.jpg"]
    drive = writer.ensure_source("/mnt", "folder", (), False)
    writer.commit(space_id, images=[image(drive, "2019/other.jpg", "C")])
    writer.link()
    assert linked(catalog, "a goldfinch") == []


@pytest.mark.parametrize("ref", ["2019/IMG_1.jpg", "2019\\IMG_1.jpg", "/photos/2019/IMG_1.jpg"])
def test_a_caption_of_a_picture_that_could_not_be_read_goes_to_no_other(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int, ref: str
) -> None:
    writer.commit(space_id, images=[image(source, "2020/IMG_1.jpg", "shark")])
    writer.commit(None, failures=[failure(source, "2019/IMG_1.jpg")])
    writer.commit(space_id, texts=[text(source, "c.csv", "2", "a goldfinch", ref)])
    assert writer.link().unknown == 1
    assert linked(catalog, "a goldfinch") == []
    assert catalog.failures()[-1].reason.endswith("not in the library: it could not be read")


def test_a_name_alone_of_a_picture_beside_the_text_that_could_not_be_read(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "2020/IMG_1.jpg", "shark")])
    writer.commit(space_id, texts=[text(source, "2019/c.csv", "2", "a goldfinch", "IMG_1.jpg")])
    assert writer.link().linked == 1  # it is not known that there is another
    writer.commit(None, failures=[failure(source, "2019/IMG_1.jpg")])
    assert writer.link().unknown == 1
    assert linked(catalog, "a goldfinch") == []


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("a.zip!/IMG_1.jpg", None),
        ("b.zip!/IMG_1.jpg", None),
        ("unknown.zip!/IMG_1.jpg", "/photos/2020/IMG_1.jpg"),
    ],
)
def test_a_name_in_an_archive_that_is_known(
    writer: CatalogWriter,
    catalog: Catalog,
    source: int,
    space_id: int,
    ref: str,
    expected: str | None,
) -> None:
    writer.commit(
        space_id,
        images=[
            image(source, "2020/IMG_1.jpg", "shark"),
            image(source, "a.zip", "other", member="other.jpg"),
        ],
        failures=[failure(source, "b.zip")],
        texts=[text(source, "c.csv", "2", "words", ref)],
    )
    writer.link()
    assert linked(catalog, "words") == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("folder", "ref", "expected"),
    [
        ("images/", "images/a.jpg", "images/train/a.jpg"),  # moved into folders of it
        ("", "./a.jpg", "images/train/a.jpg"),
        ("", "train/a.jpg", "images/train/a.jpg"),  # a folder that is not known
        ("", "C:\\Photos\\a.jpg", "images/train/a.jpg"),
        ("", "/home/me/a.jpg", "images/train/a.jpg"),
        ("other/", "other/a.jpg", None),
        ("cafe\u0301/", "caf\u00e9/a.jpg", None),
        ("two words/", "two%20words/a.jpg", None),
    ],
)
def test_a_folder_that_is_known_holds_what_lies_below_it(
    writer: CatalogWriter,
    catalog: Catalog,
    source: int,
    space_id: int,
    folder: str,
    ref: str,
    expected: str | None,
) -> None:
    pictures = (f"{folder}x.jpg", "images/train/a.jpg")
    writer.commit(space_id, images=[image(source, path, path) for path in pictures])
    writer.commit(space_id, texts=[text(source, "c.csv", "2", "words", ref)])
    writer.link()
    assert linked(catalog, "words") == ([] if expected is None else [f"/photos/{expected}"])


@pytest.mark.parametrize("how", ["picture", "broken", "returned"])
def test_a_folder_that_becomes_known_later(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int, how: str
) -> None:
    """Links are those of a clean run, whatever the order; and at once, not at the next link()."""

    def sweep(*pictures: str) -> None:
        writer.scan.begin()
        writer.scan.saw([saw("c.csv", "texts"), *map(saw, pictures)])
        writer.scan.sweep(source)

    writer.commit(space_id, images=[image(source, "2020/IMG_1.jpg", "shark")])
    if how == "returned":
        writer.commit(space_id, images=[image(source, "2019/deep/x.jpg", "x")])
        sweep("2020/IMG_1.jpg")
    writer.commit(space_id, texts=[text(source, "c.csv", "2", "words", "2019/IMG_1.jpg")])
    writer.link()
    assert linked(catalog, "words") == ["/photos/2020/IMG_1.jpg"]
    if how == "picture":
        writer.commit(space_id, images=[image(source, "2019/deep/x.jpg", "x")])
    elif how == "broken":
        writer.commit(None, failures=[failure(source, "2019/x.jpg")])
    else:
        sweep("2020/IMG_1.jpg", "2019/deep/x.jpg")
    assert linked(catalog, "words") == []
    assert writer.link().unknown == 1
    sweep("2020/IMG_1.jpg")  # 2019 is gone for good: it may be called otherwise
    writer.link()
    assert linked(catalog, "words") == ["/photos/2020/IMG_1.jpg"]


@pytest.mark.parametrize("looks", [0, 3])  # all claims are read at once; those that are asked for
@pytest.mark.parametrize(
    ("folder", "ref"),
    [
        ("2019", "2019/IMG_1.jpg"),
        ("2019", "./2019/IMG_1.jpg"),
        ("2019", "/photos/2019/IMG_1.jpg"),
        ("2019", "elsewhere/../2019/IMG_1.jpg"),
        ("2019", "%32019/IMG_1.jpg"),
        ("trips/2019", "trips/2019/IMG_1.jpg"),
        ("t\u00e9", "te\u0301/IMG_1.jpg"),
        ("te\u0301", "t\u00e9/IMG_1.jpg"),
    ],
)
def test_a_folder_that_becomes_known_however_it_is_written(
    writer: CatalogWriter,
    catalog: Catalog,
    source: int,
    space_id: int,
    folder: str,
    ref: str,
    looks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "_FEW_LOOKS", looks)
    other = writer.ensure_source("/other", "folder", (), False)
    writer.commit(space_id, images=[image(other, "2020/IMG_1.jpg", "shark")])
    writer.commit(
        space_id,
        texts=[
            text(source, "c.csv", "1", "words", ref),
            text(source, "c.csv", "2", "no others", "2018/IMG_1.jpg"),
        ],
    )
    writer.link()
    first = ["/other/2020/IMG_1.jpg"]
    assert linked(catalog, "no others") == first
    assert linked(catalog, "words") == first
    writer.commit(space_id, images=[image(source, f"{folder}/x.jpg", "x")])
    assert linked(catalog, "words") == []
    assert linked(catalog, "no others") == first


# --- names that are alike -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "ref", "expected"),
    [
        ("c.csv", "img_9.jpg", "deep/IMG_9.JPG"),  # the only one in the library
        ("deep/c.csv", "Img_9.jpg", "deep/IMG_9.JPG"),
        ("c.csv", "deep/img_9.jpg", "deep/IMG_9.JPG"),
        ("c.csv", "DEEP/img_9.jpg", "deep/IMG_9.JPG"),
        ("c.csv", "deep\\img_9.jpg", "deep/IMG_9.JPG"),
        ("c.csv", "/photos/Deep/img_9.jpg", "deep/IMG_9.JPG"),
        ("c.csv", "other/img_9.jpg", None),
        ("c.csv", "cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("c.csv", "CAF\u00c9.JPG", "caf\u00e9.jpg"),
        ("c.csv", "\u00e9te\u0301/x.jpg", "e\u0301t\u00e9/x.jpg"),
        ("c.csv", "sub/b%20c.jpg", "sub/b c.jpg"),
        ("c.csv", "SUB/B%20C.JPG", "sub/b c.jpg"),
        ("c.csv", "caf%C3%A9.jpg", "caf\u00e9.jpg"),
        ("c.csv", "B%20C.jpg", "sub/b c.jpg"),
        ("sub/c.csv", "100%25.jpg", "sub/100%25.jpg"),  # as it stands comes first
        ("c.csv", "stra\u00dfe.jpg", "STRASSE.jpg"),
        ("c.csv", "A.ZIP!/M/n.jpg", "a.zip!/m/N.JPG"),
        ("c.csv", "twice.jpg", None),  # two of that name
        ("x/c.csv", "twice.jpg", "x/Twice.jpg"),
        ("c.csv", "x/twice.jpg", "x/Twice.jpg"),
        ("c.csv", "z/one.jpg", None),  # two at that place
        ("c.csv", "img_9.png", None),
    ],
)
def test_names_that_are_alike(
    writer: CatalogWriter,
    catalog: Catalog,
    source: int,
    space_id: int,
    where: str,
    ref: str,
    expected: str | None,
) -> None:
    """As sidecars are: without regard to letter case, and to how an accent is written."""
    pictures = (
        "deep/IMG_9.JPG", "caf\u00e9.jpg", "e\u0301t\u00e9/x.jpg", "sub/b c.jpg", "sub/100%25.jpg",
        "sub/100%.jpg", "STRASSE.jpg", "x/Twice.jpg", "y/TWICE.jpg", "z/One.jpg", "z/ONE.jpg",
        "other/o.jpg",
    )  # fmt: skip
    writer.commit(space_id, images=[image(source, path, path) for path in pictures])
    writer.commit(space_id, images=[image(source, "a.zip", "N", member="m/N.JPG")])
    writer.commit(space_id, texts=[text(source, where, "1", "words", ref)])
    found = writer.link()
    assert linked(catalog, "words") == ([] if expected is None else [f"/photos/{expected}"])
    assert (found.linked, found.unknown) == ((0, 1) if expected is None else (1, 0))
    assert len(catalog.failures()) == found.unknown
    assert writer.link().changed is False


def test_a_name_that_is_alike_gives_way_to_the_very_name(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    """Links are those of a clean run, whatever the order; and at once, not at the next link()."""
    writer.commit(space_id, images=[image(source, "deep/IMG_9.JPG", "A")])
    writer.commit(space_id, texts=[text(source, "c.csv", "1", "words", "img_9.jpg")])
    writer.link()
    assert linked(catalog, "words") == ["/photos/deep/IMG_9.JPG"]
    writer.commit(space_id, images=[image(source, "other/Img_9.jpg", "B")])
    assert linked(catalog, "words") == []  # one of two now
    assert writer.link().unknown == 1
    writer.commit(space_id, images=[image(source, "far/img_9.jpg", "C")])
    assert writer.link().linked == 1
    assert linked(catalog, "words") == ["/photos/far/img_9.jpg"]


def test_a_name_that_is_alike_is_not_that_of_a_picture_that_could_not_be_read(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "deep/IMG_9.JPG", "A")])
    writer.commit(space_id, texts=[text(source, "c.csv", "1", "words", "deep/img_9.jpg")])
    assert writer.link().linked == 1
    writer.commit(None, failures=[failure(source, "deep/img_9.jpg")])
    assert writer.link().unknown == 1
    assert linked(catalog, "words") == []


def test_a_picture_that_returns_is_a_second_one_that_is_alike(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    def sweep(*pictures: str) -> None:
        writer.scan.begin()
        writer.scan.saw([saw("c.csv", "texts"), *map(saw, pictures)])
        writer.scan.sweep(source)
        writer.link()

    pictures = [image(source, "x/A.JPG", "A"), image(source, "y/a.JPG", "B")]
    writer.commit(space_id, images=pictures)
    sweep("x/A.JPG")
    writer.commit(space_id, texts=[text(source, "c.csv", "1", "words", "a.jpg")])
    writer.link()
    assert linked(catalog, "words") == ["/photos/x/A.JPG"]
    sweep("x/A.JPG", "y/a.JPG")
    assert linked(catalog, "words") == []
    sweep("y/a.JPG")
    assert linked(catalog, "words") == ["/photos/y/a.JPG"]
