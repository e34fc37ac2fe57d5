"""The route that classifies, over a real library and a real model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from serve_library import BASE_URL, draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch import prompts
from mmsearch.classify import BACKGROUND
from mmsearch.library import Library
from mmsearch.serve import classify, problems
from mmsearch.serve.guard import Guard
from mmsearch.serve.service import Service
from mmsearch.settings import Settings

LABELS = ["red", {"name": "boat", "prompts": ["a ship", "a boat at sea"]}, "风筝"]


@pytest.fixture(scope="module")
def asking(library: Library, settings: Settings) -> Iterator[TestClient]:
    """An app of this route alone, behind the guard, as the service has it."""
    service = Service(library, settings)
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Guard, bound_to=settings.host, max_upload_bytes=settings.max_upload_bytes)
    classify.add_routes(app.router, service)
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as client:
        yield client
    service.close()


def expected(
    library: Library, vector: np.ndarray, *, multi: bool = False, templates: str = "simple"
) -> dict[str, float]:
    """label → probability, written out."""
    # As the service encodes what is asked: exactly, where pictures take the quick precision.
    encoder = library.text_encoder()
    own = prompts.TEMPLATES[templates]

    def mean(texts: list[str]) -> np.ndarray:
        total = encoder.encode_texts(texts).sum(axis=0)
        return total / np.linalg.norm(total)

    stands = {
        "red": mean([t.replace("{}", "red") for t in own]),
        "boat": mean(["a ship", "a boat at sea"]),
        "风筝": mean(["风筝"]),
    }
    powers = {name: np.exp(encoder.logit_scale * float(vector @ v)) for name, v in stands.items()}
    if multi:
        behind = np.exp(encoder.logit_scale * float(vector @ mean(list(BACKGROUND))))
        return {name: power / (power + behind) for name, power in powers.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def agrees(item: dict[str, Any], wanted: dict[str, float]) -> None:
    assert {g["label"]: g["probability"] for g in item["labels"]} == pytest.approx(wanted, abs=1e-3)
    scores = [g["score"] for g in item["labels"]]
    assert scores == sorted(scores, reverse=True)


def stored(library: Library, id_: int) -> np.ndarray:
    active = library.catalog.active_space()
    assert active is not None
    vector = library.catalog.vectors.get(active[0], id_)
    assert vector is not None
    return vector[0]


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("templates", ["simple", "none"])
def test_pictures_of_the_library_and_texts(
    asking: TestClient, library: Library, ids: dict[str, int], multi: bool, templates: str
) -> None:
    # A picture whose file is away is classified too: its vector is here.
    wanted = [ids["crimson-line.png"], ids["away.webp"]]
    body = {"labels": LABELS, "image_ids": wanted, "texts": ["a ship"], "multi": multi,
            "templates": templates}  # fmt: skip
    answer = asking.post("/v1/classify", json=body)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["multi"] is multi
    assert document["model"] == library.space.name  # type: ignore[union-attr]
    assert [item["image"] for item in document["items"]] == [*wanted, None]
    vectors = [
        *(stored(library, id_) for id_ in wanted),
        library.text_encoder().encode_texts(["a ship"])[0],
    ]
    for item, vector in zip(document["items"], vectors, strict=True):
        agrees(item, expected(library, vector, multi=multi, templates=templates))
    assert document["items"][2]["text"] == "a ship"


def test_uploads_known_and_new_and_broken(
    asking: TestClient, library: Library, ids: dict[str, int]
) -> None:
    new = encoded(draw("black", "ellipse"), "JPEG")
    known = library.read_image(ids["crimson-line.png"])
    answer = asking.post(
        "/v1/classify",
        files=[
            ("file", ("new.jpg", new)),
            ("file", ("bad.jpg", b"no picture")),
            ("file", ("k.png", known)),
        ],
        data={"labels": ["red\nboat\ta ship|a boat at sea", "风筝"], "top": "3"},
    )
    assert answer.status_code == 200, answer.text
    first, second, third = answer.json()["items"]
    assert [first["file"], second["file"], third["file"]] == ["new.jpg", "bad.jpg", "k.png"]
    assert second["labels"] == []
    assert second["problem"]
    assert first["problem"] is third["problem"] is None
    assert (first["image"], third["image"]) == (None, ids["crimson-line.png"])
    agrees(third, expected(library, stored(library, ids["crimson-line.png"])))
    encoder = library.encoder()
    pixels = library.decode_picture(library.look_up(new), library.picture_side()).pixels
    assert pixels is not None
    agrees(first, expected(library, encoder.encode_images(encoder.preprocess(pixels)[None])[0]))


def test_top_is_kept_to(asking: TestClient, ids: dict[str, int]) -> None:
    body = {"labels": LABELS, "image_ids": [ids["scan.tiff"]], "top": 1}
    assert len(asking.post("/v1/classify", json=body).json()["items"][0]["labels"]) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"labels": [], "texts": ["x"]}, "labels"),
        ({"labels": ["a"]}, "image_ids"),
        ({"labels": ["a", "a"], "texts": ["x"]}, "twice"),
        ({"labels": [" "], "texts": ["x"]}, "labels"),
        ({"labels": ["a\x00b"], "texts": ["x"]}, "cannot be a tag"),
        ({"labels": ["y" * 201], "texts": ["x"]}, "at most 200"),
        ({"labels": [str(n) for n in range(501)], "texts": ["x"]}, "at most 500"),
        ({"labels": [str(n) for n in range(400)], "texts": ["x"]}, "2,800 sentences"),
        ({"labels": ["a"], "texts": ["x" * 2001]}, "at most 2000"),
        ({"labels": ["a"], "texts": ["x"], "top": 0}, "top"),
        ({"labels": ["a"], "texts": ["x"], "templates": "other"}, "templates"),
        ({"labels": ["a"], "image_ids": [-1]}, "image_ids"),
        ([], "body"),
    ],
)
def test_what_makes_no_sense_is_told(asking: TestClient, body: Any, said: str) -> None:
    assert said in is_problem(asking.post("/v1/classify", json=body), 422)["detail"]


def test_what_is_no_question(asking: TestClient, ids: dict[str, int]) -> None:
    for data in (b"", b"{", b"\xff\xfe", b"null"):
        kind = {"content-type": "application/json"}
        is_problem(asking.post("/v1/classify", content=data, headers=kind), 422)
    unknown = {"labels": ["a"], "image_ids": [ids["scan.tiff"], 10**9]}
    is_problem(asking.post("/v1/classify", json=unknown), 404)
    is_problem(asking.post("/v1/classify", data={"labels": "a"}, files={"other": b"x"}), 422)
    form = {"file": ("x.png", encoded(draw("red", "line")))}
    assert "labels" in is_problem(asking.post("/v1/classify", files=form), 422)["detail"]
    wrong = {"labels": "a", "top": "many"}
    assert "top" in is_problem(asking.post("/v1/classify", files=form, data=wrong), 422)["detail"]


def test_what_is_too_much_is_refused(asking: TestClient, settings: Settings) -> None:
    many = [("file", (f"{n}.png", b"x")) for n in range(65)]
    is_problem(asking.post("/v1/classify", files=many, data={"labels": "a"}), 400)
    big = {"file": ("big.png", io.BytesIO(bytes(settings.max_upload_bytes + 70_000)))}
    is_problem(asking.post("/v1/classify", files=big, data={"labels": "a"}), 413)
    long = json.dumps({"labels": ["a"], "texts": ["x" * 1999] * 40})
    is_problem(asking.post("/v1/classify", content=long), 413)


def test_it_is_described(asking: TestClient) -> None:
    document = asking.get("/openapi.json").json()
    content = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    labels = content["application/json"]["schema"]["properties"]["labels"]
    assert labels["items"]["anyOf"][1]["properties"].keys() == {"name", "prompts"}
    # Whatever is referred to is there.
    for part in json.dumps(document).split('"$ref": "#/')[1:]:
        place: Any = document
        for key in part.partition('"')[0].split("/"):
            if key == "Problem":
                break  # the service puts it there for all routes
            place = place[key]
