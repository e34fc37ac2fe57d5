"""What was sent is let go of with its answer: not when Python next looks for what is in circles."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serve_library import draw, encoded
from starlette.testclient import TestClient

from mmsearch.query import QueryPicture


@pytest.fixture
def _no_collector(client: TestClient) -> Iterator[None]:
    assert client.get("/v1/search?q=x").status_code == 200  # the model is there
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> list[QueryPicture]:
    """Every uploaded picture that something refers to still."""
    # Not isinstance, which asks some objects of torch for what they warn about.
    return [one for one in gc.get_objects() if type(one) is QueryPicture]


PICTURE = encoded(draw("tomato", "ellipse", (123, 97)))
BROKEN = PICTURE[:-300]


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/search/image", {}),
        ("/v1/search/image", {"q": "at night", "where": "format:png"}),
        ("/v1/captions", {}),
        ("/v1/classify", {"labels": "boat\nkite"}),
    ],
)
@pytest.mark.parametrize("number", range(2))
def test_uploads(client: TestClient, path: str, fields: dict[str, Any], number: int) -> None:
    before = len(held())
    mark = f"{path} {fields} {number}".encode()
    for data, status in ((PICTURE, 200), (BROKEN, 422)):
        answer = client.post(path, files={"file": ("a.png", data + mark)}, data=fields)
        # Of several pictures the others are classified all the same.
        assert answer.status_code == (200 if path == "/v1/classify" else status), answer.text
        deadline = time.monotonic() + 30
        while len(held()) > before:  # a thread may not be quite through with it
            assert time.monotonic() < deadline, (status, answer.text)
            time.sleep(0.05)
