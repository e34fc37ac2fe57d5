"""Indexes in a process of its own and says when each thing was committed, one JSON object a line.

    indexing_driver.py LIBRARY FOLDER OTHER_MODEL ROUNDS PICTURES_A_ROUND

Each round writes pictures and indexes them; then some are deleted, the library moves to another
model, and more come. Reads a line from stdin before each step, so that each is seen alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from collection import encoded, write

from indexer.ingest import Options, index
from indexer.models import Models

_COMMITTED = ": committed"
_last: dict[str, float] = {}


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "mmsearch.point" and str(arguments[0]).endswith(_COMMITTED):
        _last[str(arguments[0]).removesuffix(_COMMITTED)] = time.time()


def main() -> None:
    library, folder, other = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    rounds, size = int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    sys.addaudithook(_note)
    models = Models()

    def step(what: str, point: str, names: list[str], model: str | None = None) -> None:
        options = Options(model=model, device="cpu", dtype="fp32")
        report = index(library, [folder], options=options, models=models)
        at = _last[point]
        told = {"step": what, "names": names, "at": at, "encoded": report.encoded_images}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()

    sys.stdin.readline()
    for number in range(rounds):
        names = [f"{number:02}/{n:02}.png" for n in range(size)]
        for n, name in enumerate(names):
            write(folder / name, encoded(1000 + number * size + n))
        step("added", "items", names)
    gone = [f"{number:02}/00.png" for number in range(rounds)]
    for name in gone:
        (folder / name).unlink()
    step("deleted", "sweep", gone)
    step("switched", "switch", [], model=other)
    again = [f"new{n}.png" for n in range(5)]
    for n, name in enumerate(again):
        write(folder / name, encoded(5000 + n))
    step("added", "items", again)


if __name__ == "__main__":
    main()
