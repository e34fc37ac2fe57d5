"""`mmsearch eval`: how right a model's answers are, and a library's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmsearch.cli.options import (
    device_option,
    json_option,
    library_option,
    load_settings,
    open_library,
    print_json,
    printable,
    understood,
)
from mmsearch.encode.published import TEST_PICTURES
from mmsearch.evaluate import KS
from mmsearch.plaintext import both_counted

if TYPE_CHECKING:
    from indexer.datasets import Dataset
    from indexer.evaluate import Report
    from mmsearch.encode.published import Published
    from mmsearch.evaluate import Figures

_SHOWN = 5
_PICTURES = 1000

#: The options that say something of only some of what can be measured on, and of what.
_UNDERSTOOD: dict[str, tuple[str, ...]] = {
    "images": ("coco", "flickr"),
    "split": ("coco", "flickr"),
    "only": ("coco", "flickr", "folder"),
    "most-captions": ("coco", "flickr", "folder"),
    "pictures": ("postcards",),
    "queries": ("postcards", "library"),
    "seed": ("postcards", "library"),
    "device": ("coco", "flickr", "folder", "postcards"),
}

_file = click.Path(path_type=Path, dir_okay=False)
_folder = click.Path(path_type=Path, file_okay=False)


@click.command(short_help="Measure a model on pictures with known answers.")
@click.option("--coco", type=_file, metavar="FILE", help="On COCO: its annotations, with --images.")
@click.option(
    "--flickr",
    type=_file,
    metavar="FILE",
    help="On Flickr8k or Flickr30k: tokens, table, or Karpathy's JSON, with --images.",
)
@click.option(
    "--folder", type=_folder, metavar="DIR", help="On a folder of pictures that have captions."
)
@click.option("--postcards", is_flag=True, help="On drawn scenes, whose contents are known.")
@click.option("--images", type=_folder, metavar="DIR", help="Where the pictures are.")
@click.option("--split", metavar="NAME", help="Of a file with splits, which: test, val, train.")
@click.option(
    "--only", type=_file, metavar="FILE", help="Only pictures named in this list, one a line."
)
@click.option(
    "--most-captions", type=click.IntRange(1), metavar="N", help="Of each picture, so many at most."
)
@click.option(
    "--model", metavar="NAME", help="The model; see: mmsearch models. Not for the library."
)
@click.option(
    "--pictures",
    type=click.IntRange(10),
    help=f"How many postcards.  [default: {_PICTURES}]",
)
@click.option(
    "--queries",
    type=click.IntRange(10),
    default=None,
    help="How many are asked: of the postcards 500, of a library at most 10,000 a direction.",
)
@click.option("--seed", type=click.IntRange(0), help="Other scenes, other queries.  [default: 0]")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw recall over k: .png or .svg.",
)
@json_option
@device_option()
@library_option
def evaluate(
    coco: Path | None,
    flickr: Path | None,
    folder: Path | None,
    postcards: bool,
    images: Path | None,
    split: str | None,
    only: Path | None,
    most_captions: int | None,
    model: str | None,
    pictures: int | None,
    queries: int | None,
    seed: int | None,
    plot: Path | None,
    as_json: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Measure a model on pictures with known answers, or the library on its own captions.

    Without --coco, --flickr, --folder or --postcards it is the library (-l): its stored vectors,
    with the captions linked to its pictures as the truth. Nothing is encoded then, and its index is
    compared with an exact search, and timed.

    \b
      mmsearch eval --coco dataset_coco.json --split test --images ~/coco
      mmsearch eval --flickr results_20130124.token --only test.txt --images ~/flickr30k
      mmsearch eval --folder ~/Photos              sidecars, captions.jsonl
      mmsearch eval --library ~/photos.library     nothing is encoded
      mmsearch eval --postcards                    drawn on the spot

    Both ways: texts look for their pictures, pictures for their texts. Any-hit@k: the share of
    queries with at least one right answer among the first k, which papers print as recall@k; true
    recall@k: the share of a query's right answers found there. Equal scores count against the
    model.

    The postcards are drawn from seeds and combinations of attributes that the training of the
    bundled model never saw; the same model untrained, and a bag of colours, stand beside it. Where
    the model is less often right than the bars say, the exit code is 1; how fast it is only shows.
    """
    possible = {"coco": coco, "flickr": flickr, "folder": folder, "postcards": postcards or None}
    on = [name for name, given in possible.items() if given is not None]
    if len(on) > 1:
        raise click.UsageError(
            "one thing at a time: --coco, --flickr, --folder, --postcards, or none: the library"
        )
    _check_understood(
        on[0] if on else "library",
        {"images": images, "split": split, "only": only, "most-captions": most_captions,
         "pictures": pictures, "queries": queries, "seed": seed, "device": device},
    )  # fmt: skip
    if (coco or flickr) and images is None:
        raise click.UsageError("say where the pictures are: --images DIR")
    if plot is not None:
        from indexer import curves

        if postcards:
            raise click.UsageError("--plot draws no postcards")
        with understood():
            curves.check(plot)
    if postcards:
        from mmsearch.cli.evaluate import postcards as run

        run(
            model or "tiny",
            pictures=pictures or _PICTURES,
            queries=queries or 500,
            seed=seed or 0,
            device=device,
            as_json=as_json,
        )
        return
    if not on:
        if model is not None:
            raise click.UsageError(
                "a library is measured with its own model: leave --model out, or say on what: "
                "--coco, --flickr, --folder, --postcards"
            )
        report = _library(library, queries, seed or 0)
    else:
        report = _dataset(_read(coco, flickr, folder, images, split, only, most_captions),
                          folder is not None, model, device)  # fmt: skip
    if plot is not None:
        curves.draw(plot, f"{report.model} on {report.on}", report.ranks)
    if as_json:
        print_json(report.document())
    else:
        _print(report, plot)


def _check_understood(on: str, given: Mapping[str, object]) -> None:
    """Raises UsageError for an option that says nothing of what is measured on.

    on: the option that names that, or "library". given: the values of the options of _UNDERSTOOD.
    """
    for option, by in _UNDERSTOOD.items():
        if given[option] is not None and on not in by:
            names = ["a library" if name == "library" else f"--{name}" for name in by]
            here = "a library" if on == "library" else f"--{on}"
            raise click.UsageError(f"--{option} goes with {' or '.join(names)}, not with {here}")


def _read(
    coco: Path | None,
    flickr: Path | None,
    folder: Path | None,
    images: Path | None,
    split: str | None,
    only: Path | None,
    most: int | None,
) -> Dataset:
    from indexer.datasets import read_captions, read_folder

    if folder is not None:
        return read_folder(folder, only=only, most=most)
    file = coco or flickr
    assert file is not None
    assert images is not None
    found = read_captions(file, images, split=split, only=only, most=most)
    if coco is not None:
        found.known_as = "coco"
    return found


def _dataset(dataset: Dataset, merge: bool, model: str | None, device: str | None) -> Report:
    from indexer.cli_progress import Bar
    from indexer.evaluate import evaluate_dataset
    from mmsearch.encode import load_encoder

    settings = load_settings()
    name = model or settings.model or "default"
    with Bar() as bar:
        bar.loading_model(name)
        encoder = load_encoder(name, device=device or settings.device)
        return evaluate_dataset(
            dataset, encoder, limits=settings.decode_limits(), merge=merge, progress=bar
        )


def _library(library: Path | None, queries: int | None, seed: int) -> Report:
    from indexer.evaluate import QUERIES, evaluate_library

    with open_library(library) as lib:
        return evaluate_library(lib, queries=queries or QUERIES, seed=seed)


# --- for people ---------------------------------------------------------------------------------


def _print(report: Report, plot: Path | None) -> None:
    console = Console()
    console = Console(width=None if console.is_terminal else 120)
    console.print(_table(report))
    if report.published:
        console.print()
        console.print(_comparison(report))
        for line in _sources(report):
            click.echo(line)
    for what, index in report.index.items():
        click.echo(
            f"index of {what}s: recall@{index.k} {index.recall:.4f} against exact search, "
            f"{index.median_ms:.2f} ms a query (95 %: {index.p95_ms:.2f}); exact "
            f"{index.exact_median_ms:.2f} ms (95 %: {index.exact_p95_ms:.2f})"
        )
    rate = "" if report.pictures_per_s is None else f", {report.pictures_per_s:,.0f} pictures a s"
    where = f" on {report.device} ({report.dtype}){rate}" if report.device else ""
    click.echo(
        f"{printable(report.on)}: {both_counted(report.pictures, report.texts)}; "
        f"{printable(report.model)}{where}; {report.seconds:.1f} s"
    )
    if plot is not None:
        click.echo(f"drawn: {printable(str(plot))}")
    if report.missing:
        _some("pictures that captions name are not there", report.missing)
    if report.bad:
        _some("could not be used", [f"{path}: {reason}" for path, reason in report.bad])


def _some(what: str, lines: list[str]) -> None:
    click.echo(f"{len(lines):,} {what}:", err=True)
    for line in lines[:_SHOWN]:
        click.echo(f"  {printable(line)}", err=True)
    if len(lines) > _SHOWN:
        click.echo(f"  and {len(lines) - _SHOWN:,} more (--json names all)", err=True)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    heads = [f"any-hit@{KS[0]}", *(f"@{k}" for k in KS[1:])]
    heads += [f"true recall@{KS[0]}", *(f"@{k}" for k in KS[1:])]
    for heading in ("queries", "of", *heads, "median rank", "mean rank", "MRR"):
        table.add_column(heading, justify="right")
    for direction, of in (
        ("text → image", report.text_to_image),
        ("image → text", report.image_to_text),
    ):
        table.add_row(Text(direction), *_cells(of))
    return table


def _comparison(report: Report) -> Table:
    """Any-hit@k of this run above what is published of its model and of the presets."""
    table = Table(box=None, pad_edge=False)
    table.add_column("any-hit, %", no_wrap=True)
    for direction in ("text → image", "image → text"):
        for heading in (f"{direction} @{KS[0]}", *(f"@{k}" for k in KS[1:])):
            table.add_column(heading, justify="right")

    def add(label: str, shares: list[float | None]) -> None:
        table.add_row(Text(label), *("" if s is None else f"{s:.1f}" for s in shares))

    ways = (report.text_to_image, report.image_to_text)
    add(f"{printable(report.model)}, here", [100 * of.any_hit[k] for of in ways for k in KS])
    for one in _beside(report):
        add(f"{one.model}, published", [*one.text_to_image, *one.image_to_text])
    return table


def _sources(report: Report) -> list[str]:
    """Where the published figures are from, and on what."""
    by_source: dict[str, list[str]] = {}
    for one in _beside(report):
        by_source.setdefault(one.source, []).append(one.model)
    dataset = report.published[0].dataset
    return [
        f"published on {TEST_PICTURES[dataset]:,} pictures, Karpathy's test split; this run: "
        f"{report.pictures:,}",
        *(f"  {source}: {', '.join(models)}" for source, models in by_source.items()),
    ]


def _cells(of: Figures) -> list[str]:
    return [
        f"{of.queries:,}",
        f"{of.corpus:,}",
        *(f"{100 * of.any_hit[k]:.1f}" for k in KS),
        *(f"{100 * of.true_recall[k]:.1f}" for k in KS),
        f"{of.median_rank:g}",
        f"{of.mean_rank:.1f}",
        f"{of.mrr:.3f}",
    ]


def _beside(report: Report) -> list[Published]:
    """The model's own published figures, or else those of the presets."""
    from mmsearch.encode.presets import PRESETS

    own = [one for one in report.published if one.model == report.model]
    presets = {preset.spec for preset in PRESETS.values()}
    return own + [
        one for one in report.published if one.model in presets and one.model != report.model
    ]
