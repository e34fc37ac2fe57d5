"""The directories of a TIFF, as far as they tell a raw file and where its parts lie.

Not Pillow's: that reads only directories of pictures it can unpack, and not those within others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Cameras write up to a dozen.
MAX_DIRECTORIES = 64
MAX_ENTRIES = 4096
#: Strips or tiles of a directory.
MAX_PARTS = 250_000

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 13: 4}  # BYTE, ASCII, SHORT, LONG, IFD; others are not asked for
_CODES = {1: "B", 3: "H", 4: "I", 13: "I"}
_COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 259, 262, 271, 330, 50706
# Panasonic: how large the sensor is, how its values are packed, and where they begin.
_SENSOR_WIDTH, _SENSOR_HEIGHT, _RAW_FORMAT, _RAW_PLACE = 2, 3, 0x2D, 0x118
#: Those packings of which StripByteCounts tells the size that the values have unpacked → bytes for
#: so many pixels, at least (LibRaw's panasonic_load_raw).
_PACKED = {2: (16, 14), 3: (16, 14), 4: (16, 14), 5: (16, 10)}
#: StripOffsets and StripByteCounts, those of tiles, and those of old JPEGs.
_PARTS = ((273, 279), (324, 325), (513, 514))
_ASKED = frozenset(
    {_COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION}
    | {_SENSOR_WIDTH, _SENSOR_HEIGHT, _RAW_FORMAT, _RAW_PLACE}
    | {tag for pair in _PARTS for tag in pair}
)


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory. parts: for strips, tiles and a JPEG the places and the sizes in bytes.
    raw_end: where Panasonic's values of the sensor end at the soonest; 0 for others'."""

    photometric: int | None
    compression: int | None
    make: str
    is_dng: bool
    raw_place: int
    raw_end: int
    parts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


def directories(data: bytes) -> list[Directory]:
    """The directories of a file that begins as TIFFs do, whatever its magic number: the first, what
    follows it, and those within. It ends where the file is broken, and raises nothing."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        todo = [struct.unpack_from(order + "I", data, 4)[0]]
    except struct.error:
        return []
    found: list[Directory] = []
    seen: set[int] = set()
    while todo and len(found) < MAX_DIRECTORIES:
        at = todo.pop(0)
        if at in seen or not 8 <= at < len(data):
            continue
        seen.add(at)
        try:
            values, after = _read(data, at, order)
        except struct.error:
            continue
        found.append(_directory(values))
        if after:
            todo.append(after)
        todo += [n for n in values.get(_SUB_DIRECTORIES, ()) if isinstance(n, int)]
    return found


def _read(data: bytes, at: int, order: str) -> tuple[dict[int, tuple[int, ...] | bytes], int]:
    """The values that are asked for, by tag, and where the next directory is. Raises struct.error:
    the directory does not lie in the file."""
    count = struct.unpack_from(order + "H", data, at)[0]
    if count > MAX_ENTRIES:
        raise struct.error("no directory")
    values: dict[int, tuple[int, ...] | bytes] = {}
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, code, number = struct.unpack_from(order + "HHI", data, place)
        if tag not in _ASKED or code not in _SIZES or number > MAX_PARTS:
            continue
        size = _SIZES[code] * number
        where = place + 8 if size <= 4 else struct.unpack_from(order + "I", data, place + 8)[0]
        if where + size > len(data):
            continue
        if code == 2:
            values[tag] = data[where : where + size]
        else:
            values[tag] = struct.unpack_from(f"{order}{number}{_CODES[code]}", data, where)
    end = at + 2 + 12 * count
    after = data[end : end + 4]
    return values, struct.unpack(order + "I", after)[0] if len(after) == 4 else 0


def _directory(values: dict[int, tuple[int, ...] | bytes]) -> Directory:
    def numbers(tag: int) -> tuple[int, ...]:
        value = values.get(tag, ())
        return value if isinstance(value, tuple) else ()

    def first(tag: int) -> int | None:
        return next(iter(numbers(tag)), None)

    make = values.get(_MAKE, b"")
    raw_place = first(_RAW_PLACE) or 0
    size, pixels = _PACKED.get(first(_RAW_FORMAT) or 0, (0, 1))
    packed = (first(_SENSOR_WIDTH) or 0) * (first(_SENSOR_HEIGHT) or 0) * size // pixels
    return Directory(
        photometric=first(_PHOTOMETRIC),
        compression=first(_COMPRESSION),
        make=make.decode("latin-1").strip("\0 ") if isinstance(make, bytes) else "",
        is_dng=_DNG_VERSION in values,
        raw_place=raw_place,
        raw_end=raw_place + packed if raw_place and packed else 0,
        parts=tuple(_parts(numbers)),
    )


def _parts(
    numbers: Callable[[int], tuple[int, ...]],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for places, sizes in _PARTS:
        if numbers(places):
            yield numbers(places), numbers(sizes)
