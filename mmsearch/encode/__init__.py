"""Models: pictures and texts to unit vectors of one space. Sole owner of torch and open_clip.

`load_encoder` loads a whole model. `load_text_encoder` loads what one query needs, without torch
where the model allows it. Importing this package imports neither torch nor open_clip.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from mmsearch.encode import presets, weights
from mmsearch.encode.protocol import Encoder, Progress, TextEncoder
from mmsearch.errors import EncodeError, ModelUnavailableError, SpaceMismatchError
from mmsearch.types import Space

if TYPE_CHECKING:
    from mmsearch.encode.crowd import Threads

__all__ = [
    "Encoder",
    "Progress",
    "TextEncoder",
    "beside_others",
    "hasten",
    "load_encoder",
    "load_text_encoder",
    "space_at_hand",
    "use_threads",
]

logger = logging.getLogger(__name__)


def load_encoder(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    reference: bool = False,
    on_progress: Progress | None = None,
) -> Encoder:
    """Load a model, fetching its weights on first use.

    model: a preset, ARCH/TAG, hf-hub:ORG/NAME, local-dir:FOLDER or ARCH:FILE; see
        `mmsearch.encode.presets`.
    device: "auto" (CUDA, else Apple's MPS, else the CPU), or a torch device.
    dtype: "auto", "fp32" (exact), "bf16" or "fp16". "auto" is half precision where that is quick
        and safe; see `mmsearch.encode.openclip`.
    reference: preprocess pictures exactly as open_clip does, by Pillow, at a third of the speed.
    on_progress: called while weights arrive; without it a bar is drawn where stderr is a terminal.

    Raises ModelUnavailableError, or EncodeError for a device or dtype that cannot be had.
    """
    # Found before torch is imported, so that a wrong name is told at once.
    spec = presets.resolve(model)
    files = weights.find(spec, on_progress)
    from mmsearch.encode.openclip import OpenClipEncoder

    encoder = OpenClipEncoder(files, device=device, dtype=dtype, reference=reference)
    weights.write_card(files)
    return encoder


def load_text_encoder(model: str, *, expected: Space | None = None) -> TextEncoder:
    """Load what text queries need, without torch where possible.

    That is possible for standard CLIP text towers in safetensors when the model is the bundled one
    or a folder, or was loaded whole before on this machine (which leaves a card in mmsearch's cache
    folder). Otherwise the whole model is loaded, with `load_encoder`'s errors.

    expected: the space the vectors must be of. Raises SpaceMismatchError when they are not.
    """
    # Imported here: numpy is not needed to list presets.
    from mmsearch.encode.text_tower import NumpyTextEncoder, suits

    name = presets.resolve(model)
    encoder: TextEncoder | None = None
    files = weights.find_light(name)
    if files is None:
        # Fetches it and leaves a card, so that this query is computed as the next one will be.
        encoder = load_encoder(model)
        files = weights.find_light(name)
    if files is not None and suits(files):
        try:
            encoder = NumpyTextEncoder(files)
        except EncodeError as exc:
            logger.info("taking the whole model instead: %s", exc)
    if encoder is None:
        encoder = load_encoder(model)
    if expected is not None and encoder.space.fingerprint != expected.fingerprint:
        raise SpaceMismatchError(_describe(encoder.space), _describe(expected))
    return encoder


def hasten(encoder: TextEncoder) -> None:
    """Loads torch where that makes a text encoder quicker: seconds, for who encodes many texts."""
    from mmsearch.encode.text_tower import NumpyTextEncoder

    if isinstance(encoder, NumpyTextEncoder) and encoder.is_large:
        import torch  # noqa: F401 -- it looks for it


def use_threads(threads: int) -> None:
    """So many threads share torch's products that this thread asks for, where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def beside_others() -> Threads:
    """Chooses how many threads torch takes for questions of one kind; torch is imported."""
    from mmsearch.encode.crowd import Threads

    return Threads()


def space_at_hand(model: str) -> Space | None:
    """The space that the model's weights, as they lie on this disk now, make vectors of.

    None when that cannot be told without torch or the network: for a model that was never loaded
    here, or whose folder is gone (who needs it is told so when it is loaded). Raises
    ModelUnavailableError for a name that cannot be a model.
    """
    name = presets.resolve(model)
    try:
        files = weights.find_light(name)
    except ModelUnavailableError as exc:
        logger.info("%s", exc)
        return None
    return None if files is None else files.space


def _describe(space: Space) -> str:
    return f"{space.name} ({space.dim} dimensions, {space.fingerprint[:12]})"
