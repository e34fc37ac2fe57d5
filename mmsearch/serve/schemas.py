"""What goes over the wire: requests and answers, and how the library's records become them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from mmsearch import filters
from mmsearch.errors import QueryError
from mmsearch.overview import (
    IndexStatus,
    LibraryStatus,
    SpaceStatus,
)
from mmsearch.plaintext import in_utf8
from mmsearch.query import MAX_TERMS
from mmsearch.types import (
    ImageHit,
    ImageRecord,
    TextHit,
    TextRecord,
)

MAX_QUERY_CHARS = 2_000
MAX_WHERE_CHARS = 10_000
#: How deep a result list can be read.
MAX_OFFSET = 10_000
DEFAULT_K = 20
#: Ids are SQLite integers, of which JSON carries these exactly everywhere.
MAX_ID = 2**53 - 1

ImageId = Annotated[int, Field(ge=0, le=MAX_ID)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]


def version_token(record: ImageRecord) -> str:
    """A short name for this picture as it is now, for ETags and cacheable addresses.

    An id alone is not enough: another library served on the same port has the same ids.
    """
    info = record.info
    facts = f"{record.id}|{record.path}|{record.bytes}|{info.width}x{info.height}"
    return hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


#: No "date-time", which has a zone.
_LOCAL_TIME = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "description": "local time, as the camera wrote it",
    "examples": ["2021-06-05T12:34:56"],
}


class Answer(BaseModel):
    """Whatever the service answers with."""

    model_config = ConfigDict(ser_json_inf_nan="null")


class Given(BaseModel):
    """Whatever the service is sent in JSON. A name that it does not know is refused: otherwise a
    condition that is misspelt would be none."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answer):
    """RFC 9457. `type` is for programs, `detail` says what to do."""

    type: str = Field(examples=["urn:mmsearch:problem:not-found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no image 7 in this library"])
    instance: str | None = Field(None, examples=["/v1/images/7"])
    request_id: str | None = Field(None, description="the same as in X-Request-ID and the logs")
    errors: list[dict[str, str]] | None = None


class ImageLinks(Answer):
    """Addresses of one picture, relative to the service."""

    self: str
    file: str
    thumbnail: str
    captions: str
    similar: str


class Image(Answer):
    """One picture of the library."""

    id: int
    path: str = Field(description='a member of an archive is "archive.zip!/name.jpg"')
    name: str = Field(description="the file name alone")
    width: int
    height: int
    format: str
    bytes: int
    taken_at: Annotated[datetime | None, WithJsonSchema(_LOCAL_TIME)] = None
    camera: str | None = None
    title: str | None = None
    description: str | None = None
    keywords: list[str] = []
    latitude: float | None = Field(None, description="only where MMSEARCH_SHOW_GPS is set")
    longitude: float | None = Field(None, description="only where MMSEARCH_SHOW_GPS is set")
    captions: list[str] = Field([], description="texts that were written for this picture")
    copies: list[str] = Field([], description="further files with the same content")
    urls: ImageLinks

    @staticmethod
    def facts(record: ImageRecord, captions: tuple[str, ...], *, show_gps: bool) -> dict[str, Any]:
        """The fields of this class for a record of the catalog: many are validated in one go."""
        info = record.info
        here = f"/v1/images/{record.id}"
        token = version_token(record)
        return {
            "id": record.id,
            "path": in_utf8(record.path),
            "name": file_name(record.path),
            "width": info.width,
            "height": info.height,
            "format": info.format,
            "bytes": record.bytes,
            "taken_at": info.taken_at,
            "camera": _clean(info.camera),
            "title": _clean(info.title),
            "description": _clean(info.description),
            "keywords": [in_utf8(word) for word in info.keywords],
            "latitude": info.latitude if show_gps else None,
            "longitude": info.longitude if show_gps else None,
            "captions": [in_utf8(text) for text in captions],
            "copies": [in_utf8(path) for path in record.copies],
            "urls": {
                "self": here,
                "file": f"{here}/file?v={token}",
                "thumbnail": f"{here}/thumbnail?v={token}",
                "captions": f"{here}/captions",
                "similar": f"{here}/similar",
            },
        }

    @classmethod
    def of(cls, record: ImageRecord, captions: tuple[str, ...], *, show_gps: bool) -> Self:
        """The picture as it goes over the wire."""
        return cls(**cls.facts(record, captions, show_gps=show_gps))


class ImageAnswer(Image):
    """A picture that answers a query."""

    score: float = Field(description="cosine similarity, in [-1, 1]", examples=[0.3127])
    relevance: float | None = Field(
        None, description="how sure it is that it answers, in [0, 1]", examples=[0.97]
    )
    similar: list[int] = Field(
        [], description="near-duplicates that it stands for, where they are grouped"
    )

    @staticmethod
    def facts_of_hit(hit: ImageHit, *, show_gps: bool) -> dict[str, Any]:
        """The fields of this class for a hit."""
        return {
            **Image.facts(hit.image, hit.captions, show_gps=show_gps),
            "score": _score(hit.score),
            "relevance": _relevance(hit.relevance),
            "similar": list(hit.similar),
        }


class FacetCount(Answer):
    """So many pictures have this value; `filter` finds them."""

    value: str
    count: int
    filter: str


class Facets(Answer):
    """What pictures have in common, counted; the commonest first, years and months in order."""

    total: int
    sources: list[FacetCount]
    years: list[FacetCount]
    months: list[FacetCount]
    cameras: list[FacetCount]
    formats: list[FacetCount]
    orientations: list[FacetCount]
    keywords: list[FacetCount]
    tags: list[FacetCount]
    has: list[FacetCount]

    @classmethod
    def of(cls, facets: filters.Facets) -> Self:
        """The counts as they go over the wire."""
        lists = {
            name: [
                FacetCount(value=in_utf8(c.value), count=c.count, filter=in_utf8(c.filter))
                for c in getattr(facets, name)
            ]
            for name in cls.model_fields
            if name != "total"
        }
        return cls(total=facets.total, **lists)


class TextAnswer(Answer):
    """A text that answers a query."""

    id: int
    score: float | None = Field(
        description="cosine similarity, in [-1, 1]; null for a linked text without a vector yet"
    )
    relevance: float | None = Field(None, description="how sure it is that it fits, in [0, 1]")
    text: str
    source: str = Field(description="where the text was read from")
    image_ids: list[int] = Field(description="the pictures it was written for")
    linked: bool = Field(description="it was written for the very picture asked about")

    @classmethod
    def of(
        cls,
        record: TextRecord,
        score: float | None,
        *,
        linked: bool,
        relevance: float | None = None,
    ) -> Self:
        """The text as it goes over the wire."""
        return cls(
            id=record.id,
            score=None if score is None else _score(score),
            relevance=_relevance(relevance),
            text=in_utf8(record.body),
            source=in_utf8(record.source),
            image_ids=list(record.image_ids),
            linked=linked,
        )

    @classmethod
    def of_hit(cls, hit: TextHit) -> Self:
        """The hit as it goes over the wire."""
        return cls.of(hit.text, hit.score, linked=hit.linked, relevance=hit.relevance)


class Part(Given):
    """A weighted part of a question: words, a picture of the library, or an uploaded one."""

    model_config = ConfigDict(strict=True)

    text: Annotated[str, Field(max_length=MAX_QUERY_CHARS)] | None = None
    image_id: ImageId | None = None
    upload: Annotated[int, Field(ge=0, description="which of the uploads, from 0")] | None = None
    weight: Annotated[float, Field(description="below 0: to be avoided", examples=[0.5, -1])] = 1.0


class QueryEcho(Answer):
    """The question as it was understood."""

    q: Annotated[str | None, Field(description="the words looked for")] = None
    image: Annotated[
        int | Literal["upload"] | None, Field(description="the first picture looked for")
    ] = None
    parts: list[Part] = []
    where: str | None = None


class Results(Answer):
    """What every list of answers says about itself."""

    query: QueryEcho
    k: int
    offset: int
    allowed: int = Field(description="how many items `where` let through to be compared")
    cut: int = Field(
        description="how many more would stand here if none were left out as too weak; where there "
        "are such, no more follow"
    )
    min_relevance: float = Field(description="weaker ones are left out")
    nearest: float | None = Field(description="the greatest relevance of all that was left out")
    took_ms: float = Field(description="from the request to the answer, waiting included")
    model: str | None = Field(description="the model that compared; null in an empty library")


class ImageResults(Results):
    """Pictures, best first."""

    modality: Literal["image"] = "image"
    hits: list[ImageAnswer]


class TextResults(Results):
    """Texts, best first; of /v1/images/ID/captions the picture's own before others."""

    modality: Literal["text"] = "text"
    hits: list[TextAnswer]


class Refinement(Given):
    """What may be found, and how answers are ranked; the same for every way to ask."""

    offset: Annotated[Offset, Field(description="answers to leave out")] = 0
    where: Annotated[
        Annotated[str, Field(max_length=MAX_WHERE_CHARS)] | dict[str, Any] | None,
        Field(
            description="what an answer must satisfy, in words or in JSON (see deploy/filters.md)",
            examples=["taken:2019..2021 and orientation:landscape"],
        ),
    ] = None
    min_score: Annotated[
        float | None, Field(ge=-1, le=1, description="least cosine similarity")
    ] = None
    min_relevance: Annotated[
        float, Field(ge=0, le=1, description="least relevance; 0 keeps all")
    ] = 0.0
    words: Annotated[bool, Field(description="names of files, captions and keywords count too")] = (
        True
    )
    expand: Annotated[bool, Field(description="short words are put into sentences")] = False
    exact: Annotated[bool, Field(description="compare with every vector")] = False
    diversity: Annotated[
        float, Field(ge=0, lt=1, description="more: answers differ more from each other")
    ] = 0.0
    group: Annotated[bool, Field(description="near-duplicates come as one answer")] = False

    def options(self, *, places: bool) -> dict[str, Any]:
        """The fields as mmsearch.query.Question takes them. `places` as in `condition`."""
        options = self.model_dump(include=set(Refinement.model_fields))
        return options | {"where": condition(self.where, places=places)}


class SearchRequest(Refinement):
    """A question in JSON: words, pictures of the library, or weighted parts of both."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {"q": "a red kite over a beach", "k": 12},
                {"q": "at night", "image_id": 7},
                {"like": [3, 7], "unlike": [12], "where": "taken:2019"},
                {"parts": [{"text": "beach"}, {"text": "people", "weight": -1}]},
            ]
        },
    )

    q: Annotated[str, Field(max_length=MAX_QUERY_CHARS)] | None = None
    image_id: ImageId | None = None
    parts: Annotated[list[Part], Field(max_length=MAX_TERMS)] = []
    like: Annotated[
        list[ImageId], Field(max_length=MAX_TERMS, description="pictures to be like")
    ] = []
    unlike: Annotated[
        list[ImageId], Field(max_length=MAX_TERMS, description="pictures not to be like")
    ] = []
    k: Annotated[int, Field(ge=1)] = DEFAULT_K
    modality: Literal["image", "text"] = "image"

    @property
    def all_parts(self) -> list[Part]:
        """Every part of the question, however it was written."""
        parts = list(self.parts)
        if self.q and self.q.strip():
            parts.append(Part(text=self.q))
        liked = [*([] if self.image_id is None else [self.image_id]), *self.like]
        parts += [Part(image_id=id_) for id_ in liked]
        return parts + [Part(image_id=id_, weight=-1) for id_ in self.unlike]


class Space(Answer):
    """A model and how much of the library it has embedded."""

    model: str
    dim: int
    fingerprint: str
    preprocessing: str
    active: bool
    images: int
    texts: int

    @classmethod
    def of(cls, status: SpaceStatus) -> Self:
        """The space as it goes over the wire."""
        space = status.space
        return cls(
            model=space.name,
            dim=space.dim,
            fingerprint=space.fingerprint,
            preprocessing=space.preprocessing,
            active=status.active,
            images=status.images,
            texts=status.texts,
        )


class Index(Answer):
    """One vector index."""

    modality: Literal["image", "text"]
    factory: str
    vectors: int
    bytes_per_vector: float
    approximate: str | None = Field(
        description="the index that searches begin with; null where every vector is compared"
    )
    recall: float | None = Field(description="recall@10 of that one, when it was measured")
    outgrown: bool = Field(description="so much has changed since that it may not hold any more")

    @classmethod
    def of(cls, status: IndexStatus) -> Self:
        """The index as it goes over the wire."""
        return cls(
            modality=status.modality,
            factory=status.factory,
            vectors=status.vectors,
            bytes_per_vector=status.bytes_per_vector,
            approximate=status.approximate,
            recall=None if status.approximate is None else status.recall,
            outgrown=status.outgrown,
        )


class Limits(Answer):
    """What a request may ask for."""

    max_k: int
    max_offset: int
    max_query_chars: int
    max_upload_bytes: int


class Status(Answer):
    """What is being served."""

    version: str
    library: str
    model: str | None
    ready: bool
    problem: str | None = Field(None, description="why the model could not be loaded")
    images: int
    texts: int
    links: int
    carried: int
    missing: int
    failed: int
    bytes: int
    spaces: list[Space]
    index: list[Index]
    limits: Limits

    @classmethod
    def of(
        cls,
        status: LibraryStatus,
        *,
        version: str,
        model: str | None,
        ready: bool,
        problem: str | None,
        limits: Limits,
    ) -> Self:
        """The library's status, and the service's, as they go over the wire."""
        return cls(
            version=version,
            library=in_utf8(status.path),
            model=model,
            ready=ready,
            problem=None if problem is None else in_utf8(problem),
            images=status.images,
            texts=status.texts,
            links=status.links,
            carried=status.carried,
            missing=status.missing,
            failed=status.failed,
            bytes=status.bytes,
            spaces=[Space.of(space) for space in status.spaces],
            index=[Index.of(index) for index in status.index],
            limits=limits,
        )


class Health(Answer):
    """One word on how the service is."""

    status: Literal["ok", "ready"]


def condition(where: str | dict[str, Any] | None, *, places: bool) -> filters.Filter | None:
    """A filter out of its text or its JSON.

    places: whether it may ask where pictures were taken: who can ask that finds it out.

    Raises QueryError.
    """
    if where is None or (isinstance(where, str) and not where.strip()):
        return None
    found = filters.parse(where) if isinstance(where, str) else filters.from_json(where)
    if not places and any(isinstance(part, filters.Near) for part in filters.conditions(found)):
        raise QueryError(
            "this service does not tell where pictures were taken, so it does not search by that "
            "either; MMSEARCH_SHOW_GPS=true changes both"
        )
    return None if found == filters.And() else found


def all_of(where: Sequence[str]) -> str | dict[str, Any] | None:
    """What `condition` reads as all of these conditions, each a text."""
    if len(where) > 1:
        return {"and": list(where)}
    return where[0] if where else None


def file_name(path: str) -> str:
    """The last part of a catalog path, also of a member of an archive."""
    path = path.replace("\\", "/")
    name = path.rpartition("/")[2]
    if name in ("", "."):
        name = PurePath(path).name
    return in_utf8(name) or "picture"


def _clean(text: str | None) -> str | None:
    return None if text is None else in_utf8(text)


def _relevance(relevance: float | None) -> float | None:
    return None if relevance is None else round(float(relevance), 4)


def _score(score: float) -> float:
    # Six digits: a float32 has seven, and nobody needs 0.31270000338554382.
    return round(float(score), 6)
