"""Tar headers, checked before tarfile's own code sees them: some make it run or fill up endlessly.

Known of the versions in use: sizes below zero lead in circles (CVE-2025-8194), rows of digits in
pax headers take time by the square of their length (CVE-2024-6232), and global pax headers add up.
"""

from __future__ import annotations

import re
import tarfile
from typing import Any

from mmsearch.archivestream import ArchiveStream, RefusedError

_MAX_HEADER = 1 << 20  # a long name or pax header; real ones are a few hundred bytes
_META = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_DIGITS = re.compile(rb"[0-9]{256}")
_LENGTH = re.compile(rb"([0-9]{1,7}) ")
_IMPOSSIBLE = "broken: a header of impossible length"


def open_tar(stream: ArchiveStream) -> tarfile.TarFile:
    """A tar to be read from its beginning to its end; raises RefusedError besides tarfile's."""
    return tarfile.open(
        fileobj=stream,
        mode="r:",
        tarinfo=_TarInfo,
        errors="surrogateescape",
    )


class _TarInfo(tarfile.TarInfo):
    """A tar header that refuses what no program writes."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        start = archive.offset
        if self.size < 0 or (self.type in _META and self.size > _MAX_HEADER):
            raise RefusedError(_IMPOSSIBLE)
        if self.type in _PAX:
            _check_pax(self, archive)
        info: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        # A pax header may give another size.
        if info.size < 0 or archive.offset <= start:
            raise RefusedError(_IMPOSSIBLE)
        return info


def _check_pax(info: tarfile.TarInfo, archive: Any) -> None:
    """That the header's records are what they say: "LENGTH KEY=VALUE\\n", one after another."""
    stream: ArchiveStream = archive.fileobj
    block = stream.peek_ahead(-(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    if info.type == tarfile.XGLTYPE:
        archive.global_bytes = getattr(archive, "global_bytes", 0) + info.size
        if archive.global_bytes > _MAX_HEADER:
            raise RefusedError(_IMPOSSIBLE)
    if _DIGITS.search(block):
        raise RefusedError("broken: a header that is none")
    at, end = 0, min(info.size, len(block))
    while at < end and (match := _LENGTH.match(block, at)):
        length = int(match[1])
        if not 5 <= length <= end - at or b"=" not in block[match.end() : at + length]:
            raise RefusedError("broken: a header that is none")
        at += length
