"""What the model costs: pictures by batch and precision, one text, many captions, loading.

ViT-B-32 with random weights (nothing can be downloaded where this runs; speeds are the same) and
the bundled model. Held against open_clip's own `encode_text`, in turn with it, so that other work
on the machine falls on both; on a GPU the pictures are held against its own matrix products.

    python tests/benchmarks/encode.py [--device cuda] [--captions 10000] [--only PART] [--quick]
        [--out FILE] [--plot FILE]

PART: pictures, query, captions, load. Exit code 1 when a figure misses its bar.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Bar, Table, finish, plotted, run, seconds
from materials import untrained

import mmsearch.encode
from mmsearch import generic
from mmsearch.encode import load_encoder, load_text_encoder

#: One text query, ours in the precision of the device against open_clip's in fp32: times as fast.
QUERY = Bar(4.0)
#: Captions a second, ours against open_clip's in the same precision.
CAPTIONS = Bar(5.0)
#: Share of what the GPU reaches in bf16 matrix products, at the best batch.
GPU_SHARE = Bar(0.5)
#: Cosine of what the device's own precision makes to fp32.
COSINE = Bar(0.999)
SIZES = {"cpu": (1, 4, 16, 32, 64), "cuda": (1, 64, 128, 256, 512, 1024), "mps": (1, 16, 32, 64)}
_REPEATS = 5


def noise(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def captions(count: int) -> list[str]:
    """Captions of everyday scenes, of the lengths that people write; no two the same."""
    rng = random.Random(0)
    known = generic.captions()
    found = []
    for number in range(count):
        said = rng.choice(known)
        if rng.random() < 0.4:
            said += f", {rng.choice(known)}"
        found.append(f"{said} {number}")
    return found


class Plain:
    """open_clip by its own ordinary way: the whole context of every text."""

    def __init__(self, name: str, dtype: torch.dtype, device: str) -> None:
        import open_clip

        model, _, _ = open_clip.create_model_and_transforms(plainly_named(name))
        self._model = model.eval().to(device=device, dtype=dtype)
        self._tokenize = open_clip.get_tokenizer(plainly_named(name))
        self._device = device

    @property
    def visual(self) -> Any:
        return self._model.visual

    def texts(self, texts: list[str]) -> np.ndarray:
        with torch.inference_mode():
            tokens = self._tokenize(texts).to(self._device)
            return self._model.encode_text(tokens, normalize=True).float().cpu().numpy()


def in_turn(*works: Callable[[], object], repeats: int) -> list[float]:
    """The median seconds of each, one after the other in every round; the first round is not
    counted."""
    took: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for found, work in zip(took, works, strict=True):
            once = seconds(work)
            if turn:
                found.append(once)
    return [statistics.median(found) for found in took]


def settled(encoder: Any) -> int:
    """The batch size that the encoder comes to by itself."""
    side = encoder.image_size
    while not encoder._pictures.settled:
        list(encoder.encode_batches([noise(encoder.batch_size, side)]))
    return int(encoder.batch_size)


def pictures(name: str, shown: str, device: str) -> Table:
    table = Table(f"{shown}: pictures a second through the encoder, {device}")
    exact = load_encoder(name, device=device, dtype="fp32")
    fast = load_encoder(name, device=device, dtype="auto")
    side = exact.image_size
    cosine = float((exact.encode_images(noise(16, side)) * fast.encode_images(noise(16, side)))
                   .sum(axis=1).min())  # fmt: skip
    best = 0.0
    for size in SIZES[device.partition(":")[0]]:
        batch = noise(size, side)
        works = [lambda e=e, batch=batch: e.encode_images(batch) for e in (exact, fast)]
        rates = [size / took for took in in_turn(*works, repeats=_REPEATS)]
        best = max(best, rates[1])
        table.add(f"batch {size}: fp32", rates[0], "/s", form=",.1f")
        table.add(f"batch {size}: {fast.dtype}", rates[1], "/s", form=",.1f")
    size = settled(fast)
    stream = [noise(size, side)] * max(20 if device.startswith("cuda") else 2, 256 // size)
    took = seconds(lambda: list(fast.encode_batches(stream)), 3)
    rate = size * len(stream) / took
    best = max(best, rate)
    table.add(f"as a stream, batches of {size}, the size found by itself", rate, "/s", form=",.1f")
    table.add(f"least cosine of {fast.dtype} to fp32", cosine, form=".5f", bar=COSINE)
    reached = best * operations(name)
    limit = matrix_rate(device)
    bar = GPU_SHARE if device.startswith("cuda") and shown != "tiny" else None
    table.add("this device's bf16 matrix products", limit / 1e12, "Tflop/s", form=",.2f")
    table.add("share of that, best of the above, by open_clip's operations", reached / limit,
              form=".1%", bar=bar)  # fmt: skip
    return table


def operations(name: str) -> float:
    """Floating-point operations of one picture through open_clip's image tower, as torch counts
    them. Ours does less in the last block; what the model is defined as is what is compared."""
    from torch.utils.flop_counter import FlopCounterMode

    visual = Plain(name, torch.float32, "cpu").visual
    pixels = torch.zeros((1, 3, *visual.image_size))
    # Otherwise attention is one operation, which the counter does not know.
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        visual(pixels)
    torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops())


def matrix_rate(device: str) -> float:
    """Operations a second of square bf16 products, the best of some sizes."""
    best = 0.0
    for n in (2048,) if device == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n, device=device).to(torch.bfloat16) for _ in range(2))
        times = 3 if device == "cpu" else 20

        def work(a: torch.Tensor = a, b: torch.Tensor = b, times: int = times) -> None:
            for _ in range(times):
                product = a @ b
            float(product[0, 0])  # waits for the device

        work()
        best = max(best, times * 2.0 * n**3 / seconds(work, _REPEATS))
    return best


def query(name: str, shown: str, device: str) -> Table:
    table = Table(f"{shown}: one text query, tokens included, {device}")
    plain = Plain(name, torch.float32, device)
    whole = load_encoder(name, device=device, dtype="auto")
    works = {
        "open_clip's encode_text, fp32": plain.texts,
        f"the whole model, {whole.dtype}": whole.encode_texts,
    }
    asked = "the whole model"
    if device == "cpu":
        # Queries take this one there; by torch, as in a service, since that is loaded here.
        works["the text tower alone, as a service has it"] = load_text_encoder(name).encode_texts
    asked_texts = iter(captions(10_000))
    took = in_turn(
        *(lambda work=work: work([next(asked_texts)]) for work in works.values()), repeats=30
    )
    for what, once in zip(works, took, strict=True):
        bar = QUERY if what.startswith(asked) and shown != "tiny" else None
        table.add(what, once * 1000, "ms")
        if once is not took[0]:
            table.add("  times as fast as open_clip", took[0] / once, "x", bar=bar)
    return table


def many(name: str, shown: str, device: str, count: int) -> Table:
    table = Table(f"{shown}: {count:,} captions, tokens included, {device}")
    encoder = load_encoder(name, device=device, dtype="auto")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    plain = Plain(name, dtypes[encoder.dtype], device)
    texts = captions(count)
    some = texts[: 128 if device == "cpu" else 4096]

    def plainly() -> None:
        for start in range(0, len(some), 64):
            plain.texts(some[start : start + 64])

    # As an indexing run hands them over.
    step = 512

    def ours(limit: int = count) -> None:
        for start in range(0, limit, step):
            encoder.encode_texts(texts[start : start + step])

    plainly()
    ours(step)
    before = seconds(plainly)
    took = seconds(ours)
    after = seconds(plainly)
    theirs = len(some) / statistics.mean((before, after))
    table.add(f"open_clip's encode_text, {encoder.dtype}, batches of 64", theirs, "/s", form=",.1f")
    table.add(f"ours, {encoder.dtype}", count / took, "/s", form=",.1f")
    bar = CAPTIONS if shown != "tiny" else None
    table.add("times as fast", count / took / theirs, "x", bar=bar)
    exact = load_encoder(name, device="cpu", dtype="fp32").encode_texts(texts[:256])
    cosine = float((encoder.encode_texts(texts[:256]) * exact).sum(axis=1).min())
    table.add(f"least cosine of {encoder.dtype} to fp32", cosine, form=".5f", bar=COSINE)
    return table


_LOADS = {
    "open_clip's create_model_and_transforms": "import open_clip\n"
    "model, _, _ = open_clip.create_model_and_transforms(NAME)\nopen_clip.get_tokenizer(NAME)",
    "load_encoder": "from mmsearch.encode import load_encoder\nload_encoder(NAME, device=DEVICE)",
    "load_text_encoder": "from mmsearch.encode import load_text_encoder\nload_text_encoder(NAME)",
}


def load(name: str, shown: str, device: str) -> Table:
    table = Table(f"{shown}: a fresh process that loads the model, files in the page cache")
    for what, program in _LOADS.items():
        named = plainly_named(name) if "open_clip" in what else name
        code = program.replace("NAME", repr(named)).replace("DEVICE", repr(device))
        command = [sys.executable, "-c", code]
        run(command)
        ran = [run(command) for _ in range(3)]
        took = statistics.median(one.seconds for one in ran)
        peak = max(one.peak_bytes for one in ran)
        table.add(what, took, "s", note=f"{peak / 1e6:,.0f} MB at most")
    return table


def plainly_named(name: str) -> str:
    """A model as open_clip finds it."""
    if name != "tiny":
        return name
    return f"local-dir:{Path(mmsearch.encode.__file__).parent / 'models' / 'tiny'}"


def main() -> int:
    parser = argparse.ArgumentParser(description="What the model costs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--captions", type=int, default=10_000)
    parser.add_argument("--only", choices=("pictures", "query", "captions", "load"))
    parser.add_argument("--model", choices=("default", "tiny"), help="only this one")
    parser.add_argument("--work", type=Path, help="the model stays here")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them")
    parser.add_argument("--quick", action="store_true", help="a tenth of the captions")
    options = parser.parse_args()
    count = options.captions // 10 if options.quick else options.captions
    torch.set_num_threads(min(2, os.cpu_count() or 1) if options.device == "cpu" else 8)
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        made = untrained("ViT-B-32", (options.work or Path(scratch)).absolute() / "vit-b-32")
        models = {"default": (made, "ViT-B-32"), "tiny": ("tiny", "tiny")}
        for name, shown in models.values() if not options.model else [models[options.model]]:
            device = options.device
            if options.only in (None, "pictures"):
                tables.append(pictures(name, shown, device))
            if options.only in (None, "query"):
                tables.append(query(name, shown, device))
            if options.only in (None, "captions") and shown != "tiny":
                tables.append(many(name, shown, device, count))
            if options.only in (None, "load"):
                tables.append(load(name, shown, device))
    if options.plot:
        plotted(options.plot, tables)
    return finish(tables, options.out)


if __name__ == "__main__":
    sys.exit(main())
