"""Vectors over HTTP, as OpenAI's interface has them."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from fastapi import FastAPI
from serve_library import draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch.errors import QueryError
from mmsearch.library import Library
from mmsearch.query import Question, Term
from mmsearch.serve import bodies
from mmsearch.serve.embeddings import MAX_PICTURES, MAX_TEXTS, Embeddings

PICTURE = encoded(draw("teal", "line", (61, 47)))
BASE64 = base64.b64encode(PICTURE).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"


def _post(client: TestClient, **body: Any) -> Any:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_texts(client: TestClient, library: Library) -> None:
    texts = ["a kite", "a boat at night"]
    answer = _post(client, input=texts, model=library.space.name if library.space else "")
    assert (answer["object"], answer["usage"]["total_tokens"]) == ("list", 6)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
    np.testing.assert_allclose(vectors, library.embed_texts(texts)[1], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    one = _post(client, input="a kite")
    np.testing.assert_allclose(one["data"][0]["embedding"], vectors[0], atol=1e-3)


def test_base64_is_little_endian_float32(client: TestClient) -> None:
    plain = _post(client, input="a kite")["data"][0]["embedding"]
    coded = _post(client, input="a kite", encoding_format="base64")["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), plain)


@pytest.mark.parametrize(
    "item",
    [
        DATA_URL,
        {"image": BASE64},
        {"image": DATA_URL},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
        {"type": "input_image", "image_url": DATA_URL},
    ],
    ids=["data url", "base64", "data url in image", "image_url", "input_image"],
)
def test_pictures(client: TestClient, library: Library, item: Any) -> None:
    answer = _post(client, input=["a kite", item, {"text": "a boat"}])
    vector = answer["data"][1]["embedding"]
    np.testing.assert_allclose([vector], library.embed_pictures([PICTURE])[1], atol=1e-3)
    np.testing.assert_allclose(
        answer["data"][2]["embedding"], library.embed_texts(["a boat"])[1][0], atol=1e-3
    )


@pytest.mark.parametrize("names", [["teal-line"], ["teal-line", None, "gold-ellipse"]])
def test_pictures_of_the_library_have_the_vectors_that_it_has(
    client: TestClient,
    library: Library,
    library_folder: Path,
    ids: dict[str, int],
    names: list[str | None],
) -> None:
    folder = library_folder.parent / "pictures"
    files = [PICTURE if name is None else (folder / f"{name}.png").read_bytes() for name in names]
    answer = _post(client, input=[{"image": base64.b64encode(data).decode()} for data in files])
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
    np.testing.assert_allclose(vectors, library.embed_pictures(files)[1], atol=1e-3)
    for name, vector in zip(names, vectors, strict=True):
        if name is not None:
            (hit,) = library.ask(Question((Term(vector=tuple(map(float, vector))),), k=1)).hits
            assert (hit.image.id, round(hit.score, 2)) == (ids[f"{name}.png"], 1)


def test_known_and_unknown_pictures_are_encoded_together(app: FastAPI, library: Library) -> None:
    known = next(hit for hit in library.search("a kite", k=50) if hit.image.path.endswith(".png"))
    files = [Path(known.image.path).read_bytes(), encoded(draw("gray", "line", (63, 41)))]
    given = [library.look_up(data) for data in files]
    answers = app.state.service._picture_vectors(given)
    np.testing.assert_allclose(
        np.concatenate([vector for _, vector in answers]), library.embed_pictures(files)[1]
    )


def test_of_nothing_there_are_no_vectors(library: Library) -> None:
    for space, vectors in (library.embed_texts([]), library.embed_pictures([])):
        assert vectors.shape == (0, space.dim)


def test_one_text_or_picture_is_no_list_of_them(library: Library, tmp_path: Path) -> None:
    for embed, one in (
        (library.embed_texts, "kite"),
        (library.embed_pictures, "kite.png"),
        (library.embed_pictures, b"GIF"),
        (library.embed_pictures, tmp_path),
    ):
        with pytest.raises(QueryError, match="come as a list"):
            embed(one)  # type: ignore[arg-type]


def test_a_large_picture_fits(client: TestClient) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 480, 3), np.uint8)
    from PIL import Image

    large = encoded(Image.fromarray(noise))
    assert 600_000 < len(large) < 1 << 20
    data_url = f"data:image/png;base64,{base64.b64encode(large).decode()}"
    assert len(_post(client, input=[data_url])["data"]) == 1
    too_large = encoded(Image.fromarray(np.concatenate([noise, noise])))
    data_url = f"data:image/png;base64,{base64.b64encode(too_large).decode()}"
    is_problem(client.post("/v1/embeddings", json={"input": [data_url]}), 413)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"input": []}, 422, "input"),
        ({"input": " "}, 422, "empty"),
        ({"input": [[1, 2, 3]]}, 422, "body.input: send texts, no tokens"),
        ({"input": [1, 2, 3]}, 422, "check_embedding_ctx_length=False"),
        ({"input": ["x"] * (MAX_TEXTS + 1)}, 422, "body.input: 1 to 2,048 inputs at once"),
        ({"input": [DATA_URL] * (MAX_PICTURES + 1)}, 422, "pictures at once"),
        ({"input": [{"image": "http://example.org/a.png"}]}, 422, "not fetched"),
        ({"input": [{"image_url": "file:///etc/passwd"}]}, 422, "not fetched"),
        ({"input": [{"image": "%%%"}]}, 422, "base64"),
        ({"input": [{"image": BASE64[:100]}]}, 422, ""),
        ({"input": [{}]}, 422, "either"),
        ({"input": [{"text": "x", "image": BASE64}]}, 422, "either"),
        ({"input": "x", "model": "text-embedding-3-small"}, 404, "this library's is"),
        ({"input": "x", "dimensions": 7}, 422, "48 dimensions"),
        ({"input": "x", "encoding_format": "hex"}, 422, "encoding_format"),
        ({"input": "x" * 2001}, 422, "longer than"),
    ],
)
def test_what_cannot_be_embedded(
    client: TestClient, body: dict[str, Any], status: int, says: str
) -> None:
    problem = is_problem(client.post("/v1/embeddings", json=body), status)
    assert says in problem["detail"]
    assert problem["detail"].count(";") <= 1  # not one sentence for each form of an input


def test_an_address_of_a_picture_is_a_text_like_any_other(client: TestClient) -> None:
    _post(client, input="http://example.org/a.png")  # and is not fetched


def test_models(client: TestClient, library: Library) -> None:
    assert library.space is not None
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == (library.space.name, "model")
    assert "/" in model["id"]
    for name in (model["id"], quote(model["id"], safe=""), "default"):
        assert client.get(f"/v1/models/{name}").json() == model
    for other in ("text-embedding-3-small", "a/b/c", f"{model['id']}x"):
        problem = is_problem(client.get(f"/v1/models/{other}"), 404)
        assert model["id"] in problem["detail"]


def test_as_many_texts_as_openai_takes(client: TestClient, library: Library) -> None:
    texts = [f"number {n % 50}" for n in range(MAX_TEXTS)]
    data = _post(client, input=texts, encoding_format="base64")["data"]
    vectors = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
    np.testing.assert_allclose(vectors, library.embed_texts(texts)[1], atol=1e-3)


@pytest.mark.parametrize("large", [False, True])
def test_what_is_large_does_not_hold_up_the_loop(
    client: TestClient, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies are parsed, pictures decoded and vectors written in a thread; small ones where they
    are: a thread costs as much."""
    ran: set[tuple[str, bool]] = set()

    def noted(name: str, call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            ran.add((name, threading.current_thread().name.startswith("mmsearch-uploads")))
            return call(*args, **kwargs)

        return run

    small = [DATA_URL, "a kite"]
    texts = [f"{n % 3} kites" for n in range(1000)] if large else ["two kites"]
    monkeypatch.setattr(bodies, "json", SimpleNamespace(loads=noted("parse", json.loads)))
    monkeypatch.setattr(
        "mmsearch.serve.embeddings.picture_bytes", noted("decode", lambda _: PICTURE)
    )
    monkeypatch.setattr(
        "mmsearch.serve.embeddings._numbers", noted("write", lambda row, _: row.tolist())
    )
    inputs = [*texts, *small, *([DATA_URL + "A" * bodies.SMALL_BYTES] if large else [])]
    answer = _post(client, input=inputs)
    assert len(Embeddings.model_validate(answer).data) == len(inputs)
    here = {("decode", False), ("write", False)}
    assert ran == ({("parse", True), ("decode", True), ("write", True)} if large else here)


@pytest.mark.parametrize("length", [1, 3 << 18, (3 << 18) + 1, 5 << 18])
def test_large_base64_is_decoded_in_steps(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    text = base64.b64encode(data).decode()
    assert bodies.from_base64(text) == data
    with pytest.raises(ValueError):
        bodies.from_base64(text[:-2])
    for broken in (text + "====", text + " ", text + "é", "AA==" * (1 << 18) + text):
        with pytest.raises(ValueError):
            bodies.from_base64(broken)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"%s", "application/json", 422),
        (b'{"input": %s}', "application/json", 422),
        (b'{"input": "%s"}', "application/json", 422),
        (b'{"input": "\xff%s"}', "application/json", 400),
        (b'{"input": "a", "user": "%s"}', "text/plain", 422),
        (b'{"input": "a", "user": "%s"}', "application/json; charset=utf-8", 200),
        (b'{"input": "a", "user": "%s"}', "application/vnd.api+json", 200),
    ],
)
def test_large_bodies_are_taken_as_small_ones(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    for length in (2_500, bodies.SMALL_BYTES + 1):
        body = content.replace(b"%s", b"x" * length)
        answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, (length, answer.text[:200])
