"""`mmsearch backup` and `mmsearch doctor`: keeping a library safe and sound."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from mmsearch.cli.options import (
    json_option,
    library_option,
    library_path,
    load_settings,
    print_json,
    printable,
)
from mmsearch.filenames import from_home
from mmsearch.plaintext import both_counted, counted


@click.command()
@click.argument("copy", type=click.Path(path_type=Path))
@click.option(
    "--with-index", is_flag=True, help="Copy the index files too; else they are built again."
)
@json_option
@library_option
def backup(copy: Path, with_index: bool, as_json: bool, library: Path | None) -> None:
    """Copy the library, also while it is in use.

    COPY is a folder that does not exist yet, or an empty one. It becomes a library of its own, with
    everything, the pictures that were uploaded to it included, but for those in your own folders
    and for thumbnails: the state of one moment, checked.
    To go back to it, move the damaged library away and copy the folder to its place.

    \b
      mmsearch backup /mnt/backup/mmsearch-monday
      mmsearch -l /mnt/backup/mmsearch-monday search "a red kite"
    """
    from mmsearch.backup import backup as run_backup

    where = library_path(library, load_settings())
    report = run_backup(where, from_home(copy), with_index=with_index)
    if as_json:
        print_json(asdict(report))
        return
    path = printable(report.path)
    index = f", {counted(report.index_files, 'index file')}" * with_index
    click.echo(
        f"{both_counted(report.images, report.texts)}{index}, {report.bytes / 1e6:,.1f} MB: {path}"
    )
    click.echo(f"Open it with: mmsearch -l {shlex.quote(path)} search WORDS")


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option(
    "--files/--no-files", default=True, help="Look for every picture's file. [default: yes]"
)
@json_option
@library_option
def doctor(repair: bool, files: bool, as_json: bool, library: Path | None) -> None:
    """Check the library, and mend what can be mended.

    Looks at the catalog (the file, its rows, every vector), at the indexes, thumbnails and files.
    Without --repair nothing is changed. What is derived is built anew; what is beyond repair is
    removed and read again by the next `mmsearch index`. A damaged catalog is left as it is.

    Exit code 0 when all is well or mended, 1 when something is wrong.
    """
    from mmsearch.doctor import Finding
    from mmsearch.doctor import doctor as run_doctor

    where = library_path(library, load_settings())
    findings: list[Finding] = []
    # What index files have to complain of comes as findings.
    with _silent("mmsearch.index"), _silent("mmsearch.indexes"):
        for finding in run_doctor(where, repair=repair, files=files):
            findings.append(finding)
            if not as_json:
                click.echo(f"{finding.state:9} {finding.check:11} {printable(finding.message)}")
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        print_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
    elif problems:
        click.echo(f"{problems} of {len(findings)} checks found something wrong.", err=True)
    if problems:
        sys.exit(1)


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
