"""The routes about single pictures: what is known of one, its file, its thumbnail."""

from __future__ import annotations

import mimetypes
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response

from mmsearch.errors import DecodeError, NotFoundError
from mmsearch.serve.downloads import Downloads, gone, is_known
from mmsearch.serve.problems import documented
from mmsearch.serve.schemas import MAX_ID, Image, file_name, version_token
from mmsearch.serve.service import Service

#: The library keeps thumbnails of these sizes on disk; the next one up is given.
THUMBNAIL_SIZES = (256, 512, 1024)
DEFAULT_THUMBNAIL = 512

#: By the format that decoding found, never by the file's name.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heif",
    "HEIC": "image/heic",
    # Raw files of cameras as shared-mime-info calls them; browsers show none.
    "DNG": "image/x-adobe-dng",
    "CR2": "image/x-canon-cr2",
    "CR3": "image/x-canon-cr3",
    "CRW": "image/x-canon-crw",
    "NEF": "image/x-nikon-nef",
    "ARW": "image/x-sony-arw",
    "RAF": "image/x-fuji-raf",
    "ORF": "image/x-olympus-orf",
    "RW2": "image/x-panasonic-rw2",
    "PEF": "image/x-pentax-pef",
    "SRW": "image/x-samsung-srw",
    "3FR": "image/x-hasselblad-3fr",
    "IIQ": "image/x-phaseone-iiq",
    "ERF": "image/x-epson-erf",
    "MRW": "image/x-minolta-mrw",
    "MOS": "image/x-leaf-mos",
    "DCR": "image/x-kodak-dcr",
    "TIFFEP": "image/x-dcraw",
}
UNKNOWN_MEDIA_TYPE = "application/octet-stream"

#: A picture opened by itself: nothing in it may run or load (the style is the browser's own).
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"

_IMAGE_BODY = {"schema": {"type": "string", "format": "binary"}}
_PROBLEMS = documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_FILE_PROBLEMS = _PROBLEMS | documented(HTTPStatus.GONE)

_ImageId = Annotated[int, Path(ge=0, le=MAX_ID)]
_Token = Annotated[str, Query(alias="v", description="the version that `urls` carries")]
_IfNoneMatch = Annotated[str, Header(include_in_schema=False)]


def add_routes(routes: APIRouter, service: Service, sent: Downloads) -> None:
    """Adds the routes about single pictures, for this service."""
    library = service.library

    @routes.get(
        "/v1/images/{image_id}",
        tags=["pictures"],
        summary="What is known of a picture",
        responses=_PROBLEMS,
    )
    async def image(image_id: _ImageId) -> Image:
        record = await service.read(library.image, image_id)
        linked = await service.read(library.image_captions, image_id)
        captions = tuple(text.body for text in linked)
        return Image.of(record, captions, show_gps=service.settings.show_gps)

    @routes.get(
        "/v1/images/{image_id}/file",
        tags=["pictures"],
        summary="The picture's file, as it is",
        response_class=Response,
        responses={
            200: {"content": {"image/*": _IMAGE_BODY}},
            206: {"content": {"image/*": _IMAGE_BODY}, "description": "the part asked for (Range)"},
            **_FILE_PROBLEMS,
            **documented(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, HTTPStatus.SERVICE_UNAVAILABLE
            ),
        },
    )
    async def file(
        request: Request, image_id: _ImageId, v: _Token = "", if_none_match: _IfNoneMatch = ""
    ) -> Response:
        record = await service.read(library.image, image_id)
        headers = _caching(f"{version_token(record)}-file", v == version_token(record))
        if is_known(headers["ETag"], if_none_match):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        found = await sent.open(image_id)
        if not found.as_indexed:
            headers = _UNKEPT.copy()
        headers["Content-Disposition"] = disposition(file_name(record.path))
        headers["Content-Security-Policy"] = FILE_POLICY
        return await sent.answer(found, request, headers, media_type(record.info.format))

    @routes.get(
        "/v1/images/{image_id}/thumbnail",
        tags=["pictures"],
        summary="The picture small, upright and without its metadata",
        response_class=Response,
        responses={200: {"content": {"image/webp": _IMAGE_BODY}}, **_FILE_PROBLEMS},
    )
    async def thumbnail(
        image_id: _ImageId,
        size: Annotated[
            int,
            Query(
                ge=1,
                le=THUMBNAIL_SIZES[-1],
                description=f"longer side in pixels; the next of {THUMBNAIL_SIZES} is given",
            ),
        ] = DEFAULT_THUMBNAIL,
        v: _Token = "",
        if_none_match: _IfNoneMatch = "",
    ) -> Response:
        max_side = next(given for given in THUMBNAIL_SIZES if given >= size)
        record = await service.read(library.image, image_id)
        headers = _caching(f"{version_token(record)}-{max_side}", v == version_token(record))
        if is_known(headers["ETag"], if_none_match):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        try:
            data, as_indexed = await service.read(library.small, image_id, max_side)
        except (DecodeError, NotFoundError, OSError) as exc:
            raise gone(record, exc) from exc
        if not as_indexed:
            headers = _UNKEPT.copy()
        kind = "image/webp" if data[8:12] == b"WEBP" else "image/jpeg"
        return Response(data, headers=headers, media_type=kind)


def media_type(picture_format: str) -> str:
    """The content type of a format name of the catalog ("JPEG")."""
    known = MEDIA_TYPES.get(picture_format.upper())
    if known is not None:
        return known
    guessed = mimetypes.types_map.get(f".{picture_format.lower()}", "")
    # Of what cannot be a picture, or can carry scripts, the browser is told nothing.
    is_plain_picture = guessed.startswith("image/") and "svg" not in guessed
    return guessed if is_plain_picture else UNKNOWN_MEDIA_TYPE


def disposition(name: str) -> str:
    """Content-Disposition for a file name, by RFC 6266: plain letters for old clients, then all."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-()") else "_" for c in name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


#: Of a file that is another one than was indexed: the next run finds that out, and then the address
#: is that of the picture it was, or of none.
_UNKEPT = {"Cache-Control": "private, no-store"}


def _caching(tag: str, is_versioned: bool) -> dict[str, str]:
    # An address with the right version never shows another picture; without it, ask each time.
    age = "max-age=31536000, immutable" if is_versioned else "no-cache"
    return {"ETag": f'"{tag}"', "Cache-Control": f"private, {age}"}
