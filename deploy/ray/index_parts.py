"""Indexes folders on the machines of a Ray cluster, a library each, and brings them together.

    python deploy/ray/index_parts.py --library ~/photos.library --parts /shared/parts \\
        /shared/photos/2019 /shared/photos/2020 /shared/photos/2021

The folders and --parts lie on a file system that every machine has at the same path; mmsearch is
installed on each. A library is written on the machine's own disk (SQLite's WAL does not work over
NFS) and then copied to --parts as a whole, from where the next run goes on, on whatever machine.
Again, it reads only what is new. deploy/scaling.md tells the rest.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click


def mmsearch(library: Path, *words: str) -> None:
    """Runs a command on a library. Raises RuntimeError with what it said."""
    command = [sys.executable, "-m", "mmsearch", "-l", str(library), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"mmsearch {' '.join(words)}: {done.stderr.strip()[-1000:]}")


def part_of(folder: str, parts: Path) -> Path:
    """Where the library of a folder is kept."""
    digest = hashlib.sha256(folder.encode()).hexdigest()[:12]
    return parts / f"{Path(folder).name}-{digest}.library"


def index_part(folder: str, parts: Path, options: list[str]) -> Path:
    """Brings the library of one folder up to date, on this machine; returns where it is kept."""
    kept = part_of(folder, parts)
    new = kept.with_name(f"{kept.name}.new")
    if new.exists():  # whole: a run was killed before it took its place
        _replace(kept, new)
    with tempfile.TemporaryDirectory(prefix="mmsearch-part-") as scratch:
        work = Path(scratch) / "library"
        if kept.exists():
            shutil.copytree(kept, work)
        mmsearch(work, "index", folder, *options)
        mmsearch(work, "backup", str(new))
    _replace(kept, new)
    return kept


def _replace(kept: Path, new: Path) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    new.rename(kept)


def take_in(library: Path, part: Path) -> None:
    """Takes the library of a part into the one of all, by way of this machine's disk."""
    with tempfile.TemporaryDirectory(prefix="mmsearch-part-") as scratch:
        mmsearch(library, "import", str(shutil.copytree(part, Path(scratch) / "library")))


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--library", required=True, type=click.Path(path_type=Path), help="That of all.")
@click.option("--parts", required=True, type=click.Path(path_type=Path), help="On shared disk.")
@click.option("--model", help="As of mmsearch index.")
@click.option("--address", help="Of the cluster; without it, this machine alone.")
@click.option("--cpus", default=4.0, show_default=True, help="Cores a folder.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs a folder.")
def main(
    folders: tuple[str, ...],
    library: Path,
    parts: Path,
    model: str | None,
    address: str | None,
    cpus: float,
    gpus: float,
) -> None:
    """Index FOLDERS on a Ray cluster."""
    import ray

    library, parts = library.absolute(), parts.absolute()
    parts.mkdir(parents=True, exist_ok=True)
    options = [] if model is None else ["--model", model]
    ray.init(address=address)
    try:
        # A machine that is lost loses one part, which another one begins again.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(index_part)
        places = [str(Path(folder).resolve()) for folder in folders]
        running = {task.remote(place, parts, options): place for place in places}
        failed = 0
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            place = running.pop(done)
            try:
                take_in(library, ray.get(done))
            except (ray.exceptions.RayError, RuntimeError) as exc:
                failed += 1
                click.echo(f"{place}: {exc}", err=True)
            else:
                click.echo(f"{place}: done, {len(running)} to go")
    finally:
        ray.shutdown()
    if failed:
        click.echo(f"{failed} folders failed; the same command tries them again.", err=True)
        sys.exit(1)
    mmsearch(library, "index")  # finds all of it known, and notices what is gone
    click.echo(f"All of it is in {library}")


if __name__ == "__main__":
    main()
