"""What the benchmarks work on: pictures, models of random weights, libraries of random vectors."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np

from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store import CatalogWriter, ImageRow
from mmsearch.types import PictureInfo, Space

_REPOSITORY = Path(__file__).parents[2]
_ROWS = 10_000


def photographs() -> list[Path]:
    """The project's photographs where they are at hand, else the pictures of the repository."""
    for folder in (_REPOSITORY / "shared/photos", _REPOSITORY.parent / "shared/photos"):
        if found := sorted(p for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg")):
            return found
    return sorted((_REPOSITORY / "data/postcards").glob("*.jpg"))


def different_files(pictures: Iterable[Path], count: int, folder: Path) -> Path:
    """Fills `folder` with so many JPEGs, made of `pictures` by turns, no two with the same bytes.

    A comment with a number of its own is put after the first marker, where every reader skips it;
    the pixels stay. A folder that holds so many already is left as it is.
    """
    originals = [path.read_bytes() for path in pictures]
    if folder.exists():
        if len(list(folder.iterdir())) == count:
            return folder
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for number in range(count):
        data = originals[number % len(originals)]
        note = f"picture {number:07}".encode()
        comment = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
        (folder / f"{number:07}.jpg").write_bytes(data[:2] + comment + data[2:])
    return folder


def small_pictures(count: int, folder: Path, *, side: int = 32) -> Path:
    """Fills `folder` with so many small JPEGs of random colours, in subfolders of 1,000.

    A folder that holds so many already is left as it is.
    """
    from PIL import Image

    if folder.exists():
        if sum(1 for _ in folder.glob("*/*.jpg")) == count:
            return folder
        shutil.rmtree(folder)
    rng = np.random.default_rng(0)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04}").mkdir(parents=True)
        pixels = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        made = io.BytesIO()
        Image.fromarray(pixels).resize((side, side)).save(made, "JPEG")
        # The number after the end of the picture: so few colours would repeat among so many.
        data = made.getvalue() + number.to_bytes(8, "big")
        (folder / f"{number // 1000:04}/{number:07}.jpg").write_bytes(data)
    return folder


def untrained(architecture: str, folder: Path) -> str:
    """A model of random weights with the shape of one of open_clip's; its name for mmsearch."""
    if not (folder / "open_clip_config.json").exists():
        import open_clip
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        network = open_clip.create_model(architecture, pretrained=None)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
            folder / "open_clip_model.safetensors",
        )
        about = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    return f"local-dir:{folder.absolute()}"


def unit_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Random directions, (count, dim) float32."""
    xb = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    xb /= np.linalg.norm(xb, axis=1, keepdims=True)
    return xb


def library_of_vectors(folder: Path, items: int, space: Space, *, root: Path | None = None) -> Path:
    """A library of so many pictures with random vectors, its index files written.

    root: what the pictures claim to lie in. A library that is there already is left as it is.
    """
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    info = PictureInfo("JPEG", 4000, 3000)
    rng = np.random.default_rng(0)
    with closing(CatalogWriter(folder / CATALOG_NAME)) as writer:
        in_space = writer.ensure_space(space)
        source = writer.ensure_source(str(root or "/photos"), "folder", (), False)
        for start in range(0, items, _ROWS):
            numbers = range(start, min(items, start + _ROWS))
            xb = unit_vectors(len(numbers), space.dim, start)
            names = (f"{n // 1000:04}/picture {n:07}.jpg" for n in numbers)
            writer.commit(
                in_space,
                images=[
                    ImageRow(source, name, "", 4 << 20, 1, rng.bytes(32), info, vector)
                    for name, vector in zip(names, xb, strict=True)
                ],
            )
        writer.activate(in_space)
    with Library(folder, device="cpu") as library:
        library.save_indexes()
    (folder / "complete").touch()
    return folder
