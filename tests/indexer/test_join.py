"""Several libraries in one: what one run over all the folders makes."""

from __future__ import annotations

import io
import sqlite3
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from collection import encoded, found, run, same, titled, unchanged, write, write_captions

from indexer.exchange.intake import ImportReport
from indexer.exchange.joining import join
from mmsearch.cli import cli
from mmsearch.errors import IndexMissingError, RefusedError
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store import CatalogWriter

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt><rdf:li xml:lang="x-default">{}
 </rdf:li></rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"""

#: What a catalog knows, whatever the ids: a query for each kind.
KNOWN = {
    "sources": "SELECT location, name, kind, exclude, indexed_at IS NULL FROM source",
    "images": """SELECT s.location, i.path, i.member, i.size, i.mtime_ns, i.beside, i.told,
        hex(c.hash), c.hidden FROM image i JOIN source s ON s.id = i.source_id
        JOIN content c ON c.id = i.content_id WHERE i.missing_since IS NULL""",
    "pictures": """SELECT hex(c.hash), p.bytes, p.format, p.width, p.taken_at, p.title,
        p.description, p.keywords, p.own FROM picture p JOIN content c ON c.id = p.content_id
        WHERE NOT c.hidden""",
    "texts": """SELECT s.location, t.path, t.member, t.key, t.origin, t.image_ref, b.body, i.path,
        i.member FROM text t JOIN source s ON s.id = t.source_id
        JOIN passage b ON b.content_id = t.content_id LEFT JOIN image i ON i.id = t.image_id
        WHERE t.missing_since IS NULL""",
    "vectors": """SELECT c.modality, hex(c.hash), hex(e.vector) FROM embedding e
        JOIN content c ON c.id = e.content_id WHERE NOT c.hidden""",
    "containers": """SELECT s.location, k.path, k.size, k.mtime_ns FROM container k
        JOIN source s ON s.id = k.source_id""",
    "failures": """SELECT s.location, f.path, f.member, f.key, f.size, f.mtime_ns, f.reason,
        f.transient FROM failure f JOIN source s ON s.id = f.source_id""",
    "tags": """SELECT hex(c.hash), g.name, g.score FROM tag g JOIN content c
        ON c.id = g.content_id""",
}


def known(library: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(library / CATALOG_NAME)) as connection:
        return {
            what: sorted(connection.execute(query).fetchall(), key=repr)
            for what, query in KNOWN.items()
        }


def part(root: Path, first: int) -> Path:
    """A folder with something of every kind; `first` tells its pictures from another one's."""
    for number in range(3):
        write(root / f"{number}.png", encoded(first + number), at=1_700_000_000)
    write(root / "common.png", encoded(99))
    write(root / "titled.jpg", titled(first + 3, f"says {first} of itself"))
    write(root / "titled.jpg.xmp", XMP.format(f"title {first}").encode())
    write(root / "0.txt", f"the sidecar of {first}".encode())
    write(root / "broken.jpg", b"\xff\xd8 no picture")
    write(root / "broken.zip", b"PK no archive")
    write_captions(
        root / "captions.jsonl",
        [("1.png", f"one of {first}"), ("1.png", "in both"), (None, "of no picture"),
         ("elsewhere.png", "lost")],
    )  # fmt: skip
    with (root / "captions.jsonl").open("a") as file:
        file.write("no line of JSON\n")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("inside.png", encoded(first + 4))
        archive.writestr("inside.png.xmp", XMP.format(f"zipped {first}"))
        archive.writestr("bad.png", b"no picture")
    with tarfile.open(root / "web.tar", "w") as tar:
        for name, data in (("a.png", encoded(first + 5)), ("a.txt", b"in the tar")):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return root


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [part(tmp_path / "photos" / "a", 0), part(tmp_path / "photos" / "b", 20)]


@pytest.fixture
def libraries(folders: list[Path], tmp_path: Path, model: str) -> list[Path]:
    """A library of each."""
    made = [tmp_path / f"{folder.name}.library" for folder in folders]
    for library, folder in zip(made, folders, strict=True):
        run(library, folder, model=model)
    return made


@pytest.fixture
def whole(folders: list[Path], tmp_path: Path, model: str) -> Path:
    """What one run over all the folders makes."""
    run(tmp_path / "whole.library", *folders, model=model)
    return tmp_path / "whole.library"


def joined(library: Path, others: list[Path]) -> list[ImportReport]:
    return [join(library, other) for other in others]


def test_the_union_is_what_one_run_makes(
    libraries: list[Path], whole: Path, library: Path, folders: list[Path]
) -> None:
    first, second = joined(library, libraries)
    assert (first.pictures, first.known, first.texts) == (7, 0, 5)
    assert (second.pictures, second.known) == (7, 0)
    ours, theirs = known(library), known(whole)
    for what, rows in theirs.items():
        assert ours[what] == rows, what
        assert rows or what == "tags"
    queries = ["a boat", encoded(3)]
    root = folders[0].parent
    assert same(found(library, root, queries), found(whole, root, queries))
    # And a run afterwards has nothing to do: no archive is opened, no sidecar read.
    report = run(library)
    assert unchanged(report), report
    assert known(library) == ours


def test_again_it_changes_nothing(libraries: list[Path], library: Path) -> None:
    joined(library, libraries)
    before = known(library)
    again = joined(library, libraries)
    assert [(report.pictures, report.texts) for report in again] == [(0, 0), (0, 0)]
    assert [report.known for report in again] == [7, 7]
    assert known(library) == before


def test_what_is_new_comes_with_the_next_one(
    libraries: list[Path], folders: list[Path], library: Path, tmp_path: Path, model: str
) -> None:
    joined(library, libraries)
    write(folders[1] / "new.png", encoded(50))
    write_captions(folders[1] / "captions.jsonl", [("new.png", "a new one")])
    write(folders[1] / "titled.jpg.xmp", XMP.format("another title").encode())
    with zipfile.ZipFile(folders[1] / "more.zip", "w") as archive:
        archive.writestr("other.png", encoded(60))
    run(libraries[1])
    joined(library, libraries)
    run(tmp_path / "later.library", *folders, model=model)
    assert known(library) == known(tmp_path / "later.library")


def test_a_stopped_one_is_gone_on_with(
    libraries: list[Path], whole: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.store.joining._ROWS_A_PART", 2)
    real = CatalogWriter.commit
    left = [3]

    def commit(self: CatalogWriter, *arguments: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(self, *arguments, **options)

    monkeypatch.setattr(CatalogWriter, "commit", commit)
    assert join(library, libraries[0]).stopped
    joined(library, libraries)
    assert known(library) == known(whole)


def test_tags_come_along(libraries: list[Path], folders: list[Path], library: Path) -> None:
    picture = str(folders[0] / "1.png")
    words = ["-l", str(libraries[0]), "tags", "add", "beach", picture]
    assert CliRunner().invoke(cli, words).exit_code == 0
    joined(library, libraries)
    assert known(library)["tags"] == known(libraries[0])["tags"] != []


def test_a_part_of_a_folder_that_is_known_goes_into_it(
    libraries: list[Path], folders: list[Path], library: Path, tmp_path: Path, model: str
) -> None:
    root = folders[0].parent
    write(root / "c" / "more.png", encoded(70))
    hidden = folders[0].rename(tmp_path / "a"), folders[1].rename(tmp_path / "b")
    run(library, root, model=model)
    for there, here in zip(hidden, folders, strict=True):
        there.rename(here)
    joined(library, libraries)
    assert [row[0] for row in known(library)["sources"]] == [str(root)]
    run(tmp_path / "whole", root, model=model)
    for what in ("images", "pictures", "vectors", "containers"):
        assert known(library)[what] == known(tmp_path / "whole")[what], what
    assert unchanged(run(library))


def test_another_model_is_refused(
    libraries: list[Path], library: Path, tmp_path: Path, other_model: str
) -> None:
    run(library, write(tmp_path / "x" / "1.png", encoded(1)).parent, model=other_model)
    before = known(library)
    with pytest.raises(RefusedError, match="vectors of local-dir"):
        join(library, libraries[0])
    assert known(library) == before


def test_what_is_no_other_library_is_refused(libraries: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="the library itself"):
        join(libraries[0], libraries[0])
    (tmp_path / "empty").mkdir()
    CatalogWriter(tmp_path / "empty" / CATALOG_NAME).close()
    with pytest.raises(IndexMissingError):
        join(libraries[0], tmp_path / "empty")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("mmsearch.encode.load_encoder", load)
    monkeypatch.setattr("indexer.exchange.importing.load_encoder", load)


def test_the_command(libraries: list[Path], library: Path, no_model: None) -> None:
    words = ["-l", str(library), "import", str(libraries[0])]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "7 pictures, 5 texts taken in" in done.output
    assert "nothing was encoded" in done.output
    again = CliRunner().invoke(cli, words).output
    assert "7 pictures, 5 texts were known already" in again
    assert CliRunner().invoke(cli, [*words, "--verify"]).exit_code == 2
    with Library(library, device="cpu") as opened:
        assert opened.status().images == 7
