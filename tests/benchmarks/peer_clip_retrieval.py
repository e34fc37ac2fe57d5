"""clip-retrieval in an environment of its own, with the same random weights.

As installed it does not start: it needs the `pkg_resources` of an older setuptools, which is put
beside it. torch is taken from the environment that runs this. Where it fails, the table says how.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
from figures import Table, run
from materials import unit_vectors
from peer_rclip import ARCHITECTURE, install

VERSION = "2.45.0"
NAME = f"clip-retrieval {VERSION}"
_DIM = 512
#: It warms up with two batches of pictures and two of texts: at 256, as shipped, that would take
#: longer on a CPU than all the rest.
_BATCH = 32
_READY_S = 240
_PORT = 18_237


def _command(work: Path) -> Path:
    folder = work / "clip-retrieval-venv"
    return install(folder, f"clip-retrieval=={VERSION}", "setuptools<81") / "clip-retrieval"


def _model(folder: Path) -> str:
    return f"open_clip:{ARCHITECTURE}/{folder / 'open_clip_model.safetensors'}"


_ENV = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}


def index(table: Table, work: Path, model: Path, pictures: Path, ours: float) -> None:
    """Adds to the table how fast it encodes the pictures. ours: pictures a second."""
    count = len(list(pictures.iterdir()))
    out = work / "clip-retrieval-out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        command = _command(work)
        ran = run(
            [
                command, "inference", "--input_dataset", pictures, "--output_folder", out,
                "--clip_model", _model(model), "--enable_text", "False",
                "--batch_size", str(_BATCH),
            ],
            env=_ENV, limit_s=300,
        )  # fmt: skip
        held = np.load(out / "img_emb/img_emb_0.npy")
        if len(held) != count:
            raise SystemExit(f"it encoded {len(held)} of {count} pictures")
    except (SystemExit, OSError) as exc:
        table.add(NAME, None, note=_why(exc))
        return
    rate = count / ran.seconds
    table.add(f"{NAME} (fp32, batches of {_BATCH}), vectors only", rate, "/s", form=".1f")
    table.add("  mmsearch / clip-retrieval", ours / rate, "x")


def search(table: Table, work: Path, model: Path, items: int) -> None:
    """Adds how long its service takes to be ready for so many vectors, and to answer one query."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = work / f"clip-retrieval-{items}"
    try:
        command = _command(work)
        if not (made / "index/image.index").exists():
            shutil.rmtree(made, ignore_errors=True)
            for name in ("img_emb", "metadata", "index"):
                (made / "embeddings" / name).mkdir(parents=True)
            np.save(
                made / "embeddings/img_emb/img_emb_0.npy",
                unit_vectors(items, _DIM, 0).astype(np.float16),
            )
            paths = [f"/photos/picture {n:07}.jpg" for n in range(items)]
            pq.write_table(
                pa.table({"image_path": paths}), made / "embeddings/metadata/metadata_0.parquet"
            )
            run([command, "index", made / "embeddings", made / "index"], env=_ENV, limit_s=300)
        indices = made / "indices.json"
        indices.write_text(json.dumps({"photos": str(made / "index")}), encoding="utf-8")
        ready, query = _ask(command, indices, _model(model))
    except (SystemExit, OSError) as exc:
        table.add(NAME, None, note=_why(exc))
        return
    table.add(f"{NAME}: no search command; service ready after", ready, "s", form=".1f")
    table.add("  one query over HTTP (fp32, index by autofaiss)", query, "s", form=".4f")


def _ask(command: Path, indices: Path, model: str) -> tuple[float, float]:
    """Seconds until the service answers, and of a query after that."""
    log = indices.with_name("back.log")
    started = time.perf_counter()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [
                str(command), "back", "--indices_paths", str(indices), "--port", str(_PORT),
                "--clip_model", model, "--use_jit", "False", "--enable_mclip_option", "False",
                "--provide_aesthetic_embeddings", "False", "--columns_to_return", '["image_path"]',
            ],
            stdout=output, stderr=subprocess.STDOUT, env=os.environ | _ENV,
        ) as process,
    ):  # fmt: skip
        try:
            while True:
                if process.poll() is not None or time.perf_counter() - started > _READY_S:
                    raise SystemExit(log.read_text(errors="replace")[-2000:] or "no answer")
                with contextlib.suppress(OSError):
                    _post()
                    break
                time.sleep(0.2)
            ready = time.perf_counter() - started
            took = []
            for _ in range(7):
                began = time.perf_counter()
                _post()
                took.append(time.perf_counter() - began)
            return ready, sorted(took)[len(took) // 2]
        finally:
            process.kill()


def _post() -> None:
    asked = {
        "text": "a dog running on the grass", "modality": "image", "num_images": 10,
        "indice_name": "photos", "use_mclip": False, "deduplicate": False,
        "use_safety_model": False, "use_violence_detector": False,
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{_PORT}/knn-service",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        if not json.load(answer):
            raise SystemExit("it found nothing")


def _why(exc: BaseException) -> str:
    """The last line of what went wrong."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"left out: {lines[-1][:150] if lines else type(exc).__name__}"
