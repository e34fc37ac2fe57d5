"""Words as they are compared: what a text, a file name or a query is cut into.

All of it happens here, before SQLite sees it: the same for what is stored and for what is asked,
whatever Unicode tables a build of SQLite has. A term is

- a run of letters, without case, without accents (and points and vowel signs that Arabic and
  Hebrew readers leave out), in English without its plural: "Kites" is "kite", "Zürich" "zurich";
- a run of digits: "IMG_2041.jpg" is "img", "2041", "jpg", and "img2041" is "img", "2041";
- one character of the scripts that put no spaces between words (Chinese, Japanese, Korean, Thai,
  Lao, Khmer, Burmese). A word of theirs is then a phrase of neighbouring terms, found anywhere in a
  run, be it of one character or of five; SQLite's own trigrams would not find the many Chinese
  words of two characters, pairs not those of one.
"""

from __future__ import annotations

import re
import unicodedata

#: Longer runs are cut: no word is, and the index must not hold whole encoded files.
MAX_TERM = 64

#: Scripts without spaces: Thai and Lao, Burmese, Khmer, kana, ideographs, Hangul.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uac00-\ud7af\uf900-\ufaff\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff"
)
#: Marks of Indic scripts: parts of their words, though no letters.
_INDIC = "\u0900-\u0963\u0970-\u0dff"
_TERM = re.compile(f"[0-9]+|[{UNSPACED}]|(?:(?![{UNSPACED}])[^\\W\\d_]|[{_INDIC}])+|\\d+")
_ASCII_TERM = re.compile("[0-9]+|[a-z]+")
#: Accents, and the points of Hebrew and Arabic.
_MARKS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670]"
)
#: Letters that Unicode does not take apart, as keyboards without them write them.
_LETTERS = str.maketrans({
    "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th",
    "Þ": "Th", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ı": "i", "ħ": "h", "Ħ": "H",
})  # fmt: skip
_HAS_CAMEL = re.compile("[a-z][A-Z]|[A-Z][A-Z][a-z]")
_CAMEL = re.compile("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CAMEL_WORD = re.compile("[A-Za-z]*(?:[a-z][A-Z]|[A-Z][A-Z][a-z])[A-Za-z]*")
_DATE = re.compile("(19[0-9]{2}|20[0-9]{2})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")


def terms(text: str) -> list[str]:
    """The terms of a text, in order."""
    return _terms(plain(text))


def stored(text: str) -> str:
    """The terms of a text as they are kept, a space between two.

    Words that are written of several ("SunsetBeach") and days without gaps ("20190612") are kept
    as they are and, at the end, the other way: "SunsetBeach" is "sunset beach sunsetbeach".
    """
    text = plain(text)
    joined: list[str] = []
    if _HAS_CAMEL.search(text):
        for word in _CAMEL_WORD.findall(text):
            joined += _terms(word)
        text = _CAMEL.sub(" ", text)
    found = _terms(text)
    for term in found:
        if len(term) == 8 and (day := _DATE.fullmatch(term)):
            joined += day.groups()
    return " ".join(found + joined)


def ways(word: str) -> list[list[str]]:
    """How a word of a query may be stored: the terms of each way, a phrase."""
    text = plain(word)
    found = [_terms(text)]
    if _HAS_CAMEL.search(text):
        found.append(_terms(_CAMEL.sub(" ", text)))
    return [way for way in found if way]


def plain(text: str) -> str:
    """Without accents and compatibility forms; the case is as it was."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return unicodedata.normalize("NFC", _MARKS.sub("", text))


def _terms(text: str) -> list[str]:
    if text.isascii():
        return list(map(_known.__getitem__, _ASCII_TERM.findall(text.lower())))
    return list(map(_known.__getitem__, _TERM.findall(text.casefold())))


class _Known(dict[str, str]):
    """Run → term, remembered: the same few thousand words make up most texts."""

    def __missing__(self, run: str) -> str:
        if len(self) > 100_000:
            self.clear()
        self[run] = term = _singular(run[:MAX_TERM])
        return term


def _singular(word: str) -> str:
    """An English word without its plural: the three rules of Harman's S stemmer, and "beaches".

    D. Harman, How effective is suffixing?, JASIS 42(1), 1991. They touch nothing but endings in -s,
    and so hardly other languages, whose queries lose the same letter as their texts.
    """
    if len(word) < 4 or not word.endswith("s") or not word.isascii():
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    if word.endswith("es") or word[-2] in "us":
        return word
    return word[:-1]


_known = _Known()
