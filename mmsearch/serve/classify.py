"""The route that sorts pictures and texts into classes that the request names."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from mmsearch import prompts
from mmsearch.batches import batches
from mmsearch.classify import BACKGROUND, Classifier, Guess, Label, checked, parse_labels, sentences
from mmsearch.errors import DecodeError, NotFoundError, QueryError, SpaceMismatchError
from mmsearch.plaintext import in_utf8
from mmsearch.serve.forms import check_names
from mmsearch.serve.guard import too_large
from mmsearch.serve.problems import documented
from mmsearch.serve.schemas import MAX_QUERY_CHARS, Answer, Given, ImageId, file_name
from mmsearch.serve.service import Service

if TYPE_CHECKING:
    from mmsearch.query import QueryPicture
    from mmsearch.types import Space, Vectors

MAX_LABELS = 500
#: Of all labels together: each takes the model a few milliseconds, and searches wait meanwhile.
MAX_SENTENCES = 2_000
MAX_FILES = 64
MAX_ITEMS = 1_000
MAX_TOP = 100
DEFAULT_TOP = 5
#: Sentences and pictures that the model takes at once; searches come in between.
_TURN = 32

_PROBLEMS = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)

_Sentence = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS, pattern=r"\S")]
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class LabelRequest(Given):
    """A class and the sentences that stand for it."""

    name: _Name
    prompts: list[_Sentence] = Field(default_factory=list, max_length=100)


class ClassifyOptions(Given):
    """How to classify."""

    multi: bool = Field(False, description="several labels may be true at once, or none")
    templates: Literal["none", "photo", "simple"] = Field(
        "simple", description="sentences around the names of labels that have no prompts"
    )
    top: Annotated[int, Field(ge=1, le=MAX_TOP, description="labels to give for each")] = (
        DEFAULT_TOP
    )


class ClassifyRequest(ClassifyOptions):
    """Pictures of the library, or texts, and the labels to choose from."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"labels": ["beach", "forest", "city"], "image_ids": [7, 8]},
                {
                    "labels": [{"name": "boat", "prompts": ["a sailing boat", "a ship"]}, "kite"],
                    "texts": ["two yachts at sunset"],
                    "multi": True,
                },
            ]
        }
    )

    labels: Annotated[list[_Name | LabelRequest], Field(min_length=1, max_length=MAX_LABELS)]
    image_ids: list[ImageId] = Field(default_factory=list, max_length=MAX_ITEMS)
    texts: list[_Sentence] = Field(default_factory=list, max_length=MAX_ITEMS)


class LabelGuess(Answer):
    """A label and how probable it is."""

    label: str
    probability: float = Field(description="of all labels; with `multi`, of this one by itself")
    score: float = Field(description="the cosine similarity that it follows from")

    @classmethod
    def of(cls, guess: Guess) -> LabelGuess:
        """The guess as it goes over the wire."""
        return cls(
            label=in_utf8(guess.label),
            probability=round(guess.probability, 6),
            score=round(guess.score, 6),
        )


class Classified(Answer):
    """What one picture or text is about, the most probable label first."""

    image: int | None = Field(None, description="its id, if the library has the picture")
    file: str | None = Field(None, description="the name of the upload")
    text: str | None = None
    labels: list[LabelGuess] = Field(default_factory=list)
    problem: str | None = Field(None, description="why an upload could not be classified")


class ClassifyResults(Answer):
    """Each item in the order asked: uploads, or pictures of the library, then texts."""

    model: str | None
    multi: bool
    took_ms: float
    items: list[Classified]


@dataclass(frozen=True, slots=True)
class _Item:
    """What is asked about: a row of `vectors`, or why there is none."""

    about: dict[str, Any]
    vector: Vectors | None
    problem: str | None = None


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": ClassifyRequest.model_json_schema(
                    ref_template="#/components/schemas/{model}"
                )
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "labels"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": f"pictures, in any format; at most {MAX_FILES}",
                        },
                        "labels": {
                            "type": "string",
                            "description": "one a line: a name, or a name, a tab, and prompts "
                            'with "|" between them; the field may be repeated',
                        },
                        **ClassifyOptions.model_json_schema()["properties"],
                    },
                }
            },
        },
    }
}
#: FastAPI collects the schemas of the bodies it reads itself; this one it does not.
_DEFINITIONS = _BODY["requestBody"]["content"]["application/json"]["schema"].pop("$defs")
_LABEL_REFERENCE = {"$ref": "#/components/schemas/LabelRequest"}
_LABEL_ITEMS = _BODY["requestBody"]["content"]["application/json"]["schema"]["properties"]["labels"]
_LABEL_ITEMS["items"]["anyOf"] = [
    _DEFINITIONS["LabelRequest"] if option == _LABEL_REFERENCE else option
    for option in _LABEL_ITEMS["items"]["anyOf"]
]


def add_routes(routes: APIRouter, service: Service) -> None:
    """Adds the route that classifies, for this service."""

    @routes.post(
        "/v1/classify",
        summary="Pictures or texts → which of some labels they are about",
        tags=["classify"],
        responses=_PROBLEMS,
        openapi_extra=_BODY,
    )
    async def classify(request: Request) -> ClassifyResults:
        began = time.perf_counter()
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            question, pictures = await _form(request, service)
        else:
            question, pictures = _valid(ClassifyRequest, await _document(request)), []
            if not question.image_ids and not question.texts:
                raise QueryError("give image_ids (pictures of the library) or texts to classify")
        labels = _labels(question.labels)
        asked = _Asked(service)
        space = await asked.begin()
        classifier = await asked.classifier(labels, question)
        items = [
            *[await asked.upload(name, picture) for name, picture in pictures],
            *await asked.stored(question.image_ids),
            *await asked.texts(question.texts),
        ]
        answers = await service.read(_answers, classifier, items, question.top)
        return ClassifyResults(
            model=space.name,
            multi=question.multi,
            took_ms=round((time.perf_counter() - began) * 1000, 3),
            items=answers,
        )


class _Asked:
    """One request's use of the model: in turns, so that searches are not held up by it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._library = service.library
        self._space: Space | None = None
        self._scale = 0.0

    async def begin(self) -> Space:
        """The space of this request. Loads the model if need be; IndexMissingError without one."""
        encoder = await self._service.infer(self._library.encoder)
        self._space, self._scale = encoder.space, encoder.logit_scale
        return encoder.space

    async def _encoded(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """text → (dim,)."""
        found: dict[str, Vectors] = {}
        for turn in batches(dict.fromkeys(texts), _TURN):

            def encode(turn: list[str] = turn) -> tuple[Space, Vectors]:
                encoder = self._library.text_encoder()
                return encoder.space, encoder.encode_texts(turn)

            space, vectors = await self._service.infer(encode)
            self._same(space)
            found |= dict(zip(turn, vectors, strict=True))
        return found

    def _same(self, space: Space) -> None:
        # Another process may move the library to another model meanwhile.
        if self._space is None or space.fingerprint != self._space.fingerprint:
            raise SpaceMismatchError(
                space.name, "none" if self._space is None else self._space.name
            )

    async def classifier(self, labels: Sequence[Label], options: ClassifyOptions) -> Classifier:
        """The labels as vectors. QueryError when they have too many sentences."""
        templates = prompts.TEMPLATES[options.templates]
        wanted = [
            text for label in labels for text in label.prompts or sentences(label.name, templates)
        ]
        if len(wanted) > MAX_SENTENCES:
            raise QueryError(
                f"{len(labels):,} labels with {len(wanted):,} sentences in all are too many: at "
                f'most {MAX_SENTENCES:,}. Give fewer, or "templates": "photo"'
            )
        known = await self._encoded([*wanted, *(BACKGROUND if options.multi else ())])
        return Classifier.make(
            labels,
            lambda texts: np.stack([known[text] for text in texts]),
            scale=self._scale,
            templates=templates,
            multi=options.multi,
        )

    async def upload(self, name: str, picture: QueryPicture | DecodeError) -> _Item:
        """An uploaded picture. One the library knows is not encoded."""
        about: dict[str, Any] = {"file": name}
        if isinstance(picture, DecodeError):
            return _Item(about, None, picture.reason)
        about["image"] = picture.content_id
        if picture.content_id is not None:
            known = await self._vectors([picture.content_id])
            if picture.content_id in known:
                return _Item(about, known[picture.content_id])
        pixels = picture.pixels
        if pixels is None:  # the library knows its bytes, but has no vector of this model
            side = await self._service.infer(self._library.picture_side)
            again = await self._service.read(self._library.decode_picture, picture, side)
            pixels = again.pixels

        def encode() -> tuple[Space, Vectors]:
            encoder = self._library.encoder()
            assert pixels is not None
            return encoder.space, encoder.encode_images(encoder.preprocess(pixels)[None])[0]

        space, vector = await self._service.infer(encode)
        self._same(space)
        return _Item(about, vector)

    async def stored(self, ids: Sequence[int]) -> list[_Item]:
        """Pictures of the library. Raises NotFoundError."""
        if not ids:
            return []
        known = await self._vectors(ids)
        for id_ in ids:
            if id_ not in known:
                raise NotFoundError("image", id_)
        return [_Item({"image": id_}, known[id_]) for id_ in ids]

    async def _vectors(self, ids: Sequence[int]) -> dict[int, Vectors]:
        """The stored vectors of those of these pictures that some file still holds."""

        def read() -> tuple[Space | None, dict[int, Vectors]]:
            catalog = self._library.catalog
            active = catalog.active_space()
            if active is None:
                return None, {}
            there = catalog.image_records(ids)
            found = catalog.vectors.of(active[0], list(there))
            return active[1], {
                int(id_): row.astype(np.float32)
                for some, rows in found
                for id_, row in zip(some, rows, strict=True)
            }

        space, found = await self._service.read(read)
        if space is not None:
            self._same(space)
        return found

    async def texts(self, texts: Sequence[str]) -> list[_Item]:
        known = await self._encoded(texts)
        return [_Item({"text": text}, known[text]) for text in texts]


def _answers(classifier: Classifier, items: Sequence[_Item], top: int) -> list[Classified]:
    vectors = [item.vector for item in items if item.vector is not None]
    guesses = iter(classifier.guesses(np.stack(vectors), top) if vectors else ())
    return [
        Classified(**item.about, problem=in_utf8(item.problem or "it cannot be read"))
        if item.vector is None
        else Classified(**item.about, labels=[LabelGuess.of(guess) for guess in next(guesses)])
        for item in items
    ]


def _labels(given: Sequence[str | LabelRequest]) -> tuple[Label, ...]:
    return checked(
        [
            Label(label) if isinstance(label, str) else Label(label.name, tuple(label.prompts))
            for label in given
        ]
    )


async def _document(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as exc:  # bad UTF-8 is one too
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body",), "msg": f"this is not JSON: {exc}"}]
        ) from exc


def _valid(model: type[ClassifyRequest], document: Any) -> ClassifyRequest:
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        found = [{**error, "loc": ("body", *error["loc"])} for error in exc.errors()]
        raise RequestValidationError(found) from exc


async def _form(
    request: Request, service: Service
) -> tuple[ClassifyRequest, list[tuple[str, QueryPicture | DecodeError]]]:
    """The question of a form, and its pictures, decoded unless the library knows them."""
    limit = service.settings.max_upload_bytes
    async with request.form(max_files=MAX_FILES, max_fields=MAX_LABELS + 10) as form:
        lines = [
            line
            for text in form.getlist("labels")
            if isinstance(text, str)
            for line in text.splitlines()
        ]
        several = {"file", "labels"}
        check_names(form, {*several, *ClassifyOptions.model_fields}, several)
        fields: dict[str, Any] = {
            key: form[key] for key in ClassifyOptions.model_fields if key in form
        }
        found = [
            {"name": label.name, "prompts": list(label.prompts)} for label in parse_labels(lines)
        ]
        question = _valid(ClassifyRequest, _plain({**fields, "labels": found}))
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        if not files:
            raise QueryError("send one or more pictures in the form field 'file'")
        pictures: list[tuple[str, QueryPicture | DecodeError]] = []
        for file in files:
            data = await file.read(limit + 1)
            if len(data) > limit:
                raise too_large(limit)
            name = file_name(file.filename or "")
            try:
                pictures.append((name, await service.picture(data)))
            except DecodeError as exc:
                # The others are classified all the same.
                pictures.append((name, exc.with_traceback(None)))  # which holds them all
    return question, pictures


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without those that are files where words were wanted."""
    return {key: value for key, value in fields.items() if not isinstance(value, UploadFile)}
