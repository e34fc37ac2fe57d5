"""Whether words are a real command line of ours."""

from __future__ import annotations

import click

from mmsearch.cli import cli


def command_of(words: list[str]) -> str:
    """The subcommand that these words would run, without running it: "keys add".

    No options may stand before a subcommand. Raises click.UsageError where mmsearch would not
    understand them.
    """
    command: click.Command = cli
    context = click.Context(cli, info_name="mmsearch")
    names = []
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, list(words))
        if name is None or found is None:
            raise click.UsageError(f"no command: {words}")
        command, context = found, click.Context(found, info_name=name, parent=context)
        names.append(name)
    command.make_context(names[-1], list(words), parent=context.parent)
    return " ".join(names)
