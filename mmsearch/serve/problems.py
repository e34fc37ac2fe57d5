"""Errors as problem+json (RFC 9457): one table from error class to status, one shape of body."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mmsearch import errors
from mmsearch.plaintext import in_utf8
from mmsearch.serve.exchange import ClientGoneError, current
from mmsearch.serve.logs import plain_path
from mmsearch.serve.schemas import Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: The nearest class in an error's method resolution order decides.
STATUS: dict[type[errors.MmsearchError], int] = {
    errors.MmsearchError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.DecodeError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ImageTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.ModelUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.LibraryNotFoundError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.LibraryLockedError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.LibraryReplacedError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SpaceMismatchError: HTTPStatus.CONFLICT,
    errors.IndexMissingError: HTTPStatus.CONFLICT,
    errors.QueryError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.UnknownNameError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RefusedError: HTTPStatus.CONFLICT,
    errors.OverloadedError: HTTPStatus.SERVICE_UNAVAILABLE,
}

#: Seconds after which a 503 may be tried again.
RETRY_AFTER_S = 1


class FileGoneError(errors.MmsearchError):
    """A picture is in the catalog, but its file cannot be read any more."""


STATUS[FileGoneError] = HTTPStatus.GONE
#: As nginx has it: nobody reads this, but logs and metrics do.
STATUS[ClientGoneError] = 499


def status_of(error: errors.MmsearchError) -> int:
    """The HTTP status that the table gives this error or its nearest ancestor."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    title: str | None = None,
    instance: str | None = None,
    errors: Sequence[Mapping[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem+json response.

    kind: last part of the problem's type, for programs ("not-found"); without one the type is
        "about:blank", which means "just what the status says".
    instance: the path that was asked for.
    errors: for a request that failed validation, where and why, one entry each.
    """
    phrase = _phrase(status)
    exchange = current.get()
    body = Problem(
        type=f"urn:mmsearch:problem:{kind}" if kind else "about:blank",
        title=title or phrase,
        status=status,
        detail=in_utf8(detail),
        instance=in_utf8(instance) if instance is not None else None,
        request_id=None if exchange is None else exchange.id,
        errors=[{key: in_utf8(text) for key, text in e.items()} for e in errors or ()] or None,
    )
    out = {"Cache-Control": "no-store", **(headers or {})}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        out.setdefault("Retry-After", str(RETRY_AFTER_S))
    content = body.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, status, headers=out, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error that leaves a route of this app a problem+json body."""
    app.add_exception_handler(errors.MmsearchError, _on_mmsearch_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)


def keys_unreadable(error: errors.MmsearchError, instance: str) -> JSONResponse:
    """503 where nobody can be let in. Where the keys lie, and why not, is for the log alone."""
    log.error("the keys: %s", error)
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the service's keys cannot be read; its log says why",
        kind="keys-unreadable",
        instance=instance,
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these problems, for OpenAPI."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _phrase(status), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _kind(error: BaseException) -> str:
    """NotFoundError -> "not-found"."""
    name = type(error).__name__.removesuffix("Error").lstrip("_")
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


async def _on_mmsearch_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, errors.MmsearchError)
    status = status_of(exc)
    if isinstance(exc, errors.OverloadedError):
        # No fault of ours, and no time for stack traces.
        log.warning("%s %s: %s", request.method, plain_path(request.url.path), exc)
        exchange = current.get()
        if exchange is not None:
            exchange.is_refused = True
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        path = plain_path(request.url.path)
        log.error("%s %s: %s", request.method, path, exc, exc_info=exc)
    return problem(status, str(exc), kind=_kind(exc), instance=request.url.path)


async def _on_gone(request: Request, _: Exception) -> JSONResponse:
    """Of who hung up before all of the request had come."""
    return await _on_mmsearch_error(request, ClientGoneError())


async def _on_invalid(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    found = [
        {"where": ".".join(str(part) for part in e["loc"]), "message": advice(e)}
        for e in exc.errors()
    ]
    detail = "; ".join(f"{e['where']}: {e['message']}" for e in found)
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        detail,
        kind="invalid-request",
        title="The request is not valid",
        instance=request.url.path,
        errors=found,
    )


def advice(error: Mapping[str, Any]) -> str:
    """What to do about one finding of pydantic's."""
    field = error["loc"][-1] if error["loc"] else None  # none: of all that was given
    if field == "q" and error["type"] in _NO_WORDS:
        return "write what to look for, for example q=a red kite over a beach"
    if error["type"] == REPEATED:
        return str(error["msg"])
    if error["type"] in _NO_OBJECT and error["loc"] == ("body",):
        return "send a JSON object, with Content-Type: application/json"
    if error["type"] == "extra_forbidden":
        return "there is no such field here; /openapi.json lists those that there are"
    if field == "file":
        return "send a picture as multipart/form-data in the field 'file'"
    return str(error["msg"]).removeprefix("Value error, ")


#: Of a name that stands several times and is good for one; pydantic has no such error.
REPEATED = "repeated"
_NO_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})
_NO_WORDS = frozenset({"missing", "string_too_short", "string_pattern_mismatch"})


async def _on_http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    detail = exc.detail
    if exc.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = "there is nothing here; /openapi.json lists what there is"
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names those of one route only, where several share the address.
        methods = _methods(request) or _with_head(set(headers.get("Allow", "").split(", ")))
        headers["Allow"] = ", ".join(methods)
        detail = f"this address takes {headers['Allow']}"
    return problem(exc.status_code, str(detail), instance=request.url.path, headers=headers)


def _methods(request: Request) -> list[str]:
    """The methods that this address can be asked with, as the OpenAPI document has them."""
    paths = request.app.openapi()["paths"]
    asked = request.url.path
    known = [asked] if asked in paths else [path for path in paths if _fits(path, asked)]
    return _with_head({method.upper() for path in known for method in paths[path]})


def _with_head(methods: set[str]) -> list[str]:
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _fits(template: str, path: str) -> bool:
    """Whether "/v1/images/{image_id}" may be "/v1/images/7"."""
    parts, others = template.split("/"), path.split("/")
    return len(parts) == len(others) and all(
        part == other or part.startswith("{") for part, other in zip(parts, others, strict=True)
    )
