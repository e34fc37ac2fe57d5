"""How the fuzzer damages a file: blindly, and by what it knows of the file's parts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import re
import zlib
from collections.abc import Callable, Iterator

from fuzz_seeds import seal, seeds

#: Numbers at which lengths, counts and offsets go wrong.
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF,
          0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
_MAGICS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif", b"BM", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9",
    b"\xfd7zXZ\0", b"PAR1", b"{", b"[", b"\xff\xfe", b"\xef\xbb\xbf",
)  # fmt: skip
_WORDS = (
    b'"', b"{", b"}", b"[", b"]" * 40, b"[" * 3000, b'{"a":' * 2000, b",", b"\t", b"\n", b"\r",
    b"\0", b"null", b"1e999", b"-0", b"9" * 5000, b"\\ud800", b"\xff", b"\xed\xa0\x80",
    "\u0301".encode() * 50, "\u0323\u0301".encode() * 3000, "\ufeff".encode(),
    b"<!DOCTYPE x [<!ENTITY a 'b'>]>&a;", b"<a>" * 500, b"../", b"*" * 60, b"[!",
    b"#", b"!", b"\\", b"caption", b"image", b"text",
)  # fmt: skip
_TEXTS = frozenset({
    "txt", "csv", "tsv", "jsonl", "json", "sidecar", "mmsearchignore", "xmp", "besidexmp",
    "takeout",
})  # fmt: skip
_GROWTH = 1 << 16
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": lambda data: gzip.compress(data, 1, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lambda data: lzma.compress(data, preset=0),
}


def mutated(kind: str, rng: random.Random) -> bytes:
    """A file of this kind, damaged in one to five ways."""
    pack = _PACKERS.get(kind)
    if pack is not None and rng.random() < 0.5:
        return pack(mutated("tar", rng))
    data = rng.choice(seeds()[kind])
    ways = _TEXT_WAYS if kind in _TEXTS else _WAYS
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        data = rng.choice(ways)(data, kind, rng)[: len(data) + _GROWTH]
    return _mend(data, kind, rng)


def _at(data: bytes, rng: random.Random) -> int:
    # Headers are at the front: half of the damage goes there.
    return rng.randrange(min(len(data), 64 if rng.random() < 0.5 else len(data)) or 1)


def _flip(data: bytes, kind: str, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if out:
            out[_at(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _set(data: bytes, kind: str, rng: random.Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16))) + data[at + 1 :]


def _run(data: bytes, kind: str, rng: random.Random) -> bytes:
    at, length = _at(data, rng), rng.choice((2, 8, 64, 512))
    return data[:at] + bytes([rng.choice((0, 255, 32, rng.randrange(256)))]) * length + (
        data[at + length :] if rng.random() < 0.8 else data[at:]
    )  # fmt: skip


def _number(data: bytes, kind: str, rng: random.Random) -> bytes:
    at, size = _at(data, rng), rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(_EDGES) & ((1 << 8 * size) - 1)
    return data[:at] + value.to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]


def _nudge(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A number that is a little more or less than it was."""
    at, size, order = _at(data, rng), rng.choice((2, 4)), rng.choice(("big", "little"))
    value = int.from_bytes(data[at : at + size], order) + rng.choice((-16, -2, -1, 1, 2, 16, 4096))
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, order) + data[at + size :]


def _cut(data: bytes, kind: str, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(data: bytes, kind: str, rng: random.Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 16, 100)) :]


def _splice(data: bytes, kind: str, rng: random.Random) -> bytes:
    """The front of this file and the back of another, mostly of its kind."""
    other_kind = kind if rng.random() < 0.7 else rng.choice(sorted(seeds()))
    other = rng.choice(seeds()[other_kind])
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _magic(data: bytes, kind: str, rng: random.Random) -> bytes:
    magic = rng.choice(_MAGICS)
    return magic + data[len(magic) if rng.random() < 0.5 else 0 :]


def _word(data: bytes, kind: str, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_WORDS) + data[at + rng.choice((0, 0, 1, 10)) :]


def _tail(data: bytes, kind: str, rng: random.Random) -> bytes:
    return data + rng.choice((bytes(600), data, rng.randbytes(100), b"\xff\xd9"))


def _pieces(data: bytes, kind: str, rng: random.Random) -> bytes:
    """The file's own parts: one doubled, many times over, dropped, moved, or of another file."""
    parts = list(parts_of(data, kind))
    if len(parts) < 2:
        return _flip(data, kind, rng)
    at, what = rng.randrange(len(parts)), rng.randrange(5)
    if what == 0:
        parts.insert(at, parts[at])
    elif what == 1:
        parts[at:at] = [parts[at]] * rng.choice((3, 20, 200))
    elif what == 2:
        del parts[at]
    elif what == 3:
        to = rng.randrange(len(parts))
        parts[at], parts[to] = parts[to], parts[at]
    else:
        other = list(parts_of(rng.choice(seeds()[kind]), kind))
        parts.insert(at, rng.choice(other))
    return b"".join(parts)


def _first_bytes_of_a_piece(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Damage where a part says what it is and how long."""
    parts = list(parts_of(data, kind))
    at = rng.randrange(len(parts)) if parts else 0
    if not parts or not parts[at]:
        return _flip(data, kind, rng)
    head = rng.choice((_number, _nudge, _flip))(parts[at][:16], kind, rng)
    parts[at] = head + parts[at][16:]
    return b"".join(parts)


_Way = Callable[[bytes, str, random.Random], bytes]
_WAYS: tuple[_Way, ...] = (
    _flip, _flip, _set, _run, _number, _number, _nudge, _cut, _drop, _splice, _magic, _tail,
    _pieces, _pieces, _first_bytes_of_a_piece, _first_bytes_of_a_piece,
)  # fmt: skip
_TEXT_WAYS: tuple[_Way, ...] = (_flip, _set, _run, _cut, _drop, _splice, _word, _word, _tail,
                                _pieces, _magic)  # fmt: skip


def parts_of(data: bytes, kind: str) -> Iterator[bytes]:
    """What the file consists of; joined again they are the file."""
    if kind == "png":
        yield from _chunks(data, 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))
    elif kind == "webp":
        yield from _chunks(
            data, 12, lambda at: 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1)
        )
    elif kind in ("heif", "avif"):
        yield from _chunks(data, 0, lambda at: int.from_bytes(data[at : at + 4], "big"))
    elif kind == "jpeg":
        yield from _chunks(data, 2, lambda at: 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
    elif kind == "tar":
        yield from _chunks(data, 0, lambda at: 512)
    elif kind in ("tiff", "exif", "raw"):
        yield from _chunks(data, 2, lambda at: 12)
    elif kind == "zip":
        yield from re.split(rb"(?=PK[\x01\x03\x05])", data)
    elif kind in _TEXTS:
        yield from re.split(rb"(?<=[\n,{}>])", data)
    else:
        yield from _chunks(data, 0, lambda at: 16)


def _chunks(data: bytes, start: int, length: Callable[[int], int]) -> Iterator[bytes]:
    yield data[:start]
    at = start
    while at < len(data):
        end = at + max(length(at), 1)
        yield data[at:end]
        at = end


def _mend(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Checksums made right again, mostly: else little of the damage would be looked at."""
    if rng.random() < 0.25:
        return data
    if kind == "png":
        parts = list(parts_of(data, kind))
        mended = [
            p[:-4] + zlib.crc32(p[4:-4]).to_bytes(4, "big")
            if len(p) >= 12 and len(p) == 12 + int.from_bytes(p[:4], "big")
            else p
            for p in parts[1:]
        ]
        return b"".join([parts[0], *mended])
    if kind == "tar":
        return b"".join(
            seal(block) if block[257:262] == b"ustar" and len(block) == 512 else block
            for block in parts_of(data, kind)
        )
    if kind == "webp" and data.startswith(b"RIFF") and len(data) >= 8:
        return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    return data
