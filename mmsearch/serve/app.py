"""The application: routes, page, errors and the outer wall put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from importlib.resources import files
from os import PathLike, stat_result
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

import mmsearch
from mmsearch.errors import RefusedError
from mmsearch.serve import (
    access,
    classify,
    clipback,
    counting,
    embeddings,
    heap,
    indexing,
    items,
    login,
    problems,
    queries,
    watch,
    zip,
)
from mmsearch.serve.downloads import Downloads
from mmsearch.serve.forwarded import Forwarded, prefix_of
from mmsearch.serve.guard import Guard
from mmsearch.serve.keys import Keys, keys_path
from mmsearch.serve.parameters import OnceRoute
from mmsearch.serve.problems import documented, problem
from mmsearch.serve.runs import Runs
from mmsearch.serve.schemas import (
    MAX_OFFSET,
    MAX_QUERY_CHARS,
    Health,
    Limits,
    Problem,
    Status,
)
from mmsearch.serve.service import Service
from mmsearch.serve.uploads import Uploads
from mmsearch.settings import Settings

if TYPE_CHECKING:
    from mmsearch.library import Library

PAGE = Path(str(files("mmsearch.serve") / "page"))

_ABOUT = """\
Search photos by words and words by photos. Scores are cosine similarities.
Errors are `application/problem+json` (RFC 9457); `detail` says what to do.
"""


def create_app(library: Library, settings: Settings, *, local_token: str | None = None) -> FastAPI:
    """The service for an open library.

    settings: `host` decides which Host headers are accepted and whether a key is needed, `max_k`
        and `max_upload_bytes` bound what may be asked, `show_gps` whether coordinates are told.
        The library stays the caller's to close.
    local_token: what this user's own terminal may show instead of a key, for reading.
    """
    service = Service(library, settings)
    gate = make_gate(library, settings, local_token)
    runs = Runs(library.path, settings.device)
    uploads = Uploads(library.path, settings.decode_limits())
    desk = indexing.Desk(service, uploads, runs)

    async def start() -> None:
        await service.warm()
        # Only now: such a run would take cores from the model that is being loaded.
        await desk.resume()
        await counting.keep_counted(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        background = (
            asyncio.create_task(start()),
            asyncio.create_task(heap.keep_trimmed()),
        )
        try:
            yield
        finally:
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await runs.close()
            service.close()

    app = FastAPI(
        title="mmsearch",
        version=mmsearch.__version__,
        description=_ABOUT,
        lifespan=lifespan,
        # Swagger and ReDoc load scripts from elsewhere; the document itself: _add_document.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # Where a slash too many would lead to is told in full, with http and the Host of the
        # request: behind a proxy that speaks TLS, a key would be sent there in the open.
        redirect_slashes=False,
        responses=documented(400, 401, 403, 408, 415, 421, 429, 431),
    )
    problems.install(app)
    app.state.service = service
    app.state.runs = runs
    app.add_middleware(watch.Door, service=service)
    app.add_middleware(access.Access, gate=gate)
    app.add_middleware(
        Guard,
        bound_to=settings.host,
        max_upload_bytes=settings.max_upload_bytes,
        is_behind_proxy=bool(settings.trusted_proxies),
        is_keyless=settings.insecure_no_key,
        cors_origins=settings.cors_origins,
    )
    if settings.trusted_proxies or settings.root_path:
        app.add_middleware(
            Forwarded, trusted=settings.trusted_proxies, root_path=settings.root_path
        )
    app.add_middleware(watch.Watch, service=service)
    app.router.route_class = OnceRoute
    # One router, not one in another: those are matched twice. What is asked most comes first.
    queries.add_routes(app.router, service)
    embeddings.add_routes(app.router, service)
    sent = Downloads(service)
    items.add_routes(app.router, service, sent)
    zip.add_routes(app.router, service, sent)
    classify.add_routes(app.router, service)
    clipback.add_routes(app.router, service)
    indexing.add_routes(app.router, desk)
    login.add_routes(app.router, gate, access.cookie_name_of, access.SESSION_S)
    _add_status_routes(app.router, service)
    _add_page(app.router)
    _add_document(app)
    app.mount("/assets", _Assets(directory=PAGE))
    _document_problems(app)
    return app


def make_gate(library: Library, settings: Settings, local_token: str | None) -> access.Gate:
    """Who is let in, by the library's keys and these settings."""
    is_local = access.is_for_this_machine(settings)
    rate = settings.rate_limit
    return access.Gate(
        Keys(keys_path(library.path, settings.keys_file)),
        is_open=is_local or settings.insecure_no_key,
        is_for_this_machine=is_local and not settings.insecure_no_key,
        local_token=local_token,
        rate=(0.0 if is_local else access.REMOTE_RATE) if rate is None else rate,
    )


#: The first steps of all of the service's own paths.
_OWN = frozenset(
    {"v1", "assets", "healthz", "readyz", "metrics", "openapi.json"}
    | {"knn-service", "indices-list", "metadata"}
)


def check_root_path(root_path: str) -> None:
    """Raises RefusedError where the service's own paths would be hidden below this one."""
    if root_path and root_path.split("/")[1] in _OWN:
        raise RefusedError(
            f"{root_path} begins as paths of the service itself do: choose another --root-path"
        )


def _add_status_routes(routes: APIRouter, service: Service) -> None:
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
            ready=service.is_ready,
            problem=service.trouble,
            limits=limits,
        )

    async def healthz() -> Health:
        return Health(status="ok")

    async def metrics(accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        body, content_type = await service.read(service.metrics.render, accept)
        return Response(body, headers={"Content-Type": content_type})

    async def readyz() -> Response:
        if service.stopping:
            return problem(503, "the service is stopping", kind="stopping")
        if service.is_ready:
            return JSONResponse({"status": "ready"})
        return problem(503, service.trouble or "the model is being loaded", kind="not-ready")

    routes.add_api_route("/v1/status", status, tags=["status"], summary="What is being served")
    routes.add_api_route("/healthz", healthz, tags=["status"], summary="The process answers")
    routes.add_api_route(
        "/readyz",
        readyz,
        tags=["status"],
        summary="The model is loaded, so answers come at once",
        response_model=Health,
        responses=documented(503),
    )
    routes.add_api_route(
        "/metrics",
        metrics,
        tags=["status"],
        summary="Numbers for Prometheus",
        response_class=Response,
        responses=documented(422)
        | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )


def _add_page(routes: APIRouter) -> None:
    # These answer 304 where the browser's copy is as good; a file by itself does not.
    page = StaticFiles(directory=PAGE)

    async def index(request: Request) -> Response:
        response = await page.get_response("index.html", request.scope)
        response.headers.update(_REVALIDATE)
        return response

    routes.add_api_route("/", index, include_in_schema=False)


def _add_document(app: FastAPI) -> None:
    async def document(request: Request) -> Response:
        prefix = prefix_of(request.scope)
        servers = {"servers": [{"url": prefix}]} if prefix else {}
        return JSONResponse(app.openapi() | servers)

    app.add_api_route("/openapi.json", document, include_in_schema=False)


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
        kind = _ASSET_TYPES.get(Path(full_path).suffix)
        if kind is None:  # the page itself, whose place is another
            raise HTTPException(HTTPStatus.NOT_FOUND)
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_REVALIDATE)
        if response.status_code == status_code:
            response.headers["Content-Type"] = kind
        return response


_SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def _document_problems(app: FastAPI) -> None:
    """Put the one error body in the OpenAPI document, in place of FastAPI's own."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            schemas: MutableMapping[str, Any] = document["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            document["components"]["securitySchemes"] = _SECURITY_SCHEMES
            # On this machine, as long as there is no key, none is needed for reading.
            document["security"] = [{}, *({name: []} for name in _SECURITY_SCHEMES)]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
