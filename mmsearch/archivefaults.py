"""What is wrong with an archive, from the errors that reading it ends with."""

from __future__ import annotations

import errno
import gzip
import tarfile
import zipfile

from mmsearch.errors import os_reason
from mmsearch.overview import ScanProblem

# Errors of the system that speak of the archive after all: places that no file has.
_NO_SUCH_PLACE = (errno.EINVAL, errno.EOVERFLOW)


def problem_of(name: str, exc: Exception) -> ScanProblem:
    """What reading the member, or for "" the archive, ended with."""
    refusal = _refusal_of_system(exc)
    if refusal is None:
        return ScanProblem(name, _reason(exc))
    gone = isinstance(refusal, FileNotFoundError)
    return ScanProblem(name, "the file is gone" if gone else os_reason(refusal), closed=True)


def _refusal_of_system(exc: Exception) -> OSError | None:
    """The error of a drive that does not give the bytes; None where the bytes are at fault."""
    if isinstance(exc, zipfile.BadZipFile) and isinstance(exc.__context__, Exception):
        exc = exc.__context__  # zipfile takes any failure to read the end for "not a zip file"
    # Those of the decompressors have no number.
    if isinstance(exc, OSError) and exc.errno not in (None, *_NO_SUCH_PLACE):
        return exc
    return None


def _reason(exc: Exception) -> str:
    if isinstance(exc, NotImplementedError):
        return "compressed in a way mmsearch cannot read"
    if isinstance(exc, MemoryError):
        return "too large for the memory of this machine"
    said = str(exc).lower()
    if isinstance(exc, EOFError) or "unexpected end" in said or "truncated" in said:
        return "truncated"
    if "password" in said or "encrypted" in said:
        return "encrypted"
    if "bad crc" in said or "crc check" in said:
        return "broken: a checksum does not match"
    if isinstance(exc, tarfile.ReadError | zipfile.BadZipFile | gzip.BadGzipFile):
        return f"broken, or not an archive ({said[:100]})" if said else "broken"
    return f"broken ({said[:100]})" if said else "broken"
