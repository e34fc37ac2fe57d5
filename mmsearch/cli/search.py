"""`mmsearch search` and `mmsearch captions`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mmsearch.cli.options import (
    device_option,
    json_option,
    k_option,
    library_option,
    open_library,
    print_json,
    printable,
)
from mmsearch.types import ImageHit, TextHit

_image_path = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("query", nargs=-1)
@click.option("-i", "--image", type=_image_path, help="A picture to search by.")
@click.option("--texts", is_flag=True, help="Find texts instead of pictures.")
@k_option(10)
@click.option("--offset", type=click.IntRange(0), default=0, help="Skip so many results.")
@click.option("--paths", is_flag=True, help="Print only paths, one a line.")
@click.option("-0", "null", is_flag=True, help="With --paths: separate them by NUL (xargs -0).")
@click.option("--open", "open_", is_flag=True, help="Open the pictures found in the viewer.")
@click.option(
    "--thumbnails/--no-thumbnails",
    default=None,
    help="Show pictures in the terminal (kitty, Ghostty, iTerm2, WezTerm; by itself where known).",
)
@json_option
@device_option
@library_option
def search(
    query: tuple[str, ...],
    image: Path | None,
    texts: bool,
    k: int,
    offset: int,
    paths: bool,
    null: bool,
    open_: bool,
    thumbnails: bool | None,
    as_json: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Find pictures by words, by a picture (-i), or by both.

    \b
      mmsearch search "a red kite over a beach" -k 12
      mmsearch search -i photo.jpg
      mmsearch search --texts "boats at night"
      mmsearch search --paths dog | xargs -d '\\n' cp -t ~/dogs
    """
    words = " ".join(query).strip()
    if not words and image is None:
        raise click.UsageError('say what to look for: mmsearch search "a red kite", or -i PICTURE')
    with open_library(library, device) as lib:
        if texts:
            found = lib.search_texts(words or None, image=image, k=k, offset=offset)
            _print_texts(found, as_json, _asked(words, image, k, offset))
            return
        hits = lib.search(words or None, image=image, k=k, offset=offset)
        if as_json:
            print_json(_asked(words, image, k, offset) | {"hits": [image_json(h) for h in hits]})
        elif paths:
            end = b"\0" if null else b"\n"
            for hit in hits:
                # The name's own bytes, whatever they are: this is for other programs.
                sys.stdout.buffer.write(os.fsencode(hit.image.path) + end)
            sys.stdout.buffer.flush()
        else:
            from mmsearch.cli.table import print_images

            print_images(lib, hits, offset=offset, thumbnails=thumbnails)
        if open_:
            for hit in hits:
                click.launch(hit.image.path)


@click.command()
@click.argument("picture", type=_image_path)
@k_option(5)
@json_option
@device_option
@library_option
def captions(
    picture: Path, k: int, as_json: bool, device: str | None, library: Path | None
) -> None:
    """Find the texts of the library that describe PICTURE, which need not be indexed.

    \b
      mmsearch captions photo.jpg -k 5
    """
    with open_library(library, device) as lib:
        found = lib.captions(picture, k=k)
    _print_texts(found, as_json, {"image": str(picture), "k": k})


def _asked(words: str, image: Path | None, k: int, offset: int) -> dict[str, Any]:
    return {
        "query": words or None,
        "image": None if image is None else str(image),
        "k": k,
        "offset": offset,
    }


def _print_texts(found: list[TextHit], as_json: bool, asked: dict[str, Any]) -> None:
    if as_json:
        print_json(asked | {"hits": [text_json(hit) for hit in found]})
    elif not found:
        click.echo(
            "The library holds no texts. Add some with: mmsearch index --captions FILE", err=True
        )
    for hit in () if as_json else found:
        mark = "  (written for this picture)" if hit.linked else ""
        click.echo(f"{hit.score:7.3f}  {printable(hit.text.body)}{mark}")


def image_json(hit: ImageHit) -> dict[str, Any]:
    """A picture found, as --json prints it; the same fields as over HTTP."""
    info = hit.image.info
    return {
        "id": hit.image.id,
        "score": round(hit.score, 6),
        "path": hit.image.path,
        "width": info.width,
        "height": info.height,
        "format": info.format,
        "bytes": hit.image.bytes,
        "taken_at": info.taken_at.isoformat() if info.taken_at else None,
        "camera": info.camera,
        "title": info.title,
        "captions": list(hit.captions),
        "copies": list(hit.image.copies),
    }


def text_json(hit: TextHit) -> dict[str, Any]:
    """A text found, as --json prints it; the same fields as over HTTP."""
    return {
        "id": hit.text.id,
        "score": round(hit.score, 6),
        "text": hit.text.body,
        "source": hit.text.source,
        "image_ids": list(hit.text.image_ids),
        "linked": hit.linked,
    }
