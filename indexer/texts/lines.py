"""A file of texts as lines, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from indexer.texts.items import MAX_LINE_BYTES

LONG_LINE = f"a line of more than {MAX_LINE_BYTES:,} bytes"


def lines(file: IO[bytes]) -> Iterator[tuple[int, str | None]]:
    """(line number from 1, the line), None for one that is too long. Bytes that are not UTF-8
    come as lone surrogates (surrogateescape)."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES)
            yield number, None
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        yield number, raw.decode("utf-8", "surrogateescape")
