"""The routes of clip-retrieval's back end, for its published Python client and its front page.

POST /knn-service, POST /metadata, GET /indices-list, as of clip-retrieval 2.45. The library is the
one "indice". What it has no counterpart for is accepted and has no effect: use_mclip,
use_safety_model, use_violence_detector, aesthetic_score, aesthetic_weight. Addresses (image_url)
are refused: this service fetches nothing. The client cannot send a key but in the address, as a
password: http://anybody:KEY@host:8080/knn-service.
"""

# No `from __future__ import annotations` here: FastAPI could not resolve the local names.

import base64
import contextlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from mmsearch.errors import MmsearchError, QueryError
from mmsearch.plaintext import in_utf8
from mmsearch.query import Question, Term
from mmsearch.serve import bodies
from mmsearch.serve.embeddings import picture_bytes
from mmsearch.serve.forwarded import service_url
from mmsearch.serve.guard import too_large
from mmsearch.serve.problems import documented
from mmsearch.serve.schemas import MAX_QUERY_CHARS, ImageId, version_token
from mmsearch.serve.service import Service
from mmsearch.types import ImageRecord

M = TypeVar("M", bound=BaseModel)

#: The longer side of the pictures that come along in base64, as the front page shows them.
_PICTURE_SIDE = 256
#: With how many results pictures come along; the page asks for 40 to 60.
_MAX_PICTURES = 100
_MAX_IDS = 10_000
_MAX_DIM = 10_000

_PROBLEMS = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class KnnRequest(BaseModel):
    """What clip-retrieval's client sends. One of text, image and embedding_input is looked for."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "examples": [{"text": "a red kite", "modality": "image", "num_images": 10}]
        },
    )

    text: Annotated[str | None, Field(max_length=MAX_QUERY_CHARS)] = None
    image: Annotated[str | None, Field(description="base64")] = None
    image_url: Annotated[str | None, Field(description="refused: nothing is fetched")] = None
    embedding_input: Annotated[list[float] | None, Field(max_length=_MAX_DIM)] = None
    modality: Literal["image", "text"] = "image"
    num_images: Annotated[int, Field(ge=1, description="results with their metadata")] = 100
    num_result_ids: Annotated[int | None, Field(ge=1, description="results in all")] = None
    indice_name: str | None = None
    deduplicate: bool = False


class MetadataRequest(BaseModel):
    """Ids of results, for what is known of them."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ids: Annotated[list[ImageId], Field(max_length=_MAX_IDS)]
    indice_name: str | None = None


def add_routes(routes: APIRouter, service: Service) -> None:
    """Adds the routes that speak as clip-retrieval does."""
    library = service.library
    name = in_utf8(library.path.resolve().name) or "mmsearch"

    def check_name(asked: str | None) -> None:
        if asked and asked != name:
            raise HTTPException(
                HTTPStatus.NOT_FOUND, f"there is no indice {asked!r} here; /indices-list: {name!r}"
            )

    @routes.get("/indices-list", tags=["clip-retrieval"], summary="The name of the one index")
    async def indices() -> list[str]:
        return [name]

    @routes.post(
        "/knn-service",
        tags=["clip-retrieval"],
        summary="Text, picture or vector → nearest pictures or texts",
        responses=_PROBLEMS,
        openapi_extra=_body(KnnRequest),
    )
    async def knn(request: Request) -> list[dict[str, Any]]:
        asked = await _read(service, request, KnnRequest)
        check_name(asked.indice_name)
        term = await _term(service, asked)
        wanted = min(asked.num_result_ids or asked.num_images, service.settings.max_k)
        # The client sends `deduplicate` whatever it looks for; texts that are the same come once.
        group = asked.deduplicate and asked.modality == "image"
        # As it is there: what is near counts, not words, and nothing is too weak.
        question = Question((term,), k=wanted, words=False, expand=False, group=group)
        call = service.answer if term.vector is not None else service.encode_and_answer
        if asked.modality == "image":
            answer, _ = await call(library.ask, question)
            scored = [(hit.image.id, hit.score) for hit in answer.hits]
        else:
            texts, _ = await call(library.ask_texts, question)
            scored = [(hit.text.id, hit.score) for hit in texts.hits]
        told = [id_ for id_, _ in scored[: asked.num_images]]
        known = await service.read(_metadata, service, told, service_url(request))
        return [
            known.get(id_, {}) | {"id": id_, "similarity": float(score)} for id_, score in scored
        ]

    @routes.post(
        "/metadata",
        tags=["clip-retrieval"],
        summary="What is known of some results",
        responses=_PROBLEMS,
        openapi_extra=_body(MetadataRequest),
    )
    async def metadata(request: Request) -> list[dict[str, Any]]:
        asked = await _read(service, request, MetadataRequest)
        check_name(asked.indice_name)
        known = await service.read(_metadata, service, asked.ids, service_url(request))
        return [{"id": id_, "metadata": known[id_]} for id_ in asked.ids if id_ in known]


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a body that is read as JSON whatever its content type: the client sends
    none."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _read(service: Service, request: Request, model: type[M]) -> M:
    body = await request.body()
    try:
        return await bodies.read(service, len(body), lambda: model.model_validate_json(body))
    except ValidationError as exc:
        raise RequestValidationError(
            [{**error, "loc": ("body", *error["loc"])} for error in exc.errors()]
        ) from exc


async def _term(service: Service, asked: KnnRequest) -> Term:
    """What is looked for, chosen in clip-retrieval's order."""
    if asked.text and asked.text.strip():
        return Term(text=asked.text)
    if asked.image is not None:
        image = asked.image
        data = await bodies.read(service, len(image), lambda: picture_bytes(image))
        if len(data) > service.settings.max_upload_bytes:
            raise too_large(service.settings.max_upload_bytes)
        return Term(image=await service.picture(data))
    if asked.image_url is not None:
        raise QueryError(
            "image_url is refused: this service fetches no addresses. Send the picture itself as "
            "base64 in 'image'"
        )
    if asked.embedding_input is not None:
        return Term(vector=tuple(asked.embedding_input))
    raise QueryError("one of text, image and embedding_input must say what to look for")


def _metadata(service: Service, ids: Sequence[int], base_url: str) -> dict[int, dict[str, Any]]:
    """What is known of pictures and texts by their ids, with pictures as long as they are few."""
    catalog = service.library.catalog
    pictures = catalog.image_records(ids)
    rest = [id_ for id_ in ids if id_ not in pictures]
    texts = catalog.text_records(rest)
    shown = catalog.image_records([text.image_ids[0] for text in texts.values() if text.image_ids])
    with_picture = len(ids) <= _MAX_PICTURES
    captions = _captions(service, list(pictures))
    found = {
        id_: {"caption": captions.get(id_), **_picture(service, record, base_url, with_picture)}
        for id_, record in pictures.items()
    }
    for id_, text in texts.items():
        record = shown.get(text.image_ids[0]) if text.image_ids else None
        facts = {} if record is None else _picture(service, record, base_url, with_picture)
        found[id_] = {"caption": in_utf8(text.body), **facts}
    return found


def _captions(service: Service, ids: Sequence[int]) -> dict[int, str]:
    """The first text that was written for each picture that has one."""
    bodies = service.library.catalog.linked_bodies(ids)
    return {id_: in_utf8(first) for id_, (first, *_) in bodies.items()}


def _picture(
    service: Service, record: ImageRecord, base_url: str, with_picture: bool
) -> dict[str, Any]:
    address = f"{base_url}v1/images/{record.id}/file?v={version_token(record)}"
    facts: dict[str, Any] = {"url": address, "image_path": in_utf8(record.path)}
    if with_picture:
        # One whose file is gone comes without.
        with contextlib.suppress(MmsearchError, OSError):
            small = service.library.thumbnail(record.id, _PICTURE_SIDE)
            facts["image"] = base64.b64encode(small).decode("ascii")
    return facts
