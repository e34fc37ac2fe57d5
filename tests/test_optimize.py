"""`mmsearch optimize`: what it chooses, and that nothing goes wrong beside it or when it dies."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import faiss
import numpy as np
import pytest
from click.testing import CliRunner

from indexer.manage import forget_gone
from mmsearch.cli import cli
from mmsearch.doctor import Finding
from mmsearch.doctor.indexes import IndexDoctor
from mmsearch.errors import IndexMissingError, RefusedError
from mmsearch.index import fast, manifest, measured, trial
from mmsearch.index.flat import FlatIndex
from mmsearch.index.trial import Candidate
from mmsearch.library import Library
from mmsearch.optimize import Wanted, make_exact, optimize
from mmsearch.points import EVENT
from mmsearch.store import Catalog, CatalogWriter, shrink
from mmsearch.store.lock import optimizing, writing
from mmsearch.store.mend import examined
from mmsearch.types import Space

DIM = 32
SPACE = Space("some/model", DIM, "0123456789abcdef" * 4, "as it is")
N = 3000
WANTED = Wanted(0.95, None, 0)


def clustered(n: int, seed: int, *, words: bool = False) -> np.ndarray:
    """Around 40 centres; those of words on the other side of a gap."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, DIM))
    rows = centres[rng.integers(0, 40, n)] + 0.6 * rng.standard_normal((n, DIM))
    rows[:, 0] = -6 if words else 6
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add(path: Path, modality: str, rows: np.ndarray) -> None:
    """Vectors of contents that files hold, as an indexing run commits them."""
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        (last,) = connection.execute("SELECT ifnull(max(id), 0) FROM content").fetchone()
        ids = range(last + 1, last + 1 + len(rows))
        connection.executemany(
            "INSERT INTO content (id, modality, hash) VALUES (?, ?, ?)",
            ((id_, modality, id_.to_bytes(32, "big")) for id_ in ids),
        )
        connection.executemany(
            "INSERT INTO embedding (space_id, content_id, vector) VALUES (1, ?, ?)",
            zip(ids, (row.tobytes() for row in rows.astype("<f2")), strict=True),
        )
        connection.execute("UPDATE state SET revision = revision + 1")
        connection.commit()


def finish_run(path: Path) -> None:
    """What an indexing run does at its end."""
    with writing(path), Library(path) as library:
        library.save_indexes()


def made(path: Path, *, texts: int = 120, space: Space = SPACE) -> Path:
    path.mkdir()
    with closing(CatalogWriter(path / "catalog.db")) as writer:
        writer.activate(writer.ensure_space(space))
    add(path, "image", clustered(N, 1))
    if texts:
        add(path, "text", clustered(texts, 2, words=True))
    finish_run(path)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick(monkeypatch)
    return made(tmp_path / "library")


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Approximate search is the faster one, whatever the machine and the few vectors say."""

    def times(_: object, *, exact: bool) -> tuple[float, float]:
        return (9.0, 9.0) if exact else (1.0, 1.0)

    monkeypatch.setattr(trial.Trial, "_times", times)
    monkeypatch.setattr(trial, "factories", lambda n, dim: [f"IVF1,PQ{dim // 2}x4fs"])


def recall(index: FlatIndex, xq: np.ndarray) -> float:
    found, truth = index.search(xq, 10), index.search(xq, 10, exact=True)
    near = sum(
        int(np.count_nonzero(one.scores >= true.scores[-1]))
        for one, true in zip(found, truth, strict=True)
    )
    return near / sum(len(true.ids) for true in truth)


def files(path: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in sorted((path / "index").glob(f"{SPACE.fingerprint[:16]}*"))
    }


def image_file(path: Path) -> Path:
    return manifest.index_file(path / "index", SPACE, "image")


def test_chosen_with_the_texts_of_the_library(path: Path) -> None:
    told: list[Candidate] = []
    with Library(path) as library, Library(path) as server:
        assert server.index("image").fast is None
        result = optimize(library, "image", WANTED, tell=told.append)
        assert (result.vectors, result.queries, result.queries_of) == (N, 120, "texts")
        assert result.chosen is not None
        assert result.chosen.recall >= 0.95
        assert list(result.candidates) == told
        about = measured.read(image_file(path))
        assert about is not None
        assert about.factory == result.chosen.factory
        assert about.recall == result.chosen.recall
        told_of = server.status().index[0]
        assert (told_of.approximate, told_of.recall) == (about.factory, about.recall)
        server.refresh()
        index = server.index("image")
        assert index.fast is not None
        assert recall(index, clustered(100, 50, words=True)) >= 0.92
        assert make_exact(library, "image")
        assert not make_exact(library, "image")
        server.refresh()
        assert server.index("image").fast is None
        assert server.status().index[0].approximate is None
    assert not list((path / "index").glob("*.fast*"))


def test_how_deep_the_index_was_measured_to_find_what_is_near(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves out the weak looks at more than 10: only an index that serves it is used."""
    with Library(path) as library, Library(path) as server:
        result = optimize(library, "image", WANTED)
        assert result.chosen is not None
        assert result.chosen.reach == fast.DEEPEST
        assert result.chosen.candidates >= 2 * fast.DEEPEST
        assert "compare everything" not in result.outcome
        index = server.index("image")
        assert index.reach == fast.DEEPEST
        # It says so of the neighbours that it finds, and not of those that all are compared for.
        xq = clustered(100, 50, words=True)
        found, true = (index.search(xq, fast.DEEPEST, exact=exact) for exact in (False, True))
        near = [np.isin(a.ids, b.ids).mean() for a, b in zip(found, true, strict=True)]
        assert float(np.mean(near)) > 0.9
        recall = trial.Trial.recall
        monkeypatch.setattr(
            trial.Trial, "recall", lambda self, k=10: recall(self, k) if k == 10 else 0.5
        )
        result = optimize(library, "image", WANTED)
        assert result.chosen is not None
        assert result.chosen.reach == fast.SHALLOW
        assert "leave out what is too weak compare everything" in result.outcome
        about = measured.read(image_file(path))
        assert about is not None
        assert about.reach == fast.SHALLOW
        server.refresh()
        assert server.index("image").reach == fast.SHALLOW
        # One that was measured before this was looked at says nothing.
        file = measured.about_file(image_file(path))
        document = json.loads(file.read_text())
        del document["reach"]
        file.write_text(json.dumps(document))
        about = measured.read(image_file(path))
        assert about is not None
        assert about.reach == fast.SHALLOW


def test_pictures_ask_for_texts(path: Path) -> None:
    with Library(path) as library:
        result = optimize(library, "text", WANTED)
        assert result.queries_of == "pictures"


def test_without_texts_captions_ask(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmsearch.encode import load_text_encoder

    quick(monkeypatch)
    space = load_text_encoder(model).space
    path = tmp_path / "library"
    monkeypatch.setattr(f"{__name__}.DIM", space.dim)
    made(path, texts=20, space=space)
    with Library(path) as library:
        result = optimize(library, "image", WANTED)
    assert result.queries_of == "captions"
    assert result.queries > 100


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(0.95, None, N + 1), "quick enough"),
        (Wanted(0.95, 1000, 0), "memory"),
        (Wanted(1.01, None, 0), "reaches 1.01"),
    ],
)
def test_stays_exact(path: Path, wanted: Wanted, says: str) -> None:
    before = files(path)
    with Library(path) as library:
        result = optimize(library, "image", wanted)
        assert says in result.outcome
        assert library.index("image").fast is None
    assert files(path) == before


def test_stays_exact_where_that_is_faster(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.Trial, "_times", lambda _, *, exact: (1.0, 1.0) if exact else (2, 2))
    with Library(path) as library:
        assert "nothing else is faster" in optimize(library, "image", WANTED).outcome
    assert not list((path / "index").glob("*.fast*"))


def test_dry_run_changes_nothing(path: Path) -> None:
    before = files(path)
    with Library(path) as library:
        result = optimize(library, "image", WANTED, dry_run=True)
    assert result.chosen is not None
    assert result.chosen.recall < 1.01
    assert files(path) == before


def test_empty_library(tmp_path: Path) -> None:
    with closing(CatalogWriter(tmp_path / "catalog.db")):
        pass
    with Library(tmp_path) as library, pytest.raises(IndexMissingError, match="mmsearch index"):
        optimize(library, "image", WANTED)


def test_one_at_a_time_and_beside_an_indexing_run(path: Path) -> None:
    with Library(path) as library:
        with optimizing(path / "index") as alone:
            assert alone
            with pytest.raises(RefusedError, match="another process"):
                optimize(library, "image", WANTED)
        with writing(path):
            assert optimize(library, "image", WANTED).chosen is not None
    assert measured.read(image_file(path)) is not None


def test_kept_up_by_indexing_runs(path: Path) -> None:
    with Library(path) as library, Library(path) as server:
        optimize(library, "image", WANTED)
        server.index("image")
        add(path, "image", clustered(N, 3))
        server.refresh()
        assert len(server.index("image")) == 2 * N
        finish_run(path)
        server.refresh()
        index = server.index("image")
        assert index.fast is not None
        assert index.delta == 0
        about = measured.read(image_file(path))
        assert about is not None
        assert (about.ntotal, about.measured_on) == (2 * N, N)
        assert recall(index, clustered(100, 50, words=True)) >= 0.9


def forget(path: Path, ids: range) -> Callable[[], None]:
    """Makes contents such as no file holds any more; what is returned forgets them for good."""
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        marks = ", ".join("?" * len(ids))
        connection.execute(f"UPDATE content SET hidden = 1 WHERE id IN ({marks})", [*ids])
        connection.commit()

    def run() -> None:
        assert forget_gone(path, None).contents == len(ids)

    return run


#: A few are taken out where they stand; for many the files are written anew.
@pytest.mark.parametrize("n", [10, N // 5])
def test_stays_when_pictures_are_forgotten(path: Path, n: int) -> None:
    captions = path / "index" / f"{SPACE.fingerprint[:16]}-captions.f32"
    captions.write_bytes(b"of relevance")
    with Library(path) as library, Library(path) as server:
        optimize(library, "image", WANTED)
        server.index("image")
        before = measured.read(image_file(path))
        assert before is not None
        assert len(codes_of(path, range(n))) == n
        forget(path, range(1, n + 1))()
        after = measured.read(image_file(path))
        assert after is not None
        assert (after.ntotal, after.measured_on) == (N if n == 10 else N - n, N)
        assert after.checksum != before.checksum
        if n == 10:
            assert codes_of(path, range(n)) == []
            assert not load(path).rows()[:n].any()
        server.refresh()
        index = server.index("image")
        assert index.fast is not None
        assert len(index) == N - n
        assert recall(index, clustered(100, 50, words=True)) >= 0.9
        with Library(path) as another:
            index = another.index("image")
            assert index.fast is not None
            assert len(index) == N - n
            assert recall(index, clustered(100, 50, words=True)) >= 0.9
    assert captions.exists()
    assert len(list((path / "index").glob("*.fast-*"))) == 1
    assert [f for f in doctor(path) if f.state == "problem"] == []


def codes_of(path: Path, places: range) -> list[int]:
    """Those of these positions that have codes in the approximate index."""
    about = measured.read(image_file(path))
    assert about is not None
    index = faiss.read_index(str(image_file(path).with_name(about.file)))
    lists = index.invlists
    held = [
        faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n))
        for n in range(lists.nlist)
        if lists.list_size(n)
    ]
    return sorted(set(np.concatenate(held).tolist()) & set(places))


def load(path: Path) -> FlatIndex:
    """The image index as its file has it."""
    with Library(path) as library:
        origin = library.catalog.space_origin(1)
    return FlatIndex.load(path / "index", SPACE, "image", origin=origin)


def test_no_code_of_what_is_forgotten_stays_when_the_run_dies(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Library(path) as library:
        optimize(library, "image", WANTED)
    run = forget(path, range(1, N // 5))
    monkeypatch.setattr("indexer.manage._save_indexes", lambda _: None)  # it was killed before
    run()
    about = measured.read(image_file(path))
    assert about is not None
    assert about.ntotal == 0
    assert about.bytes < N * DIM // 4
    assert not image_file(path).exists()
    with Library(path) as library:
        assert len(library.index("image")) == N - N // 5 + 1
    finish_run(path)
    with Library(path) as library:
        assert library.index("image").fast is not None
    assert [f for f in doctor(path) if f.state == "problem"] == []


def test_forgetting_while_codes_are_made(path: Path) -> None:
    """Whoever makes codes may have read the vectors already: the file is another one then."""
    with Library(path) as library:
        optimize(library, "image", WANTED)
    run = forget(path, range(1, 11))
    with optimizing(path / "index") as alone:
        assert alone
        run()
    assert load(path).total == N - 10
    finish_run(path)
    with Library(path) as library:
        assert len(library.index("image")) == N - 10
    assert [f for f in doctor(path) if f.state == "problem"] == []


def test_an_indexing_run_beside_it_is_caught_up_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written anew after it was measured: then that is what the codes are of."""
    approximately = trial.Trial.approximately

    def meanwhile(*args: object, **options: object) -> object:
        add(path, "image", clustered(N, 3))
        finish_run(path)
        monkeypatch.setattr(trial.Trial, "approximately", approximately)
        return approximately(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trial.Trial, "approximately", meanwhile)
    with Library(path) as library:
        optimize(library, "image", WANTED)
    with Library(path) as library:
        assert library.index("image").fast is not None
        assert library.index("image").total == 2 * N


def test_searches_go_on_meanwhile(path: Path) -> None:
    wrong: list[object] = []
    done = threading.Event()
    xq = clustered(20, 50, words=True)
    with Library(path) as server, Library(path) as library:
        server.index("image")

        def ask() -> None:
            while not done.is_set():
                try:
                    server.refresh()
                    for only in (None, np.arange(1, N, 2)):
                        found = server.index("image").search(xq[:1], 10, only=only)
                        if len(found[0].ids) != 10:
                            wrong.append(found)
                except BaseException as exc:
                    wrong.append(exc)
                    raise

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            optimize(library, "image", WANTED)
            add(path, "image", clustered(N, 3))
            finish_run(path)
            make_exact(library, "image")
            optimize(library, "image", WANTED)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        server.refresh()
        assert server.index("image").fast is not None


def doctor(path: Path, *, repair: bool = False) -> list[Finding]:
    """What is found of the index files: no files hold the contents of these libraries."""
    catalog_path = path / "catalog.db"
    with examined(catalog_path) as (check, _), closing(Catalog(catalog_path)) as catalog:
        return list(IndexDoctor(path / "index", check, catalog, repair=repair).run())


class Killed(BaseException):
    pass


@contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    """Calls `hook` with each point that is reached; audit hooks cannot be removed again."""
    active = True

    def audit(event: str, args: tuple[object, ...]) -> None:
        if active and event == EVENT:
            hook(str(args[0]))

    sys.addaudithook(audit)
    try:
        yield
    finally:
        active = False


def choose(path: Path) -> None:
    with Library(path) as library:
        optimize(library, "image", WANTED)


def choose_another(path: Path) -> None:
    with Library(path) as library:
        optimize(library, "image", Wanted(0.9, None, 0))


def grow(path: Path) -> None:
    add(path, "image", clustered(N, 3))
    finish_run(path)


def go_back(path: Path) -> None:
    with Library(path) as library:
        make_exact(library, "image")


@pytest.mark.parametrize(
    "steps", [(choose,), (choose, choose_another), (choose, grow), (choose, go_back)]
)
def test_killed_at_any_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: tuple[Callable[[Path], None], ...]
) -> None:
    """A library is searched as before or as after, and the next run ends as if nothing was."""
    quick(monkeypatch)
    points: list[str] = []
    before = made(tmp_path / "before")
    *first, last = steps
    for step in first:
        step(before)
    clean = shutil.copytree(before, tmp_path / "clean")
    with hooked(points.append):
        last(clean)
    points = [point for point in points if point.startswith(("fast", "index"))]
    assert any(point.startswith("fast") for point in points)
    xq = clustered(20, 50, words=True)
    for number, name in enumerate(points):
        path = shutil.copytree(before, tmp_path / f"killed-{number}")
        reached = 0

        def kill(point: str, number: int = number) -> None:
            nonlocal reached
            if point.startswith(("fast", "index")):
                reached += 1
                if reached == number + 1:
                    raise Killed(point)

        with hooked(kill), pytest.raises(Killed, match=name):
            last(path)
        with Library(path) as library:
            index = library.index("image")
            assert recall(index, xq) > 0.9, name
            many = len(index)
        if last is grow:
            finish_run(path)
        else:
            last(path)
        with Library(path) as library:
            assert len(library.index("image")) == many
            assert (library.index("image").fast is None) == (last is go_back), name
        assert not list((path / "index").glob("*.tmp"))
        assert len(list((path / "index").glob("*.fast*"))) == (0 if last is go_back else 2), name
        assert [f for f in doctor(path) if f.state == "problem"] == []


@pytest.mark.parametrize("place", [0, 3000])
def test_doctor_deletes_what_is_damaged(path: Path, place: int) -> None:
    choose(path)
    messages = [finding.message for finding in doctor(path)]
    assert any("x4fs, whole" in message for message in messages)
    about = measured.read(image_file(path))
    assert about is not None
    codes = path / "index" / about.file
    data = bytearray(codes.read_bytes())
    data[place] ^= 0xFF
    codes.write_bytes(data)
    (problem,) = [finding for finding in doctor(path) if finding.state == "problem"]
    assert about.file in problem.message
    (mended,) = [finding for finding in doctor(path, repair=True) if finding.state == "repaired"]
    assert "mmsearch optimize" in mended.message
    assert not list((path / "index").glob("*.fast*"))
    assert all(finding.state == "ok" for finding in doctor(path))


def test_doctor_deletes_what_nothing_speaks_of(path: Path) -> None:
    choose(path)
    stray = path / "index" / f"{image_file(path).stem}.fast-00000000.faiss"
    stray.write_bytes(b"left over")
    assert [finding.state for finding in doctor(path, repair=True)].count("repaired") == 1
    assert not stray.exists()
    with Library(path) as library:
        assert library.index("image").fast is not None


def test_space_of_what_is_forgotten_goes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mmsearch(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-l", str(path), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    def size() -> int:
        return (path / "catalog.db").stat().st_size

    monkeypatch.setattr(shrink, "WORTH_BYTES", 1 << 14)
    assert "free" not in mmsearch("status")
    with monkeypatch.context() as patch:  # as where the disk had no room for it
        patch.setattr("indexer.manage.shrink_if_worth_it", lambda _: None)
        forget(path, range(1, N // 2))()
    before = size()
    assert "MB of them free: mmsearch optimize gives them back" in mmsearch("status")
    assert json.loads(mmsearch("status", "--json"))["free"] > 1 << 14
    assert "go back to the disk (nothing was changed)" in mmsearch("optimize", "--dry-run")
    with writing(path):
        assert "No space of the catalog is given back" in mmsearch("optimize")
    assert size() == before
    assert json.loads(mmsearch("optimize", "--json"))["given_back"] == before - size() > 0
    assert "free" not in mmsearch("status")
    assert json.loads(mmsearch("status", "--json"))["free"] == 0
    left = size()
    forget(path, range(N // 2, N - 100))()  # by itself, where that much goes at once
    assert size() < left


def test_command(path: Path) -> None:
    def mmsearch(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-l", str(path), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "stays exact" in mmsearch("optimize")
    options = ("--target-recall", "0.95", "--min-vectors", "0", "--modality", "image")
    table = mmsearch("optimize", *options, "--dry-run")
    assert "recall@10" in table
    assert "120 texts of the library" in table
    assert "nothing was changed" in table
    assert "exact, 3,000 vectors" in mmsearch("status")
    document = json.loads(mmsearch("optimize", *options, "--json"))
    (about,) = document["indexes"]
    assert about["chosen"]["recall"] >= 0.95
    assert len(about["candidates"]) == 2
    status = mmsearch("status")
    assert about["chosen"]["factory"] in status
    assert f"recall@10 {about['chosen']['recall']:.3f}" in status
    (image, text) = json.loads(mmsearch("status", "--json"))["index"]
    assert image["approximate"] == about["chosen"]["factory"]
    assert text["approximate"] is None
    assert "too large" in mmsearch("optimize", *options, "--max-memory", "1kB", "--dry-run")
    assert "The image index compares everything again." in mmsearch("optimize", "--exact")
    assert "exact, 3,000 vectors" in mmsearch("status")
    assert "no size" in CliRunner().invoke(cli, ["optimize", "--max-memory", "much"]).output
