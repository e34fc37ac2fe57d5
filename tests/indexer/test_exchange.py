"""Vectors out of a library and into another: the same searches, and no model."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from collection import Indexed, encoded, found, run, same, titled, write, write_captions
from PIL import Image

from indexer.exchange import importing, intake, layout, places
from indexer.exchange import vectors as received
from indexer.exchange.exporting import ExportReport, export
from indexer.exchange.importing import import_embeddings
from indexer.exchange.intake import ImportReport
from mmsearch.cli import cli
from mmsearch.decode import decode, read_info
from mmsearch.encode import load_encoder
from mmsearch.errors import MmsearchError, RefusedError, SourceError, StoreError
from mmsearch.library import Library
from mmsearch.points import EVENT
from mmsearch.query import Question, Term

QUERIES = ["a boat", "waves", encoded(3)]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, model: str) -> Indexed:
    """Pictures of every kind of place, and texts of every kind. Not to be written to."""
    root = tmp_path_factory.mktemp("collection")
    photos = root / "photos"
    for seed in range(6):
        write(photos / f"{seed}.png", encoded(seed))
    write(photos / "copies" / "again.png", encoded(3))
    write(photos / "titled.jpg", titled(7, "a title of its own"))
    write(photos / "0.txt", b"what the sidecar says")
    write_captions(
        photos / "captions.jsonl",
        [("1.png", "one"), ("1.png", "another one"), ("2.png", "one"), (None, "of no picture")],
    )
    with zipfile.ZipFile(photos / "more.zip", "w") as archive:
        archive.writestr("inside.png", encoded(8))
    report = run(root / "library", photos, model=model)
    assert (report.failed, report.warnings) == (0, [])
    return Indexed(root / "library", photos)


def exported(library: Path, to: Path, **options: Any) -> ExportReport:
    with Library(library, device="cpu") as opened:
        return export(opened, to, **options)


@pytest.fixture
def embeddings(collection: Indexed, tmp_path: Path) -> Path:
    exported(collection.path, tmp_path / "embeddings")
    return tmp_path / "embeddings"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model to import fails."""

    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(importing, "load_encoder", load)
    monkeypatch.setattr(received, "load_encoder", load)


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


# --- export -------------------------------------------------------------------------------------


def test_rows_of_the_files_go_together(collection: Indexed, embeddings: Path, model: str) -> None:
    images = np.load(embeddings / "img_emb" / "img_emb_0.npy")
    captions = np.load(embeddings / "text_emb" / "text_emb_0.npy")
    rows = table(embeddings / "metadata" / "metadata_0.parquet")
    assert images.dtype == captions.dtype == np.float16
    assert images.shape == captions.shape == (8, 48)
    assert len(rows) == 8
    encoder = load_encoder(model, device="cpu", dtype="fp32")
    for row, image, caption in zip(rows, images, captions, strict=True):
        path = row["image_path"]
        data = encoded(8) if "!/" in path else Path(path).read_bytes()
        pixels = encoder.preprocess(decode(data, source="", min_side=64).pixels)
        assert encoder.encode_images(pixels[None])[0] @ image == pytest.approx(1, abs=2e-3)
        if row["caption"] is None:
            assert not caption.any()
        else:
            assert encoder.encode_texts([row["caption"]])[0] @ caption == pytest.approx(1, abs=2e-3)
    by_name = {Path(row["image_path"]).name: row for row in rows}
    assert by_name["1.png"]["caption"] == "one"
    assert by_name["titled.jpg"]["description"] == "a title of its own"
    assert (by_name["0.png"]["width"], by_name["0.png"]["format"]) == (40, "PNG")
    copies = [row for row in rows if row["copies"]]
    assert len(copies) == 1


def test_every_text_is_there_with_each_picture_it_is_for(embeddings: Path) -> None:
    rows = table(embeddings / "texts" / "metadata" / "metadata_0.parquet")
    told = {(row["caption"], os.path.basename(row["image_path"] or "")) for row in rows}  # noqa: PTH119
    assert told == {
        ("one", "1.png"),
        ("one", "2.png"),
        ("another one", "1.png"),
        ("of no picture", ""),
        ("what the sidecar says", "0.png"),
        ("a title of its own", "titled.jpg"),
    }
    vectors = np.load(embeddings / "texts" / "text_emb" / "text_emb_0.npy")
    assert vectors.shape == (len(rows), 48)


def test_shards_hold_the_same_rows_in_order(collection: Indexed, tmp_path: Path) -> None:
    exported(collection.path, tmp_path / "whole")
    report = exported(collection.path, tmp_path / "cut", rows_a_shard=3)
    assert report.shards == 3 + 2
    names = [f"img_emb/img_emb_{n}.npy" for n in range(3)]
    cut = [np.load(tmp_path / "cut" / name) for name in names]
    assert [len(part) for part in cut] == [3, 3, 2]
    whole = np.load(tmp_path / "whole" / "img_emb" / "img_emb_0.npy")
    assert np.array_equal(np.concatenate(cut), whole)
    rows = [r for n in range(3) for r in table(tmp_path / f"cut/metadata/metadata_{n}.parquet")]
    assert rows == table(tmp_path / "whole" / "metadata" / "metadata_0.parquet")


def test_more_than_ten_shards_are_numbered_so_that_names_sort(
    collection: Indexed, tmp_path: Path
) -> None:
    """Who reads them, sorts them by name."""
    exported(collection.path, tmp_path / "out", rows_a_shard=1)
    exported(collection.path, tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "out" / "img_emb").iterdir())[0] == "img_emb_0.npy"
    with layout.ShardWriter(
        tmp_path / "many", 2, 1, pa.schema([("caption", pa.string())]), ["text_emb"]
    ) as writer:
        for n in range(12):
            writer.write({"caption": [str(n)]}, {"text_emb": np.full((1, 2), n, np.float16)})
    files = sorted((tmp_path / "many" / "text_emb").iterdir())
    assert [float(np.load(file)[0, 0]) for file in files] == list(range(12))
    assert files[0].name == "text_emb_00.npy"


def test_places_are_written_only_when_asked_for(tmp_path: Path, model: str) -> None:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0), 3: "E", 4: (11.0, 34.0, 0.0)}
    write(tmp_path / "photos" / "1.jpg", encoded(1, "JPEG", exif=exif))
    run(tmp_path / "library", tmp_path / "photos", model=model)
    exported(tmp_path / "library", tmp_path / "without")
    exported(tmp_path / "library", tmp_path / "with", gps=True)
    (without,) = table(tmp_path / "without" / "metadata" / "metadata_0.parquet")
    (row,) = table(tmp_path / "with" / "metadata" / "metadata_0.parquet")
    assert "latitude" not in without
    assert (row["latitude"], row["longitude"]) == pytest.approx((48.1333, 11.5667), abs=1e-3)
    assert not (tmp_path / "with" / "text_emb").exists()  # there is no caption


def test_a_folder_with_anything_in_it_is_refused(collection: Indexed, tmp_path: Path) -> None:
    write(tmp_path / "taken" / "thesis.txt", b"mine")
    with pytest.raises(StoreError, match="there already"):
        exported(collection.path, tmp_path / "taken")
    with pytest.raises(StoreError, match="in the library itself"):
        exported(collection.path, collection.path / "out")
    write(tmp_path / "new.partial" / "thesis.txt", b"mine")
    with pytest.raises(StoreError, match="in the way"):
        exported(collection.path, tmp_path / "new")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


class Killed(BaseException):
    """In place of a kill."""


_armed: list[str] = []


def _die(event: str, arguments: tuple[Any, ...]) -> None:
    if event == EVENT and _armed and arguments[0] == _armed[0]:
        _armed.clear()
        raise Killed


@pytest.fixture
def die_at() -> Iterator[list[str]]:
    """A list to put the name of a point into, at which the process comes to an end."""
    if not getattr(test_an_export_appears_whole_or_not_at_all, "hooked", False):
        sys.addaudithook(_die)
        test_an_export_appears_whole_or_not_at_all.hooked = True  # type: ignore[attr-defined]
    yield _armed
    _armed.clear()


def test_an_export_appears_whole_or_not_at_all(
    collection: Indexed, tmp_path: Path, die_at: list[str]
) -> None:
    die_at.append("export: to be put in place")
    with pytest.raises(Killed):
        exported(collection.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    # What a kill leaves that could not clean up.
    write(tmp_path / "out.partial" / "img_emb" / "img_emb_0.npy", b"half")
    exported(collection.path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy")) == 8


# --- import -------------------------------------------------------------------------------------


def taken(library: Path, folder: Path, **options: Any) -> ImportReport:
    return import_embeddings(library, folder, **({"device": "cpu"} | options))


def test_a_round_trip_gives_the_same_answers_and_loads_no_model(
    collection: Indexed, embeddings: Path, tmp_path: Path, no_model: None
) -> None:
    report = taken(tmp_path / "library", embeddings)
    assert (report.skipped, report.reasons, report.rescaled) == (0, [], 0)
    assert (report.pictures, report.texts, report.linked) == (9, 6, 5)
    expected = found(collection.path, collection.pictures, QUERIES)
    assert same(found(tmp_path / "library", collection.pictures, QUERIES), expected)
    with Library(collection.path) as old, Library(tmp_path / "library") as new:
        assert new.space == old.space
        for id_ in range(1, 20):
            ours = new.catalog.image_info(id_)
            theirs = None if ours is None else _info_of(old, new, id_)
            assert ours == theirs


def _info_of(old: Library, new: Library, id_: int) -> object:
    digest = bytes.fromhex(new.catalog.content_hash(id_) or "")
    there = old.catalog.content_id("image", digest)
    assert there is not None
    return old.catalog.image_info(there)


def test_importing_again_finds_everything_known(
    embeddings: Path, tmp_path: Path, no_model: None
) -> None:
    taken(tmp_path / "library", embeddings)
    again = taken(tmp_path / "library", embeddings)
    # The member of the archive is looked at again; all else is known by its size and time.
    assert (again.pictures, again.known, again.texts, again.known_texts) == (1, 8, 0, 6)


def test_indexing_the_folder_afterwards_encodes_nothing(
    collection: Indexed, embeddings: Path, tmp_path: Path
) -> None:
    taken(tmp_path / "library", embeddings)
    report = run(tmp_path / "library", collection.pictures)
    assert (report.encoded_images, report.encoded_texts, report.missing) == (0, 0, 0)
    expected = found(collection.path, collection.pictures, QUERIES)
    assert same(found(tmp_path / "library", collection.pictures, QUERIES), expected)


@pytest.mark.parametrize("point", ["items: to be committed", "container: to be committed"])
def test_a_killed_import_goes_on(
    collection: Indexed,
    embeddings: Path,
    tmp_path: Path,
    no_model: None,
    die_at: list[str],
    point: str,
) -> None:
    die_at.append(point)
    with pytest.raises(Killed):
        taken(tmp_path / "library", embeddings)
    taken(tmp_path / "library", embeddings)
    expected = found(collection.path, collection.pictures, QUERIES)
    assert same(found(tmp_path / "library", collection.pictures, QUERIES), expected)


def test_pictures_that_moved_are_found_below_images(
    collection: Indexed, embeddings: Path, tmp_path: Path, no_model: None
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(collection.pictures, moved)
    (moved / "5.png").unlink()
    write(moved / "4.png", encoded(40))
    report = taken(tmp_path / "library", embeddings, images=moved)
    reasons = {Path(what).name: reason for what, reason in report.reasons}
    assert reasons.keys() == {"4.png", "5.png"}
    assert "not found" in reasons["5.png"]
    assert "changed since" in reasons["4.png"]
    with Library(tmp_path / "library", device="cpu") as library:
        assert str(collection.pictures) not in {source.location for source in library.sources()}
        hit = library.search_texts("of no picture", k=1)[0]
        assert hit.text.body == "of no picture"
        (one,) = [h for h in library.search_texts("one", k=10) if h.text.body == "one"]
        paths = {library.image(id_).path for id_ in one.text.image_ids}
    assert paths == {str(moved / "1.png"), str(moved / "2.png")}


def test_names_outside_utf_8_make_the_round_trip(
    tmp_path: Path, model: str, no_model: None
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        write(tmp_path / "photos" / name, encoded(1))
    except OSError:
        pytest.skip("this disk takes only names in UTF-8")
    write(tmp_path / "photos" / "2.png", encoded(2))
    run(tmp_path / "library", tmp_path / "photos", model=model)
    exported(tmp_path / "library", tmp_path / "out")
    report = taken(tmp_path / "new", tmp_path / "out")
    assert (report.pictures, report.skipped) == (2, 0)
    with Library(tmp_path / "new") as library:
        assert library.look_up(encoded(1)).content_id is not None


def test_a_sample_passes_over_pictures_that_have_changed(tmp_path: Path, model: str) -> None:
    for seed in range(3):
        write(tmp_path / "photos" / f"{seed}.png", encoded(seed))
    run(tmp_path / "theirs", tmp_path / "photos", model=model)
    exported(tmp_path / "theirs", tmp_path / "out")
    write(tmp_path / "photos" / "1.png", encoded(10))
    report = taken(tmp_path / "library", tmp_path / "out", sample=3)
    assert (len(report.cosines), report.pictures, report.skipped) == (2, 2, 1)


@pytest.mark.parametrize("moved", [False, True], ids=["named", "below --images"])
def test_pictures_of_a_folder_that_a_source_holds_stay_its_own(
    tmp_path: Path, model: str, moved: bool
) -> None:
    photos = tmp_path / "photos"
    for name in ("2019/1.png", "2019/2.png", "3.png", ".kept/4.png", "left out/5.png"):
        write(photos / name, encoded(int(Path(name).stem)))
    parts = [photos / name for name in ("2019", ".kept", "left out")]
    run(tmp_path / "theirs", *parts, photos / "3.png", model=model)
    exported(tmp_path / "theirs", tmp_path / "out")
    library = tmp_path / "library"
    run(library, photos, model=model, exclude=("left out",))
    taken(library, tmp_path / "out", **({"images": photos / "2019"} if moved else {}))
    with Library(library, device="cpu") as opened:
        sources = {os.path.relpath(s.location, photos) for s in opened.sources()}
        first = opened.catalog.image_records([opened.look_up(encoded(1)).content_id or 0])
    # What the source passes over is not read by it.
    assert sources == ({"."} if moved else {".", ".kept", "left out"})
    assert [record.copies for record in first.values()] == [()]


def test_folders_of_any_name_make_the_round_trip(
    collection: Indexed, tmp_path: Path, no_model: None
) -> None:
    out, library = (tmp_path / os.fsdecode(name) for name in (b"ex\xff", b"lib\xff"))
    try:
        library.mkdir()
    except OSError:
        pytest.skip("this disk takes only names in UTF-8")
    exported(collection.path, out)
    taken(library, out)
    expected = found(collection.path, collection.pictures, QUERIES)
    assert same(found(library, collection.pictures, QUERIES), expected)


def test_a_run_mends_what_older_imports_doubled(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, library = tmp_path / "photos", tmp_path / "library"
    for n in range(3):
        write(photos / "2019" / f"{n}.png", encoded(n))
    write(photos / "2019" / "titled.jpg", titled(7, "a title of its own"))
    write_captions(photos / "captions.jsonl", [("2019/0.png", "of nought")])
    run(tmp_path / "theirs", photos / "2019", model=model)
    exported(tmp_path / "theirs", tmp_path / "out")
    run(library, photos, model=model)
    expected = found(library, photos, QUERIES)
    with monkeypatch.context() as old:
        old.setattr(places, "takes_in", lambda *_: False)
        taken(library, tmp_path / "out")
    with Library(library) as opened:
        assert len(opened.sources()) == 3
    report = run(library)
    assert (report.encoded_images, report.missing, report.warnings) == (0, 0, [])
    with Library(library) as opened:
        assert str(photos / "2019") not in {source.location for source in opened.sources()}
    (photos / "2019" / "1.png").unlink()
    assert run(library).missing == 1
    write(photos / "2019" / "1.png", encoded(1))
    run(library)
    left = found(library, photos, QUERIES)
    assert [set(table) for table in left[::2]] == [set(table) for table in expected[::2]]


# --- what clip-retrieval writes -----------------------------------------------------------------


def clip_retrieval(
    root: Path,
    rows: list[tuple[str | None, str | None]],
    images: np.ndarray[Any, Any] | None,
    texts: np.ndarray[Any, Any] | None,
) -> Path:
    """A folder as its inference writes it: no manifest, paths as they were given to it."""
    columns: dict[str, Any] = {}
    if images is not None:
        (root / "img_emb").mkdir(parents=True)
        np.save(root / "img_emb" / "img_emb_0.npy", images)
        columns["image_path"] = pa.array([path for path, _ in rows], pa.string())
    if texts is not None:
        (root / "text_emb").mkdir(parents=True)
        np.save(root / "text_emb" / "text_emb_0.npy", texts)
        columns["caption"] = pa.array([caption for _, caption in rows], pa.string())
    (root / "metadata").mkdir()
    pq.write_table(pa.table(columns), root / "metadata" / "metadata_0.parquet")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("theirs") / "photos"
    for seed in range(4):
        write(root / f"{seed}.png", encoded(seed))
    return root


def made(model: str, pictures: Path) -> tuple[Any, Any, list[tuple[str | None, str | None]]]:
    """What the model makes of those pictures and their captions."""
    encoder = load_encoder(model, device="cpu", dtype="fp32")
    files = sorted(pictures.glob("*.png"))
    pixels = [decode(f.read_bytes(), source="", min_side=64).pixels for f in files]
    images = encoder.encode_images(np.stack([encoder.preprocess(p) for p in pixels]))
    captions = [f"caption of {f.stem}" for f in files]
    texts = encoder.encode_texts(captions)
    return images, texts, list(zip(map(str, files), captions, strict=True))


def test_their_files_are_taken_in_and_searched(pictures: Path, tmp_path: Path, model: str) -> None:
    images, texts, rows = made(model, pictures)
    folder = clip_retrieval(tmp_path / "theirs", rows, images.astype(np.float16), texts)
    report = taken(tmp_path / "library", folder, model=model, sample=3)
    assert (report.pictures, report.texts, report.linked, report.skipped) == (4, 4, 4, 0)
    assert len(report.cosines) == 3
    assert min(report.cosines) > 0.99
    run(tmp_path / "indexed", pictures, model=model,
        captions=[folder / "metadata" / "metadata_0.parquet"])  # fmt: skip
    ours, theirs = (found(tmp_path / name, pictures, QUERIES) for name in ("library", "indexed"))
    assert same(ours, theirs)


def test_vectors_that_are_none_are_passed_over_and_lengths_put_right(
    pictures: Path, tmp_path: Path, model: str
) -> None:
    images, texts, rows = made(model, pictures)
    images = images * 3
    images[1, 5] = np.nan
    images[2] = 0
    folder = clip_retrieval(tmp_path / "theirs", rows, images, texts)
    report = taken(tmp_path / "library", folder, model=model)
    assert (report.pictures, report.rescaled) == (2, 2)
    assert {Path(what).name: reason for what, reason in report.reasons} == {
        "1.png": "its vector has values that are no numbers",
        "2.png": "its vector is zero",
    }
    with Library(tmp_path / "library") as library:
        space_id, _ = library.catalog.active_space() or (0, None)
        for _, _, vectors in library.catalog.vectors.after(space_id, "image", 0):
            norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
            assert norms == pytest.approx(1, abs=2e-3)


def test_rows_that_cannot_be_used_are_named_and_the_others_taken_in(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_ROWS_A_BATCH", 2)
    photos = tmp_path / "photos"
    good = [str(write(photos / f"{seed}.png", encoded(seed))) for seed in range(5)]
    broken = str(write(photos / "broken.png", encoded(5)[:60]))
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        archive.writestr("inside.png", encoded(6))
    inside, gone = (f"{photos}/a.zip!/{name}.png" for name in ("inside", "gone"))
    paths = [*good, broken, inside, gone, None]
    captions = ["x" * 10_001, None, *(f"caption {n}" for n in range(7))]
    vectors = np.random.default_rng(0).standard_normal((9, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = list(zip(paths, captions, strict=True))
    folder = clip_retrieval(tmp_path / "theirs", rows, vectors, vectors)
    report = taken(tmp_path / "library", folder, model=model)
    reasons = {Path(what).name: reason for what, reason in report.reasons}
    assert sorted(reasons) == [
        "broken.png",
        "gone.png",
        "metadata_0.parquet:0",
        "metadata_0.parquet:8",
    ]
    assert "too many" in reasons["metadata_0.parquet:0"]
    assert reasons["metadata_0.parquet:8"] == "no image_path"
    assert (report.pictures, report.texts, report.skipped) == (6, 7, 4)
    with Library(tmp_path / "library") as library:
        assert library.catalog.counts()["images"] == 6
        for path, vector in zip(paths, vectors, strict=True):
            hits = library.ask(Question((Term(vector=tuple(vector.tolist())),), k=1)).hits
            assert (hits[0].image.path == path) == (path in (*good, inside))


def test_export_into_an_empty_folder(collection: Indexed, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert exported(collection.path, tmp_path / "new").pictures == 8
    assert (tmp_path / "new" / "mmsearch.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_captions_alone_are_taken_in(pictures: Path, tmp_path: Path, model: str) -> None:
    _, texts, rows = made(model, pictures)
    folder = clip_retrieval(tmp_path / "theirs", [(None, c) for _, c in rows], None, texts)
    report = taken(tmp_path / "library", folder, model=model)
    assert (report.pictures, report.texts) == (0, 4)


def test_paths_of_another_machine_need_images(pictures: Path, tmp_path: Path, model: str) -> None:
    images, _, rows = made(model, pictures)
    theirs = [(f"/data/set/{Path(path or '').name}", None) for path, _ in rows]
    folder = clip_retrieval(tmp_path / "theirs", theirs, images, None)
    nothing = taken(tmp_path / "library", folder, model=model)
    assert (nothing.pictures, nothing.skipped) == (0, 4)
    assert "--images DIR" in nothing.reasons[0][1]
    assert taken(tmp_path / "library", folder, model=model, images=pictures).pictures == 4


def spoil(folder: Path, damage: str, images: np.ndarray[Any, Any]) -> None:
    """Makes of a sound folder one that some other program or a bad copy may leave."""
    file = folder / "img_emb" / "img_emb_0.npy"
    table = folder / "metadata" / "metadata_0.parquet"
    if damage == "an archive":
        with file.open("wb") as out:
            np.savez(out, images)
    elif damage == "a pickle":
        file.write_bytes(pickle.dumps(images))
    elif damage == "Python objects":
        np.save(file, np.array([{"a": 1}] * 4, object), allow_pickle=True)
    elif damage == "a list":
        np.save(file, images[0])
    elif damage == "no table":
        np.save(folder / "img_emb" / "img_emb_1.npy", images)
    elif damage == "no vectors":
        shutil.copy(table, folder / "metadata" / "metadata_1.parquet")
        shutil.copy(folder / "text_emb" / "text_emb_0.npy", folder / "text_emb" / "text_emb_1.npy")
    elif damage == "other columns":
        pq.write_table(pq.read_table(table).rename_columns(["url", "caption"]), table)
    elif damage == "not a table":
        table.write_bytes(table.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "error", "hint"),
    [
        ("no model", RefusedError, "--model NAME"),
        ("other dimension", RefusedError, "another model's"),
        ("row missing", RefusedError, "4 rows and metadata_0.parquet 3"),
        ("cut short", SourceError, "not a whole .npy file"),
        ("whole numbers", SourceError, "not a matrix of vectors"),
        ("no files", SourceError, "no embeddings"),
        ("no folder", SourceError, "no such folder"),
        ("other vectors", RefusedError, "not those of"),
        ("an archive", SourceError, "not a .npy file"),
        ("a pickle", SourceError, "not a .npy file"),
        ("Python objects", SourceError, "it holds Python objects"),
        ("a list", SourceError, "not a matrix of vectors"),
        ("no table", RefusedError, "has no metadata/metadata_1.parquet"),
        ("no vectors", RefusedError, "has no img_emb/img_emb_1.npy"),
        ("other columns", RefusedError, "no column image_path, .* it has: url, caption"),
        ("not a table", SourceError, "not Parquet"),
    ],
)
def test_what_cannot_be_right_is_refused_and_nothing_is_made(
    pictures: Path,
    tmp_path: Path,
    model: str,
    damage: str,
    error: type[MmsearchError],
    hint: str,
) -> None:
    images, texts, rows = made(model, pictures)
    named: str | None = model
    if damage == "no model":
        named = None
    elif damage == "other dimension":
        images, texts = images[:, :32], texts[:, :32]
    elif damage == "row missing":
        rows = rows[:3]
    elif damage == "whole numbers":
        images = (100 * images).astype(np.int8)
    elif damage == "other vectors":
        images = images[::-1]
    folder = tmp_path / "theirs"
    if damage != "no folder":
        folder.mkdir()
    if damage not in ("no folder", "no files"):
        clip_retrieval(folder, rows, images, texts)
    if damage == "cut short":
        file = folder / "img_emb" / "img_emb_0.npy"
        file.write_bytes(file.read_bytes()[:-7])
    spoil(folder, damage, images)
    sample = 4 if damage == "other vectors" else 0
    with pytest.raises(error, match=hint):
        taken(tmp_path / "library", folder, model=named, sample=sample)
    assert not (tmp_path / "library").exists()


@pytest.mark.parametrize("part", ["", "texts"])
def test_an_export_that_lost_its_last_shard_is_refused(
    collection: Indexed, tmp_path: Path, part: str
) -> None:
    """All that is left goes together, so nothing but the promise tells."""
    exported(collection.path, tmp_path / "out", rows_a_shard=5)
    for file in (tmp_path / "out" / part).glob("*/*_1.*"):
        file.unlink()
    with pytest.raises(RefusedError, match="files are missing"):
        taken(tmp_path / "library", tmp_path / "out")
    assert not (tmp_path / "library").exists()


def test_values_that_no_float32_holds_are_passed_over(
    pictures: Path, tmp_path: Path, model: str
) -> None:
    images, _, rows = made(model, pictures)
    images = images.astype(np.float64)
    images[1, 5] = 1e300
    folder = clip_retrieval(tmp_path / "theirs", rows, images, None)
    report = taken(tmp_path / "library", folder, model=model)
    assert (report.pictures, report.skipped) == (3, 1)


def test_another_models_vectors_do_not_get_into_a_library(
    collection: Indexed, embeddings: Path, tmp_path: Path, other_model: str, no_model: None
) -> None:
    write(tmp_path / "photos" / "1.png", encoded(1))
    run(tmp_path / "library", tmp_path / "photos", model=other_model)
    with pytest.raises(RefusedError, match="-l NEW"):
        taken(tmp_path / "library", embeddings)
    with pytest.raises(RefusedError, match="leave --model out"):
        taken(tmp_path / "new", embeddings, model=other_model)


def test_pictures_all_over_the_disk_do_not_make_the_disk_a_source(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer.exchange.places import Places

    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    places = Places((), (), None)
    places.survey(["/mnt/a/1.jpg", "/home/b/2.jpg"])
    with pytest.raises(RefusedError, match="--images DIR"):
        places.settle()


# --- the header of a picture --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_the_header_says_what_decoding_says(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    data = io.BytesIO()
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    Image.new("RGB", (60, 40), "teal").save(data, kind, **options)
    info = read_info(data.getvalue(), source="x")
    assert info == decode(data.getvalue(), source="x").info
    assert (info.width, info.height) == ((40, 60) if options else (60, 40))


# --- the commands -------------------------------------------------------------------------------


def test_the_commands_tell_what_they_did(collection: Indexed, tmp_path: Path) -> None:
    def command(*arguments: str | Path) -> Any:
        done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    out = tmp_path / "out"
    written = json.loads(command("-l", collection.path, "export", out, "--json"))
    assert (written["pictures"], written["texts"], written["path"]) == (8, 5, str(out))
    told = command("import", out, "-l", tmp_path / "library")
    assert "9 pictures, 6 texts taken in (5 linked to pictures); nothing was encoded" in told
    again = json.loads(command("import", out, "-l", tmp_path / "library", "--json"))
    assert (again["known"], again["known_texts"]) == (8, 6)
