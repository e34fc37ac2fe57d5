"""What the tests of the service are made of: drawn pictures, a small model, checks of answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

#: Where the tests' service stands; the guard lets only loopback names in.
BASE_URL = "http://127.0.0.1"

COLOURS = ("crimson", "orange", "gold", "olive", "teal", "navy", "orchid", "sienna")
SHAPES = ("ellipse", "rectangle", "line")
PICTURES = [(colour, shape) for colour in COLOURS for shape in SHAPES]

_MODEL = {
    "embed_dim": 48,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 64,
        "heads": 4,
        "layers": 2,
    },
}


def draw(colour: str, shape: str, size: tuple[int, int] = (200, 140)) -> Image.Image:
    """A picture of one shape in one colour."""
    image = Image.new("RGB", size, "ivory")
    box = (size[0] // 5, size[1] // 5, size[0] * 4 // 5, size[1] * 4 // 5)
    pen = ImageDraw.Draw(image)
    if shape == "line":
        pen.line(box, fill=colour, width=9)
    else:
        getattr(pen, shape)(box, fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def save_model(folder: Path) -> None:
    """A small CLIP of random, but always the same, weights, for `local-dir:`."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.CLIP(**json.loads(json.dumps(_MODEL)))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.02 * noise if "embedding" not in name else 0.1 * noise
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": _MODEL, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def save_pictures(folder: Path) -> None:
    """24 captioned pictures, and some that are special by name, format, tags or number."""
    folder.mkdir()
    lines = []
    for n, (colour, shape) in enumerate(PICTURES):
        name = f"{colour}-{shape}.png"
        draw(colour, shape, (160 + 40 * (n % 4), 140 + 30 * (n % 3))).save(folder / name)
        lines.append({"image": name, "text": f"a {colour} {shape} on ivory"})
    lines.append({"image": "crimson-line.png", "text": "a second text for the crimson line"})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "copy of teal ellipse.png").write_bytes((folder / "teal-ellipse.png").read_bytes())
    odd = folder / 'räksmörgås "1"; x=y.jpg'
    exif = Image.Exif()
    exif[0x0110] = "Testcam 3000"
    exif[0x0112] = 6  # lies on its side
    exif.get_ifd(0x8769)[0x9003] = "2021:06:05 12:34:56"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 21.0, 0.0)})
    draw("black", "line", (120, 80)).save(odd, exif=exif)
    draw("purple", "ellipse", (90, 70)).save(folder / "scan.tiff")
    draw("maroon", "line", (90, 70)).save(folder / "away.webp", lossless=True)


#: `mmsearch serve`, without the command line: the library, the port.
SERVE = """
import sys
import mmsearch
from mmsearch.serve import run
from mmsearch.settings import Settings

with mmsearch.open(sys.argv[1], device="cpu") as library:
    run(library, Settings(), port=int(sys.argv[2]), on_ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


def is_problem(response: Any, status: int) -> dict[str, Any]:
    """Checks that an answer is a problem (RFC 9457) of this status; its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["type"] == "about:blank" or body["type"].startswith("urn:mmsearch:problem:")
    return body
