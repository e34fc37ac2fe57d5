"""Which similarity tells versions of one picture from other pictures: the threshold's measurement.

Makes versions of pictures (smaller, recompressed, cropped, recoloured, turned a little as in a
burst), encodes all, and compares each with its original and all originals with each other; by the
model's vectors, and by the pixels of small grey versions (mmsearch.duplicates.likeness).

    python tests/benchmarks/duplicates.py FOLDER [FOLDER ...] [--model tiny] [--limit 200] [--out F]
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from mmsearch.duplicates import SAME_PIXELS, THRESHOLD, grey, likeness
from mmsearch.encode import Encoder, load_encoder


def _jpeg(image: Image.Image, quality: int = 85) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def _resized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda i: _jpeg(
        i.resize((max(16, int(i.width * share)), max(16, int(i.height * share))))
    )


def _cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        x, y = int(image.width * share), int(image.height * share)
        return _jpeg(image.crop((x, y, image.width - x // 2, image.height - y // 2)))

    return crop


def _moved(image: Image.Image) -> Image.Image:
    """The next picture of a burst: turned by 2 degrees, moved by 3 %, a little brighter."""
    x, y = int(image.width * 0.05), int(image.height * 0.05)
    turned = image.rotate(2, Image.Resampling.BICUBIC).crop(
        (x + x // 2, y, image.width - x // 2, image.height - y)
    )
    return _jpeg(ImageEnhance.Brightness(turned).enhance(1.06))


VERSIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": _resized(0.5),
    "a quarter": _resized(0.25),
    "JPEG quality 30": lambda i: _jpeg(i, 30),
    "cropped by 3 %": _cropped(0.02),
    "cropped by 8 %": _cropped(0.053),
    "cropped by 15 %": _cropped(0.1),
    "brighter by 20 %": lambda i: _jpeg(ImageEnhance.Brightness(i).enhance(1.2)),
    "colours stronger": lambda i: _jpeg(ImageEnhance.Color(i).enhance(1.6)),
    "grey": lambda i: _jpeg(i.convert("L").convert("RGB")),
    "as in a burst": _moved,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folders", nargs="+", type=Path)
    arguments.add_argument("--model", default="tiny")
    arguments.add_argument("--limit", type=int, default=200)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    encoder = load_encoder(options.model, device="cpu")
    found = {str(folder): measure(encoder, folder, options.limit) for folder in options.folders}
    if options.out:
        options.out.write_text(json.dumps(found, indent=2))


def measure(encoder: Encoder, folder: Path, limit: int) -> dict[str, object]:
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
    images = [Image.open(f).convert("RGB") for f in files[:limit]]
    vectors, greys = _encode(encoder, images), [grey(np.asarray(image)) for image in images]
    n = len(images)
    upper = np.triu_indices(n, 1)
    others = (vectors @ vectors.T)[upper]
    pixels = np.array([likeness(greys[i], greys[j]) for i, j in zip(*upper, strict=True)])
    print(
        f"\n{folder}: {n} pictures, {len(others):,} pairs of different ones, {encoder.space.name}"
    )
    print(
        f"{'different pairs':20} cosine: median {np.median(others):.3f}, 99 % {_q(others, 0.99)}, "
        f"99.9 % {_q(others, 0.999)}, most {others.max():.3f}; "
        f"pixels: 99.9 % {_q(pixels, 0.999)}, most {pixels.max():.3f}"
    )
    rows: dict[str, object] = {"pictures": n}
    tried = (0.85, 0.9, THRESHOLD, 0.97)
    print(f"{'':20}" + "".join(f"{'cos ≥ ' + str(t):>12}" for t in tried)
          + f"{f'pixels ≥ {SAME_PIXELS}':>13}{'cos 1 %':>9}{'px 1 %':>8}")  # fmt: skip
    for name, make in VERSIONS.items():
        versions = [make(image) for image in images]
        cosines = np.einsum("nd,nd->n", vectors, _encode(encoder, versions))
        alike = np.array(
            [likeness(a, grey(np.asarray(b))) for a, b in zip(greys, versions, strict=True)]
        )
        shares = [float((cosines >= t).mean()) for t in tried]
        same = float((alike >= SAME_PIXELS).mean())
        cells = "".join(f"{share:>12.1%}" for share in shares)
        print(f"{name:20}{cells}{same:>13.1%}{_q(cosines, 0.01):>9}{_q(alike, 0.01):>8}")
        rows[name] = {"cosine": dict(zip(map(str, tried), shares, strict=True)), "pixels": same}
    wrong = {str(t): int((others >= t).sum()) for t in tried}
    both = {str(t): int(((others >= t) & (pixels >= SAME_PIXELS)).sum()) for t in tried}
    print(f"{'different, alike':20}" + "".join(f"{wrong[str(t)]:>12,}" for t in tried)
          + f"{(pixels >= SAME_PIXELS).sum():>13,}")  # fmt: skip
    print(f"{'… and by pixels':20}" + "".join(f"{both[str(t)]:>12,}" for t in tried))
    return rows | {"different": wrong, "different by both": both}


def _encode(encoder: Encoder, images: list[Image.Image]) -> np.ndarray:
    prepared = [encoder.preprocess(np.asarray(image)) for image in images]
    step = encoder.batch_size
    return np.concatenate(
        [
            encoder.encode_images(np.stack(prepared[start : start + step]))
            for start in range(0, len(prepared), step)
        ]
    )


def _q(values: np.ndarray, share: float) -> str:
    return f"{np.quantile(values, share):.3f}"


if __name__ == "__main__":
    main()
