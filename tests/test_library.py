"""One library, opened: queries, items, and what other processes do to it meanwhile."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
from collection import encoded, picture, run, write, write_captions
from PIL import Image

import mmsearch
from mmsearch.encode import load_encoder
from mmsearch.errors import (
    DecodeError,
    EncodeError,
    IndexMissingError,
    LibraryNotFoundError,
    NotFoundError,
    QueryError,
    SpaceMismatchError,
)
from mmsearch.library import Library
from mmsearch.store import CatalogWriter


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for n in range(6):
        write(root / f"{n}.png", encoded(n))
    write(root / "copies" / "again.png", encoded(0))
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("in/side.png", encoded(20))
    write_captions(
        root / "captions.jsonl",
        [
            ("0.png", "of nought"),
            ("0.png", "also of nought"),
            ("1.png", "of one"),
            (None, "of nothing"),
        ],
    )
    return root


@pytest.fixture
def library(photos: Path, tmp_path: Path, model: str) -> Iterator[Library]:
    run(tmp_path / "library", photos, model=model)
    with mmsearch.open(tmp_path / "library", device="cpu") as opened:
        yield opened


def names(library: Library, query: str = "waves") -> set[str]:
    return {Path(hit.image.path).name for hit in library.search(query, k=100)}


def id_of(library: Library, name: str) -> int:
    found = {Path(h.image.path).name: h.image.id for h in library.search("waves", k=100)}
    return found[name]


def test_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LibraryNotFoundError, match="mmsearch index"):
        mmsearch.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(tmp_path / "there"))
    with pytest.raises(LibraryNotFoundError) as caught:
        mmsearch.open()
    assert caught.value.path == str(tmp_path / "there")


def test_empty_library_says_what_to_do(tmp_path: Path) -> None:
    CatalogWriter(tmp_path / "catalog.db").close()
    with mmsearch.open(tmp_path) as library:
        assert library.model is None
        assert library.space is None
        assert library.status().images == 0
        library.warm()
        with pytest.raises(IndexMissingError, match="mmsearch index"):
            library.search("anything")


def test_the_model_is_known_before_anything_was_asked(library: Library, model: str) -> None:
    assert library.model == model


def test_pictures_and_texts_by_words(library: Library) -> None:
    hits = library.search("waves", k=4)
    assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    assert len(hits) == 4
    every = library.search("waves", k=100)
    assert [h.image.id for h in every[:4]] == [h.image.id for h in hits]
    assert [h.image.id for h in library.search("waves", k=3, offset=4)] == [
        h.image.id for h in every[4:7]
    ]
    assert len(every) == 7
    texts = library.search_texts("of one", k=10)
    assert texts[0].text.body == "of one"
    assert texts[0].score > 0.999
    assert {t.text.body for t in texts} == {"of nought", "also of nought", "of one", "of nothing"}
    nought = next(h for h in every if h.image.path.endswith("/0.png"))
    assert nought.captions == ("of nought", "also of nought")
    assert [Path(p).name for p in nought.image.copies] == ["again.png"]


def test_questions_that_make_no_sense(library: Library) -> None:
    for arguments in ({}, {"query": "  "}, {"query": "x", "k": 0}, {"query": "x", "offset": -1}):
        with pytest.raises(QueryError):
            library.search(**arguments)
    with pytest.raises(DecodeError):
        library.search(image=b"no picture")
    with pytest.raises(DecodeError):
        library.search(image="/there/is/none.jpg")


def test_picture_known_by_content_is_not_encoded(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("mmsearch.encode.load_encoder", fail)
    for image in (photos / "1.png", str(photos / "1.png"), encoded(1)):
        hit = library.search(image=image, k=1)[0]
        assert Path(hit.image.path).name == "1.png"
        assert hit.score > 0.999
    found = library.captions(photos / "1.png", k=10)
    assert {hit.text.body: hit.linked for hit in found} == {
        "of nought": False,
        "also of nought": False,
        "of one": True,
        "of nothing": False,
    }
    assert [h.text.id for h in library.captions_of(id_of(library, "1.png"), k=10)] == [
        h.text.id for h in found
    ]


def test_unknown_picture_is_encoded(library: Library) -> None:
    same_pixels = io.BytesIO()
    picture(3).save(same_pixels, "BMP")
    hit = library.search(image=same_pixels.getvalue(), k=1)[0]
    assert Path(hit.image.path).name == "3.png"
    assert hit.score > 0.999
    assert not any(hit.linked for hit in library.captions(same_pixels.getvalue()))


def test_words_and_a_picture_together(library: Library) -> None:
    by_both = library.search("waves", image=encoded(1), k=100)
    by_words = {h.image.id: h.score for h in library.search("waves", k=100)}
    by_image = {h.image.id: h.score for h in library.search(image=encoded(1), k=100)}
    sums = {id_: by_words[id_] + by_image[id_] for id_ in by_words}
    scores = [hit.score for hit in by_both]
    ratios = [hit.score / sums[hit.image.id] for hit in by_both]
    assert scores == sorted(scores, reverse=True)
    assert max(ratios) - min(ratios) < 1e-2 * max(ratios)


def test_similar_leaves_out_the_picture_itself(library: Library) -> None:
    id_ = id_of(library, "2.png")
    others = [hit.image.id for hit in library.similar(id_, k=100)]
    assert len(others) == 6
    assert id_ not in others
    assert [h.image.id for h in library.similar(id_, k=2, offset=3)] == others[3:5]
    with pytest.raises(NotFoundError):
        library.similar(10_000)


def test_items(library: Library, photos: Path) -> None:
    record = library.image(id_of(library, "0.png"))
    assert record.path == str(photos / "0.png")
    assert (record.info.width, record.info.height, record.info.format) == (40, 40, "PNG")
    assert record.bytes == len(encoded(0))
    assert [t.body for t in library.image_captions(record.id)] == ["of nought", "also of nought"]
    assert library.image_captions(id_of(library, "5.png")) == []
    for ask in (library.image, library.image_captions, library.read_image, library.thumbnail):
        with pytest.raises(NotFoundError):
            ask(10_000)


@pytest.mark.parametrize("device", ["xyz", "gpu", "", "cuda:", "cpu:0"])
def test_a_name_that_no_device_has_is_told_at_once(library: Library, device: str) -> None:
    with pytest.raises(EncodeError, match="is no device: auto, cpu"):
        mmsearch.open(library.path, device=device)


@pytest.mark.parametrize(
    "call", ["similar", "captions_of", "image", "image_captions", "read_image", "thumbnail"]
)
def test_ids_are_whole_numbers_of_any_kind(library: Library, call: str) -> None:
    id_ = id_of(library, "0.png")
    ask = getattr(library, call)
    assert ask(np.int64(id_)) == ask(np.uint8(id_)) == ask(id_)
    for wrong in ("1", None, 1.5, np.float32(1), b"1", [1]):
        with pytest.raises(QueryError, match="the id of a picture is a whole number"):
            ask(wrong)


def test_the_file_of_a_picture(library: Library, photos: Path) -> None:
    nought, inside = id_of(library, "0.png"), id_of(library, "side.png")
    assert library.read_image(nought) == encoded(0)
    (photos / "0.png").unlink()
    assert library.read_image(nought) == encoded(0)  # the copy
    (photos / "copies" / "again.png").unlink()
    with pytest.raises(DecodeError):
        library.read_image(nought)
    assert library.image(inside).path == str(photos / "more.zip!/in/side.png")
    assert library.read_image(inside) == encoded(20)
    (photos / "more.zip").unlink()
    with pytest.raises(DecodeError):
        library.read_image(inside)


def test_thumbnails_are_made_once_and_kept(library: Library, photos: Path) -> None:
    id_ = id_of(library, "side.png")
    data = library.thumbnail(id_, 100)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP"
        assert max(image.size) <= 256
    kept = list((library.path / "thumbs").rglob("*.webp"))
    assert [f.read_bytes() for f in kept] == [data]
    (photos / "more.zip").unlink()
    assert library.thumbnail(id_, 256) == data
    with pytest.raises(DecodeError):
        library.thumbnail(id_, 512)


def test_pictures_that_are_asked_about_are_encoded_beside_others(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As texts are: by one thread where all are held up."""
    chosen: list[float] = []

    def choose(self: object, work: float) -> AbstractContextManager[None]:
        chosen.append(work)
        return nullcontext()

    monkeypatch.setattr("mmsearch.encode.crowd.Threads.chosen", choose)
    library.search(image=encoded(91), k=1)
    library.search(image=encoded(91), k=1)  # its vector is kept
    assert chosen == [1]


def test_a_file_that_became_another_is_no_thumbnail_of_the_old(
    library: Library, photos: Path
) -> None:
    one, side = id_of(library, "1.png"), id_of(library, "side.png")
    (photos / "1.png").write_bytes(encoded(77))
    assert library.original(one) == (encoded(77), False)
    assert not library.small(one, 256).as_indexed
    assert not list((library.path / "thumbs").rglob("*.webp"))
    assert library.original(side).as_indexed
    (photos / "1.png").write_bytes(encoded(1))
    assert library.small(one, 256).as_indexed


def test_thumbnail_of_a_library_that_cannot_be_written(library: Library) -> None:
    (library.path / "thumbs").write_text("in the way")
    assert library.thumbnail(id_of(library, "1.png"))[:4] == b"RIFF"


# --- other processes ----------------------------------------------------------------------------


def test_commits_of_other_processes_are_noticed(library: Library, photos: Path) -> None:
    before = names(library)
    assert not library.refresh()
    (photos / "5.png").unlink()
    code = (
        "import sys; from pathlib import Path; from indexer.ingest import Options, index;"
        "index(Path(sys.argv[1]), options=Options(device='cpu'))"
    )
    subprocess.run([sys.executable, "-c", code, library.path], check=True)
    assert names(library) == before - {"5.png"}
    assert not library.refresh()
    write(photos / "new.png", encoded(50))
    run(library.path)
    assert library.refresh()
    assert names(library) == before - {"5.png"} | {"new.png"}
    assert library.status().missing == 1


def test_searches_while_another_thread_indexes(
    library: Library, photos: Path, postcards: object
) -> None:
    problems: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            try:
                hits = library.search("waves", k=5)
                assert len(hits) == 5
                library.thumbnail(hits[0].image.id)
            except BaseException as exc:  # noqa: BLE001 -- told below
                problems.append(exc)
                return

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(5):
        write(photos / f"late{n}.png", encoded(60 + n))
        run(library.path)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(names(library)) == 12


def test_move_to_another_model_while_open(library: Library, other_model: str) -> None:
    before = names(library)
    first = library.space
    run(library.path, model=other_model)
    assert names(library) == before
    assert library.space != first
    assert len(library.status().spaces) == 2


def test_other_weights_of_the_same_name_are_refused(
    photos: Path, tmp_path: Path, model: str, other_model: str
) -> None:
    ours = tmp_path / "model"
    shutil.copytree(model.partition(":")[2], ours)
    run(tmp_path / "library", photos, model=f"local-dir:{ours}")
    shutil.rmtree(ours)
    shutil.copytree(other_model.partition(":")[2], ours)
    with mmsearch.open(tmp_path / "library", device="cpu") as library:
        with pytest.raises(SpaceMismatchError):
            library.search("waves")
        with pytest.raises(SpaceMismatchError):
            library.search(image=encoded(99))
        assert library.search(image=encoded(1))  # needs no model


def test_index_of_a_catalog_made_anew_is_not_used(
    library: Library, photos: Path, tmp_path: Path, model: str
) -> None:
    """As many pictures, the last one the same: only the contents differ."""
    assert (library.path / "index").is_dir()
    for file in library.path.glob("catalog.db*"):
        file.unlink()
    write(photos / "0.png", encoded(70))
    write(photos / "copies" / "again.png", encoded(70))
    run(library.path, photos, model=model)
    with mmsearch.open(library.path, device="cpu") as anew:
        hit = anew.search(image=encoded(70), k=1)[0]
        assert (Path(hit.image.path).name, hit.score > 0.999) == ("0.png", True)


def test_catalog_restored_from_a_backup(library: Library, photos: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(library.path / "catalog.db")) as ours:
        ours.execute("VACUUM INTO ?", [str(backup)])
    write(photos / "x.png", encoded(80))
    run(library.path)
    library.close()
    for file in library.path.glob("catalog.db*"):
        file.unlink()
    shutil.copy(backup, library.path / "catalog.db")
    write(photos / "x.png", encoded(81))
    run(library.path)
    with mmsearch.open(library.path, device="cpu") as restored:
        for seed in (1, 81):
            assert restored.search(image=encoded(seed), k=1)[0].score > 0.999
        assert restored.search(image=encoded(80), k=1)[0].score < 0.999


def test_moved_library_and_lost_index(library: Library, tmp_path: Path) -> None:
    before = [(h.image.id, h.score) for h in library.search("waves", k=100)]
    library.close()
    shutil.rmtree(library.path / "index")
    moved = shutil.move(library.path, tmp_path / "else where")
    with mmsearch.open(moved, device="cpu") as opened:
        assert [(h.image.id, h.score) for h in opened.search("waves", k=100)] == before
    run(Path(moved))  # nothing is new, but the index is written again
    written = [f.suffix for f in (Path(moved) / "index").iterdir()]
    assert (written.count(".faiss"), written.count(".json")) == (2, 2)


def test_a_run_leaves_what_relevance_is_told_by(library: Library) -> None:
    """So that the first search does not encode hundreds of captions first."""
    assert [f.suffix for f in (library.path / "index").iterdir()].count(".f32") == 1


def test_status(library: Library, model: str) -> None:
    status = library.status()
    assert (status.images, status.texts, status.links, status.failed) == (8, 4, 3, 0)
    assert [(i.modality, i.vectors) for i in status.index] == [("image", 7), ("text", 4)]
    assert [(s.space.name, s.images, s.texts) for s in status.spaces] == [(model, 7, 4)]
    assert status.bytes > 1000
    assert load_encoder(model, device="cpu").space == library.space
    (source,) = library.sources()
    assert (source.kind, source.images, source.texts, source.missing) == ("folder", 8, 4, 0)
    assert source.indexed_at is not None


def test_rows_are_counted_once_a_commit(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, counted = library.catalog.counts, []

    def counting() -> dict[str, int]:
        counted.append(1)
        return counts()

    monkeypatch.setattr(library.catalog, "counts", counting)
    before = library.status()
    assert library.status() == before
    assert len(counted) == 1
    write(photos / "new.png", encoded(50))
    run(library.path)
    assert library.status().images == before.images + 1
    assert len(counted) == 2
