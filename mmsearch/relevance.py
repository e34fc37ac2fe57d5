"""How sure a hit is a match: a number in [0, 1] that means the same for every query and model.

A cosine of 0.25 may be perfect with one model and one query, and nothing with others. What is the
same everywhere is how far a pair of text and picture stands out: from the text's scores against the
library's other pictures (the library's background), and from the picture's scores against everyday
captions (`mmsearch.generic`). Both are measured in units that the library and the model set
themselves, by how far those captions reach with their own best pictures, so that no coefficient
knows any model's cosines: shifting or stretching all scores of a query, or of a space, changes
nothing. A logistic regression of these few numbers gives the relevance. deploy/relevance.md has the
formulas, their sources and what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.query import DEFAULT_THRESHOLD as DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from mmsearch.types import Modality, Vectors

Array = NDArray[np.float64]

#: After so many hits in a row below the threshold, no better ones are looked for.
PATIENCE = 100
#: The largest sample of a library that is worth having, of each modality.
SAMPLE = 1000

#: Weights of the features of `Background.pair_features`, in their order, then the constant; fitted
#: by tests/benchmarks/relevance.py --fit.
PAIR_WEIGHTS = (3.609, 1.755, 2.179, 1.525, -3.11)
#: The same for `Background.peer_features`.
PEER_WEIGHTS = (2.072, 2.376, 7.039, -7.883)

#: As many items a background is pretended to hold already: what small libraries lean on.
_PRIOR = 10
#: The reach of a good match, in deviations of the background, where there is none to measure it;
#: and the least that is believed: a library of other things entirely matches no everyday caption.
_REACH = 5.0
#: Captions that tell the library's pictures apart less than this, as a share of those that do so
#: best, are left out: a model has words that it knows nothing of, and they are near to everything.
_TELLING = 0.6
_FEWEST_CAPTIONS = 20
#: The share of the captions, best first, that a query has to hold its own against.
_RIVALS = 1 / 40
#: The normal distribution's 10 % quantile, in deviations.
_TENTH = 1.2816
_FLOOR = 1e-6


class Background:
    """What scores of one library in one space are held against. Immutable; thread-safe.

    Costs two products of the samples at the start, and one for each query and page of hits.
    """

    def __init__(self, pictures: Vectors, texts: Vectors, captions: Vectors) -> None:
        """pictures, texts: samples (p, dim) and (t, dim) of what can be found; p or t may be 0,
        more than SAMPLE are cut off. captions: those of `mmsearch.generic`, (m, dim), m > 1.
        """
        self.pictures = np.ascontiguousarray(pictures[:SAMPLE], np.float32)
        self.texts = np.ascontiguousarray(texts[:SAMPLE], np.float32)
        self.captions = np.ascontiguousarray(captions, np.float32)
        self._pairs = _Pairs(self.pictures, self.captions)
        # Made when first asked for: a search in the terminal rarely is. Twice does no harm.
        self._peers: dict[Modality, _Peers] = {}

    def relevance(
        self, query: Vectors, hits: Vectors, *, asked: Modality, found: Modality, n_items: int
    ) -> Array:
        """The relevance (n,) in [0, 1] of hits (n, dim) for a query (1, dim), in their order.

        asked: what the query is, or is the sum of; found: what the hits are; n_items: how many
        items of that modality can be found. Each hit is judged by itself: relevance need not fall
        with the score. For words and pictures together see `joined`; what is to be avoided has no
        part in it.
        """
        if not len(hits):
            return np.empty(0)
        if asked == found:
            return _logistic(self.peer_features(query, hits, found), PEER_WEIGHTS)
        texts, pictures = (query, hits) if asked == "text" else (hits, query)
        return _logistic(self.pair_features(texts, pictures, n_items), PAIR_WEIGHTS)

    def pair_features(self, texts: Vectors, pictures: Vectors, n_items: int) -> Array:
        """How far pairs of text and picture stand out, (n, 4).

        One of the two is (1, dim), the other (n, dim).
        """
        return self._pairs.features(texts, pictures, n_items)

    def peer_features(self, query: Vectors, hits: Vectors, modality: Modality) -> Array:
        """How far hits (n, dim) of the same modality as the query (1, dim) stand out, (n, 3)."""
        peers = self._peers.get(modality)
        if peers is None:
            sample = self.pictures
            if modality == "text":
                sample = np.concatenate([self.texts, self.captions])
            peers = self._peers[modality] = _Peers(sample)
        return peers.features(query, hits)


def joined(parts: list[tuple[float, Array]]) -> Array:
    """The relevance (n,) of the same hits for several parts of one query, each with its weight > 0.

    The weighted mean of the parts' log odds: a hit must match each part somewhat.
    """
    total = sum(weight for weight, _ in parts)
    odds = sum(weight * _odds(relevance) for weight, relevance in parts) / total
    return np.asarray(1 / (1 + np.exp(-odds)), np.float64)


def kept(relevance: Array, threshold: float = DEFAULT_THRESHOLD) -> tuple[NDArray[np.int64], bool]:
    """Which hits (n,), best score first, stay: their places, ascending, and whether the list ends.

    It ends after PATIENCE hits in a row below the threshold: what comes then is not shown even if
    it is above. So what is shown depends on the hits alone, not on how they are fetched in pages.
    """
    if threshold <= 0:
        return np.arange(len(relevance)), False
    above = relevance >= threshold
    places = np.flatnonzero(above)
    gaps = np.diff(places, prepend=-1, append=len(relevance))
    wide = np.flatnonzero(gaps > PATIENCE)
    if len(wide):
        return places[: wide[0]], True
    return places, False


class _Pairs:
    """Texts against pictures. `share`: how far the library is believed, over what is pretended."""

    def __init__(self, pictures: NDArray[np.float32], captions: NDArray[np.float32]) -> None:
        n = len(pictures)
        self._pictures = pictures
        self._share = n / (n + _PRIOR)
        self._centre = captions.mean(axis=0)
        away = _norms(captions - self._centre)
        self._all_captions = captions
        if not n:
            return
        scores = captions @ pictures.T
        low = _bulk(scores)[1] if n >= _PRIOR else away
        telling = low >= _TELLING * _share_below(low, 0.95)
        if telling.sum() < _FEWEST_CAPTIONS:
            telling = np.zeros(len(captions), np.bool_)
            telling[np.argsort(-low, kind="stable")[:_FEWEST_CAPTIONS]] = True
        self._captions = np.ascontiguousarray(captions[telling])
        self._away = max(_share_below(away[telling], 0.5), _FLOOR)
        self._measure(scores[telling])

    def _measure(self, scores: NDArray[np.float32]) -> None:
        """Notes how the scores (m, p) of the telling captions against the sample lie."""
        share = self._share
        self._mean = float(scores.mean())
        self._spread = max(float(np.sqrt(scores.var(axis=0).mean())), _FLOOR)
        middle, self_low = _bulk(scores)
        self._low = max(_share_below(self_low, 0.5), _FLOOR)
        middle, low = self._shrunk(middle, self_low)
        self._centred = float(middle.mean())
        above = scores - middle[:, None] - share * (scores.mean(axis=0) - self._centred)
        best = max(1, scores.shape[1] // 200)
        # How far a caption reaches with its best pictures, as a score and in its own deviations.
        height = np.partition(above, -best, axis=1)[:, -best:].mean(axis=1)
        reach = height / low
        own, pretended = share, 1 - share
        self._reach = max(_REACH, own * _share_below(reach, 0.9) + pretended * _REACH)
        self._height = max(
            own * _share_below(height, 0.9) + pretended * 0.6 * _REACH * self._spread, _FLOOR
        )
        k = self._rivals()
        nearest = np.partition(np.ascontiguousarray(scores.T), -k - 1, axis=1)[:, -k - 1 :]
        rivals = np.sort(nearest, axis=1)[:, :-1].mean(axis=1)
        at = scores.argmax(axis=1)
        lead = (scores[np.arange(len(scores)), at] - rivals[at]) / self._height
        self._lead = _share_below(lead, 0.75)

    def _rivals(self) -> int:
        return max(1, round(len(self._captions) * _RIVALS))

    def _shrunk(self, middle: Array, low: Array) -> tuple[Array, Array]:
        share = self._share
        return (
            share * middle + (1 - share) * self._mean,
            np.maximum(np.sqrt(share * low**2 + (1 - share) * self._spread**2), _FLOOR),
        )

    def features(self, texts: Vectors, pictures: Vectors, n_items: int) -> Array:
        if not len(self._pictures):  # a library of texts: the picture asked about is all there is
            return _Pairs(pictures[:SAMPLE], self._all_captions).features(texts, pictures, n_items)
        share = self._share
        score = np.einsum("nd,nd->n", *np.broadcast_arrays(texts, pictures)).astype(np.float64)
        middle, own = _bulk(texts @ self._pictures.T)
        middle, low = self._shrunk(middle, own)
        rival = np.sort(pictures @ self._captions.T, axis=1)
        usual = rival.mean(axis=1)
        best = rival[:, -self._rivals() :].mean(axis=1)
        above = score - middle - share * (usual - self._centred)
        away = np.log(np.maximum(_norms(texts - self._centre) / self._away, _FLOOR))
        width = share * np.log(np.maximum(own / self._low, _FLOOR)) + (1 - share) * away
        columns = (
            (above / low - _crowd(n_items)) / self._reach,
            (score - usual) / self._height,
            (score - best) / self._height - share * self._lead,
            width,
        )
        return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64)


class _Peers:
    """Pictures against pictures, or texts against texts."""

    #: What two unrelated items of a modality are taken to score where there are none to compare.
    _MIDDLE, _LOW, _REACHED = 0.5, 0.12, 5.0

    def __init__(self, sample: NDArray[np.float32]) -> None:
        n = len(sample)
        self._sample = sample
        self._share = n / (n + _PRIOR)
        reach = self._REACHED
        if n >= 2:
            scores = sample[:200] @ sample.T
            middle, low = self._shrunk(*_bulk(scores))
            np.fill_diagonal(scores, -np.inf)
            best = (scores.max(axis=1) - middle) / low
            reach = self._share * _share_below(best, 0.5) + (1 - self._share) * reach
        self._reach = max(reach, 1.0)

    def _shrunk(self, middle: Array, low: Array) -> tuple[Array, Array]:
        share = self._share
        return (
            share * middle + (1 - share) * self._MIDDLE,
            np.maximum(np.sqrt(share * low**2 + (1 - share) * self._LOW**2), _FLOOR),
        )

    def features(self, query: Vectors, hits: Vectors) -> Array:
        score = (hits @ query[0]).astype(np.float64)
        away, width = self._around(query)
        theirs, their_width = self._around(hits)
        columns = (
            (score - away) / width / self._reach,
            (score - theirs) / their_width / self._reach,
            1 - (1 - score) / np.maximum(1 - away, _FLOOR),
        )
        return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64)

    def _around(self, vectors: Vectors) -> tuple[Array, Array]:
        if not len(self._sample):
            return self._shrunk(np.zeros(len(vectors)), np.zeros(len(vectors)))
        return self._shrunk(*_bulk(vectors @ self._sample.T))


def _bulk(scores: NDArray[np.float32]) -> tuple[Array, Array]:
    """Middle and deviation of rows of scores (n, p), p > 0, told by their lower half alone: what
    matches is in the upper one, and must not count as background."""
    ranked = np.sort(scores, axis=1)  # quicker than np.quantile, by much
    tenth, middle = (_quantile(ranked, share) for share in (0.1, 0.5))
    return middle, (middle - tenth) / _TENTH


def _quantile(ranked: NDArray[np.float32], share: float) -> Array:
    """Of rows in ascending order (n, p), between neighbours in proportion."""
    last = ranked.shape[1] - 1
    below = int(share * last)
    part = share * last - below
    above = ranked[:, min(below + 1, last)].astype(np.float64)
    return np.asarray(ranked[:, below] * (1 - part) + above * part, np.float64)


def _share_below(values: NDArray[Any], share: float) -> float:
    """np.quantile of values (n,), without loading the numpy.ma that it needs, for 0.03 s."""
    return float(_quantile(np.sort(values)[None], share)[0])


def _norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms: NDArray[np.float32] = np.linalg.norm(vectors, axis=1)
    return norms


def _crowd(n_items: int) -> float:
    """By how many deviations more than in a library as large as a sample the best of so many items
    stands out by chance: the expected maximum of n normal variables is near sqrt(2 ln n)."""
    return float(np.sqrt(2 * np.log(max(n_items, SAMPLE))) - np.sqrt(2 * np.log(SAMPLE)))


def _logistic(features: Array, weights: tuple[float, ...]) -> Array:
    odds = np.clip(features @ np.array(weights[:-1]) + weights[-1], -50, 50)
    return np.asarray(1 / (1 + np.exp(-odds)), np.float64)


def _odds(relevance: Array) -> Array:
    inside = np.clip(relevance, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)
