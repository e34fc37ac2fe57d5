"""Pictures made with Pillow, and how decoding them is checked."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from mmsearch.decode import Picture, decode
from mmsearch.errors import DecodeError

pillow_heif.register_heif_opener()


def scene(width: int = 120, height: int = 80) -> Image.Image:
    """Four corners of different colours on a soft gradient, so that turns and swaps show."""
    x = np.linspace(60, 190, width)[None, :, None]
    y = np.linspace(0, 40, height)[:, None, None]
    pixels = np.broadcast_to(x + y, (height, width, 3)).astype(np.uint8).copy()
    h, w = height // 4, width // 4
    pixels[:h, :w] = (230, 20, 20)
    pixels[:h, -w:] = (20, 200, 20)
    pixels[-h:, :w] = (20, 20, 220)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read(data: bytes, **options: Any) -> Picture:
    picture = decode(data, source="x", **options)
    pixels = picture.pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    return picture


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, source="some/file.jpg", **options)
    assert caught.value.source == "some/file.jpg"
    assert caught.value.reason in str(caught.value)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def near(pixels: np.ndarray[Any, Any], image: Image.Image, tolerance: float = 3.0) -> None:
    wanted = np.asarray(image.convert("RGB"), dtype=np.int16)
    assert pixels.shape == wanted.shape
    assert np.abs(pixels - wanted).mean() < tolerance


JPEG = encode(scene(), "JPEG", quality=95)
PNG = encode(scene(), "PNG")

#: A packet that tells a title in two languages, a description and keywords.
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title><rdf:Alt><rdf:li xml:lang="de">Drachen</rdf:li>
<rdf:li xml:lang="x-default">Kite</rdf:li></rdf:Alt></dc:title>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">A kite &amp; a
 beach</rdf:li></rdf:Alt></dc:description>
<dc:subject><rdf:Bag><rdf:li>kite</rdf:li><rdf:li>Nordsee</rdf:li></rdf:Bag></dc:subject>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
