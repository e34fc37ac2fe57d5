"""Vectors of texts and pictures, the way OpenAI's interface gives them.

So that programs written for it can use the library's model: POST /v1/embeddings, GET /v1/models,
GET /v1/models/NAME. See https://platform.openai.com/docs/api-reference/embeddings. Pictures come as
base64, which that interface does not know: as data URLs among the texts, or as objects. No address
is ever fetched.
"""

# No `from __future__ import annotations` here: FastAPI could not resolve the local names.

import base64
import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException

from mmsearch.batches import batches
from mmsearch.errors import IndexMissingError, QueryError
from mmsearch.serve import bodies
from mmsearch.serve.guard import too_large
from mmsearch.serve.problems import documented
from mmsearch.serve.schemas import MAX_QUERY_CHARS, Answer
from mmsearch.serve.service import Service
from mmsearch.types import Space

if TYPE_CHECKING:
    from mmsearch.types import Vectors

#: As OpenAI has it.
MAX_TEXTS = 2_048
MAX_PICTURES = 16
#: What the model takes at once; searches come in between.
_TURN = 32
#: Of a number in JSON.
_BYTES_A_NUMBER = 20
#: Names that stand for whatever model the library has.
_ANY_MODEL = frozenset({"", "mmsearch", "default"})

_ADDRESS = re.compile(r"\s{0,40}[A-Za-z][\w+.-]{0,40}:", re.ASCII)
_DATA_URL = re.compile(r"data:image/[\w.+*-]{1,50};base64,", re.ASCII)

_PROBLEMS = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class Url(BaseModel):
    """Where a picture is: in the address itself."""

    url: str


class Item(BaseModel):
    """A text or a picture."""

    type: Literal["text", "image_url", "input_text", "input_image"] | None = None
    text: str | None = None
    image: Annotated[str | None, Field(description="base64, or a data URL")] = None
    image_url: Annotated[Url | str | None, Field(description="a data URL")] = None


class EmbeddingsRequest(BaseModel):
    """What to embed."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"input": ["a red kite over a beach", "a boat"]}]},
    )

    input: str | Annotated[list[str | Item], Field(min_length=1, max_length=MAX_TEXTS)]
    model: Annotated[str, Field(max_length=500)] = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _understood(cls, given: Any) -> Any:
        """In one sentence what pydantic would say of each form that an input may have."""
        if not isinstance(given, list):
            return given
        if any(isinstance(one, int | list) for one in given[:MAX_TEXTS]):
            raise ValueError(
                "send texts, no tokens: this model has a tokenizer of its own (in LangChain: "
                "OpenAIEmbeddings(check_embedding_ctx_length=False))"
            )
        if not 1 <= len(given) <= MAX_TEXTS:
            raise ValueError(f"1 to {MAX_TEXTS:,} inputs at once, not {len(given):,}")
        return given


class Embedding(Answer):
    """One vector; of base64, the bytes are float32, little-endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Answer):
    """Words, roughly; pictures count as one."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Answer):
    """Vectors of unit norm, in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(Answer):
    """A model that vectors can be had of."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["mmsearch"] = "mmsearch"


class Models(Answer):
    """The library's model, or none while it is empty."""

    object: Literal["list"] = "list"
    data: list[Model]


def add_routes(routes: APIRouter, service: Service) -> None:
    """Adds the routes that give vectors."""
    library = service.library

    async def embeddings(asked: EmbeddingsRequest) -> Response:
        items = [asked.input] if isinstance(asked.input, str) else asked.input
        size = sum(map(_length, items))
        inputs = await bodies.read(service, size, lambda: [_read(item) for item in items])
        space = library.known_space
        while True:
            if _unfit(asked, space) is not None:  # another process may have changed the model
                space = await service.read(lambda: library.space)
            if (error := _unfit(asked, space)) is not None:
                raise error
            of, vectors = await _embed(service, inputs)
            if of is not None and of == space:
                break
            space = of or library.known_space
        words = sum(1 if isinstance(one, bytes) else len(one.split()) for one in inputs)
        usage = Usage(prompt_tokens=words, total_tokens=words)
        name, written_as = of.name, asked.encoding_format
        body = await bodies.read(
            service,
            len(vectors) * of.dim * _BYTES_A_NUMBER,
            lambda: _written(vectors, written_as, name, usage),
        )
        return Response(body, media_type="application/json")

    routes.add_api_route(
        "/v1/embeddings",
        embeddings,
        methods=["POST"],
        tags=["embeddings"],
        summary="Texts and pictures → vectors",
        response_model=Embeddings,
        responses=_PROBLEMS,
        route_class_override=bodies.LargeJsonRoute,
    )

    @routes.get("/v1/models", tags=["embeddings"], summary="The models that vectors can be had of")
    async def models() -> Models:
        name = await service.read(service.model)
        return Models(data=[] if name is None else [Model(id=name)])

    @routes.get(
        "/v1/models/{name:path}",
        tags=["embeddings"],
        summary="One of these models",
        responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def model(name: Annotated[str, Path(description="as /v1/models has it")]) -> Model:
        known = await service.read(service.model)
        if known is None or (name not in _ANY_MODEL and name != known):
            raise _no_model(name, known)
        return Model(id=known)


def _unfit(asked: EmbeddingsRequest, space: Space | None) -> Exception | None:
    """Why the library cannot give such vectors; None where it can."""
    if space is None:
        return IndexMissingError("the library is empty. Fill it with: mmsearch index FOLDER")
    if asked.model not in _ANY_MODEL and asked.model != space.name:
        return _no_model(asked.model, space.name)
    if asked.dimensions not in (None, space.dim):
        return QueryError(f"vectors of {space.name} have {space.dim} dimensions, and no others")
    return None


def _no_model(name: str, known: str | None) -> HTTPException:
    has = "the library is empty" if known is None else f"this library's is {known!r}"
    return HTTPException(HTTPStatus.NOT_FOUND, f"there is no model {name!r} here; {has}")


async def _embed(
    service: Service, inputs: Sequence[str | bytes]
) -> tuple[Space | None, "list[Vectors]"]:
    """The vectors (1, dim) of texts and of the bytes of pictures, and of which space.

    None where that changed meanwhile.
    """
    texts = [n for n, one in enumerate(inputs) if isinstance(one, str)]
    pictures = [n for n, one in enumerate(inputs) if isinstance(one, bytes)]
    if len(pictures) > MAX_PICTURES:
        raise QueryError(f"at most {MAX_PICTURES} pictures at once, not {len(pictures)}")
    vectors: dict[int, Vectors] = {}
    spaces: list[Space] = []
    for part in batches(texts, _TURN):
        space, found = await service.text_vectors([str(inputs[n]) for n in part])
        vectors |= {n: found[at : at + 1] for at, n in enumerate(part)}
        spaces.append(space)
    for n in pictures:
        data = inputs[n]
        assert isinstance(data, bytes)
        if len(data) > service.settings.max_upload_bytes:
            raise too_large(service.settings.max_upload_bytes)
        space, vectors[n] = await service.picture_vector(await service.picture(data))
        spaces.append(space)
    one = spaces[0] if all(space == spaces[0] for space in spaces) else None
    return one, [vectors[n] for n in range(len(inputs))]


def _read(item: str | Item) -> str | bytes:
    """A text, or the bytes of a picture."""
    if isinstance(item, str):
        return picture_bytes(item) if _DATA_URL.match(item) else _checked(item)
    url = item.image_url.url if isinstance(item.image_url, Url) else item.image_url
    given = [one for one in (item.text, item.image, url) if one is not None]
    if len(given) != 1:
        raise QueryError("an input is either a text or a picture")
    return _checked(given[0]) if item.text is not None else picture_bytes(given[0])


def _checked(text: str) -> str:
    if not text.strip():
        raise QueryError("an input is empty")
    if len(text) > MAX_QUERY_CHARS:
        raise QueryError(f"a text is longer than {MAX_QUERY_CHARS:,} characters")
    return text


def picture_bytes(text: str) -> bytes:
    """The bytes of a picture in base64, with or without "data:image/png;base64," before it.

    Raises QueryError: an address of something else; no base64.
    """
    head = _DATA_URL.match(text)
    if head is None and _ADDRESS.match(text):
        raise QueryError(
            "addresses of pictures are not fetched: send the picture itself, in base64 or as "
            "data:image/jpeg;base64,..."
        )
    try:
        return bodies.from_base64(text[head.end() if head else 0 :])
    except ValueError as exc:
        raise QueryError(f"the picture is no base64: {exc}") from exc


def _length(item: str | Item) -> int:
    if isinstance(item, str):
        return len(item)
    url = item.image_url.url if isinstance(item.image_url, Url) else item.image_url
    return sum(len(one) for one in (item.text, item.image, url) if one is not None)


def _written(
    vectors: "Sequence[Vectors]", encoding: Literal["float", "base64"], model: str, usage: Usage
) -> bytes:
    """`Embeddings` in JSON, one vector (1, dim) after the other: numbers take their time, and
    others get a turn in between."""
    rows = [
        json.dumps(
            {"object": "embedding", "index": n, "embedding": _numbers(row, encoding)},
            separators=(",", ":"),
        )
        for n, (row,) in enumerate(vectors)
    ]
    rest = Embeddings(data=[], model=model, usage=usage).model_dump_json(exclude={"object", "data"})
    return f'{{"object":"list","data":[{",".join(rows)}],{rest[1:]}'.encode()


def _numbers(row: Any, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    return cast("list[float]", row.tolist())
