"""`mmsearch serve`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Literal

import click

from mmsearch.cli.options import device_option, library_option, load_settings, open_library


def _host(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """An empty one (--host "$UNSET") would be every address of this machine."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty; leave it out for this machine only")
    return value


@click.command()
@click.option(
    "--host",
    metavar="ADDRESS",
    callback=_host,
    help="Address to listen on. [default: 127.0.0.1, this machine only]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. [default: 8080]"
)
@click.option("--insecure-no-key", is_flag=True, help="Listen beyond this machine without any key.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of https://photos.example ask, with a key. May be given several times.",
)
@click.option(
    "--trusted-proxies",
    metavar="ADDRESSES",
    help="Believe these proxies (127.0.0.1, 172.18.0.0/16) for whom they ask.",
)
@click.option(
    "--root-path",
    metavar="PATH",
    help="Where a proxy shows the service (/photos), if it passes that on.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that answer questions, for many people and cores.  "
    "[default: 1, the service's own]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How log lines look on stderr. [default: text]",
)
@click.option("--no-access-log", is_flag=True, help="No log line for each request.")
@device_option()
@library_option
def serve(
    host: str | None,
    port: int | None,
    insecure_no_key: bool,
    cors_origins: tuple[str, ...],
    trusted_proxies: str | None,
    root_path: str | None,
    workers: int | None,
    log_format: Literal["text", "json"] | None,
    no_access_log: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Search in the browser and over HTTP, until Ctrl-C.

    Others can reach it only with --host, and only with a key: see mmsearch keys.

    \b
      mmsearch serve
      curl 'http://127.0.0.1:8080/v1/search?q=red+kite&k=3'
    """
    from mmsearch.serve import run
    from mmsearch.serve.logs import configure

    settings = load_settings(
        **({"insecure_no_key": True} if insecure_no_key else {}),
        **({"cors_origins": cors_origins} if cors_origins else {}),
        **({"trusted_proxies": trusted_proxies} if trusted_proxies is not None else {}),
        **({"root_path": root_path} if root_path is not None else {}),
        **({"workers": workers} if workers is not None else {}),
        **({"log_format": log_format} if log_format is not None else {}),
        **({"device": device} if device is not None else {}),
    )
    configure(settings.log_format, sys.stderr, access_lines=not no_access_log)
    with open_library(library, device) as lib:
        ended = run(
            lib,
            settings,
            host,
            port,
            on_ready=lambda address: click.echo(f"mmsearch is at {address}  (Ctrl-C stops it)"),
        )
    if not ended:
        # Ctrl-C is not answered by loading the rest of a large model first.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
