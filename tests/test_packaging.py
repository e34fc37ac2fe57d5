"""The wheel holds all that is needed, and works away from the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of a copy: setuptools leaves a build folder, whose stale files would get into the next wheel.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("mmsearch", "indexer"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "mmsearch/py.typed",
        "mmsearch/encode/models/tiny/open_clip_config.json",
        "mmsearch/encode/models/tiny/open_clip_model.safetensors",
        "mmsearch/encode/models/tiny/README.md",
        "mmsearch/store/migrations/env.py",
        "mmsearch/store/migrations/versions/0001_first.py",
        "mmsearch/serve/page/index.html",
        "indexer/cli.py",
    }
    assert wanted <= names
    page = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("mmsearch/serve/page/**/*.*")}
    assert page <= names
    assert not [name for name in names if name.startswith(("tests/", "data/"))]


def test_wheel_does_the_jobs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "PYTHONPATH": str(site),  # before the editable install of the checkout
        "MMSEARCH_LIBRARY": str(work / "library"),
    }

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error::ImportWarning", "-m", "mmsearch", *args],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import mmsearch, indexer; print(mmsearch.__file__, indexer.__file__)",
        ],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(name.startswith(str(site)) for name in where)
    subprocess.run(
        [sys.executable, "-m", "mmsearch.postcards", "pictures", "--n", "12"],
        cwd=work,
        env=environment,
        check=True,
        capture_output=True,
    )
    report = json.loads(run("index", "pictures", "--model", "tiny", "--json"))
    assert report["encoded_images"] == 12
    assert (
        len(json.loads(run("search", "a red balloon", "--all", "-k", "3", "--json"))["hits"]) == 3
    )
    assert len(json.loads(run("captions", "pictures/postcard-0000.jpg", "--json"))["hits"]) == 5


def test_lean_requirements_are_those_of_the_project() -> None:
    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[<>=;\[ ]", line)[0].lower() for line in lines}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lean = [
        line
        for line in (ROOT / "deploy/requirements-cpu.txt").read_text().splitlines()
        if line and not line.startswith(("#", "--"))
    ]
    assert names(lean) == names(project["dependencies"])
