"""Everyday captions: what pictures are commonly said to show, whatever a library holds.

They are the yardstick of `mmsearch.relevance`: a query matches a picture when it describes the
picture better than such captions do. English; a model of other languages places them as well.
"""

from __future__ import annotations

import functools
from importlib import resources

_FILE = "generic.txt"


@functools.cache
def captions() -> tuple[str, ...]:
    """The captions, some two hundred, in the order of the file; no two are the same."""
    text = resources.files("mmsearch").joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)
