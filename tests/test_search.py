"""Every interface finds what brute force over the stored vectors finds: Python, terminal, HTTP."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from collection import Indexed, encoded
from numpy.typing import NDArray

from mmsearch.cli import cli
from mmsearch.decode import decode
from mmsearch.encode import load_encoder, load_text_encoder
from mmsearch.library import Library

K = 10
NEW_PICTURES = 25

#: (content id, score) of each hit, best first
Hits = list[tuple[int, float]]
Ask = Callable[..., Hits]


@pytest.fixture(scope="module")
def stored(postcards: Indexed) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """By modality: content ids and vectors, as the catalog has them; no mmsearch in between."""
    with closing(sqlite3.connect(postcards.path / "catalog.db")) as connection:
        found = {}
        for modality in ("image", "text"):
            rows = connection.execute(
                "SELECT content.id, vector FROM embedding JOIN content"
                " ON content.id = content_id WHERE modality = ? ORDER BY content.id",
                (modality,),
            ).fetchall()
            vectors = np.stack([np.frombuffer(row[1], "<f2") for row in rows])
            found[modality] = (np.array([row[0] for row in rows]), vectors.astype(np.float32))
    return found


@pytest.fixture(scope="module")
def words(postcards: Indexed) -> list[str]:
    """50 questions: captions of the collection, in two languages, and others."""
    lines = (postcards.pictures / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    captions = [json.loads(line)["text"] for line in lines[:: len(lines) // 40]][:40]
    others = ["kite", "a red kite over a beach", "BOATS at night", "two red balloons", "夜里的小船",
              "'; DROP TABLE image; --", "🪁🌊", "…", "x" * 300, "house\nwith\ttabs"]  # fmt: skip
    return captions + others


@pytest.fixture(scope="module")
def pictures(postcards: Indexed, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """50 pictures: half of them in the library, half of them not."""
    folder = tmp_path_factory.mktemp("questions")
    for n in range(NEW_PICTURES):
        (folder / f"{n}.png").write_bytes(encoded(n))
    return [*sorted(postcards.pictures.glob("*.jpg"))[:25], *sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def text_queries(model: str, words: list[str]) -> NDArray[np.float32]:
    encoder = load_text_encoder(model)
    return np.concatenate([encoder.encode_texts([text.strip()]) for text in words])


@pytest.fixture(scope="module")
def image_queries(
    model: str,
    pictures: list[Path],
    postcards: Indexed,
    stored: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> NDArray[np.float32]:
    """The vectors of the pictures: as stored for those of the library, else encoded here."""
    encoder = load_encoder(model, device="cpu")
    ids, vectors = stored["image"]
    queries = []
    with closing(sqlite3.connect(postcards.path / "catalog.db")) as connection:
        known = dict(connection.execute("SELECT name, content_id FROM image"))
    for path in pictures:
        if path.name in known:
            queries.append(vectors[ids == known[path.name]])
        else:
            pixels = decode(path.read_bytes(), source="", min_side=2 * encoder.image_size).pixels
            queries.append(encoder.encode_images(encoder.preprocess(pixels)[None]))
    return np.concatenate(queries)


def through_python(library: Library) -> Ask:
    def ask(modality: str, text: str | None, image: Path | None) -> Hits:
        if modality == "image":
            hits = library.search(text, image=image, k=K, words=False)
            return [(hit.image.id, hit.score) for hit in hits]
        texts = library.search_texts(text, image=image, k=K, words=False)
        return [(hit.text.id, hit.score) for hit in texts]

    return ask


def through_terminal(library: Library) -> Ask:
    def ask(modality: str, text: str | None, image: Path | None) -> Hits:
        arguments = ["search", "-l", str(library.path), "--json", "-k", str(K), "--device", "cpu"]
        arguments += ["--no-words", "--all"]
        arguments += ["--texts"] if modality == "text" else []
        arguments += ["-i", str(image)] if image is not None else []
        arguments += ["--", text] if text is not None else []
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return [(hit["id"], hit["score"]) for hit in json.loads(done.stdout)["hits"]]

    return ask


def through_http(library: Library) -> Ask:
    serve = pytest.importorskip("mmsearch.serve")
    from starlette.testclient import TestClient

    from mmsearch.settings import Settings

    client = TestClient(serve.create_app(library, Settings()), base_url="http://127.0.0.1")

    def ask(modality: str, text: str | None, image: Path | None) -> Hits:
        if image is not None:
            answer = client.post(
                "/v1/search/image",
                files={"file": (image.name, image.read_bytes())},
                data={"question": json.dumps({"k": K, "modality": modality, "words": False})},
            )
        elif modality == "image":
            answer = client.get("/v1/search", params={"q": text, "k": K, "words": False})
        else:
            body = {"q": text, "k": K, "modality": modality, "words": False}
            answer = client.post("/v1/search", json=body)
        assert answer.status_code == 200, answer.text
        return [(hit["id"], hit["score"]) for hit in answer.json()["hits"]]

    return ask


WAYS = {"python": through_python, "terminal": through_terminal, "http": through_http}


@pytest.fixture(scope="module", params=list(WAYS))
def ask(request: pytest.FixtureRequest, postcard_library: Library) -> Ask:
    return WAYS[request.param](postcard_library)


def check(found: Hits, query: NDArray[np.float32], ids: Any, vectors: Any) -> None:
    scores = vectors @ query
    order = np.lexsort((ids, -scores))[:K]
    assert np.abs(np.array([score for _, score in found]) - scores[order]).max() < 1e-3
    if [id_ for id_, _ in found] == ids[order].tolist():
        return
    # Only where two are closer to each other than the arithmetic of either tells may they swap.
    by_id = dict(zip(ids.tolist(), scores.tolist(), strict=True))
    truth = [by_id[id_] for id_, _ in found]
    assert np.abs(np.array(truth) - scores[order]).max() < 1e-6


@pytest.mark.parametrize("modality", ["image", "text"])
def test_fifty_text_queries(
    ask: Ask,
    modality: str,
    words: list[str],
    text_queries: NDArray[np.float32],
    stored: dict[str, Any],
) -> None:
    assert len(words) == 50
    for text, query in zip(words, text_queries, strict=True):
        check(ask(modality, text, None), query, *stored[modality])


@pytest.mark.parametrize("modality", ["image", "text"])
def test_fifty_image_queries(
    ask: Ask,
    modality: str,
    pictures: list[Path],
    image_queries: NDArray[np.float32],
    stored: dict[str, Any],
) -> None:
    assert len(pictures) == 50
    for path, query in zip(pictures, image_queries, strict=True):
        check(ask(modality, None, path), query, *stored[modality])


def test_stored_vectors_are_those_of_the_encoder(
    model: str, postcards: Indexed, stored: dict[str, Any]
) -> None:
    encoder = load_encoder(model, device="cpu")
    ids, vectors = stored["image"]
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-3
    with closing(sqlite3.connect(postcards.path / "catalog.db")) as connection:
        names = dict(connection.execute("SELECT content_id, name FROM image"))
    for id_, vector in list(zip(ids.tolist(), vectors, strict=True))[:20]:
        data = (postcards.pictures / names[id_]).read_bytes()
        pixels = decode(data, source="", min_side=2 * encoder.image_size).pixels
        expected = encoder.encode_images(encoder.preprocess(pixels)[None])[0]
        assert float(expected @ vector) > 0.999
