"""Words: always those of the rows, whatever was written; found as a search by hand finds them."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from catalog_rows import SPACE, digest, image, saw, text, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsearch.doctor.catalog import check_rows
from mmsearch.doctor.finding import Finding
from mmsearch.store import Catalog, CatalogWriter, ImageRow
from mmsearch.store.mend import examined
from mmsearch.store.terms import stored, terms
from mmsearch.store.word_parts import MAX_PARTS, parse
from mmsearch.store.word_rows import TABLE_SQL, TABLES, TRIGGER_SQL
from mmsearch.store.words import Words
from mmsearch.types import PictureInfo

LIBRARIES = Path(__file__).parent / "libraries"


@pytest.fixture
def space_id(writer: CatalogWriter) -> int:
    return writer.ensure_space(SPACE)


def names(catalog: Catalog, ids: np.ndarray) -> list[str]:
    records = catalog.image_records(ids.tolist())
    return [records[int(id_)].path.removeprefix("/photos/") for id_ in ids]


def found(catalog: Catalog, query: str) -> list[str]:
    return names(catalog, catalog.words.find(query, "image", 100))


# --- terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("IMG_2041.jpg", "img 2041 jpg"),
        ("img2041", "img 2041"),
        ("SunsetBeach", "sunset beach sunsetbeach"),
        ("HDRPhoto", "hdr photo hdrphoto"),
        ("20190612_1.jpg", "20190612 1 jpg 2019 06 12"),
        ("20191312", "20191312"),
        ("Zürich, STRASSE Straße Łódź Øre", "zurich strasse strasse lodz ore"),
        ("Kites beaches berries glass bus", "kite beach berry glass bus"),
        ("红色的风筝 2019年", "红 色 的 风 筝 2019 年"),
        ("ひらがな 바다", "ひ ら が な 바 다"),
        ("हिन्दी", "हिन्दी"),
        ("Ｆｕｌｌ ①", "full 1"),
        ("\udcff\x00 ☃ 😀", ""),
        ("x" * 200, "x" * 64),
    ],
)
def test_terms(written: str, expected: str) -> None:
    assert stored(written) == expected


@given(st.text())
def test_terms_hold_nothing_that_the_tokenizer_would_cut(written: str) -> None:
    for term in terms(written):
        assert term.isascii() <= term.isalnum()
        assert not set(term) & set(' "\x00')
        assert term == term.lower() or not term.isascii()


# --- what is found ------------------------------------------------------------------------------


@pytest.fixture
def filled(writer: CatalogWriter, source: int, space_id: int) -> None:
    paths = (
        "germany/2019/IMG_2040.jpg",
        "germany/2019/IMG_2041.jpg",
        "germany/2018/IMG_2042.jpg",
        "france/2019/IMG_2043.jpg",
        "x/SunsetBeach.jpg",
        "y/红色的风筝.png",
        "z/Zürich.jpg",
        "q/20170612_1.jpg",
    )
    texts = [
        text(source, "c.jsonl", "1", "A red boat on the lake", paths[0]),
        text(source, "c.jsonl", "2", "two boats, one lighthouse", paths[3]),
        text(source, "c.jsonl", "3", "mist"),
    ]
    writer.commit(space_id, images=[image(source, path, path) for path in paths], texts=texts)
    writer.link()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("IMG_2041", ["germany/2019/IMG_2041.jpg"]),
        ("2041", ["germany/2019/IMG_2041.jpg"]),
        ("img2041", ["germany/2019/IMG_2041.jpg"]),
        ("IMG_2041.jpg", ["germany/2019/IMG_2041.jpg"]),
        ("sunset", ["x/SunsetBeach.jpg"]),
        ("sunsetbeach", ["x/SunsetBeach.jpg"]),
        ("SunsetBeach", ["x/SunsetBeach.jpg"]),
        ("Sunset-Beach", ["x/SunsetBeach.jpg"]),
        ("zurich", ["z/Zürich.jpg"]),
        ("ZÜRICH", ["z/Zürich.jpg"]),
        ("风筝", ["y/红色的风筝.png"]),
        ("红", ["y/红色的风筝.png"]),
        ("红色风筝", ["y/红色的风筝.png"]),
        ("2017-06-12", ["q/20170612_1.jpg"]),
        ("June 2017", ["q/20170612_1.jpg"]),
        ('"red boat"', ["germany/2019/IMG_2040.jpg"]),
        ('"boat red"', []),
        ("a photo of a lighthouse", ["france/2019/IMG_2043.jpg"]),
        ("boat", ["germany/2019/IMG_2040.jpg", "france/2019/IMG_2043.jpg"]),
        ("a circuit diagram", []),
        ("a circuit diagram on a lake", []),  # one word of three
        ("photos", []),  # the source's name: all are in it
    ],
)
def test_what_is_found(filled: None, catalog: Catalog, query: str, expected: list[str]) -> None:
    assert found(catalog, query) == expected


def test_all_words_come_first_and_some_may_lack(filled: None, catalog: Catalog) -> None:
    whole, *part = found(catalog, "germany 2019 boat")
    assert whole == "germany/2019/IMG_2040.jpg"
    assert set(part) == {"germany/2019/IMG_2041.jpg", "france/2019/IMG_2043.jpg"}
    assert found(catalog, "img 2041")[0] == "germany/2019/IMG_2041.jpg"


def test_texts_are_found_by_their_words(filled: None, catalog: Catalog) -> None:
    id_ = catalog.words.find("boats on a lake", "text", 10)[0]
    assert catalog.text_records([int(id_)])[int(id_)].body == "A red boat on the lake"
    assert len(catalog.words.find("boat", "text", 10)) == 2
    assert len(catalog.words.find("germany", "text", 10)) == 0


def test_only_and_limit(filled: None, catalog: Catalog) -> None:
    every = catalog.words.find("2019", "image", 10)
    assert len(every) == 3
    assert catalog.words.find("2019", "image", 2).tolist() == every[:2].tolist()
    only = np.sort(every[1:])
    assert catalog.words.find("2019", "image", 10, only).tolist() == every[1:].tolist()
    assert len(catalog.words.find("2019", "image", 10, only[:0])) == 0
    assert catalog.words.named("2019", 10, only).ids.tolist() == only.tolist()


def test_what_words_name(filled: None, catalog: Catalog) -> None:
    """Captions rank what names and folders have chosen, and choose nothing but in quotes."""
    ranked = catalog.words.named("germany 2019 boat", 10)
    assert names(catalog, ranked.ids) == ["germany/2019/IMG_2040.jpg", "germany/2019/IMG_2041.jpg"]
    assert ranked.ranks.tolist() == [1, 2]
    assert ranked.share == pytest.approx(2 / 3)
    ranked = catalog.words.named("pictures of germany", 10)
    assert ranked.ranks.tolist() == [1, 1, 1]
    assert ranked.share == 1.0
    assert len(catalog.words.named("red boat", 10).ids) == 0
    assert len(catalog.words.named('"red boat"', 10).ids) == 1
    assert len(catalog.words.named("", 10).ids) == 0


def test_what_a_picture_carries_names_it(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    texts = [
        text(source, path, key, body, path, origin="embedded")
        for path, key, body in (
            ("a.jpg", "keywords", "sailing, harbour"),
            ("a.jpg", "description", "seen from the pier"),
            ("b.jpg", "title", "A pier"),
        )
    ]
    images = [image(source, f"{name}.jpg", name) for name in "abc"]
    writer.commit(space_id, images=images, texts=texts)
    writer.link()
    assert names(catalog, catalog.words.named("harbour", 9).ids) == ["a.jpg"]
    assert names(catalog, catalog.words.named("pier", 9).ids) == ["b.jpg"]
    assert set(found(catalog, "pier")) == {"a.jpg", "b.jpg"}


def test_camera_and_day(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    from datetime import datetime

    info = PictureInfo("JPEG", 6, 4, taken_at=datetime(2021, 7, 3, 9), camera="Canon EOS 5D")
    row = ImageRow(source, "a.jpg", "", 1, 1, digest("A"), info, vector("A"))
    writer.commit(space_id, images=[row, image(source, "b.jpg", "B")])
    for query in ("canon", "EOS 5D", "2021", "2021-07-03"):
        assert found(catalog, query) == ["a.jpg"], query


@pytest.mark.parametrize(
    "query",
    [
        '"', '""', '"boat', "boat*", "NEAR(boat lake)", "names : boat", "{names} : boat", "-boat",
        "boat AND NOT lake", "^boat", "boat + lake", "\x00", "boat\x00lake", "'; DROP TABLE image",
        "😀", "%", "_", "\\", "x" * 2000, "boat " * 400, '"boat ' * 300, "风" * 2000, "(" * 2000,
    ],
)  # fmt: skip
def test_nothing_is_syntax(filled: None, catalog: Catalog, query: str) -> None:
    for modality in ("image", "text"):
        once = catalog.words.find(query, modality, 10)
        assert once.tolist() == catalog.words.find(query, modality, 10).tolist()
    assert len(parse(query)) <= MAX_PARTS
    if "boat" in query and "lake" not in query and '"' not in query and "names" not in query:
        assert len(once) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(query=st.text() | st.text("\"'*-+^:(){} aboNEARDT\x00"))
def test_no_text_is_an_error(filled: None, catalog: Catalog, query: str) -> None:
    assert set(catalog.words.find(query, "image", 100).tolist()) <= set(range(1, 9))
    catalog.words.named(query, 100)


def test_common_words_are_bounded(
    filled: None, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.store.words.MANY", 2)
    assert found(catalog, "2019") == []  # more than two have it: says too little
    assert found(catalog, "germany 2019") == [
        "germany/2019/IMG_2040.jpg",
        "germany/2019/IMG_2041.jpg",
    ]
    assert found(catalog, "2019 2041") == ["germany/2019/IMG_2041.jpg"]
    assert found(catalog, "germany 2041 2018")[0] == "germany/2019/IMG_2041.jpg"
    assert found(catalog, "germany 2019 lake")[0] == "germany/2019/IMG_2040.jpg"
    ranked = catalog.words.named("germany 2019 lake", 9)
    assert names(catalog, ranked.ids) == ["germany/2019/IMG_2040.jpg", "germany/2019/IMG_2041.jpg"]
    assert ranked.share == pytest.approx(2 / 3)


@pytest.mark.parametrize("many", [2, 10_000])
@pytest.mark.parametrize("room", [0, 120, 1_000_000])
def test_what_is_remembered_of_words_changes_no_answer(
    filled: None,
    catalog: Catalog,
    writer: CatalogWriter,
    source: int,
    space_id: int,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    many: int,
) -> None:
    monkeypatch.setattr("mmsearch.store.words._MOST_IDS", room)
    monkeypatch.setattr("mmsearch.store.words.MANY", many)
    queries = ["boat", "germany boat", '"boat" lake', "2019 boat", "mist", "nowhere boat", "boat"]
    queries += ["2019 jpg", "germany 2019 jpg", "2019 germany jpg boat"]

    def answers(words: Words) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for query, modality in itertools.product(queries, ("image", "text")):
            ranked = words.named(query, 9, modality=modality)
            of = words.find(query, modality, 9)
            found.append((ranked.ids.tolist(), ranked.ranks.tolist(), ranked.share, of.tolist()))
        return found

    def each_asked_anew() -> list[tuple[object, ...]]:
        with monkeypatch.context() as forgetful, closing(Catalog(catalog.path)) as other:
            forgetful.setattr("mmsearch.store.words._Common.get", lambda self, part: None)
            return answers(other.words)

    before = each_asked_anew()
    assert answers(catalog.words) == answers(catalog.words) == before
    writer.commit(
        space_id,
        images=[image(source, "boat.jpg", "boat.jpg")],
        texts=[text(source, "c.jsonl", "4", "a boat in germany", "x/SunsetBeach.jpg")],
    )
    writer.link()
    after = each_asked_anew()
    assert after != before
    assert answers(catalog.words) == answers(catalog.words) == after


# --- the same, by hand --------------------------------------------------------------------------


def rows_of(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def expected_words(path: Path) -> dict[str, dict[int, list[Counter[str]]]]:
    """From the rows: table → content → terms of each column."""
    images: dict[int, list[Counter[str]]] = {}
    seen: dict[int, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for id_, file, member, source in rows_of(
        path,
        "SELECT i.content_id, i.path, i.member, s.name FROM image i "
        "JOIN source s ON s.id = i.source_id WHERE i.missing_since IS NULL",
    ):
        *folders, name = f"{source}/{file}".split("/") + (member.split("/") if member else [])
        seen[id_][0].add(stored(name))
        seen[id_][1].add(stored("/".join(folders)))
    about: dict[int, Counter[str]] = defaultdict(Counter)
    for id_, camera, day in rows_of(path, "SELECT content_id, camera, taken_at FROM picture"):
        about[id_].update([*terms(camera or ""), *terms((day or "")[:10])])
    for id_, name in rows_of(path, "SELECT content_id, name FROM tag WHERE score IS NULL"):
        about[id_].update(stored(name).split())
    for id_, columns in seen.items():
        of_places = [Counter(" ".join(column).split()) for column in columns]
        images[id_] = [*of_places, about[id_]]
    bodies = rows_of(
        path,
        "SELECT content_id, body FROM passage WHERE content_id IN "
        "(SELECT content_id FROM text WHERE missing_since IS NULL)",
    )
    texts = {id_: [Counter(stored(body).split())] for id_, body in bodies if stored(body)}
    return {"image_words": images, "text_words": texts}


def indexed_words(path: Path) -> dict[str, dict[int, list[Counter[str]]]]:
    """From the indexes themselves, not from the rows that they keep."""
    found: dict[str, dict[int, list[Counter[str]]]] = {}
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in TABLES.items():
            connection.execute(
                f"CREATE VIRTUAL TABLE temp.{table}_v USING fts5vocab(main, {table}, instance)"
            )
            of: dict[int, list[Counter[str]]] = {}
            for term, doc, column, _ in connection.execute(f"SELECT * FROM temp.{table}_v"):
                of.setdefault(doc, [Counter() for _ in columns])
                of[doc][columns.index(column)][term] += 1
            found[table] = of
            connection.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")
            connection.rollback()
    return found


def in_step(path: Path) -> bool:
    assert rows_of(path, "SELECT * FROM words_stale") == []
    expected, indexed = expected_words(path), indexed_words(path)
    assert indexed == expected
    return True


WORDS = ("kite", "beach", "boat", "2019", "red", "Lake", "风筝", "IMG_7")


class Life:
    """A catalog that all kinds of things happen to, at random."""

    def __init__(self, writer: CatalogWriter, seed: int) -> None:
        self.writer = writer
        self.rng = random.Random(seed)
        self.space = writer.ensure_space(SPACE)
        self.sources = [writer.ensure_source(f"/{n}/photos", "folder", (), False) for n in "ab"]

    def words(self, n: int) -> str:
        return " ".join(self.rng.choice(WORDS) for _ in range(n))

    def path(self) -> str:
        return f"{self.rng.choice(WORDS)}/{self.rng.choice(WORDS)}{self.rng.randrange(4)}.jpg"

    def add(self) -> None:
        source = self.rng.choice(self.sources)
        images = {
            (path, ""): image(source, path, self.rng.choice("ABCDEFGH"))
            for path in (self.path() for _ in range(3))
        }
        if self.rng.random() < 0.4:
            member = self.path()
            images["z.zip", member] = image(source, "z.zip", self.rng.choice("AIJ"), member=member)
        self.writer.commit(self.space, images=list(images.values()))

    def write(self) -> None:
        source = self.rng.choice(self.sources)
        keys = self.rng.sample("123456", 3)
        self.writer.commit(
            self.space,
            texts=[
                text(source, "c.jsonl", key, self.words(3), self.path().rpartition("/")[2])
                for key in keys
            ],
        )
        self.writer.link()

    def scan(self) -> None:
        """Some of the files are gone, some come back."""
        source = self.rng.choice(self.sources)
        known = [row[0] for row in rows_of(
            self.writer._path, f"SELECT DISTINCT path FROM image WHERE source_id = {source}"
        )]  # fmt: skip
        there = [path for path in known if self.rng.random() < 0.6]
        self.writer.scan.begin()
        self.writer.scan.saw([saw(path) for path in [*there, "c.jsonl"]])
        self.writer.scan.sweep(source)
        self.writer.link()

    def rename(self) -> None:
        self.writer.sources.rename(
            self.rng.choice(self.sources), f"{self.words(1)} {self.rng.random()}"
        )

    def move(self) -> None:
        source = self.rng.choice(self.sources)
        self.writer.sources.move({source: f"/{self.rng.random()}/photos"})

    def tag(self) -> None:
        ids = [row[0] for row in rows_of(self.writer._path, "SELECT content_id FROM picture")]
        with closing(sqlite3.connect(self.writer._path)) as connection:
            for id_ in ids:
                score = self.rng.choice((None, 0.5))
                connection.execute(
                    "INSERT INTO tag VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET score = ?",
                    (id_, self.words(1), score, score),
                )
                if self.rng.random() < 0.2:
                    connection.execute("DELETE FROM tag WHERE content_id = ?", (id_,))
            connection.commit()
        self.writer.activate(self.space)  # any commit

    def forget_gone(self) -> None:
        self.writer.sources.forget_gone(
            None, lambda _removal, lost, _gone: list(lost.pictures()) and None
        )

    def remove(self) -> None:
        source = self.sources.pop(self.rng.randrange(2))
        self.writer.sources.remove(
            source, lambda _removal, lost, _gone: list(lost.pictures()) and None
        )
        place = f"/{self.rng.random()}/photos"
        self.sources.append(self.writer.ensure_source(place, "folder", (), False))

    def repair(self) -> None:
        with examined(self.writer._path) as (_, mender):
            mender.recompute_hidden()

    def happens(self) -> None:
        often: list[Callable[[], None]] = [self.add, self.write, self.scan] * 3
        seldom = [self.rename, self.move, self.tag, self.forget_gone, self.remove, self.repair]
        self.rng.choice([*often, *seldom])()


def by_hand(path: Path, parts: list[str]) -> dict[int, tuple[int, float]]:
    """Pictures that have any of these words → how many, and the BM25F score; none is in all."""
    words = expected_words(path)
    links = rows_of(
        path,
        "SELECT DISTINCT i.content_id, t.content_id FROM text t JOIN image i ON i.id = t.image_id "
        "WHERE i.missing_since IS NULL AND t.missing_since IS NULL",
    )
    strength: dict[str, dict[int, float]] = {part: defaultdict(float) for part in parts}
    for part in parts:
        for id_, columns in words["image_words"].items():
            for weight, column in zip((3, 1, 2), columns, strict=True):
                if part in column:
                    strength[part][id_] += weight
        for id_, of in links:
            if part in words["text_words"].get(of, [()])[0]:
                strength[part][id_] += 1.5
    known = len(words["image_words"])
    totals: dict[int, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    counted = 0
    for of_part in strength.values():
        n = len(of_part)
        if n > 0.9 * known:
            continue
        counted += 1
        for id_, t in of_part.items():
            idf = np.log(1 + (known - n + 0.5) / (n + 0.5))
            has, score = totals[id_]
            totals[id_] = (has + 1, score + idf * t * 2.2 / (1.2 + t))
    return {id_: row for id_, row in totals.items() if row[0] >= counted / 2}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_words_are_those_of_the_rows(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, seed: int
) -> None:
    life = Life(writer, seed)
    for _ in range(25):
        life.happens()
        assert in_step(catalog_path)
        parts = life.rng.sample(["kite", "beach", "boat", "2019", "red", "lake", "nowhere"], 3)
        expected = by_hand(catalog_path, parts)
        ids = catalog.words.find(" ".join(parts), "image", 1000).tolist()
        assert set(ids) == set(expected)
        order = [(-expected[id_][0], -expected[id_][1]) for id_ in ids]
        assert all(a < b or a == pytest.approx(b) for a, b in itertools.pairwise(order))


def test_a_kill_before_the_commit_leaves_words_and_rows_as_they_were(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int, filled: None,
    space_id: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = indexed_words(catalog_path)

    class KilledError(Exception):
        pass

    def killed(name: str) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.store.transaction.reached", killed)
        with pytest.raises(KilledError):
            writer.commit(space_id, images=[image(source, "kite.jpg", "K")])
    assert indexed_words(catalog_path) == before
    assert in_step(catalog_path)
    writer.commit(space_id, images=[image(source, "kite.jpg", "K")])
    assert found(catalog, "kite") == ["kite.jpg"]


# --- forgetting ---------------------------------------------------------------------------------


def on_disk(path: Path, word: str) -> bool:
    return any(
        word.encode() in file.read_bytes().lower() for file in path.parent.glob("catalog.db*")
    )


def test_nothing_of_what_was_forgotten_is_left_in_the_index(
    writer: CatalogWriter, catalog_path: Path, source: int, space_id: int
) -> None:
    secrets = ("zanzibarish", "quixotically", "xylophonist", "wobbegong")
    keep = [image(source, f"kept{n}.jpg", f"kept {n}") for n in range(300)]
    writer.commit(space_id, images=keep)
    for n in range(5):  # several segments
        rows = [
            image(source, f"{secrets[0]}/{secrets[1]} {n}{m}.jpg", f"{n}{m}") for m in range(60)
        ]
        texts = [text(source, "c.txt", f"{n}{m}", f"{secrets[2]} {n} {m}") for m in range(60)]
        writer.commit(space_id, images=rows, texts=texts)
    only = [image(source, f"{secrets[3]}.jpg", "only")]
    writer.commit(space_id, images=only)
    assert all(on_disk(catalog_path, word) for word in secrets)
    writer.scan.begin()
    writer.scan.saw([saw(row.path) for row in [*keep, *only]])
    writer.scan.sweep(source)
    writer.sources.forget_gone(source, lambda _removal, lost, _gone: list(lost.pictures()) and None)
    assert [on_disk(catalog_path, word) for word in secrets] == [False, False, False, True]
    writer.sources.remove(source, lambda _removal, lost, _gone: list(lost.pictures()) and None)
    assert not on_disk(catalog_path, secrets[3])
    assert in_step(catalog_path)


# --- old libraries, and the schema --------------------------------------------------------------


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_the_words_of_old_libraries_are_found(tmp_path: Path, version: str) -> None:
    library = shutil.copytree(LIBRARIES / version, tmp_path / "library")
    with closing(Catalog(library / "catalog.db")) as catalog:
        assert in_step(catalog.path)
        assert catalog.words.find("a calm sea", "image", 5).tolist() == [4]
        records = catalog.text_records(catalog.words.find("calm sea", "text", 5).tolist())
        assert [record.body for record in records.values()] == ["a calm sea"]
        assert catalog.words.named("copy of 0.jpg", 5).ids[:1].tolist() == [1]


def test_the_migration_makes_what_the_code_knows(writer: CatalogWriter, catalog_path: Path) -> None:
    made = dict(rows_of(catalog_path, "SELECT name, sql FROM sqlite_master"))
    for name, sql in (TABLE_SQL | TRIGGER_SQL).items():
        assert made[name] == sql
    assert {name for name in made if name.startswith("words_")} - {"words_stale"} == set(
        TRIGGER_SQL
    )


# --- the doctor ---------------------------------------------------------------------------------


def examine(path: Path, *, repair: bool = False) -> Finding:
    with examined(path) as (check, mender), closing(Catalog(path)) as catalog:
        findings = {f.check: f for f in check_rows(check, mender, catalog, repair=repair)}
    return findings["words"]


DAMAGE = {
    "a row too few": "DELETE FROM image_words WHERE rowid = 2",
    "a row too many": "INSERT INTO text_words (rowid, body) VALUES (777, 'ghost')",
    "other words": "UPDATE image_words SET names = 'ghost' WHERE rowid = 1",
    "a row without its terms": "DELETE FROM image_words_content WHERE id = 3",
    "terms without their row": "INSERT INTO text_words_content VALUES (778, 'ghost')",
    "no index": "DELETE FROM text_words_data WHERE id > 10",
    "a trigger": "DROP TRIGGER words_image_changed",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_doctor_finds_and_mends(filled: None, catalog_path: Path, damage: str) -> None:
    assert examine(catalog_path).state == "ok"
    with closing(sqlite3.connect(catalog_path)) as connection:
        connection.execute(DAMAGE[damage])
        connection.commit()
    finding = examine(catalog_path)
    assert finding.state == "problem", finding
    assert "--repair" in finding.message
    assert examine(catalog_path, repair=True).state == "repaired"
    assert examine(catalog_path).state == "ok"
    assert in_step(catalog_path)


def test_the_doctor_looks_where_nothing_can_be_written(
    writer: CatalogWriter, filled: None, catalog_path: Path
) -> None:
    writer.close()
    catalog_path.parent.chmod(0o500)
    try:
        if catalog_path.parent.stat().st_uid:  # root may write anyway
            assert examine(catalog_path).state == "ok"
        with closing(Catalog(catalog_path, read_only=True)) as catalog:
            assert len(catalog.words.find("2041", "image", 5)) == 1
    finally:
        catalog_path.parent.chmod(0o700)
