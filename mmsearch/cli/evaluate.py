"""`mmsearch eval --postcards`; the command itself is in indexer.cli_evaluate."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from mmsearch.batches import batches
from mmsearch.cli.options import load_settings, print_json
from mmsearch.plaintext import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from mmsearch.encode import Encoder
    from mmsearch.postcards.evaluate import PostcardReport
    from mmsearch.types import Vectors

#: Repeats of the speed measurement; the median counts.
_REPEATS = 5


def postcards(
    model: str, *, pictures: int, queries: int, seed: int, device: str | None, as_json: bool
) -> None:
    """Measures a model on drawn scenes, whose contents are known, and prints the table.

    Ends with exit code 1 where it is less often right than the bars say.
    """
    from mmsearch.encode import load_encoder
    from mmsearch.encode.untrained import write_untrained
    from mmsearch.postcards.evaluate import MEASURES, evaluate_postcards

    # Loaded twice: the first time imports the libraries, the second is the loading itself.
    where = device or load_settings().device
    load_encoder(model, device=where)
    started = perf_counter()
    encoder = load_encoder(model, device=where)
    load_s = perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        write_untrained(model, Path(folder))
        untrained = load_encoder(f"local-dir:{folder}", device=where)
        report = evaluate_postcards(
            lambda images: encode_pictures(encoder, images),
            encoder.encode_texts,
            pictures=pictures,
            queries=queries,
            seed=seed,
            random_weights=(
                lambda images: encode_pictures(untrained, images),
                untrained.encode_texts,
            ),
            images_per_s=_speed(encoder),
            load_s=load_s,
        )
    wrong = report.wrong()
    if as_json:
        about = {"device": encoder.device, "dtype": encoder.dtype, "missed": report.missed()}
        print_json(asdict(report) | about)
    else:
        _print(report, model, f"seed {seed}; {encoder.device}, {encoder.dtype}")
        if wrong:
            names = "; ".join(MEASURES[name][0] for name in wrong)
            click.echo(f"below the bar: {names}", err=True)
    if wrong:
        sys.exit(1)


def _print(report: PostcardReport, model: str, about: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("measure", "bar", model, "untrained", "bag of colours"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for row in report.rows():
        table.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 120).print(table)
    click.echo(
        f"{counted(report.pictures, 'picture')}, {counted(report.queries, 'query', 'queries')}, "
        f"{about}"
    )


def encode_pictures(encoder: Encoder, images: Sequence[Image]) -> Vectors:
    """Vectors (n, dim) of decoded pictures, by the way that indexing takes."""
    import numpy as np

    prepared = [encoder.preprocess(np.asarray(image)) for image in images]
    stacks = (np.stack(part) for part in batches(prepared, encoder.batch_size))
    return np.concatenate(list(encoder.encode_batches(stacks)))


def _speed(encoder: Encoder) -> float:
    """Decoded pictures a second through the model, the median of some batches' worth."""
    import numpy as np

    side = encoder.image_size
    rng = np.random.default_rng(0)
    batch: NDArray[np.uint8] = rng.integers(
        0, 256, (encoder.batch_size, 3, side, side), dtype=np.uint8
    )
    encoder.encode_images(batch)
    taken = []
    for _ in range(_REPEATS):
        started = perf_counter()
        for _ in range(8):
            encoder.encode_images(batch)
        taken.append(perf_counter() - started)
    return 8 * len(batch) / sorted(taken)[_REPEATS // 2]
