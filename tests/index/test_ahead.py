"""Queries that were compared together find the same, once, until the index changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from vector_oracle import filled, unit

from mmsearch.index import flat, products, scan
from mmsearch.index.flat import FlatIndex

NQ = products.SINGLE.many + 2


@pytest.fixture(params=["SINGLE", "HALF", "BRAIN"])
def compared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each comparison with the vectors was of; any index is large."""
    monkeypatch.setattr(scan, "LARGE", 1)
    monkeypatch.setattr(products, "quickest", lambda: getattr(products, request.param))
    seen: list[int] = []
    really = flat.in_parts

    def in_parts(parts: Any, xq: Any, k: int, exact: bool) -> Any:
        seen.append(len(xq))
        return really(parts, xq, k, exact)

    monkeypatch.setattr(flat, "in_parts", in_parts)
    return seen


def pairs(index: FlatIndex, xq: np.ndarray[Any, Any], k: int) -> list[tuple[bytes, bytes]]:
    found = [index.search(query[None], k)[0] for query in xq]
    return [(one.ids.tobytes(), one.scores.tobytes()) for one in found]


@pytest.mark.parametrize("k", [1, 10, 20])
def test_the_same_to_the_bit_and_once(compared: list[int], k: int) -> None:
    index, _, _ = filled()
    xq = unit(NQ, seed=5)
    alone = pairs(index, xq, k)
    compared.clear()
    index.search_ahead(xq, 20)
    assert NQ in compared
    compared.clear()
    assert pairs(index, xq, k) == alone
    assert compared == []
    assert pairs(index, xq, k) == alone
    assert compared == [1] * NQ


def test_who_asks_the_same(compared: list[int]) -> None:
    """Several may ask one question at once, each of them finds it."""
    index, _, _ = filled()
    xq = np.concatenate([unit(NQ, seed=4), unit(NQ, seed=4)[:2]])
    index.search_ahead(xq, 20)
    compared.clear()
    pairs(index, xq, 20)
    assert compared == []
    pairs(index, xq[:1], 20)
    assert compared == [1]


def test_vectors_as_near_as_each_other(compared: list[int]) -> None:
    """Ties come by ascending id, wherever the list is cut."""
    index, ids, xb = filled()
    index.add(10**6, ids[-1] + 1 + np.arange(40), np.repeat(xb[:1], 40, axis=0))
    xq = np.repeat(xb[:1].astype(np.float32), NQ, axis=0) + 1e-3 * unit(NQ, seed=6)
    xq /= np.linalg.norm(xq, axis=1, keepdims=True)
    alone = pairs(index, xq, 7)
    index.search_ahead(xq, 30)
    compared.clear()
    assert pairs(index, xq, 7) == alone
    assert compared == []


def test_more_than_was_looked_for_is_compared_anew(compared: list[int]) -> None:
    index, _, _ = filled()
    xq = unit(NQ, seed=7)
    alone = pairs(index, xq, 50)
    index.search_ahead(xq, 20)
    assert pairs(index, xq, 50) == alone


def test_a_change_makes_it_void(compared: list[int]) -> None:
    index, ids, _ = filled()
    xq = unit(NQ, seed=8)
    nearest = index.search(xq[:1], 1)[0].ids
    index.search_ahead(xq, 20)
    index.hide(nearest)
    assert nearest[0] not in index.search(xq[:1], 20)[0].ids
    index.search_ahead(xq, 20)
    index.add(10**6, ids[-1:] + 1, xq[1:2].astype(np.float16))
    assert index.search(xq[1:2], 20)[0].ids[0] == ids[-1] + 1


def test_only_where_it_saves_something(
    compared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _, _ = filled()
    few = products.quickest().many
    index.search_ahead(unit(few - 1, seed=9), 20)
    monkeypatch.setattr(scan, "LARGE", len(index) + 1)
    index.search_ahead(unit(NQ, seed=9), 20)
    assert compared == []
