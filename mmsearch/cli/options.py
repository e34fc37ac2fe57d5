"""Options that several commands share, and the values they stand for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmsearch import devices
from mmsearch.errors import QueryError, SourceError
from mmsearch.filenames import from_home
from mmsearch.plaintext import in_utf8
from mmsearch.plaintext import printable as printable

if TYPE_CHECKING:
    from mmsearch.filters import Filter
    from mmsearch.library import Library
    from mmsearch.query import Question
    from mmsearch.settings import Settings
    from mmsearch.types import Answer

_DEVICE = "MMSEARCH_DEVICE"
#: Variables that need no settings to be understood.
_AS_THEY_ARE = {_DEVICE, "MMSEARCH_LIBRARY", "MMSEARCH_SERVER", "MMSEARCH_KEY"}

#: For `device_option`, where a run may take several.
EACH = "; several with commas (cuda:0,cuda:1), a process each"

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)


def said(*names: str) -> list[str]:
    """Those of these parameters that stand on the command line of the running command."""
    here = click.get_current_context()
    typed = click.core.ParameterSource.COMMANDLINE
    return [name for name in names if here.get_parameter_source(name) is typed]


def only_the_list(ctx: click.Context, as_json: bool) -> None:
    """Raises UsageError: --json before a subcommand says nothing."""
    if as_json:
        raise click.UsageError(
            f"--json before {ctx.invoked_subcommand!r} says nothing: it is for the list", ctx
        )


def device_option(several: str = "") -> Callable[[F], F]:
    """several: what is said of more than one device, where that is possible."""

    def check(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        try:
            return None if value is None else devices.check(value, several=bool(several))
        except ValueError as exc:
            raise click.BadParameter(str(exc)) from exc

    return click.option(
        "--device",
        metavar="NAME",
        callback=check,
        help=f"Where the model runs: auto, cpu, cuda, mps{several}.",
    )


_k_help = "How many results."


class LibraryPath(click.Path):
    """The value of -l. An empty one (-l "$UNSET") would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; leave it out for the usual library", param, ctx)
        return super().convert(value, param, ctx)


def library_option(command: F) -> F:
    """-l after the subcommand; what stands before it, or the environment, is the default."""

    def choose(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
        return value if value is not None else ctx.obj

    return click.option(
        "-l",
        "--library",
        type=LibraryPath(),
        callback=choose,
        help="The library folder.",
    )(command)


def k_option(default: int) -> Callable[[F], F]:
    return click.option(
        "-k", "k", type=click.IntRange(1, 100_000), default=default, show_default=True, help=_k_help
    )


def where_option(what: str, *names: str) -> Callable[[F], F]:
    """--where, any number of times, and other names for it. what: what it does, a sentence."""
    return click.option(
        *names,
        "--where",
        multiple=True,
        metavar="FILTER",
        help=f"{what} May be given several times: all must hold.",
    )


@contextmanager
def understood() -> Iterator[None]:
    """Around what makes sense of what was typed: its QueryError is a UsageError (exit code 2)."""
    try:
        yield
    except QueryError as exc:
        raise click.UsageError(str(exc)) from exc


class FileThere(click.Path):
    """A file, or a folder, that is there to be read. Where it is not, the command was understood,
    and cannot be done: a SourceError."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(exists=True, file_okay=not folder, dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as exc:
            path = Path(value)
            if not path.exists():
                reason = "not found"
            elif path.is_dir() is not self.dir_okay:
                reason = "not a folder" if self.dir_okay else "a folder, not a file"
            else:
                reason = "no permission to read it"
            raise SourceError(str(value), reason) from exc


def condition_of(where: Sequence[str], *, texts: bool = False) -> Filter | None:
    """The filter that every --where together says; None without any. Raises UsageError.

    texts: whether it is for texts, of which less can be asked.
    """
    if not where:
        return None
    from mmsearch import filters

    with understood():
        found = filters.parse_all(where)
        return filters.checked_for_texts(found) if texts else found


def load_settings(**flags: Any) -> Settings:
    """The settings of this process, flags before variables, with a clear message for a bad one."""
    from pydantic import ValidationError

    from mmsearch.settings import Settings

    try:
        return Settings(**flags)
    except ValidationError as exc:
        found = [(str(e["loc"][0]), e["msg"].removeprefix("Value error, ")) for e in exc.errors()]
        wrong = "; ".join(f"MMSEARCH_{name.upper()}: {why}" for name, why in found)
        by_flag = all(name in flags for name, _ in found)
        text = "; ".join(why for _, why in found) if by_flag else f"in the environment: {wrong}"
        raise click.UsageError(text) from exc


def library_path(chosen: Path | None, settings: Settings) -> Path:
    return from_home(chosen or settings.library)


def plain_library_path(chosen: Path | None) -> Path:
    """What `library_path` says, without pydantic, for the variables as they are now."""
    if chosen is None:
        given = (v for name, v in os.environ.items() if name.upper() == "MMSEARCH_LIBRARY" and v)
        chosen = next((Path(v) for v in given), None)
    if chosen is None:
        import platformdirs

        chosen = Path(platformdirs.user_data_dir("mmsearch", appauthor=False))
    return from_home(chosen)


def open_library(chosen: Path | None, device: str | None = None) -> Library:
    """The library of -l, MMSEARCH_LIBRARY or the platform's folder. Raises LibraryNotFoundError."""
    from mmsearch.library import Library

    said = {n.upper(): v for n, v in os.environ.items() if n.upper().startswith("MMSEARCH_")}
    if set(said) <= _AS_THEY_ARE and all(said.values()):
        # So a search need not wait for pydantic, a tenth of a second.
        try:
            chosen_device = device or devices.check(said.get(_DEVICE, "auto"), several=True)
        except ValueError as exc:
            raise click.UsageError(f"in the environment: {_DEVICE}: {exc}") from exc
        return Library(plain_library_path(chosen), device=chosen_device)
    settings = load_settings()
    return Library(
        library_path(chosen, settings),
        device=device or settings.device,
        limits=settings.decode_limits(),
    )


def print_json(document: Any) -> None:
    """One JSON document on stdout; file names that are not UTF-8 are written with \\ufffd."""
    # What is not UTF-8 (a pipe on Windows) would lack letters that JSON can spell in ASCII.
    plain = not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(document, ensure_ascii=plain, indent=2, default=str)
    click.echo(in_utf8(text))


def nothing_matches(answer: Answer[Any], asked: str | None, question: Question) -> str | None:
    """What to say where nothing is found though something was compared; None otherwise.

    asked: the words of the question.
    """
    if question.offset and answer.allowed:
        return f"No results are left after the first {question.offset:,} (--offset)."
    if answer.cut:
        least = question.min_score
        matches = f'matches "{printable(asked)}"' if asked else "matches"
        if answer.nearest is None or answer.nearest >= question.min_relevance:
            # Relevant enough, or nobody asked how relevant it is.
            how = "so well" if least is None else f"with a score of {least:g} or more (--min-score)"
            return f"Nothing in this library {matches} {how}."
        shows = "--all shows it" if least is None else "--all without --min-score shows it"
        return (
            f"Nothing in this library {matches}. The nearest has relevance {answer.nearest:.2f}; "
            f"{shows}."
        )
    return "Nothing satisfies the condition." if answer.filtered and not answer.allowed else None


def rounded(relevance: float | None) -> float | None:
    """A relevance as JSON prints it."""
    return None if relevance is None else round(relevance, 4)
