"""Every error mmsearch raises on purpose: attributes carry facts, the message what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class MmsearchError(Exception):
    """The root: catch this to catch all that mmsearch raises on purpose.

    exit_code: of a command that ends with it.
    """

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: by message and attributes, which `__init__` may not take as such."""
        return _remade, (type(self), self.args, self.__dict__)


def _remade(
    kind: type[MmsearchError], args: tuple[object, ...], attributes: dict[str, Any]
) -> MmsearchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class DecodeError(MmsearchError):
    """A picture, archive or text file could not be read."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class ImageTooLargeError(DecodeError):
    """The header promises more pixels than the limit; nothing was decoded."""

    def __init__(self, source: str, pixels: int, limit: int) -> None:
        super().__init__(
            source,
            f"{pixels / 1e6:,.0f} megapixels is more than the limit of {limit / 1e6:,.0f} "
            "(MMSEARCH_MAX_PIXELS raises it)",
        )
        self.pixels = pixels
        self.limit = limit


class DecoderMissingError(DecodeError):
    """The package that reads files of this kind cannot be loaded; the file may be whole."""

    def __init__(self, source: str, files: str, package: str, why: str) -> None:
        super().__init__(
            source, f"{files} need {package}, which cannot be loaded ({why}): pip install {package}"
        )
        self.package = package


class DecodeTimeoutError(DecodeError):
    """Reading or decoding took longer than it may, and was given up."""

    def __init__(self, source: str, during: str, seconds: float) -> None:
        super().__init__(
            source,
            f"took longer than {seconds:g} s to {during} (MMSEARCH_MAX_DECODE_SECONDS raises it)",
        )
        self.during = during
        self.seconds = seconds


class SourceError(MmsearchError):
    """A folder or file that was to be read as a whole is not there, or not readable."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class EncodeError(MmsearchError):
    """The model could not embed something."""


class ModelUnavailableError(EncodeError):
    """The model's weights are not here and could not be fetched."""

    def __init__(self, name: str, why: str, remedy: str) -> None:
        super().__init__(f"model {name!r} is not available: {why}. {remedy}")
        self.name = name
        self.why = why
        self.remedy = remedy


class StoreError(MmsearchError):
    """The catalog could not be read or written."""


class LibraryNotFoundError(StoreError):
    """There is no library where one was looked for."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"there is no library at {path}. Make one with: mmsearch index FOLDER "
            "(-l/--library or MMSEARCH_LIBRARY chooses another place)"
        )
        self.path = path


class LibraryReplacedError(StoreError):
    """The library is another one than it was when it was opened, or gone."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the library at {path} was moved, deleted or replaced after it was opened: open it "
            "again (start the service again)"
        )
        self.path = path


class LibraryLockedError(StoreError):
    """Another process is writing to this library."""

    #: EX_TEMPFAIL of sysexits.h: the same may be done later.
    exit_code = 75

    def __init__(self, path: str, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{holder} is writing to the library at {path}. Wait until it is done, or stop it; "
            "searching works meanwhile"
        )
        self.path = path
        self.pid = pid


class SchemaVersionError(StoreError):
    """The catalog was written by a version of mmsearch that this one does not know."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"the catalog has schema {found}, this mmsearch knows up to {expected}. "
            "Nothing was changed: upgrade mmsearch to open this library"
        )
        self.found = found
        self.expected = expected


class VectorIndexError(MmsearchError):
    """The vector index could not be built, read or searched."""


class SpaceMismatchError(VectorIndexError):
    """A vector of one space met an index or a query of another."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"this is a vector of {found}, the library holds vectors of {expected}. "
            "Search with the model the library was indexed with, or read it again with this one: "
            "mmsearch index --model NAME"
        )
        self.found = found
        self.expected = expected


class IndexMissingError(VectorIndexError):
    """The library holds nothing to search yet."""


class QueryError(MmsearchError):
    """The question cannot be answered as it was put."""


class NotFoundError(QueryError):
    """An item was asked for by an id that the library does not have."""

    def __init__(self, what: str, item_id: int) -> None:
        super().__init__(f"there is no {what} {item_id} in this library")
        self.what = what
        self.item_id = item_id


class UnknownNameError(QueryError):
    """A source or a space was asked for by a name that the library does not know."""

    def __init__(self, what: str, name: str, known: Sequence[str]) -> None:
        names = [repr(other) for other in known[:20]] + ["and more"] * (len(known) > 20)
        has = f"It has: {', '.join(names)}" if names else f"It has no {what} yet"
        super().__init__(f"there is no {what} {name!r} in this library. {has}")
        self.what = what
        self.name = name
        self.known = tuple(known)


class RefusedError(MmsearchError):
    """It was understood, and not done, because it would do harm; the message says what to do."""


class EngineError(MmsearchError):
    """Another database could not be reached, or does not do as it is told."""


class OverloadedError(MmsearchError):
    """More was asked at once than can be queued; ask again in a moment."""


class ServiceError(MmsearchError):
    """The service cannot listen where it was told to."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {host}, port {port}: {reason}. Is mmsearch serve running already? "
            "--port takes another port, 0 any free one"
        )
        self.host = host
        self.port = port
        self.reason = reason


def bare(error: E) -> E:
    """The same error, for who keeps it to raise it elsewhere: where it is one of ours, without the
    calls that it and its causes came through, which nobody looks at.

    Their variables would be kept with it, a picture of many megabytes among them; and as a rule
    what keeps it is one of those, so that nothing of it went before Python looked for circles.
    """
    if isinstance(error, MmsearchError):
        left: list[BaseException | None] = [error]
        while left:
            one = left.pop()
            if one is not None and one.__traceback__ is not None:
                one.__traceback__ = None
                left += [one.__cause__, one.__context__]
    return error


def os_reason(exc: OSError) -> str:
    """Why the system would not give a file, in a few lower-case words for people."""
    if isinstance(exc, PermissionError):
        return "no permission to read it"
    if isinstance(exc, FileNotFoundError):
        return "not found"
    if isinstance(exc, NotADirectoryError):
        return "not a folder"
    said = (exc.strerror or str(exc) or "unreadable").lower()
    return "a symbolic link that leads to itself" if "symbolic links" in said else said
