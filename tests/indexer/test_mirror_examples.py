"""What deploy/engines.md shows runs, and finds what a search finds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collection import Indexed
from databases import MilvusDatabase, PostgreSQLDatabase, mirrored

from mmsearch.library import Library

PAGE = (Path(__file__).parents[2] / "deploy" / "engines.md").read_text(encoding="utf-8")


def example(language: str, *, of: str = "") -> str:
    """The one block in a language with these words."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if of in block]
    return block


@pytest.fixture
def service(postcards: Indexed) -> Iterator[str]:
    """The address of a service of the postcards."""
    words = ["-m", "mmsearch", "-l", str(postcards.path), "serve", "--port", "0"]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "MMSEARCH_DEVICE": "cpu"},
    ) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        try:
            yield address[0]
        finally:
            process.terminate()


def check(printed: str, postcards: Indexed) -> None:
    """That these are the nearest pictures, with their scores."""
    found = [line.split("  ") for line in printed.splitlines()]
    with Library(postcards.path, device="cpu") as lib:
        hits = lib.search("a red kite over a beach", k=100, words=False)
    scores = {hit.image.path: hit.score for hit in hits}
    assert len(found) == 5
    assert [float(score) for score, _ in found] == pytest.approx(
        [hit.score for hit in hits[:5]], abs=2e-3
    )
    for score, path in found:
        assert float(score) == pytest.approx(scores[path], abs=2e-3)


def test_postgresql(
    postgresql: PostgreSQLDatabase,
    postcards: Indexed,
    service: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirrored(postcards.path, postgresql)
    script = example("python", of="psycopg")
    for shown, real in (
        ("http://127.0.0.1:8080", service),
        ("postgresql://me@db.example/photos", postgresql.url),
    ):
        assert shown in script
        script = script.replace(shown, real)
    exec(compile(script, "engines.md", "exec"), {})
    check(capsys.readouterr().out, postcards)


def test_sql(postgresql: PostgreSQLDatabase, postcards: Indexed) -> None:
    mirrored(postcards.path, postgresql)
    texts, like = example("sql").split(";\n")[:2]
    with Library(postcards.path, device="cpu") as lib:
        captions = [text.body for text in lib.image_captions(7)]
        similar = [hit.image.path for hit in lib.similar(7, k=5)]
    assert [row["body"] for row in postgresql.run(texts)] == captions
    assert {row["path"] for row in postgresql.run(like)} == set(similar)


def test_rights(postgresql: PostgreSQLDatabase, postcards: Indexed) -> None:
    """What an administrator is told to do is enough for who mirrors, and for who reads."""
    text = " ".join(PAGE.split())
    make = re.search(r"`(CREATE EXTENSION vector; CREATE SCHEMA mmsearch AUTHORIZATION me)`", text)
    read = re.search(r"`(GRANT USAGE ON SCHEMA mmsearch TO app; [^`]*)`", text)
    assert make is not None
    assert read is not None
    postgresql.run("CREATE ROLE me LOGIN; CREATE ROLE app LOGIN")
    postgresql.run(make[1])
    mine = PostgreSQLDatabase.__new__(PostgreSQLDatabase)
    mine.__dict__ = postgresql.__dict__ | {"user": "me"}
    mine.run(read[1])
    postgresql.url = postgresql.url.replace("postgres@", "me@")
    mirrored(postcards.path, postgresql)
    mine.user = "app"
    assert len(mine.run("SELECT path FROM mmsearch.pictures")) == 50


def test_milvus(
    milvus: MilvusDatabase,
    postcards: Indexed,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrored(postcards.path, milvus)
    script = example("python", of="MilvusClient")
    assert '"photos.db"' in script
    script = script.replace('"photos.db"', repr(str(milvus.path)))
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(postcards.path))
    made: dict[str, Any] = {}
    try:
        exec(compile(script, "engines.md", "exec"), made)
    finally:
        made["client"].close()
    check(capsys.readouterr().out, postcards)
