"""`mmsearch watch`."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from indexer.ingest import Options
from indexer.report import Report
from indexer.watch import Pace, Watch, Why
from mmsearch.cli.options import (
    EACH,
    device_option,
    library_option,
    library_path,
    load_settings,
    printable,
)
from mmsearch.plaintext import counted


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Look at everything again so often: notifications get lost.",
)
@click.option(
    "--poll",
    is_flag=True,
    help="Look at the files every few seconds instead of waiting for notifications, which network "
    "drives do not send.",
)
@click.option("--model", metavar="NAME", help="The model of a new library; see: mmsearch models.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@device_option(EACH)
@library_option
def watch(
    paths: tuple[Path, ...],
    every_s: float,
    poll: bool,
    model: str | None,
    as_json: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Keep the library up to date while files come, change and go.

    PATHS are folders and files; what is no source of the library yet is read first. Without them,
    every source is watched, also those that are added meanwhile. A drive that is taken out is left
    alone, and watched again when it is back. Searches go on meanwhile. Other commands that write
    can be used too: this one waits for them; they are refused, as by any command that writes, in
    the moments in which it reads.

    A line is printed for each time that it looked: how many pictures came (+) and went (−). Ctrl-C
    (or SIGTERM) ends it after the pictures in hand, with exit code 0.

    \b
      mmsearch watch
      mmsearch watch ~/Photos
      mmsearch watch --poll --every 600 /mnt/nas/photos
    """
    settings = load_settings()
    where = library_path(library, settings)
    watcher = Watch(
        where,
        paths,
        _Lines(as_json),
        options=Options(
            model=model or settings.model,
            device=device or settings.device,
            limits=settings.decode_limits(),
            decode_processes=settings.decode_processes,
        ),
        pace=Pace(every=every_s),
        poll=poll,
    )
    # Ends a run as Ctrl-C does: what is committed is kept, the indexes are written.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        watcher.run(threading.Event())
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


class _Lines:
    """Prints what happens, a line each: runs on stdout, the rest on stderr."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def watching(self, places: Sequence[str], waiting: Sequence[str]) -> None:
        if self._as_json:
            self._object("watching", places=list(places), waiting=list(waiting))
            return
        click.echo(f"watching {printable(', '.join(places)) or 'nothing'}", err=True)
        for place in waiting:
            click.echo(f"waiting for {printable(place)}, which is not there", err=True)

    def ran(self, report: Report, why: Why) -> None:
        if self._as_json:
            self._object("run", why=why, **asdict(report), changed=report.changed)
            return
        click.echo(f"{datetime.now():%H:%M:%S}  {line(report)}")

    def warned(self, message: str) -> None:
        if self._as_json:
            self._object("warning", message=message)
        else:
            click.echo(f"warning: {printable(message)}", err=True)

    @staticmethod
    def _object(event: str, **facts: Any) -> None:
        at = datetime.now().astimezone().isoformat(timespec="milliseconds")
        text = json.dumps({"event": event, "at": at, **facts}, ensure_ascii=False, default=str)
        click.echo(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def line(report: Report) -> str:
    """A run in a line: pictures that came and went, texts if any, failures, seconds."""
    came = report.encoded_images + report.known + report.returned
    parts = [f"+{came:,} −{report.missing:,}"]
    if report.texts:
        parts.append(f"{counted(report.texts, 'text')}")
    if report.told:
        parts.append(f"{report.told:,} with something new beside them")
    if report.failed:
        parts.append(f"{report.failed:,} could not be used: mmsearch status --failed")
    parts.append(f"{report.seconds:.1f} s")
    return "  ".join(parts)
