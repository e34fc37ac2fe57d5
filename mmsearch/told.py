"""What files beside a picture tell of it, and how that is joined with what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mmsearch.plaintext import clean
from mmsearch.types import PictureInfo

MAX_TEXT = 10_000
"""Longest title or description kept, in characters."""
MAX_KEYWORDS = 100
CARRIED = ("title", "description", "keywords")
"""What of it is a text of its own, and the `text.key` of that."""
MAX_KEYWORD = 200


@dataclass(frozen=True, slots=True)
class Details:
    """What can be told of a picture. place: latitude and longitude in degrees; taken_at: local time
    without zone."""

    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()
    taken_at: datetime | None = None
    place: tuple[float, float] | None = None


NOTHING = Details()


@dataclass(frozen=True, slots=True)
class Told:
    """What files beside a picture tell.

    over: counts more than what the picture says of itself. gaps: counts where neither that nor the
    picture says anything. Keywords of all are put together.
    """

    over: Details = NOTHING
    gaps: Details = NOTHING

    def __bool__(self) -> bool:
        return self.over != NOTHING or self.gaps != NOTHING


def joined(told: Sequence[Told]) -> Told:
    """What several files tell, the first of them before the others."""
    return Told(
        _first([each.over for each in told]),
        _first([each.gaps for each in told]),
    )


def with_told(own: PictureInfo, told: Sequence[Told]) -> PictureInfo:
    """What is known of a picture that says this of itself and has these files beside it."""
    if not any(told):
        return own
    said = joined(told)
    place = None if own.latitude is None or own.longitude is None else (own.latitude, own.longitude)
    itself = Details(own.title, own.description, own.keywords, own.taken_at, place)
    found = _first([said.over, itself, said.gaps])
    return _having(own, found, *(found.place or (own.latitude, own.longitude)))


def _first(several: Sequence[Details]) -> Details:
    return Details(
        next((each.title for each in several if each.title), None),
        next((each.description for each in several if each.description), None),
        distinct(keyword for each in several for keyword in each.keywords),
        next((each.taken_at for each in several if each.taken_at), None),
        next((each.place for each in several if each.place), None),
    )


def distinct(keywords: Iterable[str]) -> tuple[str, ...]:
    """Keywords as they are kept: clean, each once whatever its case, not too long nor too many."""
    kept: dict[str, str] = {}
    for keyword in (clean(keyword)[:MAX_KEYWORD] for keyword in keywords):
        if keyword:
            kept.setdefault(keyword.casefold(), keyword)
    return tuple(kept.values())[:MAX_KEYWORDS]


# -- as the catalog keeps it ---------------------------------------------------------------------


def told_json(told: Told) -> str | None:
    """None for nothing."""
    if not told:
        return None
    parts = {"over": told.over, "gaps": told.gaps}
    return json.dumps({name: _plain(part) for name, part in parts.items() if part != NOTHING})


def told_of(text: str | None) -> Told:
    """From `told_json`."""
    if text is None:
        return Told()
    parts = json.loads(text)
    return Told(_details(parts.get("over", {})), _details(parts.get("gaps", {})))


def own_json(info: PictureInfo) -> str:
    """What a picture says of itself of what files beside it may tell."""
    place = (info.latitude, info.longitude)
    return json.dumps(
        _plain(Details(info.title, info.description, info.keywords, info.taken_at))
        | ({} if place == (None, None) else {"place": place})
    )


def with_own(info: PictureInfo, text: str) -> PictureInfo:
    """The picture as it was when `own_json` wrote this."""
    parts = json.loads(text)
    own = _details(parts | {"place": None})
    latitude, longitude = parts.get("place") or (None, None)
    return _having(info, own, latitude, longitude)


def _having(
    info: PictureInfo, details: Details, latitude: float | None, longitude: float | None
) -> PictureInfo:
    return replace(
        info,
        title=details.title,
        description=details.description,
        keywords=details.keywords,
        taken_at=details.taken_at,
        latitude=latitude,
        longitude=longitude,
    )


def _plain(details: Details) -> dict[str, Any]:
    taken_at = details.taken_at
    found = {
        "title": details.title,
        "description": details.description,
        "keywords": details.keywords,
        "taken_at": None if taken_at is None else taken_at.isoformat(),
        "place": details.place,
    }
    return {name: value for name, value in found.items() if value}


def _details(plain: dict[str, Any]) -> Details:
    taken_at, place = plain.get("taken_at"), plain.get("place")
    return Details(
        plain.get("title"),
        plain.get("description"),
        tuple(plain.get("keywords", ())),
        None if taken_at is None else datetime.fromisoformat(taken_at),
        None if place is None else (place[0], place[1]),
    )
