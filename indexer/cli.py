"""`mmsearch index`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from indexer.ingest import Options
from indexer.ingest import index as run_index
from indexer.report import Report
from mmsearch.cli.options import (
    device_option,
    json_option,
    library_option,
    library_path,
    load_settings,
    print_json,
    printable,
)


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
    help="Leave out names or paths like this (as in .gitignore). Kept with the source.",
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
@json_option
@device_option
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
    (model), started (what, total or null), advanced (done of that so far), warning (message).
    """
    settings = load_settings()
    where = library_path(library, settings)
    if not paths and not captions and not (where / "catalog.db").exists():
        raise click.UsageError("say what to read: mmsearch index ~/Photos")
    options = Options(
        model=model or settings.model,
        device=device or settings.device,
        dtype=dtype,
        reference=reference,
        exclude=exclude,
        follow_links=follow_links,
        limits=settings.decode_limits(),
    )
    if progress == "auto":
        with Bar() as bar:
            report = run_index(where, paths, captions, options=options, progress=bar)
    else:
        lines = Lines() if progress == "json" else None
        report = run_index(where, paths, captions, options=options, progress=lines)
    for warning in report.warnings:
        if progress == "json":
            _line("warning", message=warning)
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
        lines.append(f"Nothing new: {report.files:,} pictures, all known, nothing to encode.")
    else:
        rate = report.encoded_images / report.picture_seconds if report.picture_seconds else 0.0
        lines.append(
            f"{report.encoded_images:,} pictures encoded"
            + (f" ({rate:,.0f} a second)" if report.encoded_images else "")
            + f", {report.texts:,} texts ({report.linked:,} linked to pictures)"
        )
        parts = [
            (report.carried, "texts that pictures carry themselves"),
            (report.known, "already known by content (copies, moved files)"),
            (report.returned, "came back"),
            (report.missing, "gone (forgotten in searches until they come back)"),
            (report.failed, "could not be used: mmsearch status --failed"),
            (report.skipped, "links, pipes and the like passed over (in the same list)"),
        ]
        lines += [f"{count:,} {what}" for count, what in parts if count]
    if report.old_space is not None:
        lines.append(
            f"Searches use {report.model} now. The vectors of {report.old_space} are kept; to "
            f"delete them: mmsearch spaces drop {shlex.quote(report.old_space)}"
        )
    model = f", {report.model} on {report.device} ({report.dtype})" if report.device else ""
    lines.append(f"{report.seconds:.1f} s{model}; library: {printable(report.library)}")
    return "\n".join(lines)


class Lines:
    """Progress for programs: a line of JSON on stderr for each step."""

    def __init__(self) -> None:
        self._done = 0

    def scanning(self, location: str, files: int) -> None:
        _line("scanning", source=location, files=files)

    def loading_model(self, name: str) -> None:
        _line("loading", model=name)

    def started(self, what: str, total: int | None) -> None:
        self._done = 0
        _line("started", what=what, total=total)

    def advanced(self, done: int) -> None:
        self._done += done
        _line("advanced", done=self._done)


def _line(event: str, **facts: object) -> None:
    # In ASCII, so that a name with broken bytes passes through any pipe.
    click.echo(json.dumps({"event": event, **facts}), err=True)


class _RateColumn(ProgressColumn):
    """Items a second over the last moments."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class Bar:
    """A progress bar on stderr, or nothing where stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def scanning(self, location: str, files: int) -> None:
        self._progress.update(
            self._task, description=f"scanning {printable(location)}", completed=files
        )

    def loading_model(self, name: str) -> None:
        self._progress.update(self._task, description=f"loading {name}")

    def started(self, what: str, total: int | None) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(printable(what), total=total)

    def advanced(self, done: int) -> None:
        self._progress.advance(self._task, done)
