"""From files to vectors in the catalog: how much of the model's own speed an indexing run keeps.

    python tests/benchmarks/pipeline.py [--quick] [--only whole large ...] [--device cpu]
        [--work DIR] [--out FILE] [--plot FILE]

Parts (all of them, unless `--only` names some):

    core     decode and resize on one core, against open_clip's own preprocessing
    vectors  cosine of the vectors to those of the reference preprocessing
    whole    an indexing run of 1,000 photographs, against decoding alone and encoding alone
    large    runs of 12-megapixel JPEGs, against the same run with the reference preprocessing
    formats  the same by size and format of the pictures, without bars
    memory   the most memory that a run takes, for few and for many small pictures

ViT-B-32 has random weights, as nothing can be downloaded where this runs: speeds are the same.
What is compared is measured in turn, and the ratios are taken within each turn: medians of those.
Exit code 1 when a figure misses its bar.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import numpy as np
import open_clip
import torch
from figures import Bar, Table
from materials import different_files, photographs, small_pictures, untrained
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from indexer import ingest
from indexer.clock import Clock, Laps
from indexer.ingest import Options
from indexer.load import Loader
from indexer.models import Models
from indexer.prepare import DECODING, Job, Read, Seen, Stage
from mmsearch.decode import decode
from mmsearch.encode import Encoder, load_encoder
from mmsearch.types import DEFAULT_LIMITS

PARTS = ("core", "vectors", "whole", "large", "formats", "memory")
ARCHITECTURE = "ViT-B-32"
SIZES_MP = (0.2, 2.0, 12.0, 48.0)
FORMATS = ("JPEG", "PNG", "HEIC", "WebP")
#: Pictures a run of `formats`, by megapixels: enough to fill the pipeline, or some seconds' work.
RUN_OF = {0.2: 64, 2.0: 48, 12.0: 16, 48.0: 4}

WHOLE_CPU = Bar(0.95)
WHOLE_GPU = Bar(0.85)
LARGE = Bar(1.9)
CORE = Bar(2.4)
COSINE_MEDIAN = Bar(0.998)
COSINE_LOW = Bar(0.99)
MEMORY = Bar(1.10, more=False)


# --- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rates:
    """Pictures a second: threads decoding alone, the model alone, the run. clock: of the run."""

    decode: float
    encode: float
    whole: float
    clock: Clock

    @property
    def bound(self) -> float:
        """What both can do that share the same cores: every picture is decoded and encoded."""
        return 1 / (1 / self.encode + 1 / self.decode)

    @property
    def slower(self) -> float:
        return min(self.encode, self.decode)


def decode_rate(files: Sequence[Path], encoder: Encoder) -> float:
    """Reading, hashing, decoding, resizing, pictures a second; in threads or processes, as a run
    with this encoder has them."""
    loader = Loader(
        lambda: encoder,
        lambda _: None,
        limits=DEFAULT_LIMITS,
        processes=None,
        knows_any=lambda: False,
    )
    with closing(loader):
        for _ in loader.load((Job(str(f), str(f)) for f in files[:64]), 64):
            pass  # what starts with the first pictures has started
        began = time.perf_counter()
        good = 0
        for item in loader.load((Job(str(f), str(f)) for f in files), 1024):
            good += item.pixels is not None
        assert good == len(files)
        return good / (time.perf_counter() - began)


def encode_rate(encoder: Encoder, seconds: float = 4.0) -> float:
    """The model on pictures that lie ready, in batches as it wants them, pictures a second."""
    size = encoder.image_size
    noise = np.random.default_rng(0).integers(0, 256, (2048, 3, size, size), dtype=np.uint8)

    def given(until: float) -> Iterator[np.ndarray]:
        while time.perf_counter() < until:
            yield noise[: encoder.batch_size]

    for _ in encoder.encode_batches(given(time.perf_counter() + seconds / 2)):
        pass  # finds the size of its batches
    began = time.perf_counter()
    count = sum(len(v) for v in encoder.encode_batches(given(began + seconds)))
    return count / (time.perf_counter() - began)


class Kept(Models):
    """Models for runs that are to use this one: loading it is not what is measured."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._kept = encoder

    def load(self, model: str, **_: Any) -> Encoder:
        return self._kept


def run(
    files: Path, encoder: Encoder, model: str, work: Path, *, reference: bool = False
) -> tuple[int, float, Clock]:
    """One indexing run into a new library: pictures, seconds from its scan to its last commit, and
    where they went. The index files, written once at the end, are not among them."""
    library = work / "run-library"
    shutil.rmtree(library, ignore_errors=True)
    clock = Clock()
    options = Options(model=model, reference=reference, decode_processes=None)
    report = ingest.index(library, [files], options=options, models=Kept(encoder), clock=clock)
    seconds = report.seconds - clock.seconds["index"]
    shutil.rmtree(library)
    if report.failed or report.encoded_images != report.files:
        raise SystemExit(f"not all pictures were encoded: {report}")
    return report.encoded_images, seconds, clock


def rates(folder: Path, encoder: Encoder, model: str, work: Path) -> Rates:
    """All three, one after the other."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    alone = decode_rate(files, encoder), encode_rate(encoder)
    count, seconds, clock = run(folder, encoder, model, work)
    return Rates(*alone, count / seconds, clock)


def preprocess_of(encoder_size: int) -> Any:
    """open_clip's own, from a Pillow picture to a tensor."""
    cfg = PreprocessCfg(
        size=encoder_size, interpolation="bicubic", resize_mode="shortest", fill_color=0
    )
    return image_transform_v2(cfg, is_train=False)


def one_core(data: Sequence[bytes], encoder: Encoder, repeats: int) -> dict[str, list[float]]:
    """Pictures a second of one thread, in turn: ours (with what it finds out about the file besides
    its pixels), open_clip's."""
    theirs = preprocess_of(encoder.image_size)

    def ours(picture: bytes) -> None:
        pixels = decode(picture, source="", min_side=2 * encoder.image_size).pixels
        encoder.preprocess(pixels)

    ways: dict[str, Callable[[bytes], object]] = {
        "mmsearch": ours,
        "open_clip": lambda picture: theirs(Image.open(io.BytesIO(picture))),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(repeats + 1):
            for name, way in ways.items():
                began = time.thread_time()
                for picture in data:
                    way(picture)
                if turn:  # the first warms up
                    found[name].append(len(data) / (time.thread_time() - began))
    finally:
        torch.set_num_threads(before)
    return found


def cosines(files: Sequence[Path], model: str, device: str) -> np.ndarray:
    """Of each picture's vector with that of the reference preprocessing, both in full precision."""
    vectors = []
    for reference in (False, True):
        encoder = load_encoder(model, device=device, dtype="fp32", reference=reference)
        loader = Loader(
            lambda encoder=encoder: encoder,  # type: ignore[misc]
            lambda _: None,
            limits=DEFAULT_LIMITS,
            reference=reference,
        )
        items = list(loader.load((Job(str(f), str(f)) for f in files), 32))
        squares = np.stack([i.pixels for i in items if i.pixels is not None])
        parts = [squares[at : at + 32] for at in range(0, len(squares), 32)]
        vectors.append(np.concatenate(list(encoder.encode_batches(parts))))
    found: np.ndarray = (vectors[0] * vectors[1]).sum(axis=1)
    return found


def peak_of_run(pictures: int, model: str, work: Path) -> tuple[int, float]:
    """The most memory that `mmsearch index` of so many small pictures takes, in bytes, as a process
    of its own; and its pictures a second."""
    folder = small_pictures(pictures, work / f"small-{pictures}", side=64)
    library = work / "memory-library"
    shutil.rmtree(library, ignore_errors=True)
    ran = figures.run(
        [sys.executable, "-m", "mmsearch", "-l", library, "index", folder,
         "--model", model, "--device", "cpu", "--json"]
    )  # fmt: skip
    report = json.loads(ran.stdout)
    assert report["encoded_images"] == pictures, report
    shutil.rmtree(library)
    return ran.peak_bytes, pictures / report["picture_seconds"]


# --- what it is measured on -----------------------------------------------------------------------


def picture_of(kind: str, megapixels: float, number: int) -> bytes:
    """A photograph enlarged to so many megapixels, 4:3, with grain as a sensor has it."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5 / 16) * 16
    photo = Image.open(photographs()[number]).convert("RGB")
    large = np.asarray(photo.resize((width, width * 3 // 4), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(number).integers(-6, 7, (256, 256, 1), dtype=np.int16)
    tiles = np.tile(grain, (large.shape[0] // 256 + 1, large.shape[1] // 256 + 1, 1))
    noisy = np.clip(large.astype(np.int16) + tiles[: large.shape[0], : large.shape[1]], 0, 255)
    out = io.BytesIO()
    image = Image.fromarray(noisy.astype(np.uint8))
    if kind == "HEIC":
        import pillow_heif

        options = {"quality": 60, "enc_params": {"preset": "ultrafast"}}
        pillow_heif.from_pillow(image).save(out, **options)
    else:
        options = {
            "JPEG": {"quality": 88},
            "PNG": {"compress_level": 1},
            "WebP": {"quality": 80, "method": 0},
        }[kind]
        image.save(out, kind, **options)
    return out.getvalue()


def folder_of(kind: str, megapixels: float, count: int, work: Path) -> Path:
    """A folder of so many such files, made of a few, no two with the same bytes."""
    suffix = {"JPEG": "jpg", "PNG": "png", "HEIC": "heic", "WebP": "webp"}[kind]
    made = work / "pictures" / f"{kind}-{megapixels:g}"
    made.mkdir(parents=True, exist_ok=True)
    few = 4 if megapixels <= 12 else 1
    originals = []
    for number in range(few):
        path = made / f"{number}.{suffix}"
        if not path.exists():
            path.write_bytes(picture_of(kind, megapixels, number))
        originals.append(path)
    folder = work / "pictures" / f"{kind}-{megapixels:g}-x{count}"
    if kind == "JPEG":
        return different_files(originals, count, folder)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for number in range(count):
        data = originals[number % few].read_bytes()
        # After the end of a PNG or a WebP nobody reads; in a HEIC, a box that says it is free.
        note = number.to_bytes(8, "big")
        box = (16).to_bytes(4, "big") + b"free" + note if kind == "HEIC" else note
        (folder / f"{number:04}.{suffix}").write_bytes(data + box)
    return folder


def small_model(work: Path) -> str:
    """A model that costs next to nothing: what grows with the pictures is to be seen."""
    folder = work / "models" / "small"
    if not (folder / "open_clip_config.json").exists():
        from safetensors.torch import save_file

        torch.manual_seed(0)
        config = {
            "embed_dim": 256,
            "vision_cfg": {
                "image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16,
            },
            "text_cfg": {
                "context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
            },
        }  # fmt: skip
        network = open_clip.CLIP(**json.loads(json.dumps(config)))
        folder.mkdir(parents=True)
        state = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        about = {"model_cfg": config, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    return f"local-dir:{folder.absolute()}"


# --- the parts ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bench:
    work: Path
    device: str
    quick: bool
    series: dict[str, list[tuple[float, float]]]

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 3

    def model(self, name: str) -> str:
        if name == "tiny":
            return name
        return untrained(ARCHITECTURE, self.work / "models" / ARCHITECTURE)

    def core(self) -> Table:
        table = Table("decode and resize, one core, pictures a second")
        encoder = load_encoder(self.model(ARCHITECTURE), device="cpu")
        data = [path.read_bytes() for path in photographs()]
        _both(table, "photographs", one_core(data, encoder, 2 * self.repeats + 1), CORE)
        for size in SIZES_MP[: 2 if self.quick else 4]:
            few = [picture_of("JPEG", size, number) for number in range(4 if size < 12 else 2)]
            _both(table, f"JPEG, {size:g} MP", one_core(few, encoder, self.repeats))
        return table

    def vectors(self) -> Table:
        table = Table("cosine of vectors to those of the reference preprocessing")
        large = folder_of("JPEG", 12.0, 8, self.work)
        for name in (ARCHITECTURE, "tiny"):
            for what, files in (
                ("photographs", photographs()),
                ("JPEG, 12 MP", sorted(large.iterdir())[:4]),
            ):
                found = cosines(files, self.model(name), self.device)
                table.add(f"{name}, {what}: median", float(np.median(found)), form=".5f",
                          bar=COSINE_MEDIAN)  # fmt: skip
                table.add(f"{name}, {what}: 1st percentile", float(np.quantile(found, 0.01)),
                          form=".5f", bar=COSINE_LOW)  # fmt: skip
        return table

    def whole(self) -> Table:
        count = 250 if self.quick else 1000
        table = Table(f"{count:,} photographs, pictures a second")
        folder = different_files(photographs(), count, self.work / f"photos-{count}")
        for name in (ARCHITECTURE, "tiny"):
            model = self.model(name)
            encoder = load_encoder(model, device=self.device)
            gpu = encoder.device != "cpu"
            encode_rate(encoder)
            turns = [rates(folder, encoder, model, self.work) for _ in range(self.repeats)]
            about = f"{name} ({encoder.dtype}, batches of {encoder.batch_size}, {encoder.device})"
            _three(table, about, turns)
            table.add("  whole / 1/(1/encode + 1/decode)",
                      statistics.median(t.whole / t.bound for t in turns),
                      bar=WHOLE_CPU if name == ARCHITECTURE and not gpu else None)  # fmt: skip
            table.add("  whole / slower of the two",
                      statistics.median(t.whole / t.slower for t in turns),
                      bar=WHOLE_GPU if name == ARCHITECTURE and gpu else None)  # fmt: skip
            print(turns[-1].clock.table(count / turns[-1].whole))
        return table

    def large(self) -> Table:
        count = 16 if self.quick else 64
        table = Table(
            f"{count} JPEGs of 12 megapixels, runs with {ARCHITECTURE}, pictures a second"
        )
        folder = folder_of("JPEG", 12.0, count, self.work)
        model = self.model(ARCHITECTURE)
        encoder = load_encoder(model, device=self.device)
        exact = load_encoder(model, device=self.device, reference=True)
        for one in (encoder, exact):
            encode_rate(one)
        found: dict[str, list[float]] = {"ours": [], "open_clip": [], "switch": []}
        for _ in range(self.repeats):
            for name, one, loader in (
                ("ours", encoder, Loader),
                ("open_clip", exact, OpenClipLoader),
                ("switch", exact, Loader),
            ):
                ingest.Loader = loader  # type: ignore[attr-defined]
                try:
                    done, seconds, _ = run(
                        folder, one, model, self.work, reference=name == "switch"
                    )
                finally:
                    ingest.Loader = Loader  # type: ignore[attr-defined]
                found[name].append(done / seconds)
        table.add("mmsearch", statistics.median(found["ours"]))
        table.add("reference: Pillow decodes and resizes, as open_clip does",
                  statistics.median(found["open_clip"]))  # fmt: skip
        table.add("--reference-preprocessing", statistics.median(found["switch"]))
        pairs = zip(found["ours"], found["open_clip"], strict=True)
        table.add("mmsearch / reference", statistics.median(a / b for a, b in pairs), bar=LARGE)
        pairs = zip(found["ours"], found["switch"], strict=True)
        table.add(
            "mmsearch / --reference-preprocessing", statistics.median(a / b for a, b in pairs)
        )
        return table

    def formats(self) -> Table:
        table = Table("by size and format, pictures a second")
        for name in (ARCHITECTURE, "tiny"):
            model = self.model(name)
            encoder = load_encoder(model, device=self.device)
            encode = encode_rate(encoder)
            table.add(f"{name}: encoding alone", encode)
            for kind in FORMATS:
                for size in SIZES_MP[: 2 if self.quick else 4]:
                    folder = folder_of(kind, size, RUN_OF[size], self.work)
                    files = sorted(folder.iterdir())
                    decode_rate(files[:4], encoder)
                    alone = decode_rate(files, encoder)
                    count, seconds, _ = run(folder, encoder, model, self.work)
                    bound = 1 / (1 / alone + 1 / encode)
                    table.add(
                        f"{name}, {kind}, {size:g} MP",
                        count / seconds,
                        note=f"decoding alone {alone:,.1f}, both {bound:,.1f}: "
                        f"{count / seconds / bound:.0%}",
                    )
                    self.series.setdefault(f"{name}, {kind}", []).append((size, count / seconds))
                    if name == ARCHITECTURE:
                        self.series.setdefault(f"decode, {kind}", []).append((size, alone))
        return table

    def memory(self) -> Table:
        few, many = (500, 5000) if self.quick else (1000, 100_000)
        table = Table("most memory of `mmsearch index`, small pictures, a small model")
        model = small_model(self.work)
        peaks = {}
        for count in (few, many):
            peaks[count], rate = peak_of_run(count, model, self.work)
            table.add(f"{count:,} pictures", peaks[count] / 1e6, "MB", form=",.0f",
                      note=f"{rate:,.0f} a second")  # fmt: skip
        table.add(f"{many:,} / {few:,}", peaks[many] / peaks[few], bar=MEMORY, form=".3f")
        return table


class OpenClipLoader(Loader):
    """Pictures as open_clip's users read them, and nothing is found out about the file besides."""

    def _look_at(self, got: Read, stage: Stage, laps: Laps) -> Seen:
        stage(DECODING)
        image = Image.open(io.BytesIO(got.data)).convert("RGB")
        laps.lap("decode")
        pixels = self._encoder().preprocess(np.asarray(image))
        laps.lap("resize")
        info = decode(_PIXEL, source="").info
        return info, pixels


def _pixel() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    return out.getvalue()


_PIXEL = _pixel()


def _both(table: Table, what: str, found: dict[str, list[float]], bar: Bar | None = None) -> None:
    for name, rate in found.items():
        table.add(f"{what}: {name}", statistics.median(rate), form=",.1f")
    pairs = zip(found["mmsearch"], found["open_clip"], strict=True)
    table.add(f"{what}: ratio", statistics.median(a / b for a, b in pairs), bar=bar)


def _three(table: Table, about: str, turns: Sequence[Rates]) -> None:
    for what in ("decode", "encode", "whole"):
        values = [getattr(turn, what) for turn in turns]
        named = {"decode": "decoding alone", "encode": "encoding alone", "whole": "the whole run"}
        table.add(f"{about}: {named[what]}", statistics.median(values), form=",.1f")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="small numbers, about a minute")
    parser.add_argument("--work", type=Path, help="where to put what it makes (kept, used again)")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--plot", type=Path, help="draw the rates by size and format there")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="mmsearch-pipeline-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(work, options.device, options.quick, {})
        parts = [part for part in PARTS if part in options.only]
        tables = [getattr(bench, part)() for part in parts]
    finally:
        if options.work is None:
            shutil.rmtree(work)
    if options.plot and bench.series:
        figures.plot(options.plot, bench.series, title="Indexing, pictures a second",
                     x="megapixels", y="pictures a second")  # fmt: skip
    return figures.finish(tables, options.out, {"device": options.device, "series": bench.series})


if __name__ == "__main__":
    sys.exit(main())
