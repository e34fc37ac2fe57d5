"""The routes that change the library: upload, delete, read a source again, follow that.

All need the scope "write". No path comes in from outside: what is uploaded goes into the library's
own folder, what is read is a source that was configured on this machine, and only uploads are ever
deleted.
"""

# No `from __future__ import annotations` here: FastAPI could not resolve the local names.

import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Path, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field
from starlette.exceptions import HTTPException

from mmsearch.errors import MmsearchError, NotFoundError, QueryError, RefusedError
from mmsearch.filenames import real
from mmsearch.overview import (
    SourceRecord,
)
from mmsearch.plaintext import clean, in_utf8
from mmsearch.serve.access import MayFollow, MayWrite, is_still_let_in
from mmsearch.serve.forms import check_names, uploaded
from mmsearch.serve.problems import documented
from mmsearch.serve.runs import Run, Runs, State
from mmsearch.serve.schemas import MAX_ID, Answer, Given, ImageId
from mmsearch.serve.service import Service
from mmsearch.serve.uploads import MAX_TEXT_CHARS, Uploads
from mmsearch.types import (
    ImageRecord,
    TextRecord,
)

log = logging.getLogger(__name__)

#: Seconds after which a stream without news says that it is still there.
HEARTBEAT_S = 15.0
MAX_WAIT_S = 60.0
_MAX_NAME = 1000

_PROBLEMS = documented(
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_UPLOAD_PROBLEMS = _PROBLEMS | documented(
    HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
)
_SECURITY: dict[str, Any] = {"security": [{"key": []}, {"header": []}]}

_Wait = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, description="seconds to wait for the run to be over", alias="wait"),
]
_Id = Annotated[int, Path(ge=0, le=MAX_ID)]


class RunState(Answer):
    """A run over a source."""

    id: int
    source: str
    state: State
    step: str = Field(description='"waiting", "scanning", "loading", or what is read ("images")')
    done: int
    total: int | None = Field(description="null where it is not known before")
    asked_at: datetime
    began_at: datetime | None
    ended_at: datetime | None
    warnings: list[str]
    error: str | None = Field(description="why it failed")
    report: dict[str, Any] | None = Field(description="what it did, once it is over")

    @classmethod
    def of(cls, run: Run) -> "RunState":
        """The run as it goes over the wire."""
        facts = {name: getattr(run, name) for name in cls.model_fields}
        texts = {"source": run.source, "step": run.step}
        return cls(
            **facts
            | {name: in_utf8(text) for name, text in texts.items()}
            | {
                "error": None if run.error is None else in_utf8(run.error),
                "warnings": [in_utf8(text) for text in run.warnings],
                "report": _clean(run.report),
            }
        )


class Source(Answer):
    """A place that the library was read from."""

    id: int
    name: str
    location: str
    kind: str
    images: int
    texts: int
    missing: int
    indexed_at: datetime | None

    @classmethod
    def of(cls, record: SourceRecord) -> "Source":
        """The source as it goes over the wire."""
        facts = {name: getattr(record, name) for name in cls.model_fields}
        texts = {"name": record.name, "location": record.location}
        at = record.indexed_at
        facts["indexed_at"] = None if at is None else at.replace(tzinfo=UTC)
        return cls(**facts | {name: in_utf8(text) for name, text in texts.items()})


class Indexing(Answer):
    """What is being read, what will be, and what was last."""

    running: RunState | None
    queued: list[RunState]
    last: RunState | None
    writer: int | None = Field(description="another process that writes to the library now")


class Uploaded(Answer):
    """A picture or text that was taken in; it is found once its run is done."""

    path: str
    image_id: int | None = Field(description="of a picture, once it is known")
    run: RunState


class Deleted(Answer):
    """What was deleted, and what still holds the same."""

    deleted: list[str]
    remaining: list[str] = Field(description="other places of the same content, which stay")
    run: RunState


class TextUpload(Given):
    """A text to keep, and the picture that it was written for."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"text": "the red kite over the beach", "image_id": 7}]},
    )

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\S")]
    image_id: ImageId | None = None


class IndexRequest(Given):
    """Which source to read again; without one, all of them, one after the other."""

    model_config = ConfigDict(strict=True)

    source: Annotated[str | int | None, Field(description="name or id of a configured source")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class Desk:
    """What these routes share."""

    service: Service
    uploads: Uploads
    runs: Runs

    def read_uploads(self, *, forget: bool = False) -> Run:
        """Lets what was uploaded or deleted show."""
        folder = self.uploads.folder
        return self.runs.start(folder.name, real(folder), forget=forget)

    async def resume(self) -> None:
        """Lets a run begin that was owed when the service stopped: an upload may have been taken
        in, or a picture deleted for good, without one."""
        catalog = self.service.library.catalog
        if catalog.read_only:
            return
        try:
            if await self.service.read(self.uploads.are_owed_a_run, catalog):
                self.read_uploads(forget=True)
        except (MmsearchError, OSError) as exc:
            log.warning("whether uploads wait to be read could not be found out: %s", exc)

    async def state(self) -> Indexing:
        """All runs as they are now."""
        runs = self.runs
        return Indexing(
            running=None if runs.now is None else RunState.of(runs.now),
            queued=[RunState.of(run) for run in runs.queued],
            last=None if runs.last is None else RunState.of(runs.last),
            writer=await self.service.read(runs.writer),
        )


def add_routes(routes: APIRouter, desk: Desk) -> None:
    """Adds the routes that change the library."""
    service, uploads, runs = desk.service, desk.uploads, desk.runs
    library = service.library

    @routes.post(
        "/v1/images",
        tags=["indexing"],
        summary="Keep a picture in the library",
        status_code=HTTPStatus.ACCEPTED,
        dependencies=[MayWrite],
        responses=_UPLOAD_PROBLEMS,
        openapi_extra=_SECURITY,
    )
    async def add_image(
        request: Request,
        file: Annotated[UploadFile, File(description="the picture, in any format")],
        text: Annotated[
            str, Form(max_length=MAX_TEXT_CHARS, description="a text written for it")
        ] = "",
        wait: _Wait = 0,
    ) -> Uploaded:
        check_names(await request.form(), {"file", "text"})
        data = await uploaded(file, service.settings.max_upload_bytes)
        body = clean(text)
        name = (file.filename or "")[:_MAX_NAME]
        path = await service.prepare(lambda: uploads.add_picture(data, name))
        if body:
            await service.read(uploads.add_text, body, path.name)
        run = desk.read_uploads()
        await runs.ended(run, wait)
        known = await service.read(library.look_up, data)
        return Uploaded(path=in_utf8(str(path)), image_id=known.content_id, run=RunState.of(run))

    @routes.post(
        "/v1/texts",
        tags=["indexing"],
        summary="Keep a text in the library",
        status_code=HTTPStatus.ACCEPTED,
        dependencies=[MayWrite],
        responses=_UPLOAD_PROBLEMS,
        openapi_extra=_SECURITY,
    )
    async def add_text(given: TextUpload, wait: _Wait = 0) -> Uploaded:
        picture = None
        if given.image_id is not None:
            picture = (await service.read(library.image, given.image_id)).path
        path = await service.read(uploads.add_text, _storable(given.text), picture)
        run = desk.read_uploads()
        await runs.ended(run, wait)
        return Uploaded(path=in_utf8(str(path)), image_id=given.image_id, run=RunState.of(run))

    @routes.delete(
        "/v1/images/{image_id}",
        tags=["indexing"],
        summary="Delete a picture that was uploaded",
        status_code=HTTPStatus.ACCEPTED,
        dependencies=[MayWrite],
        responses=_PROBLEMS,
        openapi_extra=_SECURITY,
    )
    async def delete_image(image_id: _Id, wait: _Wait = 0) -> Deleted:
        record = await service.read(library.image, image_id)
        own, others = _split(record, uploads)
        if not own:
            raise _not_uploaded("picture", record.path)
        # First, because a picture that is gone could not be deleted again if this failed.
        await service.read(uploads.remove_texts_of, own)
        await service.read(uploads.remove_pictures, own)
        run = desk.read_uploads(forget=True)
        await runs.ended(run, wait)
        return Deleted(
            deleted=[in_utf8(path) for path in own],
            remaining=[in_utf8(path) for path in others],
            run=RunState.of(run),
        )

    @routes.delete(
        "/v1/texts/{text_id:int}",
        tags=["indexing"],
        summary="Delete a text that was uploaded",
        status_code=HTTPStatus.ACCEPTED,
        dependencies=[MayWrite],
        responses=_PROBLEMS,
        openapi_extra=_SECURITY,
    )
    async def delete_text(text_id: _Id, wait: _Wait = 0) -> Deleted:
        record = await service.read(_text, library, text_id)
        removed = 0
        if uploads.folder.is_dir():
            removed = await service.read(uploads.remove_text, record.body)
        if not removed:
            raise _not_uploaded("text", record.source)
        run = desk.read_uploads(forget=True)
        await runs.ended(run, wait)
        places = await service.read(library.catalog.text_places, text_id)
        return Deleted(
            deleted=[in_utf8(record.body)],
            remaining=[in_utf8(shown) for path, shown in places if path != real(uploads.texts)],
            run=RunState.of(run),
        )

    @routes.get(
        "/v1/sources",
        tags=["indexing"],
        summary="The places that the library was read from",
        dependencies=[MayFollow],
    )
    async def sources() -> list[Source]:
        return [Source.of(record) for record in await service.read(library.sources)]

    @routes.post(
        "/v1/index",
        tags=["indexing"],
        summary="Read a source again",
        status_code=HTTPStatus.ACCEPTED,
        dependencies=[MayWrite],
        responses=_UPLOAD_PROBLEMS,
        openapi_extra=_SECURITY,
    )
    async def start(asked: IndexRequest, wait: _Wait = 0) -> list[RunState]:
        known = await service.read(library.sources)
        chosen = known if asked.source is None else [_named(known, asked.source)]
        writer = await service.read(runs.writer)
        if writer is not None:
            raise RefusedError(
                f"process {writer} is writing to the library now. Ask again when it is done"
            )
        started = [runs.start(source.name, source.location) for source in chosen]
        until = time.monotonic() + wait  # for all of them together
        for run in started:
            await runs.ended(run, max(0.0, until - time.monotonic()))
        return [RunState.of(run) for run in started]

    @routes.get(
        "/v1/index", tags=["indexing"], summary="What is being read", dependencies=[MayFollow]
    )
    async def state() -> Indexing:
        return await desk.state()

    @routes.get(
        "/v1/index/events",
        tags=["indexing"],
        summary="The same, as server-sent events: one `index` event whenever something changes",
        dependencies=[MayFollow],
        response_class=Response,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        },
    )
    async def events(request: Request) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            async for changed in runs.changes(HEARTBEAT_S):
                if not is_still_let_in(request):
                    return
                if changed:
                    yield f"event: index\ndata: {(await desk.state()).model_dump_json()}\n\n"
                else:
                    yield ": still here\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


def _text(library: Any, text_id: int) -> TextRecord:
    record: TextRecord | None = library.catalog.text_records([text_id]).get(text_id)
    if record is None:
        raise NotFoundError("text", text_id)
    return record


def _split(record: ImageRecord, uploads: Uploads) -> tuple[list[str], list[str]]:
    """The files of a picture that were uploaded, and the others."""
    paths = [record.path, *record.copies]
    own = [path for path in paths if uploads.holds(path)]
    return own, [path for path in paths if path not in own]


def _named(known: list[SourceRecord], wanted: str | int) -> SourceRecord:
    for source in known:
        if wanted in (source.name, source.id):
            return source
    names = ", ".join(repr(source.name) for source in known[:20]) or "none yet"
    raise HTTPException(
        HTTPStatus.NOT_FOUND,
        f"there is no source {wanted!r}. It has: {in_utf8(names)}. New ones are added on the "
        "machine itself: mmsearch index FOLDER",
    )


def _not_uploaded(what: str, path: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.CONFLICT,
        f"this {what} was not uploaded: it comes from {in_utf8(path)}, and files outside of the "
        "library are never deleted. Delete it there, or leave it out with .mmsearchignore, and "
        "read that source again",
    )


def _storable(text: str) -> str:
    """The text as the library keeps it. Raises QueryError where nothing is left of it."""
    body = clean(text)
    if not body:
        raise QueryError("the text is empty")
    return body


def _clean(value: Any) -> Any:
    """A report whose strings UTF-8 can carry."""
    return None if value is None else json.loads(in_utf8(json.dumps(value, ensure_ascii=False)))
