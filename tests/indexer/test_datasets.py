"""Reading data sets: every format by hand, what is missing, what splits there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from collection import encoded, save_model, write

from indexer.datasets import Dataset, read_captions, read_folder
from indexer.ingest import Options, index
from mmsearch.errors import DecodeError, QueryError, SourceError
from mmsearch.library import Library


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four pictures, one of them in a folder of its own."""
    for seed, name in enumerate(("1.jpg", "2.jpg", "3.jpg", "val2014/4.jpg")):
        write(tmp_path / "images" / name, encoded(seed, "JPEG"))
    return tmp_path / "images"


def pairs(found: Dataset) -> list[tuple[str, str]]:
    return [(Path(found.pictures[row]).name, body) for body, row in found.captions]


COCO = {
    "info": {},
    "images": [{"id": 7, "file_name": "1.jpg"}, {"id": 8, "file_name": "2.jpg"}],
    "annotations": [
        {"id": 100, "image_id": 8, "caption": "two "},
        {"id": 101, "image_id": 7, "caption": "one"},
        {"id": 102, "image_id": 7, "caption": "one again"},
    ],
}
KARPATHY = {
    "dataset": "flickr8k",
    "images": [
        {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "one"}]},
        {"filename": "2.jpg", "split": "test", "sentences": [{"raw": "two"}, {"raw": "zwei"}]},
        {"filename": "4.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "4"}]},
        {"filename": "9.jpg", "split": "test", "sentences": [{"raw": "nowhere"}]},
    ],
}
FORMATS = {
    "captions_val2017.json": json.dumps(COCO),
    "Flickr8k.token.txt": "1.jpg#0\tone\n1.jpg#1\tone again\n2.jpg#0\ttwo\n",
    "results_20130124.token": "1.jpg#0\tone\n1.jpg#1\tone again\n2.jpg#0\ttwo\n",
    "captions.txt": "image,caption\n1.jpg,one\n1.jpg,one again\n2.jpg,two\n",
    "results.csv": "image_name| comment_number| comment\n1.jpg| 0| one\n1.jpg| 1| one again\n"
    "2.jpg| 0| two\n",
    "captions.jsonl": '{"image": "1.jpg", "text": ["one", "one again"]}\n'
    '{"image": "2.jpg", "text": "two"}\n',
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_pairs(images: Path, tmp_path: Path, name: str) -> None:
    found = read_captions(write(tmp_path / name, FORMATS[name].encode()), images)
    assert sorted(pairs(found)) == [("1.jpg", "one"), ("1.jpg", "one again"), ("2.jpg", "two")]
    assert (found.missing, found.bad) == ([], [])
    # Pictures that no caption names are not part of such a data set.
    assert len(found.pictures) == 2


def test_of_karpathys_splits_one_is_taken(images: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "dataset_flickr8k.json", json.dumps(KARPATHY).encode())
    found = read_captions(file, images, split="test")
    assert pairs(found) == [("2.jpg", "two"), ("2.jpg", "zwei"), ("4.jpg", "4")]
    assert found.missing == ["9.jpg"]
    assert len(read_captions(file, images).captions) == 4
    with pytest.raises(QueryError, match="it has: test, train"):
        read_captions(file, images, split="val")


def test_pictures_of_the_same_name_in_two_folders_are_two(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for seed, name in enumerate(("train/1.jpg", "val/1.jpg", "val/2.jpg")):
        write(images / name, encoded(seed, "JPEG"))
    document = {
        "images": [
            {"filename": "1.jpg", "filepath": folder, "sentences": [{"raw": folder}]}
            for folder in ("train", "val")
        ]
        # There is no such picture in that folder, and the one of another is not meant.
        + [{"filename": "2.jpg", "filepath": "train", "sentences": [{"raw": "gone"}]}]
    }
    file = write(tmp_path / "dataset_coco.json", json.dumps(document).encode())
    found = read_captions(file, images)
    assert [(found.pictures[row], body) for body, row in found.captions] == [
        (str(images / "train" / "1.jpg"), "train"),
        (str(images / "val" / "1.jpg"), "val"),
    ]
    assert found.missing == ["train/2.jpg"]


def test_one_picture_named_in_several_ways_is_one(images: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(images, target_is_directory=True)
    names = [
        "val2014/4.jpg",
        "./val2014/4.jpg",
        "val2014\\4.jpg",
        "4.jpg",
        str(images / "val2014/4.jpg"),
        str(link / "val2014/4.jpg"),
        "VAL2014/4.JPG",
    ]
    lines = [json.dumps({"image": name, "text": name}) for name in names]
    file = write(tmp_path / "captions.jsonl", "\n".join(lines).encode())
    found = read_captions(file, images)
    assert found.pictures == [str(images / "val2014" / "4.jpg")]
    assert [body for body, _ in found.captions] == names
    assert read_captions(file, images, most=3).captions == found.captions[:3]


def test_a_table_may_have_splits(images: Path, tmp_path: Path) -> None:
    rows = (
        'raw,split,filename\n"[""one"", ""eins""]",test,1.jpg\n"[""two""]",train,2.jpg\n'
        "[plain] words,test,3.jpg\n"
        "cut short\n"
    )
    file = write(tmp_path / "flickr_annotations_30k.csv", rows.encode())
    found = read_captions(file, images, split="test")
    assert pairs(found) == [("1.jpg", "one"), ("1.jpg", "eins"), ("3.jpg", "[plain] words")]


def test_a_list_of_pictures_and_a_number_of_captions_narrow_it(
    images: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "Flickr8k.token.txt", FORMATS["Flickr8k.token.txt"].encode())
    only = write(tmp_path / "Flickr_8k.testImages.txt", b"1.jpg\n")
    found = read_captions(file, images, only=only, most=1)
    assert pairs(found) == [("1.jpg", "one")]
    # As Windows writes it, and as Flickr30k Entities has its lists.
    for content in (b"\xef\xbb\xbf1.jpg\r\n", b"1\n"):
        assert pairs(read_captions(file, images, only=write(only, content), most=1)) == pairs(found)
    with pytest.raises(QueryError, match=r"pictures there that .*testImages\.txt names"):
        read_captions(file, images, only=write(only, b"8.jpg\n"))


def test_known_collections_are_known_by_their_files(images: Path, tmp_path: Path) -> None:
    names = {
        "captions_val2017.json": "coco",
        "dataset_coco.json": "coco",
        "dataset_flickr30k.json": "flickr30k",
        "results_20130124.token": "flickr30k",
        "captions.txt": None,
    }
    for name, known_as in names.items():
        body = FORMATS.get(name, json.dumps(KARPATHY))
        assert read_captions(write(tmp_path / name, body.encode()), images).known_as == known_as


@pytest.mark.parametrize("split", [None, "test"])
def test_what_cannot_be_measured_on_is_refused(
    images: Path, tmp_path: Path, split: str | None
) -> None:
    elsewhere = write(tmp_path / "captions.txt", b"image,caption\n8.jpg,eight\n")
    with pytest.raises(QueryError, match="has no splits" if split else "1 picture that it names"):
        read_captions(elsewhere, images, split=split)


def test_files_that_are_not_there_or_broken(images: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_captions(tmp_path / "none.json", images)
    with pytest.raises(SourceError, match="no such file"):
        read_captions(write(tmp_path / "a.txt", b"a"), tmp_path / "nowhere")
    with pytest.raises(DecodeError, match="not JSON"):
        read_captions(write(tmp_path / "captions_val2017.json", b'{"images": ['), images)


def test_a_folder_is_read_as_indexing_reads_it(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for seed, name in enumerate(("a.jpg", "b.jpg", "deep/c.jpg", "d.jpg")):
        write(root / name, encoded(seed, "JPEG"))
    write(root / "a.txt", b"a sidecar")
    lines = [
        {"image": "b.jpg", "text": "beside"},
        {"image": "c.jpg", "text": "by name"},
        {"image": "e.jpg", "text": "gone"},
        {"text": "of no picture"},
        {"image": "b.jpg"},
    ]
    write(root / "captions.jsonl", "\n".join(map(json.dumps, lines)).encode())
    write(root / "more.zip", b"PK")
    found = read_folder(root)
    assert sorted(pairs(found)) == [
        ("a.jpg", "a sidecar"),
        ("b.jpg", "beside"),
        ("c.jpg", "by name"),
    ]
    assert sorted(Path(p).name for p in found.pictures) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert found.missing == ["e.jpg"]
    assert [where for where, _ in found.bad] == ["more.zip", "captions.jsonl:5"]


def test_names_mean_the_pictures_that_they_mean_in_a_library(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    composed, apart = "caf\u00e9.jpg", "cafe\u0301.jpg"
    for seed, name in enumerate(("2019/a.jpg", "2020/b.jpg", apart, "my photos/x y.jpg", "UP.JPG")):
        write(root / name, encoded(seed, "JPEG"))
    names = [
        "2019/b.jpg",
        "1999/b.jpg",
        composed,
        "my%20photos/x%20y.jpg",
        "up.jpg",
        "my%20photos/a.jpg",
    ]
    lines = [json.dumps({"image": name, "text": name}) for name in names]
    write(root / "captions.jsonl", "\n".join(lines).encode())
    found = read_folder(root)
    model = save_model(tmp_path / "model")
    options = Options(model=model, device="cpu")
    index(tmp_path / "library", [root], options=options)
    with Library(tmp_path / "library") as library:
        linked = {
            text.body: library.image(id_).name
            for id_ in library.index("image").ids().tolist()
            for text in library.image_captions(id_)
        }
    assert {body: name for name, body in pairs(found)} == linked
    assert linked == {
        "1999/b.jpg": "b.jpg",
        composed: apart,
        "my%20photos/x%20y.jpg": "x y.jpg",
        "up.jpg": "UP.JPG",
    }
    assert found.missing == ["2019/b.jpg", "my%20photos/a.jpg"]


def test_a_list_of_pictures_and_a_number_of_captions_narrow_a_folder_too(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for seed, name in enumerate(("a.jpg", "b.jpg", "deep/c.jpg", "d.jpg")):
        write(root / name, encoded(seed, "JPEG"))
    write(root / "a.txt", b"a sidecar")
    write(root / "b.txt", b"another")
    lines = [
        {"image": "a.jpg", "text": "second"},
        {"image": "c.jpg", "text": "first"},
        {"image": "c.jpg", "text": "too many"},
        {"image": "d.jpg", "text": "not asked for"},
        {"image": "e.jpg", "text": "gone"},
        {"image": "f.jpg", "text": "gone, and not asked for"},
    ]
    write(root / "captions.jsonl", "\n".join(map(json.dumps, lines)).encode())
    only = write(tmp_path / "only.txt", b"a.jpg\nelsewhere/c.jpg\ne.jpg\n")
    found = read_folder(root, only=only, most=1)
    assert len(pairs(found)) == 2
    assert ("c.jpg", "first") in pairs(found)
    assert sorted(Path(p).name for p in found.pictures) == ["a.jpg", "c.jpg"]
    assert found.missing == ["e.jpg"]
    assert len(read_folder(root, most=1).captions) == 4
    assert len(read_folder(root, only=only).captions) == 4
    with pytest.raises(QueryError, match=r"that .*none\.txt names"):
        read_folder(root, only=write(tmp_path / "none.txt", b"f.jpg\n"))
    with pytest.raises(SourceError, match="not found"):
        read_folder(root, only=tmp_path / "nowhere.txt")


def test_a_folder_without_captions_says_how_to_write_some(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", encoded(0, "JPEG"))
    with pytest.raises(QueryError, match=r"captions\.jsonl"):
        read_folder(tmp_path)
