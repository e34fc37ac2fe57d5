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
    said,
)
from mmsearch.filenames import from_home
from mmsearch.plaintext import both_counted, counted

if TYPE_CHECKING:
    from indexer.exchange.intake import ImportReport

_SAMPLE = 8
_SHOWN = 5


@click.command(short_help="Write the vectors to files, or into a database.")
@click.argument("to", metavar="DIR|URL")
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Rows a file.",
)
@click.option("--gps", is_flag=True, help="With the places where pictures were taken.")
@click.option(
    "--name",
    default="mmsearch",
    show_default=True,
    help="In a database: the schema, or what the names of collections begin with.",
)
@click.option(
    "--replace",
    "replace_other",
    is_flag=True,
    help="In a database: build all anew, also in the place of another library's mirror.",
)
@json_option
@library_option
def export(
    to: str,
    shard_size: int,
    gps: bool,
    name: str,
    replace_other: bool,
    as_json: bool,
    library: Path | None,
) -> None:
    """Write the vectors of the library, and what belongs to them, for other programs.

    Into DIR, as npy and parquet files in the layout of clip-retrieval's inference:
    img_emb/img_emb_0.npy (float16, a row a picture), metadata/metadata_0.parquet (image_path,
    caption, and what else is known) and text_emb/text_emb_0.npy (of the caption in the same row,
    the first that the picture has). All texts, those without a picture too, are in the same layout
    in DIR/texts. DIR must not exist or be empty; `mmsearch import` reads it.

    Into a database, given by its URL: PostgreSQL with pgvector, Milvus, or a file of Milvus Lite.
    The same command again sends what has changed since; one that was stopped is gone on with.
    Passwords are taken from PGPASSWORD or ~/.pgpass, and MILVUS_TOKEN.

    \b
      mmsearch export ~/embeddings
      mmsearch export postgresql://me@db.example/photos
      mmsearch export milvus+http://milvus.example:19530
      mmsearch export milvus:photos.db
    """
    from indexer.exchange.engines import is_address

    if is_address(to):
        if said("shard_size"):
            raise click.UsageError("--shard-size is for files, and this is a database")
        _mirror(to, gps, name, replace_other, as_json, library)
        return
    if said("name", "replace_other"):
        raise click.UsageError("--name and --replace are for a database, and this is a folder")
    from indexer.exchange.exporting import export as run

    with open_library(library) as lib, Bar() as bar:
        report = run(lib, from_home(Path(to)), rows_a_shard=shard_size, gps=gps, progress=bar)
    if as_json:
        print_json(asdict(report))
        return
    click.echo(
        f"{both_counted(report.pictures, report.texts)} ({report.model}), "
        f"{report.bytes / 1e6:,.1f} MB: {printable(report.path)}"
    )
    _leave_gps_out(gps)


def _mirror(
    url: str, gps: bool, name: str, replace_other: bool, as_json: bool, library: Path | None
) -> None:
    from indexer.exchange.mirroring import mirror

    with open_library(library) as lib, Bar() as bar:
        report = mirror(lib, url, name=name, gps=gps, replace_other=replace_other, progress=bar)
    if as_json:
        print_json(asdict(report))
    elif report.stopped:
        click.echo(
            f"Stopped: {report.sent:,} sent. What was sent is kept; run the same command to go on."
        )
    else:
        did = f"{report.sent:,} sent, {report.deleted:,} deleted"
        click.echo(
            f"{both_counted(report.pictures, report.texts)} ({report.model}) in "
            f"{printable(report.where)}: "
            f"{'nothing has changed' if report.unchanged else did}, {report.seconds:.1f} s"
        )
        if report.old_model is not None:
            click.echo(f"It was of another model before: {report.old_model}")
        _leave_gps_out(gps)
    if report.stopped:
        sys.exit(130)


def _leave_gps_out(gps: bool) -> None:
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

    DIR is another library of the same model, of which all is taken in: so several machines index a
    part each. Its pictures stay where they are.

    Or DIR is what `mmsearch export` or clip-retrieval's inference wrote: img_emb, text_emb,
    metadata. Pictures are looked for where their paths say, or below --images; those that are not
    there are skipped and named. The files of DIR become sources of the texts: keep it.

    The same command again goes on where it was stopped, and takes in what is new.

    \b
      mmsearch import /shared/part-1.library
      mmsearch import ~/embeddings
      mmsearch import ~/embeddings --model ViT-B-32-quickgelu/openai --verify
    """
    from indexer.exchange.importing import import_embeddings
    from indexer.exchange.joining import is_library, join

    settings = load_settings()
    folder, here = from_home(folder), library_path(library, settings)
    if is_library(folder):
        if said("images", "model", "verify"):
            raise click.UsageError(
                "--images, --model and --verify are for files of vectors, and this is a library"
            )
        with Bar() as bar:
            report = join(here, folder, progress=bar)
    else:
        with Bar() as bar:
            report = import_embeddings(
                here,
                folder,
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
