"""clip-retrieval's published client, by the requests it sends (clip_client.py of 2.45.0)."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serve_library import BASE_URL, draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.keys import Keys
from mmsearch.settings import Settings

NAME = "library"


def query(client: TestClient, status: int = 200, **asked: Any) -> Any:
    """What ClipClient.query posts: JSON in `data=`, so without a content type."""
    body = {
        "text": None,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "deduplicate": False,
        "use_safety_model": True,
        "use_violence_detector": True,
        "indice_name": NAME,
        "use_mclip": False,
        "aesthetic_score": 9,
        "aesthetic_weight": 0.5,
        "modality": "image",
        "num_images": 40,
        "num_result_ids": 40,
    }
    response = client.post("/knn-service", content=json.dumps(body | asked))
    if status != 200:
        return is_problem(response, status)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_one_indice(client: TestClient) -> None:
    assert client.get("/indices-list").json() == [NAME]
    problem = query(client, 404, text="x", indice_name="laion5B")
    assert "'library'" in problem["detail"]
    assert query(client, text="x", indice_name=None)


def test_text_to_pictures(client: TestClient, library: Library) -> None:
    found = query(client, text="a crimson line", num_images=5, num_result_ids=9)
    assert len(found) == 9
    expected = library.search("a crimson line", k=9, words=False, expand=False)
    assert [hit["id"] for hit in found] == [hit.image.id for hit in expected]
    for hit, want in zip(found, expected, strict=True):
        assert hit["similarity"] == pytest.approx(want.score, abs=1e-3)
    assert all({"url", "caption", "image_path", "image"} <= set(hit) for hit in found[:4])
    assert all(set(hit) == {"id", "similarity"} for hit in found[5:])
    first = found[0]
    assert first["image_path"] == expected[0].image.path
    assert Image.open(io.BytesIO(base64.b64decode(first["image"]))).width > 50
    assert client.get(first["url"].removeprefix(BASE_URL)).status_code == 200


def test_text_to_texts(client: TestClient) -> None:
    found = query(client, text="a crimson line", modality="text", num_images=3, num_result_ids=3)
    assert all(hit["caption"] for hit in found)
    assert found[0]["image_path"].endswith(".png")


@pytest.mark.parametrize("modality", ["image", "text"])
def test_all_that_the_client_sends_by_itself_is_understood(
    client: TestClient, modality: str
) -> None:
    # ClipClient(url, indice_name).query(text=...)
    found = query(client, text="a crimson line", deduplicate=True, modality=modality)
    plain = query(client, text="a crimson line", modality=modality)
    assert found[0] == plain[0]
    assert modality == "image" or found == plain


def test_picture_and_vector(client: TestClient, library: Library, ids: dict[str, int]) -> None:
    path = Path(library.image(ids["gold-line.png"]).path)
    known = path.read_bytes()
    found = query(client, image=base64.b64encode(known).decode())
    vector = library.embed_pictures([known])[1][0]
    by_vector = query(client, embedding_input=[float(2 * x) for x in vector])
    assert by_vector[0]["id"] == ids["gold-line.png"]
    assert by_vector[0]["similarity"] == pytest.approx(1, abs=1e-2)
    assert {hit["id"] for hit in by_vector[:6]} & {hit["id"] for hit in found[:6]}
    other = base64.b64encode(encoded(draw("pink", "ellipse"))).decode()
    assert len(query(client, image=other, num_images=3, num_result_ids=3)) == 3


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "one of text, image"),
        ({"text": "  "}, "one of text, image"),
        ({"image_url": "http://example.org/a.jpg"}, "fetches no addresses"),
        ({"image": "http://example.org/a.jpg"}, "not fetched"),
        ({"image": "!"}, "base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, ""),
        ({"embedding_input": [1.0, 2.0]}, "48 finite numbers"),
        ({"embedding_input": [0.0] * 48}, "48 finite numbers"),
        ({"embedding_input": [1e308] * 48}, "48 finite numbers"),
        ({"text": "x", "modality": "audio"}, "modality"),
        ({"text": "x", "num_images": 0}, "num_images"),
        ({"text": "x" * 2001}, "text"),
    ],
)
def test_what_it_cannot_answer(client: TestClient, asked: dict[str, Any], says: str) -> None:
    assert says in query(client, 422, **asked)["detail"]


def test_more_than_there_may_be_is_cut(client: TestClient, library: Library) -> None:
    found = query(client, text="x", num_images=10**6, num_result_ids=10**6)
    assert len(found) == len(library.search("x", k=1000))


def test_metadata(client: TestClient, ids: dict[str, int]) -> None:
    body = {"ids": [ids["teal-line.png"], 10**9, ids["gold-line.png"]], "indice_name": NAME}
    found = client.post("/metadata", content=json.dumps(body)).json()
    assert [one["id"] for one in found] == [ids["teal-line.png"], ids["gold-line.png"]]
    assert found[0]["metadata"]["caption"] == "a teal line on ivory"
    empty = {"ids": [], "indice_name": NAME}
    assert client.post("/metadata", content=json.dumps(empty)).json() == []
    is_problem(client.post("/metadata", content=b"{"), 422)


@pytest.fixture
def keyed(library: Library, settings: Settings, tmp_path: Path) -> Iterator[tuple[TestClient, str]]:
    keys = Keys(tmp_path / "keys.json")
    secret = keys.add("clip", "read")
    app = create_app(library, settings.model_copy(update={"keys_file": keys.path}))
    with TestClient(app, base_url=BASE_URL) as client:
        yield client, secret


def test_a_key_in_the_address(keyed: tuple[TestClient, str]) -> None:
    client, secret = keyed
    assert client.get("/indices-list", auth=("anybody", secret)).status_code == 200
    is_problem(client.get("/indices-list", auth=(secret, "")), 401)
    is_problem(client.get("/indices-list", headers={"Authorization": "Basic %%%"}), 401)
