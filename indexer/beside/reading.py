"""Reading the files beside a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from indexer.beside import packets, takeout
from indexer.beside.notes import Seen, of_note
from indexer.beside.said import NotReadableError, said_in
from mmsearch.errors import os_reason
from mmsearch.told import Told, joined

_LARGEST = max(packets.MAX_BYTES, takeout.MAX_BYTES)


@dataclass(frozen=True, slots=True)
class Fault:
    """A file beside a picture that could not be used. transient: the system did not give it."""

    file: Seen
    reason: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What the files beside a picture tell, and which could not be used."""

    told: Told
    faults: tuple[Fault, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all of them were read, be it that some are of no use."""
        return not any(fault.transient for fault in self.faults)


def read(folder: str, picture: str, note: str | None) -> Heard:
    """What the files tell that were noted.

    folder: where they lie, absolute. picture: its name there.
    """
    told: list[Told] = []
    faults: list[Fault] = []
    for file in of_note(note):
        try:
            with open(f"{folder}/{file.name}", "rb") as opened:  # noqa: PTH123 -- odd bytes in names
                data = opened.read(_LARGEST + 1)
        except OSError as exc:
            faults.append(Fault(file, os_reason(exc), transient=True))
            continue
        _add(file, data, picture, told, faults)
    return Heard(joined(told), tuple(faults))


def hear(picture: str, files: Iterable[tuple[Seen, bytes]]) -> Heard:
    """The same of files whose bytes are at hand."""
    told: list[Told] = []
    faults: list[Fault] = []
    for file, data in files:
        _add(file, data, picture, told, faults)
    return Heard(joined(told), tuple(faults))


def _add(file: Seen, data: bytes, picture: str, told: list[Told], faults: list[Fault]) -> None:
    try:
        found = said_in(file.name, data)
    except NotReadableError as exc:
        faults.append(Fault(file, str(exc)))
    else:
        if found is not None:
            told.append(found.of(picture))
