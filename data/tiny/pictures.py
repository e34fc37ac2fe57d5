"""The picture tower learns to say of a picture what the teacher says of its scene.

It is held to the teacher's embedding of the scene and, by contrast, to the teacher's embeddings of
true and almost true queries: with the exact truth of every pair, and without a text tower in the
step. A head that names the groups, dropped afterwards, lets it learn to see in a tenth of the time.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from typing import Any

import numpy as np
import torch
from export import export
from feed import Drawn, Feed
from lessons import TRUE_TEXTS
from model import EMBED_DIM, IMAGE_SIZE, SlotHead, contrast, twin_loss
from progress import Log, cosine, groups, save
from relevance import KIND_NAMES, QueryArrays, SceneArrays, relevance
from teacher import Teacher
from texts import load_texts
from torch import Tensor, nn
from torch.nn import functional
from validate import pixels, validate_pictures

from mmsearch.postcards.scene import COLOURS, KINDS, PLACES, SIZES, SKIES, Scene

_TEXTS = 2 * TRUE_TEXTS
_JITTER = 4  # pixels a picture is shifted by at most
_SKIP = -100  # cross_entropy's mark for "no label"


def slot_labels(scenes: list[Scene]) -> np.ndarray:
    """(n, 6, 4) int64: kind (len(KIND_NAMES): none), colour, count, size of each slot."""
    labels = np.full((len(scenes), 6, 4), _SKIP, np.int64)
    labels[:, :, 0] = len(KIND_NAMES)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            sky = KINDS[thing.kind].layer == "sky"
            slot = PLACES.index(thing.place) + (0 if sky else 3)
            colour = len(COLOURS) if thing.colour is None else COLOURS.index(thing.colour)
            labels[row, slot] = (
                KIND_NAMES.index(thing.kind),
                colour,
                thing.count - 1,
                SIZES.index(thing.size),
            )
    return labels


class Pool:
    """The last `size` drawn pictures with everything a step needs of them."""

    def __init__(self, size: int, teacher: Teacher, device: str) -> None:
        self._teacher, self._device = teacher, device
        self.size = size
        self.drawn = 0
        self.pictures = np.zeros((size, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        self.labels = np.zeros((size, 6, 4), np.int64)
        self.targets = torch.zeros(size, EMBED_DIM)
        self.texts = torch.zeros(size, _TEXTS, EMBED_DIM, dtype=torch.bfloat16)
        self._scenes: list[np.ndarray] = []
        self._queries: list[np.ndarray] = []

    @torch.no_grad()
    def add(self, drawn: Drawn) -> None:
        lesson = drawn.lesson
        n = len(lesson.scenes)
        rows = (self.drawn + np.arange(n)) % self.size
        self.pictures[rows] = drawn.pictures
        self.labels[rows] = slot_labels(lesson.scenes)
        queries = self._teacher.of_queries(lesson.queries, self._device)
        self.texts[rows] = queries.to("cpu", torch.bfloat16).reshape(n, _TEXTS, -1)
        self.targets[rows] = self._teacher.of_scenes(lesson.scene_arrays, self._device).cpu()
        fresh_scenes = [lesson.scene_arrays.backdrop, lesson.scene_arrays.things]
        flat = [getattr(lesson.queries, f.name) for f in dataclasses.fields(QueryArrays)]
        fresh_queries = [a.reshape(n, _TEXTS, *a.shape[1:]) for a in flat]
        if not self._scenes:
            self._scenes = [np.zeros((self.size, *a.shape[1:]), np.uint8) for a in fresh_scenes]
            self._queries = [np.zeros((self.size, *a.shape[1:]), np.uint8) for a in fresh_queries]
        for kept, fresh in (
            *zip(self._scenes, fresh_scenes, strict=True),
            *zip(self._queries, fresh_queries, strict=True),
        ):
            kept[rows] = fresh
        self.drawn += n

    def rows(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n rows: random pairs of siblings."""
        pairs = rng.choice(min(self.drawn, self.size) // 2, n // 2, replace=False)
        return np.stack([2 * pairs, 2 * pairs + 1], 1).reshape(-1)

    def backdrop(self, rows: np.ndarray) -> Tensor:
        """(n, BACKDROP_DIM) one-hot sky and land."""
        return torch.from_numpy(self._scenes[0][rows]).to(self._device, torch.float32)

    def truth(self, rows: np.ndarray) -> Tensor:
        """(n·_TEXTS, n) bool: which caption of the rows is true of which of them."""
        queries = QueryArrays(*(a[rows].reshape(-1, *a.shape[2:]) for a in self._queries))
        return relevance(queries, SceneArrays(*(a[rows] for a in self._scenes)), self._device)


def jittered(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each picture shifted by up to _JITTER pixels, its edge repeated. No mirror: left is left."""
    out = np.empty_like(pictures)
    side = pictures.shape[1]
    base = np.arange(side)
    for i, (dy, dx) in enumerate(rng.integers(-_JITTER, _JITTER + 1, (len(pictures), 2))):
        y, x = np.clip(base + dy, 0, side - 1), np.clip(base + dx, 0, side - 1)
        out[i] = pictures[i][y][:, x]
    return out


def slot_loss(out: tuple[Tensor, Tensor], labels: Tensor, backdrop: Tensor) -> tuple[Tensor, Any]:
    """Cross-entropies of the slots and the backdrop; also (kind, colour, count) right shares."""
    slots, sky_land = out
    sizes = (len(KIND_NAMES) + 1, 11, 4, 2)
    slots = slots.float()
    loss = torch.zeros((), device=slots.device)
    shares = []
    start = 0
    for field, size in enumerate(sizes):
        logits = slots[..., start : start + size].flatten(0, 1)
        label = labels[..., field].flatten()
        loss = loss + functional.cross_entropy(logits, label, ignore_index=_SKIP)
        known = (label != _SKIP) & (label != len(KIND_NAMES))
        shares.append((logits.argmax(-1) == label)[known].float().mean())
        start += size
    skies = len(SKIES)
    loss = loss + functional.cross_entropy(sky_land[:, :skies], backdrop[:, :skies].argmax(1))
    loss = loss + functional.cross_entropy(sky_land[:, skies:], backdrop[:, skies:].argmax(1))
    return loss, shares


class Shared(nn.Module):
    """What the training processes share and each of them updates without asking (Hogwild): the
    picture tower, its slot head, the logit scale, and a clock (step, seen, seconds)."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        channels = visual.layer4[-1].conv3.out_channels
        self.head = SlotHead(channels, (IMAGE_SIZE // 32) ** 2, len(KIND_NAMES))
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("clock", torch.zeros(3, dtype=torch.float64))


def train_pictures(
    args: argparse.Namespace, shared: Shared, clip: Any, teacher: Teacher, rank: int, log: Log
) -> None:
    """Trains `shared` until its clock says it is over. Rank 0 also logs, checks, saves, exports.

    `clip` lends its text tower, as far as that has come: it is exported around the averaged picture
    tower.
    """
    device = args.device
    path = args.work / "pictures.pt"
    visual, head, scale, clock = shared.visual, shared.head, shared.scale, shared.clock
    optimizer = torch.optim.AdamW(
        groups([*shared.named_parameters()], 0.05), lr=args.lr_pictures, fused=True
    )
    shadow = copy.deepcopy(visual).requires_grad_(False)
    if path.exists():
        state = torch.load(path, weights_only=True)
        shadow.load_state_dict(state["shadow"])
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
        if rank == 0:
            shared.load_state_dict(state["shared"])
    total = args.minutes_pictures * 60
    begun = int(clock[0])
    rng = np.random.default_rng([args.seed, rank, begun])
    feed = Feed(args.seed * 31 + rank + 2 * begun, 64, IMAGE_SIZE, 4, args.workers)
    pool = Pool(args.pool, teacher, device)
    steps = used = 0
    checked = float(clock[2])
    written = checked + 300 - args.out_every * 60  # the first soon, for those who wait
    visual.train()
    while float(clock[2]) < total:
        start = time.perf_counter()
        while used > args.reuse * pool.drawn or pool.drawn < 12 * args.batch:
            pool.add(feed.get())
        share = float(clock[2]) / total
        for group in optimizer.param_groups:
            group["lr"] = args.lr_pictures * cosine(share)
        rows = pool.rows(rng, args.batch)
        x = pixels(jittered(pool.pictures[rows], rng), device, torch.float32)
        with torch.autocast(device, torch.bfloat16):
            features = visual.stem(x)
            for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                features = layer(features)
            out = visual.attnpool(features)
        labels = torch.from_numpy(pool.labels[rows]).to(device)
        slots, shares = slot_loss(head(features), labels, pool.backdrop(rows))
        facts = {"slots": slots}
        facts |= dict(zip(("kind", "colour", "count", "size"), shares, strict=True))
        embedded = functional.normalize(out.float(), dim=-1)
        truth = pool.truth(rows)
        captions = pool.texts[rows].flatten(0, 1).to(device, torch.float32)
        logits = scale.exp().clamp(max=60) * captions @ embedded.T
        to_pictures, to_texts = contrast(logits, truth), contrast(logits.T, truth.T)
        apart = (1 - (embedded * pool.targets[rows].to(device)).sum(1)).mean()
        twins = twin_loss(logits, truth)
        facts |= {"to_pictures": to_pictures, "to_texts": to_texts, "apart": apart, "twins": twins}
        loss = to_pictures + to_texts + args.weight_apart * apart + args.weight_slots * slots
        loss = loss + args.weight_twins * twins
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(shared.parameters(), 2.0)
        optimizer.step()
        steps += 1
        used += len(rows)
        clock[0] += 1
        clock[1] += len(rows)
        if rank != 0:
            continue
        keep = min(0.997, (1 + steps) / (10 + steps))
        with torch.no_grad():
            pairs = zip(shadow.state_dict().values(), visual.state_dict().values(), strict=True)
            for old, new in pairs:
                if old.is_floating_point():
                    old.lerp_(new, 1 - keep)
        # Only one process winds the clock: it counts the time that passes, not the work.
        clock[2] += time.perf_counter() - start
        seconds = float(clock[2])
        now = {
            "stage": "pictures",
            "step": int(clock[0]),
            "seen": int(clock[1]),
            "seconds": seconds,
        }
        if steps % 50 == 0:
            facts["scale"] = scale.exp()
            log(**now, drawn=pool.drawn, **{k: float(v.detach()) for k, v in facts.items()})
        last = seconds >= total
        if seconds - checked > 240 or last:
            checked = seconds
            known = load_texts(args.work, clip)
            figures = validate_pictures(
                clip if known else None, teacher, shadow, IMAGE_SIZE, device
            )
            log(**now, **figures)
            save(
                path,
                shared=shared.state_dict(),
                shadow=shadow.state_dict(),
                optimizer=optimizer.state_dict(),
            )
        due = last or seconds - written > args.out_every * 60
        if due and load_texts(args.work, clip):
            written = seconds
            # A shallow copy: the text tower is the same, the picture tower the averaged one.
            with torch.no_grad():
                clip.logit_scale.copy_(scale)
            whole = copy.copy(clip)
            whole._modules = {**clip._modules, "visual": shadow}
            digest = export(whole, args.out)
            log(**now, written=str(args.out), sha256=digest)
    feed.close()
