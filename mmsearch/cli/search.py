"""`mmsearch search` and `mmsearch captions`."""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import click

from mmsearch.cli.options import (
    FileThere,
    condition_of,
    device_option,
    json_option,
    k_option,
    library_option,
    nothing_matches,
    open_library,
    print_json,
    printable,
    rounded,
    understood,
    where_option,
)
from mmsearch.cli.remote import NotHereError, Remote, remote_for, server_options
from mmsearch.query import (
    DEFAULT_THRESHOLD,
    Question,
    Term,
    least_relevance,
    parse_terms,
    split_weight,
)
from mmsearch.types import Answer, ImageHit, TextHit

if TYPE_CHECKING:
    from mmsearch.filters import Filter
    from mmsearch.library import Library

_image_path = FileThere()
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)

R = TypeVar("R", bound=Callable[..., Any])


class _Search(click.Command):
    """`mmsearch search`, whose words may look like options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if exc.option_name.startswith("--"):
                raise
            raise click.UsageError(
                f"{exc.format_message()} To leave something out write a lone minus: dog - cat; "
                "what begins with a minus comes after --.",
                ctx,
            ) from exc


class Ranking(TypedDict):
    """The fields of Question that are options as they are."""

    min_score: float | None
    words: bool
    expand: bool
    exact: bool
    diversity: float
    group: bool


def _weighted_image(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[Term]:
    """Each "PICTURE", "0.5:PICTURE" or "-1:PICTURE" as a term."""
    terms = []
    for value in values:
        weight, path = 1.0, value
        if _ADDRESS.match(value):
            raise click.BadParameter("nothing is fetched from addresses: name a file", ctx, param)
        if not Path(value).exists():
            sign, rest = (-1, value[1:]) if value.startswith("-") else (1, value)
            weight, path = split_weight(rest)
            weight *= sign
        with understood():
            terms.append(Term(image=_image_path.convert(path, param, ctx), weight=weight))
    return terms


def _weighted_ids(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[Term]:
    """Each "12" or "0.5:12" as a term; of --unlike it is to be avoided."""
    terms = []
    for value in values:
        weight, colon, id_ = value.rpartition(":")
        sign = -1 if param.name == "unlike" else 1
        try:
            with understood():
                terms.append(Term(image_id=int(id_), weight=sign * float(weight if colon else 1)))
        except ValueError as exc:
            raise click.BadParameter(
                f"{value!r} is neither the id of a picture nor WEIGHT:ID", ctx, param
            ) from exc
    return terms


def refining_options(command: R) -> R:
    """What may be found, and how answers are ranked; see mmsearch.query.Question."""
    for option in reversed(
        (
            where_option("What an answer must satisfy; conditions are named above.", "-w"),
            click.option(
                "--min-relevance",
                type=click.FloatRange(0, 1),
                default=None,
                help=f"Least relevance.  [default: {DEFAULT_THRESHOLD}; for pictures alone 0]",
            ),
            click.option(
                "--all", "everything", is_flag=True, help="Leave nothing out as too weak."
            ),
            click.option("--min-score", type=float, help="Least cosine similarity."),
            click.option(
                "--words/--no-words",
                default=True,
                help="Names of files, captions and keywords count too; the default.",
            ),
            click.option(
                "--expand/--no-expand",
                default=False,
                help="Put short words into sentences (a photo of a …).",
            ),
            click.option("--exact", is_flag=True, help="Compare with every vector."),
            click.option(
                "--diversity",
                type=click.FloatRange(0, 1, max_open=True),
                default=0.0,
                help="More: answers differ more from each other.",
            ),
            click.option("--group", is_flag=True, help="Near-duplicates come as one answer."),
        )
    ):
        command = option(command)
    return command


@click.command(cls=_Search)
@click.argument("query", nargs=-1)
@click.option(
    "-i",
    "--image",
    "images",
    multiple=True,
    callback=_weighted_image,
    metavar="[WEIGHT:]PICTURE",
    help="A picture to search by. May be given several times.",
)
@click.option(
    "--like",
    multiple=True,
    callback=_weighted_ids,
    metavar="[WEIGHT:]ID",
    help="More like this picture of the library.",
)
@click.option(
    "--unlike",
    multiple=True,
    callback=_weighted_ids,
    metavar="[WEIGHT:]ID",
    help="Less like this one.",
)
@click.option("--texts", is_flag=True, help="Find texts instead of pictures.")
@k_option(10)
@click.option("--offset", type=click.IntRange(0), default=0, help="Skip so many results.")
@refining_options
@click.option("--paths", is_flag=True, help="Print only paths, one a line.")
@click.option("-0", "null", is_flag=True, help="With --paths: separate them by NUL (xargs -0).")
@click.option("--open", "open_", is_flag=True, help="Open the pictures found in the viewer.")
@click.option(
    "--thumbnails/--no-thumbnails",
    default=None,
    help="Show pictures in the terminal (kitty, Ghostty, iTerm2, WezTerm; by itself where known).",
)
@json_option
@server_options
@device_option()
@library_option
def search(
    query: tuple[str, ...],
    images: list[Term],
    like: list[Term],
    unlike: list[Term],
    texts: bool,
    k: int,
    offset: int,
    where: tuple[str, ...],
    min_relevance: float | None,
    everything: bool,
    paths: bool,
    null: bool,
    open_: bool,
    thumbnails: bool | None,
    as_json: bool,
    server: str | None,
    key: str | None,
    no_server: bool,
    device: str | None,
    library: Path | None,
    **ranking: Unpack[Ranking],
) -> None:
    """Find pictures by words, by pictures (-i), or by a sum of both.

    \b
      mmsearch search "a red kite over a beach" -k 12
      mmsearch search beach + 0.5:sunset - people -i reference.jpg
      mmsearch search --like 12 --like 0.5:40 --unlike 7
      mmsearch search boats --where "taken:2019..2021 and not path:**/Screenshots/**"
      mmsearch search --texts "boats at night"
      mmsearch search --paths dog | xargs -d '\\n' cp -t ~/dogs

    A lone + or - begins another part, 0.5: before it is its weight. What matches too weakly is
    left out, so that a search for what is not there finds nothing; --all shows it. Conditions:
    path, folder, source, taken, added, bytes, width, height, pixels, megapixels, format,
    orientation, camera, keyword, tag, has, near; with and, or, not, and brackets.
    """
    _check_options(
        texts=texts, paths=paths, null=null, open_=open_, shown=bool(thumbnails), as_json=as_json
    )
    if everything and min_relevance is not None:
        raise click.UsageError("--all and --min-relevance exclude each other: leave one out")
    with understood():
        terms = [*parse_terms(query), *images, *like, *unlike]
    if not terms:
        said = "there are no words to search for" if query else "say what to look for"
        raise click.UsageError(f'{said}: mmsearch search "a red kite", or -i PICTURE')
    if everything:
        min_relevance = 0.0
    elif min_relevance is None:
        min_relevance = least_relevance(terms)
    _tell_what_is_taken_for_words(terms)
    condition = condition_of(where, texts=texts)
    asked = _asked(query, terms, where, condition, k, offset)
    with understood():
        question = Question(
            tuple(terms),
            condition,
            k=k,
            offset=offset,
            min_relevance=min_relevance,
            **ranking,
        )

    def answer(source: Library | Remote) -> None:
        if texts:
            _print_texts(source.ask_texts(question), question, as_json, asked)
            return
        answer = source.ask(question)
        hits = answer.hits
        if as_json:
            print_json(asked | _counts(answer, question) | {"hits": [image_json(h) for h in hits]})
        elif paths:
            end = b"\0" if null else b"\n"
            for hit in hits:
                # The name's own bytes, whatever they are: this is for other programs.
                sys.stdout.buffer.write(os.fsencode(hit.image.path) + end)
            sys.stdout.buffer.flush()
        else:
            from mmsearch.cli.table import print_images

            words = " ".join(query).strip() or None
            print_images(source, answer, words, question, thumbnails=thumbnails)
        if open_:
            for hit in hits:
                if click.launch(hit.image.path):
                    click.echo(f"no viewer opens {printable(hit.image.path)}", err=True)

    remote = remote_for(library, device, server, key, no_server=no_server)
    _by_service_or_here(answer, remote, library, device)


@click.command()
@click.argument("picture", type=_image_path)
@k_option(5)
@click.option("--exact", is_flag=True, help="Compare with every vector.")
@json_option
@server_options
@device_option()
@library_option
def captions(
    picture: Path,
    k: int,
    exact: bool,
    as_json: bool,
    server: str | None,
    key: str | None,
    no_server: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Find the texts of the library that describe PICTURE, which need not be indexed.

    \b
      mmsearch captions photo.jpg -k 5
    """
    question = Question((Term(image=picture),), k=k, exact=exact)

    def answer(source: Library | Remote) -> None:
        asked = {"image": str(picture), "k": k}
        _print_texts(source.ask_texts(question), question, as_json, asked)

    remote = remote_for(library, device, server, key, no_server=no_server)
    _by_service_or_here(answer, remote, library, device)


def _check_options(
    *, texts: bool, paths: bool, null: bool, open_: bool, shown: bool, as_json: bool
) -> None:
    """Raises UsageError where one would do nothing."""
    if null and not paths:
        raise click.UsageError("-0 goes with --paths")
    if paths and as_json:
        raise click.UsageError("--paths and --json exclude each other: leave one out")
    if shown and (paths or as_json):
        name = "--paths" if paths else "--json"
        raise click.UsageError(f"--thumbnails and {name} exclude each other: leave one out")
    if texts and (paths or open_ or shown):
        name = "--paths" if paths else "--open" if open_ else "--thumbnails"
        raise click.UsageError(f"{name} is for pictures, and --texts finds texts: leave one out")


def _tell_what_is_taken_for_words(terms: Sequence[Term]) -> None:
    """On stderr: of files and addresses, which other programs take for pictures."""
    for text in (term.text for term in terms if term.text is not None):
        if _ADDRESS.match(text):
            what = f"{text} is taken for words. Nothing is fetched: download it, then -i FILE"
        elif os.path.isfile(text):  # noqa: PTH113 -- words of any length and kind
            what = f"{text} is taken for words; -i {shlex.quote(text)} searches by that picture"
        else:
            continue
        click.echo(f"note: {printable(what)}", err=True)


def _by_service_or_here(
    answer: Callable[[Library | Remote], None],
    remote: Remote | None,
    library: Path | None,
    device: str | None,
) -> None:
    """Lets a running service answer where there is one, and the library itself otherwise."""
    if remote is not None:
        try:
            answer(remote)
            return
        except NotHereError:
            pass
    # Loading makes a hundred thousand objects that stay; to look for garbage among them again and
    # again takes a tenth of the whole time.
    collects = gc.isenabled()
    gc.disable()
    try:
        with open_library(library, device) as lib:
            answer(lib)
    finally:
        if collects:
            gc.enable()


def _asked(
    query: tuple[str, ...],
    terms: Sequence[Term],
    where: Sequence[str],
    condition: Filter | None,
    k: int,
    offset: int,
) -> dict[str, Any]:
    said = where[0] if where else None
    if condition is not None and len(where) > 1:
        from mmsearch import filters

        said = filters.to_text(condition)
    image = next((term.image for term in terms if term.image is not None), None)
    parts = [
        {
            "text": term.text,
            "image": None if term.image is None else str(term.image),
            "image_id": term.image_id,
            "weight": term.weight,
        }
        for term in terms
    ]
    return {
        "query": " ".join(query).strip() or None,
        "image": None if image is None else str(image),
        "parts": [{key: value for key, value in p.items() if value is not None} for p in parts],
        "where": said,
        "k": k,
        "offset": offset,
    }


def _counts(answer: Answer[Any], question: Question) -> dict[str, Any]:
    return {
        "min_relevance": question.min_relevance,
        "allowed": answer.allowed,
        "cut": answer.cut,
        "nearest": rounded(answer.nearest),
    }


def _print_texts(
    answer: Answer[TextHit], question: Question, as_json: bool, asked: dict[str, Any]
) -> None:
    if as_json:
        print_json(
            asked | _counts(answer, question) | {"hits": [text_json(hit) for hit in answer.hits]}
        )
        return
    if not answer.hits:
        click.echo(
            nothing_matches(answer, asked.get("query"), question)
            or "The library holds no texts. Add some with: mmsearch index --captions FILE",
            err=True,
        )
    from mmsearch.cli.table import shown

    for hit in answer.hits:
        mark = "  (written for this picture)" if hit.linked else ""
        numbers = f"{shown(hit.relevance):>6} {hit.score:7.3f}"
        click.echo(f"{numbers}  {printable(hit.text.body)}{mark}")


def image_json(hit: ImageHit) -> dict[str, Any]:
    """A picture found, as --json prints it; the fields that it has over HTTP, without its place
    and its urls, which are a service's."""
    info = hit.image.info
    return {
        "id": hit.image.id,
        "score": round(hit.score, 6),
        "relevance": rounded(hit.relevance),
        "path": hit.image.path,
        "name": hit.image.name,
        "width": info.width,
        "height": info.height,
        "format": info.format,
        "bytes": hit.image.bytes,
        "taken_at": info.taken_at.isoformat() if info.taken_at else None,
        "camera": info.camera,
        "title": info.title,
        "description": info.description,
        "keywords": list(info.keywords),
        "captions": list(hit.captions),
        "copies": list(hit.image.copies),
        "similar": list(hit.similar),
    }


def text_json(hit: TextHit) -> dict[str, Any]:
    """A text found, as --json prints it; the same fields as over HTTP."""
    return {
        "id": hit.text.id,
        "score": round(hit.score, 6),
        "relevance": rounded(hit.relevance),
        "text": hit.text.body,
        "source": hit.text.source,
        "image_ids": list(hit.text.image_ids),
        "linked": hit.linked,
    }
