"""`python -m mmsearch.postcards DIR --n 200`: write a folder of postcards."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from mmsearch.postcards.scene import Split


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--n", default=200, show_default=True, help="How many postcards.")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True)
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--size", default=224, show_default=True, help="Side of a picture in pixels.")
def main(folder: Path, n: int, split: str, start: int, size: int) -> None:
    """Write N postcards with captions.jsonl and attributes.jsonl into FOLDER."""
    from mmsearch.postcards.samples import write_samples

    write_samples(folder, n, split=cast(Split, split), start=start, size=size)
    click.echo(f"{n} postcards in {folder}")


if __name__ == "__main__":
    main()
