"""Text as it is kept: one line, NFC, nothing that a database or a terminal would choke on."""

from __future__ import annotations

import re
import unicodedata

# C0 and C1 controls and DEL part words; lone surrogates cannot be written as UTF-8; U+FEFF is a
# byte order mark that lost its file. Joiners and direction marks stay: they carry meaning.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_UNWRITABLE = re.compile(r"[\ud800-\udfff\ufeff]+")


def clean(text: str) -> str:
    """`text` in NFC, on one line, single-spaced, without control characters or lone surrogates."""
    text = _UNWRITABLE.sub("", _CONTROLS.sub(" ", text))
    return unicodedata.normalize("NFC", " ".join(text.split()))
