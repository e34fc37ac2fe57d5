"""Who may import whom, and who alone imports the heavy libraries; read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Module or package → its level (DESIGN §2): imports go down or stay within one package.
LEVELS = {
    "mmsearch": 0,  # the package itself: what it opens, it imports inside functions
    "mmsearch.errors": 0,
    "mmsearch.types": 0,
    "mmsearch.overview": 0,
    "mmsearch.batches": 0,
    "mmsearch.points": 0,
    "mmsearch.mirror": 0,
    "mmsearch.announce": 0,
    "mmsearch.blas": 0,
    "mmsearch.cores": 0,
    "mmsearch.devices": 0,
    "mmsearch.settings": 1,
    "mmsearch.overhttp": 1,
    "mmsearch.client": 1,
    "mmsearch.recent": 0,
    "mmsearch.sharing": 0,
    "mmsearch.stages": 0,
    "mmsearch.query": 0,
    "mmsearch.plaintext": 0,
    "mmsearch.told": 0,
    "mmsearch.xmp": 0,
    "mmsearch.filenames": 0,
    "mmsearch.filetimes": 0,
    "mmsearch.filters": 0,
    "mmsearch.generic": 0,
    "mmsearch.metadata": 1,
    "mmsearch.decode": 1,
    "mmsearch.archive": 1,
    "mmsearch.archivefaults": 1,
    "mmsearch.archivestream": 0,
    "mmsearch.tarheaders": 1,
    "mmsearch.watchdog": 1,
    "mmsearch.structure": 1,
    "mmsearch.raw": 1,
    "mmsearch.pixels": 1,
    "mmsearch.encode": 1,
    "mmsearch.store": 1,
    "mmsearch.index": 1,
    "mmsearch.postcards": 1,
    "mmsearch.prompts": 1,
    "mmsearch.diversity": 1,
    "mmsearch.classify": 2,
    "mmsearch.duplicates": 2,
    "mmsearch.relevance": 2,
    "mmsearch.backgrounds": 2,
    "mmsearch.fusion": 1,
    "mmsearch.search": 2,
    "mmsearch.evaluate": 2,
    "mmsearch.queryencoder": 2,
    "mmsearch.backup": 2,
    "mmsearch.doctor": 2,
    "mmsearch.files": 2,
    "mmsearch.indexes": 2,
    "mmsearch.erasing": 2,
    "mmsearch.opened": 2,
    "mmsearch.answering": 2,
    "mmsearch.library": 2,
    "mmsearch.optimize": 2,
    "mmsearch.serve": 3,
    "indexer": 3,
    "mmsearch.cli": 4,
    "mmsearch.__main__": 5,
}
#: Imports within a level that are meant.
SIBLINGS = {
    ("mmsearch.backgrounds", "mmsearch.relevance"),
    ("mmsearch.overview", "mmsearch.types"),
    ("mmsearch.told", "mmsearch.types"),
    ("mmsearch.told", "mmsearch.plaintext"),
    ("mmsearch.decode", "mmsearch.metadata"),
    ("mmsearch.decode", "mmsearch.structure"),
    ("mmsearch.decode", "mmsearch.raw"),
    ("mmsearch.decode", "mmsearch.pixels"),
    ("mmsearch.archive", "mmsearch.raw"),
    ("mmsearch.archive", "mmsearch.archivefaults"),
    ("mmsearch.store", "mmsearch.raw"),  # the names of the formats
    ("mmsearch.archive", "mmsearch.decode"),
    ("mmsearch.archive", "mmsearch.tarheaders"),
    ("mmsearch.library", "mmsearch.opened"),
    ("mmsearch.library", "mmsearch.answering"),
    ("mmsearch.answering", "mmsearch.search"),
    ("mmsearch.answering", "mmsearch.duplicates"),
    ("mmsearch.diversity", "mmsearch.index"),
    ("mmsearch.answering", "mmsearch.queryencoder"),
    ("mmsearch.opened", "mmsearch.backgrounds"),
    ("mmsearch.search", "mmsearch.relevance"),
    ("mmsearch.library", "mmsearch.files"),
    ("mmsearch.library", "mmsearch.queryencoder"),
    ("mmsearch.queryencoder", "mmsearch.files"),
    ("mmsearch.query", "mmsearch.errors"),
    ("mmsearch.filters", "mmsearch.errors"),
    ("mmsearch.client", "mmsearch.overhttp"),
    ("mmsearch.opened", "mmsearch.indexes"),
    ("mmsearch.backup", "mmsearch.library"),
    ("mmsearch.optimize", "mmsearch.library"),
    ("mmsearch.doctor", "mmsearch.library"),
    ("mmsearch.doctor", "mmsearch.files"),
    ("mmsearch.doctor", "mmsearch.indexes"),
}
#: indexer.cli is the write half of the command line, and shares its options.
UPWARD = {("indexer.cli", "mmsearch.cli.options"), ("indexer.cli_manage", "mmsearch.cli.options"),
          ("indexer.cli_progress", "mmsearch.cli.options"),
          ("indexer.cli_watch", "mmsearch.cli.options"),
          ("indexer.cli_exchange", "mmsearch.cli.options"),
          ("indexer.cli_evaluate", "mmsearch.cli.options"),
          ("indexer.cli_evaluate", "mmsearch.cli.evaluate"),  # the postcards' table
          ("indexer.cli_classify", "mmsearch.cli.options"),
          ("indexer.cli_tags", "mmsearch.cli.options"),
          ("mmsearch", "mmsearch.library"),
          ("mmsearch", "mmsearch.client"), ("mmsearch", "mmsearch.filenames"),
          ("mmsearch", "mmsearch.settings")}  # fmt: skip

#: Library → the modules that may import it.
OWNERS: dict[str, tuple[str, ...]] = {
    # A GPU's memory is searched with torch's own products, and some processors' too: see
    # mmsearch/index/ondevice.py, halves.py and products.py.
    "torch": (
        "mmsearch.encode",
        "mmsearch.index.ondevice",
        "mmsearch.index.resident",
        "mmsearch.index.halves",
        "mmsearch.index.products",
    ),
    "torchvision": ("mmsearch.encode",),
    "open_clip": ("mmsearch.encode",),
    "timm": ("mmsearch.encode",),
    "safetensors": ("mmsearch.encode",),
    "huggingface_hub": ("mmsearch.encode",),
    "faiss": ("mmsearch.index",),
    "sqlalchemy": ("mmsearch.store",),
    "psycopg": ("mmsearch.store",),
    "pymilvus": ("indexer.exchange.milvus",),
    "sqlite3": ("mmsearch.store",),
    "alembic": ("mmsearch.store",),
    "filelock": ("mmsearch.store", "mmsearch.serve.keys", "mmsearch.serve.uploads"),
    "httpx": ("mmsearch.client",),
    "watchfiles": ("indexer.watch",),
    "fastapi": ("mmsearch.serve",),
    "starlette": ("mmsearch.serve",),
    "uvicorn": ("mmsearch.serve",),
    "prometheus_client": ("mmsearch.serve.metrics",),
    "simplejpeg": ("mmsearch.decode", "mmsearch.metadata"),
    "rawpy": ("mmsearch.raw",),
    "pillow_heif": ("mmsearch.decode", "mmsearch.metadata"),
    "PIL": (
        "mmsearch.decode",
        "mmsearch.pixels",
        "mmsearch.raw.exif",
        "mmsearch.metadata",
        "mmsearch.postcards",
        "mmsearch.encode.preprocess",  # the reference path is Pillow's
        "mmsearch.cli.table",
    ),
    "pyarrow": ("indexer.texts", "indexer.exchange"),
    "matplotlib": ("indexer.curves",),
    "rich": ("mmsearch.cli", "indexer.cli_progress", "indexer.cli_evaluate"),
    "click": (
        "mmsearch.cli",
        "indexer.cli",
        "indexer.cli_progress",
        "indexer.cli_manage",
        "indexer.cli_watch",
        "indexer.cli_exchange",
        "indexer.cli_evaluate",
        "indexer.cli_classify",
        "indexer.cli_tags",
        "mmsearch.postcards.__main__",
    ),
}


@dataclass(frozen=True)
class Import:
    """An import statement. `lazy`: inside a function; `typing`: only for type checkers."""

    importer: str
    imported: str
    line: int
    lazy: bool
    typing: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return sorted(
        path
        for package in ("mmsearch", "indexer")
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts
    )


NAMES = {module_name(path) for path in sources()}


def _targets(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{module}:{node.lineno}: relative import"
    base = node.module or ""
    # "from package import module" imports the module.
    return [
        f"{base}.{alias.name}" if f"{base}.{alias.name}" in NAMES else base for alias in node.names
    ]


def _imports(path: Path) -> Iterator[Import]:
    module = module_name(path)

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in _targets(child, module):
                    yield Import(module, target, child.lineno, lazy, typing)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from walk(child, lazy or function, typing or checking)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


IMPORTS = [found for path in sources() for found in _imports(path)]


def unit(module: str) -> str:
    """The entry of LEVELS that a module belongs to."""
    while module not in LEVELS:
        assert "." in module, f"{module} has no level"
        module = module.rpartition(".")[0]
    return module


def test_every_module_has_a_level() -> None:
    for name in NAMES:
        assert unit(name) != "mmsearch" or name == "mmsearch", f"{name}: add it to LEVELS"


def test_the_core_never_imports_the_write_path() -> None:
    wrong = [str(i) for i in IMPORTS if i.importer.startswith("mmsearch")
             and i.imported.partition(".")[0] == "indexer"]  # fmt: skip
    assert wrong == []


def test_imports_go_down() -> None:
    wrong = []
    for found in IMPORTS:
        if found.imported.partition(".")[0] not in ("mmsearch", "indexer"):
            continue
        here, there = unit(found.importer), unit(found.imported)
        allowed = (
            here == there
            or there == "mmsearch"  # the version
            or LEVELS[there] < LEVELS[here]
            or (here, there) in SIBLINGS
            or (found.importer, found.imported) in UPWARD
        )
        if not allowed and not found.typing:
            wrong.append(str(found))
    assert wrong == []


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_one_owner(library: str) -> None:
    def may(module: str) -> bool:
        return any(module == own or module.startswith(own + ".") for own in OWNERS[library])

    users = [i for i in IMPORTS if i.imported.partition(".")[0] == library and not i.typing]
    assert [str(i) for i in users if not may(i.importer)] == []


def test_level_zero_is_light() -> None:
    heavy = {*OWNERS, "numpy", "regex", "ftfy"}
    wrong = [
        str(found)
        for found in IMPORTS
        if LEVELS[unit(found.importer)] == 0
        and found.imported.partition(".")[0] in heavy
        and not (found.lazy or found.typing)
    ]
    assert wrong == []


def test_no_cycles_between_modules() -> None:
    """Not even lazily hidden ones, below the command line."""
    edges: dict[str, set[str]] = {name: set() for name in NAMES}
    for found in IMPORTS:
        if found.imported in NAMES and not found.typing and not found.lazy:
            edges[found.importer].add(found.imported)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail, module])
        if module in done:
            return
        for target in sorted(edges[module]):
            visit(target, (*trail, module))
        done.add(module)

    for name in sorted(edges):
        visit(name, ())


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_habits(path: Path) -> None:
    """No leaving below the edges, no grab-bag modules. (ruff sees to printing and bare excepts.)"""
    module = module_name(path)
    assert path.stem not in ("utils", "helpers", "base", "manager", "common", "misc")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if module.startswith(("mmsearch.cli", "indexer.cli")) or path.stem == "__main__":
        return
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert calls.isdisjoint({"print", "sys.exit", "exit", "logging.basicConfig"})
