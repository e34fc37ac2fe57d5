"""The searching routes give what the library gives, and say plainly what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from serve_library import BASE_URL, draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch import filters
from mmsearch.library import Library
from mmsearch.query import Question, Term
from mmsearch.serve import create_app
from mmsearch.settings import Settings
from mmsearch.types import Modality


def found(answer: dict[str, Any]) -> list[tuple[int, float]]:
    return [(hit["id"], hit["score"]) for hit in answer["hits"]]


def expected(hits: Sequence[Any]) -> list[tuple[int, Any]]:
    return [
        ((hit.image if hasattr(hit, "image") else hit.text).id, pytest.approx(hit.score, abs=1e-3))
        for hit in hits
    ]


@pytest.mark.parametrize("words", ["a red kite", "ein Drache am Strand", "海边的红风筝", "🪁"])
def test_words_find_what_the_library_finds(
    client: TestClient, library: Library, words: str
) -> None:
    response = client.get("/v1/search", params={"q": words, "k": 7})
    assert response.status_code == 200
    answer = response.json()
    assert found(answer) == expected(library.search(words, k=7))
    assert (answer["query"]["q"], answer["query"]["image"]) == (words, None)
    assert (answer["k"], answer["offset"], answer["modality"]) == (7, 0, "image")
    assert library.space is not None
    assert answer["model"] == library.space.name
    assert answer["took_ms"] > 0


def test_a_hit_carries_what_a_page_needs(client: TestClient, ids: dict[str, int]) -> None:
    hits = client.get("/v1/search", params={"q": "x", "k": 100}).json()["hits"]
    hit = next(hit for hit in hits if hit["id"] == ids["crimson-line.png"])
    assert hit["name"] == "crimson-line.png"
    assert Path(hit["path"]).is_file()
    assert (hit["width"], hit["height"], hit["format"]) == (240, 200, "PNG")
    assert hit["bytes"] == Path(hit["path"]).stat().st_size
    assert sorted(hit["captions"]) == [
        "a crimson line on ivory",
        "a second text for the crimson line",
    ]
    assert hit["copies"] == []
    for url in hit["urls"].values():
        assert client.get(url).status_code == 200
    names = {"teal-ellipse.png", "copy of teal ellipse.png"}
    twice = next(hit for hit in hits if hit["name"] in names)
    assert {Path(path).name for path in (twice["path"], *twice["copies"])} == names


def test_pages_join_up_to_the_whole_list(client: TestClient) -> None:
    def page(k: int, offset: int) -> list[tuple[int, float]]:
        return found(client.get(f"/v1/search?q=kite&k={k}&offset={offset}").json())

    whole = page(200, 0)
    assert len(whole) == 27
    assert [hit for offset in range(0, 40, 10) for hit in page(10, offset)] == whole
    assert page(10, 10_000) == []


def test_json_asks_the_same_as_the_address(client: TestClient) -> None:
    by_address = client.get("/v1/search?q=kite&k=5&offset=2").json()
    by_json = client.post("/v1/search", json={"q": "kite", "k": 5, "offset": 2}).json()
    assert found(by_json) == found(by_address)
    assert len(client.post("/v1/search", json={"q": "kite"}).json()["hits"]) == 20


def test_a_picture_of_the_library_finds_those_like_it(
    client: TestClient, library: Library, ids: dict[str, int]
) -> None:
    teal = ids["teal-line.png"]
    want = expected(library.similar(teal, k=6))
    by_address = client.get(f"/v1/images/{teal}/similar?k=6").json()
    by_json = client.post("/v1/search", json={"image_id": teal, "k": 6}).json()
    assert found(by_address) == found(by_json) == want
    assert teal not in [id_ for id_, _ in want]
    assert (by_json["query"]["q"], by_json["query"]["image"]) == (None, teal)


def test_words_and_a_picture_of_the_library_together(
    client: TestClient, library: Library, ids: dict[str, int]
) -> None:
    teal = ids["teal-line.png"]
    body = {"q": "at night", "image_id": teal, "k": 9}
    question = Question((Term(text="at night"), Term(image_id=teal)), k=9)
    answer = found(client.post("/v1/search", json=body).json())
    assert answer == expected(library.ask(question).hits)
    assert teal not in [id_ for id_, _ in answer]
    texts = client.post("/v1/search", json=body | {"modality": "text"}).json()
    assert texts["modality"] == "text"
    assert found(texts) == expected(library.ask_texts(question).hits)


def test_exact_is_passed_on_everywhere(
    client: TestClient, library: Library, ids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    ask_many = library.ask_many

    def spy(modality: Modality, questions: Sequence[Question]) -> Any:
        asked.extend(question.exact for question in questions)
        return ask_many(modality, questions)

    monkeypatch.setattr(library, "ask_many", spy)
    teal = ids["teal-line.png"]
    picture = {"file": library.read_image(teal)}
    for exact in (True, False):
        with_it = {"exact": exact}
        answers = [
            client.get("/v1/search", params={"q": "x"} | with_it),
            client.get("/v1/texts/search", params={"q": "x"} | with_it),
            client.post("/v1/search", json={"q": "x"} | with_it),
            client.post("/v1/captions", files=picture, data={"exact": str(exact).lower()}),
            client.get(f"/v1/images/{teal}/captions", params=with_it),
            client.get(f"/v1/images/{teal}/similar", params=with_it),
        ]
        library.captions(picture["file"], exact=exact)
        library.captions_of(teal, exact=exact)
        library.similar(teal, exact=exact)
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert asked == [exact] * 9
        asked.clear()


def test_weighted_parts_likes_and_uploads(
    client: TestClient, library: Library, ids: dict[str, int]
) -> None:
    teal, gold, navy = (ids[f"{name}-line.png"] for name in ("teal", "gold", "navy"))
    terms = (
        Term(text="a line", weight=0.5),
        Term(text="ivory", weight=-0.25),
        Term(image_id=teal),
        Term(image_id=gold),
        Term(image_id=navy, weight=-1),
    )
    parts = [{"text": "a line", "weight": 0.5}, {"text": "ivory", "weight": -0.25}]
    body = {"parts": parts, "like": [teal, gold], "unlike": [navy], "k": 9}
    by_words = expected(library.ask(Question(terms, k=9)).hits)
    assert found(client.post("/v1/search", json=body).json()) == by_words
    body["words"] = False
    want = expected(library.ask(Question(terms, k=9, words=False)).hits)
    assert found(client.post("/v1/search", json=body).json()) == want
    # The same pictures uploaded are the same vectors, but they may be found too.
    files = [("file", library.read_image(id_)) for id_ in (teal, gold, navy)]
    parts += [{"upload": 0}, {"upload": 1}, {"upload": 2, "weight": -1}]
    form = {"question": json.dumps({"parts": parts, "k": 12, "words": False})}
    uploaded = found(client.post("/v1/search/image", files=files, data=form).json())
    left = [pair for pair in uploaded if pair[0] not in (teal, gold, navy)]
    assert left == want[: len(left)]
    missing = {"question": json.dumps({"parts": [{"upload": 1}]})}
    is_problem(client.post("/v1/search/image", files=files[:1], data=missing), 422)
    is_problem(client.post("/v1/search", json={"unlike": [navy]}), 422)
    is_problem(client.post("/v1/search", json={"parts": [{"weight": 2}]}), 422)
    is_problem(client.post("/v1/search", json={"parts": [{"text": "x", "weight": 0}]}), 422)
    is_problem(client.post("/v1/search", json={"like": [10**9]}), 404)


def test_an_upload_finds_itself_first(
    client: TestClient, library: Library, ids: dict[str, int]
) -> None:
    teal = ids["teal-line.png"]
    data = library.read_image(teal)
    answer = client.post("/v1/search/image", files={"file": data}, data={"k": 4}).json()
    assert found(answer) == expected(library.search(image=data, k=4))
    assert answer["hits"][0]["id"] == teal
    assert (answer["query"]["q"], answer["query"]["image"]) == (None, "upload")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_an_upload_may_be_of_any_format_and_come_with_words(
    client: TestClient, library: Library, kind: str
) -> None:
    data = encoded(draw("navy", "ellipse"), kind)
    files = {"file": ("any name", data, "application/octet-stream")}
    answer = client.post("/v1/search/image", files=files, data={"q": "boat", "offset": 1}).json()
    assert found(answer) == expected(library.search("boat", image=data, k=20, offset=1))
    texts = client.post("/v1/search/image", files=files, data={"q": "boat", "modality": "text"})
    assert found(texts.json()) == expected(library.search_texts("boat", image=data, k=20))


def test_captions_for_an_upload(client: TestClient, library: Library, ids: dict[str, int]) -> None:
    data = encoded(draw("navy", "ellipse", (50, 50)))
    answer = client.post("/v1/captions", files={"file": data}, data={"k": 3}).json()
    assert found(answer) == expected(library.captions(data, k=3))
    assert not any(hit["linked"] for hit in answer["hits"])
    known = ids["crimson-line.png"]
    files = {"file": library.read_image(known)}
    hits = client.post("/v1/captions", files=files, data={"k": 100}).json()["hits"]
    linked = [hit for hit in hits if hit["linked"]]
    assert len(linked) == 2
    assert all(hit["image_ids"] == [known] for hit in linked)
    assert all(hit["source"] for hit in linked)


def test_captions_of_a_picture_its_own_first(client: TestClient, ids: dict[str, int]) -> None:
    known = ids["crimson-line.png"]
    hits = client.get(f"/v1/images/{known}/captions?k=4").json()["hits"]
    assert [hit["linked"] for hit in hits] == [True, True, False, False, False, False]
    assert {hit["text"] for hit in hits[:2]} == {
        "a crimson line on ivory",
        "a second text for the crimson line",
    }
    scores = [hit["score"] for hit in hits[2:]]
    assert scores == sorted(scores, reverse=True)
    few = client.get(f"/v1/images/{known}/captions?k=1").json()["hits"]
    assert [hit["linked"] for hit in few] == [True, True, False]
    # The same by POST, ranked throughout.
    body = {"image_id": known, "modality": "text", "k": 100}
    ranked = client.post("/v1/search", json=body).json()["hits"]
    assert sum(hit["linked"] for hit in ranked) == 2
    # Also its own texts that are far from it have their score.
    by_text = {hit["text"]: hit["score"] for hit in ranked}
    for hit in (*hits, *few):
        assert hit["score"] == pytest.approx(by_text[hit["text"]], abs=1e-5)
    assert [hit["score"] for hit in ranked] == sorted((h["score"] for h in ranked), reverse=True)
    rest = client.post("/v1/search", json=body | {"offset": 20}).json()["hits"]
    assert rest == ranked[20:]


def test_words_find_texts(client: TestClient, library: Library) -> None:
    want = expected(library.search_texts("boats at night", k=5, offset=1))
    answer = client.get("/v1/texts/search?q=boats+at+night&k=5&offset=1").json()
    assert found(answer) == want
    body = {"q": "boats at night", "modality": "text", "k": 5, "offset": 1}
    assert found(client.post("/v1/search", json=body).json()) == want


@pytest.mark.parametrize(
    ("query", "where", "says"),
    [
        ("", "query.q", "write what to look for"),
        ("q=", "query.q", "write what to look for"),
        ("q=%20%09", "query.q", "write what to look for"),
        (f"q={'x' * 2001}", "query.q", "2000"),
        ("q=x&k=0", "query.k", "greater than or equal to 1"),
        ("q=x&k=201", "query.k", "less than or equal to 200"),
        ("q=x&k=many", "query.k", "integer"),
        ("q=x&offset=-1", "query.offset", "greater than or equal to 0"),
        ("q=x&offset=10001", "query.offset", "10000"),
        ("q=x&q=y", "query.q", "it is given 2 times: give it once"),
        ("q=x&k=5&k=&k=7", "query.k", "it is given 3 times"),
    ],
)
def test_a_wrong_question_is_told_what_to_do(
    client: TestClient, query: str, where: str, says: str
) -> None:
    problem = is_problem(client.get(f"/v1/search?{query}"), 422)
    assert problem["type"] == "urn:mmsearch:problem:invalid-request"
    assert problem["errors"][0]["where"] == where
    assert says in problem["errors"][0]["message"]
    assert says in problem["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "what to look for"),
        ({"q": "  "}, "what to look for"),
        ({"q": "x", "k": 201}, "less than or equal to 200"),
        ({"q": "x", "modality": "sound"}, "'image' or 'text'"),
        ({"image_id": "seven"}, "integer"),
        ({"image_id": 2**63}, "less than or equal"),
        ([], "a JSON object"),
    ],
)
def test_a_wrong_json_question(client: TestClient, body: Any, says: str) -> None:
    problem = is_problem(client.post("/v1/search", json=body), 422)
    assert says in problem["detail"]


@pytest.mark.parametrize("raw", [b"{", b"", b'{"q": "\\ud800"}', b'{"q": "\xff"}', b"[" * 5000])
def test_broken_json(client: TestClient, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/search", content=raw, headers=headers)
    assert response.status_code in (400, 422)
    is_problem(response, response.status_code)


def test_unknown_parameters_in_an_address_do_no_harm(client: TestClient) -> None:
    assert client.get("/v1/search?q=x&utm_source=y").status_code == 200
    assert client.get("/v1/search?q=x&utm_source=y&utm_source=z").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/search", {"q": "x", "kk": 3}, "body.kk"),
        ("/v1/search", {"parts": [{"text": "x", "wieght": -1}]}, "body.parts.0.wieght"),
        ("/v1/classify", {"labels": ["a", "b"], "texts": ["x"], "mutli": True}, "body.mutli"),
        ("/v1/classify", {"labels": [{"name": "a", "prompt": ["b"]}], "texts": ["x"]}, "prompt"),
    ],
)
def test_a_name_that_is_not_known_is_told(
    client: TestClient, path: str, body: dict[str, Any], where: str
) -> None:
    problem = is_problem(client.post(path, json=body), 422)
    assert f"{where}: there is no such field here" in problem["detail"]


@pytest.mark.parametrize("path", ["/v1/search/image", "/v1/captions", "/v1/classify"])
def test_a_field_of_a_form_that_is_not_known_is_told(client: TestClient, path: str) -> None:
    files = {"file": encoded(draw("navy", "line"))}
    problem = is_problem(client.post(path, files=files, data={"kk": "3"}), 422)
    assert "body.kk: there is no such field here" in problem["detail"]
    problem = is_problem(client.post(path, files=files | {"mask": b"x"}), 422)
    assert "body.mask: there is no such field here" in problem["detail"]


@pytest.mark.parametrize(
    "options",
    [
        {"where": "path:*line*"},
        {"min_score": 0.4},
        {"min_relevance": 0.3},
        {"exact": True, "words": False, "q": "a teal line"},
        {"expand": True, "q": "boat"},
        {"diversity": 0.5},
        {"group": True},
        {"offset": 3, "k": 4},
    ],
)
def test_a_form_is_refined_as_a_question_in_json_is(
    client: TestClient, options: dict[str, Any]
) -> None:
    files = [("file", encoded(draw("navy", "ellipse", (50, 50))))]
    question = {"question": json.dumps(options)}
    by_json = client.post("/v1/search/image", files=files, data=question).json()
    # Browsers send the fields that nothing is written into too.
    fields = {name: str(value) for name, value in options.items()} | {"question": ""}
    by_fields = client.post("/v1/search/image", files=files, data=fields).json()
    assert found(by_fields) == found(by_json)
    assert {**by_fields, "took_ms": 0} == {**by_json, "took_ms": 0}
    both = client.post("/v1/search/image", files=files, data=question | {"min_score": ".1"})
    assert "'min_score'" in is_problem(both, 422)["detail"]


@pytest.mark.parametrize("wrong", ["{", "[]", "1", "null", '"x"', '{"kk": 1}', '{"k": "x"}'])
def test_a_question_in_a_form_that_is_none(client: TestClient, wrong: str) -> None:
    files = {"file": encoded(draw("navy", "line"))}
    answer = client.post("/v1/search/image", files=files, data={"question": wrong})
    assert is_problem(answer, 422)["detail"].startswith("in the form field 'question': ")


@pytest.mark.parametrize("value", ["0", "1", "on", "yes", "null", "tru"])
def test_a_switch_in_a_form_is_true_or_false(client: TestClient, value: str) -> None:
    """As documented, and as in JSON."""
    files = {"file": encoded(draw("navy", "line"))}
    for path, name in (("/v1/search/image", "group"), ("/v1/captions", "exact")):
        problem = is_problem(client.post(path, files=files, data={name: value}), 422)
        assert problem["detail"] == f"body.{name}: it is either true or false"


def test_the_fields_of_forms_are_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    schemas = {
        path: paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        for path in ("/v1/search/image", "/v1/captions")
    }
    assert {"file", "q", "where", "min_score", "group"} <= set(
        schemas["/v1/search/image"]["properties"]
    )
    assert set(schemas["/v1/captions"]["properties"]) == {"file", "k", "exact"}
    for schema in schemas.values():
        assert (schema["required"], schema["additionalProperties"]) == (["file"], False)


def test_how_many_pictures_there_may_be(client: TestClient) -> None:
    for path, most in (("/v1/search/image", 10), ("/v1/captions", 1)):
        files = [("file", encoded(draw("navy", "line")))] * (most + 1)
        assert f"at most {most}" in is_problem(client.post(path, files=files), 422)["detail"]


@pytest.mark.parametrize("route", ["/v1/search/image", "/v1/captions"])
class TestUploads:
    def test_without_a_file(self, client: TestClient, route: str) -> None:
        problem = is_problem(client.post(route, data={"k": "3"}), 422)
        assert "multipart/form-data" in problem["detail"]

    def test_of_nothing(self, client: TestClient, route: str) -> None:
        problem = is_problem(client.post(route, files={"file": b""}), 422)
        assert "empty" in problem["detail"]

    def test_of_no_picture(self, client: TestClient, route: str) -> None:
        problem = is_problem(client.post(route, files={"file": b"<svg onload=alert(1)>"}), 422)
        assert problem["type"] == "urn:mmsearch:problem:decode"

    def test_cut_short(self, client: TestClient, route: str) -> None:
        data = encoded(draw("navy", "line"), "JPEG")
        is_problem(client.post(route, files={"file": data[: len(data) // 2]}), 422)

    def test_that_promises_too_many_pixels(self, client: TestClient, route: str) -> None:
        bomb = bytearray(encoded(draw("navy", "line")))
        bomb[16:24] = (50_000).to_bytes(4, "big") * 2
        response = client.post(route, files={"file": bytes(bomb)})
        assert response.status_code in (413, 422)
        is_problem(response, response.status_code)

    def test_too_large(self, client: TestClient, route: str) -> None:
        problem = is_problem(client.post(route, files={"file": bytes((1 << 20) + 1)}), 413)
        assert "1 MiB" in problem["detail"]
        assert "MMSEARCH_MAX_UPLOAD_BYTES" in problem["detail"]

    def test_of_two_fields_of_one_name(self, client: TestClient, route: str) -> None:
        data = encoded(draw("navy", "line"))
        files = [("file", data), ("file", data)]
        assert client.post(route, files=files).status_code in (200, 422)


@pytest.mark.parametrize("path", ["", "/captions", "/similar", "/file", "/thumbnail"])
@pytest.mark.parametrize(("image_id", "status"), [("999999", 404), ("-1", 422), ("x", 422)])
def test_a_picture_that_is_not_there(
    client: TestClient, path: str, image_id: str, status: int
) -> None:
    problem = is_problem(client.get(f"/v1/images/{image_id}{path}"), status)
    assert problem["instance"] == f"/v1/images/{image_id}{path}"
    if status == 404:
        assert problem["type"] == "urn:mmsearch:problem:not-found"


def test_a_question_about_a_picture_that_is_not_there(client: TestClient) -> None:
    for extra in ({}, {"q": "x"}, {"modality": "text"}):
        is_problem(client.post("/v1/search", json={"image_id": 999_999} | extra), 404)


def test_a_picture_whose_file_is_away_still_finds(client: TestClient, ids: dict[str, int]) -> None:
    away = ids["away.webp"]
    assert client.get(f"/v1/images/{away}/similar").status_code == 200
    assert client.get(f"/v1/images/{away}/captions").status_code == 200
    both = client.post("/v1/search", json={"q": "x", "image_id": away})
    assert both.status_code == 200
    assert away not in [hit["id"] for hit in both.json()["hits"]]


def test_places_are_told_only_where_that_is_set(
    client: TestClient, library: Library, settings: Settings, ids: dict[str, int]
) -> None:
    odd = next(id_ for name, id_ in ids.items() if name.startswith("räk"))

    def answers(asked: TestClient) -> list[dict[str, Any]]:
        hits = asked.get("/v1/search?q=x&k=100").json()["hits"]
        return [
            next(hit for hit in hits if hit["id"] == odd),
            asked.get(f"/v1/images/{odd}").json(),
        ]

    for answer in answers(client):
        assert answer["latitude"] is None
        assert answer["longitude"] is None
        assert answer["camera"] == "Testcam 3000"
        assert answer["taken_at"] == "2021-06-05T12:34:56"
    shown = create_app(library, settings.model_copy(update={"show_gps": True}))
    with TestClient(shown, base_url=BASE_URL) as asked:
        for answer in answers(asked):
            assert answer["latitude"] == pytest.approx(48.8583, abs=1e-3)
            assert answer["longitude"] == pytest.approx(2.35, abs=1e-3)


@pytest.fixture
def empty_client(tmp_path: Path, settings: Settings) -> Callable[[], TestClient]:
    from mmsearch.library import CATALOG_NAME
    from mmsearch.store import CatalogWriter

    folder = tmp_path / "empty"
    folder.mkdir()
    CatalogWriter(folder / CATALOG_NAME).close()
    return lambda: TestClient(create_app(Library(folder), settings), base_url=BASE_URL)


def test_an_empty_library_says_how_to_fill_it(empty_client: Callable[[], TestClient]) -> None:
    with empty_client() as client:
        problem = is_problem(client.get("/v1/search?q=x"), 409)
        assert "mmsearch index" in problem["detail"]
        status = client.get("/v1/status").json()
        assert (status["images"], status["model"]) == (0, None)
        assert client.get("/").status_code == 200


def test_conditions(client: TestClient, library: Library) -> None:
    everything = {hit.image.id: hit.image for hit in library.search("x", k=1000)}
    tiffs = {id_ for id_, image in everything.items() if image.info.format == "TIFF"}
    wide = {id_ for id_, i in everything.items() if i.info.width > i.info.height}
    assert tiffs
    assert wide - tiffs
    for where, want in (
        ("format:tiff", tiffs),
        ("orientation:landscape and not format:tiff", wide - tiffs),
    ):
        by_address = client.get("/v1/search", params={"q": "x", "where": where, "k": 100}).json()
        assert {hit["id"] for hit in by_address["hits"]} == want
        assert by_address["allowed"] == len(want)
        body = {"q": "x", "where": filters.to_json(filters.parse(where)), "k": 100}
        by_json = client.post("/v1/search", json=body).json()
        assert by_json["hits"] == by_address["hits"]
        assert filters.parse(by_json["query"]["where"]) == filters.parse(where)
        assert [hit.image.id for hit in library.search("x", where=where, k=100)] == [
            hit["id"] for hit in by_json["hits"]
        ]
        assert client.get("/v1/facets", params={"where": where}).json()["total"] == len(want)
    counts = client.get("/v1/facets").json()
    assert counts["total"] == len(everything)
    assert {c["value"]: c["count"] for c in counts["formats"]}["TIFF"] == len(tiffs)
    for count in counts["formats"] + counts["orientations"] + counts["years"]:
        found = client.get("/v1/facets", params={"where": count["filter"]}).json()
        assert found["total"] == count["count"]


@pytest.mark.parametrize("route", ["/v1/search", "/v1/facets"])
def test_all_of_several_conditions_in_an_address_hold(client: TestClient, route: str) -> None:
    def asked(*where: str) -> Any:
        answer = client.get(route, params={"q": "x", "k": 100, "where": list(where)})
        assert answer.status_code == 200
        return answer.json()

    def passed(answer: Any) -> int:
        return int(answer["total"] if route == "/v1/facets" else answer["allowed"])

    first, second = "orientation:landscape or has:gps", "not format:tiff"
    wanted = passed(asked(f"({first}) and {second}"))
    assert passed(asked(first)) > wanted < passed(asked(second))
    for where in ((first, second), (second, first), (first, "", second)):
        answer = asked(*where)
        assert passed(answer) == wanted
        if route == "/v1/search":
            said = filters.parse(answer["query"]["where"])
            assert said == filters.from_json({"and": list(where)})
    refused = client.get(route, params={"q": "x", "where": [first, "colour:red"]})
    assert "no condition" in is_problem(refused, 422)["detail"]
    long = client.get(route, params={"q": "x", "where": [first, "x" * 10_001]})
    assert "10000" in is_problem(long, 422)["detail"]


def test_conditions_of_texts_in_an_address_all_hold(client: TestClient) -> None:
    both = ["path:**", "not path:**"]
    answer = client.get("/v1/texts/search", params={"q": "x", "where": both}).json()
    assert answer["allowed"] == 0
    assert (
        client.get("/v1/texts/search", params={"q": "x", "where": both[1:] + both[:1]}).json()[
            "allowed"
        ]
        == 0
    )


@pytest.mark.parametrize(
    "where", ["colour:red", "taken:", "(", "source:nowhere", "near:48.8,2.3,10km", {"and": 1}]
)
def test_conditions_that_are_refused(client: TestClient, where: Any) -> None:
    is_problem(client.post("/v1/search", json={"q": "x", "where": where}), 422)
    if isinstance(where, str):
        is_problem(client.get("/v1/facets", params={"where": where}), 422)


def test_places_are_asked_only_where_they_are_told(library: Library, settings: Settings) -> None:
    shown = create_app(library, settings.model_copy(update={"show_gps": True}))
    with TestClient(shown, base_url=BASE_URL) as asked:
        near = asked.get("/v1/facets", params={"where": "near:48.8583,2.35,1km"}).json()
    assert near["total"] == 1


@pytest.mark.parametrize("path", ["/v1/search/image", "/v1/captions"])
def test_a_field_of_a_form_is_given_once(client: TestClient, path: str) -> None:
    files = {"file": ("x.png", b"no picture")}
    problem = is_problem(client.post(path, files=files, data={"k": ["1", "2"]}), 422)
    assert problem["detail"] == "body.k: it is given 2 times: give it once"


@pytest.mark.parametrize("path", ["/v1/search", "/v1/embeddings", "/v1/classify", "/metadata"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_is_no_json_object_is_told_to_be_one(client: TestClient, path: str, kind: str) -> None:
    for body in ('"words"', "[]", "7"):
        answer = client.post(path, content=body, headers={"Content-Type": kind})
        advised = "body: send a JSON object, with Content-Type: application/json"
        assert is_problem(answer, 422)["detail"] == advised


def test_a_method_that_an_address_does_not_take(client: TestClient) -> None:
    problem = is_problem(client.put("/v1/search"), 405)
    assert problem["detail"] == "this address takes GET, HEAD, POST"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/images/1/similar?k=1&k=2", "k"),
        ("/v1/images/1/captions?exact=true&k=1&exact=false", "exact"),
        ("/v1/images/1/thumbnail?size=256&size=512", "size"),
        ("/v1/images/1/file?v=a&v=b", "v"),
    ],
)
def test_what_is_good_for_one_is_given_once(client: TestClient, path: str, name: str) -> None:
    """The last would count, and nobody know what became of the others."""
    detail = is_problem(client.get(path), 422)["detail"]
    assert detail == f"query.{name}: it is given 2 times: give it once"


def test_what_several_are_meant_of_and_what_is_unknown_may_be_given_again(
    client: TestClient, ids: dict[str, int]
) -> None:
    known = ids["crimson-line.png"]
    for path in (
        f"/v1/images.zip?ids={known}&ids={ids['scan.tiff']}",
        "/v1/facets?where=format:png&where=width:>1",
        f"/v1/images/{known}/similar?k=1&utm=1&utm=2",
    ):
        assert client.get(path).status_code == 200
