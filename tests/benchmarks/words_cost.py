"""What the words of a library cost: in time to write, in bytes, and in time to search.

Writing: commits of 10,000 pictures with five captions each (vectors of 512 dimensions), linked at
the end, once as they are and once without the tables of words and their triggers, several times in
turn; the best of each counts, since other work on the machine only ever adds.

Searching: a catalog of many pictures with a caption each, in folders by land, year and day; words
of captions follow Zipf's law, so w0 is in six of ten captions and w20000 in hardly any.

    python tests/benchmarks/words_cost.py [--pictures 500000] [--repeats 3] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from mmsearch.store import Catalog, CatalogWriter, ImageRow, TextRow, word_rows
from mmsearch.store.engine import create_engine
from mmsearch.types import PictureInfo, Space

DIM = 512
LANDS = ("germany", "france", "italy", "spain", "norway", "japan", "peru", "kenya")
_CAPTIONS = 5
_WORDS_A_CAPTION = 10
_VOCABULARY = 50_000
_QUERIES = {
    "a file name": "IMG_0123456",
    "the same, apart": "img 0123456",
    "in every row": "img",
    "a folder of one in eight": "germany",
    "a folder and a year": "germany 2019",
    "folder, year, common word": "germany 2019 w5",
    "folder, year, rare word": "germany 2019 w20000",
    "the commonest word": "w0",
    "common words": "w0 w1 w2 w3",
    "words of one caption in 100": "w80 w120 w150",
    "words of one in 1,000": "w900 w1100",
    "rare words": "w20000 w30000",
    "a caption": "w0 w3 w17 w250 w800 w1200 w9000 w4 w12 w33",
    "a phrase of common words": '"w0 w1 w2"',
    "a phrase that is not there": '"w1 germany w2"',
    "2,000 characters": " ".join(f"w{n}" for n in range(500)),
}


def captions(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, _VOCABULARY + 1)
    words = rng.choice(_VOCABULARY, (n, _WORDS_A_CAPTION), p=weights / weights.sum())
    return [" ".join(map(spelt, row)) for row in words.tolist()]


def spelt(word: int) -> str:
    """A number in letters."""
    letters = "bcdfghjklmnpqrtvwxyz"
    return (spelt(word // 20) if word >= 20 else "") + letters[word % 20] + "a"


def asked(query: str) -> str:
    return re.sub(r"\bw(\d+)", lambda found: spelt(int(found[1])), query)[:2000]


def path_of(n: int) -> str:
    return f"{LANDS[n % 8]}/{2010 + n // 8 % 10}/day {n // 997}/IMG_{n:07}.jpg"


def write(folder: Path, n: int, *, words: bool) -> tuple[float, int]:
    """Seconds to write n pictures with their captions and to link them, and the file's bytes."""
    path = folder / f"{words}-{time.time_ns()}.db"
    rng = np.random.default_rng(0)
    info = PictureInfo("JPEG", 4000, 3000)
    with closing(CatalogWriter(path)) as writer:
        if not words:
            without_words(path)
        space = writer.ensure_space(Space("bench", DIM, "b" * 64, "none"))
        source = writer.ensure_source("/photos", "folder", (), False)
        vectors = rng.standard_normal((2000, DIM), dtype=np.float32)
        bodies = captions(n * _CAPTIONS, 1)
        images = [
            ImageRow(source, path_of(i), "", 1, 1, rng.bytes(32), info, vectors[i % 2000])
            for i in range(n)
        ]
        texts = [
            TextRow(
                source, "captions.jsonl", "", str(i), "file", body, rng.bytes(32),
                path_of(i // _CAPTIONS), vectors[i % 2000],
            )
            for i, body in enumerate(bodies)
        ]  # fmt: skip
        start = time.perf_counter()
        writer.commit(space, images=images)
        for at in range(0, len(texts), 10_000):
            writer.commit(space, texts=texts[at : at + 10_000])
        writer.link()
        taken = time.perf_counter() - start
    size = path.stat().st_size
    path.unlink()
    return taken, size


def without_words(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for trigger in word_rows.TRIGGER_SQL:
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.commit()


def fill(path: Path, n: int) -> None:
    """A catalog of n pictures with a caption each, without vectors."""
    CatalogWriter(path).close()
    with closing(CatalogWriter(path)) as writer:
        writer.ensure_source("/photos", "folder", (), False)
    engine = create_engine(path)
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        for start in range(0, n, 20_000):
            part = range(start, min(n, start + 20_000))
            bodies = captions(len(part), start)
            run(
                "INSERT INTO content (id, modality, hash) VALUES (?, ?, randomblob(32))",
                [row for i in part for row in ((2 * i + 1, "image"), (2 * i + 2, "text"))],
            )
            run(
                "INSERT INTO picture (content_id, bytes, format, width, height, keywords) "
                "VALUES (?, 1, 'JPEG', 4, 3, '[]')",
                [(2 * i + 1,) for i in part],
            )
            run(
                "INSERT INTO image (id, source_id, path, member, name, size, mtime_ns, content_id) "
                "VALUES (?, 1, ?, '', ?, 1, 1, ?)",
                [(i + 1, path_of(i), path_of(i).rpartition("/")[2], 2 * i + 1) for i in part],
            )
            run(
                "INSERT INTO passage (content_id, body) VALUES (?, ?)",
                [(2 * i + 2, body) for i, body in zip(part, bodies, strict=True)],
            )
            run(
                "INSERT INTO text (source_id, path, member, key, origin, content_id, image_ref, "
                "image_id) VALUES (1, 'captions.jsonl', '', ?, 'file', ?, ?, ?)",
                [(str(i), 2 * i + 2, path_of(i), i + 1) for i in part],
            )
            word_rows.renew(connection)
            connection.commit()
    engine.dispose()


def sizes(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(
            connection.execute(
                "SELECT CASE WHEN name LIKE 'image_words%' THEN 'image_words' "
                "WHEN name LIKE 'text_words%' THEN 'text_words' ELSE 'all else' END AS what, "
                "sum(pgsize) FROM dbstat WHERE aggregate = TRUE GROUP BY what"
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What words cost")
    parser.add_argument("--pictures", type=int, default=500_000)
    parser.add_argument("--written", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep the large catalog here, or use it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        taken: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
        for _ in range(options.repeats):
            for words in (False, True):
                taken[words].append(write(folder, options.written, words=words))
        if options.repeats:
            (plain, plain_size), (full, full_size) = (min(taken[w]) for w in (False, True))
            pictures = options.written
            print(
                f"{pictures:,} pictures with {_CAPTIONS} captions each, best of {options.repeats}"
            )
            print(f"  without words {plain:6.2f} s {plain_size / pictures:8,.0f} bytes a picture")
            print(f"  with words    {full:6.2f} s {full_size / pictures:8,.0f} bytes a picture")
            print(f"  {full / plain:.3f} times; {1e6 * (full - plain) / pictures:.0f} us a picture")
        path = (options.keep or folder) / "catalog.db"
        if not path.exists():
            start = time.perf_counter()
            fill(path, options.pictures)
            taken_s = time.perf_counter() - start
            print(f"{options.pictures:,} pictures and as many texts: {taken_s:.0f} s")
        for what, size in sizes(path).items():
            print(f"  {what:12} {size / options.pictures:8.0f} bytes a picture")
        with closing(Catalog(path)) as catalog:
            for modality in ("image", "text"):
                print(f"{modality}: median and longest of 7, ms")
                for what, query in _QUERIES.items():
                    times = []
                    for _ in range(7):
                        start = time.perf_counter()
                        found = catalog.words.find(asked(query), modality, 1000)
                        times.append(1000 * (time.perf_counter() - start))
                    middle = statistics.median(times)
                    print(f"  {what:30} {middle:8.1f} {max(times):8.1f}  {len(found):5} found")


if __name__ == "__main__":
    main()
