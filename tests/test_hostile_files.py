"""Files made to do harm: each once brought the reader down, or would have without its limit."""

from __future__ import annotations

import io
import json
import lzma
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from collection import encoded, run, write
from PIL import Image

from indexer import texts
from indexer.sources import FileEntry, scan
from indexer.texts import BadText, TextItem, formats, read_sidecar, read_texts
from mmsearch import archivestream, structure
from mmsearch.archive import ArchiveLimits, Member, members, read_member
from mmsearch.decode import decode
from mmsearch.errors import DecodeError, DecodeTimeoutError, ImageTooLargeError
from mmsearch.library import Library
from mmsearch.overview import (
    ScanProblem,
)
from mmsearch.plaintext import clean
from mmsearch.types import (
    DecodeLimits,
)

#: Accents in the wrong order: sorting them takes time by the square of their number.
ACCENTS = "\u0301\u0323" * 250_000


def reason(data: bytes, **limits: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, source="x", limits=DecodeLimits(**limits))
    return caught.value.reason


def picture(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(out, kind, **options)
    return out.getvalue()


# -- pictures ------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_png_of_endless_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_PARTS", 1000)
    data = picture("PNG")
    assert "parts" in reason(data[:33] + chunk(b"prVt", b"") * 1000 + data[33:])
    decode(data[:33] + chunk(b"prVt", b"") * 900 + data[33:], source="x")


def test_png_with_the_pixels_of_a_large_one_and_a_small_limit() -> None:
    assert "megapixels" in reason(picture("PNG"), max_pixels=63)


def gif(width: int, height: int, before: bytes, frame: tuple[int, int, int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + before
    return head + b"," + struct.pack("<HHHH", *frame) + b"\0\x02\x02\x44\x01\0;"


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"!\xf9\x04\x08\0\0\0\0",  # a frame to be cleared: room for it is made when it opens
        b"!\xfe\x03a,b\x02,,\0",
        b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
        b"!\xf9\0\x01,\0",  # Pillow reads on past an empty first block
        b"rubbish",
    ],
)
def test_gif_frames_larger_than_their_screen(before: bytes) -> None:
    """Once 3.4 GB, before the size was looked at."""
    with pytest.raises(ImageTooLargeError):
        decode(gif(8, 8, before, (0, 0, 60_000, 60_000)), source="x")
    with pytest.raises(ImageTooLargeError):
        decode(gif(60_000, 60_000, before, (0, 0, 8, 8)), source="x")
    assert structure._gif_size(gif(8, 8, before, (2, 2, 9, 4)), "x") == (11, 8)


def test_gif_of_endless_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_PARTS", 1000)
    assert "parts" in reason(gif(8, 8, b"!\xfe\x01x\0" * 1000, (0, 0, 8, 8)))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0" + bytes(9)}])
def test_webp_size_is_known_before_it_is_opened(options: dict[str, Any]) -> None:
    data = picture("WEBP", **options)
    assert structure._webp_size(data) == (8, 8)
    with pytest.raises(ImageTooLargeError):
        decode(data, source="x", limits=DecodeLimits(max_pixels=63))


@pytest.mark.parametrize("big", [False, True])
def test_tiff_of_millions_of_strips(big: bool) -> None:
    """Once 31 bytes of memory for each byte of the file."""
    data = bytearray(picture("TIFF", big_tiff=big))
    at = struct.unpack_from("<Q" if big else "<I", data, 8 if big else 4)[0]
    count = struct.unpack_from("<Q" if big else "<H", data, at)[0]
    size, start = (20, at + 8) if big else (12, at + 2)
    for entry in range(start, start + size * count, size):
        if struct.unpack_from("<H", data, entry)[0] == 273:
            struct.pack_into("<Q" if big else "<I", data, entry + 4, 5_000_000)
    assert "parts" in reason(bytes(data))


def test_parts_that_overlap() -> None:
    """Each tag of a TIFF may name the whole file as its value."""
    from mmsearch.decode import _Guarded

    file = _Guarded(bytes(1 << 20), "x", 60)

    def again_and_again() -> None:
        for _ in range(100):
            file.seek(0)
            file.read()

    with pytest.raises(DecodeError, match="overlap"):
        again_and_again()


def test_time_is_looked_at_while_a_file_is_read() -> None:
    with pytest.raises(DecodeTimeoutError, match="MMSEARCH_MAX_DECODE_SECONDS"):
        decode(picture("BMP"), source="x", limits=DecodeLimits(max_seconds=-1))


@pytest.mark.parametrize("progressive", [True, False])
def test_jpeg_of_a_thousand_scans(progressive: bool) -> None:
    """Once two minutes at 16 megapixels, in 100 kB."""
    data = picture("JPEG", progressive=progressive)
    if not progressive:  # the first scan is of one component of three
        at = data.index(b"\xff\xda")
        data = data[: at + 4] + b"\x01" + data[at + 5 :]
    last = data[data.rindex(b"\xff\xda") : -2]
    assert "scans" in reason(data[:-2] + last * 1000 + data[-2:])
    whole = picture("JPEG", progressive=progressive)
    decode(whole + last * 1000, source="x")  # what follows the end is nobody's


def test_jpeg_of_endless_exif() -> None:
    """Its pieces are put together in quadratic time; without them it is a picture as any."""
    data = picture("JPEG")
    piece = b"\xff\xe1\xff\xff" + b"Exif\0\0II*\0\x08\0\0\0".ljust(65533, b"\0")
    found = decode(data[:2] + piece * 100 + data[2:], source="x")
    assert found.info.width == 8
    assert np.array_equal(found.pixels, decode(data, source="x").pixels)


def with_xmp(xml: str) -> bytes:
    data = picture("PNG")
    body = b"XML:com.adobe.xmp\0\0\0\0\0" + xml.encode()
    return data[:33] + chunk(b"iTXt", body) + data[33:]


XMP = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Description>{}</rdf:Description></rdf:RDF>'
)


def test_titles_within_titles() -> None:
    """Each was gone through for each that it lies in."""
    deep = "<dc:title>" * 150_000 + "</dc:title>" * 150_000
    assert decode(with_xmp(XMP.format(deep)), source="x").info.title is None


def test_a_title_of_accents_alone() -> None:
    alt = f"<dc:title><rdf:Alt><rdf:li>x{ACCENTS}</rdf:li></rdf:Alt></dc:title>"
    title = decode(with_xmp(XMP.format(alt)), source="x").info.title
    assert title is not None
    assert len(title) < 40


def test_entities_are_not_expanded() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    leak = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    alt = "<dc:title><rdf:Alt><rdf:li>&a;</rdf:li></rdf:Alt></dc:title>"
    for head in (bomb, leak):
        assert decode(with_xmp(head + XMP.format(alt)), source="x").info.title is None


def test_accents_are_cut_only_where_nobody_writes_them() -> None:
    assert len(clean(ACCENTS)) <= 31
    zalgo = "a" + "\u0301" * 30
    long = "été \u0915\u093f " * 500
    assert clean(zalgo).startswith("á")
    assert clean(long) == clean(long[: len(long) // 2]) + " " + clean(long[len(long) // 2 :])
    assert clean("e\u0301") == "é"


#: Decodes what it reads and prints by how many bytes that raised the most it ever held.
MEASURE = """
import sys
from mmsearch import decode
def most():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
decode._register_heif("x")
data = sys.stdin.buffer.read()
before = most()
decode.decode(data, source="x")
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is Linux's to tell")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "CMYK", {"progressive": True}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("PNG", "I;16", {"compress_level": 1}),
        ("TIFF", "F", {}),
        ("WEBP", "RGBA", {"method": 0}),
        ("AVIF", "RGBA", {"speed": 10, "subsampling": "4:4:4"}),
        ("HEIF", "RGBA", {"quality": 30, "chroma": 444}),
    ],
)
def test_memory_stays_within_the_stated_limit(
    kind: str, mode: str, options: dict[str, Any]
) -> None:
    """Without the fixed part of the limit (see DecodeLimits), which would hide the rest here."""
    wide = np.add.outer(np.arange(2000), np.arange(3000)) % 200
    if mode == "I;16":
        image = Image.fromarray(wide.astype(np.uint16) * 300)
    else:
        image = Image.fromarray(wide.astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, kind, **options, exif=exif)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE], input=out.getvalue(), capture_output=True, check=True
    )
    pixels, size = 2000 * 3000, len(out.getvalue())
    assert 3 * pixels < int(measured.stdout) < 24 * pixels + 4 * size + (16 << 20)


# -- archives ------------------------------------------------------------------------------------


def read(path: Path, **limits: Any) -> tuple[list[str], list[str]]:
    """The names of the members that are given out, and the reasons for what is not."""
    items = list(members(path, ArchiveLimits(**limits)))
    return (
        [item.name for item in items if isinstance(item, Member)],
        [item.reason for item in items if isinstance(item, ScanProblem)],
    )


def test_zip_whose_members_overlap(tmp_path: Path) -> None:
    """One block of data under many names (Fifield, "A better zip bomb", 2019)."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.jpg", os.urandom(2000))
    data = path.read_bytes()
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[at:end]
    entries = b"".join(entry.replace(b"0.jpg", b"%d.jpg" % n) for n in range(10))
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 10, 10, len(entries))
    path.write_bytes(data[:at] + entries + tail)
    assert read(path) == ([], ["broken: its members overlap"])


def test_zip_whose_list_of_members_is_long(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(100):
            archive.writestr(f"{n}.jpg", b"x")
    assert read(path, max_directory_bytes=1000) == ([], ["its list of members is too long"])
    assert len(read(path)[0]) == 100


def tar(*headers: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    for info, body in headers:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.write(body + bytes(-len(body) % 512))
    return out.getvalue() + bytes(1024)


def pax(body: bytes, kind: bytes = tarfile.XHDTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(body)
    return info, body


def file(name: str, body: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    return info, body


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([pax(b"14 size=-99999\n"), file("b.jpg")], "impossible length"),  # CVE-2025-8194
        ([pax(b"1" * 900_000), file("b.jpg")], "a header that is none"),  # CVE-2024-6232
        ([pax(b"1 1 1 1 " * 100_000), file("b.jpg")], "a header that is none"),
        ([pax(b"9999999 path=x\n"), file("b.jpg")], "a header that is none"),
        ([pax(b"0 path=x\n"), file("b.jpg")], "a header that is none"),
        ([pax(b"600000 comment=".ljust(599_999, b"x") + b"\n", tarfile.XGLTYPE)] * 2,
         "impossible length"),
    ],
)  # fmt: skip
def test_tar_headers_that_make_tarfile_run_or_swell(
    tmp_path: Path, headers: list[tuple[tarfile.TarInfo, bytes]], said: str
) -> None:
    path = write(tmp_path / "a.tar", tar(file("a.jpg"), *headers))
    names, reasons = read(path)
    assert names == ["a.jpg"]
    assert said in reasons[0]


def test_pax_headers_of_real_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    names = ["日本" * 60 + ".jpg", "x" * 300 + ".jpg"]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 3, 1234567890.123456
            info.pax_headers = {"SCHILY.xattr.user.note": "a=b\nc 12 =", "comment": "é" * 2000}
            archive.addfile(info, io.BytesIO(b"abc"))
    assert read(path) == (names, [])


def test_sparse_map_without_end(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1  # more of the map follows
    block = bytearray((b"00000000001\0" * 42).ljust(512, b"\1"))
    sums = head[:148] + b" " * 8 + head[156:]
    head[148:156] = b"%06o\0 " % sum(sums)
    path = write(tmp_path / "a.tar", bytes(head) + bytes(block) * 10_000)
    assert read(path) == ([], ["broken: a header of impossible length"])


def test_xz_that_asks_for_memory(tmp_path: Path) -> None:
    plain = tar(file("a.jpg"))
    for size, fine in ((64 << 20, True), (1 << 30, False)):
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}]
        with (
            lzma.open(tmp_path / "a.tar.xz", "wb", filters=filters) if fine else io.BytesIO() as out
        ):
            out.write(plain)
        if fine:
            assert read(tmp_path / "a.tar.xz") == (["a.jpg"], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archivestream, "_MAX_XZ_MEMORY", 1 << 20)
        names, reasons = read(tmp_path / "a.tar.xz")
        assert names == []
        assert "memory" in reasons[0].lower()


def test_several_xz_streams_are_one_file(tmp_path: Path) -> None:
    plain = tar(file("a.jpg"), file("b.jpg", b"y" * 5000))
    packed = lzma.compress(plain[:700]) + bytes(8) + lzma.compress(plain[700:])
    assert read(write(tmp_path / "a.tar.xz", packed)) == (["a.jpg", "b.jpg"], [])


def test_time_between_two_pictures_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock is a second here."""
    clock = iter(range(10**9))
    monkeypatch.setattr(archivestream.time, "monotonic", lambda: float(next(clock)))
    rest = [file(f"{n}.txt") for n in range(100)]
    path = write(tmp_path / "a.tar", tar(file("a.jpg"), *rest, file("b.jpg")))
    picture, problem = members(path, ArchiveLimits(max_seconds=60))
    assert isinstance(picture, Member)
    assert picture.name == "a.jpg"
    assert isinstance(problem, ScanProblem)
    assert "without coming to another picture" in problem.reason
    assert problem.closed  # it may be the drive that is slow
    # Who asks for one member has that long for each on the way.
    assert read_member(path, "b.jpg", ArchiveLimits(max_seconds=60)) == b"x"


# -- nothing outside of the source is read or written --------------------------------------------

SECRET = "secret-of-somebody-else"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[str]]:
    """All files and folders opened, listed, made or removed, by absolute path."""
    seen: list[str] = []
    active = True
    events = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.link",
              "os.symlink", "os.truncate", "os.chmod")  # fmt: skip

    def note(event: str, args: tuple[Any, ...]) -> None:
        if active and event in events and isinstance(args[0], str | bytes):
            seen.append(os.path.realpath(os.fsdecode(args[0])))

    sys.addaudithook(note)
    yield seen
    active = False


NAMES = ["../out.jpg", "a/../../out.jpg", "/out.jpg", "//host/out.jpg", "C:\\out.jpg",
         "C:out.jpg", "..\\out.jpg", "\\out.jpg", "a\\..\\..\\out.jpg", "./../out.jpg",
         "....//../out.jpg"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out(tmp_path: Path, opened: list[str], kind: str, name: str) -> None:
    write(tmp_path / "out.jpg", SECRET.encode())
    path = tmp_path / "in" / f"a.{kind}"
    path.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, b"x")
    else:
        path.write_bytes(tar(file(name)))
    opened.clear()
    assert read(path) == ([], ["its name leads out of the archive"])
    with pytest.raises(DecodeError):
        read_member(path, name)
    assert set(opened) == {str(path)}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_name_with_nul_is_cut_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("aXb.jpg", b"x")
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    assert read(path)[0] == []


def test_links_in_archives_are_no_pictures(tmp_path: Path, opened: list[str]) -> None:
    secret = write(tmp_path / "secret.jpg", SECRET.encode())
    path = tmp_path / "in" / "a.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("soft.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, str(secret))
    opened.clear()
    assert read(path) == ([], ["links in it are not followed: soft.jpg"])
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                 tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE):  # fmt: skip
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = kind, str(secret)
        packed = write(path.with_suffix(".tar"), tar(file("link.jpg", b"mine"), (info, b"")))
        names, _ = read(packed)
        assert names == ["link.jpg"]
        assert read_member(packed, "link.jpg") == b"mine"
    assert str(secret) not in opened


def test_links_in_folders_are_not_followed(tmp_path: Path, model: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    write(outside / "secret.png", encoded(1))
    write(outside / "captions.txt", SECRET.encode())
    write(folder / "mine.png", encoded(2))
    (folder / "way out").symlink_to(outside, target_is_directory=True)
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "captions.txt").symlink_to(outside / "captions.txt")
    (folder / "mine.txt").symlink_to(outside / "captions.txt")
    (folder / "up.zip").symlink_to("../outside/up.zip")
    report = run(tmp_path / "library", folder, model=model)
    assert (report.encoded_images, report.texts) == (1, 0)
    with Library(tmp_path / "library", device="cpu") as library:
        assert [hit.image.path for hit in library.search("x")] == [str(folder / "mine.png")]
        assert "symbolic link" in library.failures()[0].reason
    assert sorted(p.name for p in outside.iterdir()) == ["captions.txt", "secret.png"]


# -- texts ---------------------------------------------------------------------------------------


def items(path: Path, data: bytes) -> list[TextItem | BadText]:
    return list(read_texts(write(path, data)))


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    """Once the end of the run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": ["a.jpg", "b.jpg", "c.jpg"], "text": ["one", "two", "three"]})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    data = path.read_bytes()
    assert items(path, data.replace(b"two", b"t\xffo").replace(b"c.jpg", b"\xff.jpg")) == [
        TextItem("0", "one", "a.jpg"), BadText("1", "not UTF-8"), BadText("2", "not UTF-8")
    ]  # fmt: skip
    with pytest.raises(DecodeError, match="not Parquet"):
        items(path, data.replace(b"image", b"im\xffge"))


def test_names_and_keys_that_cannot_be_stored(tmp_path: Path) -> None:
    """Half a character, by JSON's escape: once the end of the run."""
    lone = '{"x\\ud800.jpg": "one", "' + "k" * 5000 + '": "two", "' + "k" * 4999 + '": "three"}'
    found = items(tmp_path / "c.json", lone.encode())
    assert [item.body for item in found if isinstance(item, TextItem)] == ["one", "two", "three"]
    assert len({item.key for item in found}) == 3
    for item in found:
        item.key.encode()
        assert len(item.key) <= 200
    assert isinstance(found[0], TextItem)
    assert found[0].image == "x.jpg"
    (item,) = items(tmp_path / "d.jsonl", b'{"text": "t", "image": "\\ud800x\\udcff.jpg"}')
    assert isinstance(item, TextItem)
    assert item.image == "x\udcff.jpg"  # that may be a file's name (see os.fsdecode)


def test_a_run_over_hostile_texts(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "folder"
    write(folder / "captions.json", b'{"\\ud800": "half", "a": "whole", "b": ["\\ud800"]}')
    write(folder / "captions.jsonl", b'{"id": 1}\n"' + ACCENTS.encode()[:900_000] + b'"\n')
    coco = {"annotations": [{"id": 1, "caption": "one"}, {"id": 1, "caption": "two"}]}
    write(folder / "captions_x.json", json.dumps(coco).encode())
    report = run(tmp_path / "library", folder, model=model)
    assert report.texts >= 4
    assert run(tmp_path / "library", folder, model=model).texts == 0


def test_a_file_of_rubbish_does_not_flood_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MAX_BAD", 10)
    found = items(tmp_path / "c.jsonl", b"x\n" * 50 + b'"a text"\n' + b"x\n" * 50)
    assert [item.key for item in found if isinstance(item, BadText)] == [
        *map(str, range(1, 11)), "more"
    ]  # fmt: skip
    assert TextItem("51", "a text") in found


def test_json_of_too_many_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_JSON_VALUES", 100)
    assert items(tmp_path / "c.json", b'["a"' + b',"b"' * 90 + b"]")
    with pytest.raises(DecodeError, match="values"):
        items(tmp_path / "c.json", b"[" * 60 + b"[],")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b'["\\ud800', b"9" * 10_000])
def test_json_that_is_deep_or_odd(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DecodeError):
        items(tmp_path / "c.json", data)
    (bad,) = items(tmp_path / "c.jsonl", data)
    assert isinstance(bad, BadText)


def test_lists_of_lists(tmp_path: Path) -> None:
    """As deep as JSON may be, and deeper than Python may call."""
    deep = b"[" * 900 + b'"x"' + b"]" * 900
    (bad,) = items(tmp_path / "c.json", b'{"a": ' + deep + b"}")
    assert isinstance(bad, BadText)
    assert items(tmp_path / "c.jsonl", b'{"text": [["x"]]}') == [TextItem("1.0.0", "x")]


def test_a_billion_rows_in_a_kilobyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(formats, "_MIN_ROWS", 1000)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pa.array(["a"] * 100_000).dictionary_encode()}), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(DecodeError, match="more rows than a file of its size has"):
        list(read_texts(path))
    pq.write_table(pa.table({"text": [["a"] * 20_000, ["b"]]}), path)
    bad, good = read_texts(path)
    assert (bad, good) == (BadText("0", "more than 10,000 texts in one row"), TextItem("1.0", "b"))


def test_archives_of_refusals(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", tar(*[file(f"../{n}.jpg") for n in range(30)], file("b.jpg")))
    names, reasons = read(path, max_problems=20)
    assert (names, len(reasons)) == ([], 21)
    assert reasons[-1] == "more than 20 members are refused"
    long = write(tmp_path / "b.tar", tar(file("x")))
    with tarfile.open(long, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * 5000 + ".jpg"))
    assert read(long) == ([], ["its name is too long"])


def test_texts_of_accents_alone(tmp_path: Path) -> None:
    (item,) = items(tmp_path / "c.txt", ACCENTS.encode()[:1_000_000])
    assert isinstance(item, TextItem)
    assert len(read_sidecar(write(tmp_path / "a.txt", ACCENTS.encode()[:1_000_000]))) <= 31


def test_ignore_patterns_of_brackets(tmp_path: Path) -> None:
    """fnmatch looks for the end of each from each: minutes for 64 kB."""
    write(tmp_path / "a.jpg", b"x")
    write(tmp_path / "b.jpg", b"x")
    write(tmp_path / ".mmsearchignore", b"[" * 65_000 + b"\nb.jpg\n")
    assert [e.path for e in scan(tmp_path) if isinstance(e, FileEntry)] == ["a.jpg"]
    write(tmp_path / ".mmsearchignore", b"*a" * 240 + b"*x\n" + b"b.jpg\n")
    assert [e.path for e in scan(tmp_path) if isinstance(e, FileEntry)] == ["a.jpg"]


def test_each_reader_refuses_and_none_raises_else(tmp_path: Path) -> None:
    """One line for each kind of text file: what is no such file is a DecodeError."""
    makers: dict[str, Callable[[], bytes]] = {
        ".csv": lambda: b"a,b,c\n1,2,3\n",
        ".parquet": lambda: b"PAR1 and nothing more",
        ".json": lambda: b"\xff",
        ".txt": lambda: b"",
        ".tsv": lambda: b"\xff\xfe\0",
    }
    for suffix, make in makers.items():
        with pytest.raises(DecodeError):
            items(tmp_path / f"c{suffix}", make())
