"""`mmsearch tags`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmsearch.cli.options import (
    FileThere,
    json_option,
    library_option,
    only_the_list,
    open_library,
    print_json,
    printable,
)
from mmsearch.errors import QueryError
from mmsearch.plaintext import counted

if TYPE_CHECKING:
    from mmsearch.library import Library


@click.group(invoke_without_command=True)
@json_option
@library_option
@click.pass_context
def tags(ctx: click.Context, as_json: bool, library: Path | None) -> None:
    """The tags of pictures and texts; without a subcommand, a list of them.

    Tags come from `mmsearch classify --write-tags`, with a probability, or from you. They are found
    by searches for their words and by filters ("tag:beach"). Your files are never written to.
    """
    ctx.obj = library
    if ctx.invoked_subcommand is not None:
        only_the_list(ctx, as_json)
        return
    with open_library(library) as lib:
        counts = lib.catalog.tag_counts()
    if as_json:
        print_json({"tags": [asdict(count) for count in counts]})
        return
    if not counts:
        click.echo("There are no tags yet: mmsearch classify --write-tags", err=True)
    width = max((len(printable(count.name)) for count in counts), default=0)
    for count in counts:
        hand = f" ({count.by_hand:,} by hand)" if count.by_hand else ""
        texts = f", {counted(count.texts, 'text')}" if count.texts else ""
        click.echo(
            f"{printable(count.name):{width}}  {counted(count.pictures, 'picture')}{texts}{hand}"
        )


class _Picture(FileThere):
    """The path of a picture as searches print it: a file, or a member of an archive (a.zip!/b)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if _member(Path(value)) is not None:
            return Path(value)
        return super().convert(value, param, ctx)


def _member(path: Path) -> tuple[Path, str] | None:
    """The archive that is there and its member, where no file has that path."""
    from mmsearch.archive import split_member_path

    split = None if path.exists() else split_member_path(str(path))
    return None if split is None or not Path(split[0]).is_file() else (Path(split[0]), split[1])


_files = click.argument("pictures", nargs=-1, type=_Picture())


@tags.command()
@_files
@json_option
@library_option
def show(pictures: tuple[Path, ...], as_json: bool, library: Path | None) -> None:
    """The tags of PICTURES."""
    with open_library(library) as lib:
        ids = {path: _look_up(lib, path) for path in pictures}
        found = lib.catalog.tags([id_ for id_ in ids.values() if id_ is not None])
    documents = [
        {
            "path": str(path),
            "id": id_,
            "tags": [
                {"name": name, "score": score}
                for name, score in (() if id_ is None else found.get(id_, ()))
            ],
        }
        for path, id_ in ids.items()
    ]
    if as_json:
        print_json({"pictures": documents})
        return
    for path, id_ in ids.items():
        said = "  ".join(
            name if score is None else f"{name} {score:.2f}"
            for name, score in (() if id_ is None else found.get(id_, ()))
        )
        state = "(not in the library)" if id_ is None else said or "–"
        click.echo(f"{printable(str(path))}  {printable(state)}")


@tags.command()
@click.argument("name")
@_files
@library_option
def add(name: str, pictures: tuple[Path, ...], library: Path | None) -> None:
    """Tag PICTURES of the library with NAME."""
    from mmsearch.library import CATALOG_NAME
    from mmsearch.store import CatalogWriter
    from mmsearch.store.lock import writing

    if not pictures:
        raise click.UsageError("say what to tag: mmsearch tags add NAME PICTURE…")
    with open_library(library) as lib:
        where, ids = lib.path, _ids(lib, pictures)
    with writing(where), closing(CatalogWriter(where / CATALOG_NAME)) as writer:
        done = writer.tags.add(ids, name)
    click.echo(
        f"{counted(done, 'picture is', 'pictures are')} tagged {' '.join(name.split())!r} now."
    )


@tags.command()
@click.argument("name", required=False)
@_files
@click.option("--every", is_flag=True, help="Every tag of the library, whatever its name.")
@click.option("--by-model", is_flag=True, help="Only tags that classify wrote.")
@library_option
def remove(
    name: str | None,
    pictures: tuple[Path, ...],
    every: bool,
    by_model: bool,
    library: Path | None,
) -> None:
    """Take the tag NAME off PICTURES, or off all that have it.

    \b
      mmsearch tags remove beach photo.jpg
      mmsearch tags remove beach
      mmsearch tags remove --every --by-model
    """
    if (name is None) != every:
        raise click.UsageError("say which tag: mmsearch tags remove NAME, or --every")
    from mmsearch.library import CATALOG_NAME
    from mmsearch.store import CatalogWriter
    from mmsearch.store.lock import writing

    with open_library(library) as lib:
        where, ids = lib.path, _ids(lib, pictures) if pictures else None
    with writing(where), closing(CatalogWriter(where / CATALOG_NAME)) as writer:
        gone = writer.tags.remove(name, ids, by_model=by_model)
    click.echo(f"{counted(gone, 'tag')} removed.")


def _look_up(lib: Library, path: Path) -> int | None:
    """The id of a picture in the library; None for one that it does not have."""
    from mmsearch.archive import read_member

    member = _member(path)
    return lib.look_up(path if member is None else read_member(*member)).content_id


def _ids(lib: Library, pictures: tuple[Path, ...]) -> list[int]:
    """The ids of these files in the library. Raises QueryError for one that it does not have."""
    ids = {path: _look_up(lib, path) for path in pictures}
    for path, id_ in ids.items():
        if id_ is None:
            raise QueryError(f"{path} is not in the library: mmsearch index adds it")
    return [id_ for id_ in ids.values() if id_ is not None]
