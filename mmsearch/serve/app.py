"""The application: routes, page, errors and the outer wall put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from os import PathLike, stat_result
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

import mmsearch
from mmsearch.serve import items, problems, queries
from mmsearch.serve.guard import Guard
from mmsearch.serve.problems import documented, problem
from mmsearch.serve.schemas import (
    MAX_OFFSET,
    MAX_QUERY_CHARS,
    Health,
    Limits,
    Problem,
    Status,
)
from mmsearch.serve.service import Service
from mmsearch.settings import Settings

if TYPE_CHECKING:
    from mmsearch.library import Library

PAGE = Path(str(files("mmsearch.serve") / "page"))

_ABOUT = """\
Search photos by words and words by photos. Scores are cosine similarities.
Errors are `application/problem+json` (RFC 9457); `detail` says what to do.
"""


def create_app(library: Library, settings: Settings) -> FastAPI:
    """The service for an open library.

    settings: `host` decides which Host headers are accepted, `max_k` and `max_upload_bytes` bound
        what may be asked, `show_gps` whether coordinates are told. The library stays the caller's
        to close.
    """
    service = Service(library, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(service.warm())
        try:
            yield
        finally:
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming
            service.close()

    app = FastAPI(
        title="mmsearch",
        version=mmsearch.__version__,
        description=_ABOUT,
        lifespan=lifespan,
        # Swagger and ReDoc load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        responses=documented(403, 421),
    )
    problems.install(app)
    app.add_middleware(
        Guard,
        bound_to=settings.host,
        max_upload_bytes=settings.max_upload_bytes,
    )
    app.include_router(queries.router(service))
    app.include_router(items.router(service))
    app.include_router(_status_router(service))
    app.include_router(_page_router())
    app.mount("/assets", _Assets(directory=PAGE))
    _document_problems(app)
    return app


def _status_router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["status"])
    settings = service.settings
    limits = Limits(
        max_k=settings.max_k,
        max_offset=MAX_OFFSET,
        max_query_chars=MAX_QUERY_CHARS,
        max_upload_bytes=settings.max_upload_bytes,
    )

    async def status() -> Status:
        return Status.of(
            await service.read(service.library.status),
            version=mmsearch.__version__,
            model=await service.read(service.model),
            ready=service.state == "ready",
            problem=service.problem,
            limits=limits,
        )

    async def healthz() -> Health:
        return Health(status="ok")

    async def readyz() -> Response:
        if service.state == "ready":
            return JSONResponse({"status": "ready"})
        return problem(503, service.problem or "the model is being loaded", kind="not-ready")

    routes.add_api_route("/v1/status", status, summary="What is being served")
    routes.add_api_route("/healthz", healthz, summary="The process answers")
    routes.add_api_route(
        "/readyz",
        readyz,
        summary="The model is loaded, so answers come at once",
        response_model=Health,
        responses=documented(503),
    )
    return routes


def _page_router() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    async def index() -> Response:
        return FileResponse(PAGE / "index.html", headers=_REVALIDATE)

    routes.add_api_route("/", index)
    return routes


#: The names of the assets carry no version: the browser asks each time, and is told "unchanged".
_REVALIDATE = {"Cache-Control": "no-cache"}


#: Said here, because some systems' own tables call scripts text/plain, which no browser runs.
_ASSET_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _Assets(StaticFiles):
    """The page's own files, which the browser keeps but checks."""

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_REVALIDATE)
        if response.status_code == status_code:
            response.headers["Content-Type"] = _ASSET_TYPES[Path(full_path).suffix]
        return response


def _document_problems(app: FastAPI) -> None:
    """Put the one error body in the OpenAPI document, in place of FastAPI's own."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            schemas: MutableMapping[str, Any] = document["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
