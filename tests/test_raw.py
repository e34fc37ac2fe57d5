"""Camera raw files: what they are told by, their previews, what their sensors saw.

LibRaw itself is real here; the files are those of `raws`, which no camera wrote.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import raws
from bad_input import picture
from PIL import ExifTags, Image
from raws import ASCII, RATIONAL, dng

from mmsearch import decode, raw
from mmsearch.decode import read_info, thumbnail
from mmsearch.errors import DecodeError, DecodeTimeoutError, ImageTooLargeError
from mmsearch.raw import libraw
from mmsearch.raw.exif import read_blocks
from mmsearch.types import DecodeLimits

if TYPE_CHECKING:
    from mmsearch.types import Pixels

WIDE = picture(3, 96, 64)
OTHER = picture(8, 96, 64)
DATE: raws.Tags = {36867: (ASCII, "2021:05:06 07:08:09")}
PARIS: raws.Tags = {
    1: (ASCII, "N"), 2: (RATIONAL, [48, 51, 0]), 3: (ASCII, "E"), 4: (RATIONAL, [2, 21, 0]),
}  # fmt: skip
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt><rdf:li '
    b'xml:lang="x-default">A kite</rdf:li></rdf:Alt></dc:title><dc:subject><rdf:Bag>'
    b"<rdf:li>beach</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def read(data: bytes, min_side: int | None = None, **limits: float) -> decode.Picture:
    bounds = DecodeLimits(**limits)  # type: ignore[arg-type]
    return decode.decode(data, source="x", limits=bounds, min_side=min_side)


def reason(data: bytes, **limits: float) -> str:
    with pytest.raises(DecodeError) as caught:
        read(data, **limits)
    return caught.value.reason


def near(pixels: Pixels, image: Image.Image, most: float = 4) -> bool:
    other = np.asarray(image.resize(pixels.shape[1::-1]), float)
    return bool(abs(other - pixels).mean() < most)


def dark_corner(pixels: Pixels) -> tuple[bool, bool]:
    """Whether the darkest corner (upper left in `picture`) is at the bottom, at the right."""
    height, width, _ = pixels.shape
    grey = pixels.mean(axis=2)
    corners = {
        (bottom, right): grey[
            (height * 7 // 8 if bottom else 0) : (height if bottom else height // 8),
            (width * 7 // 8 if right else 0) : (width if right else width // 8),
        ].mean()
        for bottom in (False, True)
        for right in (False, True)
    }
    return min(corners, key=lambda corner: corners[corner])


@pytest.fixture
def undeveloped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Developing anything is an error."""

    def refuse(*_: object, **__: object) -> Pixels:
        raise AssertionError("developed")

    monkeypatch.setattr(libraw, "develop", refuse)


# -- what is one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        ("NIKON CORPORATION", "NEF"), ("SONY", "ARW"), ("PENTAX", "PEF"), ("SAMSUNG", "SRW"),
        ("Hasselblad", "3FR"), ("SEIKO EPSON CORP.", "ERF"), ("EASTMAN KODAK COMPANY", "DCR"),
        ("Nobody", "TIFFEP"),
    ],
)  # fmt: skip
def test_the_formats_of_makers(make: str, kind: str) -> None:
    for preview in (WIDE, None):
        data = dng(WIDE, preview, make=make, version=False)
        assert raw.kind(data) == kind
        info = read(data, 16).info
        assert (info.format, info.width, info.height) == (kind, 96, 64)


@pytest.mark.parametrize(
    ("magic", "make", "kind"), [(b"IIRO", "OLYMPUS", "ORF"), (b"IIU\0", "Panasonic", "RW2")]
)
def test_those_with_a_magic_number_of_their_own(magic: bytes, make: str, kind: str) -> None:
    found = read(dng(WIDE, WIDE, make=make, version=False, magic=magic, exif=DATE), 16)
    assert found.info.format == kind
    assert found.info.taken_at == datetime(2021, 5, 6, 7, 8, 9)
    assert near(found.pixels, WIDE)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
        (b"\0\0\0\x18ftypcrx ", "CR3"),
        (b"II\x1a\0\0\0HEAPCCDR", "CRW"),
        (b"FUJIFILMCCD-RAW 0201", "RAF"),
        (b"II*\0\x08\0\0\0IIII", "IIQ"),
        (b"MMOR\0\0\0\x08", "ORF"),
        (b"\0MRM\0\0\0\0", "MRW"),
        (b"\0\0\0\x18ftypheic", None),
        (b"XX\x1a\0\0\0HEAPCCDR", None),
        (b"II\x1a\0\0\0HEAPCCDS", None),
        (b"II*\0\x08\0\0\0", None),
        (b"", None),
    ],
)
def test_first_bytes(head: bytes, kind: str | None) -> None:
    assert raw.kind(head + b"\0" * 64 if head else head) == kind
    if kind is not None:
        assert reason(head + b"\0" * 64)


def test_a_tiff_stays_a_tiff_whatever_its_name() -> None:
    out = io.BytesIO()
    WIDE.save(out, "TIFF")
    assert raw.kind(out.getvalue()) is None
    found = decode.decode(out.getvalue(), source="holiday.nef")
    assert found.info.format == "TIFF"
    assert near(found.pixels, WIDE, 0.01)


def test_endings() -> None:
    assert raw.RAW_SUFFIXES <= decode.IMAGE_SUFFIXES
    assert raw.is_raw_name("a/IMG_1.NEF")
    assert not raw.is_raw_name("IMG_1.jpg")
    assert not raw.is_raw_name(".nef")


def test_rawpy_is_imported_for_raw_files_alone() -> None:
    program = (
        "import io, sys\nfrom PIL import Image\nfrom mmsearch.decode import decode\n"
        "import indexer.sources, mmsearch.library\n"
        "for kind in ('JPEG', 'TIFF'):\n"
        "    out = io.BytesIO()\n    Image.new('RGB', (9, 9)).save(out, kind)\n"
        "    decode(out.getvalue(), source='x')\n"
        "print('rawpy' in sys.modules)\n"
        "decode(sys.stdin.buffer.read(), source='x')\nprint('rawpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=dng(WIDE, WIDE), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"False", b"True"]


# -- pixels --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undeveloped")
def test_the_preview_is_taken_where_it_is_large_enough() -> None:
    data = dng(WIDE, OTHER)
    for min_side, shape in ((None, (64, 96, 3)), (32, (32, 48, 3)), (64, (64, 96, 3))):
        found = read(data, min_side)
        assert found.pixels.shape == shape
        assert near(found.pixels, OTHER)
    small = dng(WIDE, OTHER.resize((48, 32)))
    assert near(read(small, 32).pixels, OTHER)
    info = read_info(small, source="x")
    assert (info.width, info.height) == (96, 64)  # of the picture, not of the preview
    with pytest.raises(AssertionError, match="developed"):
        libraw.develop(b"", "x", half=True, seconds=1)


@pytest.mark.parametrize("preview", [None, OTHER.resize((48, 32))])
def test_it_is_developed_where_no_preview_is_large_enough(preview: Image.Image | None) -> None:
    found = read(dng(WIDE, preview), 33)
    assert found.pixels.shape == (64, 96, 3)
    # Of what the sensor saw, brighter than it was: so much LibRaw lets white clip.
    grey = np.asarray(WIDE.convert("L"), float)
    assert np.corrcoef(found.pixels.mean(axis=2).ravel(), grey.ravel())[0, 1] > 0.9
    assert read(dng(WIDE, preview)).pixels.shape == (64, 96, 3)
    if preview is None:
        assert read(dng(WIDE), 32).pixels.shape == (32, 48, 3)  # half the size, in half the time


def test_a_sensor_without_colours_is_grey() -> None:
    data = dng(WIDE)
    of_photometric = struct.Struct("<HHII").pack
    grey = data.replace(of_photometric(262, 3, 1, 32803), of_photometric(262, 3, 1, 34892))
    assert grey != data
    pixels = read(grey).pixels
    assert pixels.shape == (64, 96, 3)
    assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_the_camera_says_how_much_of_the_rim_counts() -> None:
    for size in ((92, 60), (98, 65)):
        for turn in (1, 6):
            info = read(dng(WIDE, OTHER.resize(size), orientation=turn)).info
            assert (info.width, info.height) == (size if turn == 1 else size[::-1])
    info = read(dng(WIDE, OTHER.resize((48, 32)))).info
    assert (info.width, info.height) == (96, 64)


@pytest.mark.parametrize(("scale", "size"), [([1, 2], (96, 128)), ([2, 1], (192, 64))])
def test_pixels_that_are_no_squares(scale: list[int], size: tuple[int, int]) -> None:
    for preview in (None, OTHER.resize(size), OTHER.resize((size[0] // 4, size[1] // 4))):
        for turn, least in ((1, 16), (6, None)):
            data = dng(WIDE, preview, orientation=turn, sensor={50718: (RATIONAL, scale)})
            found = read(data, least)
            upright = size if turn == 1 else size[::-1]
            assert (found.info.width, found.info.height) == upright
            height, width, _ = found.pixels.shape
            assert width * upright[1] == height * upright[0]


def test_fujifilms() -> None:
    small = OTHER.resize((48, 32))
    found = read(raws.raf(WIDE, small), 32)
    assert (found.info.format, found.info.camera) == ("RAF", "FUJIFILM FinePix S9999")
    assert (found.info.width, found.info.height) == (96, 64)
    assert near(found.pixels, small)
    assert read(raws.raf(WIDE, small)).pixels.shape == (64, 96, 3)
    assert reason(raws.raf(WIDE, WIDE)[:-10]) == "truncated"


def test_sensors_whose_rows_run_diagonally() -> None:
    """Their picture is turned by 45 degrees: it is not the square that holds it before."""
    for size in ((96, 64), (96, 40)):
        image = WIDE.resize(size)
        data = raws.raf(image, image.resize((9, 9)), tilted=True)
        found = read(data)
        height, width, _ = found.pixels.shape
        assert abs(found.info.width - width) <= 2
        assert abs(found.info.height - height) <= 2
        assert (width > height) == (size[1] < 48)


def test_a_broken_preview_does_not_make_the_picture_bad() -> None:
    bad = bytearray(raws.jpeg(OTHER))
    bad[len(bad) // 2 : len(bad) // 2 + 40] = b"\xff\xd9" * 20
    assert read(dng(WIDE, bytes(bad)), 32).pixels.shape == (32, 48, 3)


def test_a_small_preview_is_better_than_none() -> None:
    # A compression that LibRaw does not know, as new cameras have.
    data = dng(WIDE, OTHER.resize((48, 32)))
    unknown = data.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 9))
    assert unknown != data
    assert near(read(unknown, 48).pixels, OTHER)


# -- upright -------------------------------------------------------------------------------------

# Where the dark corner comes to be: at the bottom, at the right.
CORNERS = {1: (False, False), 3: (True, True), 6: (False, True), 8: (True, False)}


def with_orientation(image: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return raws.jpeg(image, exif=exif)


def turned(image: Image.Image, turn: int) -> Image.Image:
    ways = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270,
            8: Image.Transpose.ROTATE_90}  # fmt: skip
    return image.transpose(ways[turn]) if turn in ways else image


def without_orientation(image: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "x"  # or LibRaw would put an orientation there
    return raws.jpeg(image, exif=exif)


PREVIEWS: dict[str, Callable[[int], Image.Image | bytes | None]] = {
    "none": lambda turn: None,
    "as the sensor": lambda turn: WIDE,
    "as the sensor, EXIF without orientation": lambda turn: without_orientation(WIDE, turn),
    "as the sensor, and says so": lambda turn: with_orientation(WIDE, turn),
    "upright": lambda turn: raws.jpeg(turned(WIDE, turn)) if turn != 3 else None,
    "upright, and says so": lambda turn: with_orientation(turned(WIDE, turn), 1),
    "upright, and says that it is not": lambda turn: (
        with_orientation(turned(WIDE, turn), turn) if turn != 3 else None
    ),
}


@pytest.mark.parametrize("how", PREVIEWS)
@pytest.mark.parametrize("turn", CORNERS)
def test_orientation_is_applied_once(turn: int, how: str) -> None:
    data = dng(WIDE, PREVIEWS[how](turn), orientation=turn)
    for min_side in (16, None):
        found = read(data, min_side)
        assert (found.info.width, found.info.height) == ((64, 96) if turn >= 5 else (96, 64))
        assert (found.pixels.shape[0] > found.pixels.shape[1]) == (turn >= 5)
        assert dark_corner(found.pixels) == CORNERS[turn]


def test_thumbnails_are_upright() -> None:
    with Image.open(io.BytesIO(thumbnail(dng(WIDE, WIDE, orientation=8), source="x"))) as small:
        assert small.size == (64, 96)
        assert dark_corner(np.asarray(small.convert("RGB"))) == CORNERS[8]


# -- what it says of itself ----------------------------------------------------------------------


@pytest.mark.parametrize("preview", [None, WIDE])
def test_metadata(preview: Image.Image | None) -> None:
    tags = {700: (raws.BYTE, XMP), 270: (ASCII, "by the sea")}
    info = read(dng(WIDE, preview, exif=DATE, gps=PARIS, tags=tags), 16).info
    assert info.taken_at == datetime(2021, 5, 6, 7, 8, 9)
    assert (info.camera, info.title, info.description) == ("Lumen One", "A kite", "by the sea")
    assert info.keywords == ("beach",)
    assert info.latitude == pytest.approx(48.85)
    assert info.longitude == pytest.approx(2.35)


def test_what_only_the_preview_says() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "in the preview"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2019:01:02 03:04:05"
    info = read(dng(WIDE, raws.jpeg(WIDE, exif=exif))).info
    assert info.taken_at == datetime(2019, 1, 2, 3, 4, 5)
    assert (info.camera, info.description) == ("Lumen One", "in the preview")


def test_broken_metadata_is_left_out() -> None:
    data = dng(WIDE, WIDE, exif=DATE)
    at = data.index(struct.pack("<HHI", raws.EXIF, raws.LONG, 1)) + 8
    broken = data[:at] + b"\x04\0\0\0" + data[at + 4 :]
    info = read(broken, 16).info
    assert (info.camera, info.taken_at) == ("Lumen One", None)


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def cr3() -> bytes:
    """The boxes of a CR3 that tell of the picture; there is none in it."""
    canon, adobe = ("85c0b687820f11e08111f4ce462b6a48", "be7acfcb97a942e89c71999491e3afac")
    cmt = [
        box(b"CMT1", raws.tiff(raws.Directory({271: (ASCII, "Canon"), 272: (ASCII, "Canon X")}))),
        box(b"CMT2", raws.tiff(raws.Directory(DATE))),
        box(b"CMT4", raws.tiff(raws.Directory(PARIS))),
    ]
    return (
        box(b"ftyp", b"crx \0\0\0\1crx isom")
        + box(b"moov", box(b"uuid", bytes.fromhex(canon), box(b"CNCV", b"x"), *cmt))
        + box(b"uuid", bytes.fromhex(adobe), XMP)
        + box(b"mdat", b"\0" * 100)
    )


def test_where_a_cr3_tells_of_the_picture() -> None:
    data = cr3()
    assert raw.kind(data) == "CR3"
    exif, xmp = read_blocks(data, "CR3", io.BytesIO)
    assert exif is not None
    assert exif[272] == "Canon X"
    assert exif.get_ifd(ExifTags.IFD.Exif)[36867] == "2021:05:06 07:08:09"
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[2] == (48, 51, 0)
    assert xmp == XMP
    assert not raw.seems_cut(data, "CR3")
    assert raw.seems_cut(data[:-1], "CR3")


def test_where_a_mrw_tells_of_the_picture() -> None:
    block = raws.tiff(raws.Directory({271: (ASCII, "Minolta")}))
    head = b"\0PRD\0\0\0\2xx\0TTW" + struct.pack(">I", len(block)) + block
    exif, xmp = read_blocks(b"\0MRM" + struct.pack(">I", len(head)) + head, "MRW", io.BytesIO)
    assert exif is not None
    assert exif[271] == "Minolta"
    assert xmp is None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # decode() silences them
@pytest.mark.parametrize("kind", sorted(raw.FORMATS))
def test_nothing_is_said_by_rubbish(kind: str) -> None:
    for data in (b"", b"\0" * 100, b"\xff" * 100, b"II*\0\x08\0\0\0" + b"\xff" * 100, cr3()[:90]):
        read_blocks(data, kind, io.BytesIO)
        raw.seems_cut(data, kind)


# -- broken ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preview", [None, WIDE])
@pytest.mark.parametrize("lacking", [10, 500, 6000])
def test_a_cut_off_one_is_not_read_by_its_preview(
    preview: Image.Image | None, lacking: int
) -> None:
    data = dng(WIDE, preview)
    assert reason(data[:-lacking]) == "truncated"


def packed(data: bytes, compression: int) -> bytes:
    """The sensor's values said to be packed in another way than they are."""
    entry = struct.Struct("<HHII").pack
    assert data.count(entry(259, 3, 1, 1)) == 1
    return data.replace(entry(259, 3, 1, 1), entry(259, 3, 1, compression))


@pytest.mark.parametrize("preview", [None, OTHER.resize((48, 32))])
def test_values_that_libraw_takes_for_black_without_a_word(
    preview: Image.Image | None,
) -> None:
    """It does so of lossless JPEGs (ProRAW, Adobe's DNG Converter) that are none, or not there."""
    data = packed(dng(WIDE, preview), 7)
    if preview is None:
        assert reason(data) == "broken: its data does not decode"
    else:
        assert near(read(data, 48).pixels, OTHER)
    sensors = len(raws.mosaic(WIDE))
    of_photometric = struct.Struct("<HHII").pack
    for kind in (32803, 34892):  # one value for a pixel, or three
        of_kind = data.replace(of_photometric(262, 3, 1, 32803), of_photometric(262, 3, 1, kind))
        assert raw.is_cut(of_kind[:-sensors], "DNG")
        assert not raw.is_cut(of_kind[: 1 - sensors], "DNG")
    assert reason(data[:-sensors]) == "truncated"
    entry = struct.Struct("<HHII").pack
    assert reason(data.replace(entry(279, 4, 1, sensors), entry(279, 4, 1, sensors + 1))) == (
        "truncated"
    )


def test_values_in_tiles_are_looked_for_as_well() -> None:
    data = dng(WIDE)
    for strip, tile in ((273, 324), (279, 325)):
        assert data.count(struct.pack("<HHI", strip, 4, 1)) == 1
        data = data.replace(struct.pack("<HHI", strip, 4, 1), struct.pack("<HHI", tile, 4, 1))
    sensors = len(raws.mosaic(WIDE))
    assert not raw.seems_cut(data, "DNG")
    assert raw.seems_cut(data[:-1], "DNG")
    assert not raw.is_cut(data[:-1], "DNG")
    assert raw.is_cut(data[:-sensors], "DNG")
    # What is said to be empty may be anywhere.
    empty = data.replace(
        struct.pack("<HHII", 325, 4, 1, sensors), struct.pack("<HHII", 325, 4, 1, 0)
    )
    assert not raw.is_cut(empty[:-sensors], "DNG")


def test_told_by_how_the_values_are_packed_alone() -> None:
    nikon = raws.Directory({259: (raws.SHORT, 34713), 262: (raws.SHORT, 1), 271: (ASCII, "NIKON")})
    assert raw.kind(raws.tiff(nikon)) == "NEF"
    nikon.tags[259] = (raws.SHORT, 1)
    assert raw.kind(raws.tiff(nikon)) is None


def rw2(values: int) -> bytes:
    """The head of a RW2 of 28 x 10 pixels and so many bytes of the sensor's."""
    tags: raws.Tags = {
        2: (raws.SHORT, 28), 3: (raws.SHORT, 10), 0x2D: (raws.SHORT, 4), 271: (ASCII, "Panasonic"),
        273: (raws.LONG, 0xFFFFFFFF), 279: (raws.LONG, 28 * 10 * 2),
    }  # fmt: skip
    at = len(raws.tiff(raws.Directory(tags | {0x118: (raws.LONG, 0)})))
    head = raws.tiff(raws.Directory(tags | {0x118: (raws.LONG, at)}), b"IIU\0")
    return head + bytes(values)


def test_panasonics_size_of_unpacked_values_is_not_that_of_the_file() -> None:
    """As a DMC-LX3 writes it: StripByteCounts has two bytes for each pixel, the file 16 for 14."""
    whole = 28 * 10 * 16 // 14
    for more in (0, 1, 1000):
        assert not raw.seems_cut(rw2(whole + more), "RW2")
        assert not raw.is_cut(rw2(whole + more), "RW2")
    assert raw.seems_cut(rw2(whole - 1), "RW2")
    assert raw.is_cut(rw2(whole - 1), "RW2")
    assert reason(rw2(whole - 1)) == "truncated"
    # Others say what there is.
    assert raw.seems_cut(
        rw2(whole).replace(b"\x2d\0\3\0\1\0\0\0\4", b"\x2d\0\3\0\1\0\0\0\6"), "RW2"
    )


def test_a_raf_that_is_cut_off() -> None:
    head = b"FUJIFILMCCD-RAW ".ljust(84, b"\0")
    head += struct.pack(">6I", 200, 50, 250, 10, 260, 40)
    data = head.ljust(300, b"\0")
    assert not raw.seems_cut(data, "RAF")
    assert raw.seems_cut(data[:-1], "RAF")


def test_tags_that_promise_too_much_do_not_make_a_whole_file_bad() -> None:
    """An old JPEG of a thumbnail that is not there any more."""
    data = dng(WIDE, OTHER, tags={513: (raws.LONG, 1 << 30), 514: (raws.LONG, 5000)})
    assert raw.seems_cut(data, "DNG")
    assert read(data, 32).pixels.shape == (32, 48, 3)


def test_the_same_where_libraw_cannot_tell() -> None:
    """Packed in a way that it lacks, by a camera that counts more bytes than there are."""
    entry = struct.Struct("<HHII").pack

    def unknown(data: bytes) -> bytes:
        size = len(raws.mosaic(WIDE))
        data = data.replace(entry(279, 4, 1, size), entry(279, 4, 1, size + 100))
        return data.replace(entry(259, 3, 1, 1), entry(259, 3, 1, 9))

    data = unknown(dng(WIDE, OTHER))
    assert raw.seems_cut(data, "DNG")
    assert near(read(data, 32).pixels, OTHER)
    assert "LibRaw cannot read" in reason(unknown(dng(WIDE)))


def test_what_libraw_does_not_know() -> None:
    assert "LibRaw cannot read" in reason(b"FUJIFILMCCD-RAW 0201".ljust(4000, b"\0"))


def test_limits() -> None:
    data = dng(WIDE, WIDE)
    with pytest.raises(ImageTooLargeError):
        read(data, max_pixels=96 * 64 - 1)
    read(data, max_pixels=96 * 64)
    with pytest.raises(DecodeTimeoutError):
        read(dng(WIDE), max_seconds=0.001)


def test_a_crash_of_the_developing_process_is_the_files_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "crash.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(libraw, "_SCRIPT", script)
    assert reason(dng(WIDE)) == "broken: its data does not decode"


def test_nothing_of_libraws_reaches_the_terminal() -> None:
    program = (
        "import sys\nfrom mmsearch.decode import decode\nfrom mmsearch.errors import DecodeError\n"
        "data = sys.stdin.buffer.read()\n"
        "for cut in (10, 3000, len(data) // 2):\n"
        "    try:\n        decode(data[:-cut], source='x')\n"
        "    except DecodeError as exc:\n        print(exc.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=dng(WIDE, WIDE), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"truncated"] * 3
    assert done.stderr == b""


# -- the same picture twice ----------------------------------------------------------------------


def test_which_raw_files_are_developed() -> None:
    developed = raw.Developed(["a/IMG_1.jpg", "a/img_2.HEIC", "a/IMG_3.NEF.jpg", "a/IMG_4.dng"])
    assert developed.of("a/img_1.CR2") == "a/IMG_1.jpg"
    assert developed.of("a/IMG_2.nef") == "a/img_2.HEIC"
    assert developed.of("a/IMG_3.nef") == "a/IMG_3.NEF.jpg"
    for name in ("b/IMG_1.cr2", "a/IMG_4.cr2", "a/IMG_1.jpg", "a/IMG_1.png", "a/IMG_10.cr2"):
        assert developed.of(name) is None


def test_the_page_takes_them() -> None:
    """Browsers know no types of theirs: the field for files names the endings."""
    page = Path(raw.__file__).parents[1] / "serve" / "page" / "index.html"
    accept = page.read_text(encoding="utf-8").partition('accept="')[2].partition('"')[0]
    assert set(accept.split(",")) >= raw.RAW_SUFFIXES
