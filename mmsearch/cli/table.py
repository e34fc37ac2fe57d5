"""Results as a table, with pictures in the terminals that can show them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmsearch.cli.options import nothing_matches, printable
from mmsearch.errors import MmsearchError
from mmsearch.plaintext import counted
from mmsearch.types import Answer, ImageHit

if TYPE_CHECKING:
    from mmsearch.cli.remote import Remote
    from mmsearch.library import Library
    from mmsearch.query import Question

_THUMB_SIDE = 256
_ROWS = 6  # height of a thumbnail in lines of text
#: Columns that stay in the background: rank, score, caption.
_DIM = frozenset({0, 2, 4})
#: The least width of the column of paths, in cells.
_LEAST = 16
#: A caption of which fewer cells would be left is not shown.
_LEAST_CAPTION = 8

Row = tuple[str, ...]


def print_images(
    library: Library | Remote,
    answer: Answer[ImageHit],
    words: str | None,
    question: Question,
    *,
    thumbnails: bool | None,
) -> None:
    """Rank, relevance, score, path and first caption of each hit.

    words: those asked for. thumbnails: None shows them if it can.
    """
    hits = answer.hits
    if not hits:
        click.echo(nothing_matches(answer, words, question) or "Nothing found.", err=True)
        return
    protocol = graphics_protocol(os.environ) if sys.stdout.isatty() or thumbnails else None
    if thumbnails is not False and protocol is not None:
        for rank, hit in enumerate(hits, question.offset + 1):
            click.echo(_inline(library, hit, protocol))
            numbers = f"{rank:4d}  {shown(hit.relevance)}  {hit.score:.3f}"
            click.echo(f"{numbers}  {printable(_short(hit.image.path))}")
        return
    captions = any(hit.captions for hit in hits)
    rows = [("", "relevance", "score", "picture", "caption" if captions else "")]
    for rank, hit in enumerate(hits, question.offset + 1):
        more = len(hit.image.copies)
        copies = f"  (+{counted(more, 'copy', 'copies')})" if more else ""
        alike = f"  (+{len(hit.similar)} alike)" if hit.similar else ""
        name = printable(_short(hit.image.path)) + copies + alike
        caption = printable(hit.captions[0]) if hit.captions else ""
        rows.append((str(rank), shown(hit.relevance), f"{hit.score:.3f}", name, caption))
    # In a pipe there is no width to fit: rows stay whole, and click takes the styles away.
    width = None
    if sys.stdout.isatty():
        from shutil import get_terminal_size

        width = get_terminal_size().columns
    for number, cells in enumerate(fitted(rows, width)):
        styled = (
            # Not False: the sequence that says so ends both, bold and dim.
            click.style(cell, bold=number == 0 or None, dim=(number > 0 and column in _DIM) or None)
            for column, cell in enumerate(cells)
        )
        click.echo("  ".join(styled))


def _cells(text: str) -> int:
    """How many cells of the terminal a text takes."""
    if text.isascii():
        return len(text)  # without controls: see `printable`
    from rich.cells import cell_len

    return cell_len(text)


def fitted(rows: Sequence[Row], width: int | None) -> Iterator[Row]:
    """Rows whose columns are padded to align: three of numbers, picture, and caption if any.

    width: of the terminal, in cells; None for no limit. Where it is too narrow, a path goes on in
    the next row and a caption is cut off. Written here because rich's tables take longer to load
    than all the rest of a search that a service answers.
    """
    widths = [max(map(_cells, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        left = width - sum(widths[:3]) - 2 * 3
        pictures, captions = widths[3:]
        for_captions = captions + 2 if captions else 0
        least = min(pictures, _LEAST)
        widths[3] = max(least, min(pictures, max(left // 2, left - for_captions)))
        widths[4] = min(captions, max(0, left - widths[3] - 2))
        if widths[4] < min(captions, _LEAST_CAPTION):
            widths[3:] = max(least, min(pictures, left)), 0
    for *numbers, picture, caption in rows:
        first, *more = _chopped(picture, widths[3])
        cut = caption
        if _cells(caption) > widths[4]:
            cut = _resized(caption, max(0, widths[4] - 1)) + "…" * (widths[4] > 0)
        aligned = [number.rjust(cells) for number, cells in zip(numbers, widths, strict=False)]
        yield (*aligned, _resized(first, widths[3]), cut) if cut else (*aligned, first)
        for part in more:
            yield (*(" " * cells for cells in widths[:3]), part)


def _chopped(text: str, cells: int) -> list[str]:
    """The text in rows of so many cells; one at least."""
    if _cells(text) <= cells:
        return [text]
    from rich.cells import chop_cells

    return chop_cells(text, cells) or [""]


def _resized(text: str, cells: int) -> str:
    """The text filled up or cut off to so many cells."""
    if _cells(text) <= cells:
        return text + " " * (cells - _cells(text))
    from rich.cells import set_cell_size

    return set_cell_size(text, cells)


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
    from base64 import b64encode

    from PIL import Image

    try:
        thumbnail = Image.open(io.BytesIO(library.thumbnail(hit.image.id, _THUMB_SIDE)))
    except MmsearchError:
        return "(its file is gone)"
    png = io.BytesIO()
    thumbnail.save(png, "PNG")
    data = b64encode(png.getvalue()).decode("ascii")
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;height={_ROWS};preserveAspectRatio=1:{data}\x07"
    # https://sw.kovidgoyal.net/kitty/graphics-protocol/: f=100 is PNG, chunks of at most 4096.
    chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    head = f"a=T,f=100,r={_ROWS},"
    return "".join(
        f"\x1b_G{head if i == 0 else ''}m={int(i < len(chunks) - 1)};{chunk}\x1b\\"
        for i, chunk in enumerate(chunks)
    )
