"""The routes that answer questions: words, pictures or both → pictures or texts."""

# No `from __future__ import annotations` here: the limits in the signatures are this service's
# own, and FastAPI could not resolve them from strings.

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from mmsearch import filters
from mmsearch.errors import QueryError
from mmsearch.filters.conditions import MAX_CONDITIONS
from mmsearch.plaintext import in_utf8
from mmsearch.query import QueryPicture, Question, Term
from mmsearch.serve.forms import in_form
from mmsearch.serve.parameters import once
from mmsearch.serve.problems import advice, documented
from mmsearch.serve.schemas import (
    DEFAULT_K,
    MAX_ID,
    MAX_OFFSET,
    MAX_QUERY_CHARS,
    MAX_WHERE_CHARS,
    Facets,
    Given,
    ImageAnswer,
    ImageResults,
    Part,
    QueryEcho,
    Refinement,
    SearchRequest,
    TextAnswer,
    TextResults,
    all_of,
    condition,
)
from mmsearch.serve.service import Service
from mmsearch.types import Answer, ImageHit, Modality, TextHit

DEFAULT_CAPTIONS = 5
#: What can be wrong with a question, and with the service that is asked.
_PROBLEMS = documented(
    HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
)
_UPLOAD_PROBLEMS = _PROBLEMS | documented(
    HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
)
_BY_ID_PROBLEMS = _PROBLEMS | documented(HTTPStatus.NOT_FOUND, HTTPStatus.GONE)

#: Pictures in one upload.
MAX_UPLOADS = 10

_Words = Query(
    min_length=1,
    max_length=MAX_QUERY_CHARS,
    pattern=r"\S",
    description="what to look for, in words",
    examples=["a red kite over a beach"],
)
_Exact = Annotated[bool, Query(description="compare with every vector")]
#: In an address a name may stand several times. Described as what it is each time: one condition
#: alone is no list to JSON Schema.
_Conditions = Annotated[
    list[Annotated[str, Field(max_length=MAX_WHERE_CHARS)]],
    WithJsonSchema({"type": "string", "maxLength": MAX_WHERE_CHARS}),
    Field(
        max_length=MAX_CONDITIONS,
        description="what an answer must satisfy (see deploy/filters.md); given several times, "
        "all of them",
        examples=["taken:2019..2021 and orientation:landscape"],
    ),
]
_Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="answers to leave out")]


class _Ask(Refinement):
    """A question in an address, in which other programs leave marks of their own."""

    model_config = ConfigDict(extra="ignore")

    q: Annotated[str, _Words]
    k: int
    # A list of texts: no JSON stands in an address.
    where: _Conditions = Field(default_factory=list)  # type: ignore[assignment]


class _Form(Refinement):
    """A question in a form with pictures."""

    q: Annotated[str, Field(max_length=MAX_QUERY_CHARS, description="words to add")] = ""
    k: int
    modality: Annotated[Modality, Field(description="what to find")] = "image"
    question: Annotated[
        str,
        Field(
            description="instead of the other fields: a SearchRequest in JSON, whose parts may "
            'name uploads by number, as {"upload": 0, "weight": -1}'
        ),
    ] = ""


class _CaptionsForm(Given):
    """A picture to find texts for."""

    k: int
    exact: Annotated[bool, Field(description="compare with every vector")] = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as it was understood, and when it came (by time.perf_counter)."""

    echo: QueryEcho
    k: int
    offset: int = 0
    min_relevance: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def frame(self, answer: Answer[Any], model: str | None) -> dict[str, Any]:
        """What every list of answers says about its question."""
        return {
            "query": self.echo,
            "k": self.k,
            "offset": self.offset,
            "allowed": answer.allowed,
            "cut": answer.cut,
            "min_relevance": self.min_relevance,
            "nearest": None if answer.nearest is None else round(answer.nearest, 4),
            "took_ms": round((time.perf_counter() - self.began) * 1000, 3),
            "model": model,
        }


def add_routes(routes: APIRouter, service: Service) -> None:
    """Adds the routes that search, for this service."""
    library, max_k = service.library, service.settings.max_k
    default_k = min(DEFAULT_K, max_k)
    k_range = Query(ge=1, le=max_k, description="answers to give")
    k_field = Field(ge=1, le=max_k, description="answers to give")
    search_request = create_model(
        "SearchRequest",
        __base__=SearchRequest,
        k=(Annotated[int, k_field], default_k),
    )
    ask = create_model("Ask", __base__=_Ask, k=(Annotated[int, k_field], default_k))
    read_address, in_address = _in_address(ask)
    read_request = TypeAdapter(search_request)
    limit = service.settings.max_upload_bytes
    search_form = create_model("SearchForm", __base__=_Form, k=(Annotated[int, k_field], default_k))
    read_form, in_search_form = in_form(search_form, MAX_UPLOADS, limit)
    default_captions = min(DEFAULT_CAPTIONS, max_k)
    captions_form = create_model(
        "CaptionsForm", __base__=_CaptionsForm, k=(Annotated[int, k_field], default_captions)
    )
    read_captions, in_captions_form = in_form(captions_form, 1, limit)

    def images(asked: _Asked, found: tuple[Answer[ImageHit], str | None]) -> ImageResults:
        answer, model = found
        show_gps = service.settings.show_gps
        hits = [ImageAnswer.facts_of_hit(hit, show_gps=show_gps) for hit in answer.hits]
        return ImageResults.model_validate({**asked.frame(answer, model), "hits": hits})

    def texts(asked: _Asked, found: tuple[Answer[TextHit], str | None]) -> TextResults:
        answer, model = found
        hits = [TextAnswer.of_hit(hit) for hit in answer.hits]
        return TextResults(**asked.frame(answer, model), hits=hits)

    async def respond(
        body: SearchRequest, uploads: Sequence[QueryPicture] = ()
    ) -> ImageResults | TextResults:
        parts = body.all_parts
        if uploads and all(part.upload is None for part in parts):
            parts += [Part(upload=number) for number in range(len(uploads))]
        options = body.options(places=service.settings.show_gps)
        terms = tuple(_term(part, uploads) for part in parts)
        question = Question(terms, k=body.k, **options)
        asked = _Asked(_echo(parts, question), body.k, body.offset, body.min_relevance)
        needs_model = any(part.image_id is None for part in parts)
        call = service.encode_and_answer if needs_model else service.answer
        if body.modality == "image":
            return images(asked, await call(library.ask, question))
        return texts(asked, await call(library.ask_texts, question))

    @routes.get(
        "/v1/search",
        summary="Words → pictures",
        tags=["search"],
        responses=_PROBLEMS,
        openapi_extra=in_address,
    )
    async def search(request: Request) -> ImageResults:
        return cast(ImageResults, await respond(_request(read_address(request), "image")))

    @routes.get(
        "/v1/texts/search",
        summary="Words → texts",
        tags=["search"],
        responses=_PROBLEMS,
        openapi_extra=in_address,
    )
    async def search_texts(request: Request) -> TextResults:
        return cast(TextResults, await respond(_request(read_address(request), "text")))

    @routes.post(
        "/v1/search",
        summary="Words, pictures of the library, weighted parts → pictures or texts",
        tags=["search"],
        responses=_UPLOAD_PROBLEMS | _BY_ID_PROBLEMS,
    )
    async def search_json(question: search_request) -> ImageResults | TextResults:  # type: ignore[valid-type]
        return await respond(question)

    @routes.post(
        "/v1/search/image",
        summary="Uploaded pictures (and words) → pictures or texts",
        tags=["search"],
        responses=_UPLOAD_PROBLEMS,
        openapi_extra=in_search_form,
    )
    async def search_upload(request: Request) -> ImageResults | TextResults:
        form, files = await read_form(request)
        asked = (
            _read_question(read_request, form)
            if form.question.strip()
            else _request(form, form.modality)
        )
        return await respond(asked, [await service.picture(data) for data in files])

    @routes.post(
        "/v1/captions",
        summary="An uploaded picture → texts of the library that describe it",
        tags=["captions"],
        responses=_UPLOAD_PROBLEMS,
        openapi_extra=in_captions_form,
    )
    async def captions(request: Request) -> TextResults:
        form, (data,) = await read_captions(request)
        asked = SearchRequest(k=form.k, modality="text", exact=form.exact)
        return cast(TextResults, await respond(asked, [await service.picture(data)]))

    @routes.get(
        "/v1/images/{image_id}/captions",
        summary="A picture of the library → its own texts, then others that fit",
        description="All texts that were written for the picture come first, then up to k others, "
        "best first: `hits` may hold more than k. POST /v1/search with image_id ranks them all.",
        tags=["captions"],
        responses=_BY_ID_PROBLEMS,
    )
    async def image_captions(
        image_id: Annotated[int, Path(ge=0, le=MAX_ID)],
        k: Annotated[int, k_range] = default_captions,
        exact: _Exact = False,
    ) -> TextResults:
        asked = _Asked(QueryEcho(image=image_id, parts=[Part(image_id=image_id)]), k)
        linked = await service.read(library.image_captions, image_id)
        # As many more as its own texts may take up, so that k others remain.
        question = Question((Term(image_id=image_id),), k=k + len(linked), exact=exact)
        answer, model = await service.answer(library.ask_texts, question)
        found = {hit.text.id: hit for hit in answer.hits}
        far = [text.id for text in linked if text.id not in found]
        scores = await service.read(library.cosines, image_id, far) if far else {}
        own = [
            TextAnswer.of_hit(found[text.id])
            if text.id in found
            else TextAnswer.of(text, scores.get(text.id), linked=True)
            for text in linked
        ]
        known = {text.id for text in linked}
        others = [TextAnswer.of_hit(hit) for hit in answer.hits if hit.text.id not in known]
        return TextResults(**asked.frame(answer, model), hits=own + others[:k])

    @routes.get(
        "/v1/images/{image_id}/similar",
        summary="A picture of the library → pictures like it",
        tags=["search"],
        responses=_BY_ID_PROBLEMS,
    )
    async def similar(
        image_id: Annotated[int, Path(ge=0, le=MAX_ID)],
        k: Annotated[int, k_range] = default_k,
        offset: _Offset = 0,
        exact: _Exact = False,
    ) -> ImageResults:
        request = SearchRequest(image_id=image_id, k=k, offset=offset, exact=exact)
        return cast(ImageResults, await respond(request))

    @routes.get(
        "/v1/facets",
        summary="What the pictures have in common that satisfy a condition",
        tags=["search"],
        responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def facets(
        where: Annotated[_Conditions, Query()] = [],  # noqa: B006
    ) -> Facets:
        allowed = condition(all_of(where), places=service.settings.show_gps)
        return Facets.of(await service.read(library.facets, allowed))


def _in_address(ask: type[_Ask]) -> tuple[Callable[[Request], _Ask], dict[str, Any]]:
    """What reads a question in an address, and how OpenAPI describes its parameters.

    FastAPI would do both for a parameter `Annotated[ask, Query()]`, but its way to read one took a
    fifth of all that HTTP costs of a search. Raises what it raises, RequestValidationError, and so
    for a name that stands there twice, unless it is that of conditions.
    """
    reader = TypeAdapter(ask)
    schema = ask.model_json_schema()
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": name in schema["required"],
            "schema": field,
            "description": field["description"],
        }
        for name, field in schema["properties"].items()
    ]

    def read(request: Request) -> _Ask:
        params = request.query_params
        given: dict[str, Any] = dict(params)
        if "where" in given:
            given["where"] = params.getlist("where")
        if len(params.multi_items()) > len(given):
            once(params, schema["properties"].keys() - {"where"})
        try:
            return reader.validate_python(given)
        except ValidationError as exc:
            errors = [{**error, "loc": ("query", *error["loc"])} for error in exc.errors()]
            raise RequestValidationError(errors) from exc

    return read, {"parameters": parameters}


def _request(asked: _Ask | _Form, modality: Modality) -> SearchRequest:
    fields = asked.model_dump(exclude={"modality", "question"})
    if isinstance(asked, _Ask):
        fields["where"] = all_of(asked.where)
    return SearchRequest(**fields, modality=modality)


def _read_question(reader: TypeAdapter[Any], form: _Form) -> SearchRequest:
    beside = sorted(form.model_fields_set - {"question"})
    if beside:
        raise QueryError(
            f"the form field 'question' stands instead of the others: write {beside[0]!r} into it"
        )
    try:
        return cast(SearchRequest, reader.validate_json(form.question))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = f"{where}: {advice(first)}" if where else advice(first)
        raise QueryError(f"in the form field 'question': {said}") from exc


def _term(part: Part, uploads: Sequence[QueryPicture]) -> Term:
    image = None
    if part.upload is not None:
        if part.upload >= len(uploads):
            raise QueryError(f"there is no upload number {part.upload} (they count from 0)")
        image = uploads[part.upload]
    return Term(text=part.text, image=image, image_id=part.image_id, weight=part.weight)


def _echo(parts: Sequence[Part], question: Question) -> QueryEcho:
    wanted = [part for part in parts if part.weight > 0]
    pictures = ["upload" if p.upload is not None else p.image_id for p in wanted if p.text is None]
    return QueryEcho(
        q=" + ".join(p.text for p in wanted if p.text is not None) or None,
        image=cast("Any", next(iter(pictures), None)),
        parts=[] if len(parts) == 1 and parts[0].weight == 1 else list(parts),
        where=None if question.where is None else in_utf8(filters.to_text(question.where)),
    )
