"""The application as a whole: page, document, status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from serve_library import is_problem
from starlette.testclient import TestClient

import mmsearch
from mmsearch.library import Library
from mmsearch.serve.app import PAGE

ASSETS = sorted(path.name for path in PAGE.iterdir() if path.name != "index.html")


def test_importing_the_package_is_free() -> None:
    code = (
        "import sys, mmsearch.serve; "
        "assert not {'fastapi', 'uvicorn', 'pydantic', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_write_path_and_the_heavy_libraries_are_not_the_services() -> None:
    forbidden = r"^\s*(?:from|import) (indexer|torch|faiss|sqlalchemy|open_clip)\b"
    for path in PAGE.parent.glob("*.py"):
        assert not re.search(forbidden, path.read_text(), re.MULTILINE), path.name


def test_the_status_is_the_librarys(client: TestClient, library: Library) -> None:
    answer = client.get("/v1/status").json()
    status = library.status()
    assert answer["version"] == mmsearch.__version__
    assert (answer["images"], answer["texts"]) == (status.images, status.texts)
    assert answer["library"] == str(library.path)
    assert [space["model"] for space in answer["spaces"]] == [s.space.name for s in status.spaces]
    assert [index["modality"] for index in answer["index"]] == ["image", "text"]
    assert [(index["approximate"], index["recall"]) for index in answer["index"]] == [
        (None, None),
        (None, None),
    ]
    assert answer["limits"] == {
        "max_k": 200,
        "max_offset": 10_000,
        "max_query_chars": 2_000,
        "max_upload_bytes": 1 << 20,
    }


def test_the_document(client: TestClient) -> None:
    document: dict[str, Any] = client.get("/openapi.json").json()
    assert document["info"]["version"] == mmsearch.__version__
    assert set(document["paths"]) == {
        "/v1/search",
        "/v1/search/image",
        "/v1/texts/search",
        "/v1/captions",
        "/v1/images/{image_id}",
        "/v1/images/{image_id}/file",
        "/v1/images/{image_id}/thumbnail",
        "/v1/images/{image_id}/captions",
        "/v1/images/{image_id}/similar",
        "/v1/status",
        "/v1/facets",
        "/v1/classify",
        "/v1/images.zip",
        "/v1/images",
        "/v1/texts",
        "/v1/texts/{text_id}",
        "/v1/index",
        "/v1/index/events",
        "/v1/sources",
        "/v1/login",
        "/v1/logout",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{name}",
        "/knn-service",
        "/metadata",
        "/indices-list",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert schemas["SearchRequest"]["examples"]
    assert schemas["SearchRequest"]["properties"]["k"]["maximum"] == 200
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
    references = re.findall(r"#/components/schemas/(\w+)", str(document))
    assert set(references) <= set(schemas)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v2/search", "/assets/none.js"])
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    is_problem(client.get(path), 404)


def test_a_wrong_method(client: TestClient) -> None:
    problem = is_problem(client.delete("/v1/search"), 405)
    assert problem["title"] == "Method Not Allowed"


def test_the_page(client: TestClient) -> None:
    response = client.get("/?q=a+lion&like=3&view=captions")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "<title>mmsearch</title>" in response.text


@pytest.mark.parametrize("name", ASSETS)
def test_assets_are_kept_but_checked(client: TestClient, name: str) -> None:
    response = client.get(f"/assets/{name}")
    assert response.status_code == 200
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert response.headers["content-type"].split(";")[0] == kinds[Path(name).suffix]
    assert response.headers["cache-control"] == "no-cache"
    again = client.get(f"/assets/{name}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "....//app.py"])
def test_assets_end_at_their_folder(client: TestClient, path: str) -> None:
    response = client.get(f"/assets/{path}")
    assert response.status_code == 404
    assert "create_app" not in response.text


def test_the_page_names_nothing_outside_itself() -> None:
    for path in PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"(?m)^\s*//.*|/\*.*?\*/", "", text)), (
            path
        )
        # Inline scripts and styles would need a wider policy.
        assert not re.search(r"\s(style|on[a-z]+)=\"", text), path
    used = set(re.findall(r"/assets/([\w.]+)", (PAGE / "index.html").read_text()))
    assert used <= set(ASSETS)


def test_no_two_operations_share_a_name(app: FastAPI) -> None:
    names = [
        operation["operationId"]
        for methods in app.openapi()["paths"].values()
        for operation in methods.values()
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", ["/", "/assets/app.js"])
def test_what_a_browser_has_already_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-cache"
    for has in (
        {"If-None-Match": first.headers["etag"]},
        {"If-Modified-Since": first.headers["last-modified"]},
    ):
        again = client.get(path, headers=has)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["cache-control"] == "no-cache"
    for other in (
        {"If-None-Match": '"other"', "If-Modified-Since": first.headers["last-modified"]},
        {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ):
        assert client.get(path, headers=other).content == first.content


def test_what_the_page_takes_is_told(client: TestClient) -> None:
    assert client.head("/").status_code == 200
    assert client.options("/").headers["allow"] == "GET, HEAD"
