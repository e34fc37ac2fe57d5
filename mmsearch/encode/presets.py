"""The models mmsearch recommends, and how any other model is named.

A model is named by one of

    tiny, default, multilingual, accurate    a preset of the table below
    ARCH/TAG                                 an open_clip architecture and pretrained tag
    hf-hub:ORG/NAME                          a hub repository with an open_clip_config.json
    local-dir:FOLDER                         a folder with open_clip_config.json and weights
    ARCH:FILE  or  ARCH/TAG:FILE             a checkpoint file for an open_clip architecture;
                                             with TAG the preprocessing is that of the tag,
                                             without it open_clip's default (CLIP's)

Nothing here imports torch or open_clip.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from mmsearch.errors import ModelUnavailableError
from mmsearch.filenames import from_home

HUB_PREFIX = "hf-hub:"
DIR_PREFIX = "local-dir:"
BUNDLED = "tiny"


@dataclass(frozen=True, slots=True)
class Preset:
    """A recommended model.

    spec: what it stands for. dim: length of its vectors. image_size: side in pixels.
    download_mb: size of the weights on the hub, in megabytes (0: bundled).
    recall: published zero-shot COCO text → image recall@1, percent; None where it would mean
        nothing. Sources: open_clip's retrieval table (default); the table of checkpoints in
        big_vision's README of SigLIP 2, arXiv:2502.14786 (multilingual, accurate).
    """

    name: str
    spec: str
    dim: int
    image_size: int
    download_mb: int
    licence: str
    recall: float | None
    languages: str
    use: str


PRESETS: MappingProxyType[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="tiny",
                spec=BUNDLED,
                dim=256,
                image_size=128,
                download_mb=0,
                licence="Apache-2.0",
                recall=None,
                languages="English, Chinese",
                use="bundled, no download: trying mmsearch out, demos, tests; not for real photos",
            ),
            Preset(
                name="default",
                spec="ViT-B-32/laion2b_s34b_b79k",
                dim=512,
                image_size=224,
                download_mb=605,
                licence="MIT",
                recall=39.3,
                languages="English",
                use="the one to begin with: quick on a CPU, good on photos",
            ),
            Preset(
                name="multilingual",
                spec="ViT-B-32-SigLIP2-256/webli",
                dim=768,
                image_size=256,
                download_mb=1506,
                licence="Apache-2.0",
                recall=47.2,
                languages="over 100",
                use="queries and captions in other languages than English",
            ),
            Preset(
                name="accurate",
                spec="ViT-SO400M-16-SigLIP2-384/webli",
                dim=1152,
                image_size=384,
                download_mb=4546,
                licence="Apache-2.0",
                recall=56.0,
                languages="over 100",
                use="the best answers; wants a GPU (many times the work of default)",
            ),
        )
    }
)


def resolve(name: str) -> str:
    """The canonical name of a model: presets become what they stand for, paths absolute.

    The same model named twice gives the same text, and the text alone finds the model again from
    any folder. Whether a TAG exists is only known to open_clip, so a wrong one comes out when the
    model is loaded. Raises ModelUnavailableError for a name that cannot be a model, with the
    nearest names that can.
    """
    name = name.strip()
    if name in PRESETS:
        return PRESETS[name].spec
    if name.startswith(DIR_PREFIX):
        return DIR_PREFIX + _absolute(name, name[len(DIR_PREFIX) :])
    if name.startswith(HUB_PREFIX):
        repo = name[len(HUB_PREFIX) :].split("/")
        if len(repo) != 2 or not all(repo):
            raise ModelUnavailableError(
                name, "a hub model is named hf-hub:ORG/NAME", "Write it like that"
            )
        return name
    model, colon, file = name.partition(":")
    arch, slash, tag = model.partition("/")
    if arch not in architectures():
        raise _unknown(name, arch)
    if colon:
        return f"{model}:{_absolute(name, file)}"
    if not slash or not tag:
        raise ModelUnavailableError(
            name,
            "it is an architecture, and a model without weights is refused",
            f"Say which weights: {arch}/TAG (`python -c 'import open_clip; print(open_clip."
            f'list_pretrained_tags_by_model("{arch}"))\'` lists the tags) or '
            f"{arch}:/path/to/checkpoint.safetensors",
        )
    return name


def split(spec: str) -> tuple[str, str | None, Path | None]:
    """A canonical ARCH/TAG, ARCH:FILE or ARCH/TAG:FILE as (arch, tag, file)."""
    model, _, file = spec.partition(":")
    arch, _, tag = model.partition("/")
    return arch, tag or None, Path(file) if file else None


def architectures() -> frozenset[str]:
    """Names of open_clip's architectures, read from its folder without importing it.

    Those that a program added (open_clip.add_model_config) are among them once it is imported.
    """
    open_clip = sys.modules.get("open_clip")
    added = open_clip.list_models() if open_clip is not None else []
    return _shipped_architectures() | frozenset(added)


@lru_cache(maxsize=1)
def _shipped_architectures() -> frozenset[str]:
    return frozenset(path.stem for path in (open_clip_folder() / "model_configs").glob("*.json"))


def open_clip_folder() -> Path:
    """Where the installed open_clip lies. Does not import it.

    Raises ModelUnavailableError when it is not installed.
    """
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        raise ModelUnavailableError(
            "open_clip", "the package is not installed", "pip install open_clip_torch"
        )
    return Path(found.origin).parent


def _absolute(name: str, path: str) -> str:
    if not path:
        raise ModelUnavailableError(name, "no path follows the colon", "Give the path")
    return str(from_home(path).absolute())


def _unknown(name: str, arch: str) -> ModelUnavailableError:
    near = list(_near(arch))
    if from_home(name).is_dir():
        near = [DIR_PREFIX + name]
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return ModelUnavailableError(
        name,
        "no model has this name",
        f"{guess}Name a preset ({', '.join(PRESETS)}), an open_clip ARCH/TAG, hf-hub:ORG/NAME or "
        "local-dir:FOLDER; `mmsearch models` lists the presets",
    )


def _near(arch: str) -> Iterator[str]:
    """Up to three names that look like this one, presets first, letters' case aside."""
    names = {known.lower(): known for known in sorted(architectures())}
    names |= {known: known for known in PRESETS}
    for match in difflib.get_close_matches(arch.lower(), names, n=3, cutoff=0.6):
        known = names[match]
        yield known if known in PRESETS else f"{known}/TAG"
