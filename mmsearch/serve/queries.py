"""The routes that answer questions: words, pictures or both → pictures or texts."""

# No `from __future__ import annotations` here: the limits in the signatures are this service's
# own, and FastAPI could not resolve them from strings.

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import APIRouter, File, Form, Path, Query, UploadFile
from pydantic import Field, create_model

from mmsearch.errors import QueryError
from mmsearch.serve.guard import too_large
from mmsearch.serve.items import read_original
from mmsearch.serve.problems import documented
from mmsearch.serve.schemas import (
    DEFAULT_K,
    MAX_ID,
    MAX_OFFSET,
    MAX_QUERY_CHARS,
    ImageAnswer,
    ImageResults,
    QueryEcho,
    SearchRequest,
    TextAnswer,
    TextResults,
)
from mmsearch.serve.service import Service
from mmsearch.types import ImageHit, Modality, TextHit

DEFAULT_CAPTIONS = 5
#: What can be wrong with a question, and with the service that is asked.
_PROBLEMS = documented(
    HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
)
_UPLOAD_PROBLEMS = _PROBLEMS | documented(
    HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
)
_BY_ID_PROBLEMS = _PROBLEMS | documented(HTTPStatus.NOT_FOUND, HTTPStatus.GONE)

_Words = Query(
    min_length=1,
    max_length=MAX_QUERY_CHARS,
    pattern=r"\S",
    description="what to look for, in words",
    examples=["a red kite over a beach"],
)
_Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="answers to leave out")]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as it was understood, and when it came (by time.perf_counter)."""

    echo: QueryEcho
    k: int
    offset: int = 0
    began: float = field(default_factory=time.perf_counter)

    def frame(self, model: str | None) -> dict[str, Any]:
        """What every list of answers says about its question."""
        return {
            "query": self.echo,
            "k": self.k,
            "offset": self.offset,
            "took_ms": round((time.perf_counter() - self.began) * 1000, 3),
            "model": model,
        }


def router(service: Service) -> APIRouter:
    """The routes that search, for this service."""
    routes = APIRouter(prefix="/v1")
    library, max_k = service.library, service.settings.max_k
    default_k = min(DEFAULT_K, max_k)
    k_range = Query(ge=1, le=max_k, description="answers to give")
    k_field = Form(ge=1, le=max_k, description="answers to give")
    search_request = create_model(
        "SearchRequest",
        __base__=SearchRequest,
        k=(Annotated[int, Field(ge=1, le=max_k)], default_k),
    )

    def images(asked: _Asked, answer: tuple[list[ImageHit], str | None]) -> ImageResults:
        hits, model = answer
        show_gps = service.settings.show_gps
        answers = [ImageAnswer.of_hit(hit, show_gps=show_gps) for hit in hits]
        return ImageResults(**asked.frame(model), hits=answers)

    def texts(asked: _Asked, answer: tuple[list[TextHit], str | None]) -> TextResults:
        hits, model = answer
        return TextResults(**asked.frame(model), hits=[TextAnswer.of_hit(hit) for hit in hits])

    async def search_both(
        asked: _Asked, image: bytes | None, modality: Modality
    ) -> ImageResults | TextResults:
        q, k, offset = asked.echo.q, asked.k, asked.offset
        picture = None if image is None else await service.picture(image)
        if modality == "image":
            found = await service.encode_and_answer(
                library.search, q, image=picture, k=k, offset=offset
            )
            return images(asked, found)
        fitting = await service.encode_and_answer(
            library.search_texts, q, image=picture, k=k, offset=offset
        )
        return texts(asked, fitting)

    @routes.get("/search", summary="Words → pictures", tags=["search"], responses=_PROBLEMS)
    async def search(
        q: Annotated[str, _Words],
        k: Annotated[int, k_range] = default_k,
        offset: _Offset = 0,
    ) -> ImageResults:
        asked = _Asked(QueryEcho(q=q), k, offset)
        return images(asked, await service.encode_and_answer(library.search, q, k=k, offset=offset))

    @routes.get("/texts/search", summary="Words → texts", tags=["search"], responses=_PROBLEMS)
    async def search_texts(
        q: Annotated[str, _Words],
        k: Annotated[int, k_range] = default_k,
        offset: _Offset = 0,
    ) -> TextResults:
        asked = _Asked(QueryEcho(q=q), k, offset)
        return texts(
            asked, await service.encode_and_answer(library.search_texts, q, k=k, offset=offset)
        )

    @routes.post(
        "/search",
        summary="Words, a picture of the library, or both → pictures or texts",
        tags=["search"],
        responses=_UPLOAD_PROBLEMS | _BY_ID_PROBLEMS,
    )
    async def search_json(question: search_request) -> ImageResults | TextResults:  # type: ignore[valid-type]
        body = cast(SearchRequest, question)
        k, offset, image_id = body.k, body.offset, body.image_id
        asked = _Asked(QueryEcho(q=_words(body.q), image=image_id), k, offset)
        if image_id is None:
            return await search_both(asked, None, body.modality)
        if asked.echo.q is None:
            # Its vector is in the library already: the file is not needed.
            if body.modality == "image":
                like = await service.answer(library.similar, image_id, k=k, offset=offset)
                return images(asked, like)
            fitting, model = await service.answer(library.captions_of, image_id, k=k + offset)
            return texts(asked, (fitting[offset:], model))
        image = await service.read(read_original, library, image_id)
        return await search_both(asked, image, body.modality)

    @routes.post(
        "/search/image",
        summary="An uploaded picture (and words) → pictures or texts",
        tags=["search"],
        responses=_UPLOAD_PROBLEMS,
    )
    async def search_upload(
        file: Annotated[UploadFile, File(description="the picture, in any format")],
        q: Annotated[str, Form(max_length=MAX_QUERY_CHARS, description="words to add")] = "",
        k: Annotated[int, k_field] = default_k,
        offset: Annotated[int, Form(ge=0, le=MAX_OFFSET)] = 0,
        modality: Annotated[Modality, Form(description="what to find")] = "image",
    ) -> ImageResults | TextResults:
        asked = _Asked(QueryEcho(q=_words(q), image="upload"), k, offset)
        image = await _uploaded(file, service.settings.max_upload_bytes)
        return await search_both(asked, image, modality)

    @routes.post(
        "/captions",
        summary="An uploaded picture → texts of the library that describe it",
        tags=["captions"],
        responses=_UPLOAD_PROBLEMS,
    )
    async def captions(
        file: Annotated[UploadFile, File(description="the picture, in any format")],
        k: Annotated[int, k_field] = min(DEFAULT_CAPTIONS, max_k),
    ) -> TextResults:
        asked = _Asked(QueryEcho(image="upload"), k)
        image = await _uploaded(file, service.settings.max_upload_bytes)
        picture = await service.picture(image)
        return texts(asked, await service.encode_and_answer(library.captions, picture, k=k))

    @routes.get(
        "/images/{image_id}/captions",
        summary="A picture of the library → its own texts, then others that fit",
        tags=["captions"],
        responses=_BY_ID_PROBLEMS,
    )
    async def image_captions(
        image_id: Annotated[int, Path(ge=0, le=MAX_ID)],
        k: Annotated[int, k_range] = min(DEFAULT_CAPTIONS, max_k),
    ) -> TextResults:
        asked = _Asked(QueryEcho(image=image_id), k)
        linked = await service.read(library.image_captions, image_id)
        # As many more as its own texts may take up, so that k others remain.
        ranked, model = await service.answer(library.captions_of, image_id, k=k + len(linked))
        scores = {hit.text.id: hit.score for hit in ranked}
        own = [TextAnswer.of(text, scores.get(text.id), linked=True) for text in linked]
        known = {text.id for text in linked}
        others = [TextAnswer.of_hit(hit) for hit in ranked if hit.text.id not in known]
        return TextResults(**asked.frame(model), hits=own + others[:k])

    @routes.get(
        "/images/{image_id}/similar",
        summary="A picture of the library → pictures like it",
        tags=["search"],
        responses=_BY_ID_PROBLEMS,
    )
    async def similar(
        image_id: Annotated[int, Path(ge=0, le=MAX_ID)],
        k: Annotated[int, k_range] = default_k,
        offset: _Offset = 0,
    ) -> ImageResults:
        asked = _Asked(QueryEcho(image=image_id), k, offset)
        return images(asked, await service.answer(library.similar, image_id, k=k, offset=offset))

    return routes


async def _uploaded(file: UploadFile, limit: int) -> bytes:
    """The upload's bytes. The guard has counted the whole body; this counts the file alone."""
    data = await file.read(limit + 1)
    if len(data) > limit:
        raise too_large(limit)
    if not data:
        raise QueryError("the upload is empty: send a picture in the form field 'file'")
    return data


def _words(q: str | None) -> str | None:
    return q if q and q.strip() else None
