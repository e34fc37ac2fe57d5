"""What tests of several packages share: an environment of their own, a model, a library."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from collection import Indexed, run, save_model
from hypothesis import settings

import mmsearch
from mmsearch.library import Library

# How long one example takes says nothing on a busy machine. The same examples each time: who
# changes something else must not be held up by what an unlucky draw finds. `make endurance` draws
# new ones.
settings.register_profile("mmsearch", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("mmsearch")

POSTCARDS = Path(__file__).parents[1] / "data" / "postcards"


@pytest.fixture(autouse=True, scope="session")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's settings and caches, here and in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("MMSEARCH_"):
                patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """A process that was started in the background ignores Ctrl-C, and so do all that it starts:
    tests that send it would wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of random weights, by its name."""
    import torch

    torch.set_num_threads(1)  # small products are slower with more
    return save_model(tmp_path_factory.mktemp("models") / "first")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another one, of another dimension."""
    return save_model(tmp_path_factory.mktemp("models") / "second", seed=1, dim=32)


@pytest.fixture(scope="session")
def postcards(tmp_path_factory: pytest.TempPathFactory, model: str) -> Indexed:
    """A library of some of the sample postcards and their captions. Not to be written to."""
    root = tmp_path_factory.mktemp("postcards")
    pictures = root / "pictures"
    pictures.mkdir()
    names = {f"postcard-{n:04}.jpg" for n in range(50)}
    for name in names:
        shutil.copy(POSTCARDS / name, pictures)
    lines = (POSTCARDS / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["image"] in names]
    (pictures / "captions.jsonl").write_text("\n".join(kept), encoding="utf-8")
    report = run(root / "library", pictures, model=model)
    assert (report.encoded_images, report.texts, report.linked) == (50, len(kept), len(kept))
    assert not report.warnings
    assert report.failed == 0
    return Indexed(root / "library", pictures)


@pytest.fixture(scope="session")
def postcard_library(postcards: Indexed) -> Iterator[Library]:
    with mmsearch.open(postcards.path, device="cpu") as opened:
        yield opened


@pytest.fixture
def gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: no CUDA device")
