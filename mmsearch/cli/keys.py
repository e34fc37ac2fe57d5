"""`mmsearch keys`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmsearch.cli.options import (
    json_option,
    library_option,
    library_path,
    load_settings,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from mmsearch.serve.keys import Keys


@click.group()
@library_option
@click.pass_context
def keys(ctx: click.Context, library: Path | None) -> None:
    """The keys that let programs and people use this library over HTTP.

    \b
      mmsearch keys add laptop                     may search
      mmsearch keys add camera --scope write       may also upload, delete and start scans
      mmsearch keys revoke laptop

    As soon as there is one, `mmsearch serve` answers only who has one, and the page asks for it.
    Only a hash of each is kept. Changes count at once, also for a running server.
    """
    ctx.obj = library


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "write"]),
    default="read",
    show_default=True,
    help="What it is good for; write includes read.",
)
@json_option
@library_option
def add(name: str, scope: str, as_json: bool, library: Path | None) -> None:
    """Make a key called NAME and print it, this once."""
    from mmsearch.serve.keys import as_scope

    secret = _keys(library).add(name, as_scope(scope))
    if as_json:
        print_json({"name": name.strip(), "scope": scope, "key": secret})
        return
    click.echo(secret)
    click.echo(
        "Keep it now: it is not shown again. Programs send it as 'Authorization: Bearer KEY', "
        "the terminal takes it from MMSEARCH_KEY, the page asks for it.",
        err=True,
    )


@keys.command("list")
@json_option
@library_option
def list_(as_json: bool, library: Path | None) -> None:
    """The names of the keys, what they may do, and when they were made."""
    found = _keys(library).all()
    if as_json:
        print_json(
            {"keys": [{"name": k.name, "scope": k.scope, "created": k.created} for k in found]}
        )
        return
    for key in found:
        click.echo(f"{key.scope:6} {key.created[:10]}  {printable(key.name)}")
    if not found:
        click.echo("There are no keys. Make one with: mmsearch keys add NAME", err=True)


@keys.command()
@click.argument("name")
@library_option
def revoke(name: str, library: Path | None) -> None:
    """Delete the key called NAME; who has it is let in no more, from now on."""
    found = _keys(library)
    found.revoke(name)
    click.echo(f"Revoked: {printable(name)}")
    if not found.all():
        click.echo(
            "That was the last one: a service on this machine only is open to who uses it now; "
            "one that listens beyond it answers nobody.",
            err=True,
        )


def _keys(chosen: Path | None) -> Keys:
    """The keys of a library. Raises LibraryNotFoundError."""
    from mmsearch.errors import LibraryNotFoundError
    from mmsearch.serve.keys import Keys, keys_path

    settings = load_settings()
    library = library_path(chosen, settings)
    if not library.is_dir():
        raise LibraryNotFoundError(str(library))
    return Keys(keys_path(library, settings.keys_file))
