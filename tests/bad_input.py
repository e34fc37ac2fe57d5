"""A folder of everything that goes wrong with pictures and texts, built on the spot."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image


def make_bad_folder(root: Path) -> dict[str, str]:
    """Fill `root`; relative path -> a fragment of the reason, "" for what must work.

    A member of an archive is "archive.zip!/name", a line of a caption file "captions.jsonl:LINE".
    All pictures that work differ from each other. The fragment for a caption whose picture does
    not exist is that picture's name.
    """
    root.mkdir(parents=True, exist_ok=True)
    return (
        _broken_pictures(root)
        | _odd_pictures(root)
        | _archives(root)
        | _file_system(root)
        | _captions(root)
    )


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A smooth picture with a colour of its own and one dark corner, at the upper left."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    low, across, down = rng.integers(60, 140, 3), rng.integers(0, 60, 3), rng.integers(0, 55, 3)
    pixels = low + x[..., None] * across + y[..., None] * down
    pixels[: height // 4, : width // 4] = 5
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file of a picture."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG that promises this size and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        body = kind + body
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _broken_pictures(root: Path) -> dict[str, str]:
    whole = encoded(picture(1, 300, 200), "JPEG")
    crc = bytearray(encoded(picture(2), "PNG"))
    crc[crc.index(b"IDAT") + 10] ^= 0xFF
    for name, data in {
        "empty.jpg": b"",
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated-marked.jpg": whole[: len(whole) // 2] + b"\xff\xd9",
        "text.jpg": b"this is no picture\n" * 40,
        "crc.png": bytes(crc),
        "header-bomb.png": png(50_000, 50_000),
        "zero-width.png": png(0, 10),
    }.items():
        (root / name).write_bytes(data)
    return {
        "empty.jpg": "empty file",
        "truncated.jpg": "truncated",
        "truncated-marked.jpg": "truncated",
        "text.jpg": "not a picture",
        "crc.png": "checksum",
        "header-bomb.png": "megapixels",
        "zero-width.png": "no pixels",
    }


def _odd_pictures(root: Path) -> dict[str, str]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    alpha = picture(6).convert("RGBA")
    alpha.putalpha(picture(6).convert("L"))
    grey = np.asarray(picture(4).convert("L"), dtype=np.uint16) * 257
    frames = [picture(7), picture(107), picture(207)]
    good = {
        "cmyk.jpg": encoded(picture(3).convert("CMYK"), "JPEG"),
        "16-bit.png": encoded(Image.fromarray(grey), "PNG"),
        "palette.png": encoded(picture(5).quantize(32), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "rotated.jpg": encoded(picture(8), "JPEG", exif=exif),
    }
    for name, data in good.items():
        (root / name).write_bytes(data)
    return dict.fromkeys(good, "")


def _archives(root: Path) -> dict[str, str]:
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", bytes(8 << 20))
        archive.writestr("../out.jpg", encoded(picture(9), "JPEG"))
        archive.writestr("fine.jpg", encoded(picture(10), "JPEG"))
    (root / "broken.zip").write_bytes(b"PK\x03\x04 and nothing more")
    return {
        "bomb.zip!/bomb.bmp": "bomb",
        "bomb.zip!/../out.jpg": "out of the archive",
        "bomb.zip!/fine.jpg": "",
        "broken.zip": "not an archive",
    }


def _file_system(root: Path) -> dict[str, str]:
    expected = {}
    closed = root / "unreadable.jpg"
    closed.write_bytes(encoded(picture(11), "JPEG"))
    closed.chmod(0)
    expected[closed.name] = "" if os.access(closed, os.R_OK) else "permission"  # the superuser

    foreign = os.fsdecode(b"caf\xe9.jpg")
    try:
        (root / foreign).write_bytes(encoded(picture(12), "JPEG"))
        expected[foreign] = ""
    except OSError:  # macOS has no such names
        pass

    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "self.jpg").symlink_to(root / "self.jpg")
    os.mkfifo(root / "pipe.jpg")
    (root / "x.jpg").mkdir()
    (root / "x.jpg" / "inner.jpg").write_bytes(encoded(picture(13), "JPEG"))
    return expected | {
        "loop": "symbolic link",
        "self.jpg": "symbolic link",
        "pipe.jpg": "named pipe",
        "x.jpg/inner.jpg": "",
    }


def _captions(root: Path) -> dict[str, str]:
    lines = [
        json.dumps({"image": "cmyk.jpg", "text": "a picture in four inks"}).encode(),
        b'{"image": "alpha.png", "text": ',
        b'{"image": "alpha.png", "text": "\xff\xfe"}',
        json.dumps({"image": "alpha.png"}).encode(),
        json.dumps({"image": "gone.jpg", "text": "a picture nobody has"}).encode(),
        json.dumps({"image": "rotated.jpg", "text": "a picture on its side"}).encode(),
    ]
    (root / "captions.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return {
        "captions.jsonl:1": "",
        "captions.jsonl:2": "not JSON",
        "captions.jsonl:3": "not UTF-8",
        "captions.jsonl:4": "no text",
        "captions.jsonl:5": "gone.jpg",
        "captions.jsonl:6": "",
    }
