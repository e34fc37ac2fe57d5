from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmsearch.encode.preprocess import preprocessor, resized
from mmsearch.errors import EncodeError

MODES = ("shortest", "longest", "squash")
SIZES = [
    (64, 64),
    (64, 100),
    (301, 64),
    (97, 203),
    (640, 481),
    (30, 31),
    (1, 1),
    (7, 90),
    (500, 20),
]


def config(mode: str = "shortest", interpolation: str = "bicubic", fill: int = 0) -> dict[str, Any]:
    return {
        "size": 64,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": interpolation,
        "resize_mode": mode,
        "fill_color": fill,
    }


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth waves with some noise, as photographs are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / (5 + 3 * c) + c) + np.cos(y / (7 + 2 * c)) for c in range(3)]
    pixels = 127 + 50 * np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def of_open_clip(cfg: dict[str, Any], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """open_clip's own transform up to the point where pixels are still bytes."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image
    from torchvision.transforms import Normalize

    transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    assert isinstance(transform.transforms.pop(), Normalize)
    values = transform(Image.fromarray(pixels))
    square: NDArray[np.uint8] = (values * 255).round().to(torch.uint8).numpy()
    return square


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_reference_is_open_clip_to_the_bit(
    mode: str, interpolation: str, height: int, width: int
) -> None:
    if mode == "longest" and min(height, width) * 64 < max(height, width) / 2:
        pytest.skip("open_clip fails here")
    cfg = config(mode, interpolation, fill=9)
    pixels = picture(height, width)
    expected = of_open_clip(cfg, pixels)
    result = preprocessor(cfg, reference=True)(pixels)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fast_differs_by_rounding_only(mode: str, height: int, width: int) -> None:
    cfg = config(mode)
    pixels = picture(height, width)
    fast = preprocessor(cfg, reference=False)(pixels).astype(int)
    exact = preprocessor(cfg, reference=True)(pixels).astype(int)
    assert np.abs(fast - exact).max() <= 2
    assert np.abs(fast - exact).mean() <= 0.25


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("height", "width"), [(10, 4000), (3, 700), (100, 5000), (1, 300)])
def test_long_thin_pictures_agree_with_open_clip(
    height: int, width: int, turned: bool, interpolation: str
) -> None:
    cfg = config(interpolation=interpolation)
    pixels = picture(height, width)
    if turned:
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    result = preprocessor(cfg, reference=True)(pixels).astype(int)
    assert np.abs(result - of_open_clip(cfg, pixels).astype(int)).max() <= 1


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3), (4000, 10, 3)])
def test_extreme_shapes_take_little_memory(
    shape: tuple[int, int, int], mode: str, reference: bool
) -> None:
    pixels = np.full(shape, 77, dtype=np.uint8)
    preprocess = preprocessor(config(mode), reference=reference)
    tracemalloc.start()
    result = preprocess(pixels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.shape == (3, 64, 64)
    assert peak < 8 << 20
    assert 77 in result[:, 30:34, 30:34]


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(MODES))
@settings(max_examples=200, deadline=None)
def test_sizes_are_those_of_open_clip(height: int, width: int, mode: str) -> None:
    from torchvision.transforms.functional import _compute_resized_output_size

    found = resized(height, width, 64, mode)
    if mode == "shortest":
        assert list(found) == _compute_resized_output_size((height, width), [64])
    elif mode == "squash":
        assert found == (64, 64)
    else:
        assert max(found) == 64
        assert min(found) >= 1


@pytest.mark.parametrize("reference", [False, True])
def test_read_only_and_strided_pictures_are_taken(reference: bool) -> None:
    pixels = picture(90, 120)
    preprocess = preprocessor(config(), reference=reference)
    expected = preprocess(pixels)
    locked = pixels.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(preprocess(locked), expected)
    wide = np.zeros((90, 240, 3), dtype=np.uint8)
    wide[:, ::2] = pixels
    np.testing.assert_array_equal(preprocess(wide[:, ::2]), expected)
    np.testing.assert_array_equal(pixels, picture(90, 120))


def test_many_threads_give_what_one_gives() -> None:
    preprocess = preprocessor(config(), reference=False)
    pictures = [picture(100 + 7 * n, 150 + n, seed=n) for n in range(16)]
    alone = [preprocess(pixels) for pixels in pictures]
    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(alone, pool.map(preprocess, pictures), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(wrong: NDArray[Any]) -> None:
    with pytest.raises(EncodeError, match="height, width, 3"):
        preprocessor(config(), reference=False)(wrong)
