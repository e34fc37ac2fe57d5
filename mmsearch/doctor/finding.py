"""What the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ok: as it should be. note: no fault of the library, but worth knowing. repaired: it was wrong.
State = Literal["ok", "note", "repaired", "problem"]

#: Who reads and encodes again what a repair has removed.
NEXT_RUN = "the next `mmsearch index`"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `message` is one line that says what is so, and what to do."""

    check: str
    state: State
    message: str


def mended(check: str, wrong: str, done: str, *, repair: bool) -> Finding:
    """The finding for something wrong that a repair mends; or has just mended, if `repair`."""
    if repair:
        return Finding(check, "repaired", f"{wrong}: {done}")
    return Finding(check, "problem", f"{wrong}; `mmsearch doctor --repair` mends that")
