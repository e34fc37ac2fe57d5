"""What makes two vectors comparable, as one hex digest; and digests of files, computed once.

The fingerprint of a space covers the bytes of the weights file, the architecture and what is done
to pixels. It says nothing of where the file lies, nor of device, dtype and the way a resize is
computed: those change vectors by rounding only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

logger = logging.getLogger(__name__)

#: Of a model's configuration, what only matters for training or for where first weights come from.
_NO_MEANING = frozenset(
    {
        "hf_model_pretrained",
        "init_logit_bias",
        "init_logit_scale",
        "nonscalar_logit_scale",
        "output_dict",
        "output_tokens",
        "patch_dropout",
        "timm_drop",
        "timm_drop_path",
        "timm_model_pretrained",
    }
)


def space_fingerprint(
    weights_sha256: str, model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]
) -> str:
    """Hex digest (64 digits) of a space; see the module.

    model_cfg: open_clip's. preprocess_cfg: complete, as open_clip's PreprocessCfg.
    """
    about = {
        "version": 1,
        "weights": weights_sha256,
        "model": _meaning(model_cfg),
        "preprocess": {
            "size": preprocess_cfg["size"],
            "mean": [float(value) for value in preprocess_cfg["mean"]],
            "std": [float(value) for value in preprocess_cfg["std"]],
            "interpolation": preprocess_cfg["interpolation"],
            "resize_mode": preprocess_cfg["resize_mode"],
            "fill_color": preprocess_cfg["fill_color"],
        },
    }
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _meaning(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what has no say in the vectors: a default may be written or not."""
    return {
        key: _meaning(value) if isinstance(value, Mapping) else value
        for key, value in cfg.items()
        if key not in _NO_MEANING and value is not None and value is not False
    }


def cache_folder() -> Path:
    """Where mmsearch keeps what it can compute again, for example ~/.cache/mmsearch."""
    return Path(platformdirs.user_cache_dir("mmsearch", appauthor=False))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex.

    Remembered in `cache_folder()` by path, size and modification time, so that weights are not
    read through at each start. Raises OSError when the file cannot be read.
    """
    real = path.resolve()
    seen = stamp(real)
    note = note_path("digests", str(real))
    known = read_note(note)
    if known.get("stamp") == seen and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_note(note, {"path": str(real), "stamp": seen, "sha256": digest})
    return digest


def stamp(path: Path) -> list[int]:
    """Size and modification time (ns): what tells that a file is still the same."""
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def note_path(kind: str, key: str) -> Path:
    """Where the note of this kind about `key` is kept."""
    return cache_folder() / kind / f"{_name(key)}.json"


def read_note(path: Path) -> dict[str, Any]:
    """A JSON object from the cache; empty when there is none or it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Keep a JSON object in the cache, whole or not at all. A cache that cannot be written is no
    error: what was to be kept is computed again the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        logger.debug("cannot write %s: %s", path, exc)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
