"""The command `mmsearch`. Subcommands are imported when called, so that help is instant."""

from __future__ import annotations

import errno
import gc
import importlib
import io
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mmsearch import __version__
from mmsearch.cli.options import LibraryPath, printable
from mmsearch.errors import MmsearchError

WELCOME = """\
Search your photos by words, and your words by photos.

\b
  mmsearch index ~/Photos                      read a folder of pictures (again: only what is new)
  mmsearch search "a red kite over a beach"    find pictures by words
  mmsearch serve                               the same in your browser

Everything stays on this machine, in one folder (-l/--library PATH or MMSEARCH_LIBRARY chooses it).
The first run of `mmsearch index` fetches a model (0.6 GB, once); with `--model tiny` it needs none,
to try it out. See `mmsearch models`.

Exit codes: 0 done, 1 it could not be done (the reason is on stderr) or a check found something
wrong, 2 the command was not understood, 75 another process is writing to the library, 130 stopped
by Ctrl-C.
"""

#: name → (module:attribute, line of help). The write commands live in `indexer`, which this
#: package never imports; they are found by name.
COMMANDS = {
    "index": ("indexer.cli:index", "Read pictures and texts into the library."),
    "watch": ("indexer.cli_watch:watch", "Keep the library up to date while files change."),
    "search": ("mmsearch.cli.search:search", "Find pictures (or texts) by words or by a picture."),
    "captions": ("mmsearch.cli.search:captions", "Find the texts that describe a picture."),
    "classify": ("indexer.cli_classify:classify", "Sort pictures or texts into classes you name."),
    "tags": ("indexer.cli_tags:tags", "The tags of pictures and texts."),
    "duplicates": ("mmsearch.cli.duplicates:duplicates", "List copies and near-duplicates."),
    "serve": ("mmsearch.cli.serve:serve", "Search in the browser and over HTTP."),
    "keys": ("mmsearch.cli.keys:keys", "The keys of those who may use the library over HTTP."),
    "status": ("mmsearch.cli.status:status", "What the library holds, and what failed."),
    "sources": ("indexer.cli_manage:sources", "The folders and files the library was read from."),
    "spaces": ("indexer.cli_manage:spaces", "The models the library has vectors of."),
    "optimize": ("mmsearch.cli.optimize:optimize", "Make searches of a large library faster."),
    "doctor": ("mmsearch.cli.maintain:doctor", "Check the library, and mend what can be mended."),
    "backup": ("mmsearch.cli.maintain:backup", "Copy the library, also while it is in use."),
    "export": ("indexer.cli_exchange:export", "Write the vectors to files, or into a database."),
    "import": ("indexer.cli_exchange:import_", "Take in vectors that were computed elsewhere."),
    "models": ("mmsearch.cli.status:models", "The models to choose from."),
    "eval": ("indexer.cli_evaluate:evaluate", "Measure a model on pictures with known answers."),
}


#: What a full or failing disk says to who writes to it.
_NOT_TAKEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class _ReaderLeftError(Exception):
    """Whoever read the output has what they want: `mmsearch search … | head`."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports only the one that is called."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        # It prints the help. click makes an exit code 1 of a BrokenPipeError, without a word.
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError as exc:
            raise _ReaderLeftError from exc

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise _ReaderLeftError from exc

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if args[0] == "help":
                ctx.fail("write: mmsearch --help, or mmsearch COMMAND --help")
            search = f"to search for it: mmsearch search {shlex.quote(args[0])}"
            meant = f"did you mean {close[0]!r}?" if close else f"{search}; or see: mmsearch --help"
            ctx.fail(f"there is no command {args[0]!r}; {meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    help=WELCOME,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-l",
    "--library",
    type=LibraryPath(),
    help="The library folder (also after the subcommand).",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.version_option(__version__, prog_name="mmsearch")
@click.pass_context
def cli(ctx: click.Context, library: Path | None, verbose: bool) -> None:
    ctx.obj = library
    if os.environ.get("TERM") == "dumb":
        ctx.color = False  # it would show the sequences
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    if not verbose:
        # Chatter of libraries about the hub and the model is not for the user of a photo search.
        for name in ("httpx", "huggingface_hub", "open_clip"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # open_clip speaks through the root logger itself, whose level is that of all others.
        logging.getLogger().addFilter(_is_error)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _open_what_is_closed() -> None:
    """Something in the place of closed standard streams (`mmsearch … >&-`), which are None then.

    Before any file is opened: that would get the number of the closed one, and with it what
    libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _is_nowhere() -> bool:
    """Whether the current folder was deleted."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return True
    return False


def _replace_what_cannot_be_said() -> None:
    """Lets letters that stdout has none for (a pipe on Windows, an old locale) become "?"."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _drop_output() -> None:
    """Forgets what stdout did not take: Python would try once more at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Runs the command line; turns the errors mmsearch raises on purpose into one line each."""
    _open_what_is_closed()
    _replace_what_cannot_be_said()
    try:
        sys.exit(cli.main(prog_name="mmsearch", standalone_mode=False))
    except MmsearchError as exc:
        # It names files, and what a file is called must not speak to the terminal.
        click.echo(f"mmsearch: {printable(str(exc))}", err=True)
        sys.exit(exc.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as exc:
        said = io.StringIO()
        exc.show(said)
        for line in said.getvalue().rstrip("\n").split("\n"):
            click.echo(printable(line), err=True)  # what was typed may be a file's name
        sys.exit(exc.exit_code)
    except _ReaderLeftError:
        _drop_output()
        sys.exit(0)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) and exc.filename is None and _is_nowhere():
            click.echo(
                "mmsearch: the current folder is not there any more: cd elsewhere, or write whole "
                "paths",
                err=True,
            )
            sys.exit(1)
        # What is printed has no file name; a disk that does not take it is no fault here.
        if exc.filename is not None or exc.errno not in _NOT_TAKEN:
            raise
        _drop_output()
        click.echo(f"mmsearch: the output cannot be written: {exc.strerror}", err=True)
        sys.exit(1)
    finally:
        # At its end Python looks for garbage in all that was loaded, 0.1 s and more for a search.
        # But triton's bindings, which torch brings, would say on stderr that they leak.
        if "triton" not in sys.modules:
            gc.freeze()
