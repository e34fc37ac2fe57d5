"""Results as a table, with pictures in the terminals that can show them."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmsearch.cli.options import nothing_matches, printable
from mmsearch.errors import MmsearchError
from mmsearch.types import Answer, ImageHit

if TYPE_CHECKING:
    from mmsearch.cli.remote import Remote
    from mmsearch.library import Library

_THUMB_SIDE = 256
_ROWS = 6  # height of a thumbnail in lines of text


def print_images(
    library: Library | Remote,
    answer: Answer[ImageHit],
    words: str | None,
    *,
    offset: int,
    thumbnails: bool | None,
) -> None:
    """Rank, relevance, score, path and first caption of each hit.

    words: those asked for. thumbnails: None shows them if it can.
    """
    hits = answer.hits
    if not hits:
        click.echo(nothing_matches(answer, words) or "Nothing found.", err=True)
        return
    protocol = graphics_protocol(os.environ) if sys.stdout.isatty() or thumbnails else None
    if thumbnails is not False and protocol is not None:
        for rank, hit in enumerate(hits, offset + 1):
            click.echo(_inline(library, hit, protocol))
            numbers = f"{rank:4d}  {shown(hit.relevance)}  {hit.score:.3f}"
            click.echo(f"{numbers}  {printable(_short(hit.image.path))}")
        return
    captions = any(hit.captions for hit in hits)
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right", style="dim")
    table.add_column("relevance", justify="right")
    table.add_column("score", justify="right", style="dim")
    table.add_column("picture", overflow="fold")
    if captions:
        table.add_column("caption", style="dim", overflow="ellipsis", no_wrap=True)
    for rank, hit in enumerate(hits, offset + 1):
        copies = f"  (+{len(hit.image.copies)} copies)" if hit.image.copies else ""
        alike = f"  (+{len(hit.similar)} alike)" if hit.similar else ""
        row: list[str | Text] = [
            str(rank),
            shown(hit.relevance),
            f"{hit.score:.3f}",
            Text(printable(_short(hit.image.path)) + copies + alike),
        ]
        if captions:
            row.append(Text(printable(hit.captions[0] if hit.captions else "")))
        table.add_row(*row)
    console = Console()
    # In a pipe there is no width to fit: rows stay whole.
    Console(width=None if console.is_terminal else 1000).print(table)


def shown(relevance: float | None) -> str:
    """A relevance for people, four characters wide."""
    return "   -" if relevance is None else f"{relevance:.2f}"


def _short(path: str) -> str:
    """Relative to the current folder when the picture lies in it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):
        return path


def graphics_protocol(environ: Mapping[str, str]) -> str | None:
    """ "kitty" or "iterm" when the terminal says that it draws pictures that way; else None."""
    program = environ.get("TERM_PROGRAM", "")
    if "TMUX" in environ or environ.get("TERM", "").startswith("screen"):
        return None  # multiplexers swallow the sequences
    if "KITTY_WINDOW_ID" in environ or program == "ghostty" or "kitty" in environ.get("TERM", ""):
        return "kitty"
    if (
        program in ("iTerm.app", "WezTerm", "mintty", "rio")
        or environ.get("LC_TERMINAL") == "iTerm2"
    ):
        return "iterm"
    return None


def _inline(library: Library | Remote, hit: ImageHit, protocol: str) -> str:
    """The escape sequence that draws the thumbnail of a hit; empty if there is none to draw."""
    from PIL import Image

    try:
        thumbnail = Image.open(io.BytesIO(library.thumbnail(hit.image.id, _THUMB_SIDE)))
    except MmsearchError:
        return "(its file is gone)"
    png = io.BytesIO()
    thumbnail.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode("ascii")
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;height={_ROWS};preserveAspectRatio=1:{data}\x07"
    # https://sw.kovidgoyal.net/kitty/graphics-protocol/: f=100 is PNG, chunks of at most 4096.
    chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    head = f"a=T,f=100,r={_ROWS},"
    return "".join(
        f"\x1b_G{head if i == 0 else ''}m={int(i < len(chunks) - 1)};{chunk}\x1b\\"
        for i, chunk in enumerate(chunks)
    )
