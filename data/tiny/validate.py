"""Held-out recall while training: test scenes, test queries, ground truth from the attributes."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from feed import picture
from lessons import CONTEXT_LENGTH
from model import MEAN, STD, encode_texts
from open_clip.tokenizer import SimpleTokenizer
from relevance import QueryArrays, SceneArrays, query_arrays, relevance, scene_arrays
from teacher import Teacher
from torch import Tensor

from mmsearch.postcards.captions import CHANGES, pair_query, phrase, sample_query, swap
from mmsearch.postcards.scene import Query, Scene, sample_scene

Figures = dict[str, float]

_SETS = (("en", "train"), ("en", "test"), ("zh", "train"), ("zh", "test"))


@functools.lru_cache(1)
def _held_out(
    pictures: int = 1000, queries: int = 500
) -> tuple[list[Scene], SceneArrays, QueryArrays, list[np.ndarray]]:
    # A stretch of test seeds that the evaluation does not use.
    scenes = [sample_scene(500_000 + i, "test") for i in range(pictures)]
    rng = random.Random("validate")
    asked = [sample_query(rng.choice(scenes), rng) for _ in range(queries)]
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    tokens = [
        tokenizer([phrase(q, rng, lang, wording) for q in asked]).numpy() for lang, wording in _SETS
    ]
    return scenes, scene_arrays(scenes), query_arrays(asked), tokens


@functools.lru_cache(1)
def _pairs() -> list[tuple[str, list[int], QueryArrays, np.ndarray]]:
    """(change, scenes, queries, tokens) of minimal pairs, a true and a false one by turns."""
    scenes = _held_out()[0]
    rng = random.Random("validate pairs")
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    out = []
    for change in CHANGES[:4]:
        rows: list[int] = []
        queries: list[Query] = []
        said: list[str] = []
        for row, scene in enumerate(scenes[:500]):
            true = pair_query(scene, rng, change)
            false = None if true is None else swap(true, scene, rng, change)
            if true is None or false is None:
                continue
            rows.append(row)
            dice = rng.randrange(1 << 30)
            queries += [true, false]
            said += [phrase(q, random.Random(dice)) for q in (true, false)]
        out.append((change, rows, query_arrays(queries), tokenizer(said).numpy()))
    return out


def _pairs_right(scenes: Tensor, encode: Callable[[QueryArrays, np.ndarray], Tensor]) -> Figures:
    """Share of pairs, by what they differ in, whose true caption lies nearer to its scene."""
    figures = {}
    for change, rows, queries, tokens in _pairs():
        score = (encode(queries, tokens).unflatten(0, (-1, 2)) * scenes[rows, None]).sum(-1)
        figures[f"pairs_{change}"] = float((score[:, 0] > score[:, 1]).float().mean())
    return figures


def _top(texts: Tensor, scenes: Tensor, right: Tensor, k: int) -> float:
    best = (texts @ scenes.T).topk(k, 1).indices
    return float(right.gather(1, best).any(1).float().mean())


@torch.no_grad()
def validate_teacher(teacher: Teacher, device: str) -> Figures:
    """Top hit right with the teacher in both towers' place: the most that can be had."""
    _, arrays, queries, _ = _held_out()
    right = relevance(queries, arrays, device)
    asked, scenes = teacher.of_queries(queries, device), teacher.of_scenes(arrays, device)
    pairs = _pairs_right(scenes, lambda q, _: teacher.of_queries(q, device))
    return {"teacher": _top(asked, scenes, right, 1)} | pairs


@torch.no_grad()
def validate_texts(clip: Any, teacher: Teacher, device: str) -> Figures:
    """Top hit right with the teacher in the picture tower's place."""
    _, arrays, queries, tokens = _held_out()
    clip.eval()
    scenes = teacher.of_scenes(arrays, device)
    right = relevance(queries, arrays, device)
    figures = {
        f"texts_{lang}_{wording}": _top(encode_texts(clip, t, device), scenes, right, 1)
        for (lang, wording), t in zip(_SETS, tokens, strict=True)
    }
    return figures | _pairs_right(scenes, lambda _, t: encode_texts(clip, t, device))


@functools.lru_cache(1)
def _drawn(side: int) -> np.ndarray:
    return np.stack([picture(s, side) for s in _held_out()[0]])


def pixels(pictures: np.ndarray, device: str, dtype: torch.dtype) -> Tensor:
    """uint8 (n, side, side, 3) → normalised (n, 3, side, side), channels last."""
    x = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)  # already channels last
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1) * 255
    return ((x - mean) / std).to(dtype, memory_format=torch.channels_last)


@torch.no_grad()
def validate_pictures(
    clip: Any | None, teacher: Teacher, visual: Any, side: int, device: str
) -> Figures:
    """Top hit right with the pictures, first with the teacher in the text tower's place, then, if
    there is a text tower, with captions; one of the top 5; picture → true caption."""
    _, arrays, queries, tokens = _held_out()
    visual.eval()
    dtype = next(visual.parameters()).dtype
    drawn = _drawn(side)
    out = [visual(pixels(drawn[i : i + 100], device, dtype)) for i in range(0, len(drawn), 100)]
    scenes = torch.nn.functional.normalize(torch.cat(out).float(), dim=-1)
    right = relevance(queries, arrays, device)
    figures = {"pictures": _top(teacher.of_queries(queries, device), scenes, right, 1)}
    asked = _pairs_right(scenes, lambda q, _: teacher.of_queries(q, device))
    if clip is None:
        return figures | asked
    figures |= {f"asked_{name}": share for name, share in asked.items()}
    figures |= _pairs_right(scenes, lambda _, t: encode_texts(clip, t, device))
    for (lang, wording), t in zip(_SETS, tokens, strict=True):
        texts = encode_texts(clip, t, device)
        figures[f"{lang}_{wording}"] = _top(texts, scenes, right, 1)
        if (lang, wording) == ("en", "train"):
            figures["top5"] = _top(texts, scenes, right, 5)
            some = right.any(0)
            figures["i2t"] = _top(scenes[some], texts, right.T[some], 1)
    return figures
