"""Filters as text and as JSON: what is read, what is refused and where, and the way back."""

from __future__ import annotations

import fnmatch
import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch import filters as f
from mmsearch.errors import QueryError
from mmsearch.filters.conditions import MAX_CONDITIONS, MAX_DEPTH, SHAPES, THINGS
from mmsearch.filters.globs import comparable, literal, name_pattern, path_pattern, plain

DAY = datetime(2019, 7, 31)


# --- what is read ---------------------------------------------------------------------------------

READ = {
    "": f.And(),
    "  ": f.And(),
    "()": f.And(),
    "has:gps": f.Has("gps"),
    "HAS:GPS": f.Has("gps"),
    "has:gps has:date": f.And((f.Has("gps"), f.Has("date"))),
    "has:gps AND has:date": f.And((f.Has("gps"), f.Has("date"))),
    "has:gps or has:date has:tag": f.Or((f.Has("gps"), f.And((f.Has("date"), f.Has("tag"))))),
    "(has:gps or has:date)has:tag": f.And((f.Or((f.Has("gps"), f.Has("date"))), f.Has("tag"))),
    "not has:gps has:date": f.And((f.Not(f.Has("gps")), f.Has("date"))),
    "not (has:gps has:date)": f.Not(f.And((f.Has("gps"), f.Has("date")))),
    "not not has:gps": f.Not(f.Not(f.Has("gps"))),
    'camera:"Canon EOS*"': f.Camera("Canon EOS*"),
    r'tag:"say \"hi\" \\ \n"': f.Tag(r'say "hi" \ \n'),
    "tag:or": f.Tag("or"),
    "path:/a(1).jpg": f.Path("/a(1).jpg"),
    "(path:a(1).jpg)": f.Path("a(1).jpg"),
    "path:C:/x": f.Path("C:/x"),
    "folder:2019": f.Path("2019/**"),
    "in:/photos/2019/": f.Path("/photos/2019/**"),
    "format:jpg": f.Format("JPEG"),
    "format:heic": f.Format("HEIF"),
    "format:nrw": f.Format("NEF"),
    "format:raw": f.Format("RAW"),
    "taken:2019": f.Dates("taken", datetime(2019, 1, 1), datetime(2020, 1, 1)),
    "date:2019-12": f.Dates("taken", datetime(2019, 12, 1), datetime(2020, 1, 1)),
    "taken:2019-07-31": f.Dates("taken", DAY, DAY + timedelta(days=1)),
    "taken:2019-07-31T18:30": f.Dates(
        "taken", datetime(2019, 7, 31, 18, 30), datetime(2019, 7, 31, 18, 31)
    ),
    "taken:2019-07-31T18:30:05": f.Dates(
        "taken", datetime(2019, 7, 31, 18, 30, 5), datetime(2019, 7, 31, 18, 30, 6)
    ),
    "taken:2019..2021": f.Dates("taken", datetime(2019, 1, 1), datetime(2022, 1, 1)),
    "taken:2019-02..": f.Dates("taken", datetime(2019, 2, 1)),
    "taken:..2019-02": f.Dates("taken", None, datetime(2019, 3, 1)),
    "taken:..": f.Dates("taken"),
    "taken:>2019": f.Dates("taken", datetime(2020, 1, 1)),
    "taken:>=2019": f.Dates("taken", datetime(2019, 1, 1)),
    "taken:<2019": f.Dates("taken", None, datetime(2019, 1, 1)),
    "taken:<=2019": f.Dates("taken", None, datetime(2020, 1, 1)),
    "taken:9999": f.Dates("taken", datetime(9999, 1, 1)),
    "indexed:2024-05-01T12:00+02:00": f.Dates(
        "added", datetime(2024, 5, 1, 10), datetime(2024, 5, 1, 10, 1)
    ),
    "added:>=2024-05-01T12:00Z": f.Dates("added", datetime(2024, 5, 1, 12)),
    "bytes:5MB": f.Range("bytes", 4_500_000, 5_499_999),
    "size:5.0MB": f.Range("bytes", 4_950_000, 5_049_999),
    "bytes:5": f.Range("bytes", 5, 5),
    "bytes:0MB": f.Range("bytes", 0, 499_999),
    "bytes:1kB..2KiB": f.Range("bytes", 1000, 2048),
    "bytes:>1kB": f.Range("bytes", 1001),
    "bytes:<1kB": f.Range("bytes", None, 999),
    "bytes:<=0.5k": f.Range("bytes", None, 500),
    "width:4000": f.Range("width", 4000, 4000),
    "height:1080px..": f.Range("height", 1080),
    "megapixels:12": f.Range("pixels", 11_500_000, 12_499_999),
    "mp:8..24": f.Range("pixels", 8_000_000, 24_000_000),
    "orientation:Portrait": f.Orientation("portrait"),
    "near:48.85,-2.35,10km": f.Near(48.85, -2.35, 10.0),
    'near:"48.85, 2.35, 500 m"': f.Near(48.85, 2.35, 0.5),
    "near:48.85,2.35,3": f.Near(48.85, 2.35, 3.0),
}


@pytest.mark.parametrize("text", READ)
def test_text_is_read(text: str) -> None:
    assert f.parse(text) == READ[text]
    assert f.parse(f.to_text(f.parse(text))) == READ[text]
    assert hash(f.parse(text)) == hash(READ[text])


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "cam:x": (1, "Did you mean"),
    "has:gps colour:red": (9, "There are: path, folder, source, taken"),
    "beach": (1, "name:value"),
    '"beach"': (1, "condition is missing"),
    "has:gps and": (12, "condition is missing"),
    "has:gps or or has:date": (12, "condition is missing"),
    "not": (4, "condition is missing"),
    "(has:gps": (1, "not closed"),
    "has:gps)": (8, "closes nothing"),
    "has:gps ())": (11, "closes nothing"),
    'camera:"x': (8, "not closed"),
    'camera:"x"y': (11, "blank is missing"),
    "camera:": (8, "value is missing"),
    "path:(a": (6, "quotes"),
    "has:dog": (1, "caption, gps, date"),
    "orientation:up": (1, "landscape, portrait, square"),
    "taken:199": (1, "2019-07-31"),
    "taken:2019-13": (1, "no date"),
    "taken:>9999": (1, "nothing comes after"),
    "taken:2019-07-31T18:30Z": (1, "without a time zone"),
    "bytes:5XB": (1, "5MB"),
    "bytes:1.5": (1, "no size"),
    "bytes:-5": (1, "no size"),
    "bytes:<0": (1, "less than 0"),
    "bytes:999999999999999999TB": (1, "no number"),
    "width:10.5": (1, "no number"),
    'folder:""': (1, "compared with nothing"),
    "near:1,2": (1, "latitude, longitude"),
    "near:1,2,x": (1, "latitude, longitude"),
    "near:91,2,3": (1, "-90 to 90"),
    "near:1,2,nan": (1, "latitude, longitude"),
    "near:1,2,-3": (1, "not -3"),
    "path:a**b": (1, "stand alone"),
    "camera:[z-a]": (1, "backwards"),
    'camera:""': (1, '"*" is any'),
    "tag:" + "x" * 1001: (1, "1,001 characters"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_pointed_at(text: str) -> None:
    character, reason = REFUSED[text]
    with pytest.raises(QueryError) as caught:
        f.parse(text)
    assert f"(character {character})" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100 + "has:gps" + ")" * 100,
        "not " * (MAX_DEPTH + 1) + "has:gps",
        "has:gps " * (MAX_CONDITIONS + 1),
        " " * 20_000,
    ],
)
def test_too_much_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match=r"deeper than|more than|longer than"):
        f.parse(text)


@given(st.text(alphabet='has:gp()"\\ ornt*[]!-..,<>=0123456789TZMB/\u00e9\udc80', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = f.parse(text)
    except QueryError:
        return
    assert f.parse(f.to_text(found)) == found


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
        | st.sampled_from(["2019", "gps", "5MB", "a*"]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["and", "or", "not", "taken", "bytes", "near", "has", "min", "from",
                             "latitude", "megapixels", "path", "x"]),
            inner, max_size=3,
        ),
    )
)  # fmt: skip
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        found = f.from_json(value)
    except QueryError:
        return
    assert f.from_json(json.loads(json.dumps(f.to_json(found)))) == found


# --- JSON -----------------------------------------------------------------------------------------

JSON = [
    (None, f.And()),
    ({}, f.And()),
    ("has:gps", f.Has("gps")),
    ({"has": "gps"}, f.Has("gps")),
    ({"and": ["has:gps", {"has": "date"}]}, f.And((f.Has("gps"), f.Has("date")))),
    ({"has": "gps", "format": "png"}, f.And((f.Has("gps"), f.Format("PNG")))),
    ({"format": ["png", "heic"]}, f.Or((f.Format("PNG"), f.Format("HEIF")))),
    ({"not": {"or": [{"tag": "a b"}, "has:tag"]}}, f.Not(f.Or((f.Tag("a b"), f.Has("tag"))))),
    ({"taken": 2019}, f.Dates("taken", datetime(2019, 1, 1), datetime(2020, 1, 1))),
    ({"taken": {"before": "2019-07-31"}}, f.Dates("taken", None, DAY)),
    ({"added": {"from": "2019-07-31T02:00:00+02:00"}}, f.Dates("added", DAY)),
    ({"size": "5MB.."}, f.Range("bytes", 5_000_000)),
    ({"bytes": {"min": 5, "max": None}}, f.Range("bytes", 5)),
    ({"megapixels": {"min": 0.5, "max": 12}}, f.Range("pixels", 500_000, 12_000_000)),
    ({"near": {"latitude": 1, "longitude": 2.5, "km": 3}}, f.Near(1.0, 2.5, 3.0)),
    ({"folder": "2019"}, f.Path("2019/**")),
    ({"folder": "/"}, f.Path("/**")),
    # Every name of a condition, also where its value is an object.
    ({"size": {"min": 5}}, f.Range("bytes", 5)),
    ({"MP": {"min": 1}}, f.Range("pixels", 1_000_000)),
    ({"date": {"from": "2019-07-31"}}, f.Dates("taken", DAY)),
    ({"indexed": {"before": "2019-07-31"}}, f.Dates("added", None, DAY)),
    # A number is what it is written as, shortest.
    ({"megapixels": 2.1}, f.Range("pixels", 2_050_000, 2_149_999)),
    ({"megapixels": 2.0}, f.Range("pixels", 1_500_000, 2_499_999)),
    ({"megapixels": 0.1 + 0.2}, f.Range("pixels", 250_000, 349_999)),
    ({"megapixels": 1e-05}, f.Range("pixels", 5, 14)),
    ({"mp": {"min": 8.2, "max": 2.01}}, f.Range("pixels", 8_200_000, 2_010_000)),
    ({"width": 1920.0}, f.Range("width", 1920, 1920)),
    ({"width": {"min": 1920.0}}, f.Range("width", 1920)),
    ({"bytes": 1e15}, f.Range("bytes", 10**15, 10**15)),
    ({"taken": 2019.0}, f.Dates("taken", datetime(2019, 1, 1), datetime(2020, 1, 1))),
    ({"tag": 1.5}, f.Tag("1.5")),
]


@pytest.mark.parametrize(("value", "expected"), JSON)
def test_json_is_read(value: object, expected: f.Filter) -> None:
    assert f.from_json(value) == expected


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (5, "filter must be an object"),
        ([], "filter must be an object"),
        ({"and": "x"}, "filter.and must be a list"),
        ({"or": []}, "nothing"),
        ({"and": [{"has": "gps"}, {"has": "dog"}]}, r"filter.and\[1\].has: "),
        ({"not": {"and": ["beach"]}}, r"filter.not.and\[0\]: .*name:value"),
        ({"colour": "red"}, "no condition"),
        ({"taken": {"until": "2019"}}, "it has from, before"),
        ({"taken": {"from": "yesterday"}}, "filter.taken: a date"),
        ({"bytes": {"min": 1.5}}, "whole number"),
        ({"bytes": {"min": True}}, "whole number"),
        ({"megapixels": {"min": float("nan")}}, "a number"),
        ({"megapixels": {"min": 10**400}}, "no number"),
        ({"megapixels": float("inf")}, "no number"),
        ({"size": {"min": 1.5}}, "whole number"),
        ({"colour": {"min": 1}}, "no condition"),
        ({"in": {"min": 1}}, "is a text"),
        ({"folder": ""}, "compared with nothing"),
        ({"near": {"latitude": 1}}, "longitude"),
        ({"camera": {"a": 1}}, "is a text"),
        ({"camera": None}, "is a text"),
        ({"not": [1]}, "filter.not must be"),
    ],
)
def test_json_that_says_no_filter(value: object, place: str) -> None:
    with pytest.raises(QueryError, match=place):
        f.from_json(value)


def test_json_nested_too_deep() -> None:
    value: object = "has:gps"
    for _ in range(500):
        value = {"not": value}
    with pytest.raises(QueryError, match="deeper"):
        f.from_json(value)
    with pytest.raises(QueryError, match="more than"):
        f.from_json({"format": ["png"] * 500})
    with pytest.raises(QueryError, match="more than"):
        f.from_json({"and": [{"format": ["png"] * 150}] * 2})


globs = st.text(min_size=1, max_size=8).filter(lambda g: "\0" not in g)
moments = st.datetimes(datetime(1, 1, 2))
counts = st.none() | st.integers(0, 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
ends = st.none() | moments | st.dates().map(lambda d: datetime(max(d.year, 2), 1, 1))


def readable(pattern: str) -> bool:
    try:
        f.Path(pattern)
        f.Camera(pattern)
    except QueryError:
        return False
    return True


patterns = globs.filter(readable)
conditions = st.one_of(
    *(st.builds(kind, patterns) for kind in (f.Path, f.Source, f.Camera, f.Keyword, f.Tag)),
    st.builds(f.Format, st.sampled_from(["JPEG", "x y", "GIF"])),
    st.builds(f.Dates, st.sampled_from(["taken", "added"]), ends, ends),
    st.builds(f.Range, st.sampled_from(["bytes", "width", "height", "pixels"]), counts, counts),
    st.builds(f.Orientation, st.sampled_from(SHAPES)),
    st.builds(f.Has, st.sampled_from(THINGS)),
    st.builds(
        f.Near, st.floats(-90, 90), st.floats(-180, 180), st.floats(0, 1e6, allow_subnormal=False)
    ),
)
trees = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f.And(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f.Or(tuple(parts))),
        inner.map(f.Not),
    ),
    max_leaves=10,
)


@given(trees)
def test_json_comes_back_the_same(tree: f.Filter) -> None:
    said = json.dumps(f.to_json(tree))
    assert f.from_json(json.loads(said)) == tree


@given(conditions)
def test_text_of_a_condition_comes_back_the_same(part: f.Filter) -> None:
    assert f.parse(f.to_text(part)) == part


@given(trees)
def test_text_of_a_filter_keeps_its_conditions(tree: f.Filter) -> None:
    """Groups of one are the one; besides that nothing changes."""
    found = f.parse(f.to_text(tree))
    assert list(f.conditions(found)) == list(f.conditions(tree))
    assert f.parse(f.to_text(found)) == found
    assert flat(found) == flat(tree)


def flat(part: f.Filter) -> object:
    if isinstance(part, f.Not):
        return ("not", flat(part.part))
    if isinstance(part, f.And | f.Or):
        kind = type(part).__name__
        return flat(part.parts[0]) if len(part.parts) == 1 else (kind, *map(flat, part.parts))
    return part


def test_dates_come_into_utc() -> None:
    summer = timezone(timedelta(hours=2))
    assert f.Dates("added", datetime(2024, 5, 1, 2, tzinfo=summer)).start == datetime(2024, 5, 1)
    with pytest.raises(QueryError, match="no date in UTC"):
        f.Dates("added", datetime(1, 1, 1, tzinfo=summer))
    with pytest.raises(QueryError, match="local time"):
        f.Dates("taken", datetime(2024, 5, 1, tzinfo=UTC))


# --- patterns -------------------------------------------------------------------------------------

letters = st.text("aAbk\u212asS\u017fiI\u0131\u0130.%_\\é/", max_size=8)


@given(st.text("aAbk.*?[]!-^\\%_é", min_size=1, max_size=8), letters)
def test_names_match_as_fnmatch_says(glob: str, name: str) -> None:
    try:
        pattern = name_pattern(glob)
    except QueryError:
        return
    expected = re.compile(fnmatch.translate(glob), re.IGNORECASE).match(name)
    assert (pattern.fullmatch(name) is None) == (expected is None)


@given(st.text("aAbkS.*?[]!%_\\é", min_size=1, max_size=8).filter(lambda g: "**" not in g), letters)
def test_sql_finds_every_name_that_matches(glob: str, name: str) -> None:
    """LIKE passes all of them; GLOB, where it is asked, all those in ASCII and no others."""
    pattern = path_pattern(glob)
    name = name.replace("/", "") or "a"
    if pattern.name is None:
        return
    fits = pattern.name.fullmatch(name) is not None
    assert not fits or like(pattern.like, name)
    if pattern.exactly is not None and name.isascii():
        assert sql("? GLOB ?", name.lower(), pattern.exactly) == fits


@pytest.mark.parametrize(
    ("glob", "name"),
    [
        ("k*", "\u212aelvin"),
        ("*S", "a\u017f"),
        ("i", "\u0131"),
        ("I?", "\u0130x"),
        ("\u00e9*", "e\u0301te"),
        ("*[\u00e9]", "e\u0301"),
        ("100%_*", "100%_done"),
        ("?", "e\u0301"),
    ],
)
def test_sql_finds_names_that_are_written_in_other_ways(glob: str, name: str) -> None:
    pattern = path_pattern(glob)
    assert pattern.matches("/" + name)
    assert like(pattern.like, name)


@pytest.mark.parametrize("glob", ["[!a-c]x", "[A-C]x", "[a-z]x", "[0-9]?", "[a5]*"])
@pytest.mark.parametrize("name", ["bx", "Bx", "zx", "5x", "-x", "^x", "!x"])
def test_sql_knows_classes(glob: str, name: str) -> None:
    pattern = path_pattern(glob)
    assert pattern.exactly is not None
    assert sql("? GLOB ?", name.lower(), pattern.exactly) == pattern.matches("/" + name)


def test_classes_that_sql_reads_in_another_way_are_left_to_python() -> None:
    assert path_pattern("[A-z]*").exactly is None
    assert path_pattern("[^a]*").exactly is None
    assert path_pattern("[[]*[*][?]").exactly == "[[]*[*][?]"


def like(pattern: str, name: str) -> bool:
    return sql("? LIKE ? ESCAPE '\\'", name, pattern)


def sql(condition: str, *values: str) -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        return bool(connection.execute(f"SELECT {condition}", values).fetchone()[0])


@given(st.text(max_size=8).filter(lambda t: "\0" not in t))
def test_a_literal_is_only_itself(text: str) -> None:
    assert plain(literal(text)) == text
    if text:
        other = text + "x"
        assert name_pattern(literal(text)).fullmatch(comparable(text))
        assert not name_pattern(literal(text)).fullmatch(comparable(other))


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**/Screenshots/**", ["/a/screenshots/x.png", "/Screenshots/b/c/x"], ["/a/screenshots"]),
        ("2019/*.jpg", ["/a/2019/x.JPG"], ["/a/2019/b/x.jpg", "/a/12019/x.jpg"]),
        ("/2019/*.jpg", ["/2019/x.jpg"], ["/a/2019/x.jpg"]),
        ("/a/**/x.jpg", ["/a/x.jpg", "/a/b/c/x.jpg"], ["/b/a/x.jpg"]),
        ("x.jpg", ["/x.jpg", "/a/x.jpg"], ["/a/yx.jpg"]),
        ("a.zip!/*", ["/q/a.zip!/x.jpg"], ["/q/a.zip!/in/x.jpg", "/q/a.zip"]),
        ("*.zip!/**", ["/q/a.zip!/x.jpg", "/a.zip!/in/x.jpg"], ["/q/a.zip/x.jpg"]),
        ("a/", ["/a/x", "/b/a/c/x"], ["/a"]),
        ("/", ["/x", "/a/x"], []),
        ("**", ["/x", "/a/x"], []),
        ("/**/b/**/d/*", ["/b/d/x", "/a/b/c/d/x", "/b/b/d/d/x"], ["/b/c/x", "/d/b/x"]),
        ("a*/**/b?", ["/ab/bc", "/q/aa/r/bb"], ["/q/ba/bb", "/a/b"]),
        ("caf\u00e9/*", ["/cafe\u0301/x", "/CAF\u00c9/x"], ["/cafe/x"]),
        ("*", ["/\n", "/a/ b"], []),
    ],
)
def test_paths(glob: str, yes: list[str], no: list[str]) -> None:
    for path in yes:
        assert path_pattern(glob).matches(path), path
    for path in no:
        assert not path_pattern(glob).matches(path), path


def test_no_pattern_takes_long() -> None:
    """With ordinary groups each of these would take longer than the age of the earth."""
    name = "a" * 250
    assert not name_pattern("*a" * 60 + "b").fullmatch(name)
    assert not path_pattern("*a" * 60 + "b").matches("/" + name)
    deep = "/" + "a/" * 1000 + "x"
    assert not path_pattern("**/a/" * 60 + "c/x").matches(deep)
    assert path_pattern("*a" * 60 + "b").like.count("%") == 2
