"""Both towers' teacher: an embedding of queries and scenes learnt from their attributes alone.

It settles, in minutes and without one picture or word, where everything lies in the embedding
space. Then the text tower learns to say of a caption what the teacher says of its query, the
picture tower of a picture what the teacher says of its scene, each at its own pace.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from lessons import LessonMaker
from model import EMBED_DIM, MODEL_CFG, contrast
from progress import Log, cosine
from relevance import (
    BACKDROP_DIM,
    FIELDS,
    MOST_SPECS,
    THING_DIM,
    QueryArrays,
    SceneArrays,
    relevance,
    take_queries,
    take_scenes,
)
from torch import Tensor, nn
from torch.nn import functional

from mmsearch.postcards.scene import SKIES

#: length of the random vector added to every embedding while the teacher trains
_BLUR = 0.4
BOUND_DIM = FIELDS[0] * (THING_DIM - FIELDS[0])


def scene_tensors(arrays: SceneArrays, device: str) -> tuple[Tensor, Tensor]:
    """backdrop (n, BACKDROP_DIM) and things (n, 4, THING_DIM), float32."""
    return (
        torch.from_numpy(arrays.backdrop).to(device, torch.float32),
        torch.from_numpy(arrays.things).to(device, torch.float32),
    )


class SceneEncoder(nn.Module):
    """(n scenes) → (n, EMBED_DIM) unit norm: each group by itself, and all of them together."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.thing = nn.Sequential(
            nn.Linear(THING_DIM, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.together = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, EMBED_DIM)
        )
        self.each = nn.Linear(width, EMBED_DIM)
        self.bound = nn.Linear(BOUND_DIM, EMBED_DIM, bias=False)
        self.backdrop = nn.Linear(BACKDROP_DIM, EMBED_DIM)

    def forward(self, backdrop: Tensor, things: Tensor) -> Tensor:
        each = self.thing(things) * things.amax(-1, keepdim=True)  # 0 for an absent group
        out = self.backdrop(backdrop) + self.each(each).sum(1) + self.together(each.sum(1))
        out = out + self.bound(_bound(things).sum(1))
        return functional.normalize(out, dim=-1)


class QueryEncoder(nn.Module):
    """(m queries) → (m, EMBED_DIM) unit norm, of the rank that the text tower can follow: its width
    before the projection."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        rank = MODEL_CFG["text_cfg"]["width"]
        self.spec = nn.Sequential(
            nn.Linear(THING_DIM + 1, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.together = nn.Sequential(
            nn.Linear(MOST_SPECS * width, width), nn.GELU(), nn.Linear(width, rank)
        )
        self.each = nn.Linear(width, rank)
        self.bound = nn.Linear(BOUND_DIM, rank, bias=False)
        self.backdrop = nn.Linear(BACKDROP_DIM, rank)
        self.out = nn.Linear(rank, EMBED_DIM, bias=False)

    def forward(self, backdrop: Tensor, specs: Tensor, named: Tensor, left_of: Tensor) -> Tensor:
        sizes = (len(SKIES), BACKDROP_DIM - len(SKIES))
        said = torch.cat([_said(x) for x in specs.split(FIELDS, -1)], -1)
        relation = left_of[:, None, None].expand(-1, MOST_SPECS, 1)
        each = self.spec(torch.cat([said, relation], -1)) * named[..., None]
        behind = torch.cat([_said(x) for x in backdrop.split(sizes, -1)], -1)
        out = self.each(each).sum(1) + self.together(each.flatten(1)) + self.backdrop(behind)
        out = out + self.bound(_bound(said * named[..., None]).sum(1))
        return functional.normalize(self.out(out), dim=-1)


def _bound(things: Tensor) -> Tensor:
    """(…, THING_DIM) → (…, BOUND_DIM): the kind with each other value, "three" of "three kites"."""
    kinds, rest = things.split((FIELDS[0], THING_DIM - FIELDS[0]), -1)
    return (kinds[..., :, None] * rest[..., None, :]).flatten(-2)


def _blurred(x: Tensor) -> Tensor:
    """`x` off its place by _BLUR. Towers will miss their teacher by as much or more: a space that
    stands it uses all its dimensions and keeps wide margins."""
    return functional.normalize(x + _BLUR / EMBED_DIM**0.5 * torch.randn_like(x), dim=-1)


def _said(allowed: Tensor) -> Tensor:
    """The values a query allows of a field; zeros where it allows all, having said nothing."""
    return allowed * (allowed.sum(-1, keepdim=True) < allowed.shape[-1])


class Teacher(nn.Module):
    """The two encoders and their logit scale."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = QueryEncoder()
        self.scenes = SceneEncoder()
        self.scale = nn.Parameter(torch.tensor(3.0))
        # What is bound to a kind begins as a random code of full rank, the same on both sides: left
        # to itself the space keeps to the fifty dimensions that kinds and backdrops need.
        with torch.no_grad():
            nn.init.normal_(
                self.queries.bound.weight, std=0.9 / self.queries.bound.out_features**0.5
            )
            self.scenes.bound.weight.copy_(self.queries.out.weight @ self.queries.bound.weight)

    def of_queries(self, arrays: QueryArrays, device: str) -> Tensor:
        fields = (arrays.backdrop, arrays.specs, arrays.named, arrays.left_of)
        out: Tensor = self.queries(*(torch.from_numpy(a).to(device, torch.float32) for a in fields))
        return out

    def of_scenes(self, arrays: SceneArrays, device: str) -> Tensor:
        out: Tensor = self.scenes(*scene_tensors(arrays, device))
        return out


def train_teacher(args: argparse.Namespace, log: Log, check: Any) -> Teacher:
    """The teacher, trained or, when it is in the work folder, read."""
    path = args.work / "teacher.pt"
    teacher = Teacher().to(args.device)
    if path.exists():
        teacher.load_state_dict(torch.load(path, weights_only=True))
        return teacher.eval().requires_grad_(False)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    start = time.perf_counter()
    bank = LessonMaker(args.seed).lesson(args.bank // 2, texts=False)
    size, per = len(bank.scene_arrays.backdrop), len(bank.queries.left_of) // args.bank
    optimizer = torch.optim.AdamW(
        teacher.parameters(), lr=args.lr_teacher, betas=(0.9, 0.98), weight_decay=0.02
    )
    log(stage="teacher", step=0, seconds=time.perf_counter() - start)
    start = checked = time.perf_counter()
    step, share = 0, 0.0
    while share < 1:
        share = (time.perf_counter() - start) / (args.minutes_teacher * 60)
        for group in optimizer.param_groups:
            group["lr"] = args.lr_teacher * cosine(share)
        pairs = rng.choice(size // 2, 48, replace=False)
        own = np.stack([2 * pairs, 2 * pairs + 1], 1).reshape(-1)
        rows = (own[:, None] * per + np.arange(per)).reshape(-1)
        others = rng.choice(size, args.others, replace=False)
        among = take_scenes(bank.scene_arrays, np.concatenate([own, others]))
        asked = take_queries(bank.queries, rows)
        right = relevance(asked, among, args.device)
        queries, found = (
            teacher.of_queries(asked, args.device),
            teacher.of_scenes(among, args.device),
        )
        logits = teacher.scale.exp().clamp(max=60) * queries @ found.T
        to_scenes, to_texts = contrast(logits, right), contrast(logits.T, right.T)
        loss = 1.5 * to_scenes + to_texts
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if time.perf_counter() - checked > 30:
            checked = time.perf_counter()
            log(
                stage="teacher",
                step=step,
                seconds=checked - start,
                to_scenes=float(to_scenes.detach()),
                to_texts=float(to_texts.detach()),
                scale=float(teacher.scale.detach().exp()),
                **check(teacher),
            )
    teacher.eval().requires_grad_(False)
    log(stage="teacher", step=step, seconds=time.perf_counter() - start, **check(teacher))
    temporary = path.with_suffix(".tmp")
    torch.save(teacher.state_dict(), temporary)
    temporary.replace(path)
    return teacher
