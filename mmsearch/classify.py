"""Zero-shot classification: which of some labels a picture or a text is about.

A label is one or more sentences; the mean direction of their vectors stands for it. The probability
of a label is the softmax over labels of the model's logit scale times the cosine (Radford et al.
2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.2). With
several labels allowed at once, each stands alone against a background, sentences that are true of
any picture: the sigmoid of the scaled difference, that is, a softmax over the two.

The scale was learned for pictures against texts. Between texts cosines lie higher and closer
together, so there the order of the labels means something, and the probabilities little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch import prompts
from mmsearch.errors import QueryError, RefusedError, SourceError, os_reason
from mmsearch.filters.globs import folded
from mmsearch.store.tags import checked_name

if TYPE_CHECKING:
    from mmsearch.types import Vectors

MAX_LABELS = 10_000
MAX_PROMPTS = 100
MAX_PROMPT_CHARS = 2_000
_MAX_FILE_BYTES = 32 << 20

#: True of every picture. Measured on 600 postcards that training never saw, the 35 kinds of things
#: as labels, p > 0.5: precision 0.998, recall 0.81; other such sentences give the same to 0.01.
BACKGROUND = ("a photo.", "a picture.", "an image.")

Encode = Callable[[Sequence[str]], "Vectors"]


@dataclass(frozen=True, slots=True)
class Label:
    """A class. prompts: what stands for it; without any, its name in templates."""

    name: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guess:
    """A label, its probability, and the cosine that it follows from."""

    label: str
    probability: float
    score: float


def parse_labels(lines: Iterable[str]) -> tuple[Label, ...]:
    """Labels, one a line: a name, or a name, a tab and prompts with "|" between them.

    Empty lines, and those that begin with "#", are passed over.

    Raises:
        QueryError: there are none, or they cannot be labels.
    """
    found = []
    for line in lines:
        text = line.strip("\r\n\ufeff")
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        name, _, said = text.partition("\t")
        sentences = tuple(s.strip() for s in said.split("|") if s.strip())
        found.append(Label(name.strip(), sentences))
    return checked(found)


def read_labels(path: Path) -> tuple[Label, ...]:
    """The labels of a UTF-8 file, see `parse_labels`. Raises SourceError, QueryError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise SourceError(str(path), f"larger than {_MAX_FILE_BYTES >> 20} MiB")
        return parse_labels(data.decode("utf-8").splitlines())
    except OSError as exc:
        raise SourceError(str(path), os_reason(exc)) from exc
    except UnicodeDecodeError as exc:
        raise SourceError(str(path), "not a text in UTF-8") from exc
    except QueryError as exc:
        raise QueryError(f"{path}: {exc}") from exc


def checked(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels, if they can be: some, all different, not too many, with prompts of some length.

    Raises:
        QueryError: they cannot.
    """
    if not labels:
        raise QueryError("there are no labels: write one a line")
    if len(labels) > MAX_LABELS:
        raise QueryError(f"{len(labels):,} labels are more than {MAX_LABELS:,}")
    seen: set[str] = set()
    for label in labels:
        try:
            name = checked_name(label.name)
        except RefusedError as exc:
            # Every label may become a tag.
            raise QueryError(str(exc)) from exc
        if folded(name) in seen:
            raise QueryError(
                f"the label {label.name!r} is there twice (upper and lower case are the same)"
            )
        seen.add(folded(name))
        if len(label.prompts) > MAX_PROMPTS:
            raise QueryError(f"the label {label.name!r} has more than {MAX_PROMPTS} prompts")
        for prompt in label.prompts:
            if not prompt.strip() or len(prompt) > MAX_PROMPT_CHARS:
                raise QueryError(
                    f"a prompt of {label.name!r} is empty or longer than {MAX_PROMPT_CHARS:,} "
                    "characters"
                )
    return tuple(Label(checked_name(label.name), label.prompts) for label in labels)


class Classifier:
    """Labels as vectors of one space, ready to be compared with any number of vectors of it."""

    def __init__(
        self,
        names: Sequence[str],
        vectors: Vectors,
        *,
        scale: float,
        background: Vectors | None = None,
    ) -> None:
        """vectors: (n, dim) unit norm, one a name. scale: the model's logit scale.

        background: (1, dim); with it each label stands alone against it, without it all share one
        probability of 1.
        """
        self.names = tuple(names)
        self._vectors = vectors
        self._scale = scale
        self._background = background

    @classmethod
    def make(
        cls,
        labels: Sequence[Label],
        encode: Encode,
        *,
        scale: float,
        templates: Sequence[str] = prompts.SIMPLE,
        multi: bool = False,
        background: Sequence[str] = BACKGROUND,
    ) -> Classifier:
        """All sentences of all labels are encoded in one call of `encode`.

        templates: around the names of labels that have no prompts of their own, if they are in
            plain Latin letters; other scripts stand bare.

        Raises:
            QueryError: what `checked` raises.
        """
        labels = checked(labels)
        groups = [label.prompts or sentences(label.name, templates) for label in labels]
        if multi:
            groups.append(tuple(background))
        vectors = prompts.means(encode, groups)
        behind = vectors[-1:] if multi else None
        return cls(
            [label.name for label in labels],
            vectors[: len(labels)],
            scale=scale,
            background=behind,
        )

    @property
    def multi(self) -> bool:
        """Whether several labels may be true at once."""
        return self._background is not None

    def judge(self, vectors: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities and cosines of the labels, (m, n) float32 each, for vectors (m, dim)."""
        cosines = vectors @ self._vectors.T
        if self._background is None:
            logits = self._scale * cosines.astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            shares = np.exp(logits)
            shares /= shares.sum(axis=1, keepdims=True)
        else:
            margins = cosines.astype(np.float64) - vectors @ self._background.T
            # exp overflows to infinity, and 1 / infinity is the 0 it should be.
            with np.errstate(over="ignore"):
                shares = 1 / (1 + np.exp(-self._scale * margins))
        return shares.astype(np.float32), cosines

    def guesses(self, vectors: Vectors, top: int) -> list[list[Guess]]:
        """The `top` most probable labels of each vector, the first of equals first."""
        shares, cosines = self.judge(vectors)
        # By cosine, which orders as the probability does, but never rounds two to the same 1.
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        return [
            [Guess(self.names[n], float(shares[row, n]), float(cosines[row, n])) for n in best]
            for row, best in enumerate(order.tolist())
        ]


def sentences(name: str, templates: Sequence[str]) -> tuple[str, ...]:
    """What stands for a label without prompts: its name in the templates, bare in other scripts."""
    return prompts.fill(templates, name) if name.isascii() else (name,)


# --- against the truth ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assessment:
    """How right the guesses are, over the items whose truth is known and is one of the labels.

    accuracy: share whose first guess is right. top5: share with the right one in the first five.
    unknown: items whose truth is no label. confusion: (truth, guess) → how many, of all pairs met.
    by_label: label → items of it, right ones among them.
    """

    items: int
    accuracy: float
    top5: float
    unknown: int
    confusion: dict[tuple[str, str], int]
    by_label: dict[str, tuple[int, int]]


class Tally:
    """Counts guesses against the truth, one item at a time.

    The truth is the label that differs from it by nothing that tells labels apart (see `checked`).
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {folded(name): name for name in names}
        self._confusion: dict[tuple[str, str], int] = {}
        self._in_five = 0
        self.unknown = 0

    def add(self, truth: str, guesses: Sequence[Guess]) -> None:
        """guesses: the most probable first, five of them where there are five labels."""
        label = self._names.get(folded(" ".join(truth.split())))
        if label is None:
            self.unknown += 1
            return
        pair = label, guesses[0].label
        self._confusion[pair] = self._confusion.get(pair, 0) + 1
        self._in_five += any(guess.label == label for guess in guesses[:5])

    def assess(self) -> Assessment | None:
        """The figures; None where no item has a truth among the labels."""
        items = sum(self._confusion.values())
        if not items:
            return None
        by_label: dict[str, tuple[int, int]] = {}
        for (truth, guess), n in self._confusion.items():
            of, right = by_label.get(truth, (0, 0))
            by_label[truth] = of + n, right + n * (truth == guess)
        right = sum(found for _, found in by_label.values())
        return Assessment(
            items,
            right / items,
            self._in_five / items,
            self.unknown,
            dict(self._confusion),
            by_label,
        )
