"""Kills indexing runs, breaks their disks, damages what they wrote, and counts what is lost.

The long run:

    python tests/endurance/crash.py --kills 200 --faults 200 --seed 1 --work DIR --out result.json

prints a table of what was tried and what went wrong, and exits with 1 if anything did. A process
of its own, because a failing disk (faults.c) has to be loaded before everything else;
test_crash.py runs it with small numbers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import shim  # noqa: E402

_KILLS = ("point", "statement", "write", "moment")


def can_mount(work: Path) -> bool:
    """Whether a small disk of its own can be made here (root may)."""
    folder = work / "can-mount"
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
        )
    except OSError:
        return False
    if done.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    return done.returncode == 0


def _preload() -> None:
    """Imports for all children what an indexing run and a search need."""
    import alembic.command  # noqa: F401
    import faiss  # noqa: F401
    import open_clip  # noqa: F401
    import PIL.Image
    import torch

    import indexer.cli
    import indexer.cli_manage
    import indexer.manage
    import indexer.texts  # noqa: F401
    import mmsearch.backup
    import mmsearch.cli.maintain
    import mmsearch.doctor
    import mmsearch.encode.openclip
    import mmsearch.encode.text_tower
    import mmsearch.index.flat
    import mmsearch.search
    import mmsearch.settings  # noqa: F401

    PIL.Image.init()
    torch.set_num_threads(1)
    # A collection in a child would copy all that was imported, page by page: most of a run's time.
    gc.collect()
    gc.freeze()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run: its numbers, and all that went wrong."""
    _preload()
    from damage import Damages
    from scenes import Stage
    from trials import FAILINGS, Trials

    started = time.monotonic()
    work: Path = options.work / f"crash-{os.getpid()}"
    work.mkdir(parents=True)
    stage = Stage(work)
    scenes = stage.scenes()
    trials = Trials(stage, scenes, options.seed)
    skipped = []
    trials.kills(options.kills)
    if options.faults and (why := shim.lacking()) is not None:
        skipped.append(f"failing writes: {why}")
    else:
        trials.faults(options.faults)
    if options.full_disks and not can_mount(work):
        skipped.append("full disks: a small disk can only be mounted by root")
    else:
        trials.full_disks(options.full_disks)
    account = trials.account
    damages = Damages(stage, scenes, account, options.seed)
    damages.play(options.damages)
    gc.unfreeze()
    named = {point for scene in scenes for point in scene.clean.points}
    rows = [
        {"what": kind, "tried": tried} | {f: account.count(kind, f) for f in FAILINGS}
        for kind, tried in account.tried.items()
    ]
    return {
        "seed": options.seed,
        "seconds": round(time.monotonic() - started),
        "scenes": [scene.name for scene in scenes],
        "rows": rows,
        "kills": sum(account.tried[kind] for kind in _KILLS),
        "points": sorted(named),
        "spared": sorted(named - account.struck),
        "refused": account.refused,
        "finished": account.finished,
        "messages": dict(account.messages.most_common()),
        "hits": dict(account.hits.most_common()),
        "skipped": skipped,
        "wrong": account.wrong,
    }


def table(document: dict[str, Any]) -> str:
    """The rows for people."""
    rows = document["rows"]
    names = list(rows[0]) if rows else []
    total = {"what": "all"} | {n: sum(row[n] for row in rows) for n in names[1:]}
    width = max(len(str(row["what"])) for row in [*rows, total])
    lines = [f"{'':{width}}  " + "  ".join(names[1:])]
    for row in [*rows, total]:
        cells = "  ".join(f"{row[name]:>{len(name)}}" for name in names[1:])
        lines.append(f"{row['what']:{width}}  {cells}")
    lines.append("")
    spared = f"{len(document['points'])} commit points ({len(document['spared'])} spared)"
    lines.append(
        f"{document['kills']} kills, {spared}; of the runs whose disk failed "
        f"{document['refused']} were refused and {document['finished']} finished; "
        f"{document['seconds']} s, seed {document['seed']}"
    )
    lines += [f"NOT TRIED: {why}" for why in document["skipped"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=int, default=200, help="writes that fail")
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--damages", type=int, default=100, help="of derived files")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--work", type=Path, required=True, help="an existing scratch folder")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    options = parser.parse_args()
    options.work = options.work.resolve()
    if "faults.so" not in os.environ.get("LD_PRELOAD", "") and shim.lacking() is None:
        # Forked children must not inherit the threads of a parallel region either.
        more = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(options.work / "cache")}
        settings = {name for name in os.environ if name.startswith("MMSEARCH_")}
        kept = {name: value for name, value in os.environ.items() if name not in settings}
        os.execve(
            sys.executable,
            [sys.executable, *sys.argv],
            kept | more | shim.environment(options.work),
        )
    document = run(options)
    if options.out is not None:
        options.out.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    sys.stdout.write(table(document) + "\n")
    for wrong in document["wrong"][:20]:
        sys.stdout.write(json.dumps(wrong, ensure_ascii=False) + "\n")
    sys.exit(1 if document["wrong"] else 0)


if __name__ == "__main__":
    main()
