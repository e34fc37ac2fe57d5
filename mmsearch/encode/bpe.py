"""CLIP's tokenizer without torch: what open_clip's SimpleTokenizer does, to the letter.

Importing open_clip for its tokenizer drags in torch and torchvision, some four seconds. The merges
are read from the file in open_clip's package.

The algorithm is OpenAI's (https://github.com/openai/CLIP, MIT License, Copyright (c) 2021 OpenAI).
"""

from __future__ import annotations

import gzip
import html
import itertools
import string
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from mmsearch.encode.presets import open_clip_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MERGES_NAME = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2  # how many of the file's lines are in the vocabulary
_START, _END = "<start_of_text>", "<end_of_text>"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ClipTokenizer:
    """Texts to token ids.

    clean: how texts are simplified first: "lower" (the usual), "whitespace" or "canonicalize".
    """

    def __init__(self, context_length: int = 77, clean: str = "lower") -> None:
        import regex

        self.context_length = context_length
        self._clean = _CLEAN[clean]
        self._ranks = _merges()
        self._bytes = _byte_letters()
        letters = list(self._bytes.values())
        tokens = letters + [f"{letter}</w>" for letter in letters]
        # Those that merges make come in when they are first made: a query needs few of them.
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._ids |= {_START: len(tokens) + _MERGES, _END: len(tokens) + _MERGES + 1}
        self._words = {_START: [self._ids[_START]], _END: [self._ids[_END]]}
        self._pattern = regex.compile(
            rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",
            regex.IGNORECASE,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text from start to end token, at most `context_length` of them."""
        ids = [self._ids[_START]]
        for token in self._pattern.findall(self._clean(text)):
            ids += self._word("".join(self._bytes[byte] for byte in token.encode()))
        ids = ids[: self.context_length - 1]
        return [*ids, self._ids[_END]]

    def __call__(self, texts: list[str]) -> NDArray[np.int64]:
        """(n, context_length) int64, filled up with zeros, as open_clip's tokenizers return."""
        import numpy as np

        result = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(result, texts, strict=True):
            ids = self.encode(text)
            row[: len(ids)] = ids
        return result

    def _word(self, word: str) -> list[int]:
        """Ids of one word, given in byte letters: its most frequent pairs merged first."""
        known = self._words.get(word)
        if known is not None:
            return known
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            ranks = [self._ranks.get(" ".join(p), _MERGES) for p in itertools.pairwise(parts)]
            best = min(ranks)
            if best == _MERGES:
                break
            merged: list[str] = []
            at = 0
            while at < len(parts):
                # Ranks are distinct, so equal ranks are equal pairs; overlapping ones merge from
                # the left.
                if at < len(ranks) and ranks[at] == best:
                    merged.append(parts[at] + parts[at + 1])
                    self._ids[merged[-1]] = 2 * len(self._bytes) + best
                    at += 2
                else:
                    merged.append(parts[at])
                    at += 1
            parts = merged
        ids = [self._ids[part] for part in parts]
        if len(self._words) < 100_000:
            self._words[word] = ids
        return ids


@lru_cache(maxsize=1)
def _merges() -> dict[str, int]:
    """Rank of each merge, written "first second". About 15 ms, once a process."""
    data = b""
    with gzip.open(open_clip_folder() / _MERGES_NAME) as file:
        # A heading, the merges, and five times as many that are not in the vocabulary.
        while data.count(b"\n") <= _MERGES and (more := file.read(1 << 18)):
            data += more
    lines = data.decode(errors="ignore").split("\n", _MERGES + 1)[1 : _MERGES + 1]
    return dict(zip(lines, range(_MERGES), strict=True))


@lru_cache(maxsize=1)
def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte value; those that are printable stand for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    plain += range(ord("®"), ord("ÿ") + 1)
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(plain))
    return letters


def _basic(text: str) -> str:
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()  # nothing that ftfy or unescape would change, and ftfy loads for 50 ms
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _whitespace(text: str) -> str:
    return " ".join(_basic(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    return " ".join(_basic(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


_CLEAN: dict[str, Callable[[str], str]] = {
    "lower": _lower,
    "whitespace": _whitespace,
    "canonicalize": _canonicalize,
}
CLEANINGS = frozenset(_CLEAN)
