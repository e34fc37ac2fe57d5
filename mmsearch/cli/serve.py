"""`mmsearch serve`."""

from __future__ import annotations

from pathlib import Path

import click

from mmsearch.cli.options import device_option, library_option, load_settings, open_library


@click.command()
@click.option("--host", help="Address to listen on. [default: 127.0.0.1, this machine only]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. [8080]")
@device_option
@library_option
def serve(host: str | None, port: int | None, device: str | None, library: Path | None) -> None:
    """Search in the browser and over HTTP, until Ctrl-C.

    \b
      mmsearch serve
      curl 'http://127.0.0.1:8080/v1/search?q=red+kite&k=3'
    """
    from mmsearch.serve import run

    with open_library(library, device) as lib:
        run(
            lib,
            load_settings(),
            host,
            port,
            on_ready=lambda address: click.echo(f"mmsearch is at {address}  (Ctrl-C stops it)"),
        )
