"""archive: zip and tar files made here, honest and hostile ones."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from collection import failing_drive
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.archive import (
    ARCHIVE_SUFFIXES,
    ArchiveLimits,
    Member,
    Text,
    contents,
    is_archive,
    member_path,
    members,
    read_member,
    split_member_path,
)
from mmsearch.errors import DecodeError
from mmsearch.overview import (
    ScanProblem,
)

RANDOM = os.urandom(3000)
MANY = {"a.jpg": RANDOM[:1000], "deep/er/b.PNG": RANDOM[1000:2500], "deep/c.webp": b"tiny"}


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(
    path: Path, limits: ArchiveLimits | None = None
) -> tuple[dict[str, bytes], dict[str, str]]:
    good: dict[str, bytes] = {}
    bad: dict[str, str] = {}
    for item in members(path, limits or ArchiveLimits()):
        if isinstance(item, Member):
            assert item.size == len(item.data)
            assert item.name not in good
            good[item.name] = item.data
        else:
            bad[item.path] = item.reason
    return good, bad


WAYS = {
    "zip": lambda path: make_zip(path, MANY),
    "stored.zip": lambda path: make_zip(path, MANY, zipfile.ZIP_STORED),
    "lzma.zip": lambda path: make_zip(path, MANY, zipfile.ZIP_LZMA),
    "tar": lambda path: make_tar(path, MANY),
    "tar.gz": lambda path: make_tar(path, MANY, "w:gz"),
    "tgz": lambda path: make_tar(path, MANY, "w:gz"),
    "tar.bz2": lambda path: make_tar(path, MANY, "w:bz2"),
    "tar.xz": lambda path: make_tar(path, MANY, "w:xz"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind(tmp_path: Path, way: str) -> None:
    path = WAYS[way](tmp_path / f"x.{way}")
    assert is_archive(path.name)
    assert read(path) == (MANY, {})
    for name, data in MANY.items():
        assert read_member(path, name) == data
    with pytest.raises(DecodeError, match="no such picture"):
        read_member(path, "deep/d.webp")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_only_pictures_come(tmp_path: Path, make: object) -> None:
    files = {
        "a.jpg": b"1",
        "b.txt": b"2",
        "jpg": b"3",
        ".hidden.jpg": b"4",
        ".git/d.jpg": b"5",
        "__MACOSX/._a.jpg": b"6",
        "x/@eaDir/t.jpg": b"7",
        "./e.jpg": b"8",
    }
    good, bad = read(make(tmp_path / "a", files))  # type: ignore[operator]
    assert good == {"a.jpg": b"1", "e.jpg": b"8"}
    assert bad == {}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_raw_files_come_where_the_same_picture_does_not(tmp_path: Path, make: object) -> None:
    files = {
        "a/1.jpg": b"1", "a/1.NEF": b"2", "a/2.dng": b"3", "a/2.mov": b"4", "b/1.nef": b"5",
        "b/.1.jpg": b"6",
    }  # fmt: skip
    path = make(tmp_path / "a", files)  # type: ignore[operator]
    good, bad = read(path)
    assert list(good) == ["a/1.jpg", "a/2.dng", "b/1.nef"]
    assert bad == {}
    assert read_member(path, "a/1.NEF") == b"2"  # one that a library knew before


def test_in_a_tar_what_comes_later_is_not_known(tmp_path: Path) -> None:
    files = {"1.CR2": b"1", "1.JPG": b"2"}
    assert list(read(make_zip(tmp_path / "a.zip", files))[0]) == ["1.JPG"]
    assert list(read(make_tar(tmp_path / "a.tar", files))[0]) == ["1.CR2", "1.JPG"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "name", ["../a.jpg", "x/../../a.jpg", "/etc/a.jpg", "C:/a.jpg", "c:\\a.jpg", "..\\a.jpg"]
)
def test_names_that_lead_out(tmp_path: Path, make: object, name: str) -> None:
    path = make(tmp_path / "a", {name: b"x", "ok.jpg": b"y"})  # type: ignore[operator]
    good, bad = read(path)
    assert good == {"ok.jpg": b"y"}
    assert list(bad.values()) == ["its name leads out of the archive"]
    with pytest.raises(DecodeError, match="leads out"):
        read_member(path, next(iter(bad)))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_nested_archives_are_noted(tmp_path: Path, make: object) -> None:
    good, bad = read(make(tmp_path / "a", {"in.zip": b"PK", "ok.jpg": b"y"}))  # type: ignore[operator]
    assert good == {"ok.jpg": b"y"}
    assert "not opened" in bad["in.zip"]


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"{kind!r}.jpg")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    said = "links in it are not followed: b'2'.jpg and 1 more"
    assert read(path) == ({}, {"": said})
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive_zip:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive_zip.writestr(link, "/etc/passwd")
        archive_zip.writestr("folder.jpg/", b"")
    assert read(zipped) == ({}, {"": "links in it are not followed: link.jpg"})
    with pytest.raises(DecodeError, match="no such picture"):
        read_member(zipped, "link.jpg")


def _linked(path: Path, mode: str) -> Path:
    """Of a folder with hard links: two to a.jpg, one of them by way of the other."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, target in (("x/a.jpg", b"A" * 700), ("x/b.jpg", "x/a.jpg"), ("c.jpg", "x/b.jpg"),
                             ("d.jpg", b"D"), ("soft.jpg", b"")):  # fmt: skip
            info = tarfile.TarInfo(name)
            if isinstance(target, str):
                info.type, info.linkname = tarfile.LNKTYPE, target
            elif target:
                info.size = len(target)
            else:
                info.type, info.linkname = tarfile.SYMTYPE, "d.jpg"
            archive.addfile(info, io.BytesIO(target) if info.size else None)
    return path


def test_hard_links_of_a_tar_are_pictures(tmp_path: Path) -> None:
    path = _linked(tmp_path / "a.tar", "w")
    good, bad = read(path)
    same = b"A" * 700
    assert good == {"x/a.jpg": same, "x/b.jpg": same, "c.jpg": same, "d.jpg": b"D"}
    assert bad == {"": "links in it are not followed: soft.jpg"}
    for name, data in good.items():
        assert read_member(path, name) == data
    # What links make of an archive counts like what packing does.
    good, bad = read(path, ArchiveLimits(max_total_bytes=1000))
    assert list(good) == ["x/a.jpg"]
    assert "in one archive" in bad[""]


def test_hard_links_of_a_packed_tar_are_told(tmp_path: Path) -> None:
    """It is read forward only."""
    path = _linked(tmp_path / "a.tgz", "w:gz")
    good, bad = read(path)
    assert list(good) == ["x/a.jpg", "d.jpg"]
    assert bad == {"": "links in it are not followed: x/b.jpg and 2 more"}


def test_links_that_make_too_much_of_a_tar_are_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.size = 1 << 20
        archive.addfile(info, io.BytesIO(os.urandom(1 << 20)))
        for number in range(50):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = tarfile.LNKTYPE, "a.jpg"
            archive.addfile(info)
    good, bad = read(path, ArchiveLimits(max_ratio=10))
    assert 9 < len(good) < 12
    assert "a zip bomb" in bad[""]
    assert len(read(path)[0]) == 51


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 50, "b.jpg": b"y"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1  # the flag in the member's header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(data)
    good, bad = read(path)
    assert good == {"b.jpg": b"y"}
    assert bad == {"a.jpg": "encrypted"}
    with pytest.raises(DecodeError, match="encrypted"):
        read_member(path, "a.jpg")


def test_zip_bomb(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "bomb.zip", {"bomb.bmp": bytes(20 << 20), "ok.jpg": RANDOM})
    good, bad = read(path)
    assert good == {"ok.jpg": RANDOM}
    assert "bomb" in bad["bomb.bmp"]


def test_small_members_may_be_packed_tightly(tmp_path: Path) -> None:
    flat = bytes(900_000)
    assert read(make_zip(tmp_path / "a.zip", {"flat.bmp": flat}))[0] == {"flat.bmp": flat}


def test_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    """Reading is bounded by what comes, whatever the headers say."""
    path = make_zip(tmp_path / "a.zip", {"a.bmp": bytes(4 << 20)})
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        where = data.index(magic) + at
        data[where : where + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    good, bad = read(path)
    assert good == {}
    assert list(bad) == ["a.bmp"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tar_bomb(tmp_path: Path, pack: object) -> None:
    plain = make_tar(tmp_path / "a.tar", {"ok.jpg": RANDOM, "zeros.bin": bytes(30 << 20)})
    path = tmp_path / "a.tar.x"
    path.write_bytes(pack(plain.read_bytes()))  # type: ignore[operator]
    good, bad = read(path)
    assert good == {"ok.jpg": RANDOM}
    assert "bomb" in bad[""]


def test_tar_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 8 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert read(path) == ({}, {"": "broken: a header of impossible length"})


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_long_and_foreign_names(tmp_path: Path, make: object) -> None:
    files = {"ü" * 60 + "/" + "x" * 90 + ".jpg": b"1", "日本.jpg": b"2"}
    assert read(make(tmp_path / "a", files)) == (files, {})  # type: ignore[operator]


def test_tar_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        info = tarfile.TarInfo(name)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    assert read(path) == ({name: b"x"}, {})
    assert read_member(path, name) == b"x"


def test_limits(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", MANY)
    tar = make_tar(tmp_path / "a.tar", MANY)
    for one in (path, tar):
        good, bad = read(one, ArchiveLimits(max_member_bytes=1200))
        assert set(good) == {"a.jpg", "deep/c.webp"}
        assert "limit" in bad["deep/er/b.PNG"]
        good, bad = read(one, ArchiveLimits(max_total_bytes=1200))
        assert set(good) == {"a.jpg"}
        assert "more than" in bad[""]
        good, bad = read(one, ArchiveLimits(max_members=2))
        assert "members" in bad[""]
    with pytest.raises(DecodeError, match="limit"):
        read_member(path, "a.jpg", ArchiveLimits(max_member_bytes=10))


def test_duplicate_names(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for data in (b"one", b"two"):
            info = tarfile.TarInfo("a.jpg")
            info.size = 3
            archive.addfile(info, io.BytesIO(data))
    assert read(path)[0] == {"a.jpg": read_member(path, "a.jpg")}
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive_zip:
        archive_zip.writestr("a.jpg", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive_zip.writestr("a.jpg", b"two")
    assert read(zipped)[0] == {"a.jpg": read_member(zipped, "a.jpg")} == {"a.jpg": b"two"}


def test_zip_names_that_are_one_when_unpacked(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "a.zip",
        {"a.jpg": b"1", "./a.jpg": b"2", "./b/c.jpg": b"3", "b\\c.jpg": b"4", "d.jpg": b"5"},
    )
    found = [(item.name, item.data) for item in members(path) if isinstance(item, Member)]
    assert found == [("a.jpg", b"2"), ("b/c.jpg", b"4"), ("d.jpg", b"5")]
    for name, data in found:
        assert read_member(path, name) == data
    with pytest.raises(DecodeError, match="no such picture"):
        read_member(path, "./a.jpg")


class _Unflagged(zipfile.ZipInfo):
    """A member whose name is UTF-8 without the flag for it, as Info-ZIP on Linux and macOS have."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 -- zipfile's own
        return self.filename.encode(), self.flag_bits & ~0x800


def test_zip_names_in_utf8_that_do_not_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("été/café.jpg", "日本.jpg", "plain.jpg"):
            archive.writestr(_Unflagged(name), name)
        archive.writestr("flagged é.jpg", "flagged é.jpg")
    good, bad = read(path)
    assert bad == {}
    assert list(good) == ["été/café.jpg", "日本.jpg", "plain.jpg", "flagged é.jpg"]
    for name in good:
        assert good[name] == read_member(path, name) == name.encode()
    # Libraries from before know it by the name that zipfile makes of these bytes.
    assert read_member(path, "├⌐t├⌐/caf├⌐.jpg") == "été/café.jpg".encode()
    with pytest.raises(DecodeError, match="no such picture"):
        read_member(path, "cafe.jpg")


def test_zip_names_of_dos_stay_as_they_are(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"caf_.jpg": b"x"})
    path.write_bytes(path.read_bytes().replace(b"caf_.jpg", b"caf\x82.jpg"))  # code page 437
    assert read(path) == ({"café.jpg": b"x"}, {})
    assert read_member(path, "café.jpg") == b"x"


def test_names_that_lead_out_in_unflagged_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_Unflagged("../é.jpg"), b"x")
    assert read(path) == ({}, {"../é.jpg": "its name leads out of the archive"})


def test_corrupt_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for data, said in (
        (b"", "empty file"),
        (b"no archive at all" * 100, "not a zip archive"),
        (b"PK\x03\x04" + bytes(100), "not an archive"),
        (b"\x1f\x8b" + bytes(100), "broken"),
        (b"\xfd7zXZ\0" + bytes(100), "broken"),
    ):
        path.write_bytes(data)
        good, bad = read(path)
        assert good == {}
        assert said in bad[""], data[:10]
        with pytest.raises(DecodeError, match=said):
            read_member(path, "a.jpg")


def test_what_is_called_a_zip_and_is_none(tmp_path: Path) -> None:
    """A page that says "not found" instead of the download, most of all."""
    for size in (40, 100, 5000):
        path = tmp_path / f"{size}.ZIP"
        path.write_bytes(b"<!doctype html>".ljust(size))
        assert read(path) == ({}, {"": "not a zip archive"})
    tar = make_tar(tmp_path / "a.cbz", MANY)
    assert read(tar) == (MANY, {})
    packed = make_tar(tmp_path / "b.zip", MANY, "w:gz")
    assert read(packed) == (MANY, {})


def test_zip_behind_a_program_that_unpacks_it(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", MANY)
    path.write_bytes(b"MZ" + RANDOM + path.read_bytes())
    assert read(path) == (MANY, {})
    for name, data in MANY.items():
        assert read_member(path, name) == data
    good, bad = read(path, ArchiveLimits(max_directory_bytes=100))
    assert (good, bad) == ({}, {"": "its list of members is too long"})


def test_tar_called_a_zip_that_ends_with_one(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner", {"inner.jpg": b"x"}).read_bytes()
    path = make_tar(tmp_path / "a.zip", {"outer.jpg": b"y", "z": inner})
    good, bad = read(path)
    assert (good, bad) == ({"outer.jpg": b"y"}, {})


def test_what_was_read_before_damage_stays(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.jpg": RANDOM, "b.jpg": RANDOM[::-1]}, 0)
    data = bytearray(path.read_bytes())
    data[data.index(RANDOM[::-1]) + 10] ^= 1
    path.write_bytes(data)
    assert read(path) == ({"a.jpg": RANDOM}, {"b.jpg": "broken: a checksum does not match"})

    for way in ("w", "w:gz", "w:bz2", "w:xz"):
        big = {f"{n}.jpg": os.urandom(500_000) for n in range(4)}
        path = make_tar(tmp_path / "b", big, way)
        path.write_bytes(path.read_bytes()[:1_700_000])
        good, bad = read(path)
        assert list(good) in (["0.jpg", "1.jpg", "2.jpg"], ["0.jpg"], ["0.jpg", "1.jpg"])
        assert bad[""] == "truncated"


@pytest.mark.parametrize("way", WAYS)
def test_a_drive_that_fails_is_not_damage(tmp_path: Path, way: str) -> None:
    path = WAYS[way](tmp_path / f"x.{way}")
    whole = path.stat().st_size
    for at in range(0, whole, 97):
        with failing_drive(path, at):
            items = list(members(path))
        for item in items:
            if isinstance(item, Member):
                assert item.data == MANY[item.name]
            else:
                assert (item.closed, item.reason) == (True, "input/output error"), at
        # A tar of which all pictures were read may be closed before its last bytes are asked for.
        good = [item for item in items if isinstance(item, Member)]
        assert len(good) < len(items) or len(good) == len(MANY)
    assert not any(isinstance(item, ScanProblem) for item in members(path))


def test_a_zip_goes_on_behind_what_cannot_be_read(tmp_path: Path) -> None:
    """Where that is one place of a drive, and not the drive."""
    path = make_zip(tmp_path / "a.zip", {"a.jpg": RANDOM, "b.jpg": b"b"})
    real = zipfile.ZipFile.open

    def opened(self: zipfile.ZipFile, info: zipfile.ZipInfo) -> object:
        if info.filename == "a.jpg":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, info)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", opened)
        first, second = members(path)
        limits = ArchiveLimits(max_problems=0)
        assert list(members(path, limits)) == [
            ScanProblem("", "more than 0 members are refused", closed=True)
        ]
    assert first == ScanProblem("a.jpg", "input/output error", closed=True)
    assert second == Member("b.jpg", 1, b"b")


def test_a_drive_that_goes_when_the_end_of_a_zip_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zipfile says then that the file is no zip file."""
    path = make_zip(tmp_path / "a.zip", MANY)
    real, calls = zipfile._EndRecData, iter(range(9))  # type: ignore[attr-defined]

    def once(file: object) -> object:
        if next(calls):
            raise OSError(errno.ENODEV, "No such device")
        return real(file)

    monkeypatch.setattr(zipfile, "_EndRecData", once)
    assert list(members(path)) == [ScanProblem("", "no such device", closed=True)]


def test_places_that_no_file_has_are_damage(tmp_path: Path) -> None:
    """The system refuses to go there, and would at any time."""
    path = make_zip(tmp_path / "a.zip", {"a.jpg": RANDOM, "b.jpg": b"b"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    # The list of members is said to lie later than it does: then the first lies before the file.
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<L", data, end + 16, struct.unpack_from("<L", data, end + 16)[0] + 10)
    path.write_bytes(data)
    problems = [item for item in members(path) if isinstance(item, ScanProblem)]
    assert problems
    assert not any(item.closed for item in problems)


def test_missing_archive(tmp_path: Path) -> None:
    assert list(members(tmp_path / "no.zip")) == [ScanProblem("", "the file is gone", closed=True)]
    with pytest.raises(DecodeError) as caught:
        read_member(tmp_path / "no.zip", "a.jpg")
    assert caught.value.source == f"{tmp_path}/no.zip!/a.jpg"


def test_stopping_early_closes_the_file(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", MANY)
    first = next(iter(members(path)))  # ResourceWarnings are errors
    assert isinstance(first, Member)


@settings(max_examples=60, deadline=None)
@given(way=st.sampled_from(sorted(WAYS)), spots=st.lists(st.tuples(st.floats(0, 0.999), st.binary(
    min_size=1, max_size=4)), min_size=1, max_size=5), keep=st.floats(0.2, 1))  # fmt: skip
def test_damage_never_escapes(
    tmp_path_factory: pytest.TempPathFactory,
    way: str,
    spots: list[tuple[float, bytes]],
    keep: float,
) -> None:
    path = WAYS[way](tmp_path_factory.mktemp("damage") / "x")
    data = bytearray(path.read_bytes())
    for where, value in spots:
        at = int(where * len(data))
        data[at : at + len(value)] = value
    path.write_bytes(data[: int(keep * len(data))])
    for item in members(path):
        assert isinstance(item, Member) or not item.closed


def test_paths_of_members() -> None:
    assert member_path("/x/a.zip", "b/c.jpg") == "/x/a.zip!/b/c.jpg"
    assert split_member_path("/x/a.zip!/b/c.jpg") == ("/x/a.zip", "b/c.jpg")
    assert split_member_path("/x/wow!/a.tar.gz!/c!/d.jpg") == ("/x/wow!/a.tar.gz", "c!/d.jpg")
    assert split_member_path("/x/wow!/c.jpg") is None
    assert split_member_path("/x/c.jpg") is None


def test_archive_names() -> None:
    for suffix in ARCHIVE_SUFFIXES:
        assert is_archive(f"X{suffix.upper()}")
    for name in ("a.jpg", "zip", "a.gz", "a.tar.jpg"):
        assert not is_archive(name)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_texts_come_where_they_are_asked_for(tmp_path: Path, make: Any) -> None:
    files = {"a.txt": b"of a", "a.jpg": RANDOM, "long.txt": b"x" * 11, ".hidden.txt": b"x"}
    path = make(tmp_path / "x", files)
    assert list(read(path)[0]) == ["a.jpg"]
    assert list(contents(path, text_bytes=10)) == [
        Text("a.txt", b"of a"),
        Member("a.jpg", len(RANDOM), RANDOM),
        Text("long.txt", b"", "too long for a text"),
    ]
    with pytest.raises(DecodeError, match="no such picture"):
        read_member(path, "a.txt")


def test_what_is_wrong_with_a_text_is_told_with_it(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.txt": RANDOM[:500], "b.jpg": RANDOM})
    raw = path.read_bytes().replace(RANDOM[:500], RANDOM[1:501], 1)
    path.write_bytes(raw)
    text, picture = contents(path, text_bytes=1000)
    assert text == Text("a.txt", b"", "broken: a checksum does not match")
    assert isinstance(picture, Member)


def test_links_to_texts_are_nothing(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", {"a.txt": b"of a"})
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"{kind!r}.txt")
            info.type, info.linkname = kind, "a.txt"
            archive.addfile(info)
    assert list(contents(path, text_bytes=10)) == [Text("a.txt", b"of a")]
