"""A CLIP text tower in numpy: a terminal query without torch.

Importing open_clip takes more than four seconds, the arithmetic of one query a few milliseconds. So
for the standard text tower (causal transformer, features taken at the end token) with weights in
safetensors, this module computes the same vectors from the mapped file: cosine to open_clip's own
above 0.99999 for weights of any precision. Whatever is not of that shape is for
`mmsearch.encode.openclip`.
"""

from __future__ import annotations

import json
import mmap
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.blas import one_thread
from mmsearch.encode.bpe import CLEANINGS, ClipTokenizer
from mmsearch.encode.protocol import DEFAULT_LOGIT_SCALE
from mmsearch.errors import EncodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.encode.text_tower_torch import TorchTower
    from mmsearch.encode.weights import ModelFiles
    from mmsearch.types import Space, Vectors

    Floats = NDArray[np.float32]
    #: Six times weights (or scales) and biases, in the order of the computation.
    _Block = tuple[tuple[Floats, Floats], ...]

#: Keys of text_cfg that this module understands, with the only values it can do (None: any).
_TEXT_KEYS: Mapping[str, tuple[Any, ...] | None] = {
    "context_length": None,
    "vocab_size": None,
    "width": None,
    "heads": None,
    "layers": None,
    "mlp_ratio": None,
    "norm_kwargs": None,
    "act_kwargs": None,
    "tokenizer_kwargs": None,
    "pad_id": None,
    "eos_id": None,
    "pool_type": ("argmax",),
    "proj_bias": None,
    "proj_type": ("linear",),
    "hf_model_pretrained": None,
    "hf_pooler_type": None,
    "hf_proj_type": None,
}
_MODEL_KEYS = frozenset(
    {
        "embed_dim",
        "vision_cfg",
        "text_cfg",
        "quick_gelu",
        "custom_text",
        "init_logit_scale",
        "init_logit_bias",
        "nonscalar_logit_scale",
        "output_dict",
    }
)
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_BATCH = 32
#: Weights from which on torch, where it is loaded, is quicker: ViT-B-32 has 38 million of them and
#: takes half the time. A small tower's products are done before torch's threads are awake.
_LARGE = 10_000_000


def suits(files: ModelFiles) -> bool:
    """Whether `NumpyTextEncoder` can do this model; told from its configuration and file name."""
    cfg = files.model_cfg
    if files.weights.suffix != ".safetensors" or any(
        value and key not in _MODEL_KEYS for key, value in cfg.items()
    ):
        return False
    text_cfg = cfg["text_cfg"]
    for key, value in text_cfg.items():
        if value is None or value is False:
            continue
        if key not in _TEXT_KEYS:
            return False
        allowed = _TEXT_KEYS[key]
        if allowed is not None and value not in allowed:
            return False
    tokenizer = text_cfg.get("tokenizer_kwargs") or {}
    return (
        set(tokenizer) <= {"clean"}
        and tokenizer.get("clean", "lower") in CLEANINGS
        and set(text_cfg.get("norm_kwargs") or {}) <= {"eps"}
        and _activation(cfg) is not None
    )


class NumpyTextEncoder:
    """Texts to vectors, on the CPU, in float32 as long as it computes by numpy; large ones by torch
    where that is loaded (`text_tower_torch`). See `mmsearch.encode.protocol.TextEncoder`.

    Raises EncodeError when the file does not hold such a tower after all.
    """

    def __init__(self, files: ModelFiles) -> None:
        text_cfg = files.model_cfg["text_cfg"]
        self._space = files.space
        self._heads = int(text_cfg.get("heads", 8))
        self._epsilon = float((text_cfg.get("norm_kwargs") or {}).get("eps", 1e-5))
        activation = _activation(files.model_cfg)
        if activation is None:
            raise EncodeError(f"{files.name}: its activation function is not known here")
        self._activation = activation
        self._activate = _ACTIVATIONS[activation]
        self._torch: TorchTower | None = None
        self._lock = threading.Lock()  # of `_torch` and `_blocks`, which takes the other's place
        self._tokenizer = ClipTokenizer(
            context_length=int(text_cfg.get("context_length", 77)),
            clean=(text_cfg.get("tokenizer_kwargs") or {}).get("clean", "lower"),
        )
        try:
            self._tensors = Tensors(files.weights)
            # An old file of a CustomTextCLIP, or that of a plain CLIP, has no prefix.
            prefixed = "text.token_embedding.weight" in self._tensors
            self._load("text." if prefixed else "", int(text_cfg.get("layers", 12)))
        except (OSError, KeyError, ValueError) as exc:
            raise EncodeError(
                f"{files.name}: {files.weights} is no CLIP text tower: {exc}"
            ) from exc

    @property
    def space(self) -> Space:
        return self._space

    @property
    def logit_scale(self) -> float:
        return self._logit_scale

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) float32 of unit norm; see `protocol.TextEncoder`."""
        result = np.empty((len(texts), self._space.dim), dtype=np.float32)
        if not texts:
            return result
        ids = self._tokenizer(list(texts))
        # Each token sees only those before it, and the features are those of the end token (the
        # highest id): what follows it changes nothing.
        ends = ids.argmax(axis=1)
        order = np.argsort(ends, kind="stable")
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            cut = ids[rows, : int(ends[rows].max()) + 1]
            with one_thread():
                result[rows] = self._features(cut, ends[rows])
        norms = np.linalg.norm(result, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise EncodeError(f"{self._space.name} gave a vector that is not finite or is zero")
        result /= norms
        return result

    def _load(self, prefix: str, layers: int) -> None:
        """Everything but the token embeddings, of which only the rows in use are read, later."""
        read = self._tensors.read
        self._embedding = f"{prefix}token_embedding.weight"
        self._positions = read(f"{prefix}positional_embedding")
        self._final = self._norm_of(f"{prefix}ln_final")
        self._logit_scale = DEFAULT_LOGIT_SCALE
        if "logit_scale" in self._tensors:
            self._logit_scale = float(np.exp(read("logit_scale").astype(np.float64)).item())
        projection = f"{prefix}text_projection"
        if projection in self._tensors:
            self._projection, self._projection_bias = read(projection), None
        else:
            self._projection = read(f"{projection}.weight").T
            self._projection_bias = read(f"{projection}.bias")
        self._blocks: list[_Block] = []
        for number in range(layers):
            block = f"{prefix}transformer.resblocks.{number}."
            self._blocks.append(
                (
                    self._norm_of(f"{block}ln_1"),
                    (read(f"{block}attn.in_proj_weight"), read(f"{block}attn.in_proj_bias")),
                    (read(f"{block}attn.out_proj.weight"), read(f"{block}attn.out_proj.bias")),
                    self._norm_of(f"{block}ln_2"),
                    (read(f"{block}mlp.c_fc.weight"), read(f"{block}mlp.c_fc.bias")),
                    (read(f"{block}mlp.c_proj.weight"), read(f"{block}mlp.c_proj.bias")),
                )
            )
        weights = sum(layer[0].size for block in self._blocks for layer in block)
        #: Whether it takes torch, once that is loaded.
        self.is_large = weights >= _LARGE
        wanted = (self._positions.shape[1], self._space.dim)
        if self._projection.shape != wanted:
            raise ValueError(f"text_projection has shape {self._projection.shape}, not {wanted}")
        length = self._tokenizer.context_length
        if len(self._positions) != length:
            # open_clip stretches or shrinks them to the context; their beginning is not the same.
            raise ValueError(f"positional_embedding is of {len(self._positions)} places: {length}")

    def _norm_of(self, name: str) -> tuple[Floats, Floats]:
        return self._tensors.read(f"{name}.weight"), self._tensors.read(f"{name}.bias")

    def _features(self, ids: NDArray[np.int64], ends: NDArray[np.int64]) -> Floats:
        """ids (n, length), place of the end token in each (n,) → features (n, dim), not unit."""
        x = self._tensors.rows(self._embedding, ids) + self._positions[: ids.shape[1]]
        features = self._tower()(x, ends) @ self._projection
        if self._projection_bias is not None:
            features = features + self._projection_bias
        return np.asarray(features, dtype=np.float32)

    def _tower(self) -> Callable[[Floats, NDArray[np.int64]], Floats]:
        """See `_forward`; by torch where the tower is large and torch is loaded."""
        with self._lock:
            # Never imported for this: that takes longer than hundreds of questions.
            if self._torch is None and self.is_large and "torch" in sys.modules:
                self._torch = self._by_torch()
                if self._torch.in_half_precision:
                    self._blocks = []  # it has weights of its own
            if self._torch is not None:
                return self._torch.features
            return partial(self._forward, self._blocks)

    def _by_torch(self) -> TorchTower:
        from mmsearch.encode.text_tower_torch import TorchTower

        return TorchTower(
            self._blocks,
            self._final,
            heads=self._heads,
            epsilon=self._epsilon,
            activation=self._activation,
        )

    def _forward(self, blocks: Sequence[_Block], x: Floats, ends: NDArray[np.int64]) -> Floats:
        """Embedded tokens (n, length, width) → what the last norm makes of the end tokens."""
        n, length, _ = x.shape
        width = x.shape[2]
        head = width // self._heads
        future = np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
        for norm_1, in_projection, out_projection, norm_2, up, down in blocks:
            qkv = _linear(self._norm(x, norm_1), in_projection)
            q, k, v = qkv.reshape(n, length, 3, self._heads, head).transpose(2, 0, 3, 1, 4)
            scores = q @ k.transpose(0, 1, 3, 2) * np.float32(head**-0.5) + future
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            seen = (scores @ v).transpose(0, 2, 1, 3).reshape(n, length, width)
            x = x + _linear(seen, out_projection)
            x = x + _linear(self._activate(_linear(self._norm(x, norm_2), up)), down)
        return self._norm(x[np.arange(n), ends], self._final)

    def _norm(self, x: Floats, parameters: tuple[Floats, Floats]) -> Floats:
        weight, bias = parameters
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(x * x, axis=-1, keepdims=True)
        normal: Floats = x / np.sqrt(variance + np.float32(self._epsilon)) * weight + bias
        return normal


class Tensors:
    """The tensors of a safetensors file, mapped: only what is asked for is read.

    The safetensors package has no bfloat16 for numpy and cannot gather rows; the format is eight
    bytes of header length, a JSON header, and the data
    (https://huggingface.co/docs/safetensors/index#format). Raises OSError, or ValueError for a
    file that is no such thing or is cut short.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._data) < 8:
            raise ValueError("the file is cut short")
        (length,) = struct.unpack("<Q", self._data[:8])
        if length > len(self._data) - 8:
            raise ValueError("the file is cut short or no safetensors file")
        self._index = json.loads(self._data[8 : 8 + length])
        self._index.pop("__metadata__", None)
        self._start = 8 + length
        if any(
            self._start + about["data_offsets"][1] > len(self._data)
            for about in self._index.values()
        ):
            raise ValueError("the file is cut short")

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def read(self, name: str) -> Floats:
        """A whole tensor as float32. Raises KeyError when there is none of that name."""
        return _to_float32(self._mapped(name))

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        """Rows of a matrix as float32, of shape (*ids.shape, columns)."""
        return _to_float32(self._mapped(name)[ids])

    def _mapped(self, name: str) -> NDArray[Any]:
        about = self._index[name]
        dtype: np.dtype[Any] | None = _DTYPES.get(about["dtype"])
        if dtype is None:
            raise ValueError(f"{name} is stored as {about['dtype']}")
        shape = tuple(about["shape"])
        flat: NDArray[Any] = np.frombuffer(
            self._data,
            dtype=dtype,
            count=int(np.prod(shape)),
            offset=self._start + about["data_offsets"][0],
        )
        return flat.reshape(shape)


def _to_float32(values: NDArray[Any]) -> Floats:
    if values.dtype == np.uint16:  # bfloat16: the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, dtype=np.float32)


def _linear(x: Floats, parameters: tuple[Floats, Floats]) -> Floats:
    weight, bias = parameters
    # One product of all rows: numpy would make one of each text's few. And with the few of a query
    # as the right factor: OpenBLAS takes a quarter less time than for x @ weight.T.
    y: Floats = weight @ x.reshape(-1, x.shape[-1]).T
    y += bias[:, None]
    return np.ascontiguousarray(y.T).reshape(*x.shape[:-1], -1)


def _activation(cfg: Mapping[str, Any]) -> str | None:
    """The function between the two layers of a block: one of `_ACTIVATIONS`, or None when it is not
    known here."""
    arguments = cfg["text_cfg"].get("act_kwargs") or {}
    if cfg.get("quick_gelu"):
        return None if arguments else "quick"
    named = str(arguments.get("approximate", "none"))
    known = set(arguments) <= {"approximate"} and named in ("none", "tanh")
    return named if known else None


def _quick_gelu(x: Floats) -> Floats:
    y: Floats = x / (1 + np.exp(np.minimum(-1.702 * x, 80.0)))
    return y


def _gelu_tanh(x: Floats) -> Floats:
    slope = np.float32((2 / np.pi) ** 0.5)
    y: Floats = 0.5 * x * (1 + np.tanh(slope * (x + 0.044715 * x * x * x)))
    return y


def _gelu(x: Floats) -> Floats:
    """Exact GELU, up to 1e-7: numpy has no erf, so Abramowitz and Stegun 7.1.26."""
    z = np.abs(x) * np.float32(2**-0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * np.float32(1.061405429) - np.float32(1.453152027)
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    erf = 1 - series * t * np.exp(-z * z)
    y: Floats = np.float32(0.5) * x * (1 + np.copysign(erf, x))
    return y


_ACTIVATIONS = {"quick": _quick_gelu, "none": _gelu, "tanh": _gelu_tanh}
