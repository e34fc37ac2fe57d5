"""Any open_clip model as an encoder, on CUDA, MPS or the CPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from mmsearch.encode import streams
from mmsearch.encode.attention import replace_attention
from mmsearch.encode.batchsize import BatchSize
from mmsearch.encode.construct import build_model, build_tokenizer
from mmsearch.encode.cuda import CudaPictures, CudaTexts, Flight
from mmsearch.encode.fused import fuse_gelu
from mmsearch.encode.lastblock import is_plain, one_token, pools_first_token
from mmsearch.encode.lean import is_made_by
from mmsearch.encode.overlap import overlapped
from mmsearch.encode.packed import can_pack, pack
from mmsearch.encode.patches import into_patches
from mmsearch.encode.placement import (
    DTYPES,
    choose_device,
    choose_dtype,
    describe_device,
    prefers_products,
)
from mmsearch.encode.preprocess import Preprocessor, preprocessor
from mmsearch.encode.protocol import DEFAULT_LOGIT_SCALE
from mmsearch.errors import EncodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.encode.weights import ModelFiles
    from mmsearch.types import Space, Vectors

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: Pictures at once: where the search for the best begins, and the most that it may come to.
_BATCHES = {"cuda": (64, 1024), "mps": (16, 128), "cpu": (16, 64)}
#: Tokens of pictures that a core of a CPU has enough to do with; where their number is known, the
#: search begins there. More of them are 2 % quicker, fewer 6 % slower (ViT-B-32 on Zen 4 cores).
_PICTURE_TOKENS = 1024
#: Batches are not divided into parts of fewer tokens, or of fewer pictures of an unknown number.
_PART_TOKENS, _PART_PICTURES = 512, 8
#: Tokens of texts at once; on a CPU in each stream, and no fewer where texts are divided.
_TOKENS = {"cuda": 32768, "mps": 8192, "cpu": 1024}
_LEAST_TOKENS = 128


@dataclass(frozen=True, slots=True)
class _Divided:
    """A batch whose parts are under way."""

    batch: NDArray[np.uint8]
    running: streams.Running[Vectors]


class OpenClipEncoder:
    """See `mmsearch.encode.protocol.Encoder`. Raises ModelUnavailableError, EncodeError.

    device, dtype, reference: as in `mmsearch.encode.load_encoder`.
    """

    def __init__(self, files: ModelFiles, *, device: str, dtype: str, reference: bool) -> None:
        self._device = choose_device(device)
        self._space = files.space
        self._image_size = int(files.preprocess_cfg["size"])
        self._model = build_model(files)
        # Before the model becomes half precision, so that it is the text tower's to the last bit.
        self._logit_scale = _logit_scale(self._model)
        self._dtype = choose_dtype(dtype, self._device, self._model)
        self._tokenize = build_tokenizer(files)
        self._preprocess = preprocessor(files.preprocess_cfg, reference=reference)
        # Not torch.compile: on two Zen 4 cores it takes ViT-B-32 in bf16 from 35 to 40 pictures a
        # second, for 12 to 14 s of compiling for each shape: won back after some 4,000 pictures,
        # and lost by every short run.
        conv = is_convolutional(self._model.visual)
        self._layout = torch.channels_last if conv else torch.contiguous_format
        self._tower = _causal_text_tower(self._model)
        mean, std = (
            torch.tensor(files.preprocess_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        visual = getattr(self._model.visual, "transformer", None)
        ours: list[Any] = []
        packs = self._device.type == "cpu" and self._dtype == "bf16" and can_pack()
        multiplies = packs and prefers_products()
        if is_plain(visual):
            replace_attention(visual, causal=False, multiplies=multiplies)
            pools_first_token(self._model)
            ours.append(visual)
        self._ends_alone = self._tower is not None and is_plain(self._tower.transformer)
        if self._ends_alone:
            replace_attention(self._tower.transformer, causal=True, multiplies=multiplies)
            self._tower.transformer.resblocks[-1].attn.split()
            ours.append(self._tower.transformer)
        # On a CPU the usual layers are as quick, and equal to open_clip's to the last bit.
        self._takes_bytes = False
        if self._device.type == "cuda" and self._dtype != "fp32":
            self._takes_bytes = into_patches(self._model, self._image_size, mean, std)
            fuse_gelu(self._model)
        self._model.to(self._device, DTYPES[self._dtype])
        self._model.visual.to(memory_format=self._layout)
        if packs:
            for transformer in ours:
                pack(transformer)
        self._mean, self._std = mean.to(self._device), std.to(self._device)
        self._divides = self._device.type == "cpu"
        self._part = _PART_PICTURES
        first, most = _BATCHES[self._device.type]
        if self._divides:
            at_once = max(2, streams.count())
            most *= at_once // 2
            if (tokens := _tokens(self._model.visual)) is not None:
                first = _power_of_two(at_once * _PICTURE_TOKENS / tokens, most)
                self._part = _power_of_two(_PART_TOKENS / tokens, most)
        self._pictures = BatchSize(first, most)
        self._cuda = self._cuda_texts = None
        if self._device.type == "cuda":
            self._cuda = CudaPictures(
                self._device, self._image_size, self._space.dim, self._image_vectors
            )
            if self._tower is not None:
                self._cuda_texts = CudaTexts(
                    self._device, self._tower.context_length, self._text_vectors
                )
        # Lowered when memory runs out, so that each batch does not find out anew.
        self._tokens = _TOKENS[self._device.type]

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
        return self._pictures.size

    @property
    def preprocess(self) -> Preprocessor:
        return self._preprocess

    def encode_images(self, batch: NDArray[np.uint8]) -> Vectors:
        self._check(batch)
        parts = [np.empty((0, self._space.dim), dtype=np.float32)]
        done = 0
        while done < len(batch):
            part = batch[done : done + self._pictures.most]
            vectors = self._attempt(self._encode_part, part)
            if vectors is None:
                self._pictures.too_large(len(part))
                continue
            parts.append(vectors)
            done += len(part)
        return np.concatenate(parts)

    def encode_batches(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Vectors]:
        if self._cuda is not None:
            with closing(overlapped(batches, self._start, self._finish)) as stream:
                for vectors, good in stream:
                    yield self._checked(vectors, good)
        elif self._divides and streams.count() > 1:
            with closing(overlapped(batches, self._divide, self._join)) as joined:
                yield from joined
        else:
            yield from map(self.encode_images, batches)

    def _check(self, batch: NDArray[np.uint8]) -> None:
        wanted = (3, self._image_size, self._image_size)
        if batch.ndim != 4 or batch.shape[1:] != wanted or batch.dtype != np.uint8:
            raise EncodeError(f"a batch must be (n, {wanted}) uint8: {batch.shape} {batch.dtype}")

    def _encode_part(self, part: NDArray[np.uint8]) -> Vectors:
        """Vectors of no more pictures than memory is thought to hold."""
        if self._cuda is not None:
            return self._checked(*self._finish(self._cuda.start(part)))
        if (divided := self._in_parts(part)) is not None:
            return self._joined(divided)
        started = perf_counter()
        vectors = self._unit(self._image_features, part)
        self._pictures.took(len(part), perf_counter() - started)
        return vectors

    def _in_parts(self, batch: NDArray[np.uint8]) -> _Divided | None:
        """A batch whose parts are under way; None where it is not divided."""
        parts = streams.parts([1] * len(batch), self._part) if self._divides else []
        if len(parts) < 2:
            return None
        works = [partial(self._unit, self._image_features, batch[part]) for part in parts]
        return _Divided(batch, streams.Running(works))

    def _joined(self, divided: _Divided) -> Vectors:
        """The vectors (n, dim) of all parts. Raises torch.OutOfMemoryError."""
        vectors = np.concatenate(divided.running.results())
        self._pictures.took(len(divided.batch), divided.running.seconds)
        return vectors

    def _divide(self, batch: NDArray[np.uint8]) -> _Divided | Vectors:
        """A batch whose parts are under way; the vectors of one that is not divided."""
        self._check(batch)
        divided = self._in_parts(batch) if len(batch) <= self._pictures.most else None
        return self.encode_images(batch) if divided is None else divided

    def _join(self, divided: _Divided | Vectors) -> Vectors:
        if not isinstance(divided, _Divided):
            return divided
        vectors = self._attempt(lambda _: self._joined(divided), divided.batch)
        if vectors is None:
            self._pictures.too_large(len(divided.batch))
            return self.encode_images(divided.batch)
        return vectors

    def _start(self, batch: NDArray[np.uint8]) -> Flight | Vectors:
        """A batch on its way through the GPU; its vectors where memory does not hold it whole."""
        assert self._cuda is not None
        self._check(batch)
        if 0 < len(batch) <= self._pictures.most:
            if self._pictures.settled and len(batch) == self._pictures.size:
                self._cuda.record(batch)
            flight = self._attempt(self._cuda.start, batch)
            if flight is not None:
                return flight
            self._pictures.too_large(len(batch))
        return self.encode_images(batch)

    def _finish(self, flight: Flight | Vectors) -> tuple[Vectors, bool]:
        """The vectors of what was started, and whether all of them have a direction."""
        if isinstance(flight, np.ndarray):
            return flight, True
        assert self._cuda is not None
        vectors, good, seconds = self._cuda.finish(flight)
        self._pictures.took(len(vectors), seconds)
        return vectors, good

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        result = np.empty((len(texts), self._space.dim), dtype=np.float32)
        if not texts:
            return result
        tokens = self._tokenize(list(texts))
        features = self._text_features
        lengths = np.full(len(tokens), tokens.shape[1])
        if self._tower is not None:
            # Each token of a causal tower sees only those before it, and the features are those of
            # the end token (the highest id): what follows it changes nothing, and captions are
            # short.
            features = self._cut_text_features
            lengths = tokens.argmax(axis=1) + 1
        order = np.argsort(lengths, kind="stable")
        for rows, made in self._texts_in_parts(features, tokens, lengths, order):
            result[rows] = made
            order = order[len(rows) :]
        done = 0
        while done < len(order):
            rows = order[done : done + _fitting(lengths[order[done:]], self._tokens)]
            length = int(lengths[rows[-1]])
            cut = np.ascontiguousarray(tokens[rows, :length])
            vectors = self._few_texts(cut) if len(tokens) == len(rows) else None
            if vectors is None:
                vectors = self._attempt(partial(self._unit, features), cut)
            if vectors is None:
                self._tokens = len(rows) * length // 2
                continue
            result[rows] = vectors
            done += len(rows)
        return result

    def _texts_in_parts(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> list[tuple[NDArray[np.int64], Vectors]]:
        """Rows, in this order, and their vectors; nothing where texts are not divided."""
        at_once = streams.count() if self._divides else 1
        if at_once == 1:
            return []
        limit = min(self._tokens, max(_LEAST_TOKENS, -(-int(lengths.sum()) // at_once)))
        parts: list[NDArray[np.int64]] = []
        while len(order):
            parts.append(order[: _fitting(lengths[order], limit)])
            order = order[len(parts[-1]) :]
        if len(parts) == 1:
            return []
        cuts = [np.ascontiguousarray(tokens[rows, : int(lengths[rows[-1]])]) for rows in parts]
        works = [partial(self._unit, features, cut) for cut in cuts]
        vectors = self._attempt(lambda _: streams.Running(works).results(), tokens)
        return [] if vectors is None else list(zip(parts, vectors, strict=True))

    def _few_texts(self, tokens: NDArray[np.int64]) -> Vectors | None:
        """Vectors of texts that are few enough for a recorded run; None for others."""
        found = None if self._cuda_texts is None else self._cuda_texts.vectors(tokens)
        return None if found is None else self._checked(*found)

    def _attempt(self, work: Callable[[NDArray[Any]], R], inputs: NDArray[Any]) -> R | None:
        """What comes of some inputs, or None where memory does not hold so many at once."""
        try:
            return work(inputs)
        except torch.OutOfMemoryError as exc:
            if len(inputs) == 1:
                raise EncodeError(
                    f"{self.device} has too little memory for one input of {self._space.name}. "
                    "Free some, or use --device cpu or a smaller model"
                ) from exc
            logger.warning(
                "%s is out of memory with %d inputs at once; going on with half as many",
                self.device,
                len(inputs),
            )
        return None

    def _unit(
        self, features: Callable[[torch.Tensor], torch.Tensor], inputs: NDArray[Any]
    ) -> Vectors:
        with torch.inference_mode(), self._exact():
            # torch warns of memory that it may not write to, though nothing here does.
            owned = np.require(inputs, requirements=["C", "W"])
            vectors, good = _directions(features(torch.from_numpy(owned).to(self._device)))
            return self._checked(vectors.cpu().numpy(), bool(good))

    def _checked(self, vectors: Vectors, good: bool) -> Vectors:
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

    def _image_vectors(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self._exact():
            return _directions(self._image_features(batch))

    def _text_vectors(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self._exact():
            return _directions(self._cut_text_features(tokens))

    def _image_features(self, batch: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor
        if self._takes_bytes:
            found = self._model.encode_image(batch)
            return found
        # In float32 and in the order of ToTensor and Normalize: equal to open_clip to the last bit.
        x = batch.float().div_(255).sub_(self._mean).div_(self._std)
        x = x.to(DTYPES[self._dtype], memory_format=self._layout)
        found = self._model.encode_image(x)
        return found

    def _text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._model.encode_text(tokens)
        return found

    def _cut_text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """open_clip's CLIP.encode_text for fewer tokens than the context has."""
        tower = self._tower
        length = tokens.shape[1]
        x: torch.Tensor = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        mask = tower.attn_mask[:length, :length].to(x.dtype)
        rows, ends = torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)
        if self._ends_alone:
            *blocks, last = tower.transformer.resblocks
            for block in blocks:
                x = block(x)
            seen = mask[ends][:, None, None]
            x = one_token(last, x, x[rows, ends].unsqueeze(1), seen).squeeze(1)
        else:
            x = tower.transformer(x, attn_mask=mask)[rows, ends]
        x = tower.ln_final(x)
        projection = tower.text_projection
        if projection is None:
            return x
        found: torch.Tensor = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return found


def _directions(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (n, dim) float32, and whether all of them are such, (1,) bool."""
    features = features.float()
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    good = torch.isfinite(norms).all() & (norms > 0).all()
    return features / norms, good.view(1)


def _fitting(lengths: NDArray[np.int64], tokens: int) -> int:
    """How many texts of these lengths, which ascend, are at most so many tokens when padded to the
    longest of them; at least one."""
    count = int(np.searchsorted(lengths * np.arange(1, len(lengths) + 1), tokens, side="right"))
    return max(1, count)


def _tokens(visual: Any) -> int | None:
    """Of a picture, where this is open_clip's vision transformer."""
    if is_made_by(visual, "transformer.VisionTransformer"):
        return len(visual.positional_embedding)
    return None


def _power_of_two(size: float, most: int) -> int:
    """The one nearest to it, from 1 to `most`."""
    return int(min(max(1, 2 ** round(math.log2(size))), most))


def _logit_scale(model: Any) -> float:
    logarithm = getattr(model, "logit_scale", None)
    return DEFAULT_LOGIT_SCALE if logarithm is None else float(logarithm.double().exp())


def is_convolutional(tower: nn.Module) -> bool:
    """Whether an image tower is mostly convolutions; a ViT has one, for its patches.

    Those want their tensors "channels last": see the measurements in `placement.choose_dtype`.
    """
    return sum(isinstance(module, nn.Conv2d) for module in tower.modules()) > 4


def _causal_text_tower(model: Any) -> Any:
    """The module with the text tower's parts where its input may be cut at the end token."""
    tower = getattr(model, "text", model)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    cuttable = (
        (tower is model or is_made_by(tower, "transformer.TextTransformer"))
        and pool == "argmax"
        and getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
    )
    return tower if cuttable else None
