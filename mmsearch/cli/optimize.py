"""`mmsearch optimize`: the approximate index of a large library, chosen by measurement."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmsearch.cli.options import json_option, library_option, open_library, print_json, said
from mmsearch.errors import StoreError
from mmsearch.plaintext import counted
from mmsearch.types import MODALITIES, Modality

if TYPE_CHECKING:
    from mmsearch.index.trial import Candidate
    from mmsearch.optimize import Optimized

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_WIDTHS = (22, 7, 11, 10, 9, 12, 8, 8)
_HEADINGS = ("index", "nprobe", "candidates", "recall@10", "ms", "ms filtered", "MB", "built s")


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes as people write it: 500MB, 2GB, 1000000000."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip().upper())
    if found is None:
        raise click.BadParameter(f"{value!r} is no size; write it like 500MB or 2GB")
    return int(float(found[1]) * _UNITS[found[2]])


@click.command()
@click.option(
    "--target-recall",
    type=click.FloatRange(0.5, 1.0),
    default=0.98,
    show_default=True,
    help="The share of the 10 truly nearest that searches must find.",
)
@click.option(
    "--max-memory",
    callback=_bytes,
    metavar="SIZE",
    help="What it may take, like 500MB or 2GB.",
)
@click.option("--modality", type=click.Choice(MODALITIES), help="Only this index.")
@click.option(
    "--min-vectors",
    type=click.IntRange(0),
    default=250_000,
    show_default=True,
    help="Leave indexes of fewer vectors exact: comparing them all is quick.",
)
@click.option("--exact", is_flag=True, help="Go back to comparing every vector.")
@click.option("--dry-run", is_flag=True, help="Measure, and change nothing.")
@json_option
@library_option
def optimize(
    target_recall: float,
    max_memory: int | None,
    modality: Modality | None,
    min_vectors: int,
    exact: bool,
    dry_run: bool,
    as_json: bool,
    library: Path | None,
) -> None:
    """Make searches of a large library faster, by an approximate index that is measured first.

    Indexes are built one after the other and compared with exact search, on the library's own
    texts (for its pictures) or pictures (for its texts), else on everyday captions. The fastest
    that reaches the recall and fits the memory is used from then on; if none does, searches stay
    exact. What is found by it has its true scores. Running servers take it at once; indexing runs
    keep it up to date. `mmsearch status` shows it, `--exact` in a search passes it over.

    Before that, space in the catalog that nothing is in any more is given back to the disk.

    \b
      mmsearch optimize --target-recall 0.99 --max-memory 2GB
    """
    from mmsearch.optimize import Wanted, give_back, make_exact
    from mmsearch.optimize import optimize as run

    if exact and (measured := said("target_recall", "max_memory", "min_vectors")):
        name = f"--{measured[0].replace('_', '-')}"
        raise click.UsageError(f"{name} is for an approximate index, and --exact makes none")
    modalities = MODALITIES if modality is None else (modality,)
    with open_library(library) as lib:
        if exact:
            _exact(
                [(one, dry_run or make_exact(lib, one)) for one in modalities],
                as_json=as_json,
                dry_run=dry_run,
            )
            return
        wanted = Wanted(target_recall, max_memory, min_vectors)
        given_back = 0
        try:
            given_back = give_back(lib, dry_run=dry_run)
        except StoreError as exc:  # the other thing can be done all the same
            click.echo(f"No space of the catalog is given back: {exc}", err=True)
        if given_back and not as_json:
            nothing = " (nothing was changed)" * dry_run
            click.echo(f"catalog\n  {given_back / 1e6:,.0f} MB go back to the disk{nothing}")
        found = []
        for one in modalities:
            if not as_json:
                click.echo(f"{one} index")
            result = run(
                lib, one, wanted, dry_run=dry_run, tell=_silent if as_json else _Rows().tell
            )
            found.append(result)
            if not as_json:
                _conclude(result, dry_run=dry_run)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "given_back": given_back,
                "indexes": [asdict(result) for result in found],
            }
        )


def _exact(were: list[tuple[Modality, bool]], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, "exact": [modality for modality, _ in were]})
    elif dry_run:
        click.echo("Nothing was changed.")
    else:
        for modality, was in were:
            done = "compares everything again" if was else "compared everything already"
            click.echo(f"The {modality} index {done}.")


class _Rows:
    """A table whose rows come one by one, minutes apart."""

    def __init__(self) -> None:
        self._begun = False

    def tell(self, one: Candidate) -> None:
        if not self._begun:
            click.echo(_line(_HEADINGS))
            self._begun = True
        click.echo(_line(_cells(one)))


def _cells(one: Candidate) -> tuple[str, ...]:
    memory = f"{one.memory / 1e6:,.0f}"
    times = (f"{one.latency_ms:.2f}", f"{one.filtered_ms:.2f}")
    if not one.build_seconds:
        exact = one.recall > 0
        recall = f"{one.recall:.3f}" if exact else "too large"
        return (one.factory, "", "", recall, *(times if exact else ("", "")), memory, "")
    settings = (str(one.nprobe), str(one.candidates), f"{one.recall:.3f}")
    return (one.factory, *settings, *times, memory, f"{one.build_seconds:.1f}")


def _line(cells: tuple[str, ...]) -> str:
    first = f"  {cells[0]:<{_WIDTHS[0]}}"
    return first + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells[1:], _WIDTHS[1:], strict=True)
    )


def _silent(_: Candidate) -> None:
    pass


def _conclude(result: Optimized, *, dry_run: bool) -> None:
    kinds = {"texts": "texts of the library", "pictures": "pictures of the library"}
    if result.queries:
        kind = kinds.get(result.queries_of, "everyday captions")
        click.echo(
            f"  measured with {result.queries:,} {kind}, {counted(result.vectors, 'vector')}"
        )
    click.echo(f"  {result.outcome}{' (nothing was changed)' * dry_run}")
