"""decode: real files made with Pillow, every way they can be odd or broken."""

from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import JPEG, PNG, XMP, encode, near, read, reason, scene
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from mmsearch import decode as decode_module
from mmsearch.decode import IMAGE_SUFFIXES, decode, thumbnail
from mmsearch.errors import DecodeError, DecoderMissingError, ImageTooLargeError
from mmsearch.types import DecodeLimits

# -- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
        ("AVIF", {"quality": 95}),
        ("HEIF", {"quality": 95}),
    ],
)
def test_each_format(kind: str, options: dict[str, Any]) -> None:
    picture = read(encode(scene(), kind, **options))
    near(picture.pixels, scene(), 6)
    assert picture.info.format == kind
    assert (picture.info.width, picture.info.height) == (120, 80)


def test_suffixes_are_lower_case_with_dot() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".avif", ".heic"} <= (
        IMAGE_SUFFIXES
    )
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [scene(), Image.new("RGB", (120, 80), "black"), Image.new("RGB", (120, 80), "red")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    near(read(data).pixels, scene(), 6)


def test_mpo_of_a_camera_is_its_first_jpeg() -> None:
    data = encode(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (120, 80))])
    picture = read(data)
    assert picture.info.format == "JPEG"
    near(picture.pixels, scene())


# -- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_png_modes(mode: str) -> None:
    image = scene().convert(mode)
    near(read(encode(image, "PNG")).pixels, image, 0.01)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"),
                       ("RGBA", "AVIF"), ("RGBA", "HEIF")]
)  # fmt: skip
def test_alpha_is_composed_on_white(mode: str, kind: str) -> None:
    image = scene().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 60, 80))
    alpha.paste(128, (60, 40, 120, 80))
    image.putalpha(alpha)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    pixels = read(encode(image, kind, **options)).pixels
    assert (pixels[5:75, 5:50] >= 250).all()
    opaque = np.asarray(scene().convert(mode[:-1]).convert("RGB"), dtype=float)
    assert np.abs(pixels[5:35, 70:110] - opaque[5:35, 70:110]).mean() < 6
    half = (opaque[45:75, 70:110] + 255) / 2
    assert np.abs(pixels[45:75, 70:110] - half).mean() < 6


def test_transparent_palette_gif_and_png() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.paste(1, (8, 0, 16, 16))
    for kind, options in (
        ("GIF", {"transparency": 0}),
        ("PNG", {"transparency": 0}),
        ("PNG", {"transparency": bytes([0, 255])}),
    ):
        pixels = read(encode(image, kind, **options)).pixels
        assert tuple(pixels[4, 2]) == (255, 255, 255)
        assert tuple(pixels[4, 12]) == (200, 100, 50)


def test_transparent_colour_of_rgb_png() -> None:
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    image.paste((9, 8, 7), (4, 0, 8, 8))
    pixels = read(encode(image, "PNG", transparency=(1, 2, 3))).pixels
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[0, 6]) == (9, 8, 7)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    pixels = read(encode(Image.fromarray(ramp), kind)).pixels
    assert np.array_equal(pixels[:, :, 0].ravel(), np.arange(256))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def test_sixteen_bit_rgb_png() -> None:
    rows = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x4000, 0x1234, 0xFF00)
    pixels = read(png(2, 1, 16, 2, rows)).pixels
    assert np.abs(pixels[0].astype(int) - [[255, 128, 0], [64, 18, 255]]).max() <= 1


def test_float_and_32_bit_tiff() -> None:
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert read(encode(Image.fromarray(unit), "TIFF")).pixels.max() == 255
    wild = unit * 3e6 - 1e6
    wild[0, 3] = np.nan
    pixels = read(encode(Image.fromarray(wild.astype(np.float32)), "TIFF")).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    whole = (np.arange(64, dtype=np.int32) * 1040).reshape(8, 8)
    assert read(encode(Image.fromarray(whole), "TIFF")).pixels.max() == 255
    flat = np.full((4, 4), -5, dtype=np.int32)
    assert read(encode(Image.fromarray(flat), "TIFF")).pixels.max() == 0


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    image = scene().convert("CMYK")
    options: dict[str, Any] = {"quality": 95} if kind == "JPEG" else {}
    near(read(encode(image, kind, **options)).pixels, image, 4)


def test_grey_and_scaled_cmyk_jpeg() -> None:
    near(read(encode(scene().convert("L"), "JPEG", quality=95)).pixels, scene().convert("L"))
    big = scene(1200, 800).convert("CMYK")
    pixels = read(encode(big, "JPEG"), min_side=100).pixels
    near(pixels, big.resize((pixels.shape[1], pixels.shape[0])), 6)


def bmp(pixels: np.ndarray) -> bytes:
    """A BMP of 32 bits with a mask for alpha. pixels: (height, width, 4), RGBA."""
    height, width, _ = pixels.shape
    body = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return struct.pack("<2sIHHI", b"BM", 122 + len(body), 0, 0, 122) + head + body


def test_bmp_whose_alpha_is_zero_all_over() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    pixels[:, :, 3] = 0
    assert (read(bmp(pixels)).pixels == pixels[:, :, :3]).all()
    # Where some of it is seen, the rest is meant to be clear; and so is all of a PNG.
    pixels[5, 4, 3] = 255
    found = read(bmp(pixels)).pixels
    assert (found[5, 4] == pixels[5, 4, :3]).all()
    assert (found[:5] == 255).all()
    pixels[:, :, 3] = 0
    assert (read(encode(Image.fromarray(pixels), "PNG")).pixels == 255).all()


# -- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF-lzw", "AVIF"])
def test_every_orientation(turn: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    options: dict[str, Any] = {"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}
    if kind == "TIFF-lzw":
        kind, options = "TIFF", {"compression": "tiff_lzw"}
    data = encode(scene(), kind, exif=exif, **options)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = read(data)
    near(picture.pixels, wanted, 3)
    assert (picture.info.width, picture.info.height) == wanted.size
    assert wanted.size == ((80, 120) if turn >= 5 else (120, 80))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_heif_orientation_is_applied_once(turn: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    jpeg = encode(scene(), "JPEG", exif=exif)
    data = encode(Image.open(io.BytesIO(jpeg)), "HEIF", quality=95)
    picture = read(data)
    near(picture.pixels, ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))), 6)
    assert (picture.info.height, picture.info.width) == picture.pixels.shape[:2]


@pytest.mark.parametrize("turn", [0, 9, 255])
def test_impossible_orientation_is_ignored(turn: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    near(read(encode(scene(), "JPEG", exif=exif, quality=95)).pixels, scene())


# -- scaled decoding -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((1600, 1200), 300),
        ((4000, 500), 224),
        ((400, 300), 448),
        ((901, 903), 450),
        ((300, 2400), 448),
    ],
)
def test_scaled_jpeg_keeps_the_shorter_side(size: tuple[int, int], side: int) -> None:
    picture = read(encode(scene(*size), "JPEG", quality=95), min_side=side)
    height, width = picture.pixels.shape[:2]
    assert min(height, width) >= min(side, *size)
    assert (picture.info.width, picture.info.height) == size
    assert abs(width / height - size[0] / size[1]) < 0.02 * size[0] / size[1]
    if min(size) >= 2 * side:
        assert min(height, width) < min(size)
    near(picture.pixels, scene(*size).resize((width, height), Image.Resampling.BOX))


def test_scaled_jpeg_by_pillow_when_simplejpeg_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "_jpeg_pixels", lambda data, side: None)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = read(encode(scene(1600, 1200), "JPEG", exif=exif), min_side=300)
    assert picture.pixels.shape == (400, 300, 3)
    assert (picture.info.width, picture.info.height) == (1200, 1600)


def test_full_size_is_what_simplejpeg_says() -> None:
    assert np.array_equal(read(JPEG).pixels, simplejpeg.decode_jpeg(JPEG))


# -- bad input -----------------------------------------------------------------------------------


def test_empty_and_foreign_files() -> None:
    assert reason(b"") == "empty file"
    for data in (b"just a text\n" * 100, b"\0" * 1000, b"BM and more text " * 20, b"%PDF-1.7\n",
                 b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8"):  # fmt: skip
        assert reason(data).startswith("not a picture")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated(kind: str, part: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    said = reason(data[: int(len(data) * part)])
    if kind in ("JPEG", "PNG", "WEBP", "BMP"):
        assert said == "truncated"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_truncated_jpeg_with_an_end_marker_is_not_half_grey(mode: str) -> None:
    data = encode(scene(600, 400).convert(mode), "JPEG", quality=95)
    assert reason(data[: len(data) // 2] + b"\xff\xd9") == "truncated"
    assert reason(data[:-2]) == "truncated"
    assert reason(data[:200]) == "truncated"


def test_sloppy_but_whole_jpegs_are_read() -> None:
    near(read(JPEG[:-2] + b"\0\0\0\0" + JPEG[-2:]).pixels, scene())  # padded before the end
    near(read(JPEG + b"trailing" * 100).pixels, scene())
    unknown = JPEG[:2] + b"\xff\xe0\x00\x10JFIF\0\x07\x09\0\0\x01\0\x01\0\0" + JPEG[20:]
    near(read(unknown).pixels, scene())  # a JFIF version that nobody knows


def test_twelve_bit_jpeg_is_an_error() -> None:
    at = JPEG.index(b"\xff\xc0")
    assert "mmsearch cannot read" in reason(JPEG[: at + 4] + b"\x0c" + JPEG[at + 5 :])


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_png_with_a_broken_crc(kind: bytes) -> None:
    broken = bytearray(PNG)
    at = broken.index(kind)
    length = int.from_bytes(broken[at - 4 : at], "big")
    broken[at + 4 + length] ^= 0xFF
    assert "checksum" in reason(bytes(broken))


def test_header_bombs_are_refused_before_decoding() -> None:
    for data, pixels in (
        (png(50_000, 50_000, 8, 2, b""), 2_500_000_000),
        (b"BM" + struct.pack("<IIIIiiHH24x", 54, 0, 54, 40, 50_000, 50_000, 1, 24),
         2_500_000_000),
        (JPEG[: (at := JPEG.index(b"\xff\xc0")) + 5] + struct.pack(">HH", 60_000, 60_000)
         + JPEG[at + 9 :], 3_600_000_000),
        (b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
         + b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\0\x3b", 65_535**2),
    ):  # fmt: skip
        with pytest.raises(ImageTooLargeError) as caught:
            decode(data, source="bomb")
        assert caught.value.pixels == pixels
        assert caught.value.limit == DecodeLimits().max_pixels
        assert "megapixels" in caught.value.reason


def test_limits_are_the_callers() -> None:
    for data in (JPEG, PNG, encode(scene(), "WEBP"), encode(scene(), "HEIF")):
        assert read(data, limits=DecodeLimits(max_pixels=9600)).info.width == 120
        with pytest.raises(ImageTooLargeError):
            decode(data, source="x", limits=DecodeLimits(max_pixels=9599))
    assert "limit" in reason(JPEG, limits=DecodeLimits(max_bytes=len(JPEG) - 1))
    read(JPEG, limits=DecodeLimits(max_bytes=len(JPEG)))


def test_zero_width() -> None:
    assert "no pixels" in reason(png(0, 10, 8, 2, b""))
    at = JPEG.index(b"\xff\xc0")
    reason(JPEG[: at + 7] + b"\0\0" + JPEG[at + 9 :])
    reason(b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b"\x3b")


def test_png_text_bomb_is_bounded() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 10), zip=True)
    reason(encode(scene(8, 8), "PNG", pnginfo=info))


def test_out_of_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode_module, "_decode", full)
    assert "memory" in reason(JPEG)


FORMATS = {
    kind: encode(scene(40, 30), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    spots=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.1, 1),
)
def test_damage_is_an_error_or_a_picture(
    kind: str, spots: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(FORMATS[kind])
    for where, value in spots:
        data[int(where * len(data))] = value
    try:
        picture = decode(
            bytes(data[: int(keep * len(data))]),
            source="x",
            limits=DecodeLimits(max_pixels=2_000_000),
        )
    except DecodeError:
        return
    assert picture.pixels.shape[2] == 3


def test_threads_and_warnings() -> None:
    """Broken EXIF makes Pillow warn: neither printed nor raised, in any thread."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "a long description of the picture"
    block = bytearray(exif.tobytes())
    block[-10:] = b""  # the value's end is gone
    data = encode(scene(), "JPEG", exif=bytes(block))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                near(decode(data, source="x").pixels, scene(), 4)
        except BaseException as exc:  # noqa: BLE001 -- reported by the test
            failures.append(exc)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert not seen


def test_cut_icc_profile_never_makes_a_jpeg_bad() -> None:
    data = JPEG[:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + JPEG[2:]
    picture = read(data)
    near(picture.pixels, scene())
    assert (picture.info.format, picture.info.width, picture.info.height) == ("JPEG", 120, 80)
    with pytest.raises(ImageTooLargeError):
        decode(data, source="x", limits=DecodeLimits(max_pixels=100))
    assert reason(data[:-100]) != ""


# -- thumbnails ----------------------------------------------------------------------------------


def test_thumbnail_is_upright_small_and_says_nothing() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Canon"
    data = encode(scene(1200, 800), "JPEG", exif=exif, xmp=XMP.encode(), comment=b"secret")
    small = thumbnail(data, source="x", max_side=256)
    image = Image.open(io.BytesIO(small))
    assert image.format == "WEBP"
    assert image.size == (171, 256)
    assert not {"exif", "xmp", "icc_profile", "comment"} & set(image.info)
    assert b"Canon" not in small
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).resize(image.size)
    near(np.asarray(image.convert("RGB")), upright, 5)


def test_thumbnail_never_enlarges_and_raises_like_decode() -> None:
    assert Image.open(io.BytesIO(thumbnail(PNG, source="x"))).size == (120, 80)
    with pytest.raises(DecodeError, match="empty file"):
        thumbnail(b"", source="x")
    with pytest.raises(ImageTooLargeError):
        thumbnail(PNG, source="x", limits=DecodeLimits(max_pixels=10))


def test_what_reads_heic_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "_heif_ready", False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DecoderMissingError, match=r"HEIC files need pillow-heif.*: pip install"):
        decode(b"\0\0\0\x18ftypheic" + bytes(40), source="x")
