"""The table of pictures in the terminal: what fits, what goes on in the next line, what is cut."""

from __future__ import annotations

from rich.cells import cell_len

from mmsearch.cli.table import Row, fitted

HEAD = ("", "relevance", "score", "picture", "caption")
LONG = "Photos/" + "b" * 60 + ".jpg"
ROWS: list[Row] = [
    HEAD,
    ("1", "0.71", "0.444", LONG, "a long caption " * 6),
    ("10", "   -", "-0.044", "a.jpg", "画面：气球"),
    ("11", "0.50", "0.040", "b.jpg", ""),
]


def test_in_a_pipe_rows_stay_whole() -> None:
    table = list(fitted(ROWS, None))
    assert len(table) == len(ROWS)
    assert [row[3].rstrip() for row in table] == [row[3] for row in ROWS]
    assert [row[4] if len(row) > 4 else "" for row in table] == [row[4] for row in ROWS]
    assert table[1][:3] == (" 1", "     0.71", " 0.444")


def test_columns_stand_under_their_names() -> None:
    table = ["  ".join(row) for row in fitted(ROWS, 250)]
    picture = table[0].index("picture")
    assert table[2][picture:].startswith("a.jpg")
    caption = cell_len(table[0][: table[0].index("caption")])
    assert cell_len(table[2][: table[2].index("画")]) == caption


def test_a_narrow_terminal_cuts_captions_and_folds_paths() -> None:
    for width in (40, 45, 60, 80, 100, 150):
        table = list(fitted(ROWS, width))
        assert all(cell_len("  ".join(row).rstrip()) <= width for row in table), width
        # No part of a path is lost, and its lines bear no numbers of their own.
        assert "".join(row[3].rstrip() for row in table[1:]).startswith(LONG)
        folded = [row for row in table if not row[1].strip()]
        assert all(not "".join(row[:3]).strip() and len(row) == 4 for row in folded)
    cut = next(iter(list(fitted(ROWS, 100))[1:]))[4]
    assert cut.startswith("a long caption")
    assert cut.endswith("…")


def test_a_caption_of_which_nothing_would_be_left_is_not_begun() -> None:
    table = list(fitted(ROWS, 42))
    assert all(len(row) == 4 for row in table)
    short: list[Row] = [(*row[:3], "a.jpg", "kite") for row in ROWS]
    assert [row[4] for row in fitted(short, 42)] == ["kite"] * len(ROWS)


def test_without_captions_there_is_no_column_for_them() -> None:
    table = list(fitted([(*row[:4], "") for row in ROWS], 80))
    assert all(len(row) == 4 for row in table)
