"""Log lines: for people, or as JSON objects; each names the request that it belongs to.

What people search for, and what their files hold, is in none of them.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal, TextIO
from urllib.parse import quote

from mmsearch.plaintext import printable
from mmsearch.serve.exchange import current

#: Lines for people ("text"), or one JSON object each.
Format = Literal["text", "json"]

access = logging.getLogger("mmsearch.access")

#: The extra fields of an access line; see `note`.
_FIELDS = "mmsearch_fields"


def configure(kind: Format, stream: TextIO, *, access_lines: bool = True) -> None:
    """Sends all log lines of this process to `stream`, in place of where they went so far."""
    # None of the formats below has them, and finding them out takes a third of a line's time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json() if kind == "json" else _Text())
    handler.addFilter(_request)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    access.setLevel(logging.INFO if access_lines else logging.WARNING)


def note(message: str, **fields: Any) -> None:
    """One access line. fields: what a program would want of it; None is left out."""
    if access.isEnabledFor(logging.INFO):
        # What `access.info` does, but for looking up which line of code says so.
        access.handle(
            access.makeRecord(
                access.name, logging.INFO, "", 0, message, (), None, extra={_FIELDS: fields}
            )
        )


def plain_path(path: str) -> str:
    """The path of an address as it was sent: nothing in it ends a line or steers a terminal."""
    return quote(path, safe="/:@!$&'()*+,;=~")


def _request(record: logging.LogRecord) -> bool:
    """Puts the id of the request on a record; it is none of those that are left out."""
    exchange = current.get()
    record.request_id = None if exchange is None else exchange.id
    return True


class _Text(logging.Formatter):
    """ "INFO: GET /v1/search 200 12.3 ms [id]": what a terminal can show in one line.

    Addresses, names and causes come from outside: none may write a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname}: {printable(record.getMessage())}"
        id_ = getattr(record, "request_id", None)
        if id_ is not None:
            line = f"{line} [{id_}]"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line = "\n".join((line, *map(printable, trace.splitlines())))
        return line


class _Json(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, request_id, more."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None})
