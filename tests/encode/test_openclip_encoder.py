from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_models import MakeModel

from mmsearch.encode import load_encoder, load_text_encoder
from mmsearch.errors import EncodeError, ModelUnavailableError

KINDS = ("vit", "quick", "resnet", "cnn", "custom", "bidirectional")
TEXTS = [
    "a red kite over a beach",
    "",
    "two dogs &amp; a cat, 12 birds",
    "word " * 200,
    "海边的红色风筝",
    "🎈🎈",
    "a",
]


def noise(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def plain_open_clip(folder: Path) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer by open_clip's own ordinary way."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_open_clip(kind: str, make_model: MakeModel) -> None:
    import torch
    from PIL import Image

    folder = make_model(kind, preprocess={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]})
    model, transform, tokenizer = plain_open_clip(folder)
    pixels = [noise(1, side)[0].transpose(1, 2, 0).copy() for side in (40, 90, 130)]
    with torch.inference_mode():
        stack = torch.stack([transform(Image.fromarray(picture)) for picture in pixels])
        images = model.encode_image(stack, normalize=True).numpy()
        texts = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()

    encoder = load_encoder(f"local-dir:{folder}", device="cpu", dtype="fp32", reference=True)
    batch = np.stack([encoder.preprocess(picture) for picture in pixels])
    np.testing.assert_allclose(encoder.encode_images(batch), images, atol=2e-6)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), texts, atol=2e-6)

    fast = load_encoder(f"local-dir:{folder}", device="cpu", dtype="fp32")
    batch = np.stack([fast.preprocess(picture) for picture in pixels])
    assert ((fast.encode_images(batch) * images).sum(axis=1) > 0.999).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["fp16", "bf16"])
def test_half_precision_files_load(kind: str, stored: str, make_model: MakeModel) -> None:
    import torch

    folder = make_model(kind, dtype=stored)
    model, _, _ = plain_open_clip(folder)
    encoder = load_encoder(f"local-dir:{folder}", device="cpu", dtype="fp32")
    batch = noise(2, encoder.image_size)
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in (model.visual.preprocess_cfg["mean"], model.visual.preprocess_cfg["std"])
    )
    with torch.inference_mode():
        values = (torch.from_numpy(batch) / 255 - mean) / std
        expected = model.encode_image(values, normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_images(batch), expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_close_to_fp32(kind: str, make_model: MakeModel) -> None:
    name = f"local-dir:{make_model(kind)}"
    exact = load_encoder(name, device="cpu", dtype="fp32")
    half = load_encoder(name, device="cpu", dtype="bf16")
    assert (exact.dtype, half.dtype) == ("fp32", "bf16")
    assert exact.space == half.space
    batch = noise(8, exact.image_size)
    for one, other in (
        (exact.encode_images(batch), half.encode_images(batch)),
        (exact.encode_texts(TEXTS), half.encode_texts(TEXTS)),
    ):
        assert ((one * other).sum(axis=1) >= 0.999).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["auto", "fp32", "bf16"])
def test_what_comes_out_is_as_promised(kind: str, dtype: str, make_model: MakeModel) -> None:
    encoder = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype=dtype)
    assert encoder.device == "cpu"
    assert encoder.batch_size >= 1
    for vectors, count in (
        (encoder.encode_images(noise(3, encoder.image_size)), 3),
        (encoder.encode_images(noise(0, encoder.image_size)), 0),
        (encoder.encode_texts(TEXTS), len(TEXTS)),
        (encoder.encode_texts([]), 0),
    ):
        assert vectors.shape == (count, encoder.space.dim)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_finds_the_caption_that_was_indexed_with_the_same_words(
    kind: str, make_model: MakeModel
) -> None:
    """Queries are computed exactly where the text tower is at hand, captions in what is quick."""
    name = f"local-dir:{make_model(kind)}"
    queries = load_text_encoder(name).encode_texts(TEXTS)
    captions = load_encoder(name, device="cpu", dtype="bf16").encode_texts(TEXTS)
    scores = queries @ captions.T
    assert (scores.diagonal() >= 0.999).all()
    assert (scores.argmax(axis=1) == np.arange(len(TEXTS))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_company_do_not_matter(kind: str, make_model: MakeModel) -> None:
    encoder = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype="fp32")
    texts = [f"{'very ' * (n % 9)}small dog number {n}" for n in range(150)]
    together = encoder.encode_texts(texts)
    for n in (0, 7, 64, 149):
        np.testing.assert_allclose(encoder.encode_texts([texts[n]])[0], together[n], atol=2e-6)
    batch = noise(5, encoder.image_size)
    alone = np.concatenate([encoder.encode_images(one[None]) for one in batch])
    np.testing.assert_allclose(encoder.encode_images(batch), alone, atol=2e-6)


def test_built_without_memory_and_created_the_ordinary_way_agree(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mmsearch.encode import construct

    for kind in KINDS:
        name = f"local-dir:{make_model(kind)}"
        with caplog.at_level(logging.INFO, logger="mmsearch.encode"):
            caplog.clear()
            direct = load_encoder(name, device="cpu", dtype="fp32")
            assert "ordinary" not in caplog.text
            with monkeypatch.context() as patch:
                patch.setattr(construct, "_assign", _refuse)
                ordinary = load_encoder(name, device="cpu", dtype="fp32")
            assert "ordinary" in caplog.text
        batch = noise(2, direct.image_size)
        np.testing.assert_array_equal(direct.encode_images(batch), ordinary.encode_images(batch))
        np.testing.assert_array_equal(direct.encode_texts(TEXTS), ordinary.encode_texts(TEXTS))


def _refuse(*_: object) -> None:
    raise NotImplementedError("as some towers do")


def test_a_checkpoint_file_for_an_architecture(make_model: MakeModel, tmp_path: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import load_file

    folder = make_model("vit")
    cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Small-Test.json").write_text(json.dumps(cfg))
    open_clip.add_model_config(tmp_path / "Small-Test.json")
    weights = folder / "open_clip_model.safetensors"
    pickled = tmp_path / "epoch_1.pt"
    # As open_clip's training saves it from several GPUs.
    state = {f"module.{name}": value for name, value in load_file(weights).items()}
    torch.save({"epoch": 1, "state_dict": state}, pickled)

    from_folder = load_encoder(f"local-dir:{folder}", device="cpu", dtype="fp32")
    from_file = load_encoder(f"Small-Test:{weights}", device="cpu", dtype="fp32")
    from_pickle = load_encoder(f"Small-Test:{pickled}", device="cpu", dtype="fp32")
    assert from_file.space.fingerprint == from_folder.space.fingerprint
    assert from_file.space.name == f"Small-Test:{weights}"
    assert from_pickle.space.fingerprint != from_folder.space.fingerprint
    expected = from_folder.encode_texts(TEXTS)
    np.testing.assert_array_equal(from_file.encode_texts(TEXTS), expected)
    np.testing.assert_array_equal(from_pickle.encode_texts(TEXTS), expected)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("/tmp/mmsearch-evil"), "ran")


def test_a_pickle_is_never_executed(make_model: MakeModel, tmp_path: Path) -> None:
    import torch

    shutil.copy(make_model("vit") / "open_clip_config.json", tmp_path)
    torch.save({"state_dict": {"x": _Evil()}}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelUnavailableError, match="could not be loaded"):
        load_encoder(f"local-dir:{tmp_path}", device="cpu")
    assert not Path("/tmp/mmsearch-evil").exists()


def test_weights_of_another_architecture_or_cut_short_are_refused(
    make_model: MakeModel, tmp_path: Path
) -> None:
    shutil.copy(make_model("vit") / "open_clip_config.json", tmp_path)
    target = tmp_path / "open_clip_model.safetensors"
    for content in (
        (make_model("cnn") / target.name).read_bytes(),
        (make_model("vit") / target.name).read_bytes()[:-100],
        b"",
    ):
        target.write_bytes(content)
        with pytest.raises(ModelUnavailableError, match="could not be loaded"):
            load_encoder(f"local-dir:{tmp_path}", device="cpu")


def test_folders_that_are_no_models(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="there is no folder"):
        load_encoder(f"local-dir:{tmp_path / 'missing'}")
    with pytest.raises(ModelUnavailableError, match="not a readable open_clip configuration"):
        load_encoder(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{broken")
    with pytest.raises(ModelUnavailableError, match="not a readable open_clip configuration"):
        load_encoder(f"local-dir:{tmp_path}")
    shutil.copy(make_model("vit") / "open_clip_config.json", tmp_path)
    with pytest.raises(ModelUnavailableError, match="a model without weights is refused"):
        load_encoder(f"local-dir:{tmp_path}")
    with pytest.raises(ModelUnavailableError, match="has no weights nonsense for ViT-B-32"):
        load_encoder("ViT-B-32/nonsense")
    with pytest.raises(ModelUnavailableError, match="there is no file"):
        load_encoder(f"ViT-B-32:{tmp_path / 'none.pt'}")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("model_cfg", "embed_dim", None),
        ("model_cfg", "embed_dim", "wide"),
        ("model_cfg", "text_cfg", None),
        ("model_cfg", "text_cfg", []),
        ("preprocess_cfg", "mean", [0.5, 0.5]),
        ("preprocess_cfg", "fill_color", [1, 2, 3]),
        ("preprocess_cfg", "resize_mode", "stretch"),
    ],
)
def test_a_configuration_that_lacks_something_is_told_so(
    part: str, key: str, value: object, make_model: MakeModel, tmp_path: Path
) -> None:
    shutil.copytree(make_model("vit"), tmp_path / "model")
    file = tmp_path / "model" / "open_clip_config.json"
    config = json.loads(file.read_text())
    config[part][key] = value
    if value is None:
        del config[part][key]
    file.write_text(json.dumps(config))
    for load in (load_encoder, load_text_encoder):
        with pytest.raises(ModelUnavailableError, match="not a readable open_clip configuration"):
            load(f"local-dir:{file.parent}")


def test_a_configuration_that_builds_nothing_is_told_so(
    make_model: MakeModel, tmp_path: Path
) -> None:
    shutil.copytree(make_model("vit"), tmp_path / "model")
    file = tmp_path / "model" / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["heads"] = 5  # of 64 dimensions
    file.write_text(json.dumps(config))
    with pytest.raises(ModelUnavailableError, match="could not be loaded"):
        load_encoder(f"local-dir:{file.parent}")


def test_devices_and_dtypes_that_cannot_be_had(make_model: MakeModel) -> None:
    import torch

    name = f"local-dir:{make_model('vit')}"
    with pytest.raises(EncodeError, match="no kind of device"):
        load_encoder(name, device="abacus")
    with pytest.raises(EncodeError, match="CUDA devices here"):
        load_encoder(name, device="cuda:77")
    with pytest.raises(EncodeError, match="no dtype"):
        load_encoder(name, dtype="int4")
    if not torch.cuda.is_available():
        with pytest.raises(EncodeError, match="sees 0 CUDA devices"):
            load_encoder(name, device="cuda")


def test_arrays_of_another_shape_are_refused(make_model: MakeModel) -> None:
    encoder = load_encoder(f"local-dir:{make_model('vit')}", device="cpu")
    for wrong in (noise(1, 31), noise(1, 32)[0], noise(1, 32).astype(np.float32)):
        with pytest.raises(EncodeError, match="a batch must be"):
            encoder.encode_images(wrong)  # type: ignore[arg-type]


def test_out_of_memory_halves_the_batch_and_goes_on(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    encoder: Any = load_encoder(f"local-dir:{make_model('vit')}", device="cpu", dtype="fp32")
    batch = noise(11, encoder.image_size)
    expected = encoder.encode_images(batch)
    sizes: list[int] = []
    inner = encoder._model.encode_image

    def small_device(values: Any) -> Any:
        sizes.append(len(values))
        if len(values) > 3:
            raise torch.OutOfMemoryError("as a small GPU would")
        return inner(values)

    monkeypatch.setattr(encoder._model, "encode_image", small_device)
    np.testing.assert_allclose(encoder.encode_images(batch), expected, atol=2e-6)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    assert encoder.batch_size == 2

    def no_device(_: Any) -> Any:
        raise torch.OutOfMemoryError("nothing fits")

    monkeypatch.setattr(encoder._model, "encode_image", no_device)
    with pytest.raises(EncodeError, match="too little memory for one input"):
        encoder.encode_images(batch)


def test_texts_that_memory_does_not_hold_together_are_encoded_in_parts(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for kind, inner_name in (("vit", "_cut_text_features"), ("bidirectional", "_text_features")):
        name = f"local-dir:{make_model(kind)}"
        encoder: Any = load_encoder(name, device="cpu", dtype="fp32")
        texts = [f"{'very ' * (n % 12)}small dog number {n}" for n in range(100)]
        expected = encoder.encode_texts(texts)
        inner = getattr(encoder, inner_name)
        shapes: list[tuple[int, int]] = []

        def small_device(tokens: Any, inner: Any = inner, shapes: Any = shapes) -> Any:
            shapes.append(tuple(tokens.shape))
            if tokens.numel() > 150:
                raise torch.OutOfMemoryError("as a small GPU would")
            return inner(tokens)

        monkeypatch.setattr(encoder, inner_name, small_device)
        np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=2e-6)
        fitted = [shape for shape in shapes if shape[0] * shape[1] <= 150]
        assert sum(n for n, _ in fitted) == len(texts)
        assert len(shapes) - len(fitted) <= 7  # found out once, not by each batch
        monkeypatch.setattr(encoder, inner_name, lambda _: small_device(torch.zeros(9999)))
        with pytest.raises(EncodeError, match="too little memory"):
            encoder.encode_texts(["a"])


def test_the_batch_grows_by_what_batches_take(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock in which the model needs a second a batch, whatever its size, up to 32."""
    now = 0.0
    monkeypatch.setattr("mmsearch.encode.openclip.perf_counter", lambda: now)
    encoder: Any = load_encoder(f"local-dir:{make_model('resnet')}", device="cpu")
    inner = encoder._model.encode_image

    def one_second(values: Any) -> Any:
        nonlocal now
        now += max(1.0, len(values) / 32)
        return inner(values)

    monkeypatch.setattr(encoder._model, "encode_image", one_second)
    sizes = []
    for _ in range(20):
        sizes.append(encoder.batch_size)
        encoder.encode_images(noise(sizes[-1], encoder.image_size))
    assert sizes == [16] * 3 + [32] * 3 + [64] * 3 + [32] * 11


@pytest.mark.parametrize(
    ("tokens", "cores", "size"),
    [(64, 1, 32), (64, 2, 32), (64, 8, 128), (17 * 16, 2, 8), (17, 2, 64), (17, 8, 256),
     (10**6, 2, 1)],
)  # fmt: skip
def test_the_first_batch_is_as_many_as_a_cpu_needs(
    tokens: int, cores: int, size: int, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture has 17 tokens here: 1,024 would be as `tokens` to all that each core wants."""
    monkeypatch.setattr("mmsearch.encode.openclip._PICTURE_TOKENS", 1024 * 17 / tokens)
    monkeypatch.setattr("mmsearch.encode.streams.count", lambda: cores)
    assert load_encoder(f"local-dir:{make_model('vit')}", device="cpu").batch_size == size
    assert load_encoder(f"local-dir:{make_model('cnn')}", device="cpu").batch_size == 16


@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_batches_one_after_the_other_are_those_of_one_call(
    kind: str, make_model: MakeModel
) -> None:
    encoder = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype="fp32")
    batches = [noise(n, encoder.image_size, seed=n) for n in (5, 1, 0, 3)]
    found = list(encoder.encode_batches(iter(batches)))
    assert [len(vectors) for vectors in found] == [5, 1, 0, 3]
    for vectors, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(vectors, encoder.encode_images(batch), atol=2e-6)
    assert list(encoder.encode_batches(())) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_vector_without_direction_is_an_error(
    value: float, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    encoder: Any = load_encoder(f"local-dir:{make_model('vit')}", device="cpu")
    answer = torch.ones(2, encoder.space.dim)
    answer[1] = value
    monkeypatch.setattr(encoder._model, "encode_image", lambda _: answer)
    with pytest.raises(EncodeError, match="not finite or is zero"):
        encoder.encode_images(noise(2, encoder.image_size))


@pytest.mark.gpu
def test_on_a_gpu(make_model: MakeModel) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for kind in KINDS:
        name = f"local-dir:{make_model(kind)}"
        cpu = load_encoder(name, device="cpu", dtype="fp32")
        batch = noise(8, cpu.image_size)
        for dtype, least in (("fp32", 0.999999), ("auto", 0.999), ("bf16", 0.999)):
            gpu = load_encoder(name, device="cuda", dtype=dtype)
            assert gpu.device.startswith("cuda:0 (")
            assert gpu.space == cpu.space
            for one, other in (
                (gpu.encode_images(batch), cpu.encode_images(batch)),
                (gpu.encode_texts(TEXTS), cpu.encode_texts(TEXTS)),
            ):
                assert ((one * other).sum(axis=1) >= least).all()
