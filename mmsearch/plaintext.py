"""Text as it is kept, and as a terminal shows it: one line that nothing would choke on."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

# C0 and C1 controls and DEL part words; lone surrogates cannot be written as UTF-8; U+FEFF is a
# byte order mark that lost its file. Joiners and direction marks stay: they carry meaning.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SPEAKING = re.compile(r"[\x00-\x1f\x7f-\x9f\u202d\u202e]")
_UNWRITABLE = re.compile(r"[\ud800-\udfff\ufeff]+")
# Surrogates that stand for no byte of a file's name (U+DC80 to U+DCFF do).
_NO_BYTES = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


# Putting accents into their order takes time by the square of how many follow each other; Unicode
# calls 30 enough for anybody (UAX #15, section 13, "Stream-Safe Text Format").
_MAX_ACCENTS = 30
_SHORT = 1000


def clean(text: str) -> str:
    """`text` in NFC, on one line, single-spaced, without control characters or lone surrogates.

    Of more than 30 combining characters on end the first 30 are kept. Takes time in proportion to
    the length.
    """
    text = _UNWRITABLE.sub("", _CONTROLS.sub(" ", text))
    if text.isascii():
        return " ".join(text.split())
    if len(text) > _SHORT:
        text = _accents().sub(r"\1", text)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def printable(text: str) -> str:
    """One line for a terminal: control characters, and bytes that are not UTF-8, become U+FFFD.

    A file's name, or what a client asks for, must neither break lines nor speak to the terminal;
    nor may it turn around what stands after it (U+202D, U+202E).
    """
    return _SPEAKING.sub("\ufffd", in_utf8(text))


def in_utf8(text: str) -> str:
    """The text with U+FFFD for what UTF-8 has no letters for: bytes of file names that are none,
    and lone surrogates, as JSON can hold them."""
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = _NO_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "replace")


def counted(n: int, one: str, many: str | None = None) -> str:
    """ "1 picture", "2,000 pictures". many: where it is not `one` with an s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def both_counted(pictures: int, texts: int) -> str:
    """ "1 picture, 2,000 texts"."""
    return f"{counted(pictures, 'picture')}, {counted(texts, 'text')}"


@functools.cache
def _accents() -> re.Pattern[str]:
    """More than _MAX_ACCENTS characters that combine with what stands before them."""
    # Of all 1.1 million: only when a long text asks for it.
    points = [n for n in range(0x300, sys.maxunicode + 1) if unicodedata.combining(chr(n))]
    runs: list[list[int]] = []
    for point in points:
        if runs and point == runs[-1][1] + 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    chars = "".join(f"{chr(first)}-{chr(last)}" for first, last in runs)
    return re.compile(f"([{chars}]{{{_MAX_ACCENTS}}})[{chars}]+")
