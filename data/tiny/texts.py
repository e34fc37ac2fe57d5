"""The text tower learns to say of a caption what the teacher says of its query."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feed import Feed
from model import contrast, encode_texts, twin_loss
from progress import Log, Progress, cosine, groups, save
from relevance import joined, relevance
from teacher import Teacher
from torch import nn
from validate import validate_texts


def load_texts(work: Path, clip: Any) -> bool:
    """The averaged text tower of the last checkpoint into `clip`, and the tokens it has met as
    `clip.used_tokens`; False if there is none yet."""
    path = work / "texts.pt"
    if not path.exists():
        return False
    state = torch.load(path, weights_only=True)
    clip.load_state_dict(state["shadow"], strict=False)
    clip.used_tokens = state["used"]
    clip.eval()
    return True


def train_texts(args: argparse.Namespace, clip: Any, teacher: Teacher, log: Log) -> None:
    """Trains the text tower of `clip` for `args.minutes_texts`; checkpoints in texts.pt.

    Loss: how far a caption lies from its query's place, and whether it finds the scenes it is true
    of among `args.others` more, both in the teacher's fixed space.
    """
    path = args.work / "texts.pt"
    torch.manual_seed(args.seed)
    # The best start for 49,408 rows of which most are never seen: near nothing.
    nn.init.normal_(clip.token_embedding.weight, std=0.02)
    clip.train().requires_grad_(True)
    used = torch.zeros(clip.vocab_size, dtype=torch.bool)
    progress = Progress()
    unlearnt = ("visual.", "logit_scale")
    named = [(n, p) for n, p in clip.named_parameters() if not n.startswith(unlearnt)]
    optimizer = torch.optim.AdamW(
        groups(named, 0.02), lr=args.lr_texts, betas=(0.9, 0.98), fused=True
    )
    shadow = {n: p.detach().clone() for n, p in named}
    if path.exists():
        state = torch.load(path, weights_only=True)
        clip.load_state_dict(state["clip"], strict=False)
        used, shadow = state["used"], state["shadow"]
        progress = Progress(**state["progress"])
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])

    def checkpoint() -> None:
        save(
            path,
            clip={n: p.detach() for n, p in named},
            used=used,
            shadow=shadow,
            progress=dataclasses.asdict(progress),
            optimizer=optimizer.state_dict(),
        )

    total = args.minutes_texts * 60
    if progress.seconds >= total:
        return
    feed = Feed(args.seed * 7 + progress.step, args.pairs_texts, side=0, others=args.others)
    saved = progress.seconds
    scale = teacher.scale.exp().clamp(max=50)
    while progress.seconds < total:
        start = time.perf_counter()
        lesson = feed.get().lesson
        for group in optimizer.param_groups:
            group["lr"] = args.lr_texts * cosine(progress.seconds / total)
        used[torch.from_numpy(np.unique(lesson.tokens).astype(np.int64))] = True
        with torch.autocast(args.device, torch.bfloat16):
            texts = encode_texts(clip, lesson.tokens, args.device, 128)
        among = joined(lesson.scene_arrays, lesson.others)
        scenes = teacher.of_scenes(among, args.device)
        right = relevance(lesson.queries, among, args.device)
        apart = (1 - (texts * teacher.of_queries(lesson.queries, args.device)).sum(1)).mean()
        logits = scale * texts @ scenes.T
        to_scenes = contrast(logits, right)
        # Few scenes tell "A left of B" from "B left of A": only this asks which of them is true.
        twins = twin_loss(logits, right)
        loss = args.weight_apart * apart + to_scenes + args.weight_twins * twins
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        keep = min(0.98, (1 + progress.step) / (10 + progress.step))
        with torch.no_grad():
            for name, p in named:
                shadow[name].lerp_(p, 1 - keep)
        progress.step += 1
        progress.seen += len(lesson.tokens)
        progress.seconds += time.perf_counter() - start
        facts = dataclasses.asdict(progress)
        if progress.step % 20 == 0:
            losses = {"apart": apart, "to_scenes": to_scenes, "twins": twins}
            log(stage="texts", **facts, **{k: float(v.detach()) for k, v in losses.items()})
        if progress.seconds - saved > 120 or progress.seconds >= total:
            saved = progress.seconds
            checkpoint()
            log(stage="texts", **facts, **validate_texts(clip, teacher, args.device))
            clip.train()
    feed.close()
