"""A library mirrored into PostgreSQL and Milvus: what others read there is the library."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from collection import encoded, run, write, write_captions, write_seven
from databases import Database, MilvusDatabase, PostgreSQLDatabase, mirrored

from indexer.exchange import milvus as exchange_milvus
from indexer.exchange import mirroring
from indexer.exchange.exporting import export
from indexer.exchange.mirroring import mirror
from mmsearch.backup import backup
from mmsearch.cli import cli
from mmsearch.errors import RefusedError
from mmsearch.library import Library
from mmsearch.points import EVENT
from mmsearch.query import Question, Term
from mmsearch.store import postgresql as store_postgresql

NUMBERS = itertools.count()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_seven(tmp_path / "photos")


def check(library: Path, database: Database, work: Path, *, gps: bool = False) -> None:
    """What is in the database is what `mmsearch export` writes into files."""
    folder = work / f"files{next(NUMBERS)}"
    with Library(library, device="cpu") as opened:
        export(opened, folder, gps=gps)
        catalog = opened.catalog
        linked = catalog.linked_texts(list(database.pictures()))
        tags = {id_: sorted(name for name, _ in given)
                for id_, given in catalog.tags(list(database.pictures())).items()}  # fmt: skip
    rows = pq.read_table(folder / "metadata" / "metadata_0.parquet").to_pylist()
    vectors = np.load(folder / "img_emb" / "img_emb_0.npy")
    expected = {}
    for row, vector in zip(rows, vectors, strict=True):
        row["path"] = row.pop("image_path")
        for name in ("latitude", "longitude"):
            row.setdefault(name, None)
        id_ = row.pop("id")
        expected[id_] = row | {"vector": vector.astype(np.float32), "tags": tags.get(id_, [])}
    _agree(database.pictures(), expected)
    assert database.links() == {id_: texts for id_, texts in linked.items() if texts}
    rows = pq.read_table(folder / "texts" / "metadata" / "metadata_0.parquet").to_pylist()
    vectors = np.load(folder / "texts" / "text_emb" / "text_emb_0.npy")
    texts = {
        row["id"]: {
            "body": row["caption"],
            "source": row["source"],
            "hash": row["hash"],
            "tags": [],
        }
        | {"vector": vector.astype(np.float32)}
        for row, vector in zip(rows, vectors, strict=True)
    }
    _agree(database.texts(), texts)


def _agree(found: dict[int, dict[str, Any]], expected: dict[int, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        ours = found[id_]
        vector, theirs = ours.pop("vector"), row.pop("vector")
        assert np.array_equal(vector, theirs)
        if isinstance(row.get("taken_at"), datetime) and isinstance(ours["taken_at"], str):
            ours["taken_at"] = datetime.fromisoformat(ours["taken_at"])
        assert ours == row


def test_all_of_a_library_is_there(
    database: Database, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    run(library, photos, model=model)
    report = mirrored(library, database)
    assert (report.pictures, report.texts, report.sent, report.deleted) == (7, 5, 12, 0)
    check(library, database, tmp_path)
    assert [row["caption"] for row in database.pictures().values() if row["copies"]] == [None]


def test_only_what_has_changed_is_sent(
    database: Database, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    run(library, photos, model=model)
    mirrored(library, database)
    again = mirrored(library, database)
    assert again.unchanged
    assert (again.sent, again.deleted, again.pictures) == (0, 0, 7)

    write(photos / "new.png", encoded(20))
    run(library, photos)
    report = mirrored(library, database)
    assert (report.sent, report.deleted, report.unchanged) == (1, 0, False)

    (photos / "new.png").unlink()
    run(library, photos)
    report = mirrored(library, database)
    assert (report.sent, report.deleted) == (0, 1)

    (photos / "5.png").rename(photos / "moved.png")  # only its row tells of it
    (photos / "4.png").unlink()
    run(library, photos)
    report = mirrored(library, database)
    assert (report.sent, report.deleted) == (1, 1)

    write_captions(photos / "captions.jsonl", [("1.png", "one"), ("2.png", "other words")])
    run(library, photos)
    report = mirrored(library, database)
    # The new text; the pictures that lost and gained one; and two texts that are no more.
    assert (report.sent, report.deleted) == (3, 2)
    check(library, database, tmp_path)


Step = Callable[[Path, random.Random], None]


def _add(photos: Path, rng: random.Random) -> None:
    write(photos / f"{rng.randrange(1000)}.png", encoded(rng.randrange(30)))


def _some(photos: Path, rng: random.Random) -> Path | None:
    found = sorted(photos.rglob("*.png"))
    return rng.choice(found) if found else None


def _delete(photos: Path, rng: random.Random) -> None:
    if (path := _some(photos, rng)) is not None:
        path.unlink()


def _rename(photos: Path, rng: random.Random) -> None:
    if (path := _some(photos, rng)) is not None:
        (photos / f"folder{rng.randrange(3)}").mkdir(exist_ok=True)
        path.rename(photos / f"folder{rng.randrange(3)}.{rng.randrange(1000)}.png")


def _tell(photos: Path, rng: random.Random) -> None:
    if (path := _some(photos, rng)) is not None:
        path.with_suffix(".txt").write_text(f"words {rng.randrange(5)}")


def _caption(photos: Path, rng: random.Random) -> None:
    pictures = [None, *sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))]
    write_captions(
        photos / "captions.jsonl",
        [(rng.choice(pictures), f"text {rng.randrange(9)}") for _ in range(6)],
    )


class Killed(BaseException):
    """What a kill is to the code that it meets: nothing more of that runs."""


_countdown: list[int] = []


def _die(event: str, arguments: tuple[Any, ...]) -> None:
    if event == EVENT and _countdown and str(arguments[0]).startswith("mirror: "):
        _countdown[0] -= 1
        if _countdown[0] == 0:
            _countdown.clear()
            raise Killed


@pytest.fixture(scope="session")
def hooked() -> None:
    sys.addaudithook(_die)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_the_mirror_is_the_library(
    seed: int,
    database: Database,
    photos: Path,
    library: Path,
    tmp_path: Path,
    model: str,
    other_model: str,
    hooked: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirroring, "_ROWS_A_LOOK", 3)
    monkeypatch.setattr(mirroring, "_ROWS_A_BATCH", 2)
    monkeypatch.setattr(mirroring, "_IDS_A_DELETE", 2)
    rng = random.Random(seed)
    steps: list[Step] = [_add, _add, _delete, _rename, _tell, _caption]
    models = [model, other_model]
    run(library, photos, model=model)
    kills = 0
    for number in range(8):
        for _ in range(rng.randrange(1, 4)):
            rng.choice(steps)(photos, rng)
        if number % 3 == 2:
            models.reverse()
        run(library, photos, model=models[0])
        for _ in range(rng.randrange(3)):
            _countdown[:] = [rng.randrange(1, 5)]
            try:
                mirrored(library, database)
            except Killed:
                kills += 1
                if rng.random() < 0.5:  # and the library goes on meanwhile
                    rng.choice(steps)(photos, rng)
                    run(library, photos, model=models[0])
            _countdown.clear()
        mirrored(library, database)
        check(library, database, tmp_path)
        assert mirrored(library, database).unchanged
    assert kills > 3


_KILLED = """
import os, sys
from mmsearch.cli import cli
from indexer.exchange import milvus as exchange_milvus
from indexer.exchange import mirroring
mirroring._ROWS_A_BATCH = 2
left = int(sys.argv[1])
def die(event, arguments):
    global left
    if event == "mmsearch.point" and arguments[0] == "mirror: batch sent":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(die)
cli(sys.argv[2:])
"""


def test_a_killed_run_is_gone_on_with(
    database: Database, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    run(library, photos, model=model)
    words = ["3", "-l", str(library), "export", database.url]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr
    report = mirrored(library, database)
    assert (report.sent, report.unchanged) == (12 - 3 * 2, False)
    check(library, database, tmp_path)


def test_another_model_takes_the_place_of_the_first_when_it_is_whole(
    database: Database,
    photos: Path,
    library: Path,
    tmp_path: Path,
    model: str,
    other_model: str,
    hooked: None,
) -> None:
    run(library, photos, model=model)
    mirrored(library, database)
    before = database.pictures()
    run(library, photos, model=other_model)
    _countdown[:] = [2]
    with pytest.raises(Killed):
        mirrored(library, database)
    half = database.pictures()  # is searched as it was
    assert {id_: len(row["vector"]) for id_, row in half.items()} == dict.fromkeys(before, 48)
    report = mirrored(library, database)
    assert report.old_model == model
    assert {len(row["vector"]) for row in database.pictures().values()} == {32}
    check(library, database, tmp_path)
    # Back to the first one, and its vectors are dropped: nothing of either is in the way.
    run(library, photos, model=model)
    mirrored(library, database)
    check(library, database, tmp_path)


def test_another_librarys_mirror_is_left_alone(
    database: Database, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    run(library, photos, model=model)
    mirrored(library, database)
    other = tmp_path / "other"
    write(photos / "copies" / "again.txt", b"new words")
    run(other, photos / "copies", model=model)
    with pytest.raises(RefusedError, match=r"mirrors another library.*--name.*--replace"):
        mirrored(other, database)
    check(library, database, tmp_path)
    assert mirrored(other, database, name="second").sent == 2
    mirrored(other, database, replace_other=True)
    check(other, database, tmp_path)


def test_a_restored_backup_is_another_library(
    milvus: MilvusDatabase, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    """It may give ids anew that the mirror holds already."""
    run(library, photos, model=model)
    mirrored(library, milvus)
    backup(library, tmp_path / "copy")
    with pytest.raises(RefusedError, match="--replace"):
        mirrored(tmp_path / "copy", milvus)
    mirrored(tmp_path / "copy", milvus, replace_other=True)
    check(tmp_path / "copy", milvus, tmp_path)


def test_places_are_sent_only_when_asked_for(
    database: Database, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 0.0, 0.0), 3: "E", 4: (11.0, 30.0, 0.0)})
    write(photos / "placed.jpg", encoded(9, "JPEG", exif=exif))
    run(library, photos, model=model)

    def latitudes() -> set[Any]:
        return {row["latitude"] for row in database.pictures().values()}

    mirrored(library, database)
    assert latitudes() == {None}
    assert mirrored(library, database, gps=True).sent == 1
    assert latitudes() == {None, 48.0}
    check(library, database, tmp_path, gps=True)
    assert mirrored(library, database).sent == 1
    assert latitudes() == {None}


def test_tags_are_there(
    database: Database, photos: Path, library: Path, tmp_path: Path, model: str
) -> None:
    run(library, photos, model=model)
    mirrored(library, database)
    words = ["-l", str(library), "tags", "add", "beach", str(photos / "1.png")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert mirrored(library, database).sent == 1
    check(library, database, tmp_path)


@pytest.mark.parametrize("sentence", ["a red kite", "two boats at night"])
def test_the_nearest_there_are_those_of_a_search(
    database: Database, postcards: Any, sentence: str
) -> None:
    with Library(postcards.path, device="cpu") as lib:
        mirror(lib, database.url)
        _, vectors = lib.embed_texts([sentence])
        question = Question((Term(text=sentence),), k=10, words=False)
        for kind, hits in (
            ("pictures", [(h.image.id, h.score) for h in lib.ask(question).hits]),
            ("texts", [(h.text.id, h.score) for h in lib.ask_texts(question).hits]),
        ):
            found = database.nearest(kind, vectors[0], 10)
            # Of such as are alike to the last digit of float16, either may come first.
            assert [score for _, score in found] == pytest.approx(
                [score for _, score in hits], abs=1e-3
            )
            scores = dict(hits)
            surely = {id_ for id_, score in hits if score > hits[-1][1] + 2e-3}
            assert surely <= {id_ for id_, _ in found}
            ranked = [scores[id_] for id_, _ in found if id_ in scores]
            assert all(a > b - 2e-3 for a, b in itertools.pairwise(ranked))


def test_an_older_pgvector_gets_vectors_of_float32(
    postgresql: PostgreSQLDatabase,
    photos: Path,
    library: Path,
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_postgresql, "_HALVES_SINCE", (99,))
    run(library, photos, model=model)
    mirrored(library, postgresql)
    check(library, postgresql, tmp_path)
    made = [row["indexdef"] for row in postgresql.run("SELECT indexdef FROM pg_indexes")]
    assert sum("USING hnsw (vector vector_cosine_ops)" in one for one in made) == 2


def test_milvus_is_asked_for_no_more_than_it_gives_at_once(
    milvus: MilvusDatabase,
    photos: Path,
    library: Path,
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_milvus, "_ROWS_A_QUERY", 2)
    run(library, photos, model=model)
    mirrored(library, milvus)
    write(photos / "new.png", encoded(20))
    (photos / "4.png").unlink()
    run(library, photos)
    report = mirrored(library, milvus)
    assert (report.sent, report.deleted) == (1, 1)
    check(library, milvus, tmp_path)
