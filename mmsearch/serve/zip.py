"""Several pictures of the library as one ZIP file, made while it is sent."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from mmsearch.errors import NotFoundError, OverloadedError
from mmsearch.files import FileInPieces
from mmsearch.serve.downloads import Downloads
from mmsearch.serve.exchange import CutShortError
from mmsearch.serve.problems import FileGoneError, documented
from mmsearch.serve.schemas import ImageId, file_name

if TYPE_CHECKING:
    from mmsearch.serve.service import Service
    from mmsearch.types import ImageRecord

#: What one file may hold. More belongs into a file manager, which the copied paths lead to.
MAX_PICTURES = 500
MAX_BYTES = 4 << 30
#: What tells of pictures that are not in the library any more, and of those whose files could not
#: be read; the answer has begun when that is known.
MISSING = "NOT INCLUDED.txt"
#: How long, and how often, a picture out of an archive waits until others have been sent.
_PATIENCE_S = 60.0
_PAUSE_S = 0.5
#: The earliest time that a ZIP file can say.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class _Sent:
    """A file that is written from its start to its end, and taken away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """There is nothing behind it to pass on to."""

    def take(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def add_routes(routes: APIRouter, service: Service, sent: Downloads) -> None:
    """Adds the route that gives several pictures, for this service."""
    library = service.library

    @routes.get(
        "/v1/images.zip",
        tags=["pictures"],
        summary="The files of several pictures in one ZIP file",
        response_class=Response,
        responses={
            200: {"content": {"application/zip": {"schema": {"type": "string"}}}},
            **documented(
                HTTPStatus.NOT_FOUND,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
            ),
        },
    )
    async def images_zip(
        request: Request,
        ids: Annotated[
            list[ImageId],
            Query(min_length=1, max_length=MAX_PICTURES, description="which pictures"),
        ],
    ) -> StreamingResponse:
        wanted = list(dict.fromkeys(ids))
        found = await service.read(library.catalog.image_records, wanted)
        if not found:
            raise NotFoundError("image", wanted[0])
        # One that was deleted since it was selected does not keep the others from being saved.
        gone = [str(NotFoundError("image", id_)) for id_ in wanted if id_ not in found]
        records = [found[id_] for id_ in wanted if id_ in found]
        if sum(record.bytes for record in records) > MAX_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"these pictures have more than {MAX_BYTES >> 30} GiB: choose fewer, or copy their "
                "paths",
            )
        headers = {"Content-Disposition": 'attachment; filename="pictures.zip"'}
        return StreamingResponse(
            _zipped(sent, request, records, gone), headers=headers, media_type="application/zip"
        )


async def _zipped(
    sent: Downloads, request: Request, records: Sequence[ImageRecord], gone: Sequence[str]
) -> AsyncIterator[bytes]:
    """The pieces of the ZIP file, one in memory at a time. Pictures hardly shrink, so they are
    stored as they are. `gone` says of each other picture why it is not there."""
    out = _Sent()
    missing = [*gone]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for record, name in zip(records, unique_names(records), strict=True):
            try:
                file = await _opened(sent, record.id)
            except (FileGoneError, NotFoundError) as exc:
                missing.append(str(exc))
                continue
            info = zipfile.ZipInfo(name, _moment(record.info.taken_at))
            info.file_size = file.size  # which says how the sizes are to be written
            with archive.open(info, "w") as member:
                async for piece in sent.pieces(request, file, 0, file.size):
                    member.write(piece)
                    yield out.take()
        if missing:
            text = "\n".join(missing) + "\n"
            archive.writestr(MISSING, text.encode("utf-8", "replace"))
    yield out.take()


async def _opened(sent: Downloads, image_id: int) -> FileInPieces:
    """The file, also where its turn comes late. Raises FileGoneError, NotFoundError, CutShortError:
    it never came, and the answer has begun."""
    for _ in range(round(_PATIENCE_S / _PAUSE_S)):
        try:
            return await sent.open(image_id)
        except OverloadedError:
            await asyncio.sleep(_PAUSE_S)
    raise CutShortError("too many pictures out of archives are being sent")


def unique_names(records: Sequence[ImageRecord]) -> list[str]:
    """A file name for each picture; of the same ones, the later are numbered: "beach (2).jpg".

    Case does not make two names differ: on some systems the one file would replace the other.
    """
    taken = {MISSING.lower()}
    names = []
    for record in records:
        whole = PurePath(_plain(file_name(record.path)))
        name, n = str(whole), 1
        while name.lower() in taken:
            n += 1
            name = f"{whole.stem} ({n}){whole.suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def _plain(name: str) -> str:
    """A name that every system can write: none of its own signs, and no control characters."""
    kept = "".join("_" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in name)
    return kept.strip(" .") or "picture"


def _moment(at: datetime | None) -> tuple[int, int, int, int, int, int]:
    if at is None or not 1980 <= at.year <= 2107:
        return _EPOCH
    return at.year, at.month, at.day, at.hour, at.minute, at.second
