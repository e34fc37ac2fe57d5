"""What a question costs: by stage, from one client and many, and as a command in the terminal.

For the bundled model and for ViT-B-32 with random weights, each with a library of random vectors
of its space. The terminal's command is timed as a whole process, from before its start to its end,
its files in the page cache, without a service and with one.

    python tests/benchmarks/query.py [--items 100000] [--device cuda] [--only PART] [--quick]
        [--out FILE] [--plot FILE]

PART: stages, terminal, clients. With --device cuda --items 1000000 the bar of a GPU is checked: one
text through the encoder and the search. Exit code 1 when a figure misses its bar.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import serve
import torch
from figures import Bar, Table, finish, plotted, run, seconds
from materials import library_of_vectors, untrained

from mmsearch.encode import load_text_encoder, weights
from mmsearch.encode.bpe import ClipTokenizer
from mmsearch.library import Library
from mmsearch.query import Question, Term
from mmsearch.stages import observing

#: A command in the terminal, in seconds: cold with each model, and with a service.
COLD = {"tiny": Bar(1.0, more=False), "ViT-B-32": Bar(1.5, more=False)}
WITH_SERVICE = Bar(0.3, more=False)
#: One text through encoder and search, on a GPU, among a million: in milliseconds.
GPU = Bar(5.0, more=False)
K = 10
_COMMANDS = 7


def stages(folder: Path, shown: str, items: int, device: str, repeats: int) -> Table:
    table = Table(f"{shown}, {items:,} pictures: one question in this process, {device}, warm")
    asked = serve.texts(3)
    found: dict[str, list[float]] = {}
    whole = []
    tokenizer = ClipTokenizer()
    with Library(folder, device=device) as library:
        library.warm()
        for turn in range(repeats + 5):
            text = next(asked)
            once: dict[str, float] = {}
            question = Question((Term(text=text),), k=K)
            with observing(lambda what, took, once=once: once.update({what: took})):
                took = seconds(lambda question=question: library.ask(question))
            once["tokens"] = seconds(lambda text=text: tokenizer.encode(text))
            if turn >= 5:
                whole.append(took)
                for what, part in once.items():
                    found.setdefault(what, []).append(part)
    of = {what: 1000 * statistics.median(took) for what, took in found.items()}
    table.add("tokens (part of the vector)", of["tokens"], "ms", form=",.3f")
    table.add("vector of the text", of["query"], "ms")
    table.add("words in names and captions", of["words"], "ms")
    table.add("search and relevance", of["search"], "ms")
    table.add("records of what is found", of["records"], "ms")
    table.add("the whole question", 1000 * statistics.median(whole), "ms")
    on_gpu = device.startswith("cuda") and items >= 1_000_000 and shown != "tiny"
    bar = GPU if on_gpu else None
    table.add("vector and search", of["query"] + of["search"], "ms", bar=bar)
    return table


def terminal(folder: Path, shown: str, items: int) -> Table:
    table = Table(f"{shown}, {items:,} pictures: mmsearch search WORDS -k 5, the whole process")
    asked = serve.texts(4)

    def command(*options: str) -> list[str]:
        search = ["-m", "mmsearch", "-l", str(folder), "search", next(asked), "-k", "5", "--all"]
        return [sys.executable, *options, *search]

    def timed() -> tuple[float, float]:
        for _ in range(2):
            run(command())
        ran = [run(command()) for _ in range(_COMMANDS)]
        assert all("picture" in one.stdout for one in ran)
        return statistics.median(r.seconds for r in ran), max(r.peak_bytes for r in ran) / 1e6

    took, memory = timed()
    table.add("without a service", took, "s", bar=COLD[shown], note=f"{memory:,.0f} MB at most")
    loaded = run(command("-X", "importtime")).stderr
    heavy = [name for name in ("torch", "open_clip", "pydantic") if f"| {name}\n" in loaded]
    table.add("  heavy packages imported", len(heavy), form=",.0f", bar=Bar(0, more=False),
              note=" ".join(heavy))  # fmt: skip
    with serve.served(folder):
        took, memory = timed()
    table.add("with a service", took, "s", bar=WITH_SERVICE, note=f"{memory:,.0f} MB at most")
    took = statistics.median(run([sys.executable, "-c", "pass"]).seconds for _ in range(_COMMANDS))
    table.add("for comparison: python that does nothing", took, "s")
    return table


def clients(folder: Path, name: str, shown: str, items: int, repeats: int) -> Table:
    table = Table(f"{shown}, {items:,} pictures: through the service, new questions")
    with serve.served(folder) as port, Library(folder, device="cpu") as library:
        library.warm()
        one = serve.one_query(port, library, repeats)
        many = serve.throughput(port, name, 1.0 if repeats < 100 else 4.0, 2)
    table.add("one client", one["service_ms"], "ms")
    table.add("  the library alone, in turn", one["bare_ms"], "ms")
    table.add("  asked before", one["cached_answer_ms"], "ms")
    table.add(f"{serve.CLIENTS} clients", many["service_per_s"], "/s", form=",.0f")
    table.add("  asked before", many["cached_per_s"], "/s", form=",.0f")
    best = many["best_batch"]
    rate = many["bare_texts_per_s"][str(best)]
    table.add(f"  the encoder alone, batches of {best}", rate, "/s", form=",.0f")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="What a question costs")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=("tiny", "ViT-B-32"), help="only this one")
    parser.add_argument("--only", choices=("stages", "terminal", "clients"))
    parser.add_argument("--work", type=Path, help="models and libraries stay here")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them")
    parser.add_argument("--quick", action="store_true", help="a tenth of the items, fewer repeats")
    options = parser.parse_args()
    items = options.items // 10 if options.quick else options.items
    repeats = 20 if options.quick else 100
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        root = (options.work or Path(scratch)).absolute()
        for shown in ("tiny", "ViT-B-32") if options.model is None else (options.model,):
            name = "tiny" if shown == "tiny" else untrained(shown, root / shown.lower())
            files = weights.find_light(name)
            assert files is not None
            folder = root / f"query-{shown.lower()}-{items}"
            library_of_vectors(folder, items, files.space)
            with Library(folder, device="cpu") as library:
                library.save_background(load_text_encoder(name))
            if options.only in (None, "stages"):
                tables.append(stages(folder, shown, items, options.device, repeats))
            if options.only in (None, "terminal"):
                tables.append(terminal(folder, shown, items))
            if options.only in (None, "clients"):
                tables.append(clients(folder, name, shown, items, repeats))
    if options.plot:
        plotted(options.plot, tables)
    return finish(tables, options.out)


if __name__ == "__main__":
    sys.exit(main())
