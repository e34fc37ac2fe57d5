"""Every command of the README is run, in its order, by a newcomer with a fresh home folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmsearch.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

#: Not run here: what they need (a network, half an hour, this very test) is not a test's to use.
NOT_RUN = (
    "git clone",
    "pip install",
    "make test",
    "make demo",
    "make tiny-model",
    "rm -rf",
    "docker",
)


def commands() -> list[str]:
    """The lines after "$ " of the console blocks, continued lines joined."""
    found = []
    for language, text in BLOCKS:
        if language == "console":
            joined = text.replace("\\\n", " ")
            found += [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]
    return found


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], int]:
    """A home folder with photos in it, the environment of a shell there, and a free port."""
    home = tmp_path_factory.mktemp("home")
    photos = home / "Photos"
    photos.mkdir()
    for picture in sorted((ROOT / "data/postcards").glob("*.jpg"))[:24]:
        shutil.copy(picture, photos)
    shutil.copy(ROOT / "data/postcards/captions.jsonl", home / "captions.jsonl")
    shutil.copy(photos / "postcard-0003.jpg", home / "photo.jpg")
    (home / "kites").mkdir()
    (home / "labels.txt").write_text("a lighthouse\na kite\na windmill\n", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "MMSEARCH_MODEL": "tiny",  # the default model is a download
        "MMSEARCH_PORT": str(port),
    }
    return home, environment, port


@pytest.fixture(scope="module")
def server(
    newcomer: tuple[Path, dict[str, str], int],
) -> Iterator[list[subprocess.Popen[str]]]:
    """Servers that the README starts; stopped at the end."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.terminate()
        process.communicate(timeout=30)


def test_the_readme_has_commands() -> None:
    assert len(commands()) > 10
    for name in COMMANDS:
        assert any(f"mmsearch {name}" in c for c in commands()) or f"`mmsearch {name}`" in README


@pytest.mark.parametrize("command", commands())
def test_command(
    command: str,
    newcomer: tuple[Path, dict[str, str], int],
    server: list[subprocess.Popen[str]],
) -> None:
    if command.startswith(NOT_RUN):
        pytest.skip(f"not here: {command.split('#')[0]}")
    home, environment, port = newcomer
    command = command.replace(":8080", f":{port}")
    if command.startswith("mmsearch serve"):
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        server.append(process)
        assert process.stdout is not None
        assert "mmsearch is at http://127.0.0.1:" in process.stdout.readline()
        return
    if command.startswith("curl") and shutil.which("curl") is None:
        pytest.skip("no curl here")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    if "xargs" in command:
        assert any((home / "kites").iterdir())
    else:
        assert done.stdout or "Nothing" in done.stderr or "No " in done.stderr


@pytest.mark.parametrize("code", [text for language, text in BLOCKS if language == "python"])
def test_python(code: str, newcomer: tuple[Path, dict[str, str], int]) -> None:
    home, environment, _ = newcomer
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_make_demo_gives_right_answers(tmp_path: Path) -> None:
    if not (ROOT / ".venv/.installed").exists():
        pytest.skip("no .venv made by the Makefile: `make demo` would install everything")
    done = subprocess.run(
        ["make", "-C", str(ROOT), "demo", f"DEMO={tmp_path / 'library'}"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:8080" in done.stdout
    lines = (ROOT / "data/postcards/attributes.jsonl").read_text(encoding="utf-8").splitlines()
    scenes = {scene["image"]: scene for scene in map(json.loads, lines)}
    found = re.findall(r"postcard-\d{4}\.jpg", done.stdout.partition("rainbow over a city")[2])
    assert len(found) == 4  # three answers, and the picture that the captions are for
    for name in found[:3]:
        assert (scenes[name]["sky"], scenes[name]["land"]) == ("rainbow", "city")
    # What is said of the picture with two orange kites and four balloons names one of them.
    captions = [line for line in done.stdout.splitlines() if re.match(r" +0\.\d\d +0\.", line)]
    kinds = {"气球", "balloon", "纸鸢", "风筝", "kite", "windmill", "mill", "风车"}
    assert len(captions) == 4
    assert all(any(kind in caption for kind in kinds) for caption in captions)


def test_deleting_it_all(newcomer: tuple[Path, dict[str, str], int]) -> None:
    home, environment, _ = newcomer
    command = next(c for c in commands() if c.startswith("rm -rf"))
    assert set(command.split()[2:]) == {"~/.local/share/mmsearch", "~/.cache/mmsearch"}
    subprocess.run(["bash", "-c", command], cwd=home, env=environment, check=True)
    left = {str(path.relative_to(home)) for path in home.rglob("*") if "mmsearch" in path.name}
    # What was exported is the newcomer's own.
    assert left == {"embeddings/mmsearch.json"}
    assert (home / "Photos").is_dir()
