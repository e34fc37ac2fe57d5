"""The same questions by every way in: terminal, HTTP, both clients and Python say the same."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsing import POSTCARDS, Server
from click.testing import CliRunner

import mmsearch
from indexer.ingest import Options, index
from mmsearch import AsyncClient, Client, filters
from mmsearch.cli import cli
from mmsearch.errors import DecodeError, IndexMissingError, MmsearchError, QueryError
from mmsearch.library import CATALOG_NAME
from mmsearch.overhttp import error_of
from mmsearch.query import Question, Term, parse_terms
from mmsearch.store import CatalogWriter

PICTURES = 40


@dataclass(frozen=True)
class Asked:
    """A question in the words of Python, and whether it is for texts."""

    terms: tuple[Term, ...]
    texts: bool = False
    where: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def question(self) -> Question:
        where = None if self.where is None else filters.parse(self.where)
        return Question(self.terms, where, **dict(self.options))


def asked(
    typed: str = "", /, *more: Term, texts: bool = False, where: str | None = None, **options: Any
) -> Asked:
    terms = (*parse_terms(typed.split(" ") if typed else []), *more)
    return Asked(terms, texts, where, tuple(options.items()))


def picture(n: int) -> Path:
    return POSTCARDS / f"postcard-{n:04}.jpg"


def like(id_: int, weight: float = 1.0) -> Term:
    return Term(image_id=id_, weight=weight)


GIVEN = Term(image=picture(PICTURES + 3))
QUESTIONS = [
    asked("a red kite over a beach"),
    asked("kite"),
    asked("气球"),
    asked("a 🪁 in the sky"),
    asked("a\u0301 e\u0301te\u0301 \u202ekite"),
    asked("\u200dkite\u200d"),
    asked("KITE"),
    asked('"kite"'),
    asked("postcard-0007"),
    asked("postcard-0007", words=False),
    asked("a" * 1_500),
    asked("kite + 0.5:sunset - people"),
    asked("beach - 3:city"),
    asked("kite", expand=True),
    asked("kite", min_relevance=0.5),
    asked("a circuit diagram", min_relevance=0.5),
    asked("kite", min_relevance=1),
    asked("kite", min_score=0.2),
    asked("kite", min_score=-1),
    asked("kite", min_score=1),
    asked("kite", min_score=1.5),
    asked("kite", min_relevance=1.5),
    asked("kite", diversity=1),
    asked("kite", k=0),
    asked("kite", offset=-1),
    asked("kite", k=1),
    asked("kite", k=1000),
    asked("kite", k=7, offset=7),
    asked("kite", k=7, offset=35),
    asked("kite", k=7, offset=9_000),
    asked("kite", exact=True),
    asked("kite", group=True),
    asked("kite", diversity=0.5),
    asked("kite", diversity=0.9, group=True, min_relevance=0.2, k=5, offset=3),
    asked("kite", where="path:**/postcard-000*"),
    asked("kite", where="width:100.. and not format:png"),
    asked("kite", where="taken:1999"),
    asked("kite", where="width>1"),
    asked("kite", where="has:caption orientation:landscape", k=3, offset=2),
    asked("kite", where="source:postcards"),
    asked("kite", where="source:elsewhere"),
    asked("", like(3)),
    asked("", like(3), like(7, 0.5), like(12, -1)),
    asked("at night", like(3)),
    asked("- people", like(3)),
    asked("", like(999_999)),
    asked("", GIVEN),
    asked("", replace(GIVEN, weight=0.5), like(3, -1)),
    asked("at night", GIVEN, k=3),
    asked("", Term(image=picture(3))),
    asked("", Term(image=Path(__file__))),
    asked("", like(3), group=True, diversity=0.3),
    asked("kite", texts=True),
    asked("kite", texts=True, min_relevance=0.5),
    asked("kite", texts=True, k=3, offset=2),
    asked("kite - beach", texts=True),
    asked("kite", texts=True, group=True),
    asked("kite", texts=True, diversity=0.5),
    asked("kite", texts=True, where="path:**/captions.jsonl"),
    asked("kite", texts=True, where="taken:2019"),
    asked("", GIVEN, texts=True),
    asked("", like(3), texts=True),
    asked("", like(999_999), texts=True),
    asked("气球", texts=True, words=False),
    asked("xyzzy plugh", k=3),
    asked("\\- kite \\+ 0"),
]

#: What a way in says: items with their figures, and what is said of the list; or the error's kind.
Said = dict[str, Any] | str


def error_kind(error: BaseException | None) -> str:
    """By the classes that a program catches."""
    if isinstance(error, DecodeError):
        return "no picture"
    if isinstance(error, QueryError):
        return "no question"
    is_empty = isinstance(error, IndexMissingError) or getattr(error, "status", None) == 409
    return "nothing to search" if is_empty else repr(error)


def by_python(source: Any, one: Asked) -> Said:
    try:
        answer = source.ask_texts(one.question) if one.texts else source.ask(one.question)
    except MmsearchError as exc:
        return error_kind(exc)
    hits = [
        {
            "id": hit.text.id if one.texts else hit.image.id,
            "score": round(hit.score, 6),
            "relevance": None if hit.relevance is None else round(hit.relevance, 4),
            "what": hit.text.body if one.texts else hit.image.path,
            "more": hit.linked if one.texts else (list(hit.captions), list(hit.similar)),
        }
        for hit in answer.hits
    ]
    nearest = None if answer.nearest is None else round(answer.nearest, 4)
    return {"hits": hits, "allowed": answer.allowed, "cut": answer.cut, "nearest": nearest}


def by_asyncio(url: str, one: Asked) -> Said:
    async def ask() -> Said:
        async with AsyncClient(url) as client:
            call = client.ask_texts if one.texts else client.ask
            try:
                answer = await call(one.question)
            except MmsearchError as exc:
                return error_kind(exc)

            class Answered:
                ask = ask_texts = staticmethod(lambda _: answer)

            return by_python(Answered, one)

    return asyncio.run(ask())


def of_document(document: dict[str, Any], one: Asked) -> Said:
    hits = [
        {
            "id": hit["id"],
            "score": hit["score"],
            "relevance": hit["relevance"],
            "what": hit["text"] if one.texts else hit["path"],
            "more": hit["linked"] if one.texts else (hit["captions"], hit["similar"]),
        }
        for hit in document["hits"]
    ]
    return {"hits": hits} | {name: document[name] for name in ("allowed", "cut", "nearest")}


def by_http(url: str, one: Asked) -> Said:
    files, parts = [], []
    for term in one.terms:
        part: dict[str, Any] = {"weight": term.weight}
        if term.text is not None:
            part["text"] = term.text
        elif term.image_id is not None:
            part["image_id"] = term.image_id
        else:
            assert isinstance(term.image, Path)
            part["upload"] = len(files)
            files.append(("file", (term.image.name, term.image.read_bytes())))
        parts.append(part)
    body = {"parts": parts, "k": 10, "modality": "text" if one.texts else "image"}
    body |= {"where": one.where} | dict(one.options)
    if files:
        form = {"question": json.dumps(body)}
        response = httpx.post(f"{url}/v1/search/image", data=form, files=files, timeout=60)
    else:
        response = httpx.post(f"{url}/v1/search", json=body, timeout=60)
    if response.status_code == 200:
        return of_document(response.json(), one)
    return error_kind(error_of(response.status_code, response.content, response.headers))


def by_address(url: str, one: Asked) -> Said:
    (term,) = one.terms
    params = {"q": term.text, "k": 10, "where": one.where or ""} | dict(one.options)
    path = "texts/search" if one.texts else "search"
    response = httpx.get(f"{url}/v1/{path}", params=params, timeout=60)
    if response.status_code == 200:
        return of_document(response.json(), one)
    return error_kind(error_of(response.status_code, response.content, response.headers))


def by_terminal(where: list[str], one: Asked) -> Said:
    args = ["search", *where, "--json"]
    options = {"min_relevance": 0} | dict(one.options)
    for name, value in options.items():
        option = "-k" if name == "k" else f"--{name.replace('_', '-')}"
        if value is False:
            args.append(f"--no-{name}")
        elif value is True:
            args.append(option)
        else:
            args += [option, str(value)]
    args += ["--texts"] * one.texts
    args += [] if one.where is None else ["--where", one.where]
    words: list[str] = []
    for term in one.terms:
        weight = f"{abs(term.weight):g}:"
        if term.text is not None:
            words += ["-" if term.weight < 0 else "+", weight + term.text]
        elif term.image_id is not None:
            args += ["--unlike" if term.weight < 0 else "--like", f"{weight}{term.image_id}"]
        else:
            args += ["-i", f"{weight}{term.image}"]
    done = CliRunner().invoke(cli, [*args, "--", *words])
    if done.exit_code == 0:
        return of_document(json.loads(done.stdout), one)
    if done.exit_code == 2:
        return "no question"
    return error_kind(done.exception)


def close(found: Said, expected: Said) -> bool:
    """The same, but for rounding: a score depends on what is encoded together."""
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    figures = ("score", "relevance")
    rest = [
        [{name: value for name, value in hit.items() if name not in figures} for hit in of["hits"]]
        for of in (found, expected)
    ]
    numbers = [
        [of["nearest"], *(hit[name] for hit in of["hits"] for name in figures)]
        for of in (found, expected)
    ]
    return (
        json.loads(json.dumps(rest[0])) == json.loads(json.dumps(rest[1]))
        and all(found[name] == expected[name] for name in ("allowed", "cut"))
        and [n is None for n in numbers[0]] == [n is None for n in numbers[1]]
        and all(a is None or abs(a - b) < 5e-4 for a, b in zip(*numbers, strict=True))
    )


@pytest.fixture(scope="module", params=["whole", "without texts", "texts only", "empty"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, list[Asked]]]:
    """A library and its service, and what is asked of it: of the smaller ones not everything."""
    root = tmp_path_factory.mktemp("ways")
    (root / "postcards").mkdir()
    for n in range(PICTURES):
        shutil.copy(picture(n), root / "postcards" / picture(n).name)
    folders = [] if request.param in ("texts only", "empty") else [root / "postcards"]
    captions = [] if request.param in ("without texts", "empty") else [POSTCARDS / "captions.jsonl"]
    if folders or captions:
        options = Options(model="tiny", device="cpu")
        index(root / "library", folders, captions, options=options)
    else:
        (root / "library").mkdir()
        CatalogWriter(root / "library" / CATALOG_NAME).close()
    running = Server(root / "library")
    # Of an empty library it is told that it is, before or after what was asked is looked at.
    yield running, QUESTIONS if request.param == "whole" else QUESTIONS[::5]
    running.stop()


def test_every_way_in_says_the_same(served: tuple[Server, list[Asked]]) -> None:
    running, questions = served
    url, library = running.url, ["-l", str(running.library), "--no-server", "--device", "cpu"]
    with mmsearch.open(running.library, device="cpu") as opened, Client(url) as client:
        ways: dict[str, Callable[[Asked], Said]] = {
            "Client": lambda one: by_python(client, one),
            "AsyncClient": lambda one: by_asyncio(url, one),
            "HTTP": lambda one: by_http(url, one),
            "terminal": lambda one: by_terminal(library, one),
            "terminal, service": lambda one: by_terminal(["--server", url], one),
        }
        for one in questions:
            expected = by_python(opened, one)
            for name, way in ways.items():
                found = way(one)
                assert close(found, expected), (name, one, found, expected)
            if len(one.terms) == 1 and one.terms[0].text and one.terms[0].weight == 1:
                found = by_address(url, one)
                assert close(found, expected), ("address", one, found, expected)
