"""open_clip's modules and tokenizers, built from the files of a model.

How the weights get in: the module is built without values (on torch's "meta" device, where parts
are timm's or transformers') and the mapped file's tensors become its parameters, so that start-up
neither draws random weights nor reads the file twice. Models that cannot be built so are created in
open_clip's ordinary way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pickle import UnpicklingError
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from mmsearch.encode.bpe import CLEANINGS, ClipTokenizer
from mmsearch.encode.lean import is_whole, open_clip, wants_whole
from mmsearch.errors import ModelUnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encode.weights import ModelFiles

logger = logging.getLogger(__name__)

#: What reading a damaged or foreign weights file raises.
_LOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AssertionError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)

#: What fills a tensor at random; where torch.nn.init has more, it comes down to these.
_DRAWING = frozenset(
    {
        torch.nn.init.normal_,
        torch.nn.init.uniform_,
        torch.nn.init.kaiming_uniform_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    }
)


def build_model(files: ModelFiles) -> Any:
    """The model with its weights, in the file's own precision, on the CPU."""
    package = _package(files)
    try:
        try:
            model = _build(files, package)
        except Exception as exc:
            if is_whole(package):
                raise
            # Perhaps it does take something of what was left out.
            logger.info("%s: once more by the whole of open_clip (%s)", files.name, exc)
            model = _build(files, open_clip(whole=True))
    except _LOAD_ERRORS as exc:
        raise ModelUnavailableError(
            files.name,
            f"{files.weights} could not be loaded: {_first_lines(exc)}",
            "The file is damaged or belongs to another architecture: delete it and fetch it again, "
            "or name the right one",
        ) from exc
    return model.eval().requires_grad_(False)


def _build(files: ModelFiles, package: ModuleType) -> Any:
    try:
        return _assign(files, package)
    except (RuntimeError, ValueError) as exc:
        logger.info("%s: created in the ordinary way (%s)", files.name, exc)
        return _create(files, package)


def _assign(files: ModelFiles, package: ModuleType) -> Any:
    """Build without values, then let the file's tensors be the parameters.

    Raises RuntimeError (torch's NotImplementedError is one) or ValueError where that is not
    possible.
    """
    if files.weights.suffix in (".npz", ".npy"):
        raise ValueError("big_vision checkpoints are copied into existing parameters")
    with torch.device("meta") if is_whole(package) else _Undrawn():
        model = _construct(files, package)
    # open_clip's loader also converts older and foreign checkpoints, so it does the work; only
    # the last step is changed, for this one module.
    model.load_state_dict = partial(model.load_state_dict, assign=True)
    package.load_checkpoint(model, str(files.weights), strict=True, weights_only=True)
    del model.load_state_dict
    for module in model.modules():
        plain = (value for value in vars(module).values() if isinstance(value, torch.Tensor))
        if any(value.is_meta for value in plain):
            raise ValueError("a tensor is neither parameter nor buffer")
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name != "attn_mask":
                raise ValueError(f"the buffer {name} is not in the file")
            # Not in any file: the causal mask, as TextTransformer.build_causal_mask has it.
            module.attn_mask = torch.full(buffer.shape, float("-inf")).triu_(1)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the file lacks parameters")
    return model


class _Undrawn(TorchFunctionMode):
    """Parameters keep what their memory holds instead of random values.

    Memory that nobody writes to is not even given by the system (on Linux, where it may promise
    more than it has). "meta" would do as well, but torch computes shapes there by ways of its
    compiler, whose import takes 1.4 s.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _create(files: ModelFiles, package: ModuleType) -> Any:
    """Build with random weights, then copy the file's over them."""
    model = _construct(files, package)
    package.load_checkpoint(model, str(files.weights), strict=True, weights_only=True)
    return model


def _construct(files: ModelFiles, package: ModuleType) -> Any:
    """The module, chosen as open_clip.create_model does."""
    cfg = deepcopy(dict(files.model_cfg))
    custom = cfg.pop("custom_text", False)
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in cfg["text_cfg"]:
        cfg["text_cfg"]["hf_model_pretrained"] = False
        if files.tower is not None:
            cfg["text_cfg"]["hf_model_name"] = str(files.tower)
        custom = True
    if not custom:
        return package.CLIP(**cfg)
    return package.CoCa(**cfg) if "multimodal_cfg" in cfg else package.CustomTextCLIP(**cfg)


def _package(files: ModelFiles) -> ModuleType:
    """The open_clip that this model needs."""
    return open_clip(whole=wants_whole(files.model_cfg, files.weights))


def build_tokenizer(files: ModelFiles) -> Callable[[list[str]], NDArray[np.int64]]:
    """What open_clip.get_tokenizer would choose, from files already here.

    CLIP's own is ours where that can do it: the same ids in a sixth of the time.
    """
    text_cfg = files.model_cfg["text_cfg"]
    length = text_cfg.get("context_length", 77)
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if files.tokenizer is None and set(options) <= {"clean"}:
        clean = options.get("clean", "lower")
        if clean in CLEANINGS:
            return ClipTokenizer(context_length=length, clean=clean)
    if files.tokenizer is None:
        simple = _package(files).tokenizer.SimpleTokenizer(context_length=length, **options)
        return lambda texts: _array(simple(texts))
    try:
        foreign = _package(files).tokenizer.HFTokenizer(
            str(files.tokenizer),
            context_length=length,
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            **options,
        )
    except (ImportError, OSError, ValueError) as exc:
        raise ModelUnavailableError(
            files.name,
            f"its tokenizer in {files.tokenizer} could not be loaded: {_first_lines(exc)}",
            "pip install transformers; if it is there, delete that folder and run this again",
        ) from exc
    return lambda texts: _array(foreign(texts))


def _array(tokens: torch.Tensor) -> NDArray[np.int64]:
    array: NDArray[np.int64] = tokens.numpy()
    return array


def _first_lines(exc: BaseException) -> str:
    """An error of torch in one line; a state dict that does not fit lists hundreds of keys."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 300 else f"{text[:300]} …"
