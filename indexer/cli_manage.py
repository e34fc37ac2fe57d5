"""`mmsearch sources` and `mmsearch spaces`: what a library was read from, and with which models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmsearch.cli.options import (
    json_option,
    library_option,
    library_path,
    load_settings,
    only_the_list,
    open_library,
    print_json,
    printable,
)
from mmsearch.plaintext import both_counted, counted

if TYPE_CHECKING:
    from mmsearch.overview import (
        SourceRecord,
    )

_yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def _path(library: Path | None) -> Path:
    return library_path(library, load_settings())


def _confirm(plan: str, yes: bool) -> None:
    """Shows what is going to happen and asks; leaves unless the answer is yes."""
    if yes:
        return
    click.echo(plan, err=True)
    try:
        sure = click.confirm("Go on?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)  # the question is still on this line
        raise click.UsageError(
            "nothing was changed: there is nobody to ask; --yes goes on"
        ) from None
    if not sure:
        click.echo("Nothing was changed.", err=True)
        sys.exit(1)


@click.group(invoke_without_command=True)
@json_option
@library_option
@click.pass_context
def sources(ctx: click.Context, as_json: bool, library: Path | None) -> None:
    """The folders and files the library was read from; without a subcommand, a list of them.

    A source is named by its name or its path. Nothing here changes your pictures.
    """
    ctx.obj = library
    if ctx.invoked_subcommand is not None:
        only_the_list(ctx, as_json)
        return
    with open_library(library) as lib:
        found = lib.sources()
    if as_json:
        print_json({"sources": [_document(source) for source in found]})
        return
    if not found:
        click.echo("The library has no sources yet: mmsearch index FOLDER", err=True)
    width = max((len(printable(source.name)) for source in found), default=0)
    for source in found:
        # Taken in by an import, or stopped in its first run: there is no telling which.
        at = source.indexed_at
        when = f"read {at:%Y-%m-%d %H:%M} UTC" if at else "not read to its end yet"
        gone = f", {source.missing:,} gone" if source.missing else ""
        click.echo(
            f"{printable(source.name):{width}}  {printable(source.location)}  "
            f"{both_counted(source.images, source.texts)}{gone}, {when}"
        )


def _document(source: SourceRecord) -> dict[str, Any]:
    read = source.indexed_at and source.indexed_at.replace(tzinfo=UTC).isoformat()
    return asdict(source) | {"indexed_at": read}


@sources.command()
@click.argument("source")
@click.argument("name")
@library_option
def rename(source: str, name: str, library: Path | None) -> None:
    """Call SOURCE by another NAME."""
    from indexer.manage import rename_source

    old = rename_source(_path(library), source, name)
    click.echo(f"{printable(old.location)} is called {name.strip()!r} now.")


@sources.command(short_help="Tell the library that a folder or drive has moved.")
@click.argument("old")
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also when none of the known files is there.")
@library_option
def relocate(old: str, new: Path, force: bool, library: Path | None) -> None:
    """Tell the library that what was at OLD is at NEW now; nothing is read or encoded for it.

    OLD is a source, or a folder above some: a drive that is mounted elsewhere now, say. The next
    `mmsearch index` reads only files whose size or time is not as it was.

    \b
      mmsearch sources relocate Photos /mnt/big/Photos
      mmsearch sources relocate /media/usb1 /media/usb2
    """
    from indexer.manage import relocate as run

    for moved in run(_path(library), old, new, force=force):
        known = f"{moved.found:,} of {moved.compared:,} known files that were looked for are there"
        click.echo(
            f"{printable(moved.name)}: {printable(moved.old)} → {printable(moved.new)} ({known})"
        )
        if moved.compared and not moved.found:
            click.echo(f"warning: nothing known was found in {printable(moved.new)}", err=True)


@sources.command(short_help="Forget SOURCE, and for good what only it held.")
@click.argument("source")
@_yes_option
@library_option
def remove(source: str, yes: bool, library: Path | None) -> None:
    """Forget SOURCE, and for good all that no other source holds: vectors, data, thumbnails.

    Your files stay. What is forgotten is overwritten in the library, and its space is used again
    for what comes; the file catalog.db does not shrink. Backups hold what they held.
    """
    from indexer.manage import count_removal, remove_source

    where = _path(library)
    if not yes:
        found, plan = count_removal(where, source)
        _confirm(
            f"{printable(found.name)} ({printable(found.location)}) leaves the library: "
            f"{both_counted(plan.pictures, plan.texts)}; forgotten for "
            f"good, as nothing else holds them: {plan.contents:,}. The files themselves stay.",
            yes,
        )
    done = remove_source(where, source)
    click.echo(
        f"Removed: {both_counted(done.pictures, done.texts)}; forgotten "
        f"for good, as nothing else holds them: {done.contents:,}."
    )


@sources.command(short_help="Forget for good the files that are gone.")
@click.argument("source", required=False)
@_yes_option
@library_option
def forget(source: str | None, yes: bool, library: Path | None) -> None:
    """Forget for good the files that are gone: of SOURCE, or of every source.

    Until then they are hidden and come back without encoding when their files do. Contents that
    files have lost by changing go too. As with `remove`, catalog.db does not shrink.
    """
    from indexer.manage import count_gone, forget_gone

    where = _path(library)
    if not yes:
        plan = count_gone(where, source)
        if not (plan.pictures or plan.texts or plan.contents):
            click.echo("Nothing is gone.", err=True)
            return
        _confirm(
            f"Gone: {both_counted(plan.pictures, plan.texts)}; forgotten for good, as "
            f"nothing else holds them: {plan.contents:,}.",
            yes,
        )
    done = forget_gone(where, source)
    click.echo(
        f"Forgotten: {both_counted(done.pictures, done.texts)}; for good, "
        f"as nothing else holds them: {done.contents:,}."
    )


@click.group(invoke_without_command=True)
@json_option
@library_option
@click.pass_context
def spaces(ctx: click.Context, as_json: bool, library: Path | None) -> None:
    """The models the library has vectors of; without a subcommand, a list of them.

    Searches use one of them, the active one (*). `mmsearch index --model NAME` adds another one
    and switches to it when it is complete. A space is named by its model, or by the beginning of
    its fingerprint where two weights of one model are there.
    """
    ctx.obj = library
    if ctx.invoked_subcommand is not None:
        only_the_list(ctx, as_json)
        return
    from indexer.manage import list_spaces

    with open_library(library) as lib:
        found = list_spaces(lib.path, lib.catalog)
    if as_json:
        documents = [
            asdict(item.status.space)
            | {
                "active": item.status.active,
                "images": item.status.images,
                "texts": item.status.texts,
                "bytes": item.bytes,
            }
            for item in found
        ]
        print_json({"spaces": documents})
        return
    if not found:
        click.echo("The library has no vectors yet: mmsearch index FOLDER", err=True)
    width = max((len(printable(item.status.space.name)) for item in found), default=0)
    for item in found:
        status, space = item.status, item.status.space
        click.echo(
            f"{'*' if status.active else ' '} {printable(space.name):{width}}  "
            f"{both_counted(status.images, status.texts)}, {space.dim} dimensions, "
            f"{item.bytes / 1e6:,.1f} MB, fingerprint {space.fingerprint[:12]}"
        )


@spaces.command()
@click.argument("name")
@library_option
def use(name: str, library: Path | None) -> None:
    """Search with the vectors of NAME from now on.

    They must be complete; if they are not, `mmsearch index --model NAME` completes them and
    switches.
    """
    from indexer.manage import use_space

    space = use_space(_path(library), name)
    click.echo(f"Searches use {printable(space.name)} ({space.fingerprint[:12]}) now.")


@spaces.command(short_help="Delete the vectors of a model that searches do not use.")
@click.argument("name")
@_yes_option
@library_option
def drop(name: str, yes: bool, library: Path | None) -> None:
    """Delete the vectors of NAME, which searches do not use, and its index files.

    Pictures, texts and other vectors stay. The file catalog.db does not shrink; what is free in it
    is used again.
    """
    from indexer.manage import drop_space, plan_drop

    where = _path(library)
    if not yes:
        plan = plan_drop(where, name)
        alone = (
            f" {counted(plan.alone, 'picture or text', 'pictures and texts')} without a vector of "
            f"{plan.active.name} yet: mmsearch index makes it."
        )
        _confirm(
            f"The vectors of {printable(plan.space.name)} ({plan.space.fingerprint[:12]}), "
            f"{plan.bytes / 1e6:,.1f} MB, are deleted." + (alone if plan.alone else ""),
            yes,
        )
    done = drop_space(where, name)
    click.echo(f"Dropped {printable(done.space.name)} ({done.space.fingerprint[:12]}).")
