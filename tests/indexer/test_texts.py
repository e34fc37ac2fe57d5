"""read_texts: each kind of file, whole and broken."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.texts import (
    MAX_BODY,
    MAX_LINE_BYTES,
    TEXT_SUFFIXES,
    BadText,
    TextItem,
    is_caption_file,
    read_sidecar,
    read_texts,
    sidecar_for,
)
from mmsearch.errors import DecodeError
from mmsearch.plaintext import clean


def read(path: Path, data: bytes | str) -> list[tuple[str, str, str | None]]:
    """Keys, bodies and images; there must be no bad ones."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    items = list(read_texts(path))
    assert all(isinstance(item, TextItem) for item in items), items
    return [(i.key, i.body, i.image) for i in items if isinstance(i, TextItem)]


def mixed(path: Path, data: bytes | str) -> tuple[dict[str, str], dict[str, str]]:
    """Good bodies and bad reasons, by key."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    items = list(read_texts(path))
    keys = [item.key for item in items]
    assert len(set(keys)) == len(keys)
    return (
        {item.key: item.body for item in items if isinstance(item, TextItem)},
        {item.key: item.reason for item in items if isinstance(item, BadText)},
    )


def refused(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(DecodeError) as caught:
        list(read_texts(path))
    assert caught.value.source == str(path)
    return caught.value.reason


# -- .txt ----------------------------------------------------------------------------------------


def test_lines(tmp_path: Path) -> None:
    data = "\ufeffa red kite\r\n\n  over \t the beach  \nBoote bei Nacht, Zürich"
    assert read(tmp_path / "a.txt", data) == [
        ("1", "a red kite", None),
        ("3", "over the beach", None),
        ("4", "Boote bei Nacht, Zürich", None),
    ]


def test_lines_that_cannot_be_used(tmp_path: Path) -> None:
    data = (
        b"good\n\xff\xfe bad\n" + b"x" * (MAX_BODY + 1) + b"\n" + b"y " * MAX_LINE_BYTES + b"\n"
        b"\0\x01\nnul\0in it\nlast"
    )
    good, bad = mixed(tmp_path / "a.txt", data)
    assert good == {"1": "good", "6": "nul in it", "7": "last"}
    assert bad["2"] == "not UTF-8"
    assert "10,001 characters" in bad["3"]
    assert "1,048,576 bytes" in bad["4"]
    assert bad["5"] == "no text"


def test_flickr_tokens(tmp_path: Path) -> None:
    data = "1000268201.jpg#0\tA child in a pink dress .\n1000268201.jpg#1\tA girl\n"
    wanted = [
        ("1", "A child in a pink dress .", "1000268201.jpg"),
        ("2", "A girl", "1000268201.jpg"),
    ]
    assert read(tmp_path / "results_20130124.token", data) == wanted
    assert read(tmp_path / "Flickr8k.token.txt", data) == wanted
    good, bad = mixed(tmp_path / "b.token", data + "no tab here\n3.jpg#0\t\n")
    assert len(good) == 2
    assert "tab" in bad["3"]
    assert bad["4"] == "no text"


def test_flickr8k_captions_txt(tmp_path: Path) -> None:
    data = 'image,caption\n1.jpg,"A dog, running ."\n1.jpg,A dog\n2.jpg,a cat, asleep\n'
    assert read(tmp_path / "captions.txt", data) == [
        ("2", "A dog, running .", "1.jpg"),
        ("3", "A dog", "1.jpg"),
        ("4", "a cat, asleep", "2.jpg"),
    ]


# -- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("text\na kite\n\nb kite\n", [("2", "a kite", None), ("4", "b kite", None)]),
        ("a kite\nb kite\n", [("1", "a kite", None), ("2", "b kite", None)]),
        ("1.jpg,a kite\n2.png,b kite\n", [("1", "a kite", "1.jpg"), ("2", "b kite", "2.png")]),
        ("a kite;x/1.JPEG\n", [("1", "a kite", "x/1.JPEG")]),
        ("id,File_Name,Caption\n7,1.jpg,a kite\n", [("2", "a kite", "1.jpg")]),
        ("caption;image\na, kite;1.jpg\n", [("2", "a, kite", "1.jpg")]),
        ("image|words\n1.jpg|a kite\n", [("2", "a kite", "1.jpg")]),
        ("image_name| comment_number| comment\n1.jpg| 0| Two men | sit\n",
         [("2", "Two men | sit", "1.jpg")]),
        ('text,file\n"two\nlines",1.jpg\nnext,\n',
         [("2", "two lines", "1.jpg"), ("4", "next", None)]),
        ("\ufefftext,file\r\na,1.jpg\r\n", [("2", "a", "1.jpg")]),
        ("title,description\nshort,long words\n", [("2", "long words", None)]),
        ("0,1.jpg,A dog\n1,2.jpg,A cat, asleep\n",
         [("1", "A dog", "1.jpg"), ("2", "A cat, asleep", "2.jpg")]),
        ("A dog,1.jpg,en\n", [("1", "A dog", "1.jpg")]),
        ("1.jpg;A dog, with comma\n", [("1", "A dog, with comma", "1.jpg")]),
        ("0;1.jpg;A dog, with comma, and more, and more\n",
         [("1", "A dog, with comma, and more, and more", "1.jpg")]),
        ("A dog, with comma;1.jpg\n", [("1", "A dog, with comma", "1.jpg")]),
        ("image_id,caption\n1.jpg,A dog\n7,A cat\n",
         [("2", "A dog", "1.jpg"), ("3", "A cat", None)]),
    ],
)  # fmt: skip
def test_csv(tmp_path: Path, data: str, wanted: list[tuple[str, str, str | None]]) -> None:
    assert read(tmp_path / "a.csv", data) == wanted


def test_tsv(tmp_path: Path) -> None:
    data = "caption\turl\na kite, red\thttp://x/1.jpg\n"
    assert read(tmp_path / "a.tsv", data) == [("2", "a kite, red", None)]


def test_csv_rows_that_cannot_be_used(tmp_path: Path) -> None:
    data = (
        b"image,caption\n1.jpg,good\nshort\n2.jpg,\n3.jpg,\xe9t\xe9\n4.jpg,"
        + b"x" * (MAX_BODY + 1)
        + b"\n5.jpg,"
        + b"z" * (MAX_LINE_BYTES + 1)
        + b'\n6.jpg,last\n7.jpg,"never closed\n'
        + b"word " * 40_000
    )
    good, bad = mixed(tmp_path / "a.csv", data)
    assert good == {"2": "good", "8": "last"}
    assert set(bad) == {"3", "4", "5", "6", "7", "9", "10"}
    assert bad["9"] == "a quote that is never closed"
    assert bad["3"] == "a row of 1 instead of 2 columns"
    assert bad["4"] == "no text"
    assert bad["5"] == "not UTF-8"


@pytest.mark.parametrize(
    ("rest", "wanted"),
    [
        ("2.jpg,a goldfinch\n3.jpg,a wren\n", {"3": "a goldfinch", "4": "a wren"}),
        ('2.jpg,"a goldfinch, red"\n3.jpg,a wren\n', {"3": "a goldfinch, red", "4": "a wren"}),
        ('2.jpg,a 6" kite\n3.jpg,"two\nlines"\n', {"3": 'a 6" kite', "4": "two lines"}),
        ("2.jpg,a goldfinch\n" + "x\n" * 100_000, {"3": "a goldfinch"}),
        ("2.jpg,a goldfinch\n" + "x" * (MAX_LINE_BYTES + 1), {"3": "a goldfinch"}),
    ],
)
def test_a_quote_that_is_never_closed_takes_one_row_along(
    tmp_path: Path, rest: str, wanted: dict[str, str]
) -> None:
    good, bad = mixed(tmp_path / "a.csv", f'filename,caption\n1.jpg,"a shark\n{rest}')
    assert good == wanted
    assert bad["2"] == "a quote that is never closed"
    assert len(bad) == 1 or "x" in rest


def test_a_stray_quote_in_a_long_table(tmp_path: Path) -> None:
    """Each row once, also where quotes that nobody closed follow each other."""
    rows = [f'{n}.jpg,"a kite, number {n}"' for n in range(20_000)]
    for stray in (500, 501, 15_000):
        rows[stray] = f'{stray}.jpg,"a kite'
    good, bad = mixed(tmp_path / "a.csv", "filename,caption\n" + "\n".join(rows))
    assert (len(good), set(bad)) == (19_997, {"502", "503", "15002"})
    assert good["20001"] == "a kite, number 19999"


def test_a_quote_in_a_tsv_belongs_to_its_line(tmp_path: Path) -> None:
    data = (
        'filename\tcaption\n1.jpg\t"a shark\n2.jpg\t"a ""red"" kite"\n3.jpg\t"Hi" said he\n'
        '"4.jpg"\t"a 6\n5.jpg\t"""quoted"""\n6.jpg\t"a\tb"\n'
    )
    assert read(tmp_path / "a.tsv", data) == [
        ("2", '"a shark', "1.jpg"),
        ("3", 'a "red" kite', "2.jpg"),
        ("4", '"Hi" said he', "3.jpg"),
        ("5", '"a 6', "4.jpg"),
        ("6", '"quoted"', "5.jpg"),
        ("7", "a b", "6.jpg"),
    ]


def test_csv_that_means_nothing(tmp_path: Path) -> None:
    assert "no column" in refused(tmp_path / "a.csv", "width,height\n1,2\n")


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(
    lambda text: bool(clean(text))
)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_csv_round_trip(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[str], mark: str
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["image", "caption"])
    writer.writerows([f"{n}.jpg", body] for n, body in enumerate(bodies))
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    found = read(path, out.getvalue())
    assert [body for _, body, _ in found] == [clean(body) for body in bodies]
    assert [image for _, _, image in found] == [f"{n}.jpg" for n in range(len(bodies))]


# -- JSON ----------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        {"image": "1.jpg", "text": "a kite"},
        {"file_name": "2.jpg", "caption": "b kite", "width": 5},
        {"image": {"path": "3.jpg"}, "captions": ["c", "d"]},
        "only a text",
        {"filename": "4.jpg", "sentences": [{"raw": "e", "tokens": ["e"]}]},
        {"Image": " 5.jpg ", "Text": "f"},
        {"image": None, "text": "g"},
    ]
    data = "\ufeff" + "\n\n".join(json.dumps(line) for line in lines)
    assert read(tmp_path / "a.jsonl", data) == [
        ("1", "a kite", "1.jpg"),
        ("3", "b kite", "2.jpg"),
        ("5.0", "c", "3.jpg"),
        ("5.1", "d", "3.jpg"),
        ("7", "only a text", None),
        ("9.0", "e", "4.jpg"),
        ("11", "f", "5.jpg"),
        ("13", "g", None),
    ]


def test_jsonl_lines_that_cannot_be_used(tmp_path: Path) -> None:
    lines = [b'{"text": "good"}', b"{broken", b'{"image": "1.jpg"}', b'{"text": 5}', b"[1]", b"7",
             b'{"text": "\xff"}', b'{"text": ""}', b"[" * 100_000, b'{"captions": []}',
             b'{"text": "half \\ud83d"}', b'{"text": "last"}']  # fmt: skip
    good, bad = mixed(tmp_path / "a.jsonl", b"\n".join(lines))
    assert good == {"1": "good", "11": "half", "12": "last"}
    assert bad == {
        "2": "not JSON",
        "3": "no text",
        "4": "its text is not a string",
        "5": "neither an object nor a text",
        "6": "neither an object nor a text",
        "7": "not UTF-8",
        "8": "no text",
        "9": "not JSON",
        "10": "no text",
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=8), st.booleans())
def test_jsonl_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ascii_only: bool
) -> None:
    data = "\n".join(
        json.dumps({"image": image, "caption": body}, ensure_ascii=ascii_only)
        for image, body in rows
    )
    found = read(tmp_path_factory.mktemp("jsonl") / "a.jsonl", data)
    assert [(body, image) for _, body, image in found] == [
        (clean(body), image.strip() or None) for image, body in rows
    ]


def test_coco(tmp_path: Path) -> None:
    data = {
        "info": {},
        "images": [{"id": 5, "file_name": "000005.jpg"}, {"id": 6, "file_name": "000006.jpg"}],
        "annotations": [
            {"id": 100, "image_id": 5, "caption": "A dog"},
            {"id": 101, "image_id": 6, "caption": "A cat"},
            {"id": 102, "image_id": 7, "caption": "Unknown picture"},
        ],
    }
    path = tmp_path / "captions_val2017.json"
    assert read(path, json.dumps(data)) == [
        ("100", "A dog", "000005.jpg"),
        ("101", "A cat", "000006.jpg"),
        ("102", "Unknown picture", "image_id 7"),  # which the catalog will not find, and say so
    ]
    broken: dict[str, Any] = data | {"annotations": [{"id": 1, "caption": "x"}, 5, {"id": 2}]}
    assert mixed(path, json.dumps(broken)) == (
        {"1": "x"},
        {"#1": "not an object", "2": "no text"},
    )
    instances: dict[str, Any] = data | {"annotations": [{"id": 1, "bbox": []}]}
    assert "no captions" in refused(path, json.dumps(instances))


def test_keys_that_repeat(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    ids = [7, 8, "7", "7#2", 7, None, "#5", 7]
    notes: list[Any] = [{"id": id_, "caption": f"text {n}"} for n, id_ in enumerate(ids)]
    keys = ["7", "8", "7#2", "7#2#2", "7#3", "#5", "#5#2", "7#4"]
    assert read(path, json.dumps({"annotations": notes})) == [
        (key, f"text {n}", None) for n, key in enumerate(keys)
    ]
    notes = [{"id": 7}, {"id": 7, "caption": "a"}, {"id": 7, "caption": ""}]
    assert mixed(path, json.dumps({"annotations": notes})) == (
        {"7#2": "a"},
        {"7": "no text", "7#3": "no text"},
    )
    named = {"1.jpg": ["a", "b"], "1.jpg.0": "c"}
    assert [key for key, _, _ in read(path, json.dumps(named))] == [
        "1.jpg.0",
        "1.jpg.1",
        "1.jpg.0#2",
    ]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([{"image": "1.jpg", "caption": "a"}, "b"], [("0", "a", "1.jpg"), ("1", "b", None)]),
        ({"1.jpg": "a", "2.jpg": ["b", "c"]},
         [("1.jpg", "a", "1.jpg"), ("2.jpg.0", "b", "2.jpg"), ("2.jpg.1", "c", "2.jpg")]),
        ({"dataset": "coco", "images": [{"filename": "1.jpg", "sentences": [{"raw": "a"}]}]},
         [("0.0", "a", "1.jpg")]),
        ([{"image_id": "1.jpg", "caption": "C"}, {"image_id": 7, "caption": "D"}],
         [("0", "C", "1.jpg"), ("1", "D", None)]),
        ({"annotations": [{"id": 1, "image_id": "sub/1.jpg", "caption": "a"}]},
         [("1", "a", "sub/1.jpg")]),
        ([], []),
    ],
)  # fmt: skip
def test_other_json(
    tmp_path: Path, value: object, wanted: list[tuple[str, str, str | None]]
) -> None:
    assert read(tmp_path / "a.json", json.dumps(value)) == wanted


def test_json_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert "not JSON" in refused(path, '{"a": ')
    assert "not JSON" in refused(path, "[" * 100_000)
    assert refused(path, b'{"a": "\xff"}') == "not UTF-8"
    assert "neither" in refused(path, "5")


# -- Parquet -------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1, 2, 3], "Caption": ["a", None, "c"], "file_name": ["1.jpg", "2.jpg", None]}), path)  # fmt: skip  # noqa: E501
    assert list(read_texts(path)) == [
        TextItem("0", "a", "1.jpg"),
        BadText("1", "no text"),
        TextItem("2", "c", None),
    ]
    many = [[f"{n} a", f"{n} b"] for n in range(3000)]
    images = [{"bytes": b"x", "path": f"{n}.jpg"} for n in range(3000)]
    pq.write_table(pa.table({"captions": many, "image": images}), path)
    items = list(read_texts(path))
    assert len(items) == 6000
    assert items[-1] == TextItem("2999.1", "2999 b", "2999.jpg")


def test_parquet_with_text_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    names = [b"1.jpg", "caf\u00e9.jpg".encode(), b"\xff\xd8\xff"]
    pq.write_table(pa.table({"caption": [b"a", b"\xff", b"c"], "image_path": names}), path)
    assert list(read_texts(path)) == [
        TextItem("0", "a", "1.jpg"),
        BadText("1", "not UTF-8"),
        TextItem("2", "c", None),
    ]
    images = [{"bytes": b"\xff\xd8", "path": b"1.jpg"}]
    pq.write_table(pa.table({"captions": [[b"a", b"b"]], "image": images}), path)
    assert [(item.body, item.image) for item in read_texts(path) if isinstance(item, TextItem)] == [
        ("a", "1.jpg"),
        ("b", "1.jpg"),
    ]
    pq.write_table(pa.table({"caption": ["a", "b"], "image_id": ["1.jpg", "7"]}), path)
    assert list(read_texts(path)) == [TextItem("0", "a", "1.jpg"), TextItem("1", "b", None)]


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert "not Parquet" in refused(path, b"PAR1" + bytes(100))
    assert "not Parquet" in refused(path, b"x")
    pq.write_table(pa.table({"n": [1]}), path)
    assert "no column" in refused(path, path.read_bytes())


# -- whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(TEXT_SUFFIXES))
def test_files_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DecodeError, match="not found"):
        list(read_texts(path))
    assert refused(path, b"") == "empty file"
    assert "UTF-16" in refused(path, "a kite".encode("utf-16"))
    if suffix != ".parquet":
        for order in ("utf-16-le", "utf-16-be"):
            without_mark = "UTF-16 without a byte order mark, where UTF-8 is expected"
            assert refused(path, "a kite\n".encode(order)) == without_mark
    path.unlink()
    path.mkdir()
    with pytest.raises(DecodeError, match="directory"):
        list(read_texts(path))


def test_other_endings(tmp_path: Path) -> None:
    assert "no kind of text file" in refused(tmp_path / "a.doc", "x")


@settings(max_examples=150, deadline=None)
@given(suffix=st.sampled_from(sorted(TEXT_SUFFIXES)), data=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(data)
    try:
        for item in read_texts(path):
            if isinstance(item, TextItem):
                assert item.body == clean(item.body)
                item.body.encode("utf-8")
    except DecodeError:
        pass


# -- names and sidecars --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["captions.txt", "captions.jsonl", "Captions.CSV", "captions_val2017.json", "captions-de.tsv",
     "holiday.captions.txt", "metadata.jsonl", "metadata.csv", "Flickr8k.token.txt",
     "flickr30k.token", "results_20130124.token", "captions.parquet"],
)  # fmt: skip
def test_caption_files(name: str) -> None:
    assert is_caption_file(name)


@pytest.mark.parametrize(
    "name", ["notes.txt", "data.json", "captions.jpg", "captions", "package.json", "metadata.json",
             "instances_val2017.json", "my captions.doc", "captions.txt.bak"]
)  # fmt: skip
def test_no_caption_files(name: str) -> None:
    assert not is_caption_file(name)


def test_sidecar_candidates() -> None:
    assert sidecar_for("x/a.txt")[0] == "x/a.jpg"
    assert "x/a.heic" in sidecar_for("x/a.txt")
    assert sidecar_for("x/a.PNG.TXT")[0] == "x/a.PNG"
    assert sidecar_for("x/a.md") == ()


def test_read_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa kite\r\n\r\nover  the beach\n")
    assert read_sidecar(path) == "a kite over the beach"
    for data, said in (
        (b" \n", "empty"),
        (b"\xff", "not UTF-8"),
        ("a kite".encode("utf-16-le"), "UTF-16 without"),
        (b"x" * (MAX_BODY + 1), "too many"),
        (b"x" * (MAX_LINE_BYTES + 1), "too long"),
    ):
        path.write_bytes(data)
        with pytest.raises(DecodeError, match=said):
            read_sidecar(path)
    with pytest.raises(DecodeError, match="not found"):
        read_sidecar(tmp_path / "b.txt")


@given(st.text())
def test_clean(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert cleaned == unicodedata.normalize("NFC", cleaned)
    cleaned.encode("utf-8")
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
    assert "  " not in cleaned


def test_clean_keeps_what_words_need() -> None:
    assert clean("Cafe\u0301") == "Café"
    assert (
        clean("\U0001f468\u200d\U0001f469\u200d\U0001f467")
        == "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    )
    assert clean("一只\u3000猫") == "一只 猫"
