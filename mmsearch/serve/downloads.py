"""Files on their way to a client: in pieces, as slowly as it takes them, without being in memory.

Conditional requests and ranges as RFC 9110 has them (sections 13 and 14). One range at a time:
several in one answer are no browser's wish, and a server may send the whole file instead.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from mmsearch.errors import DecodeError, NotFoundError, OverloadedError
from mmsearch.files import PIECE_BYTES, FileInPieces
from mmsearch.serve.access import is_still_let_in
from mmsearch.serve.exchange import CutShortError
from mmsearch.serve.problems import FileGoneError

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.serve.service import Service
    from mmsearch.types import ImageRecord

#: Of pictures out of archives, which cannot be read in pieces: all that are being sent. One alone
#: may be larger.
MAX_UNPACKED_BYTES = 256 << 20

_TAG = re.compile(r'(?:W/)?("[^"]*")')
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class Downloads:
    """The files of one service that are being sent."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sent: weakref.WeakSet[FileInPieces] = weakref.WeakSet()

    async def open(self, image_id: int) -> FileInPieces:
        """The file of a catalogued picture. NotFoundError, FileGoneError; OverloadedError: too many
        out of archives are being sent."""
        file = await self._service.read(_open, self._service.library, image_id)
        others = sum(one.held for one in self._sent if one.held > PIECE_BYTES)
        if file.held > PIECE_BYTES and others and others + file.held > MAX_UNPACKED_BYTES:
            raise OverloadedError(
                "too many pictures out of archives are being sent already; ask again in a moment"
            )
        self._sent.add(file)
        return file

    async def pieces(
        self, request: Request, file: FileInPieces, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`, one piece in memory at a time, for this request.

        Raises CutShortError: the file cannot be read any more, or is another one by now; or who
        asked would not be let in any more.
        """
        for at in range(start, end, PIECE_BYTES):
            if not is_still_let_in(request):
                raise CutShortError("its key was revoked")
            size = min(PIECE_BYTES, end - at)
            try:
                piece = await self._service.read(file.read, at, size)
            except DecodeError as exc:
                raise CutShortError(str(exc)) from exc
            yield piece

    async def answer(
        self, file: FileInPieces, request: Request, headers: dict[str, str], kind: str
    ) -> Response:
        """The file, or the part of it that the headers of a request ask for.

        headers: of the answer. Only with an ETag among them parts are given: without one nobody
            could tell that two parts are of one file.
        Raises HTTPException: 416 for a part that the file does not have.
        """
        start, end, status, asked = 0, file.size, HTTPStatus.OK, request.headers
        tag = headers.get("ETag")
        if tag is not None:
            headers["Accept-Ranges"] = "bytes"
            if asked.get("if-range", tag) == tag:
                part = byte_range(asked.get("range", ""), file.size)
                if part is not None:
                    (start, end), status = part, HTTPStatus.PARTIAL_CONTENT
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        if end - start <= PIECE_BYTES:
            try:
                data = await self._service.read(file.read, start, end - start)
            except DecodeError as exc:
                raise FileGoneError(f"{exc}. Ask again") from exc
            return Response(data, status, headers, kind)
        headers["Content-Length"] = str(end - start)
        return StreamingResponse(self.pieces(request, file, start, end), status, headers, kind)


def _open(library: Library, image_id: int) -> FileInPieces:
    # Asked first, so that an id without a record is told from a record without a file.
    record = library.image(image_id)
    try:
        return library.original_in_pieces(image_id)
    except (DecodeError, NotFoundError, OSError) as exc:
        raise gone(record, exc) from exc


def gone(record: ImageRecord, exc: Exception) -> FileGoneError:
    """What is told of a picture whose file cannot be read."""
    reason = exc.reason if isinstance(exc, DecodeError) else str(exc)
    return FileGoneError(
        f"{record.path} cannot be read now ({reason}). If it was moved or its drive is away, "
        "bring it back, or run mmsearch index again"
    )


def is_known(tag: str, if_none_match: str) -> bool:
    """Whether an If-None-Match header names this ETag, or any: "not modified" is all to be said."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


def byte_range(given: str, size: int) -> tuple[int, int] | None:
    """The start and the end (exclusive) that a Range header asks for of so many bytes; None where
    all of them are to be sent. Raises HTTPException: 416, none of what is asked for is there."""
    found = _RANGE.fullmatch(given)
    if found is None or found[1] == found[2] == "":
        return None  # not understood, as several ranges: to be ignored
    if found[1] == "":  # the last so many
        start, end = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        last = int(found[2]) if found[2] else size - 1
        if found[2] and last < start:
            return None
        end = min(last + 1, size)
    if start >= end:
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the file has {size:,} bytes, and none of those asked for",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end
