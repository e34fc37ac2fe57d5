"""Tags: what people said stays, what a model said is replaced, what is forgotten goes."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from catalog_rows import SPACE, digest, image, text

from mmsearch.errors import RefusedError
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.store.tags import TagCount


@pytest.fixture
def ids(writer: CatalogWriter, catalog: Catalog, source: int) -> dict[str, int]:
    """Three pictures and a text, by what they are made of."""
    space_id = writer.ensure_space(SPACE)
    writer.commit(
        space_id,
        images=[image(source, f"{name}.jpg", name) for name in "ABC"],
        texts=[text(source, "t.txt", "1", "words")],
    )
    found = {name: catalog.content_id("image", digest(name)) for name in "ABC"}
    found["words"] = catalog.content_id("text", digest("words"))
    return {name: id_ for name, id_ in found.items() if id_ is not None}


def test_what_a_model_says_comes_with_its_probability(
    writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]
) -> None:
    found = {ids["A"]: [("sea", 0.7), ("boat", 0.9)], ids["words"]: [("sea", 0.6)], ids["B"]: []}
    assert writer.tags.classified(found, ["sea", "boat", "city"]) == 3
    assert catalog.tags(list(ids.values())) == {
        ids["A"]: (("boat", 0.9), ("sea", 0.7)),
        ids["words"]: (("sea", 0.6),),
    }
    assert catalog.tag_counts() == [TagCount("sea", 1, 1, 0), TagCount("boat", 1, 0, 0)]


def test_it_replaces_what_it_said_and_nothing_else(
    writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]
) -> None:
    writer.tags.classified({ids["A"]: [("sea", 0.7)], ids["B"]: [("sea", 0.8)]}, ["sea", "city"])
    writer.tags.classified({ids["A"]: [("dog", 0.9)]}, ["dog", "cat"])
    writer.tags.add([ids["A"], ids["C"]], "city")
    writer.tags.classified({ids["A"]: [("city", 0.6)]}, ["sea", "city"])
    assert catalog.tags(list(ids.values())) == {
        ids["A"]: (("city", None), ("dog", 0.9)),  # by hand; of other labels
        ids["B"]: (("sea", 0.8),),  # not asked about again
        ids["C"]: (("city", None),),
    }


def test_a_person_overrules_a_model(
    writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]
) -> None:
    writer.tags.classified({ids["A"]: [("sea", 0.7)]}, ["sea"])
    assert writer.tags.add([ids["A"], ids["B"], 999], "  sea ") == 2
    assert catalog.tags([ids["A"]]) == {ids["A"]: (("sea", None),)}
    assert catalog.tag_counts() == [TagCount("sea", 2, 0, 2)]


def test_tags_are_taken_off(writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]) -> None:
    everything = [ids[name] for name in "ABC"]
    writer.tags.classified(
        {id_: [("sea", 0.7), ("sky", 0.6)] for id_ in everything}, ["sea", "sky"]
    )
    writer.tags.add([ids["A"]], "mine")
    assert writer.tags.remove("sea", [ids["A"]]) == 1
    assert writer.tags.remove("sea", [ids["A"]]) == 0
    assert writer.tags.remove("sea") == 2
    assert writer.tags.remove(None, by_model=True) == 3
    assert catalog.tags(everything) == {ids["A"]: (("mine", None),)}
    assert writer.tags.remove(None) == 1


def test_case_does_not_tell_tags_apart(
    writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]
) -> None:
    everything = list(ids.values())
    writer.tags.add([ids["A"]], "Château")
    # In another case, and with the accent written as a character of its own.
    assert writer.tags.add([ids["A"], ids["B"], ids["words"]], "CHA\u0302TEAU") == 3
    assert catalog.tags(everything) == dict.fromkeys(
        (ids["A"], ids["B"], ids["words"]), (("Château", None),)
    )
    assert catalog.tag_counts() == [TagCount("Château", 2, 1, 3)]
    assert writer.tags.remove("château", [ids["A"]]) == 1
    assert writer.tags.remove("CHÂTEAU") == 2
    assert catalog.tag_counts() == []


def test_a_model_spells_tags_as_they_are_spelled(
    writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]
) -> None:
    writer.tags.add([ids["A"]], "Sea")
    found = {ids["A"]: [("SEA", 0.7)], ids["B"]: [("SEA", 0.8), ("Sky", 0.6)]}
    assert writer.tags.classified(found, ["SEA", "Sky"]) == 2
    assert catalog.tags(list(ids.values())) == {
        ids["A"]: (("Sea", None),),
        ids["B"]: (("Sea", 0.8), ("Sky", 0.6)),
    }
    # What it said in another case goes where it does not say it again, and a person overrules it.
    writer.tags.classified({ids["B"]: [("sky", 0.9)]}, ["sea", "sky"])
    assert catalog.tags([ids["B"]]) == {ids["B"]: (("Sky", 0.9),)}
    assert writer.tags.add([ids["B"]], "sky") == 1
    assert catalog.tags([ids["B"]]) == {ids["B"]: (("Sky", None),)}


def test_spellings_of_older_libraries_are_counted_and_removed_as_one(
    writer: CatalogWriter, catalog: Catalog, ids: dict[str, int], catalog_path: Path
) -> None:
    rows = [
        (ids["A"], "castle", 0.5),
        (ids["A"], "Castle", None),
        (ids["B"], "CASTLE", 0.9),
        (ids["words"], "castle", 0.6),
    ]
    with closing(sqlite3.connect(catalog_path)) as connection, connection:
        connection.executemany("INSERT INTO tag (content_id, name, score) VALUES (?, ?, ?)", rows)
    assert catalog.tag_counts() == [TagCount("CASTLE", 2, 1, 1)]
    facets = catalog.facets()
    assert [(count.value, count.count) for count in facets.tags] == [("CASTLE", 2)]
    # No further spelling comes to what has one.
    assert writer.tags.add([ids["A"], ids["B"], ids["C"]], "castle") == 3
    assert catalog.tags([ids["A"], ids["B"], ids["C"]]) == {
        ids["A"]: (("Castle", None), ("castle", None)),
        ids["B"]: (("CASTLE", None),),
        ids["C"]: (("castle", None),),
    }
    assert writer.tags.remove("Castle", by_model=True) == 1
    assert writer.tags.remove("cAsTlE") == 4
    assert catalog.tag_counts() == []


def test_servers_notice(writer: CatalogWriter, catalog: Catalog, ids: dict[str, int]) -> None:
    before = catalog.revision()
    writer.tags.add([ids["A"]], "sea")
    writer.tags.classified({ids["A"]: []}, ["sky"])
    assert writer.tags.remove("sea") == 1
    after = catalog.revision()
    assert after == before + 3
    assert writer.tags.remove("sea") == 0
    assert catalog.revision() == after


def test_commit_points_are_named(writer: CatalogWriter, ids: dict[str, int]) -> None:
    points: list[str] = []
    listening = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "mmsearch.point":
            points.append(str(arguments[0]))

    sys.addaudithook(hook)
    writer.tags.classified({ids["A"]: [("sea", 0.5)]}, ["sea"])
    writer.tags.remove("sea")
    listening = False
    assert points == [
        "tags: to be committed",
        "tags: committed",
        "tags removed: to be committed",
        "tags removed: committed",
    ]


def test_forgetting_takes_the_tags_along_and_writes_none_on_tombstones(
    writer: CatalogWriter,
    catalog: Catalog,
    ids: dict[str, int],
    source: int,
    catalog_path: Path,
) -> None:
    writer.tags.add([ids["A"], ids["words"]], "private")
    other = writer.ensure_source("/other", "folder", (), False)
    writer.commit(writer.ensure_space(SPACE), images=[image(other, "b.jpg", "B")])
    writer.tags.add([ids["B"]], "kept")
    writer.sources.remove(source, lambda _removal, _lost, _gone: None)
    assert catalog.tag_counts() == [TagCount("kept", 1, 0, 1)]
    assert writer.tags.classified({ids["A"]: [("late", 0.9)]}, ["late"]) == 0
    assert writer.tags.add([ids["A"]], "late") == 0
    with closing(sqlite3.connect(catalog_path)) as connection:
        assert connection.execute("SELECT name FROM tag").fetchall() == [("kept",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert b"private" not in catalog_path.read_bytes()


@pytest.mark.parametrize("name", ["", "  ", "two\x00", "x" * 201, "\u202egnp"])
def test_what_cannot_be_a_tag(writer: CatalogWriter, ids: dict[str, int], name: str) -> None:
    with pytest.raises(RefusedError, match="cannot be a tag"):
        writer.tags.add([ids["A"]], name)
    with pytest.raises(RefusedError, match="cannot be a tag"):
        writer.tags.classified({ids["A"]: [(name, 0.5)]}, [name])


def test_many_at_once(writer: CatalogWriter, catalog: Catalog, source: int) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(space_id, images=[image(source, f"{n}.jpg", str(n)) for n in range(5100)])
    found = {id_: [("tag", 0.5)] for id_ in range(1, 5101)}
    assert writer.tags.classified(found, [f"name {n}" for n in range(6000)] + ["tag"]) == 5100
    assert catalog.tag_counts() == [TagCount("tag", 5100, 0, 0)]
