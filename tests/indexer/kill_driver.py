"""Runs the indexer in processes that are killed with SIGKILL, again and again.

A process of its own, so that the libraries, which take seconds to import, are imported once: each
run is a fork of it. Prints one JSON document; tests/indexer/test_kill.py looks at it.

    kill_driver.py FOLDER_OF_PICTURES WORK_FOLDER MODEL KILLS SEED
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss  # noqa: F401 -- imported for the children
import open_clip  # noqa: F401
import sqlalchemy as sa
import torch
from alembic import command  # noqa: F401

from indexer.ingest import Options, index
from mmsearch.library import Library  # noqa: F401

#: No index run of a few pictures takes that long.
_DEADLINE_S = 60


def run(pictures: Path, library: Path, model: str, die_at: int) -> dict[str, Any]:
    """One indexing run; `die_at` is the number of the SQL statement that it does not survive."""
    statements = 0

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def _count(*_args: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    options = Options(model=model, device="cpu", dtype="fp32")
    started = time.monotonic()
    report = index(library, [pictures], options=options)
    return {
        "images": report.encoded_images,
        "texts": report.encoded_texts,
        "statements": statements,
        "seconds": time.monotonic() - started,
    }


def fork(
    pictures: Path, library: Path, model: str, *, die_at: int = 0, after_s: float = _DEADLINE_S
) -> dict[str, Any] | None:
    """run() in a child, killed after `after_s`; None when it was killed before it was done."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(out)
            report = run(pictures, library, model, die_at)
            os.write(into, json.dumps(report).encode())
            code = 0
        except BaseException as exc:  # noqa: BLE001 -- the test shows it
            os.write(into, json.dumps({"error": repr(exc)}).encode())
        finally:
            os._exit(code)
    os.close(into)
    # The child ends by itself, which closes the pipe, or has had its time.
    select.select([out], [], [], after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(out, "rb") as pipe:
        data = pipe.read()
    return json.loads(data) if data else None


def committed(library: Path) -> dict[str, Any]:
    """What a library holds, read with nothing of mmsearch."""
    path = library / "catalog.db"
    if not path.exists():
        return {"vectors": {}, "places": [], "problems": []}
    with closing(sqlite3.connect(path)) as connection:
        problems = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        problems += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "alembic_version" not in tables:
            return {"vectors": {}, "places": [], "problems": problems + sorted(tables)}
        vectors = connection.execute(
            "SELECT modality || ' ' || hex(hash), hex(vector) FROM embedding"
            " JOIN content ON content.id = content_id"
        ).fetchall()
        places = [
            list(row)
            for row in connection.execute(
                "SELECT path, member, '' AS key, hex(hash) FROM image"
                " JOIN content ON content.id = content_id"
                " UNION ALL SELECT path, member, key, hex(hash) FROM text"
                " JOIN content ON content.id = content_id ORDER BY 1, 2, 3"
            )
        ]
        for table in ("image", "text"):
            # A place and its content's vector are of one transaction.
            bare = connection.execute(
                f"SELECT count(*) FROM {table} WHERE content_id NOT IN"
                " (SELECT content_id FROM embedding)"
            ).fetchone()[0]
            problems += [f"{bare} of {table} without a vector"] if bare else []
    if len(dict(vectors)) != len(vectors):
        problems.append("a content twice")
    return {"vectors": dict(vectors), "places": places, "problems": problems}


def main() -> None:
    pictures, work, model = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    kills, chance = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    clean = fork(pictures, work / "clean", model)
    if clean is None or "error" in clean:
        sys.exit(f"the clean run failed: {clean}")
    story: list[dict[str, Any]] = []
    killed = round_ = 0
    while True:
        library = work / f"round-{round_}"
        before = committed(library)
        if killed == kills:
            report = fork(pictures, library, model)  # the last one may end
        elif chance.random() < 0.6:
            # Also where much is at stake in little time: the tables are made, texts are linked.
            most = int(clean["statements"])
            first, last = chance.choice([(1, most), (1, 60), (most - 60, most)])
            report = fork(pictures, library, model, die_at=chance.randint(first, last))
        else:
            report = fork(pictures, library, model, after_s=chance.uniform(0, clean["seconds"]))
        after = committed(library)
        story.append(
            {
                "library": library.name,
                "killed": report is None,
                "report": report,
                "lost": sorted(before["vectors"].items() - after["vectors"].items()),
                "lost_places": [
                    place for place in before["places"] if place not in after["places"]
                ],
                "problems": [problem for problem in after["problems"] if problem != "ok"],
                "before": len(before["vectors"]),
                "after": len(after["vectors"]),
            }
        )
        killed += report is None
        if report is not None:
            if killed == kills:
                break
            round_ += 1
    json.dump({"clean": clean, "story": story}, sys.stdout)


if __name__ == "__main__":
    main()
