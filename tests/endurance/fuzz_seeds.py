"""Small valid files of every kind that mmsearch reads, made by code; what the fuzzer mutates."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache

import numpy as np
import pillow_heif
import raws
from PIL import ExifTags, Image, PngImagePlugin

pillow_heif.register_heif_opener()

XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:creator="x">'
    b"<dc:title><rdf:Alt>"
    b'<rdf:li xml:lang="x-default">A red kite</rdf:li><rdf:li xml:lang="de">Drachen</rdf:li>'
    b"</rdf:Alt></dc:title><dc:subject><rdf:Bag><rdf:li>kite</rdf:li><rdf:li>sea</rdf:li></rdf:Bag>"
    b"</dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)
#: What stands in files beside pictures.
BESIDE = XMP.replace(
    b'dc:creator="x"',
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,12.5N" '
    b'xmlns:lr="http://ns.adobe.com/lightroom/1.0/" lr:hierarchicalSubject="a|b" '
    b'exif:GPSLongitude="16,22,30W" exif:DateTimeOriginal="2021-08-14T18:30:12.45+02:00"',
)
TAKEOUT = {
    "title": "a kite.jpg",
    "description": "A red kite",
    "photoTakenTime": {"timestamp": "1500000000"},
    "geoData": {"latitude": 48.5, "longitude": -2.25},
    "people": [{"name": "Anna"}],
}


def drawing(width: int = 48, height: int = 36, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with a little noise: enough data that damage has something to hit."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 50, height))
    pixels = np.stack([x, y + 100, 200 - x], axis=-1) + rng.integers(0, 40, (height, width, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(x.astype(np.uint8)))
        return image.convert(mode)
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif_block(turn: int = 6) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    exif[ExifTags.Base.ImageDescription] = "A boat at night"
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Canon", "Canon EOS 5D"
    exif[ExifTags.Base.XPTitle] = "Boote".encode("utf-16-le")
    exif[ExifTags.Base.XPKeywords] = "sea;night".encode("utf-16-le")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2019:07:04 12:30:05"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {1: "N", 2: (47.0, 22.0, 12.5), 3: "E", 4: (8.0, 32.0, 1.25)}
    )
    return exif.tobytes()


def iptc_block() -> bytes:
    def field(number: int, text: bytes) -> bytes:
        return b"\x1c\x02" + bytes([number]) + len(text).to_bytes(2, "big") + text

    data = field(5, b"A lighthouse") + field(120, b"It stands by the sea") + field(25, b"tower")
    data += b"\0" * (len(data) % 2)
    block = b"8BIM\x04\x04\0\0" + len(data).to_bytes(4, "big") + data
    return b"Photoshop 3.0\0" + block


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment, right after its start."""
    body = body[:65533]
    return jpeg[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


@cache
def jpeg() -> bytes:
    return encoded(drawing(), "JPEG", quality=80)


def _jpegs() -> Iterator[bytes]:
    yield jpeg()
    yield encoded(drawing(), "JPEG", progressive=True, exif=exif_block())
    yield encoded(drawing(mode="CMYK"), "JPEG")
    yield encoded(drawing(mode="L"), "JPEG", icc_profile=b"\0" * 200)
    yield encoded(drawing(64, 64), "JPEG", subsampling=0, restart_marker_rows=1)
    yield with_segment(jpeg(), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    yield with_segment(jpeg(), 0xED, iptc_block())
    yield encoded(drawing(), "MPO", save_all=True, append_images=[drawing(seed=1)])


def _pngs() -> Iterator[bytes]:
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        yield encoded(drawing(mode=mode), "PNG")
    wide = np.linspace(0, 65535, 48 * 36).reshape(36, 48).astype(np.uint16)
    yield encoded(Image.fromarray(wide), "PNG")
    yield encoded(drawing(mode="P"), "PNG", transparency=bytes(range(200)))
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "A kite")
    texts.add_text("Description", "x" * 300, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    yield encoded(drawing(), "PNG", pnginfo=texts, exif=exif_block(), icc_profile=b"\0" * 200)
    frames = [drawing(seed=n) for n in (1, 2)]
    yield encoded(drawing(), "PNG", save_all=True, append_images=frames, duration=50)
    rows = b"".join(bytes([0, *row]) for row in (b"\xff\0\x10",) * 2)  # 8 x 2 RGB, interlaced below
    yield _interlaced(rows)


def _interlaced(rows: bytes) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        sum_ = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum_)

    body = bytearray()
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                           (1, 0, 2, 2), (0, 1, 1, 2)):  # fmt: skip
        across = len(range(x0, 24, dx))
        for _ in range(y0, 16, dy):
            body += b"\0" + (rows * across)[:across]
    header = struct.pack(">IIBBBBB", 24, 16, 8, 0, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(body)))
        + chunk(b"IEND", b"")
    )


def _gifs() -> Iterator[bytes]:
    yield encoded(drawing(mode="P"), "GIF")
    frames = [drawing(mode="P", seed=n) for n in (1, 2, 3)]
    yield encoded(
        drawing(mode="P"), "GIF", save_all=True, append_images=frames, loop=0, disposal=2,
        transparency=3, comment=b"a comment",
    )  # fmt: skip


def _webps() -> Iterator[bytes]:
    yield encoded(drawing(), "WEBP", quality=70)
    yield encoded(drawing(), "WEBP", lossless=True, method=0)
    yield encoded(drawing(mode="RGBA"), "WEBP", quality=70, exif=exif_block(), xmp=XMP)
    frames = [drawing(seed=n) for n in (1, 2)]
    yield encoded(drawing(), "WEBP", save_all=True, append_images=frames, method=0)


def _tiffs() -> Iterator[bytes]:
    for how in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield encoded(drawing(), "TIFF", compression=how)
    yield encoded(drawing(mode="1"), "TIFF", compression="group4")
    yield encoded(drawing(mode="1"), "TIFF", compression="group3")
    yield encoded(drawing(mode="CMYK"), "TIFF")
    yield encoded(drawing(mode="RGBA"), "TIFF", compression="tiff_lzw")
    floats = np.linspace(-1, 9, 999, dtype=np.float32).reshape(27, 37)
    yield encoded(Image.fromarray(floats), "TIFF")
    yield encoded(Image.fromarray(np.arange(999, dtype=np.uint16).reshape(27, 37)), "TIFF")
    yield encoded(drawing(), "TIFF", big_tiff=True, exif=exif_block())
    yield encoded(drawing(), "TIFF", save_all=True, append_images=[drawing(seed=1)])
    yield encoded(drawing(), "TIFF", strip_size=480)


def _zips() -> Iterator[bytes]:
    def pack(method: int, members: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in members.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = method
                archive.writestr(info, data)
        return out.getvalue()

    small, png = jpeg()[:400], encoded(drawing(8, 8), "PNG")
    yield pack(zipfile.ZIP_STORED, {"a.jpg": small, "deep/er/b.png": png, "notes.txt": b"text"})
    yield pack(zipfile.ZIP_DEFLATED, {"a.jpg": small, "b.png": png, "c/": b""})
    yield pack(zipfile.ZIP_BZIP2, {"ü日本.jpg": small})
    yield pack(zipfile.ZIP_LZMA, {"a.jpg": small})
    yield pack(
        zipfile.ZIP_STORED,
        {"../up.jpg": png, "/root.jpg": png, "C:\\x.jpg": png, "a/../../b.jpg": png, ".h.jpg": png,
         "x" * 300 + ".jpg": png, "in.zip": png, "con.jpg": png, "..\\w.jpg": png},
    )  # fmt: skip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, mode, data in (
            ("link.jpg", stat.S_IFLNK | 0o777, b"/etc/passwd"),
            ("fifo.jpg", stat.S_IFIFO | 0o666, b""),
            ("real.jpg", stat.S_IFREG | 0o644, small),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    yield out.getvalue()


def _plain_tars() -> Iterator[bytes]:
    def pack(form: int, members: list[tuple[str, bytes, str]]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, kind, text in members:
                info = tarfile.TarInfo(name)
                info.type = kind
                if kind == tarfile.REGTYPE:
                    data = text.encode() or jpeg()[:600]
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                else:
                    info.linkname = text
                    archive.addfile(info)
        return out.getvalue()

    file = tarfile.REGTYPE
    yield pack(tarfile.USTAR_FORMAT, [("a.jpg", file, ""), ("d/b.png", file, "x")])
    yield pack(tarfile.GNU_FORMAT, [("n" * 150 + ".jpg", file, ""), ("t.txt", file, "text")])
    yield pack(tarfile.PAX_FORMAT, [("日本" * 40 + ".jpg", file, ""), ("b.jpg", file, "y")])
    yield pack(
        tarfile.GNU_FORMAT,
        [("../up.jpg", file, ""), ("/abs.jpg", file, ""),
         ("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"),
         ("hard.jpg", tarfile.LNKTYPE, "../../etc/passwd"), ("dev.jpg", tarfile.CHRTYPE, ""),
         ("pipe.jpg", tarfile.FIFOTYPE, ""), ("C:/x.jpg", file, ""), ("ok.jpg", file, "")],
    )  # fmt: skip
    yield _sparse()


def _sparse() -> bytes:
    """As GNU tar -S writes it: one block of data in a file of three."""
    info = tarfile.TarInfo("sparse.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"00000001000\0" + b"00000001000\0"
    head[483:495] = b"00000003000\0"
    return seal(bytes(head)) + b"\x07" * 512 + bytes(1024)


def seal(header: bytes) -> bytes:
    """A tar header with the checksum it should have."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def _captions() -> dict[str, list[bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [("a.jpg", "a red kite"), ("b.jpg", "boats, at night"), ("c.jpg", "日本のé")]
    table = pa.table({"image": [r[0] for r in rows], "caption": [r[1] for r in rows]})
    nested = pa.table({"image": [{"bytes": None, "path": "a.jpg"}], "captions": [["x", "y"]]})
    parquets = []
    for what, how in ((table, "snappy"), (table, "gzip"), (table, "none"), (nested, "zstd")):
        out = io.BytesIO()
        pq.write_table(what, out, compression=how)
        parquets.append(out.getvalue())
    lines = [json.dumps({"image": image, "text": text}) for image, text in rows]
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 7, "image_id": 1, "caption": "a kite"}],
    }
    sentences = [{"raw": "a kite", "tokens": ["a"]}]
    karpathy = {"images": [{"filename": "a.jpg", "sentences": sentences}]}
    comma = "image,caption\n" + "".join(f'{i},"{t}"\n' for i, t in rows)
    return {
        "txt": [
            "\n".join(t for _, t in rows).encode(),
            b"1000.jpg#0\tA child\n1000.jpg#1\tA dog\n",
            comma.encode(),
        ],
        "csv": [comma.encode(), b"\xef\xbb\xbfa.jpg;text one\nb.jpg;text two\n", b"one\ntwo\n"],
        "tsv": ["".join(f"{i}\t{t}\n" for i, t in rows).encode()],
        "jsonl": ["\n".join(lines).encode(), b'"one"\n["two"]\n{"caption": ["a", {"raw": "b"}]}\n'],
        "json": [json.dumps(each).encode() for each in (coco, karpathy, dict(rows), ["a", "b"])],
        "parquet": parquets,
        "besidexmp": [XMP, BESIDE],
        "takeout": [json.dumps(TAKEOUT).encode(), json.dumps(TAKEOUT, indent=1).encode()],
        "sidecar": [b"A note\nof two lines", "é\u0301日本".encode()],
        "mmsearchignore": [b"*.tmp\n!keep.jpg\n/a/**/b\n**/cache/\n[a-z]*.jp?g\n# none\n\\!x\n"],
    }


def _raws() -> Iterator[bytes]:
    image = drawing()
    exif: raws.Tags = {36867: (raws.ASCII, "2019:07:04 12:30:05")}
    gps: raws.Tags = {
        1: (raws.ASCII, "N"), 2: (raws.RATIONAL, [47, 22, 12.5]),
        3: (raws.ASCII, "E"), 4: (raws.RATIONAL, [8, 32, 1.25]),
    }  # fmt: skip
    xmp: raws.Tags = {700: (raws.BYTE, XMP)}
    yield raws.dng(image, image, orientation=6, exif=exif, gps=gps, tags=xmp)
    yield raws.dng(image)
    for make, magic in (("NIKON", b"II*\0"), ("OLYMPUS", b"IIRO"), ("Panasonic", b"IIU\0")):
        yield raws.dng(image, image, make=make, version=False, magic=magic, exif=exif)


@cache
def seeds() -> dict[str, list[bytes]]:
    """Kind → valid files. "exif", "xmp" and "iptc" are blocks to be put into a picture."""
    tars = list(_plain_tars())
    heif = [
        encoded(drawing(64, 48), "HEIF", quality=50),
        encoded(drawing(mode="RGBA"), "HEIF", quality=50, exif=exif_block(), xmp=XMP),
    ]
    avif = [
        encoded(drawing(), "AVIF", quality=50, speed=10),
        encoded(drawing(mode="RGBA"), "AVIF", speed=10, exif=exif_block(), xmp=XMP),
        encoded(drawing(), "AVIF", speed=10, save_all=True, append_images=[drawing(seed=1)]),
    ]
    bmps = [encoded(drawing(mode=mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]
    return {
        "jpeg": list(_jpegs()),
        "png": list(_pngs()),
        "gif": list(_gifs()),
        "webp": list(_webps()),
        "tiff": list(_tiffs()),
        "bmp": bmps,
        "heif": heif,
        "avif": avif,
        "raw": list(_raws()),
        "exif": [exif_block(), exif_block(1)[6:]],
        "xmp": [XMP],
        "iptc": [iptc_block()],
        "zip": list(_zips()),
        "tar": tars,
        "tar.gz": [gzip.compress(tar, 6, mtime=0) for tar in tars],
        "tar.bz2": [bz2.compress(tar) for tar in tars],
        "tar.xz": [lzma.compress(tar) for tar in tars],
        **_captions(),
    }
