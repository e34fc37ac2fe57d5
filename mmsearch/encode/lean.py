"""open_clip without what most of its models never use.

`import open_clip` takes three seconds more than torch: it imports torchvision (and through it
torch's compiler), transformers and timm, which CLIP's own towers do not need. Here the same files
are imported a second time, under a name of their own, as if those packages were not installed;
open_clip provides for that. Nobody else sees it: who writes `import open_clip` gets the whole one.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from mmsearch.encode.presets import open_clip_folder

logger = logging.getLogger(__name__)

_WHOLE = "open_clip"
_LEAN = "mmsearch.encode._open_clip"
#: open_clip goes on where these are not installed.
_OPTIONAL = frozenset({"timm", "transformers", "huggingface_hub"})
#: This one it needs, for pictures (which we prepare ourselves) and for a class of torchvision's.
_REPLACED = "torchvision"

_lock = threading.Lock()
_importing = False


def open_clip(*, whole: bool = False) -> ModuleType:
    """The package open_clip, imported.

    whole: with all that is installed; otherwise that may be missing, see `wants_whole`.
    """
    if whole or _WHOLE in sys.modules:
        return importlib.import_module(_WHOLE)
    with _lock:
        try:
            return _import_lean()
        except Exception as exc:  # noqa: BLE001 -- whatever a later open_clip does there
            logger.info("open_clip is imported whole: %s: %s", type(exc).__name__, exc)
            for name in [name for name in sys.modules if _is_lean(name)]:
                del sys.modules[name]
    return importlib.import_module(_WHOLE)


def wants_whole(model_cfg: Mapping[str, Any], weights: Path) -> bool:
    """Whether a model has parts that open_clip takes from timm or transformers."""
    return (
        "timm_model_name" in model_cfg["vision_cfg"]
        or "hf_model_name" in model_cfg["text_cfg"]
        or "multimodal_cfg" in model_cfg
        or weights.suffix in (".npz", ".npy")
    )


def is_whole(package: ModuleType) -> bool:
    """Whether what `open_clip` returned is everybody's, with nothing left out."""
    return package.__name__ == _WHOLE


def is_made_by(instance: object, name: str) -> bool:
    """Whether this is an instance of just that class of open_clip's, say "transformer.Transformer",
    not of one derived from it; from whichever of the two imports."""
    module, _, kind = name.rpartition(".")
    its = type(instance)
    return its.__qualname__ == kind and its.__module__ in (
        f"{_WHOLE}.{module}",
        f"{_LEAN}.{module}",
    )


def _import_lean() -> ModuleType:
    global _importing
    if _LEAN in sys.modules:
        return sys.modules[_LEAN]
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # Before the usual one, which would find the parts in the same folder.
        sys.meta_path.insert(0, _Finder(open_clip_folder()))
    _importing = True
    try:
        package = importlib.import_module(_LEAN)
        importlib.import_module(f"{_LEAN}.factory")
        return package
    finally:
        _importing = False


def _is_lean(name: str) -> bool:
    return name == _LEAN or name.startswith(f"{_LEAN}.")


class _Finder(MetaPathFinder):
    """Finds open_clip's files under the other name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_lean(fullname):
            return None
        part = fullname[len(_LEAN) + 1 :]
        file = self._folder.joinpath(*part.split("."))
        if file.is_dir():
            return self._spec(fullname, file / "__init__.py", [str(file)])
        return self._spec(fullname, file.with_suffix(".py"))

    def _spec(self, name: str, file: Path, folders: list[str] | None = None) -> ModuleSpec | None:
        if not file.is_file():
            return None
        loader = _Loader(name, str(file))
        return spec_from_file_location(
            name, file, loader=loader, submodule_search_locations=folders
        )


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        # Where a module has builtins of its own, its import statements go by those; so that no
        # other module, and no other thread, sees what is left out here.
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _import}
        super().exec_module(module)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` of open_clip's files. Functions that import something later get the real one."""
    if _importing and level == 0:
        top = name.partition(".")[0]
        if top in _OPTIONAL:
            raise ImportError(f"{name} is left out", name=name)
        if top == _REPLACED:
            return _StandIn(name)
    return builtins.__import__(name, globals, locals, fromlist or (), level)


class _Nothing(type):
    """Of a class that stands for any name; its own attributes are such classes, too."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Unused(metaclass=_Nothing):
    """What is imported from a package that was replaced, and never used."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused
