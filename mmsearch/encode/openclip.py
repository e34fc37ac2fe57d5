"""Any open_clip model as an encoder, on CUDA, MPS or the CPU.

How the weights get in: the module is built without memory (on torch's "meta" device) and the mapped
file's tensors become its parameters, so that start-up neither draws random weights nor reads the
file twice. Models that cannot be built so are created in open_clip's ordinary way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from mmsearch.encode.placement import DTYPES, choose_device, choose_dtype, describe_device
from mmsearch.encode.preprocess import preprocessor
from mmsearch.encode.protocol import DEFAULT_LOGIT_SCALE
from mmsearch.errors import EncodeError, ModelUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.encode.weights import ModelFiles
    from mmsearch.types import Pixels, Space, Vectors

logger = logging.getLogger(__name__)

#: Pictures at once. Beyond 16 a CPU gains little (35 → 37 images/s at 64); a GPU wants more.
_BATCH_SIZES = {"cuda": 128, "mps": 32, "cpu": 16}
_TEXT_BATCH = 64

#: What reading a damaged or foreign weights file raises.
_LOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)


class OpenClipEncoder:
    """See `mmsearch.encode.protocol.Encoder`. Raises ModelUnavailableError, EncodeError.

    device, dtype, reference: as in `mmsearch.encode.load_encoder`.
    """

    def __init__(self, files: ModelFiles, *, device: str, dtype: str, reference: bool) -> None:
        self._device = choose_device(device)
        self._space = files.space
        self._image_size = int(files.preprocess_cfg["size"])
        self._model = _load(files)
        # Before the model becomes half precision, so that it is the text tower's to the last bit.
        self._logit_scale = _logit_scale(self._model)
        self._dtype = choose_dtype(dtype, self._device, self._model)
        self._tokenizer = _tokenizer(files)
        self._preprocess = preprocessor(files.preprocess_cfg, reference=reference)
        conv = is_convolutional(self._model.visual)
        self._layout = torch.channels_last if conv else torch.contiguous_format
        self._tower = _causal_text_tower(self._model)
        # On a CPU, cut texts cost little, so they are computed exactly: then a query gets the same
        # vector here and in mmsearch.encode.text_tower, which a terminal search uses.
        exact_texts = dtype == "auto" and self._device.type == "cpu" and self._tower is not None
        self._model.to(self._device, torch.float32 if exact_texts else DTYPES[self._dtype])
        self._model.visual.to(dtype=DTYPES[self._dtype], memory_format=self._layout)
        self._mean, self._std = (
            torch.tensor(files.preprocess_cfg[key], device=self._device).view(1, 3, 1, 1)
            for key in ("mean", "std")
        )
        # Lowered when memory runs out, so that each batch does not find out anew.
        self._most_at_once = 1 << 30

    @property
    def space(self) -> Space:
        return self._space

    @property
    def logit_scale(self) -> float:
        return self._logit_scale

    @property
    def device(self) -> str:
        return describe_device(self._device)

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def image_size(self) -> int:
        return self._image_size

    @property
    def batch_size(self) -> int:
        return min(_BATCH_SIZES[self._device.type], self._most_at_once)

    def preprocess(self, pixels: Pixels) -> NDArray[np.uint8]:
        return self._preprocess(pixels)

    def encode_images(self, batch: NDArray[np.uint8]) -> Vectors:
        wanted = (3, self._image_size, self._image_size)
        if batch.ndim != 4 or batch.shape[1:] != wanted or batch.dtype != np.uint8:
            raise EncodeError(f"a batch must be (n, {wanted}) uint8: {batch.shape} {batch.dtype}")
        return self._in_parts(batch, self._image_features)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        result = np.empty((len(texts), self._space.dim), dtype=np.float32)
        if not texts:
            return result
        tokens = self._tokenizer(list(texts)).numpy()
        if self._tower is None:
            return self._in_parts(tokens, self._text_features, most=_TEXT_BATCH)
        # Each token of a causal tower sees only those before it, and the features are those of the
        # end token (the highest id): what follows it changes nothing, and captions are short.
        lengths = tokens.argmax(axis=1) + 1
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _TEXT_BATCH):
            rows = order[start : start + _TEXT_BATCH]
            cut = np.ascontiguousarray(tokens[rows, : int(lengths[rows].max())])
            result[rows] = self._in_parts(cut, self._cut_text_features)
        return result

    def _in_parts(
        self,
        inputs: NDArray[Any],
        features: Callable[[torch.Tensor], torch.Tensor],
        most: int | None = None,
    ) -> Vectors:
        """Unit vectors of all inputs, in smaller batches where memory does not hold more."""
        parts = [np.empty((0, self._space.dim), dtype=np.float32)]
        done = 0
        while done < len(inputs):
            count = min(len(inputs) - done, most or len(inputs), self._most_at_once)
            try:
                parts.append(self._unit(features, inputs[done : done + count]))
            except torch.OutOfMemoryError as exc:
                if count == 1:
                    raise EncodeError(
                        f"{self.device} has too little memory for one input of {self._space.name}. "
                        "Free some, or use --device cpu or a smaller model"
                    ) from exc
                self._most_at_once = count // 2
                logger.warning(
                    "%s is out of memory with %d inputs at once; going on with %d",
                    self.device,
                    count,
                    self._most_at_once,
                )
                continue
            done += count
        return np.concatenate(parts)

    def _unit(
        self, features: Callable[[torch.Tensor], torch.Tensor], inputs: NDArray[Any]
    ) -> Vectors:
        with torch.inference_mode(), self._exact():
            # torch warns of memory that it may not write to, though nothing here does.
            owned = np.require(inputs, requirements=["C", "W"])
            found = features(torch.from_numpy(owned).to(self._device)).float()
            norms = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
            good = bool(torch.isfinite(norms).all()) and bool((norms > 0).all())
            vectors = (found / norms).cpu().numpy()
        if not good:
            raise EncodeError(
                f"{self._space.name} in {self._dtype} on {self.device} gave a vector that is not "
                "finite or is zero. Try --dtype fp32"
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """fp32 means fp32: cuDNN would use TF32, of 10 bits, for convolutions."""
        if self._dtype == "fp32" and self._device.type == "cuda":
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield
        else:
            yield

    def _image_features(self, batch: torch.Tensor) -> torch.Tensor:
        # In float32 and in the order of ToTensor and Normalize: equal to open_clip to the last bit.
        x = batch.float().div_(255).sub_(self._mean).div_(self._std)
        x = x.to(DTYPES[self._dtype], memory_format=self._layout)
        found: torch.Tensor = self._model.encode_image(x)
        return found

    def _text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._model.encode_text(tokens)
        return found

    def _cut_text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """open_clip's CLIP.encode_text for fewer tokens than the context has."""
        tower = self._tower
        length = tokens.shape[1]
        x: torch.Tensor = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        x = tower.ln_final(x)
        projection = tower.text_projection
        if projection is None:
            return x
        found: torch.Tensor = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return found


def _logit_scale(model: Any) -> float:
    logarithm = getattr(model, "logit_scale", None)
    return DEFAULT_LOGIT_SCALE if logarithm is None else float(logarithm.double().exp())


def is_convolutional(tower: nn.Module) -> bool:
    """Whether an image tower is mostly convolutions; a ViT has one, for its patches.

    Those want their tensors "channels last": see the measurements in `placement.choose_dtype`.
    """
    return sum(isinstance(module, nn.Conv2d) for module in tower.modules()) > 4


def _load(files: ModelFiles) -> Any:
    """The model with its weights, in the file's own precision, on the CPU."""
    try:
        try:
            model = _assign(files)
        except (RuntimeError, ValueError) as exc:
            logger.info("%s: created in the ordinary way (%s)", files.name, exc)
            model = _create(files)
    except _LOAD_ERRORS as exc:
        raise ModelUnavailableError(
            files.name,
            f"{files.weights} could not be loaded: {_first_lines(exc)}",
            "The file is damaged or belongs to another architecture: delete it and fetch it again, "
            "or name the right one",
        ) from exc
    return model.eval().requires_grad_(False)


def _assign(files: ModelFiles) -> Any:
    """Build without memory, then let the file's tensors be the parameters.

    Raises RuntimeError (torch's NotImplementedError is one) or ValueError where that is not
    possible.
    """
    from open_clip.factory import load_checkpoint

    if files.weights.suffix in (".npz", ".npy"):
        raise ValueError("big_vision checkpoints are copied into existing parameters")
    with torch.device("meta"):
        model = _construct(files)
    # open_clip's loader also converts older and foreign checkpoints, so it does the work; only
    # the last step is changed, for this one module.
    model.load_state_dict = partial(model.load_state_dict, assign=True)
    load_checkpoint(model, str(files.weights), strict=True, weights_only=True)
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


def _create(files: ModelFiles) -> Any:
    """Build with random weights, then copy the file's over them."""
    from open_clip.factory import load_checkpoint

    model = _construct(files)
    load_checkpoint(model, str(files.weights), strict=True, weights_only=True)
    return model


def _construct(files: ModelFiles) -> Any:
    """The module, chosen as open_clip.create_model does."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    cfg = deepcopy(dict(files.model_cfg))
    custom = cfg.pop("custom_text", False)
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in cfg["text_cfg"]:
        cfg["text_cfg"]["hf_model_pretrained"] = False
        custom = True
    if not custom:
        return CLIP(**cfg)
    return CoCa(**cfg) if "multimodal_cfg" in cfg else CustomTextCLIP(**cfg)


def _tokenizer(files: ModelFiles) -> Any:
    """The tokenizer that open_clip.get_tokenizer would choose, from files already here."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text_cfg = files.model_cfg["text_cfg"]
    length = text_cfg.get("context_length", 77)
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if files.tokenizer is None:
        return SimpleTokenizer(context_length=length, **options)
    try:
        return HFTokenizer(
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


def _causal_text_tower(model: Any) -> Any:
    """The module with the text tower's parts where its input may be cut at the end token."""
    from open_clip.transformer import TextTransformer

    tower = getattr(model, "text", model)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    cuttable = (
        (tower is model or isinstance(tower, TextTransformer))
        and pool == "argmax"
        and getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
    )
    return tower if cuttable else None


def _first_lines(exc: BaseException) -> str:
    """An error of torch in one line; a state dict that does not fit lists hundreds of keys."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 300 else f"{text[:300]} …"
