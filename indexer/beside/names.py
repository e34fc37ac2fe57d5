"""Which files beside pictures tell of which pictures, by their names alone.

`IMG_1.jpg.xmp` and `IMG_1.xmp` (of all pictures of that stem); what Google Takeout lays beside
pictures: `IMG_1.jpg.json`, `IMG_1.jpg.supplemental-metadata.json`, cut off, and numbered.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

XMP, JSON = ".xmp", ".json"
SUFFIXES = (XMP, JSON)
#: What Google puts between a picture's name and ".json", and the length it cuts all before that to.
_SUPPLEMENT = ".supplemental-metadata"
_CUT = 46
_NUMBERED = re.compile(r"(.*)\((\d{1,6})\)", re.DOTALL)
#: What Google adds to the name of an edited picture, whose original is described; by language
#: (https://github.com/TheLastGimbus/GooglePhotosTakeoutHelper lists them).
_EDITED = re.compile(
    r"(.+)-(?:edited|effects|smile|mix|edytowane|bearbeitet|bewerkt|編集済み|modificato|modifié"
    r"|ha editado|editado|editada|editat|redigerad|redigeret)(\(\d{1,6}\))?",
    re.DOTALL | re.IGNORECASE,
)


def is_beside(name: str) -> bool:
    """Whether a file of this name may tell of a picture in its folder."""
    return name.lower().endswith(SUFFIXES)


def beside(pictures: Sequence[str], files: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Picture → the files that tell of it, those first that count more: names in one folder.

    A picture of which none tells is not in it.
    """
    files = sorted(files)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, of in _xmp(pictures, [n for n in files if n.lower().endswith(XMP)]):
        found[name].append(of)
    for name, of in _takeout(pictures, [n for n in files if n.lower().endswith(JSON)]):
        found[name].append(of)
    return {name: tuple(dict.fromkeys(of)) for name, of in found.items()}


def tell_of(told: dict[str, tuple[str, ...]], picture: str, name: str) -> None:
    """What tells of a file with this name tells of the picture instead, after what tells of it."""
    both = tuple(dict.fromkeys((*told.get(picture, ()), *told.pop(name, ()))))
    if both:
        told[picture] = both


def _xmp(pictures: Sequence[str], files: Sequence[str]) -> Iterable[tuple[str, str]]:
    if not files:
        return
    # Those in the picture's own case first: two pictures may differ by nothing else.
    exact: defaultdict[str, list[str]] = defaultdict(list)
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in files:
        of = name[: -len(XMP)]
        exact[of].append(name)
        alike[_nfc(of).lower()].append(name)
    whole = {*pictures, *(name.rpartition(".")[0] for name in pictures)}

    def told(of: str) -> list[str]:
        # One that is another picture's by its very name is not this one's too.
        return exact.get(of) or [
            n for n in alike.get(_nfc(of).lower(), ()) if n[: -len(XMP)] not in whole
        ]

    for name in pictures:
        for of in (name, name.rpartition(".")[0]):
            yield from ((name, file) for file in told(of))


def _takeout(pictures: Sequence[str], files: Sequence[str]) -> Iterable[tuple[str, str]]:
    if not files:
        return
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    by_cut: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for file in files:
        base, number = _unnumbered(_nfc(file[: -len(JSON)]))
        names = [base]
        stem, dot, rest = base.rpartition(".")
        if dot and _SUPPLEMENT.startswith(f".{rest}"):
            names.append(stem)
        for name in names:
            by_name[_numbered(name, number)].append(file)
        if _is_cut(base):
            by_cut[base, number].append(file)
    known = {_nfc(name) for name in pictures}
    # An edited picture does not make it doubtful which one the file of its original means.
    cuts = Counter(cut for name in known if _original(name) not in known for cut in _cuts(name))
    for name in pictures:
        plain = _nfc(name)
        of = _original(plain)
        files = by_name.get(plain) or (
            _of_one(of, by_name, by_cut, cuts)
            if of is not None and of in known
            else _of_one(plain, by_name, by_cut, cuts)
        )
        yield from ((name, file) for file in files)


def _of_one(
    name: str,
    by_name: dict[str, list[str]],
    by_cut: dict[tuple[str, str], list[str]],
    cuts: Counter[tuple[str, str]],
) -> list[str]:
    if found := by_name.get(name):
        return found
    for cut in _cuts(name):
        # Of two pictures that begin alike it cannot be told which one is meant.
        if cuts[cut] == 1 and cut in by_cut:
            return by_cut[cut]
    original = _original(name)
    if original is not None:
        return by_name.get(original) or next(
            (by_cut[cut] for cut in _cuts(original) if cut in by_cut), []
        )
    # Where the title at Google had no ending, there is none before ".json".
    return by_name.get(name.rpartition(".")[0], [])


def _original(name: str) -> str | None:
    """The picture that one was made of at Google, as it is called; None for others."""
    stem, dot, suffix = name.rpartition(".")
    edited = _EDITED.fullmatch(stem)
    return None if edited is None else f"{edited[1]}{edited[2] or ''}{dot}{suffix}"


def _nfc(name: str) -> str:
    """A name with its accents as most systems write them; those of macOS may stand by themselves,
    and of a picture and its file the one may come from there."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _unnumbered(base: str) -> tuple[str, str]:
    """ "a.jpg(2)" → ("a.jpg", "(2)"); "" where there is no number."""
    found = _NUMBERED.fullmatch(base)
    return (found[1], f"({found[2]})") if found else (base, "")


def _numbered(name: str, number: str) -> str:
    """The picture that a file with this number tells of: "a.jpg", "(2)" → "a(2).jpg"."""
    if not number:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{number}.{suffix}" if dot else name + number


def _is_cut(base: str) -> bool:
    return len(base) == _CUT or len(base.encode("utf-8", "surrogateescape")) == _CUT


def _cuts(name: str) -> list[tuple[str, str]]:
    """What a picture's own name may be cut to, with its number."""
    stem, dot, suffix = name.rpartition(".")
    found = []
    for base, number in {(name, ""), _with_suffix(_unnumbered(stem), dot + suffix)}:
        if len(base) > _CUT:
            found.append((base[:_CUT], number))
        raw = base.encode("utf-8", "surrogateescape")
        if len(raw) > _CUT and not base.isascii():
            found.append((raw[:_CUT].decode("utf-8", "ignore"), number))
    return sorted(set(found))


def _with_suffix(base: tuple[str, str], suffix: str) -> tuple[str, str]:
    return base[0] + suffix, base[1]
