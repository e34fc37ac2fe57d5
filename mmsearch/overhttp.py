"""Questions and answers as they go over HTTP, seen from the side that asks. Needs nothing heavy.

The service's own side of this is mmsearch.serve.schemas.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmsearch.errors import DecodeError, MmsearchError, OverloadedError, QueryError, os_reason
from mmsearch.query import QueryPicture, Question
from mmsearch.types import Answer, Hit, ImageHit, ImageRecord, PictureInfo, TextHit, TextRecord

#: Statuses that a service in trouble answers with for a moment: asking again may help.
BUSY = frozenset({429, 503})
#: What a service calls a DecodeError and those that derive from it.
_OF_PICTURES = frozenset({"decode", "image-too-large", "decode-timeout"})


class RemoteError(MmsearchError):
    """A service did not do what it was asked; the message is the service's own.

    status: of HTTP; 0 where there was no answer. kind: for programs, such as "not-found"; "" where
    the status says it all. retry_after_s: when to ask again, where the service said so.
    """

    def __init__(
        self, message: str, *, status: int = 0, kind: str = "", retry_after_s: float | None = None
    ) -> None:
        # Not by super(): what it stands for in a library may be made of other facts.
        MmsearchError.__init__(self, message)
        self.status = status
        self.kind = kind
        self.retry_after_s = retry_after_s


class UnreachableError(RemoteError):
    """Nobody answers at the address, or not in time."""


class KeyRefusedError(RemoteError):
    """The service wants a key, another key, or one that may write."""


class RemoteNotFoundError(RemoteError, QueryError):
    """The service has no such item."""


class RemoteQueryError(RemoteError, QueryError):
    """The service cannot answer the question as it was put."""


class RemotePictureError(RemoteQueryError, DecodeError):
    """A picture that the service was sent is none, or not to be read. source: as the service calls
    it."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.source, _, self.reason = message.rpartition(": ")


class BusyError(RemoteError, OverloadedError):
    """The service has too much to do, or the client asked too often; the retries are used up."""


def error_of(status: int, body: bytes, headers: Mapping[str, str]) -> RemoteError:
    """The error that an answer with a status of 400 or more stands for."""
    detail, kind = f"the service answered with status {status}", ""
    try:
        problem = json.loads(body)
        detail = str(problem["detail"])
        kind = str(problem.get("type", "")).partition("urn:mmsearch:problem:")[2]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not a problem of mmsearch: a proxy's page, perhaps
    cls = {
        401: KeyRefusedError,
        403: KeyRefusedError,
        404: RemoteNotFoundError,
        413: RemoteQueryError,
        422: RemoteQueryError,
        429: BusyError,
        503: BusyError,
    }.get(status, RemoteError)
    if kind in _OF_PICTURES and issubclass(cls, RemoteQueryError):
        cls = RemotePictureError
    return cls(detail, status=status, kind=kind, retry_after_s=_seconds(headers))


def _seconds(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None


def request_of(question: Question, modality: str) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """A question as JSON, and the pictures it comes with: (name, bytes) each.

    Raises:
        DecodeError: the file of a picture cannot be read.
        QueryError: it holds what cannot be sent.
    """
    parts: list[dict[str, Any]] = []
    uploads: list[tuple[str, bytes]] = []
    for term in question.terms:
        part: dict[str, Any] = {"weight": term.weight}
        if term.text is not None:
            part["text"] = term.text
        elif term.image_id is not None:
            part["image_id"] = term.image_id
        elif term.image is not None:
            part["upload"] = len(uploads)
            uploads.append(read_picture(term.image))
        else:
            raise QueryError("a service takes words and pictures, no vectors")
        parts.append(part)
    body: dict[str, Any] = {
        "parts": parts,
        "k": question.k,
        "offset": question.offset,
        "modality": modality,
        "min_score": question.min_score,
        "min_relevance": question.min_relevance,
        "words": question.words,
        "expand": question.expand,
        "exact": question.exact,
        "diversity": question.diversity,
        "group": question.group,
    }
    if question.where is not None:
        from mmsearch import filters

        body["where"] = filters.to_json(filters.checked(question.where))
    return body, uploads


def read_picture(image: str | Path | bytes | QueryPicture) -> tuple[str, bytes]:
    """The name and the bytes of a picture. Raises DecodeError."""
    if isinstance(image, QueryPicture):
        return "picture", image.data
    if isinstance(image, bytes):
        return "picture", image
    path = Path(image)
    try:
        return path.name, path.read_bytes()
    except OSError as exc:
        raise DecodeError(str(path), os_reason(exc)) from exc


def form(fields: Mapping[str, str], files: Sequence[tuple[str, str, bytes]]) -> tuple[bytes, str]:
    """A multipart/form-data body and its content type. files: (field, name, bytes)."""
    boundary = os.urandom(16).hex()  # what `secrets` does, which takes 4 ms to import
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    body = [f'{head}{name}"\r\n\r\n{text}\r\n'.encode() for name, text in fields.items()]
    for field, name, data in files:
        plain = name.encode("utf-8", "replace").decode().replace('"', "%22")
        plain = plain.replace("\r", "").replace("\n", "")
        body += [f'{head}{field}"; filename="{plain}"\r\n\r\n'.encode(), data, b"\r\n"]
    body.append(f"--{boundary}--\r\n".encode())
    return b"".join(body), f"multipart/form-data; boundary={boundary}"


def search_call(question: Question, modality: str) -> tuple[str, bytes, str]:
    """The path, the body and the content type of the POST that asks a question."""
    asked, uploads = request_of(question, modality)
    body = json.dumps(asked)
    if not uploads:
        return "/v1/search", body.encode(), "application/json"
    files = [("file", name, data) for name, data in uploads]
    return "/v1/search/image", *form({"question": body}, files)


def image_answer(document: Mapping[str, Any], question: Question) -> Answer[ImageHit]:
    """The pictures of an answer."""
    return _answer(tuple(image_hit(hit) for hit in document["hits"]), document, question)


def text_answer(document: Mapping[str, Any], question: Question) -> Answer[TextHit]:
    """The texts of an answer."""
    return _answer(tuple(text_hit(hit) for hit in document["hits"]), document, question)


def _answer(hits: tuple[Hit, ...], document: Mapping[str, Any], question: Question) -> Answer[Hit]:
    filtered = question.where is not None
    return Answer(hits, document["allowed"], document["cut"], filtered, document.get("nearest"))


def image_record(picture: Mapping[str, Any]) -> ImageRecord:
    """One picture, as the service tells of it."""
    taken_at = picture.get("taken_at")
    info = PictureInfo(
        format=picture["format"],
        width=picture["width"],
        height=picture["height"],
        taken_at=None if taken_at is None else datetime.fromisoformat(taken_at),
        camera=picture.get("camera"),
        latitude=picture.get("latitude"),
        longitude=picture.get("longitude"),
        title=picture.get("title"),
        description=picture.get("description"),
        keywords=tuple(picture.get("keywords", ())),
    )
    copies = tuple(picture.get("copies", ()))
    return ImageRecord(picture["id"], picture["path"], info, picture["bytes"], copies)


def image_hit(hit: Mapping[str, Any]) -> ImageHit:
    """One picture found."""
    captions = tuple(hit.get("captions", ()))
    similar = tuple(hit.get("similar", ()))
    return ImageHit(hit["score"], image_record(hit), captions, hit.get("relevance"), similar)


def text_hit(hit: Mapping[str, Any]) -> TextHit:
    """One text found. One without a vector has the score 0."""
    record = TextRecord(hit["id"], hit["text"], hit["source"], tuple(hit["image_ids"]))
    return TextHit(hit["score"] or 0.0, record, hit["linked"], hit.get("relevance"))
