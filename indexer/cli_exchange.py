"""`mmsearch export` and `mmsearch import`: vectors for other programs, and from them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from indexer.cli_progress import Bar
from mmsearch.cli.options import (
    FileThere,
    device_option,
    json_option,
    library_option,
    library_path,
    load_settings,
    open_library,
    print_json,
    printable,
)
from mmsearch.filenames import from_home
from mmsearch.plaintext import both_counted, counted

if TYPE_CHECKING:
    from indexer.exchange.intake import ImportReport

_SAMPLE = 8
_SHOWN = 5


@click.command(short_help="Write the vectors to npy and parquet files.")
@click.argument("to", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Rows a file.",
)
@click.option("--gps", is_flag=True, help="With the places where pictures were taken.")
@json_option
@library_option
def export(to: Path, shard_size: int, gps: bool, as_json: bool, library: Path | None) -> None:
    """Write the vectors of the library to npy and parquet files in DIR.

    The layout is that of clip-retrieval's inference: img_emb/img_emb_0.npy (float16, a row a
    picture), metadata/metadata_0.parquet (image_path, caption, and what else is known) and
    text_emb/text_emb_0.npy (of the caption in the same row, the first that the picture has). All
    texts, those without a picture too, are in the same layout in DIR/texts. DIR must not exist or
    be empty; `mmsearch import` reads it.

    \b
      mmsearch export ~/embeddings
    """
    from indexer.exchange.exporting import export as run

    with open_library(library) as lib, Bar() as bar:
        report = run(lib, from_home(to), rows_a_shard=shard_size, gps=gps, progress=bar)
    if as_json:
        print_json(asdict(report))
        return
    click.echo(
        f"{both_counted(report.pictures, report.texts)} ({report.model}), "
        f"{report.bytes / 1e6:,.1f} MB: {printable(report.path)}"
    )
    if not gps:
        click.echo("Places where pictures were taken are left out; --gps writes them.")


@click.command("import", short_help="Take in vectors that were computed elsewhere.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=FileThere(folder=True),
    metavar="DIR",
    help="The folder where the pictures are now, if they are not where their paths say.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Whose vectors they are, where no mmsearch.json says so; see: mmsearch models.",
)
@click.option(
    "--verify",
    is_flag=True,
    help=f"First encode {_SAMPLE} pictures and compare: refused below a cosine of 0.98.",
)
@json_option
@device_option()
@library_option
def import_(
    folder: Path,
    images: Path | None,
    model: str | None,
    verify: bool,
    as_json: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Take in vectors that were computed elsewhere, without encoding anything again.

    DIR is what `mmsearch export` or clip-retrieval's inference wrote: img_emb, text_emb, metadata.
    Pictures are looked for where their paths say, or below --images; those that are not there are
    skipped and named. The files of DIR become sources of the texts: keep it. The same command again
    goes on where it was stopped, and takes in what is new.

    \b
      mmsearch import ~/embeddings
      mmsearch import ~/embeddings --model ViT-B-32-quickgelu/openai --verify
    """
    from indexer.exchange.importing import import_embeddings

    settings = load_settings()
    with Bar() as bar:
        report = import_embeddings(
            library_path(library, settings),
            from_home(folder),
            images=images,
            model=model,
            sample=_SAMPLE if verify else 0,
            device=device or settings.device,
            limits=settings.decode_limits(),
            progress=bar,
        )
    if as_json:
        print_json(asdict(report))
    else:
        click.echo(_summary(report))
        _skipped(report)
    if report.stopped:
        sys.exit(130)


def _summary(report: ImportReport) -> str:
    lines = []
    if report.stopped:
        lines.append("Stopped. What was done is kept; run the same command to go on.")
    if report.cosines:
        lines.append(
            f"{counted(len(report.cosines), 'picture')} encoded and compared: cosine at least "
            f"{min(report.cosines):.4f}"
        )
    lines.append(
        f"{both_counted(report.pictures, report.texts)} taken in "
        f"({counted(report.linked, 'linked to a picture', 'linked to pictures')}); "
        "nothing was encoded"
    )
    if report.known or report.known_texts:
        known = counted(report.known, "picture")
        were = "was" if report.known + report.known_texts == 1 else "were"
        lines.append(f"{known}, {counted(report.known_texts, 'text')} {were} known already")
    if report.rescaled:
        lines.append(f"{counted(report.rescaled, 'vector')} not of unit norm: scaled to it")
    lines.append(f"{report.seconds:.1f} s, {report.model}; library: {printable(report.library)}")
    return "\n".join(lines)


def _skipped(report: ImportReport) -> None:
    if not report.skipped:
        return
    click.echo(f"{report.skipped:,} skipped:", err=True)
    for what, reason in report.reasons[:_SHOWN]:
        click.echo(f"  {printable(what)}: {printable(reason)}", err=True)
    if report.skipped > _SHOWN:
        click.echo(f"  and {report.skipped - _SHOWN:,} more (--json names the first)", err=True)
