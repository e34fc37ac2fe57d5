"""Raw files for tests, built on the spot: DNGs that LibRaw reads, with or without a preview."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

ASCII, BYTE, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL = 2, 1, 3, 4, 5, 7, 10
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}
EXIF, GPS, SUB_DIRECTORIES = 34665, 34853, 330

Tags = dict[int, tuple[int, object]]


@dataclass
class Directory:
    """One directory of a TIFF: tag → (type, values). within: tag → those that it points to. strip:
    what StripOffsets points to."""

    tags: Tags = field(default_factory=dict)
    within: dict[int, list[Directory]] = field(default_factory=dict)
    strip: bytes = b""


def tiff(first: Directory, magic: bytes = b"II*\0") -> bytes:
    """A little-endian TIFF of these directories, pixels last."""
    flat: list[Directory] = []

    def walk(directory: Directory) -> None:
        flat.append(directory)
        for inner in directory.within.values():
            for one in inner:
                walk(one)

    walk(first)

    def entries(directory: Directory) -> list[tuple[int, int, object]]:
        found = [(tag, code, value) for tag, (code, value) in directory.tags.items()]
        found += [
            (t, LONG, [places[id(d)] for d in inner]) for t, inner in directory.within.items()
        ]
        if directory.strip:
            found += [(273, LONG, [strips[id(directory)]]), (279, LONG, [len(directory.strip)])]
        return sorted(found, key=lambda entry: entry[0])

    places = {id(directory): 0 for directory in flat}
    strips = dict(places)
    for _ in range(2):  # once to learn the places, once with them
        out = bytearray(magic + struct.pack("<I", 8))
        for directory in flat:
            places[id(directory)] = len(out)
            out += _directory(entries(directory), len(out))
        for directory in flat:
            strips[id(directory)] = len(out)
            out += directory.strip
    return bytes(out)


def _directory(entries: list[tuple[int, int, object]], at: int) -> bytes:
    table, rest = bytearray(struct.pack("<H", len(entries))), bytearray()
    beyond = at + 2 + 12 * len(entries) + 4
    for tag, code, value in entries:
        body = _packed(code, value)
        table += struct.pack("<HHI", tag, code, len(body) // _SIZES[code])
        if len(body) <= 4:
            table += body.ljust(4, b"\0")
        else:
            table += struct.pack("<I", beyond + len(rest))
            rest += body + b"\0" * (len(body) % 2)
    return bytes(table + b"\0\0\0\0" + rest)


def _packed(code: int, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode() + b"\0"
    if isinstance(value, bytes):
        return value
    numbers = value if isinstance(value, list | tuple) else [value]
    if code in (RATIONAL, SRATIONAL):
        return b"".join(struct.pack("<iI", round(n * 10_000), 10_000) for n in numbers)
    return struct.pack(f"<{len(numbers)}{ {BYTE: 'B', SHORT: 'H', LONG: 'I'}[code] }", *numbers)


def jpeg(image: Image.Image, **options: object) -> bytes:
    """A JPEG of it, almost without loss."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def mosaic(image: Image.Image) -> bytes:
    """What a sensor behind red, green and blue filters (RGGB) would say, 16 bits, linear."""
    linear = (np.asarray(image.convert("RGB"), np.float64) / 255) ** 2.2 * 60_000
    out = linear[:, :, 1].copy()
    out[::2, ::2] = linear[::2, ::2, 0]
    out[1::2, 1::2] = linear[1::2, 1::2, 2]
    return out.astype("<u2").tobytes()


def dng(
    image: Image.Image,
    preview: Image.Image | bytes | None = None,
    *,
    orientation: int | None = None,
    tags: Tags | None = None,
    exif: Tags | None = None,
    gps: Tags | None = None,
    sensor: Tags | None = None,
    make: str = "Lumen",
    model: str = "Lumen One",
    version: bool = True,
    magic: bytes = b"II*\0",
) -> bytes:
    """A DNG of a picture as the sensor has it, which `orientation` turns upright.

    preview: stored the same way, as a JPEG of its own (bytes are taken as they are). sensor: more
    tags of the directory of its values. version: of DNG; without, it is what cameras write that
    have a format of their own.
    """
    raw = Directory(
        {
            254: (LONG, 0), 256: (LONG, image.width), 257: (LONG, image.height), 258: (SHORT, 16),
            259: (SHORT, 1), 262: (SHORT, 32803), 277: (SHORT, 1), 278: (LONG, image.height),
            33421: (SHORT, [2, 2]), 33422: (BYTE, [0, 1, 1, 2]),
            50714: (SHORT, 0), 50717: (LONG, 60_000),
        } | (sensor or {}),
        strip=mosaic(image),
    )  # fmt: skip
    main: Tags = {271: (ASCII, make), 272: (ASCII, model)}
    if version:
        main |= {
            50706: (BYTE, [1, 4, 0, 0]), 50707: (BYTE, [1, 1, 0, 0]), 50708: (ASCII, model),
            # A sensor that sees as sRGB does: XYZ (D65) to camera, and what it says of white.
            50721: (SRATIONAL, [3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040,
                                1.0570]),
            50728: (RATIONAL, [1, 1, 1]), 50778: (SHORT, 21),
        }  # fmt: skip
    if orientation is not None:
        main[274] = (SHORT, orientation)
    first = Directory(main | (tags or {}), {SUB_DIRECTORIES: [raw]})
    if exif:
        first.within[EXIF] = [Directory(exif)]
    if gps:
        first.within[GPS] = [Directory(gps)]
    if preview is not None:
        body = preview if isinstance(preview, bytes) else jpeg(preview)
        with Image.open(io.BytesIO(body)) as opened:
            width, height = opened.size
        first.tags |= {
            254: (LONG, 1), 256: (LONG, width), 257: (LONG, height), 258: (SHORT, [8, 8, 8]),
            259: (SHORT, 7), 262: (SHORT, 6), 277: (SHORT, 3), 278: (LONG, height),
        }  # fmt: skip
        first.strip = body
    return tiff(first, magic)


def raf(image: Image.Image, preview: Image.Image | None = None, *, tilted: bool = False) -> bytes:
    """A RAF of Fujifilm's. tilted: the sensor is a Super CCD, whose rows run diagonally."""
    exif = Image.Exif()
    exif[271], exif[272] = "FUJIFILM", "FinePix S9999"
    small = jpeg(preview or image, exif=exif)
    size = struct.pack(">2H", image.height, image.width)
    tags = [(0x100, size), (0x121, size)] + ([(0x130, bytes(4))] if tilted else [])
    facts = struct.pack(">I", len(tags))
    facts += b"".join(struct.pack(">2H", tag, len(body)) + body for tag, body in tags)
    values = (np.frombuffer(mosaic(image), "<u2") >> 4).tobytes()
    parts, places, at = (small, facts, values), list[int](), 160
    for part in parts:
        places += [at, len(part)]
        at += len(part)
    head = b"FUJIFILMCCD-RAW 0201FF389501" + b"FinePix S9999".ljust(32, b"\0") + b"0100"
    head = head.ljust(84, b"\0") + struct.pack(">6I", *places)
    return head.ljust(160, b"\0") + b"".join(parts)
