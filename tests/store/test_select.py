"""Filters against plain Python over the records: what passes, and what that has in common."""

from __future__ import annotations

import fnmatch
import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from catalog_rows import SPACE, digest, image, saw, text, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsearch import filters as f
from mmsearch.errors import QueryError, UnknownNameError
from mmsearch.store import Catalog, CatalogWriter, ImageRow
from mmsearch.store.schema import picture
from mmsearch.types import ImageRecord, PictureInfo

FOLDERS = ["", "2019/", "2019/07 Sea/", "2020/Ünder/", "a.zip!/", "2020/b.zip!/in [1]/"]
NAMES = ["IMG_1.jpg", "img_2.JPG", "sea.png", "Kelvin\u212a.jpg", "e\u0301te.heic", "odd\udcff.jpg",
         "100%_done.jpg", "back\\slash.png", "a[1].png", "line\nfeed.jpg"]  # fmt: skip
CAMERAS = [None, "Canon EOS 5D", "canon powershot", "NIKON D70", "Nikon D70", "Ricoh [GR]"]
KEYWORDS = ["kite", "Kite", "Beach", "beach ball", "été"]
TAGS = ["dog", "Dog", "cat 50%", "été"]
FORMATS = ["JPEG", "PNG", "HEIF", "NEF", "DNG"]
PLACES = [
    None,
    (48.8566, 2.3522),
    (48.8606, 2.3376),
    (51.5, -0.12),
    (-17.7, 179.9),
    (-17.7, -179.9),
]
SOURCES = {"photos": "/photos", "Old [1]": "/mnt/old disk"}


@dataclass(frozen=True)
class Truth:
    """What the catalog holds of a picture, as plain Python."""

    record: ImageRecord
    sources: frozenset[str]
    captioned: bool
    tags: frozenset[str]
    added_at: datetime | None


def truths(catalog: Catalog) -> dict[int, Truth]:
    with catalog.engine.connect() as connection:
        run = connection.exec_driver_sql
        ids = list(run("SELECT id FROM content WHERE modality = 'image'").scalars())
        in_source = run(
            "SELECT content_id, name FROM (SELECT content_id, source_id FROM image WHERE "
            "missing_since IS NULL) JOIN source ON source.id = source_id"
        ).all()
        tagged = run("SELECT content_id, name FROM tag").all()
        added = dict(connection.execute(sa.select(picture.c.content_id, picture.c.added_at)).all())
    linked = catalog.linked_texts(ids)
    return {
        id_: Truth(
            record,
            frozenset(name for other, name in in_source if other == id_),
            bool(linked.get(id_)),
            frozenset(name for other, name in tagged if other == id_),
            added[id_],
        )
        for id_, record in catalog.image_records(ids).items()
    }


# --- the oracle -----------------------------------------------------------------------------------


def like(glob: str, name: str) -> bool:
    """fnmatch is another implementation of the same patterns."""
    name, glob = (unicodedata.normalize("NFC", each) for each in (name, glob))
    return re.compile(fnmatch.translate(glob), re.IGNORECASE).match(name) is not None


def path_like(glob: str, path: str) -> bool:
    """Part by part, trying every number of folders for "**"."""
    whole = glob.startswith("/")
    wanted = ([] if whole else ["**"]) + glob.removeprefix("/").split("/")
    return _parts_like(tuple(wanted), tuple(path.removeprefix("/").split("/")))


def _parts_like(wanted: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if not wanted:
        return not parts
    if wanted == ("**",):
        return bool(parts)
    if wanted[0] == "**":
        return any(_parts_like(wanted[1:], parts[n:]) for n in range(len(parts) + 1))
    return bool(parts) and like(wanted[0], parts[0]) and _parts_like(wanted[1:], parts[1:])


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """By the law of cosines of the sphere, in vectors: another way than the haversine."""

    def unit(place: tuple[float, float]) -> np.ndarray:
        lat, lon = map(math.radians, place)
        return np.array(
            [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
        )

    u, v = unit(a), unit(b)
    return 6371.0088 * math.atan2(float(np.linalg.norm(np.cross(u, v))), float(u @ v))


def passes(truth: Truth, part: f.Filter) -> bool:
    info, record = truth.record.info, truth.record
    match part:
        case f.And(parts):
            return all(passes(truth, each) for each in parts)
        case f.Or(parts):
            return any(passes(truth, each) for each in parts)
        case f.Not(inner):
            return not passes(truth, inner)
        case f.Path(glob):
            return any(path_like(glob, path) for path in (record.path, *record.copies))
        case f.Source(name):
            return any(
                like(name, said)
                for source in truth.sources
                for said in (source, SOURCES[source], SOURCES[source] + "/")
            )
        case f.Camera(glob):
            return info.camera is not None and like(glob, info.camera)
        case f.Keyword(glob):
            return any(like(glob, keyword) for keyword in info.keywords)
        case f.Tag(glob):
            return any(like(glob, tag) for tag in truth.tags)
        case f.Format(name):
            return info.format == name or (name == "RAW" and info.format in ("NEF", "DNG"))
        case f.Dates(what, start, end):
            at = info.taken_at if what == "taken" else truth.added_at
            return at is not None and (start or at) <= at and (end is None or at < end)
        case f.Range(what, low, high):
            n = {"bytes": record.bytes, "width": info.width, "height": info.height,
                 "pixels": info.width * info.height}[what]  # fmt: skip
            return (low is None or n >= low) and (high is None or n <= high)
        case f.Orientation(shape):
            wide = (info.width > info.height) - (info.width < info.height)
            return shape == {1: "landscape", 0: "square", -1: "portrait"}[wide]
        case f.Near(latitude, longitude, km):
            return (
                info.latitude is not None
                and kilometres((latitude, longitude), (info.latitude, info.longitude)) <= km
            )
        case f.Has(thing):
            return bool(
                {
                    "caption": truth.captioned,
                    "gps": info.latitude is not None,
                    "date": info.taken_at,
                    "camera": info.camera,
                    "keyword": info.keywords,
                    "tag": truth.tags,
                }[thing]
            )
    raise AssertionError(part)


# --- what there is --------------------------------------------------------------------------------

names = st.sampled_from(NAMES)
folders = st.sampled_from(FOLDERS)
moments = st.datetimes(datetime(2018, 12, 30), datetime(2021, 1, 2)).map(
    lambda at: at.replace(microsecond=at.microsecond // 250_000 * 250_000)
)
infos = st.builds(
    lambda place, **kw: PictureInfo(
        **kw, latitude=place and place[0], longitude=place and place[1]
    ),
    st.sampled_from(PLACES),
    format=st.sampled_from(FORMATS),
    width=st.integers(1, 4),
    height=st.integers(1, 4),
    taken_at=st.none() | moments,
    camera=st.sampled_from(CAMERAS),
    keywords=st.lists(st.sampled_from(KEYWORDS), unique=True, max_size=2).map(tuple),
)
files = st.builds(
    lambda source, folder, name, content, info, size: (source, folder, name, content, info, size),
    st.integers(0, 1), folders, names, st.sampled_from("ABCDEFGH"), infos, st.integers(1, 9),
)  # fmt: skip

part_globs = st.sampled_from(
    ["*", "?mg_*", "IMG_1.jpg", "*.jp?", "*[0-9]*", "[!i]*", "*.PNG", "é*", "2019", "20*",
     "*.zip!", "a.zip!", "**", "*%*", "*[[]1]*", "*k.jpg", "k*", "*_*e*.j*g", "*\\*", "*\n*",
     "07 sea", "old*", "photos", "*a*e*i*o*", "\udcff*", "odd?.jpg", "?te.heic", "\u00fcnder"]
)  # fmt: skip
path_globs = st.builds(
    lambda root, parts: root + "/".join(parts),
    st.sampled_from(["", "/"]),
    st.lists(part_globs, min_size=1, max_size=4),
)
name_globs = st.sampled_from(
    ["*", "canon*", "CANON EOS 5D", "*[[]gr]", "*d*", "kite", "b*", "?????", "été", "dog", "[cd]*",
     "*%", "nothing"]
)  # fmt: skip
source_globs = st.sampled_from(["photos", "PHOTOS", "*old*", "/photos", "Old [[]1]", "/*"])
numbers = st.none() | st.integers(0, 12)
ends = st.none() | moments
conditions = st.one_of(
    st.builds(f.Path, path_globs),
    st.builds(
        f.Source, st.sampled_from(["photos", "PHOTOS", "*old*", "/photos", "Old [[]1]", "/*"])
    ),
    st.builds(f.Camera, name_globs),
    st.builds(f.Keyword, name_globs),
    st.builds(f.Tag, name_globs),
    st.builds(f.Format, st.sampled_from(["jpg", "PNG", "heic", "GIF", "nrw", "dng", "raw"])),
    st.builds(
        f.Dates, st.sampled_from(["taken", "added"]), st.none() | moments, st.none() | moments
    ),
    st.builds(f.Range, st.sampled_from(["bytes", "width", "height", "pixels"]), numbers, numbers),
    st.builds(f.Orientation, st.sampled_from(["landscape", "portrait", "square"])),
    st.builds(f.Has, st.sampled_from(["caption", "gps", "date", "camera", "keyword", "tag"])),
    st.builds(
        lambda place, km: f.Near(*place, km),
        st.sampled_from([p for p in PLACES if p] + [(90.0, 0.0), (0.0, 180.0)]),
        st.sampled_from([0.0, 1.2, 30.0, 400.0, 8000.0, 30000.0]),
    ),
)
trees = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f.And(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f.Or(tuple(parts))),
        inner.map(f.Not),
    ),
    max_leaves=6,
)


def row(
    source: int, folder: str, name: str, content: str, info: PictureInfo, size: int
) -> ImageRow:
    container, slash, inside = folder.partition("!/")
    path, member = (container, inside + name) if slash else (folder + name, "")
    return replace(
        image(source, path, content, member=member, size=size), info=info, vector=vector(content)
    )


class World:
    """A catalog being written, and one that has been open since it was empty."""

    def __init__(self, folder: Path) -> None:
        path = folder / "catalog.db"
        self.writer = CatalogWriter(path)
        self.catalog = Catalog(path)
        self.sources = [
            self.writer.ensure_source(location, "folder", (), False)
            for location in SOURCES.values()
        ]
        for source, name in zip(self.sources, SOURCES, strict=True):
            self.writer.sources.rename(source, name)
        self.space = self.writer.ensure_space(SPACE)
        self.written: tuple[dict[str, None], dict[str, None]] = ({}, {})

    def close(self) -> None:
        self.catalog.close()
        self.writer.close()

    def write(self, at: datetime, *rows: tuple[int, str, str, str, PictureInfo, int]) -> None:
        """The pictures, as they would have been written at a time."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmsearch.store.items.now", lambda: at)
            for number, source in enumerate(self.sources):
                here = [row(source, *each[1:]) for each in rows if each[0] == number]
                unique = {(r.path, r.member): r for r in here}
                self.written[number].update((r.path, None) for r in here)
                self.writer.commit(self.space, images=list(unique.values()))

    def describe(self, source: int, body: str, name: str) -> None:
        """A line of a file of captions, for the picture with this name."""
        line = text(self.sources[source], "captions.csv", str(NAMES.index(name)), body, name)
        self.writer.commit(self.space, texts=[line])
        self.writer.link()

    def keep(self, source: int, paths: list[str]) -> None:
        """A scan that finds these files of a source, and no others."""
        self.writer.scan.begin()
        self.writer.scan.saw(
            [saw(path, "archive" if ".zip" in path else "image") for path in paths]
        )
        self.writer.scan.sweep(self.sources[source])

    def tag(self, content: str, name: str) -> None:
        id_ = self.catalog.content_id("image", digest(content))
        if id_ is not None:
            self.writer.tags.add([id_], name)

    def check(self, *some: f.Filter) -> dict[int, Truth]:
        found = truths(self.catalog)
        for part in some:
            ids = self.catalog.select(part, "image")
            assert ids.dtype == np.int64
            expected = sorted(i for i, truth in found.items() if passes(truth, part))
            assert ids.tolist() == expected, part
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with closing(World(tmp_path)) as made:
        yield made


# --- the tests ------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_selects_what_plain_python_does(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """After any sequence of changes, in a catalog that was open all the time and in a new one."""
    with closing(World(tmp_path_factory.mktemp("world"))) as world:
        for _ in range(data.draw(st.integers(1, 4), "rounds")):
            world.write(data.draw(moments), *data.draw(st.lists(files, max_size=8), "files"))
            if data.draw(st.booleans(), "describe"):
                world.describe(data.draw(st.integers(0, 1)), "words", data.draw(names))
            for _ in range(data.draw(st.integers(0, 2), "tags")):
                world.tag(data.draw(st.sampled_from("ABCDEFGH")), data.draw(st.sampled_from(TAGS)))
            if data.draw(st.booleans(), "scan"):
                number = data.draw(st.integers(0, 1))
                there = st.sampled_from([*world.written[number], "nothing.jpg"])
                world.keep(number, sorted(data.draw(st.sets(there), "kept")))
            some = data.draw(st.lists(trees, max_size=4), "filters")
            found = world.check(f.And(), *some, *some)
            if data.draw(st.booleans(), "facets"):
                check_facets(world.catalog, found, None)
                ids = data.draw(st.sets(st.sampled_from([*found, 999])), "ids")
                check_facets(world.catalog, found, ids)
        with closing(Catalog(world.catalog.path)) as fresh:
            world.catalog, world_catalog = fresh, world.catalog
            world.check(*some)
            world.catalog = world_catalog


def check_facets(catalog: Catalog, found: dict[int, Truth], ids: set[int] | None) -> None:
    """Against counting; and each count is that of the filter which it names."""
    chosen = [truth for id_, truth in found.items() if ids is None or id_ in ids]
    facets = catalog.facets(None if ids is None else np.array(sorted(ids), np.int64), top=50)
    assert facets.total == len(chosen)

    def counts(name: str) -> dict[str, int]:
        return {each.value: each.count for each in getattr(facets, name)}

    infos = [truth.record.info for truth in chosen]
    dates = [info.taken_at for info in infos if info.taken_at]
    assert counts("years") == Counter(f"{at:%Y}" for at in dates)
    assert counts("months") == Counter(f"{at:%Y-%m}" for at in dates)
    assert counts("formats") == Counter(info.format for info in infos)
    assert counts("sources") == Counter(s for truth in chosen for s in truth.sources)
    # What only case tells apart is one.
    for name, said in (
        ("cameras", ([info.camera] if info.camera else [] for info in infos)),
        ("keywords", (info.keywords for info in infos)),
        ("tags", (truth.tags for truth in chosen)),
    ):
        expected = Counter(each for all_of_one in said for each in {t.lower() for t in all_of_one})
        assert {value.lower(): n for value, n in counts(name).items()} == expected
    for facet in (getattr(facets, name) for name in facets.__slots__ if name != "total"):
        assert len({each.value for each in facet}) == len(facet)
        for each in facet:
            part = f.parse(each.filter)
            assert each.count == sum(passes(truth, part) for truth in chosen) > 0, each
    for name in ("sources", "cameras", "formats", "orientations", "keywords", "tags"):
        numbers = [each.count for each in getattr(facets, name)]
        assert numbers == sorted(numbers, reverse=True)
    assert [*counts("years")] == sorted(counts("years"))


INFO = PictureInfo("JPEG", 4, 3)
DAY = datetime(2024, 5, 1, 12)


def test_an_old_row_was_added_at_no_date(world: World) -> None:
    world.write(DAY, (0, "", "a.jpg", "A", INFO, 1), (0, "", "b.jpg", "B", INFO, 1))
    with world.catalog.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE picture SET added_at = NULL WHERE content_id = 1")
    assert world.catalog.select(f.parse("added:.."), "image").tolist() == [2]
    assert world.catalog.select(f.parse("added:2024-05-01T12:00"), "image").tolist() == [2]
    assert world.catalog.select(f.parse("not added:2024"), "image").tolist() == [1]


def test_copies_count_where_they_are_there(world: World) -> None:
    world.write(DAY, *((n % 2, f"{n}/", "a.jpg", "A", INFO, 1) for n in range(4)))
    everywhere = (
        "path:0/*",
        "path:2/*",
        "path:1/*",
        "path:3/a.jpg",
        "source:photos",
        "source:old*",
    )
    for each in everywhere:
        assert world.catalog.select(f.parse(each), "image").tolist() == [1], each
    # Which file it is that fulfils a condition need not be the same for two.
    assert world.catalog.select(f.parse("path:0/* source:old*"), "image").tolist() == [1]
    world.keep(0, ["2/a.jpg"])
    world.keep(1, ["nothing.jpg"])
    found = {each: world.catalog.select(f.parse(each), "image").tolist() for each in everywhere}
    assert [each for each in everywhere if found[each]] == ["path:2/*", "source:photos"]
    assert [each.value for each in world.catalog.facets().sources] == ["photos"]
    world.keep(0, ["nothing.jpg"])
    assert world.catalog.select(f.And(), "image").tolist() == []
    assert world.catalog.facets() == f.Facets(0)


def test_sources_that_are_not_there_are_said(world: World) -> None:
    world.write(DAY, (0, "", "a.jpg", "A", INFO, 1))
    for text_ in ("source:nowhere", "not source:Nowhere", "has:gps or source:/photo"):
        with pytest.raises(UnknownNameError, match="photos"):
            world.catalog.select(f.parse(text_), "image")
    assert world.catalog.select(f.parse("source:nowhere*"), "image").tolist() == []
    # Where only case tells two apart, each is found by its own name.
    world.writer.sources.rename(world.sources[1], "Photos")
    assert world.catalog.select(f.parse("source:photos"), "image").tolist() == [1]
    assert world.catalog.select(f.parse("source:Photos"), "image").tolist() == []
    assert world.catalog.select(f.parse("source:PHOTOS"), "image").tolist() == [1]


def test_many_folders_are_found_in_another_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(0, f"{n:02}/", "a.jpg", f"A{n}", INFO, 1) for n in range(20)]
    world.write(DAY, *rows)
    for limit in (1, 5, 19, 20, 21, 22, 100):
        monkeypatch.setattr("mmsearch.store.places._FOLDERS_BY_STEPS", limit)
        with closing(Catalog(world.catalog.path)) as catalog:
            assert len(catalog.select(f.parse("folder:1?"), "image")) == 10
            assert len(catalog.select(f.parse("path:/photos/0[0-4]/*"), "image")) == 5


def test_columns_longer_than_one_query(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of pictures that were forgotten for good between the reading of two columns."""
    monkeypatch.setattr("mmsearch.store.columns._ROWS_A_QUERY", 3)
    rng = np.random.default_rng(5)
    for start in (0, 11, 22):
        rows = [
            (
                n % 2,
                f"{n % 4}/",
                f"{n}.jpg",
                f"{n}",
                replace(
                    INFO,
                    width=int(rng.integers(1, 9)),
                    taken_at=None if n % 5 == 0 else DAY + timedelta(days=31 * n, microseconds=n),
                    camera=CAMERAS[n % 5],
                    keywords=tuple(KEYWORDS[: n % 4]),
                    latitude=None if n % 3 == 0 else n / 7,
                    longitude=None if n % 3 == 0 else n / 3,
                ),
                n + 1,
            )
            for n in range(start, start + 11)
        ]
        world.write(DAY + timedelta(days=start), *rows)
        found = world.check(f.parse("width:>4"), f.parse("not path:1/*"))
        if start == 11:
            world.writer.sources.remove(world.sources[1], lambda _removal, _lost, _gone: None)
            world.sources[1] = world.writer.ensure_source("/mnt/old disk", "folder", (), False)
            world.writer.sources.rename(world.sources[1], "Old [1]")
            found = world.check(f.parse("width:>4"))
        world.check(
            *map(
                f.parse,
                ("taken:2025 or camera:canon*", "keyword:b*", "near:1,2,300", "added:>2024-05-02",
                 "size:>3", "taken:..2024-12 not has:gps", "source:Old*", "path:**/*[13].jpg"),
            )
        )  # fmt: skip
        check_facets(world.catalog, found, None)


def test_a_repaired_catalog_is_read_anew(world: World) -> None:
    """Rows may then come back with ids that were passed already."""
    world.write(DAY, (0, "", "a.jpg", "A", INFO, 1), (0, "", "b.jpg", "B", INFO, 1))
    world.check(f.parse("width:4"))
    with world.catalog.engine.begin() as connection:
        lost = connection.exec_driver_sql("SELECT * FROM picture WHERE content_id = 1").one()
        connection.exec_driver_sql("DELETE FROM picture WHERE content_id = 1")
        connection.exec_driver_sql("UPDATE space SET created_at = '2020-01-01 00:00:00.000000'")
        connection.exec_driver_sql("UPDATE state SET revision = revision + 1")
    assert world.catalog.select(f.parse("width:4"), "image").tolist() == [2]
    with world.catalog.engine.begin() as connection:
        marks = ", ".join("?" * len(lost))
        connection.exec_driver_sql(f"INSERT INTO picture VALUES ({marks})", tuple(lost))
        connection.exec_driver_sql("UPDATE space SET created_at = '2020-01-02 00:00:00.000000'")
        connection.exec_driver_sql("UPDATE state SET revision = revision + 1")
    assert world.catalog.select(f.parse("width:4"), "image").tolist() == [1, 2]


def test_texts_have_places_and_tags_and_nothing_else(world: World) -> None:
    lines = [
        text(world.sources[0], "2019/captions.csv", "1", "a kite"),
        text(world.sources[0], "2019/captions.csv", "2", "a beach"),
        text(world.sources[0], "2020/kite.txt", "", "two kites"),
        text(world.sources[0], "a.zip", "", "in an archive", origin="embedded", member="in/x.jpg"),
        text(world.sources[1], "odd\udcff.csv", "1", "a kite"),
    ]
    world.writer.commit(world.space, texts=lines[:4])
    world.writer.commit(world.space, texts=lines[4:])
    ids = {
        body: world.catalog.content_id("text", digest(body))
        for body in ("a kite", "a beach", "two kites", "in an archive")
    }
    world.writer.tags.add([ids["two kites"]], "toy")

    def bodies(filter_: str) -> set[str]:
        found = world.catalog.select(f.parse(filter_), "text").tolist()
        return {body for body, id_ in ids.items() if id_ in found}

    assert bodies("") == set(ids)
    assert bodies("path:captions.csv") == {"a kite", "a beach"}
    assert bodies("path:/photos/20*/*") == {"a kite", "a beach", "two kites"}
    assert bodies("path:a.zip!/**/*.JPG") == {"in an archive"}
    assert bodies("path:odd*") == bodies("source:old*") == {"a kite"}
    assert bodies("not source:old* not tag:TOY") == {"a beach", "in an archive"}
    for part in ("has:gps", "taken:2019", "size:5", "not camera:x or path:*", "near:1,2,3"):
        with pytest.raises(QueryError, match="condition on pictures"):
            world.catalog.select(f.parse(part), "text")


def test_threads_get_what_one_alone_gets(world: World) -> None:
    filters = [
        f.parse(t) for t in ("path:*3.jpg", "width:4 not path:1*", "has:caption", "taken:..")
    ]
    world.write(DAY, *((0, "", f"{n}.jpg", f"{n}", INFO, 1) for n in range(40)))
    expected = [world.catalog.select(part, "image").tolist() for part in filters]
    failed: list[object] = []

    def ask(catalog: Catalog) -> None:
        for n in range(40):
            part = n % len(filters)
            if catalog.select(filters[part], "image").tolist() != expected[part]:
                failed.append(filters[part])

    with closing(Catalog(world.catalog.path)) as catalog:
        threads = [threading.Thread(target=ask, args=(catalog,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
