"""Pictures inside zip and tar archives, read one at a time; nothing is ever unpacked to disk.

An archive is untrusted: what it declares of sizes is only used to refuse early, and what is read
is counted as it comes.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmsearch import tarheaders
from mmsearch.archivefaults import problem_of
from mmsearch.archivestream import ArchiveStream, RefusedError, xz_stream
from mmsearch.decode import IMAGE_SUFFIXES
from mmsearch.errors import DecodeError
from mmsearch.overview import (
    ScanProblem,
)
from mmsearch.plaintext import clean
from mmsearch.raw import Developed

ARCHIVE_SUFFIXES = (
    ".zip", ".cbz", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz",
)  # fmt: skip
SEPARATOR = "!/"

#: Of files that may be about the pictures beside them.
_TEXT_SUFFIXES = (".txt", ".xmp", ".json")
_ZIP_SUFFIXES = (".zip", ".cbz")
_PACKED = _GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_CHUNK = 1 << 20
_MAX_NAME = 4096
_IGNORED = frozenset({"__macosx", "@eadir"})
_DRIVE = re.compile(r"^[A-Za-z]:")
_HERE = re.compile(r"^(?:\./)+")
TOO_LONG = "too long for a text"
"""The problem of a text that is."""

# What zipfile, tarfile and the decompressors below them raise on damage.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError,
    OSError, ValueError, NotImplementedError, RuntimeError, KeyError, IndexError, OverflowError,
    MemoryError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What is refused.

    max_member_bytes: of one picture, unpacked. max_total_bytes: of all that is unpacked.
    max_members: of any kind; a zip's list of them is read into memory, about 1 kB each.
    max_directory_bytes: of that list as it is stored.
    max_ratio: unpacked to packed; of members over 1 MiB and of the archive as a whole.
    max_seconds: from one picture to the next.
    max_problems: members that are refused, after which nothing more is read.

    Memory: one picture, and 64 MB; for a zip besides 16 times the bytes of its list, for a .tar.xz
    besides the 256 MB that unpacking it may take.
    """

    max_member_bytes: int = 256 << 20
    max_total_bytes: int = 64 << 30
    max_members: int = 1_000_000
    max_directory_bytes: int = 64 << 20
    max_ratio: int = 200
    max_seconds: float = 60.0
    max_problems: int = 10_000


DEFAULT_LIMITS = ArchiveLimits()


@dataclass(frozen=True, slots=True)
class Member:
    """One picture file of an archive. `name` is '/'-separated, without "./"."""

    name: str
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """A .txt, .xmp or .json file of an archive. problem: why its bytes are not here."""

    name: str
    data: bytes
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A raw file of an archive that is not read since the same picture lies beside it."""

    name: str


def is_archive(name: str) -> bool:
    """Whether a file of this name would be opened as an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def member_path(archive: str, name: str) -> str:
    """How a member is written as one path: "holiday.zip!/beach/1.jpg"."""
    return f"{archive}{SEPARATOR}{name}"


def split_member_path(path: str) -> tuple[str, str] | None:
    """The archive and the member of such a path; None for the path of a plain file."""
    at = path.find(SEPARATOR)
    while at >= 0:
        if is_archive(path[:at]):
            return path[:at], path[at + len(SEPARATOR) :]
        at = path.find(SEPARATOR, at + 1)  # a folder whose name ends in "!"
    return None


def members(path: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> Iterator[Member | ScanProblem]:
    """The pictures of an archive, one in memory at a time: `contents` without the rest."""
    for item in contents(path, limits, text_bytes=0):
        if isinstance(item, Member | ScanProblem):
            yield item


def contents(
    path: Path, limits: ArchiveLimits = DEFAULT_LIMITS, *, text_bytes: int
) -> Iterator[Member | Text | PassedOver | ScanProblem]:
    """The pictures of an archive and its .txt, .xmp and .json files, as they come, one at a time.

    text_bytes: a text has at most so many; 0 passes texts over. What is wrong with a text is told
        with it: most files of that kind are about something else.

    Members that are refused (encrypted, too large, names that lead out of the archive, archives
    in archives) come as ScanProblem with the member's name, and reading goes on; a broken archive
    ends with a ScanProblem of the path "", and what came before stands. Where the drive is at
    fault, or may be, the problem is `closed`. Hard links of a tar that is not compressed are read
    as what they lead to; other links are passed over, which one ScanProblem of the path "" tells in
    the end. Folders, devices, hidden files and files that are no pictures are passed over silently.
    Of a raw file beside the same picture in another format only the name comes; in a tar, which is
    read once, where that picture comes before it.
    """
    problems, closed = 0, False
    for item in _scan(path, limits, text_bytes=text_bytes):
        if isinstance(item, ScanProblem):
            problems, closed = problems + 1, closed or item.closed
        if problems > limits.max_problems:
            reason = f"more than {limits.max_problems:,} members are refused"
            yield ScanProblem("", reason, closed)
            return
        yield item


def read_member(path: Path, name: str, limits: ArchiveLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of the member that members() calls `name`.

    Raises DecodeError: archive gone or broken, no such member, a limit met. A compressed tar is
    read from its beginning.
    """
    source = member_path(str(path), name)
    for item in chosen(path, [name], limits):
        if isinstance(item, ScanProblem):
            raise DecodeError(source, item.reason)
        return item.data
    raise DecodeError(source, "the archive has no such picture")


def chosen(
    path: Path, names: Iterable[str], limits: ArchiveLimits = DEFAULT_LIMITS
) -> Iterator[Member | ScanProblem]:
    """The members of these names, as they come; of raw files too that contents() passes over."""
    for item in _scan(path, limits, only=frozenset(names)):
        if isinstance(item, Member | ScanProblem):
            yield item


def _scan(
    path: Path, limits: ArchiveLimits, only: frozenset[str] | None = None, text_bytes: int = 0
) -> Iterator[Member | Text | PassedOver | ScanProblem]:
    try:
        with path.open("rb") as file:
            packed = file.seek(0, 2)
            file.seek(0)
            if not packed:
                raise RefusedError("empty file")
            head = file.read(tarfile.BLOCKSIZE)
            file.seek(0)
            if _is_zip(path.name, file, head):
                yield from _scan_zip(file, packed, limits, only, text_bytes)
            else:
                yield from _scan_tar(file, head, packed, limits, only, text_bytes)
    except RefusedError as exc:
        yield ScanProblem("", str(exc), closed=exc.late)
    except _DAMAGE as exc:
        yield problem_of("", exc)


def _is_zip(name: str, file: IO[bytes], head: bytes) -> bool:
    """Whether the file is read as a zip. head: its beginning; the file stays there.

    Raises RefusedError where the name says so and it is neither a zip nor a tar.
    """
    if head.startswith(b"PK") or not name.lower().endswith(_ZIP_SUFFIXES):
        return head.startswith(b"PK")
    # A tar first: a zip at its end would be taken for what all of it is.
    if head.startswith(_PACKED) or _is_tar_header(head):
        return False
    # What unpacks itself begins with a program. `is_zipfile` would hide the errors of a drive.
    is_one = bool(zipfile._EndRecData(file))  # type: ignore[attr-defined]
    file.seek(0)
    if not is_one:
        raise RefusedError("not a zip archive")
    return True


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _scan_zip(
    file: IO[bytes],
    packed: int,
    limits: ArchiveLimits,
    only: frozenset[str] | None,
    text_bytes: int,
) -> Iterator[Member | Text | PassedOver | ScanProblem]:
    _check_directory(file, limits)
    links = _Links(seekable=True)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if len(infos) > limits.max_members:
            raise RefusedError(f"more than {limits.max_members:,} members")
        if sum(info.compress_size for info in infos) > packed:
            raise RefusedError("broken: its members overlap")
        # Of several members of one name the last counts, as when unpacking.
        last = {_plain(_said_name(info)): info for info in infos}
        if only is not None:
            # Libraries may know it by the name that zipfile gives it, as all did once.
            last = {_plain(info.filename): info for info in infos} | last
            last = {name: last[name] for name in sorted(only & last.keys())}
        developed = Developed(name for name in last if _judge(name, texts=False) == (name, ""))
        total = 0
        for name, info in last.items():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFLNK):
                continue
            name, problem = _judge(name, texts=text_bytes > 0)
            is_text = _is_text(name) and not problem
            if problem:
                yield ScanProblem(name, problem)
            elif developed.of(name) is not None:
                yield PassedOver(name)
            elif name and kind == stat.S_IFLNK:
                if not is_text:
                    links.pass_over(name)
            elif is_text and info.file_size > text_bytes:
                yield Text(name, b"", TOO_LONG)
            elif name:
                try:
                    data = _zip_bytes(archive, info, packed, limits, total)
                except RefusedError as exc:
                    if exc.whole:
                        raise
                    yield Text(name, b"", str(exc)) if is_text else ScanProblem(name, str(exc))
                except _DAMAGE as exc:  # the directory of a zip stands apart from its members
                    found = problem_of(name, exc)
                    wrong_text = is_text and not found.closed
                    yield Text(name, b"", found.reason) if wrong_text else found
                else:
                    total += len(data)
                    yield Text(name, data) if is_text else Member(name, len(data), data)
    if only is None:
        yield from links.problem()


def _said_name(info: zipfile.ZipInfo) -> str:
    """A member's name. Info-ZIP on Linux and macOS write UTF-8 without the flag that says so, which
    zipfile takes for the code page of DOS."""
    if not info.flag_bits & _IS_UTF8:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


_IS_UTF8 = 0x800  # APPNOTE 4.4.4, bit 11


def _check_directory(file: IO[bytes], limits: ArchiveLimits) -> None:
    # ZipFile reads what this says in one go.
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end and end[_DIRECTORY_SIZE] > limits.max_directory_bytes:
        raise RefusedError("its list of members is too long")
    file.seek(0)


_DIRECTORY_SIZE = 5  # in the end record, as the zip format has it (APPNOTE 4.3.16)


def _zip_bytes(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, packed: int, limits: ArchiveLimits, total: int
) -> bytes:
    if info.flag_bits & 1:
        raise RefusedError("encrypted")
    # The packed size may be a lie as well, but no larger than the archive.
    most = max(limits.max_ratio * min(info.compress_size, packed), 1 << 20)
    _check_size(info.file_size, most, limits, total)
    with archive.open(info) as stream:
        return _read(stream, most, limits, total)


def _scan_tar(
    file: IO[bytes],
    head: bytes,
    packed: int,
    limits: ArchiveLimits,
    only: frozenset[str] | None,
    text_bytes: int,
) -> Iterator[Member | Text | PassedOver | ScanProblem]:
    compressed = head.startswith(_PACKED)
    most = max(limits.max_ratio * packed, 1 << 20)
    stream = ArchiveStream(_unpacked(file, head), seekable=not compressed)
    stream.expect_header(limits.max_seconds)
    links = _Links(seekable=not compressed)
    with tarheaders.open_tar(stream) as archive:
        seen: set[str] = set()
        developed = Developed()
        count = total = 0
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header otherwise
            stream.expect_data()
            count += 1
            if count > limits.max_members:
                raise RefusedError(f"more than {limits.max_members:,} members")
            # Also for members that are passed over: skipping them means unpacking them.
            end = info.offset_data + info.size
            if compressed and (end > most or end > limits.max_total_bytes):
                raise RefusedError(_bomb(end, most, limits))
            if info.isreg() or info.islnk() or info.issym():
                if only is not None:  # every member on the way to it is a step forward
                    stream.restart()
                name, problem = _judge(info.name, texts=text_bytes > 0)
                content: tarfile.TarInfo | None = None
                is_text = _is_text(name) and not problem
                if is_text and (info.size > text_bytes or not info.isreg()):
                    if info.isreg():
                        yield Text(name, b"", TOO_LONG)
                elif not problem and developed.of(name) is not None:
                    yield PassedOver(name)
                elif not problem and name and name not in seen:
                    content = links.content(name, info)
                    if content is not None:
                        seen.add(name)
                        if not is_text and only is None:
                            developed.add(name)
                if only is not None and name not in only:
                    content, problem = None, ""
                if content is not None:
                    if content is not info and total + content.size > most:
                        raise RefusedError(_bomb(total + content.size, most, limits))
                    problem = _refusal(content.size, limits, total)
                    if not problem and (inside := archive.extractfile(content)) is not None:
                        data = _read(inside, limits.max_member_bytes, limits, total)
                        total += len(data)
                        if len(data) != content.size:
                            raise RefusedError("truncated")
                        yield Text(name, data) if is_text else Member(name, len(data), data)
                        stream.restart()
                if problem:
                    yield ScanProblem(name, problem)
                    stream.restart()
            stream.expect_header()
    if only is None:
        yield from links.problem()


class _Links:
    """The links of an archive to pictures: those that can be followed, and how many can not.

    Hard links can, in a tar that is read at any place, to a picture that came before.
    """

    def __init__(self, *, seekable: bool) -> None:
        self._seekable = seekable
        self._places: dict[str, tuple[int, int]] = {}
        self._first, self._count = "", 0

    def content(self, name: str, info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """What to read for the picture of a tar with this name; None where it cannot be."""
        if info.isreg():
            if self._seekable and not info.issparse():
                self._places[name] = info.offset_data, info.size
            return info
        place = self._places.get(_plain(info.linkname)) if info.islnk() else None
        if place is None:
            self.pass_over(name)
            return None
        self._places[name] = place
        content = tarfile.TarInfo(info.name)
        content.offset_data, content.size = place
        return content

    def pass_over(self, name: str) -> None:
        self._first = self._first or clean(name)[:100]
        self._count += 1

    def problem(self) -> Iterator[ScanProblem]:
        """One for all that were passed over, if any: a backup may have very many."""
        if self._count:
            more = f" and {self._count - 1:,} more" if self._count > 1 else ""
            yield ScanProblem("", f"links in it are not followed: {self._first}{more}")


def _refusal(size: int, limits: ArchiveLimits, total: int) -> str:
    """Why a member of a tar is not read, "" if it is. Raises when nothing more is to be read."""
    try:
        _check_size(size, limits.max_member_bytes, limits, total)
    except RefusedError as exc:
        if exc.whole:
            raise
        return str(exc)
    return ""


def _unpacked(file: IO[bytes], head: bytes) -> IO[bytes]:
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if head.startswith(_BZIP2):
        return bz2.BZ2File(file)
    return xz_stream(file) if head.startswith(_XZ) else file


def _plain(stored: str) -> str:
    """A member's name as it is shown, from the one that the archive has."""
    return _HERE.sub("", stored.replace("\\", "/"))


def _is_text(name: str) -> bool:
    return name.lower().endswith(_TEXT_SUFFIXES)


def _judge(stored: str, *, texts: bool) -> tuple[str, str]:
    """The member's name, "" to pass it over, and the reason why it is refused, "" for none."""
    name = _plain(stored)
    if len(name) > _MAX_NAME:
        return f"{name[:100]}…", "its name is too long"
    parts = name.split("/")
    base = parts[-1].lower()
    if ".." in parts or name.startswith("/") or _DRIVE.match(name) or "\0" in name:
        return name, "its name leads out of the archive"
    if any(part.startswith(".") or part.lower() in _IGNORED for part in parts):
        return "", ""
    if is_archive(base):
        return name, "an archive inside an archive is not opened"
    suffix = base[base.rfind(".") :] if "." in base else ""
    is_one = suffix in IMAGE_SUFFIXES or (texts and _is_text(name))
    return (name, "") if is_one else ("", "")


def _check_size(size: int, most: int, limits: ArchiveLimits, total: int) -> None:
    if size > limits.max_member_bytes:
        raise RefusedError(
            f"{size / 1e6:,.0f} MB unpacked is more than the limit of "
            f"{limits.max_member_bytes / 1e6:,.0f} MB"
        )
    if size > most:
        raise RefusedError(_bomb(size, most, limits))
    if total + size > limits.max_total_bytes:
        raise RefusedError(
            f"more than {limits.max_total_bytes / 1e9:,.0f} GB of pictures in one archive",
            whole=True,
        )


def _bomb(size: int, most: int, limits: ArchiveLimits) -> str:
    if size > most:
        return f"a zip bomb: it unpacks to more than {limits.max_ratio} times its size"
    return f"it unpacks to more than {limits.max_total_bytes / 1e9:,.0f} GB"


def _read(stream: IO[bytes], most: int, limits: ArchiveLimits, total: int) -> bytes:
    """All of `stream`, checked against the limits as it comes."""
    data = bytearray()
    while chunk := stream.read(_CHUNK):
        data += chunk
        _check_size(len(data), most, limits, total)
    return bytes(data)
