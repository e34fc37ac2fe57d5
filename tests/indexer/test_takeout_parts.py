"""Google's Takeouts in several archives are read as if they were unpacked into one folder."""

from __future__ import annotations

import json
import os
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from collection import (
    encoded,
    failing_drive,
    failures,
    found,
    run,
    same,
    save_model,
    titled,
    unchanged,
    write,
)
from test_beside import darktable, takeout
from test_ingest_archives import shard_of

from indexer import manage
from indexer.beside.parts import export_of
from indexer.exchange.joining import join
from mmsearch.library import CATALOG_NAME, Library

PHOTOS = "Takeout/Google Fotos/Fotos von 2019/"
LONG = "IMG_20190714_123456789_BURST000_COVER_TOP_of_the_hill"  # 53 characters
SUPPLEMENT = ".supplemental-metadata.json"

#: What lies in each part: a picture's file is in another one as often as not.
PARTS: dict[str, dict[str, bytes]] = {
    "001": {
        PHOTOS + "a.jpg": titled(10, "said by itself"),
        PHOTOS + "b.jpg": encoded(11, "JPEG"),
        PHOTOS + f"c.jpg{SUPPLEMENT}": takeout("c.jpg", "of c"),
        PHOTOS + f"d.jpg{SUPPLEMENT}": takeout("d.jpg", "of d")[:-9],
        PHOTOS + "IMG_1.jpg": encoded(15, "JPEG"),
        PHOTOS + "IMG_1(1).jpg": encoded(16, "JPEG"),
        PHOTOS + "a.jpg.txt": b"a caption in its archive",
    },
    "002": {
        PHOTOS + f"a.jpg{SUPPLEMENT}": takeout(
            "a.jpg", "of a", people=[{"name": "Anna"}], geoData={"latitude": 48.5, "longitude": 2}
        ),
        PHOTOS + f"b.jpg{SUPPLEMENT}": takeout("A day at the sea.jpg", "of b"),
        PHOTOS + f"IMG_1.jpg{SUPPLEMENT}": takeout("IMG_1.jpg", "the first"),
        PHOTOS + "IMG_1-bearbeitet.jpg": encoded(17, "JPEG"),
        PHOTOS + f"{LONG[:46]}.json": takeout(f"{LONG}.jpg", "of the long one"),
        PHOTOS + "print-subscriptions.json": b'{"prints": []}',
        "Takeout/Google Fotos/Urlaub/a.jpg.json": takeout("a.jpg", "of another folder"),
    },
    "003": {
        PHOTOS + "c.jpg": encoded(12, "JPEG"),
        PHOTOS + "d.jpg": encoded(13, "JPEG"),
        PHOTOS + f"IMG_1.jpg{SUPPLEMENT[:-5]}(1).json": takeout("IMG_1.jpg", "the second"),
        PHOTOS + f"{LONG}.jpg": encoded(18, "JPEG"),
        "Takeout/Google Fotos/Urlaub/a.jpg": encoded(10, "JPEG"),
        PHOTOS + "c.jpg.xmp": darktable(),
    },
}
DESCRIBED = {
    f"{PHOTOS}a.jpg": "of a",
    f"{PHOTOS}b.jpg": "of b",
    f"{PHOTOS}c.jpg": "of c",
    f"{PHOTOS}d.jpg": None,
    f"{PHOTOS}IMG_1.jpg": "the first",
    f"{PHOTOS}IMG_1(1).jpg": "the second",
    f"{PHOTOS}IMG_1-bearbeitet.jpg": "the first",
    f"{PHOTOS}{LONG}.jpg": "of the long one",
    "Takeout/Google Fotos/Urlaub/a.jpg": "of another folder",
}


def name_of(part: str, export: str = "20251101T100000Z", kind: str = "zip") -> str:
    return f"takeout-{export}-{part}.{kind}"


def put(folder: Path, parts: Mapping[str, dict[str, bytes]] = PARTS, **how: str) -> None:
    for part, files in parts.items():
        path = folder / name_of(part, **how)
        path.parent.mkdir(parents=True, exist_ok=True)
        shard_of(path, files, "w:gz")
        os.utime(path, (1000, 1000))


def unpacked(folder: Path, parts: Mapping[str, dict[str, bytes]] = PARTS) -> None:
    for files in parts.values():
        for name, data in files.items():
            if not name.endswith(".txt"):
                write(folder / name, data)


def known(library: Path) -> dict[str, tuple[Any, ...]]:
    """What is known of the picture at each place, by its path in the export; read with nothing of
    ours, together with what the files beside it told at that place."""
    query = """SELECT path, member, title, description, keywords, taken_at, latitude, told
        FROM image JOIN picture USING (content_id) WHERE missing_since IS NULL"""
    with closing(sqlite3.connect(library / CATALOG_NAME)) as connection:
        return {(member or path): tuple(rest) for path, member, *rest in connection.execute(query)}


def described(library: Path) -> dict[str, str | None]:
    return {name: row[1] for name, row in known(library).items()}


def clean(tmp_path: Path, folder: Path, model: str) -> Path:
    """A library of a folder made in one run."""
    number = len(list(tmp_path.glob("clean*")))
    run(tmp_path / f"clean{number}", folder, model=model)
    return tmp_path / f"clean{number}"


def same_as_clean(library: Path, tmp_path: Path, folder: Path, model: str) -> None:
    """Fails where the library knows something else than one made anew, or there is work left."""
    assert unchanged(run(library))
    anew = clean(tmp_path, folder, model)
    assert known(library) == known(anew)
    assert failures(library) == failures(anew)
    assert same(found(library, folder, ["waves"]), found(anew, folder, ["waves"]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """The archives that were read since this was asked last."""
    from mmsearch import archive

    real, names = archive.contents, set[str]()

    def contents(path: Path, *args: Any, **kwargs: Any) -> Any:
        names.add(path.name.rpartition("-")[2][:3])
        return real(path, *args, **kwargs)

    monkeypatch.setattr("mmsearch.archive.contents", contents)

    def taken() -> set[str]:
        now = set(names)
        names.clear()
        return now

    return taken


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_they_tell_across_parts(
    library: Path, photos: Path, model: str, tmp_path: Path, kind: str
) -> None:
    put(photos, kind=kind)
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.told) == (9, 0)
    assert described(library) == DESCRIBED
    title, _, keywords, taken_at, latitude, _ = known(library)[f"{PHOTOS}a.jpg"]
    assert (title, json.loads(keywords), latitude) == (None, ["Anna"], 48.5)
    assert taken_at.startswith("2017-07-14 02:40")
    assert known(library)[f"{PHOTOS}b.jpg"][0] == "A day at the sea"
    assert json.loads(known(library)[f"{PHOTOS}c.jpg"][2]) == ["mountain"]
    assert failures(library) == {
        f"{name_of('001', kind=kind)}!/{PHOTOS}d.jpg{SUPPLEMENT}": (
            "broken: not the JSON that Google Takeout writes"
        )
    }
    with Library(library, device="cpu") as lib:
        hits = lib.search("x", where="keyword:anna taken:2017 has:gps", k=10)
        assert [hit.image.name for hit in hits] == ["a.jpg"]
        assert sorted(hits[0].captions) == ["Anna", "a caption in its archive", "of a"]
    # The same as of a folder into which all of them are unpacked.
    unpacked(tmp_path / "unpacked")
    assert known(clean(tmp_path, tmp_path / "unpacked", model)) == known(library)
    assert unchanged(run(library))


@pytest.mark.parametrize("order", ["123", "321", "213"])
def test_parts_arrive_one_after_the_other(
    library: Path,
    photos: Path,
    model: str,
    tmp_path: Path,
    opened: Callable[[], set[str]],
    order: str,
) -> None:
    for part in (f"00{n}" for n in order):
        put(photos, {part: PARTS[part]})
        run(library, photos, model=model)
        assert opened() == {part}
    assert described(library) == DESCRIBED
    with Library(library, device="cpu") as lib:
        (hit,) = (hit for hit in lib.search("waves", k=100) if "of a" in hit.captions)
        assert sorted(hit.captions) == ["Anna", "a caption in its archive", "of a"]
    same_as_clean(library, tmp_path, photos, model)


def test_parts_change_go_and_come_back(
    library: Path, photos: Path, model: str, tmp_path: Path, opened: Callable[[], set[str]]
) -> None:
    put(photos)
    run(library, photos, model=model)
    opened()
    # One goes: what it told is not known any more, and the others are not read for that.
    second = photos / name_of("002")
    second.rename(tmp_path / "away")
    report = run(library)
    assert (report.encoded_images, report.told, report.changed) == (0, 5, True)
    assert described(library)[f"{PHOTOS}a.jpg"] == "said by itself"
    assert opened() == set()
    same_as_clean(library, tmp_path, photos, model)
    opened()
    (tmp_path / "away").rename(second)
    run(library)
    assert opened() == set()
    assert described(library) == DESCRIBED
    same_as_clean(library, tmp_path, photos, model)
    opened()
    # One is replaced.
    changed = dict(PARTS["002"])
    changed[f"{PHOTOS}a.jpg{SUPPLEMENT}"] = takeout("a.jpg", "of a, by now")
    del changed[f"{PHOTOS}b.jpg{SUPPLEMENT}"]
    put(photos, {"002": changed})
    os.utime(second, (2000, 2000))
    report = run(library)
    assert opened() == {"002"}
    assert (report.encoded_images, report.told) == (0, 2)
    assert described(library) == DESCRIBED | {
        f"{PHOTOS}a.jpg": "of a, by now",
        f"{PHOTOS}b.jpg": None,
    }
    same_as_clean(library, tmp_path, photos, model)
    # What was broken is mended, in another part than its picture's.
    put(photos, {"001": PARTS["001"] | {f"{PHOTOS}d.jpg{SUPPLEMENT}": takeout("d.jpg", "of d")}})
    os.utime(photos / name_of("001"), (2000, 2000))
    run(library)
    assert failures(library) == {}
    assert described(library)[f"{PHOTOS}d.jpg"] == "of d"
    same_as_clean(library, tmp_path, photos, model)


def test_a_broken_file_is_told_while_its_picture_is_there(
    library: Path, photos: Path, model: str
) -> None:
    put(photos)
    (photos / name_of("003")).rename(photos / "later")
    run(library, photos, model=model)
    assert failures(library) == {}
    (photos / "later").rename(photos / name_of("003"))
    report = run(library)
    assert (report.failed, len(failures(library))) == (1, 1)
    assert unchanged(run(library))
    (photos / name_of("003")).unlink()
    run(library)
    assert failures(library) == {}


def test_a_part_with_nothing_but_files_about_pictures_goes(
    library: Path, photos: Path, model: str
) -> None:
    put(photos, {"001": PARTS["001"], "004": {f"{PHOTOS}b.jpg.json": takeout("b.jpg", "alone")}})
    run(library, photos, model=model)
    assert described(library)[f"{PHOTOS}b.jpg"] == "alone"
    (photos / name_of("004")).rename(photos / "away")
    run(library)
    assert described(library)[f"{PHOTOS}b.jpg"] is None
    (photos / "away").rename(photos / name_of("004"))
    run(library)
    assert described(library)[f"{PHOTOS}b.jpg"] == "alone"
    (photos / name_of("004")).unlink()
    run(library)
    manage.forget_gone(library, None)
    assert b"alone" not in (library / CATALOG_NAME).read_bytes()
    assert unchanged(run(library))


def test_exports_and_folders_do_not_mix(library: Path, photos: Path, model: str) -> None:
    files = {f"{PHOTOS}a.jpg{SUPPLEMENT}": takeout("a.jpg", "of another time")}
    put(photos, {"001": PARTS["001"]})
    put(photos, {"002": files}, export="20241101T100000Z")
    put(photos / "in", {"002": files})
    run(library, photos, model=model)
    assert described(library)[f"{PHOTOS}a.jpg"] == "said by itself"
    (photos / "in" / name_of("002")).rename(photos / name_of("002"))
    run(library)
    assert described(library)[f"{PHOTOS}a.jpg"] == "of another time"
    (photos / name_of("002")).rename(photos / "in" / name_of("002"))
    run(library)
    assert described(library)[f"{PHOTOS}a.jpg"] == "said by itself"
    assert unchanged(run(library))


def test_parts_named_one_by_one_and_then_their_folder(
    library: Path, photos: Path, model: str, opened: Callable[[], set[str]], tmp_path: Path
) -> None:
    put(photos)
    run(library, *sorted(photos.iterdir()), model=model)
    assert {name.rpartition("!/")[2]: of for name, of in described(library).items()} == DESCRIBED
    opened()
    run(library, photos)  # they are adopted
    assert opened() == set()
    assert described(library) == DESCRIBED
    manage.relocate(library, str(photos), photos.rename(tmp_path / "moved"), force=True)
    assert unchanged(run(library))
    manage.remove_source(library, "photos")
    data = (library / CATALOG_NAME).read_bytes()
    for secret in (b"of a", b"Anna"):
        assert secret not in data


def test_one_source_of_a_part_is_removed(library: Path, photos: Path, model: str) -> None:
    put(photos)
    run(library, *sorted(photos.iterdir()), model=model)
    manage.remove_source(library, str(photos / name_of("002")))
    run(library)
    assert described(library)[f"{PHOTOS}a.jpg"] == "said by itself"


def test_a_drive_that_fails_in_a_part_loses_nothing(
    library: Path, photos: Path, model: str, tmp_path: Path
) -> None:
    put(photos, kind="tgz")
    run(library, photos, model=model)
    second = photos / name_of("002", kind="tgz")
    put(photos, {"002": PARTS["002"] | {"more.txt": b"x"}}, kind="tgz")
    os.utime(second, (2000, 2000))
    with failing_drive(second, 600):
        run(library)
        assert described(library) == DESCRIBED
        # Nor when another one is read meanwhile.
        os.utime(photos / name_of("001", kind="tgz"), (2000, 2000))
        run(library)
        assert described(library) == DESCRIBED
    run(library)
    same_as_clean(library, tmp_path, photos, model)
    with failing_drive(second, 600):
        os.utime(second, (3000, 3000))
        run(library)
    second.unlink()
    run(library)
    same_as_clean(library, tmp_path, photos, model)


class _Killed(BaseException):
    pass


def test_killed_at_any_commit(library: Path, photos: Path, model: str, tmp_path: Path) -> None:
    """What one part after another is written down by, and a run that ends at any such point."""
    import sqlalchemy as sa

    put(photos)
    expected = clean(tmp_path, photos, model)
    for at in range(3, 60, 5):
        library = tmp_path / f"killed{at}"
        left = at

        def commit(_connection: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise _Killed

        sa.event.listen(sa.Engine, "commit", commit)
        try:
            run(library, photos, model=model)
            done = True
        except _Killed:
            done = False
        finally:
            sa.event.remove(sa.Engine, "commit", commit)
        run(library, photos, model=model)
        assert known(library) == known(expected), at
        assert failures(library) == failures(expected), at
        assert unchanged(run(library)), at
        if done:
            return
    raise AssertionError("no run came to its end")


def test_a_new_model_takes_them_along(
    library: Path, photos: Path, model: str, tmp_path: Path
) -> None:
    put(photos)
    run(library, photos, model=model)
    other = save_model(tmp_path / "other", seed=5)
    run(library, model=other)
    assert described(library) == DESCRIBED
    same_as_clean(library, tmp_path, photos, other)


def test_parts_that_several_machines_read(
    library: Path,
    photos: Path,
    model: str,
    tmp_path: Path,
    opened: Callable[[], set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmsearch.store.joining._ROWS_A_PART", 1)
    odd = "Takeout/caf\udce9/a.jpg"
    more = {"001": {odd: encoded(40, "JPEG")}, "002": {f"{odd}.json": takeout("a.jpg", "odd")}}
    parts = {part: files | more.get(part, {}) for part, files in PARTS.items()}
    put(photos, parts, kind="tgz")
    for part in PARTS:
        run(tmp_path / f"of {part}", photos / name_of(part, kind="tgz"), model=model)
        join(library, tmp_path / f"of {part}")
    opened()
    run(library)
    assert opened() == set()
    assert {*described(library).values()} == {*DESCRIBED.values(), "odd"}
    run(library, photos)
    assert opened() == set()
    same_as_clean(library, tmp_path, photos, model)


def test_parts_of_before_are_read_once_more(
    library: Path, photos: Path, model: str, opened: Callable[[], set[str]]
) -> None:
    """Of a library that knew nothing of them, when it is brought to this schema."""
    put(photos)
    with zipfile.ZipFile(photos / "z.zip", "w") as other:
        other.writestr("z.png", encoded(30))
    run(library, photos, model=model)
    with closing(sqlite3.connect(library / CATALOG_NAME)) as connection:
        connection.execute("DROP TABLE takeout_file")
        connection.execute("DROP TABLE takeout_part")
        connection.execute("UPDATE image SET beside = '', told = NULL")
        connection.execute("UPDATE alembic_version SET version_num = '0004'")
        connection.commit()
    opened()
    report = run(library)
    assert (report.encoded_images, report.encoded_texts) == (0, 0)
    assert opened() == {"001", "002", "003"}
    assert {name: of for name, of in described(library).items() if name != "z.png"} == DESCRIBED


@pytest.mark.parametrize(
    ("name", "export"),
    [
        ("takeout-20251101T100000Z-001.zip", "20251101T100000Z"),
        ("takeout-20251101T100000Z-017.tgz", "20251101T100000Z"),
        ("takeout-20251101T100000Z-1-002.zip", "20251101T100000Z"),
        ("Takeout-20251101t100000z-001.ZIP", "20251101T100000Z"),
        ("takeout-20251101T100000Z-001 (1).zip", "20251101T100000Z"),
        ("takeout-20251101T100000Z.zip", "20251101T100000Z"),
        ("takeout.zip", None),
        ("my-takeout-20251101T100000Z-001.zip", None),
        ("takeout-20251101-001.zip", None),
        ("photos-20251101T100000Z-001.zip", None),
    ],
)
def test_names_of_parts(name: str, export: str | None) -> None:
    assert export_of(f"/some/{name}") == (None if export is None else ("/some", export))
