"""Evaluation of models and libraries: through the product's own way, and on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from collection import encoded, run, write, write_captions
from PIL import Image

from indexer.datasets import read_folder
from indexer.evaluate import evaluate_dataset, evaluate_library
from indexer.exchange.exporting import export
from mmsearch.cli import cli
from mmsearch.encode import load_encoder
from mmsearch.errors import IndexMissingError, MmsearchError, QueryError
from mmsearch.evaluate import figures, rank
from mmsearch.library import Library
from mmsearch.postcards.evaluate import MEASURES, PostcardFigures, PostcardReport

POSTCARDS = Path(__file__).parents[2] / "data" / "postcards"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve postcards with their captions, and a file that is no picture."""
    root = tmp_path_factory.mktemp("postcards")
    names = [f"postcard-{n:04}.jpg" for n in range(12)]
    for name in names:
        shutil.copy(POSTCARDS / name, root)
    lines = (POSTCARDS / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["image"] in names]
    bad = [{"image": "broken.jpg", "text": "of a picture that cannot be read"}]
    text = "\n".join([*kept, *map(json.dumps, bad)])
    (root / "captions.jsonl").write_text(text, encoding="utf-8")
    write(root / "broken.jpg", b"\xff\xd8\xff no picture")
    return root


def command(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_folder_and_a_library_of_it_measure_the_same(
    folder: Path, tmp_path: Path, model: str
) -> None:
    """One encodes what the other has stored, in half precision; the truth is the same."""
    encoder = load_encoder(model, device="cpu", dtype="fp32")
    fresh = evaluate_dataset(read_folder(folder), encoder, merge=True)
    assert [Path(path).name for path, _ in fresh.bad] == ["broken.jpg"]
    run(tmp_path / "library", folder, model=model)
    with Library(tmp_path / "library", device="cpu") as library:
        stored = evaluate_library(library)
    assert (stored.pictures, fresh.pictures) == (12, 12)
    # The caption of the broken picture is in the library, as a rival; it is not in the data set.
    assert stored.texts == fresh.texts + 1
    for ours, theirs in (
        (fresh.text_to_image, stored.text_to_image),
        (fresh.image_to_text, stored.image_to_text),
    ):
        assert ours.queries == theirs.queries
        assert ours.any_hit == pytest.approx(theirs.any_hit, abs=0.1)
        assert ours.mrr == pytest.approx(theirs.mrr, abs=0.05)
    assert stored.index["image"].recall == 1.0
    assert stored.device is None


def test_figures_of_a_library_are_those_of_its_exported_vectors(
    folder: Path, tmp_path: Path, model: str
) -> None:
    """The definitions, from the files that other programs would read."""
    run(tmp_path / "library", folder, model=model)
    with Library(tmp_path / "library", device="cpu") as library:
        told = evaluate_library(library)
        export(library, tmp_path / "out")
    images = np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy").astype(float)
    texts = np.load(tmp_path / "out" / "texts" / "text_emb" / "text_emb_0.npy").astype(float)
    paths = pq.read_table(tmp_path / "out" / "metadata" / "metadata_0.parquet")["image_path"]
    table = pq.read_table(tmp_path / "out" / "texts" / "metadata" / "metadata_0.parquet")
    vectors = dict(zip(table["id"].to_pylist(), texts, strict=True))
    pairs = set(zip(table["id"].to_pylist(), table["image_path"].to_pylist(), strict=True))
    pictures = dict(zip(paths.to_pylist(), images, strict=True))
    ways = [
        (told.text_to_image, vectors, pictures, pairs),
        (told.image_to_text, pictures, vectors, {(path, id_) for id_, path in pairs}),
    ]
    for found, queries, corpus, right in ways:
        best, hits, shares = [], [], []
        for query, vector in queries.items():
            answers = {item for item in corpus if (query, item) in right}
            if not answers:
                continue
            order = sorted(
                corpus, key=lambda item: (-round(float(vector @ corpus[item]), 9), item in answers)
            )
            best.append(1 + min(order.index(item) for item in answers))
            hits.append([bool(answers & set(order[:k])) for k in (1, 5, 10)])
            shares.append([len(answers & set(order[:k])) / len(answers) for k in (1, 5, 10)])
        assert found.queries == len(best)
        assert list(found.any_hit.values()) == pytest.approx(np.mean(hits, axis=0), abs=1e-6)
        assert list(found.true_recall.values()) == pytest.approx(np.mean(shares, axis=0), abs=1e-6)
        assert found.median_rank == np.median(best)
        assert found.mrr == pytest.approx(np.mean(1 / np.array(best)), abs=1e-6)


def test_what_is_encoded_is_what_the_encoder_makes(folder: Path, model: str) -> None:
    encoder = load_encoder(model, device="cpu", dtype="fp32")
    dataset = read_folder(folder)
    report = evaluate_dataset(dataset, encoder)
    good = [path for path in dataset.pictures if not path.endswith("broken.jpg")]
    images = np.concatenate(
        [
            encoder.encode_images(encoder.preprocess(np.asarray(Image.open(path)))[None])
            for path in good
        ]
    )
    told = [(body, good.index(dataset.pictures[row]))
            for body, row in dataset.captions if dataset.pictures[row] in good]  # fmt: skip
    texts = encoder.encode_texts([body for body, _ in told])
    expected = figures(rank(texts, images, [[row] for _, row in told]))
    assert report.text_to_image.mrr == pytest.approx(expected.mrr, abs=0.02)
    assert report.texts == len(told)


def test_equal_pictures_and_texts_count_once_only_when_merged(tmp_path: Path, model: str) -> None:
    for name in ("1.jpg", "copy.jpg"):
        write(tmp_path / name, encoded(1, "JPEG"))
    write(tmp_path / "2.jpg", encoded(2, "JPEG"))
    write_captions(
        tmp_path / "captions.jsonl", [("1.jpg", "one"), ("copy.jpg", "one"), ("2.jpg", "two")]
    )
    encoder = load_encoder(model, device="cpu", dtype="fp32")
    apart = evaluate_dataset(read_folder(tmp_path), encoder)
    merged = evaluate_dataset(read_folder(tmp_path), encoder, merge=True)
    assert (apart.pictures, apart.texts) == (3, 3)
    assert (merged.pictures, merged.texts) == (2, 2)


def test_json_has_what_is_promised(folder: Path) -> None:
    document = json.loads(command("eval", "--folder", folder, "--model", "tiny", "--json"))
    assert {"on", "model", "pictures", "texts", "text_to_image", "image_to_text"} <= set(document)
    assert document["text_to_image"]["any_hit"].keys() == {"1", "5", "10"}
    assert document["text_to_image"]["true_recall"].keys() == {"1", "5", "10"}
    assert document["pictures"] == 12
    # Twelve postcards are few: the bundled model tells them apart.
    assert document["text_to_image"]["any_hit"]["5"] > 0.8
    assert "ranks" not in document


def test_a_folder_is_narrowed_by_a_list_and_a_number(folder: Path, tmp_path: Path) -> None:
    only = write(tmp_path / "only.txt", b"postcard-0001.jpg\npostcard-0003.jpg\n")
    narrowed = ("--only", only, "--most-captions", "2")
    told = json.loads(command("eval", "--folder", folder, "--model", "tiny", "--json", *narrowed))
    assert (told["pictures"], told["texts"]) == (2, 4)


def test_the_table_names_both_measures_and_stands_beside_published_ones(
    folder: Path, tmp_path: Path
) -> None:
    images = [{"id": n, "file_name": f"postcard-{n:04}.jpg"} for n in range(3)]
    told = [{"id": n, "image_id": n, "caption": f"number {n}"} for n in range(3)]
    annotations = write(
        tmp_path / "captions_val2017.json",
        json.dumps({"images": images, "annotations": told}).encode(),
    )
    table = command("eval", "--coco", annotations, "--images", folder, "--model", "tiny")
    for words in ("text → image", "image → text", "any-hit@1", "true recall@1", "MRR"):
        assert words in table
    beside = next(line for line in table.splitlines() if "laion2b_s34b_b79k, published" in line)
    assert "published on 5,000 pictures, Karpathy's test split; this run: 3" in table
    assert "open_clip, docs/openclip_retrieval_results.csv: ViT-B-32/laion2b" in table
    assert beside.split()[-6:] == ["39.3", "65.4", "75.6", "56.3", "79.8", "87.1"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_is_a_picture(folder: Path, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"recall.{ending}"
    command("eval", "--folder", folder, "--model", "tiny", "--plot", file)
    if ending == "png":
        with Image.open(file) as image:
            image.load()
            assert image.width > 400
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
    else:
        assert "<svg" in file.read_text(encoding="utf-8")


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from indexer import curves

    found = rank(np.eye(2), np.eye(2), [[0], [1]])
    curves.draw(tmp_path / "recall.svg", "tiny on $x_{$", {"text → image": found})
    assert (tmp_path / "recall.svg").stat().st_size > 1000


def test_without_matplotlib_a_plot_is_refused_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from indexer import curves

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MmsearchError, match=r"mmsearch\[plot\]"):
        curves.check(tmp_path / "recall.png")
    with pytest.raises(QueryError, match=r"\.png or \.svg"):
        curves.check(tmp_path / "recall.bmp")


def test_a_library_that_cannot_be_measured_says_why(tmp_path: Path, model: str) -> None:
    write(tmp_path / "pictures" / "1.jpg", encoded(1, "JPEG"))
    run(tmp_path / "library", tmp_path / "pictures", model=model)
    with Library(tmp_path / "library") as library, pytest.raises(QueryError, match="--captions"):
        evaluate_library(library)
    from mmsearch.library import CATALOG_NAME
    from mmsearch.store import CatalogWriter

    (tmp_path / "empty").mkdir()
    CatalogWriter(tmp_path / "empty" / CATALOG_NAME).close()
    with Library(tmp_path / "empty") as library, pytest.raises(IndexMissingError):
        evaluate_library(library)


def test_of_a_large_library_some_queries_are_drawn(
    folder: Path, tmp_path: Path, model: str
) -> None:
    run(tmp_path / "library", folder, model=model)
    with Library(tmp_path / "library", device="cpu") as library:
        some = evaluate_library(library, queries=5, seed=1)
        again = evaluate_library(library, queries=5, seed=1)
        whole = evaluate_library(library)
    assert some.text_to_image.queries == some.image_to_text.queries == 5
    assert some.text_to_image == again.text_to_image
    assert some.text_to_image.corpus == whole.text_to_image.corpus == 12


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--coco", "a.json", "--flickr", "b.txt"], "one thing at a time"),
        (["--coco", "a.json"], "--images DIR"),
        (["--model", "tiny"], "leave --model out"),
        (["--postcards", "--plot", "a.png"], "draws no postcards"),
        (
            ["--only", "a.txt"],
            "--only goes with --coco or --flickr or --folder, not with a library",
        ),
        (["--most-captions", "1"], "--most-captions goes with"),
        (["--split", "test"], "not with a library"),
        (["--device", "cpu"], "not with a library"),
        (["--folder", ".", "--plot", "a.bmp"], ".png or .svg"),
        (["--images", "."], "not with a library"),
        (["--pictures", "20"], "--pictures goes with --postcards, not with a library"),
        (["--folder", ".", "--split", "test"], "not with --folder"),
        (["--folder", ".", "--images", "."], "not with --folder"),
        (["--folder", ".", "--queries", "20"], "--queries goes with --postcards or a library"),
        (["--folder", ".", "--seed", "0"], "not with --folder"),
        (["--folder", ".", "--pictures", "20"], "not with --folder"),
        (["--coco", "a.json", "--images", ".", "--queries", "20"], "not with --coco"),
        (["--postcards", "--only", "a.txt"], "not with --postcards"),
        (["--postcards", "--seed", "-1"], "not in the range"),
        (["--postcards", "--images", "."], "not with --postcards"),
    ],
)
def test_a_misunderstood_request_is_exit_code_2(arguments: list[str], hint: str) -> None:
    done = CliRunner().invoke(cli, ["eval", *arguments])
    assert done.exit_code == 2
    assert hint in done.stderr


@pytest.mark.parametrize(("right", "speed", "code"), [(1.0, 1.0, 0), (0.5, 1_000.0, 1)])
def test_a_model_below_the_bars_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, right: float, speed: float, code: int
) -> None:
    encoder = SimpleNamespace(device="cpu", dtype="fp32", encode_texts=None)
    figures = PostcardFigures(**{**dict.fromkeys(MEASURES, 1.0), "count": right})
    report = PostcardReport(20, 10, 32, figures, images_per_s=speed)
    monkeypatch.setattr("mmsearch.encode.load_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr("mmsearch.encode.untrained.write_untrained", lambda *_: None)
    monkeypatch.setattr("mmsearch.cli.evaluate._speed", lambda _: speed)
    monkeypatch.setattr("mmsearch.postcards.evaluate.evaluate_postcards", lambda *_, **__: report)
    done = CliRunner().invoke(cli, ["eval", "--postcards"])
    assert done.exit_code == code
    assert ("below the bar: minimal pairs, count" in done.stderr) == bool(code)
    done = CliRunner().invoke(cli, ["eval", "--postcards", "--json"])
    assert done.exit_code == code
    assert json.loads(done.stdout)["missed"] == (["count"] if code else ["images_per_s"])
