"""How the words of a caption are chosen: the common or the rare ones, by wording and by chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Wording = Literal["train", "test"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Choice:
    """The dice of one caption. `rare_share`: the chance of a rare word in training wording."""

    rng: random.Random
    wording: Wording
    rare_share: float

    def word(self, common: Sequence[str], rare: Sequence[str]) -> str:
        """A word of `rare` in the test wording (if there is one), else mostly of `common`."""
        if rare and (self.wording == "test" or self.rng.random() < self.rare_share):
            return self.rng.choice(rare)
        return self.rng.choice(common)

    def form(self, train: Sequence[_T], test: Sequence[_T]) -> _T:
        """A sentence pattern; the two wordings share none."""
        return self.rng.choice(test if self.wording == "test" else train)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share
