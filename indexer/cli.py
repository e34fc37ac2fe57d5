"""`mmsearch index`."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path

import click

from indexer.cli_progress import Bar, Lines, line
from indexer.clock import Clock, Trace
from indexer.ingest import Options
from indexer.ingest import index as run_index
from indexer.report import Report
from mmsearch.cli.options import (
    EACH,
    device_option,
    json_option,
    library_option,
    library_path,
    load_settings,
    print_json,
    printable,
)
from mmsearch.plaintext import counted
from mmsearch.store.engine import is_there


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--captions",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file of texts: .txt, .csv, .tsv, .jsonl, .json (COCO), .parquet, Flickr8k/30k. "
    "Texts that name a picture are linked to it. May be given several times.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="The model, for a new library or to move an old one to it; see: mmsearch models.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out names or paths like this (as in .gitignore). Kept with the source: given for "
    "it again, patterns replace those of before ('' for none); given for a folder in it, they are "
    "added, for that folder.",
)
@click.option(
    "--follow-links/--no-follow-links", default=None, help="Follow symbolic links. Kept likewise."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    help="Precision of the model's arithmetic.",
)
@click.option(
    "--reference-preprocessing",
    "reference",
    is_flag=True,
    help="Resize exactly as open_clip does; slower.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "json", "none"]),
    default="auto",
    help="A bar where stderr is a terminal; or JSON, one line on stderr for each step.",
)
@click.option(
    "--profile",
    is_flag=False,
    flag_value="mmsearch-trace.json",
    metavar="[FILE.json]",
    type=click.Path(path_type=Path),
    help="Tell on stderr where the time went, stage by stage, and write a trace for "
    "ui.perfetto.dev into FILE.json, or mmsearch-trace.json here.",
)
@json_option
@device_option(EACH)
@library_option
def index(
    paths: tuple[Path, ...],
    captions: tuple[Path, ...],
    model: str | None,
    exclude: tuple[str, ...],
    follow_links: bool | None,
    dtype: str,
    reference: bool,
    progress: str,
    profile: Path | None,
    as_json: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Read pictures and texts into the library.

    PATHS are folders, pictures, zip or tar archives, or files of texts. Again on the same folder,
    only what is new or changed is read; without PATHS, every known folder is looked at again.
    Ctrl-C is safe at any time: what is done is kept, the next run goes on from there.

    \b
      mmsearch index ~/Photos
      mmsearch index ~/Photos --captions captions.jsonl
      mmsearch index ~/Photos --model tiny          (no download; not for real photographs)

    The lines of --progress json have an "event": scanning (source, files seen so far), loading
    (model), started (what, total or null), advanced (done of that so far, a second, skipped in the
    whole run, bottleneck: the stage that the run goes as fast as, or null), warning (message).
    """
    if profile is not None and profile.suffix != ".json":
        # Or a picture named after --profile would be written over.
        raise click.UsageError(
            f"--profile writes a file that ends in .json, and {profile} does not: without a name "
            "for the file it stands last"
        )
    settings = load_settings()
    where = library_path(library, settings)
    if not paths and not captions and not is_there(where / "catalog.db"):
        raise click.UsageError("say what to read: mmsearch index ~/Photos")
    options = Options(
        model=model or settings.model,
        device=device or settings.device,
        dtype=dtype,
        reference=reference,
        exclude=exclude,
        follow_links=follow_links,
        limits=settings.decode_limits(),
        decode_processes=settings.decode_processes,
    )
    try:
        trace = Trace(profile) if profile is not None else None
    except OSError as exc:
        raise click.UsageError(f"--profile: {profile} cannot be written: {exc.strerror}") from exc
    clock = Clock(trace)
    with closing(trace) if trace is not None else nullcontext():
        if progress == "auto":
            with Bar() as bar:
                report = run_index(
                    where, paths, captions, options=options, progress=bar, clock=clock
                )
        else:
            lines = Lines() if progress == "json" else None
            report = run_index(where, paths, captions, options=options, progress=lines, clock=clock)
    if profile is not None:
        click.echo(f"{clock.table(report.seconds)}\ntrace: {printable(str(profile))}", err=True)
    for warning in report.warnings:
        if progress == "json":
            line("warning", message=warning)
        else:
            click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        print_json(asdict(report) | {"changed": report.changed})
    else:
        click.echo(summary(report))
    if report.stopped:
        sys.exit(130)


def summary(report: Report) -> str:
    """The last lines of a run, for people."""
    lines = []
    if report.stopped:
        lines.append("Stopped. What was done is kept; run the same command to go on.")
    if not report.changed and not report.stopped:
        lines.append(
            f"Nothing new: {counted(report.files, 'picture')}, all known, nothing to encode."
        )
    else:
        rate = report.encoded_images / report.picture_seconds if report.picture_seconds else 0.0
        lines.append(
            f"{counted(report.encoded_images, 'picture')} encoded"
            + (f" ({rate:,.0f} a second)" if report.encoded_images else "")
            + f", {counted(report.texts, 'text')} "
            + f"({counted(report.linked, 'linked to a picture', 'linked to pictures')})"
        )
        if report.carried:
            texts = counted(report.carried, "text")
            lines.append(f"{texts} that pictures carry themselves")
        if report.told:
            pictures = counted(report.told, "known picture")
            lines.append(f"{pictures} with something new in files beside them")
        parts = [
            (report.known, "already known by content (copies, moved files)"),
            (report.returned, "came back"),
            (report.missing, "gone (forgotten in searches until they come back)"),
            (report.failed, "could not be used: mmsearch status --failed"),
        ]
        lines += [f"{count:,} {what}" for count, what in parts if count]
        if report.developed:
            raws = counted(report.developed, "raw file")
            lines.append(f"{raws} passed over: the same in another format lies beside")
    # In any case: "all known" is not true of what was never looked at.
    passed_over = [
        (report.closed, "file or folder", "files and folders", "that could not be looked at"),
        (report.links, "link", "links", "passed over (--follow-links reads what they lead to)"),
        (
            report.skipped - report.closed - report.links,
            "pipe or the like",
            "pipes and the like",
            "passed over",
        ),
    ]
    lines += [
        f"{counted(n, one, many)} {what}: mmsearch status --failed"
        for n, one, many, what in passed_over
        if n
    ]
    if report.old_space is not None:
        lines.append(
            f"Searches use {report.model} now. The vectors of {report.old_space} are kept; to "
            f"delete them: mmsearch spaces drop {shlex.quote(report.old_space)}"
        )
    model = f", {report.model} on {report.device} ({report.dtype})" if report.device else ""
    lines.append(f"{report.seconds:.1f} s{model}; library: {printable(report.library)}")
    return "\n".join(lines)
