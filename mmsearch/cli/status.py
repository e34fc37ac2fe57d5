"""`mmsearch status` and `models`: what there is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmsearch.cli.options import json_option, library_option, open_library, print_json, printable
from mmsearch.overview import (
    IndexStatus,
)
from mmsearch.plaintext import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from mmsearch.encode.presets import Preset

#: Columns of a terminal that the table of models needs.
_WIDE = 180


@click.command()
@click.option("--failed", is_flag=True, help="List every input that could not be used, and why.")
@json_option
@library_option
def status(failed: bool, as_json: bool, library: Path | None) -> None:
    """What the library holds, which model it was read with, and what failed."""
    with open_library(library) as lib:
        found = lib.status()
        failures = lib.failures() if failed else []
    if as_json:
        document: dict[str, Any] = asdict(found)
        if failed:
            document["failures"] = [asdict(failure) for failure in failures]
        print_json(document)
        return
    if failed:
        for failure in failures:
            click.echo(f"{printable(failure.path)}: {printable(failure.reason)}")
        if not failures:
            click.echo("Nothing failed.", err=True)
        return
    links = counted(found.links, "linked to a picture", "linked to pictures")
    free = f", about {found.free / 1e6:,.0f} MB of them free: mmsearch optimize gives them back"
    lines = [
        ("library", f"{found.path}  ({found.bytes / 1e6:,.1f} MB{free * bool(found.free)})"),
        ("pictures", f"{found.images:,}" + (f"  ({found.missing:,} gone)" * bool(found.missing))),
        ("texts", f"{found.texts:,}  ({links})"),
    ]
    if found.carried:
        lines.append(("", f"{found.carried:,} more that pictures carry themselves"))
    if found.failed:
        lines.append(("failed", f"{found.failed:,}  (mmsearch status --failed)"))
    lines += [
        (
            "model" if item.active else "other model",
            f"{item.space.name}  ({item.space.dim} dimensions, {item.space.preprocessing})",
        )
        for item in sorted(found.spaces, key=lambda item: not item.active)
    ]
    for index in found.index:
        lines += _index_lines(index)
    for name, text in lines:
        click.echo(f"{name + ':' if name else '':14}{printable(text)}")


def _index_lines(index: IndexStatus) -> list[tuple[str, str]]:
    megabytes = index.vectors * index.bytes_per_vector / 1e6
    size = f"{counted(index.vectors, 'vector')}, {megabytes:,.1f} MB"
    if index.approximate is None:
        return [(f"{index.modality} index", f"{index.factory}, exact, {size}")]
    queries = {"texts": "of its texts", "pictures": "of its pictures"}.get(
        index.queries_of, "everyday captions"
    )
    lines = [
        (f"{index.modality} index", f"{index.factory}, {size}"),
        (
            "",
            f"searched by {index.approximate} (nprobe {index.nprobe}, {index.candidates} "
            f"candidates), {index.memory / 1e6:,.1f} MB in memory",
        ),
        (
            "",
            f"recall@10 {index.recall:.3f}, {index.latency_ms:.1f} ms, measured with "
            f"{index.queries:,} {queries} on {counted(index.measured_on, 'vector')}",
        ),
    ]
    if index.outgrown:
        lines.append(("", "much has changed since: run mmsearch optimize again"))
    return lines


@click.command()
@json_option
def models(as_json: bool) -> None:
    """The models to choose from with `mmsearch index --model NAME`.

    Beside these: any open_clip model as ARCHITECTURE/WEIGHTS, a folder as local-dir:PATH.
    """
    from mmsearch.encode.presets import PRESETS

    presets = list(PRESETS.values())
    if as_json:
        print_json({"models": [asdict(preset) for preset in presets]})
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 200
    # Eight columns of a narrow terminal would hold some letters each.
    if console.width < _WIDE:
        _list_models(presets, console.width)
    else:
        console.print(_table_of_models(presets))
    click.echo(
        "recall@1: published, text to image on COCO, zero-shot; tiny knows drawn scenes only."
    )


def _list_models(presets: Sequence[Preset], width: int) -> None:
    for preset in presets:
        size = f"{preset.download_mb / 1000:.1f} GB, " if preset.download_mb else ""
        recall = f"recall@1 {preset.recall:.1f} %, " if preset.recall else ""
        facts = f"{size}{preset.dim} dimensions, languages: {preset.languages}, {recall}"
        for text in (preset.use, preset.spec, facts + preset.licence):
            name = preset.name if text is preset.use else ""
            click.echo(click.wrap_text(text, width, f"{name:14}", " " * 14))


def _table_of_models(presets: Sequence[Preset]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "stands for", "download", "dim", "languages", "recall@1", "licence"):
        table.add_column(heading, justify="right" if heading in ("download", "dim") else "left")
    table.add_column("use", overflow="fold")
    for preset in presets:
        size = f"{preset.download_mb / 1000:.1f} GB" if preset.download_mb else "none"
        recall = f"{preset.recall:.1f} %" if preset.recall else "-"
        table.add_row(
            preset.name,
            preset.spec,
            size,
            str(preset.dim),
            preset.languages,
            recall,
            preset.licence,
            preset.use,
        )
    return table
