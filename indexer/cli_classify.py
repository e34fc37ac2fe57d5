"""`mmsearch classify`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmsearch.cli.options import (
    FileThere,
    condition_of,
    device_option,
    json_option,
    library_option,
    library_path,
    load_settings,
    print_json,
    printable,
    said,
    understood,
    where_option,
)
from mmsearch.plaintext import counted
from mmsearch.prompts import TEMPLATES

if TYPE_CHECKING:
    from indexer.classify import Item, Known
    from mmsearch.classify import Assessment, Classifier, Guess, Label
    from mmsearch.encode import Encoder, TextEncoder
    from mmsearch.filters import Filter
    from mmsearch.settings import Settings
    from mmsearch.types import Modality

_CONFUSIONS_SHOWN = 10
_ERRORS_SHOWN = 10


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--labels",
    "labels_file",
    type=FileThere(),
    help="A file of labels, one a line: a name, or a name, a tab, and prompts with | between them.",
)
@click.option("--label", "named", multiple=True, help="A label; may be given several times.")
@click.option("--all", "whole", is_flag=True, help="Classify the pictures of the library.")
@click.option("--all-texts", is_flag=True, help="Classify the texts of the library.")
@where_option("With --all: only what this filter lets through.", "-w")
@click.option(
    "--texts",
    "texts_file",
    type=FileThere(),
    help="Classify the texts of a file.",
)
@click.option("--top", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="How many labels to give for each, and to tag it with.")  # fmt: skip
@click.option("--multi", is_flag=True, help="Several labels may be true at once, or none.")
@click.option(
    "--templates",
    type=click.Choice(list(TEMPLATES)),
    default="simple",
    show_default=True,
    help="Sentences around the names of labels that have no prompts.",
)
@click.option("--truth", metavar="FILE|folders", help="Also tell how right this is, by a CSV file "
              "of path,label or by the names of the folders.")  # fmt: skip
@click.option("--write-tags", is_flag=True, help="Tag pictures and texts of the library with it.")
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1),
    help="Leave out what is less probable. [default: 0.5 with --write-tags or --multi, else 0]",
)
@click.option("--model", metavar="NAME", help="The model. [default: that of the library]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: item,rank,label,probability,score.")
@json_option
@device_option()
@library_option
def classify(
    paths: tuple[Path, ...],
    labels_file: Path | None,
    named: tuple[str, ...],
    whole: bool,
    all_texts: bool,
    where: tuple[str, ...],
    texts_file: Path | None,
    top: int,
    multi: bool,
    templates: str,
    truth: str | None,
    write_tags: bool,
    min_probability: float | None,
    model: str | None,
    as_csv: bool,
    as_json: bool,
    device: str | None,
    library: Path | None,
) -> None:
    """Sort pictures or texts into classes that you name, without training.

    PATHS are pictures, folders or archives; they need not be indexed. With --all the library's
    pictures are classified by their stored vectors, which takes moments.

    \b
      mmsearch classify --label beach --label forest --label city ~/Photos
      mmsearch classify --labels labels.txt --all --where "taken:2019" --csv > labels.csv
      mmsearch classify --labels things.txt --multi --all --write-tags
      mmsearch classify --labels breeds.txt --truth folders ~/dogs
    """
    if where and (paths or all_texts or texts_file is not None):
        raise click.UsageError("--where goes with --all only: it chooses pictures of the library")
    if sum((bool(paths), whole or bool(where), all_texts, texts_file is not None)) != 1:
        raise click.UsageError(
            "say what to classify: paths of pictures, --all, --all-texts, or --texts FILE"
        )
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    condition = condition_of(where)
    from indexer.classify import Truth
    from mmsearch.classify import Classifier, Label, Tally, checked, read_labels

    found: tuple[Label, ...] = () if labels_file is None else read_labels(labels_file)
    # What a file says wrongly was understood.
    with understood() if labels_file is None else nullcontext():
        labels = checked([*found, *map(Label, named)])
    if len(labels) == 1 and not multi:
        raise click.UsageError(
            f"with one label everything is {labels[0].name!r}: name others beside it, or add "
            "--multi, which asks of each label whether it is true"
        )
    known_truth = None if truth is None else Truth.read(truth)
    at_least = (
        min_probability if min_probability is not None else 0.5 if multi or write_tags else 0.0
    )
    settings = load_settings()
    with closing(_Models(library_path(library, settings), settings, model, device)) as models:
        text_encoder = models.text_encoder
        classifier = Classifier.make(
            labels,
            text_encoder.encode_texts,
            scale=text_encoder.logit_scale,
            templates=TEMPLATES[templates],
            multi=multi,
        )
        if paths:
            batches = _pictures(models, paths, settings)
        elif texts_file is not None:
            from indexer.classify import texts

            batches = texts(texts_file, text_encoder)
        else:
            batches = _stored(models, "text" if all_texts else "image", condition)
        tally = None if known_truth is None else Tally(classifier.names)
        out = _Output(as_csv=as_csv, as_json=as_json)
        tags = _Tagging(models, classifier) if write_tags else None
        # Of several that may be true at once all are, unless it was said how many.
        most_tags = len(labels) if multi and not said("top") else top
        for items in batches:
            # With several true at once, any number of them may be; the truth is looked for in five.
            guesses = _guesses(classifier, items, len(labels) if multi else max(top, 5))
            for item, ranked in zip(items, guesses, strict=True):
                if ranked is None:
                    out.failed(item)
                    continue
                kept = [guess for guess in ranked if guess.probability >= at_least]
                true = None if known_truth is None else known_truth.of(item.name)
                if tally is not None and true is not None:
                    tally.add(true, ranked)
                out.item(item, kept[:top], true)
                if tags is not None:
                    tags.take(item, kept[:most_tags])
            if tags is not None:
                tags.write()
        out.end(
            {"model": models.name, "labels": len(labels), "multi": multi},
            None if tally is None else tally.assess(),
            tally is not None,
            tags,
        )


class _Models:
    """The model: that of the library, where there is one, else the one named."""

    def __init__(
        self, library: Path, settings: Settings, model: str | None, device: str | None
    ) -> None:
        from mmsearch.encode import presets
        from mmsearch.library import CATALOG_NAME
        from mmsearch.store import Catalog

        self.library = library
        self._device = device or settings.device
        self.known: Known | None = None
        self._catalog: Catalog | None = None
        self._encoder: Encoder | None = None
        self._texts: TextEncoder | None = None
        wanted = None if model is None else presets.resolve(model)
        self.space = None
        if (library / CATALOG_NAME).exists():
            self._catalog = Catalog(library / CATALOG_NAME)
            active = self._catalog.active_space()
            if active is not None and wanted in (None, active[1].name):
                from indexer.classify import Known

                self.known = Known(self._catalog, active[0])
                self.space = active[1]
        given = wanted or presets.resolve(settings.model or "default")
        self.name = given if self.space is None else self.space.name

    def close(self) -> None:
        if self._catalog is not None:
            self._catalog.close()

    @property
    def text_encoder(self) -> TextEncoder:
        """Loaded on first use: without torch where possible."""
        if self._texts is None:
            from mmsearch.encode import load_text_encoder

            self._texts = self._encoder or load_text_encoder(self.name, expected=self.space)
        return self._texts

    def encoder(self) -> Encoder:
        """The whole model, loaded on first use. Raises SpaceMismatchError."""
        if self._encoder is None:
            from mmsearch.encode import load_encoder
            from mmsearch.queryencoder import same_space

            encoder = load_encoder(self.name, device=self._device)
            if self.space is not None:
                same_space(encoder.space, self.space)
            self._encoder = encoder
        return self._encoder


def _pictures(models: _Models, paths: tuple[Path, ...], settings: Settings) -> Iterator[list[Item]]:
    from indexer.classify import pictures

    return pictures(paths, models.encoder, known=models.known, limits=settings.decode_limits())


def _stored(models: _Models, modality: Modality, condition: Filter | None) -> Iterator[list[Item]]:
    from indexer.classify import stored
    from mmsearch.errors import IndexMissingError

    if models.known is None:
        raise IndexMissingError(
            f"the library at {models.library} has no vectors of {models.name}. Make them with: "
            "mmsearch index FOLDER"
        )
    catalog = models.known.catalog
    only = None if condition is None else catalog.select(condition, modality)
    return stored(catalog, models.known.space_id, modality, only)


def _guesses(classifier: Classifier, items: list[Item], top: int) -> list[list[Guess] | None]:
    """The `top` labels of each item, the most probable first; None where it has no vector."""
    import numpy as np

    vectors = [item.vector for item in items if item.vector is not None]
    if not vectors:
        return [None] * len(items)
    found = iter(classifier.guesses(np.stack(vectors), top))
    return [None if item.vector is None else next(found) for item in items]


@dataclass
class _Tagging:
    """Tags on their way into the catalog, a batch at a time."""

    models: _Models
    classifier: Classifier
    waiting: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    written: int = 0
    items: int = 0
    strangers: int = 0

    def take(self, item: Item, guesses: list[Guess]) -> None:
        if item.content_id is None:
            self.strangers += 1
            return
        self.waiting[item.content_id] = [(g.label, g.probability) for g in guesses]
        self.items += bool(guesses)

    def write(self) -> None:
        from indexer.classify import write_tags
        from mmsearch.library import CATALOG_NAME

        if self.waiting:
            names = self.classifier.names
            self.written += write_tags(self.models.library, CATALOG_NAME, self.waiting, names)
            self.waiting = {}


class _Output:
    """What is printed: lines as they come, or one document at the end."""

    def __init__(self, *, as_csv: bool, as_json: bool) -> None:
        self._json = as_json
        self._csv = csv.writer(sys.stdout) if as_csv else None
        if self._csv is not None:
            self._csv.writerow(["item", "rank", "label", "probability", "score"])
        self._items: list[dict[str, Any]] = []
        self._failed: list[dict[str, str]] = []
        self._count = 0

    def item(self, item: Item, guesses: list[Guess], truth: str | None) -> None:
        self._count += 1
        if self._json:
            document = {"item": item.name, "id": item.content_id} | (
                {} if truth is None else {"truth": truth}
            )
            rounded = [
                {"label": g.label, "probability": round(g.probability, 6),
                 "score": round(g.score, 6)} for g in guesses
            ]  # fmt: skip
            self._items.append(document | {"labels": rounded})
        elif self._csv is not None:
            for rank, guess in enumerate(guesses, 1):
                name = item.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                self._csv.writerow(
                    [name, rank, guess.label, f"{guess.probability:.6f}", f"{guess.score:.6f}"]
                )
        else:
            said = "  ".join(f"{g.label} {g.probability:.2f}" for g in guesses) or "–"
            click.echo(f"{printable(_short(item.name))}  {printable(said)}")

    def failed(self, item: Item) -> None:
        self._failed.append({"item": item.name, "reason": item.reason or "it has no vector"})

    def end(
        self,
        about: dict[str, Any],
        assessment: Assessment | None,
        asked: bool,
        tags: _Tagging | None,
    ) -> None:
        if self._json:
            document = about | {"items": self._items, "failed": self._failed}
            if asked:
                document["assessment"] = None if assessment is None else _assessed(assessment)
            if tags is not None:
                document["tags_written"] = tags.written
            print_json(document)
            return
        for failed in self._failed[:_ERRORS_SHOWN]:
            click.echo(printable(f"not classified: {failed['item']}: {failed['reason']}"), err=True)
        if len(self._failed) > _ERRORS_SHOWN:
            click.echo(f"… and {len(self._failed) - _ERRORS_SHOWN:,} more", err=True)
        if not self._count:
            click.echo("There is nothing to classify.", err=True)
        # To stderr beside CSV: other programs read that.
        if asked:
            for line in _lines(assessment):
                click.echo(line, err=self._csv is not None)
        if tags is not None:
            click.echo(
                f"{counted(tags.written, 'tag')} written, on {counted(tags.items, 'item')}",
                err=True,
            )
            if tags.strangers:
                click.echo(
                    f"{tags.strangers:,} are not in the library and were not tagged: "
                    "mmsearch index adds them",
                    err=True,
                )


def _assessed(assessment: Assessment) -> dict[str, Any]:
    document = asdict(assessment)
    document["confusion"] = [
        {"truth": truth, "label": label, "items": n}
        for (truth, label), n in sorted(assessment.confusion.items())
    ]
    document["by_label"] = {
        name: {"items": of, "right": right} for name, (of, right) in assessment.by_label.items()
    }
    return document


def _lines(assessment: Assessment | None) -> list[str]:
    if assessment is None:
        return ["The truth of no item is one of the labels."]
    lines = [
        "",
        f"accuracy  {assessment.accuracy:7.1%}   of {assessment.items:,} with a known truth",
        f"top 5     {assessment.top5:7.1%}",
    ]
    if assessment.unknown:
        lines.append(f"{assessment.unknown:,} more have a truth that is none of the labels")
    wrong = sorted(
        ((n, pair) for pair, n in assessment.confusion.items() if pair[0] != pair[1]), reverse=True
    )
    if wrong:
        lines.append("most often taken for another:")
    lines += [
        printable(f"{n:7,}  {truth} → {label}") for n, (truth, label) in wrong[:_CONFUSIONS_SHOWN]
    ]
    return lines


def _short(name: str) -> str:
    """Relative to the current folder when it lies in it."""
    try:
        return str(Path(name).relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):
        return name
