"""Judges the model folder by `evaluate_postcards` and writes its card, README.md, beside it.

.venv/bin/python data/tiny/card.py            # after train.py; about two minutes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import PIL
import torch
from export import WEIGHTS
from model import MODEL_CFG
from numpy.typing import NDArray
from PIL import Image
from train import ROOT

from mmsearch.encode import load_encoder
from mmsearch.postcards.evaluate import EncodeImages, EncodeTexts, evaluate_postcards
from mmsearch.postcards.scene import KINDS

_LOAD = """
import sys, time
import torch
start = time.perf_counter()
import open_clip
imported = time.perf_counter()
open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
print(time.perf_counter() - imported)
"""


def encoders(folder: Path, *, trained: bool) -> tuple[EncodeImages, EncodeTexts]:
    """The two functions of the evaluation, by open_clip alone; the baseline is not `trained`."""
    torch.manual_seed(0)
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, load_weights=trained)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    @torch.inference_mode()
    def encode_images(images: list[Image.Image]) -> NDArray[np.float32]:
        parts = [torch.stack([preprocess(x) for x in images[i : i + 64]]) for i in _starts(images)]
        vectors: NDArray[np.float32] = torch.cat(
            [model.encode_image(p, True) for p in parts]
        ).numpy()
        return vectors

    @torch.inference_mode()
    def encode_texts(texts: list[str]) -> NDArray[np.float32]:
        parts = [tokenizer(texts[i : i + 64]) for i in _starts(texts)]
        vectors: NDArray[np.float32] = torch.cat(
            [model.encode_text(p, True) for p in parts]
        ).numpy()
        return vectors

    return encode_images, encode_texts


def _starts(items: list[Image.Image] | list[str]) -> range:
    return range(0, len(items), 64)


def speed(folder: Path, count: int = 512) -> float:
    """Pictures a second through mmsearch's own encoder on the CPU, in the precision it chooses,
    from pixels already resized to vectors: the best of five runs, since whatever else the machine
    does can only slow one."""
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    side = MODEL_CFG["vision_cfg"]["image_size"]
    pixels = np.random.default_rng(0).integers(0, 255, (32, 3, side, side), dtype=np.uint8)
    encoder.encode_images(pixels)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count // 32):
            encoder.encode_images(pixels)
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def load_seconds(folder: Path) -> float:
    """Median over five fresh processes of loading the model once torch and open_clip are there."""
    command = [sys.executable, "-c", _LOAD, str(folder)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(5)]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    """Evaluates, then writes the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "mmsearch/encode/models/tiny")
    parser.add_argument("--log", type=Path, default=ROOT / ".train/tiny/log.jsonl")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--notes", default="", help="a sentence on how this run differed")
    parser.add_argument("--tried", default="", help="what was done about the bars it misses")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trained = encoders(args.folder, trained=True)
    report = evaluate_postcards(
        *trained,
        random_weights=encoders(args.folder, trained=False),
        images_per_s=speed(args.folder),
        load_s=load_seconds(args.folder),
    )
    header = ("measure", "bar", "tiny", "random weights", "bag of colours")
    table = "\n".join(
        "| " + " | ".join(row) + " |" for row in (header, ("---",) * 5, *report.rows())
    )
    weights = args.folder / WEIGHTS
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    lines = [json.loads(x) for x in args.log.read_text().splitlines()]
    pictures = [x for x in lines if x.get("stage") == "pictures" and "seen" in x][-1]
    texts = [x for x in lines if x.get("stage") == "texts" and "seen" in x]
    text = template.format(
        table=table,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        pictures_seen=f"{pictures['seen']:,}",
        picture_minutes=round(pictures["seconds"] / 60),
        captions_seen=f"{sum(_last_of_runs(texts)):,}",
        notes=args.notes,
        tried=args.tried,
        versions=f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"open_clip {open_clip.__version__}, Pillow {PIL.__version__}, numpy {np.__version__}",
        kinds=len(KINDS),
        size=MODEL_CFG["vision_cfg"]["image_size"],
        missed=", ".join(report.missed()) or "none",
    )
    (args.folder / "README.md").write_text(text, encoding="utf-8")
    print(table)
    print("missed:", report.missed())


def _last_of_runs(lines: list[dict[str, int]]) -> list[int]:
    """`seen` where it falls back: each restart of the stage counts from nothing."""
    seen = [line["seen"] for line in lines]
    return [a for a, b in zip(seen, [*seen[1:], 0], strict=True) if b < a]


if __name__ == "__main__":
    main()
