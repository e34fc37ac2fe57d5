"""What Google Takeout's .json files tell of the pictures that they lie beside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mmsearch.metadata import worth
from mmsearch.told import Details, Told, distinct

MAX_BYTES = 1 << 20
"""Real ones have one or two kB; what is larger is another program's."""

_MARKS = (b'"photoTakenTime"', b'"geoData"')
#: What Google replaces in file names, and all else that is no part of a word.
_NO_WORD = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"\(\d{1,6}\)$")


class NotReadableError(Exception):
    """It is one of Takeout's, and broken; the message says how."""


def read(data: bytes) -> tuple[Told, str] | None:
    """What it tells, and what the picture is called at Google; None where another program wrote it.

    Raises:
        NotReadableError: it is broken.
    """
    if len(data) > MAX_BYTES:
        return None
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as exc:
        if may_be_one(data):
            raise NotReadableError("broken: not the JSON that Google Takeout writes") from exc
        return None
    if not _is_takeout(said):
        return None
    told = Told(
        over=Details(description=_text(said.get("description"))),
        gaps=Details(
            keywords=distinct(_people(said.get("people"))),
            taken_at=_moment(said.get("photoTakenTime")),
            place=_place(said.get("geoData")) or _place(said.get("geoDataExif")),
        ),
    )
    return told, said["title"]


def with_title(told: Told, title: str, name: str) -> Told:
    """What is told of a picture that is called so at Google and has this name."""
    return replace(told, gaps=replace(told.gaps, title=_title(title, name)))


def may_be_one(data: bytes) -> bool:
    """Whether it looks like one of Takeout's, whole or not."""
    return any(mark in data for mark in _MARKS)


def _is_takeout(said: Any) -> bool:
    if not isinstance(said, dict) or not isinstance(said.get("title"), str):
        return False
    return any(isinstance(said.get(key), dict) for key in ("photoTakenTime", "geoData"))


def _text(value: Any) -> str | None:
    return worth(value) if isinstance(value, str) else None


def _title(title: str, name: str) -> str | None:
    """The file's name at Google, where it is what somebody wrote and says more than `name`."""
    stem = re.sub(r"\.\w{2,5}$", "", title)
    mine = _NUMBER.sub("", name.rpartition(".")[0])
    if _NO_WORD.sub(" ", stem).strip() == _NO_WORD.sub(" ", mine).strip():
        return None
    # Cameras and programs put no spaces between words.
    written = " " in stem.strip() or any(not c.isascii() and c.isalpha() for c in stem)
    return worth(stem) if written else None


def _people(people: Any) -> list[str]:
    if not isinstance(people, list):
        return []
    names = [one.get("name") for one in people if isinstance(one, dict)]
    return [name for name in names if isinstance(name, str)]


def _moment(taken: Any) -> datetime | None:
    if not isinstance(taken, dict):
        return None
    try:
        moment = datetime.fromtimestamp(int(taken["timestamp"]), UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
    return moment.replace(tzinfo=None)


def _place(data: Any) -> tuple[float, float] | None:
    if not isinstance(data, dict):
        return None
    latitude, longitude = data.get("latitude"), data.get("longitude")
    if not isinstance(latitude, int | float) or not isinstance(longitude, int | float):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # nor NaN
        return None
    # 0, 0 is how Google writes that there is none.
    return None if latitude == longitude == 0 else (float(latitude), float(longitude))
