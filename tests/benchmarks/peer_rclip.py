"""rclip in an environment of its own, with a model of random weights in its data folder."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import Ran, run
from materials import unit_vectors

VERSION = "3.3.0"
#: The one model that rclip has.
ARCHITECTURE = "ViT-B-32-256"
_MODEL_FOLDER = "ViT-B-32-256-datacomp_s34b_b86k"
_DIM = 512


def install(folder: Path, requirement: str, *more: str) -> Path:
    """The commands of a package from the package index, in an environment of its own, kept."""
    if not (folder / "installed").exists():
        print(f"installing {requirement} into {folder}", file=sys.stderr, flush=True)
        run([sys.executable, "-m", "venv", "--clear", folder])
        # Its own packages come first; torch, gigabytes of it, is taken from here.
        here = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        if more:
            (here / "shared.pth").write_text(str(Path(np.__file__).parents[1]) + "\n")
        run([folder / "bin/python", "-m", "pip", "install", "--quiet", requirement, *more])
        (folder / "installed").touch()
    return folder / "bin"


@dataclass(frozen=True, slots=True)
class Rclip:
    """rclip and its data folder, in which models and vectors lie."""

    command: Path
    data: Path

    def index(self, pictures: Path) -> Ran:
        """What it does first of all: it always searches, too."""
        return self._run(pictures, "a dog running on the grass")

    def search(self, pictures: Path, query: str, *flags: str, check: bool = True) -> Ran:
        return self._run(pictures, query, "--no-indexing", *flags, check=check)

    def start(self, pictures: Path) -> subprocess.Popen[bytes]:
        """Indexing as a process that the caller kills."""
        return subprocess.Popen(
            [self.command, "a dog"],
            cwd=pictures,
            env=self._env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _run(self, pictures: Path, query: str, *flags: str, check: bool = True) -> Ran:
        return run([self.command, query, *flags], cwd=pictures, env=self._env(), check=check)

    def _env(self) -> dict[str, str]:
        return {"RCLIP_DATADIR": str(self.data), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}

    def vectors(self) -> dict[str, np.ndarray]:
        """The vectors it holds, by path."""
        with closing(sqlite3.connect(self.data / "db.sqlite3")) as connection:
            rows = connection.execute("SELECT filepath, vector FROM images WHERE deleted IS NULL")
            return {path: np.frombuffer(vector, np.float32) for path, vector in rows}

    def fresh(self, data: Path) -> Rclip:
        """The same with another data folder: the same models, no vectors."""
        if data.exists():
            shutil.rmtree(data)
        data.mkdir(parents=True)
        for name in (_MODEL_FOLDER, "tokenizer"):
            (data / name).symlink_to((self.data / name).absolute())
        return Rclip(self.command, data)

    def filled(self, data: Path, items: int, root: Path) -> Rclip:
        """A data folder with so many random vectors of pictures that claim to lie in `root`."""
        made = Rclip(self.command, data)
        if (data / "complete").exists():
            return made
        made = self.fresh(data)
        root.mkdir(parents=True, exist_ok=True)
        made.search(root, "a dog")  # makes its tables
        with closing(sqlite3.connect(data / "db.sqlite3")) as connection:
            for start in range(0, items, 10_000):
                numbers = range(start, min(items, start + 10_000))
                xb = unit_vectors(len(numbers), _DIM, start)
                connection.executemany(
                    "INSERT INTO images (filepath, modified_at, size, vector, hash) "
                    "VALUES (?, 1.0, 4194304, ?, ?)",
                    (
                        (
                            str(root / f"{n // 1000:04}/picture {n:07}.jpg"),
                            vector.tobytes(),
                            f"{n:064x}",
                        )
                        for n, vector in zip(numbers, xb, strict=True)
                    ),
                )
            connection.commit()
        (data / "complete").touch()
        return made


def rclip(work: Path, model: Path) -> Rclip:
    """rclip with the weights of an mmsearch model folder of the same architecture."""
    commands = install(work / "rclip-venv", f"rclip=={VERSION}")
    data = work / "rclip-data"
    if not (data / "complete").exists():
        # torch writes ONNX with the help of a package that nothing else here needs.
        if not (work / "onnx").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet"]
            run([*pip, "--target", work / "onnx", "onnx"])
        sys.path.append(str(work / "onnx"))
        _export(model, data / _MODEL_FOLDER)
        import open_clip

        vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
        (data / "tokenizer").mkdir(parents=True, exist_ok=True)
        shutil.copy(vocabulary, data / "tokenizer")
        (data / "complete").touch()
    return Rclip(commands / "rclip", data)


def _export(model: Path, folder: Path) -> None:
    """Both towers as ONNX, with the inputs and the output that rclip reads."""
    import open_clip
    import torch
    from safetensors.torch import load_file

    class Tower(torch.nn.Module):
        def __init__(self, encode: torch.nn.Module, name: str) -> None:
            super().__init__()
            self.network = encode
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            encoded: torch.Tensor = getattr(self.network, self.name)(x)
            return encoded

    network = open_clip.create_model(ARCHITECTURE, pretrained=None)
    network.load_state_dict(load_file(model / "open_clip_model.safetensors"))
    network.eval()
    folder.mkdir(parents=True, exist_ok=True)
    side = open_clip.get_model_config(ARCHITECTURE)["vision_cfg"]["image_size"]
    examples = {
        "visual": ("encode_image", torch.zeros(2, 3, side, side)),
        "textual": ("encode_text", torch.zeros(2, 77, dtype=torch.int64)),
    }
    for name, (method, example) in examples.items():
        torch.onnx.export(
            Tower(network, method).eval(),
            (example,),
            folder / f"{name}.onnx",
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
