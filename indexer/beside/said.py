"""What a file tells, before it is known which picture it tells of."""

from __future__ import annotations

import json
from dataclasses import dataclass

from indexer.beside import packets, takeout
from indexer.beside.names import XMP
from mmsearch.told import Told, told_json, told_of


class NotReadableError(Exception):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Said:
    """title: the name that the picture has at Google, which is one of its own if the picture's file
    is called otherwise; None for files of other programs."""

    told: Told
    title: str | None = None

    def of(self, picture: str) -> Told:
        """What it tells of the picture with this name."""
        if self.title is None:
            return self.told
        return takeout.with_title(self.told, self.title, picture)

    def text(self) -> str:
        """As it is kept."""
        return json.dumps({"told": told_json(self.told), "title": self.title})


def said_of(text: str) -> Said:
    """From `Said.text`."""
    parts = json.loads(text)
    return Said(told_of(parts["told"]), parts["title"])


def said_in(name: str, data: bytes) -> Said | None:
    """What a file with this name tells; None where it is about something else.

    Raises NotReadableError.
    """
    try:
        if name.lower().endswith(XMP):
            return Said(packets.read(data))
        found = takeout.read(data)
    except (packets.NotReadableError, takeout.NotReadableError) as exc:
        raise NotReadableError(str(exc)) from exc
    return None if found is None else Said(*found)
