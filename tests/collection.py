"""Collections for tests: a small model of random weights, drawn pictures, runs of the indexer."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from indexer.ingest import Options, index
from indexer.report import Report
from mmsearch.library import Library

_VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


@dataclass(frozen=True)
class Indexed:
    """A library, and the folder of pictures that it was made from."""

    path: Path
    pictures: Path


def save_model(folder: Path, seed: int = 0, dim: int = 48) -> str:
    """A small CLIP whose random weights depend on `seed` alone; its name for --model."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    config = {"embed_dim": dim, "vision_cfg": _VISION, "text_cfg": _TEXT}
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    # Fresh weights barely move what flows past them; make every part count.
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        parameter.data += (0.1 if "embedding" in name else 0.03) * noise
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True)
    save_file(state, folder / "open_clip_model.safetensors")
    about = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    return f"local-dir:{folder}"


def picture(seed: int, side: int = 40) -> Image.Image:
    """A picture of smooth coloured waves, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    waves = [
        np.sin(x * rng.uniform(1, 9) + y * rng.uniform(-9, 9) + rng.uniform(0, 6)) for _ in range(3)
    ]
    return Image.fromarray((127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8))


def encoded(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of the file of such a picture."""
    out = io.BytesIO()
    picture(seed).save(out, kind, **options)
    return out.getvalue()


def titled(seed: int, title: str) -> bytes:
    """The same as JPEG, with a description of its own (EXIF ImageDescription)."""
    exif = Image.Exif()
    exif[0x010E] = title
    return encoded(seed, "JPEG", exif=exif)


def write(path: Path, data: bytes, *, at: int | None = None) -> Path:
    """A file with these bytes; `at` is its time in whole seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if at is not None:
        os.utime(path, (at, at))
    return path


class _Failing(io.FileIO):
    """A file of which nothing is given from some byte on."""

    def __init__(self, path: Path, at: int, number: int) -> None:
        super().__init__(path)
        self._at, self._number = at, number

    def readinto(self, buffer: Any, /) -> int | None:
        if self.tell() + len(buffer) > self._at:
            buffer = memoryview(buffer)[: max(self._at - self.tell(), 0)]
            if not buffer:
                raise OSError(self._number, os.strerror(self._number))
        return super().readinto(buffer)


@contextmanager
def failing_drive(path: Path, at: int, number: int = errno.EIO) -> Iterator[None]:
    """Path.open opens this file, and from its byte `at` on reading fails by this error."""
    real = Path.open

    def opened(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            return io.BufferedReader(_Failing(path, at, number), 512)
        return real(self, *args, **kwargs)

    with mock.patch.object(Path, "open", opened):
        yield


def write_captions(path: Path, captions: Sequence[tuple[str | None, str]]) -> Path:
    """A .jsonl file of (picture or None, text) pairs."""
    lines = [
        json.dumps({"text": text} | ({} if image is None else {"image": image}))
        for image, text in captions
    ]
    return write(path, ("\n".join(lines) + "\n").encode())


def write_seven(root: Path) -> Path:
    """A folder of seven pictures, one twice, and five texts of every kind."""
    for seed in range(6):
        write(root / f"{seed}.png", encoded(seed))
    write(root / "copies" / "again.png", encoded(3))
    write(root / "titled.jpg", titled(7, "what it says of itself"))
    write(root / "0.txt", b"what the sidecar says")
    write_captions(
        root / "captions.jsonl",
        [("1.png", "one"), ("1.png", "another one"), ("2.png", "one"), (None, "of no picture")],
    )
    return root


def run(
    library: Path,
    *targets: Path,
    captions: Sequence[Path] = (),
    model: str | None = None,
    **options: Any,
) -> Report:
    """One indexing run on the CPU, in full precision: scores do not depend on what is batched."""
    options = {"device": "cpu", "dtype": "fp32"} | options
    return index(library, targets, captions, options=Options(model=model, **options))


def found(library: Path, root: Path, queries: Sequence[str | bytes]) -> list[dict[Any, float]]:
    """All that searches find, in a form that two libraries of the same files share.

    For each query, words or the bytes of a picture, two tables: (paths below `root`, captions) →
    score, and (text, pictures) → score.
    """
    with Library(library, device="cpu") as lib:
        return found_in(lib, root, queries)


def found_in(lib: Library, root: Path, queries: Sequence[str | bytes]) -> list[dict[Any, float]]:
    """The same of a library that is open."""
    results: list[dict[Any, float]] = []

    def inside(*paths: str) -> tuple[str, ...]:
        return tuple(sorted(os.path.relpath(path, root) for path in paths))

    for query in queries:
        asked = {"image": query} if isinstance(query, bytes) else {"query": query}
        images = lib.search(**asked, k=10_000)
        texts = lib.search_texts(**asked, k=10_000)
        assert len({hit.image.id for hit in images}) == len(images)
        assert len({hit.text.id for hit in texts}) == len(texts)
        paths = {hit.image.id: inside(hit.image.path, *hit.image.copies) for hit in images}
        results.append(
            {(paths[hit.image.id], tuple(sorted(hit.captions))): hit.score for hit in images}
        )
        results.append(
            {
                (hit.text.body, tuple(sorted(paths[id_] for id_ in hit.text.image_ids))): hit.score
                for hit in texts
            }
        )
    return results


def same(found: list[dict[Any, float]], expected: list[dict[Any, float]]) -> bool:
    """Whether two such lists agree: the same things, with scores within 1e-3."""
    return [table.keys() for table in found] == [table.keys() for table in expected] and all(
        abs(score - theirs[what]) < 1e-3
        for ours, theirs in zip(found, expected, strict=True)
        for what, score in ours.items()
    )


def names(library: Path, query: str = "waves") -> list[str]:
    """Paths of all that a search finds, copies too, from the pictures' folder on."""
    with Library(library, device="cpu") as lib:
        hits = lib.search(query, k=1000)
        paths = [path for hit in hits for path in (hit.image.path, *hit.image.copies)]
    return sorted(path.partition("/photos/")[2] for path in paths)


def texts(library: Path) -> list[str]:
    with Library(library, device="cpu") as lib:
        return sorted(hit.text.body for hit in lib.search_texts("waves", k=1000))


def failures(library: Path) -> dict[str, str]:
    with Library(library) as lib:
        return {f.path.partition("/photos/")[2]: f.reason for f in lib.failures()}


def unchanged(report: Report) -> bool:
    return not report.changed and report.encoded_images == report.encoded_texts == 0


def zip_of(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.png", data)
