"""Records as they go over the wire."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest

from mmsearch.cli.search import image_json, text_json
from mmsearch.overview import (
    IndexStatus,
)
from mmsearch.serve.schemas import (
    Image,
    ImageAnswer,
    Index,
    TextAnswer,
    file_name,
    version_token,
)
from mmsearch.types import (
    ImageHit,
    ImageRecord,
    PictureInfo,
    TextHit,
    TextRecord,
)

RECORD = ImageRecord(
    7,
    "/photos/na\udcefve/caf\udce2\udc82.jpg",
    PictureInfo(
        "JPEG",
        30,
        20,
        datetime(2020, 1, 2, 3, 4, 5),
        camera="C\udcff",
        latitude=1.5,
        longitude=-2.5,
        title="T",
        keywords=("a", "\udc80"),
    ),
    1234,
    ("/copy/\udce9.jpg",),
)


def test_names_that_are_not_utf8_still_make_json() -> None:
    answer = ImageAnswer.model_validate(
        ImageAnswer.facts_of_hit(ImageHit(0.5, RECORD, ("ca\ud800ption",)), show_gps=False)
    )
    text = answer.model_dump_json()
    assert answer.path == "/photos/na\ufffdve/caf\ufffd.jpg"
    assert "ca\ufffdption" in text
    assert answer.latitude is None
    TextAnswer.of_hit(TextHit(0.1, TextRecord(1, "b\udc80", "s\udc80"))).model_dump_json()


def test_places_only_when_asked_for() -> None:
    shown = Image.of(RECORD, (), show_gps=True)
    assert (shown.latitude, shown.longitude) == (1.5, -2.5)


def test_the_terminal_prints_the_same_fields() -> None:
    info = dataclasses.replace(RECORD.info, camera="C", keywords=("a", "b"), description="D")
    record = dataclasses.replace(RECORD, path="/photos/a.zip!/b/c.jpg", info=info, copies=("/d",))
    hit = ImageHit(0.5, record, ("caption",), 0.75, (8,))
    answer = ImageAnswer.model_validate(ImageAnswer.facts_of_hit(hit, show_gps=False))
    there = answer.model_dump(mode="json", exclude={"urls", "latitude", "longitude"})
    assert image_json(hit) == there
    said = TextHit(0.1, TextRecord(1, "body", "source", (2,)), relevance=0.5)
    assert text_json(said) == TextAnswer.of_hit(said).model_dump(mode="json")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/c.jpg", "c.jpg"),
        ("/a/b.zip!/deep/c.jpg", "c.jpg"),
        ("C:\\photos\\c.jpg", "c.jpg"),
        ("c.jpg", "c.jpg"),
        ("/", "picture"),
        ("", "picture"),
        ("a/b/", "b"),
        ("a/b/.", "b"),
        ("a/..", ".."),
        ("a\udce9/b\udce9", "b\ufffd"),
    ],
)
def test_file_names(path: str, name: str) -> None:
    assert file_name(path) == name


def test_an_approximate_index_is_told() -> None:
    exact = IndexStatus("image", "SQfp16", 10, 72.0)
    assert (Index.of(exact).approximate, Index.of(exact).recall) == (None, None)
    told = Index.of(dataclasses.replace(exact, approximate="IVF4", recall=0.97, outgrown=True))
    assert (told.approximate, told.recall, told.outgrown) == ("IVF4", 0.97, True)


def test_the_token_follows_the_picture() -> None:
    token = version_token(RECORD)
    assert token == version_token(dataclasses.replace(RECORD, copies=()))
    others = [
        dataclasses.replace(RECORD, id=8),
        dataclasses.replace(RECORD, path="/other.jpg"),
        dataclasses.replace(RECORD, bytes=1235),
        dataclasses.replace(RECORD, info=PictureInfo("JPEG", 20, 30)),
    ]
    assert len({token, *map(version_token, others)}) == 5
