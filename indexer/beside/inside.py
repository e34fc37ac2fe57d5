"""What files inside an archive tell of the pictures beside them there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from indexer.beside import takeout
from indexer.beside.names import JSON, beside, is_beside, tell_of
from indexer.beside.notes import Seen
from indexer.beside.reading import Fault, Heard, hear
from mmsearch import archive

#: Memory that they may take until all of the archive is read, and what each takes besides.
_MAX_BYTES = 128 << 20
_EACH = 400


class Inside:
    """The files of one archive, until it is known which pictures they lie beside."""

    def __init__(self) -> None:
        self._files: defaultdict[str, dict[str, archive.Text]] = defaultdict(dict)
        self._bytes = 0
        self.left_out = 0  # for want of room

    def add(self, file: archive.Text) -> bool:
        """Keeps a file, as long as there is room. False: it is none of this kind."""
        if not is_beside(file.name):
            return False
        if is_another_programs(file):
            return True
        self._bytes += len(file.data) + _EACH
        if self._bytes > _MAX_BYTES:
            self.left_out += 1
        else:
            folder, name = split(file.name)
            self._files[folder][name] = file
        return True

    def heard(
        self, pictures: Sequence[str], instead: Mapping[str, str] = MappingProxyType({})
    ) -> Iterator[tuple[str, Heard]]:
        """For those of these members that files tell of: what they tell.

        instead: members that cannot be used, and the raw file that was read in place of each, which
        is told what tells of them.
        """
        here: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted({*pictures, *instead}) if self._files else ():
            folder, name = split(path)
            if folder in self._files:
                here[folder].append(name)
        for folder, names in here.items():
            files = self._files[folder]
            told = beside(names, files)
            for name in names:
                if (raw := instead.get(folder + name)) is not None:
                    tell_of(told, split(raw)[1], name)
            for name, of in told.items():
                good = [(_seen(files[n]), files[n].data) for n in of if not files[n].problem]
                bad = [Fault(_seen(files[n]), files[n].problem) for n in of if files[n].problem]
                found = hear(name, good)
                yield folder + name, Heard(found.told, (*found.faults, *bad))


def is_another_programs(file: archive.Text) -> bool:
    """Whether a file in an archive is none of those that tell of pictures, for all its name."""
    return file.name.lower().endswith(JSON) and not (
        takeout.may_be_one(file.data) or file.problem not in ("", archive.TOO_LONG)
    )


def split(path: str) -> tuple[str, str]:
    """The folder of a member, with the slash at its end, and its name there."""
    at = path.rfind("/") + 1
    return path[:at], path[at:]


def _seen(file: archive.Text) -> Seen:
    return Seen(file.name, len(file.data), 0)
