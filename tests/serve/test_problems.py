"""The one table from errors to statuses."""

from __future__ import annotations

import inspect
from typing import Any

import anyio
import pytest
from fastapi import FastAPI

from mmsearch import errors
from mmsearch.serve.exchange import ClientGoneError
from mmsearch.serve.problems import STATUS, FileGoneError, problem, status_of
from mmsearch.serve.schemas import Problem

CASES: list[tuple[errors.MmsearchError, int]] = [
    (errors.MmsearchError("x"), 500),
    (errors.DecodeError("a.jpg", "truncated"), 422),
    (errors.ImageTooLargeError("a.jpg", 10**9, 10**8), 413),
    (errors.EncodeError("x"), 500),
    (errors.ModelUnavailableError("m", "offline", "Try later."), 503),
    (errors.StoreError("x"), 500),
    (errors.LibraryNotFoundError("/x"), 503),
    (errors.LibraryLockedError("/x", 7), 503),
    (errors.LibraryReplacedError("/x"), 503),
    (errors.SpaceMismatchError("a", "b"), 409),
    (errors.IndexMissingError("x"), 409),
    (errors.QueryError("x"), 422),
    (errors.NotFoundError("image", 7), 404),
    (errors.OverloadedError("x"), 503),
    (FileGoneError("x"), 410),
]


@pytest.mark.parametrize(("error", "status"), CASES, ids=lambda case: type(case).__name__)
def test_each_error_has_its_status(error: errors.MmsearchError, status: int) -> None:
    assert status_of(error) == status


def test_the_table_names_only_errors() -> None:
    known = {cls for _, cls in inspect.getmembers(errors, inspect.isclass)} | {
        FileGoneError,
        ClientGoneError,
    }
    assert set(STATUS) <= known
    assert errors.MmsearchError in STATUS


def test_a_503_says_when_to_come_back() -> None:
    assert problem(503, "busy").headers["retry-after"] == "1"
    assert "retry-after" not in problem(404, "x").headers


def test_a_problem_can_say_anything() -> None:
    body = Problem.model_validate_json(
        bytes(problem(422, "na\udcefve.jpg", instance="/v1/\udcff").body)
    )
    assert body.detail == "na\ufffdve.jpg"
    assert body.type == "about:blank"
    assert body.instance == "/v1/\ufffd"


@pytest.mark.parametrize("path", ["/v1/search/image", "/v1/captions", "/v1/classify", "/metadata"])
def test_who_hangs_up_within_a_request_is_no_fault_of_the_service(
    app: FastAPI, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages = iter(
        [{"type": "http.request", "body": b"--b\r\n", "more_body": True},
         {"type": "http.disconnect"}]
    )  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    form = b"multipart/form-data; boundary=b"
    headers = [(b"host", b"localhost"), (b"content-type", form), (b"content-length", b"9999")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"",
             "headers": headers}  # fmt: skip
    anyio.run(app, scope, receive, send)
    assert statuses == [499]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
