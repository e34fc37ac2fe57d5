"""Camera raw files: which bytes are one, and what LibRaw makes of them.

What a raw file is, its first bytes and its TIFF directories say, never its name: the NEF that holds
a plain TIFF is a TIFF. LibRaw (rawpy) is imported when the first one is met.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmsearch.raw.boxes import boxes
from mmsearch.raw.directories import Directory, directories

RAW_SUFFIXES = frozenset({
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2",
    ".rwl", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".mrw", ".mos", ".kdc", ".dcr",
})  # fmt: skip
"""Endings of the names of raw files, lower case."""

OTHER_RAW = "TIFFEP"
FORMATS = frozenset({
    "DNG", "CR2", "CR3", "CRW", "NEF", "ARW", "RAF", "ORF", "RW2", "PEF", "SRW", "3FR", "IIQ",
    "ERF", "MRW", "MOS", "DCR", OTHER_RAW,
})  # fmt: skip
"""Names of the formats: of each maker the usual one, whatever the ending (NRW is NEF, SR2 is ARW).
OTHER_RAW: one of a maker without a format of its own (TIFF/EP, ISO 12234-2)."""

# Makers whose raw files are TIFFs that nothing else tells apart, as they begin in the tag Make.
_OF_MAKERS = (
    ("NIKON", "NEF"), ("SONY", "ARW"), ("PENTAX", "PEF"), ("RICOH", "PEF"), ("SAMSUNG", "SRW"),
    ("HASSELBLAD", "3FR"), ("PHASE ONE", "IIQ"), ("SEIKO EPSON", "ERF"), ("EPSON", "ERF"),
    ("LEAF", "MOS"), ("KODAK", "DCR"), ("EASTMAN KODAK", "DCR"),
)  # fmt: skip
# TIFF/EP and DNG 1.7: the mosaic of a sensor, and its values before any colour.
_PHOTOMETRIC = (32803, 34892)
# Nikon, Sony, Samsung, Pentax, Kodak: after libtiff's and LibRaw's lists.
_COMPRESSIONS = (34713, 32767, 32770, 65535, 65000)
_ELSEWHERE = 0xFFFFFFFF  # Panasonic's StripOffsets: the place stands in RawDataOffset


def is_raw_name(name: str) -> bool:
    """Whether a file of this name, or path, is taken for a raw file before it is opened."""
    at = name.rfind(".")
    return at > 0 and name[at:].lower() in RAW_SUFFIXES


class Developed:
    """Pictures, and which raw files are the same in the sensor's own terms: those of their names,
    but for the ending and for letter case (IMG_1.NEF of img_1.jpg, and of IMG_1.NEF.jpg)."""

    def __init__(self, pictures: Iterable[str] = ()) -> None:
        """pictures: names, or paths; raw files among them are passed over."""
        self._of: dict[str, str] = {}
        for name in pictures:
            self.add(name)

    def add(self, name: str) -> None:
        """One more of them."""
        if not is_raw_name(name):
            self._of.setdefault(name.rpartition(".")[0].lower(), name)

    def of(self, name: str) -> str | None:
        """The picture that was developed from the raw file of this name, or path; None also for the
        name of another picture."""
        if not is_raw_name(name):
            return None
        lower = name.lower()
        return self._of.get(lower.rpartition(".")[0]) or self._of.get(lower)


def kind(data: bytes) -> str | None:
    """Which of FORMATS a file with these bytes is; None: no raw file."""
    if data.startswith((b"II*\0", b"MM\0*")):
        return _kind_of_tiff(data)
    if data.startswith((b"IIRO", b"IIRS", b"MMOR")):
        return "ORF"
    if data.startswith(b"IIU\0"):
        return "RW2"
    if data.startswith(b"FUJIFILMCCD-RAW"):
        return "RAF"
    if data[4:12] == b"ftypcrx ":
        return "CR3"
    if data[:2] in (b"II", b"MM") and data[6:14] == b"HEAPCCDR":
        return "CRW"
    return "MRW" if data.startswith(b"\0MRM") else None


def _kind_of_tiff(data: bytes) -> str | None:
    if data[8:11] == b"CR\x02":
        return "CR2"
    if b"IIII" in data[8:32] or b"MMMM" in data[8:32]:  # where LibRaw looks for it
        return "IIQ"
    found = directories(data)
    if found and found[0].is_dng:
        return "DNG"
    if not any(map(_is_sensors, found)):
        return None
    make = next((d.make.upper() for d in found if d.make), "")
    return next((name for maker, name in _OF_MAKERS if make.startswith(maker)), OTHER_RAW)


def is_cut(data: bytes, kind: str) -> bool:
    """Whether values of the sensor lie beyond the end of a raw file: for LibRaw, which does not
    complain of all such, they are black, or those before once more."""
    if kind in ("RAF", "CR3", "CRW", "MRW"):
        return False
    return any(
        found.raw_end > len(data) or (_is_sensors(found) and _starts(found) >= len(data))
        for found in directories(data)
    )


def seems_cut(data: bytes, kind: str) -> bool:
    """Whether a raw file speaks of bytes beyond its end. Some cameras do so of whole files: then
    only developing it tells. False where nothing is known of the format (CRW, MRW)."""
    if kind == "RAF":
        # Of the preview, of the sensor's facts, of its values: where, and how many bytes.
        places = [int.from_bytes(data[at : at + 4], "big") for at in range(84, 108, 4)]
        ends = (place + size for place, size in zip(places[::2], places[1::2], strict=True))
        return max(ends) > len(data)
    if kind == "CR3":
        return any(box.end > len(data) for box in boxes(data, 0, len(data)))
    if kind in ("CRW", "MRW"):
        return False
    return any(_end(found) > len(data) for found in directories(data))


def _is_sensors(directory: Directory) -> bool:
    """Whether a directory is that of a sensor's values."""
    return directory.photometric in _PHOTOMETRIC or directory.compression in _COMPRESSIONS


def _starts(directory: Directory) -> int:
    """Where the last of a directory's parts starts that is not empty."""
    starts = [0]
    for places, sizes in directory.parts:
        starts += [at for at, size in zip(places, sizes, strict=False) if size and at != _ELSEWHERE]
    return max(starts)


def _end(directory: Directory) -> int:
    """Where the last byte that a directory speaks of ends."""
    if directory.raw_end:
        return directory.raw_end
    ends = [0]
    for places, sizes in directory.parts:
        for place, size in zip(places, sizes, strict=False):
            at = directory.raw_place if place == _ELSEWHERE else place
            ends.append(at + size)
    return max(ends)
