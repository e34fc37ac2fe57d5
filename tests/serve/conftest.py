"""A real library on disk, made once: drawn pictures, their captions, a model of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import (  # noqa: F401
    album,
    browser,
    gallery,
    library_served,
    open_page,
    server,
    weak_too,
)
from fastapi import FastAPI
from serve_library import BASE_URL, save_model, save_pictures
from starlette.testclient import TestClient

import mmsearch
from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.settings import Settings


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, as `mmsearch index` makes it; `away.webp` was deleted since."""
    from indexer.ingest import Options, index

    root = tmp_path_factory.mktemp("serve")
    save_model(root / "model")
    save_pictures(root / "pictures")
    options = Options(model=f"local-dir:{root / 'model'}", device="cpu")
    captions = [root / "pictures" / "captions.jsonl"]
    report = index(root / "library", [root / "pictures"], captions, options=options)
    assert not report.stopped
    (root / "pictures" / "away.webp").unlink()
    return root / "library"


@pytest.fixture(scope="session")
def library(library_folder: Path) -> Iterator[Library]:
    with mmsearch.open(library_folder, device="cpu") as opened:
        yield opened


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(host="127.0.0.1", max_k=200, max_upload_bytes=1 << 20, show_gps=False)


@pytest.fixture(scope="session")
def app(library: Library, settings: Settings) -> FastAPI:
    return create_app(library, settings)


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[TestClient]:
    """The service over a real library; errors of the server are answers, as for any client."""
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as started:
        yield started


@pytest.fixture(scope="session")
def ids(library: Library) -> dict[str, int]:
    """Picture ids by file name."""
    hits = library.search("anything", k=100)
    return {Path(hit.image.path).name: hit.image.id for hit in hits}
