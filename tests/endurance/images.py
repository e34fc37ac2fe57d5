"""The images' install, entry and health commands, run in a clean venv without a container engine.

    python tests/endurance/images.py [--image cpu|cuda] [--work DIR] [--plain-torch] [--out FILE]

Reads deploy/Dockerfile.IMAGE. Copies what .dockerignore lets through and COPY names; runs each RUN
of the build stage with /src, /opt/mmsearch and /dist moved into DIR; then, with the environment of
the last stage and nothing else, makes a library of the sample postcards, a key, and serves it by
ENTRYPOINT and CMD, asks by HEALTHCHECK, with and without the key, and stops it. Takes minutes and
some gigabytes. What it cannot tell: whether the base image, users, volumes and layers do.

--plain-torch: without PyTorch's own index, for where it cannot be reached: the CPU image's torch
comes from the usual one then, with the CUDA libraries it asks for.

    python tests/endurance/images.py --lock

writes deploy/lock-*.txt anew, with the versions of this environment. Run the tests first.
"""

# ruff: noqa: T201 -- a command

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "deploy"))

from dockerfile import Stage, read, sent  # noqa: E402

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
ONLY_CUDA = re.compile(r"nvidia-|cuda-|triton$")
HEAD = """\
# Every package of the {image} image, at the version that the tests ran with, for Linux and Python
# 3.11. Installed with --no-deps, so nothing comes along unseen.
# Written by: python tests/endurance/images.py --lock
"""
CPU_HEAD = f"""\
# PyTorch's own index marks its wheels +cpu: where it does not answer, the build fails rather than
# fetch 5 GB of CUDA.
--extra-index-url {TORCH_INDEX}
"""


def installed() -> dict[str, str]:
    """What mmsearch asks for here, and what that asks for, by name."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}

    def follow(name: str, extras: tuple[str, ...]) -> None:
        known = canonicalize_name(name), extras
        if known in found:
            return
        distribution = importlib.metadata.distribution(name)
        found[known] = distribution.version
        for text in distribution.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            ):
                follow(needed.name, tuple(sorted(needed.extras)))

    follow("mmsearch", ())
    return {name: version for (name, _), version in sorted(found.items()) if name != "mmsearch"}


def lock() -> None:
    """Writes both lock files."""
    cuda = installed()
    cpu = {name: version for name, version in cuda.items() if not ONLY_CUDA.match(name)}
    for name in ("torch", "torchvision"):
        cpu[name] += "+cpu"
    for image, head, wanted in (("cpu", CPU_HEAD, cpu), ("cuda", "", cuda)):
        lines = [f"{name}=={version}\n" for name, version in sorted(wanted.items())]
        text = HEAD.format(image=image.upper()) + head + "".join(lines)
        (ROOT / "deploy" / f"lock-{image}.txt").write_text(text)
        print(f"deploy/lock-{image}.txt: {len(wanted)} packages")


def context(work: Path) -> Path:
    """What the builder would be sent."""
    rules = (ROOT / ".dockerignore").read_text()
    tops = [line[1:] for line in rules.splitlines() if line.startswith("!")]
    folder = work / "context"
    for top in tops:
        for file in [ROOT / top, *(ROOT / top).rglob("*")]:
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and sent(rules, name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / name)
    return folder


def build(stage: Stage, work: Path, *, plain_torch: bool) -> Iterator[tuple[str, float]]:
    """Runs a build stage; each RUN and its seconds. Raises CalledProcessError."""
    source = context(work)
    moved = {"/src": work / "src", "/opt/mmsearch": work / "venv", "/dist": work / "dist"}
    (work / "src").mkdir()
    # As in the image, `python` is the bare one until the venv is in the PATH.
    bare = Path(sys.base_prefix) / "bin"
    environment = {"PATH": f"{bare}:/usr/bin:/bin", "HOME": str(work), **passed_on()}

    def here(text: str) -> str:
        for inside, outside in moved.items():
            text = re.sub(rf"(?<![\w./]){inside}(?![\w-])", str(outside), text)
        return text

    for one in stage.instructions:
        if one.name == "ENV":
            for word in one.words():
                name, value = word.split("=", 1)
                environment[name] = here(value).replace("$PATH", environment["PATH"])
        elif one.name == "COPY":
            *sources, target = one.words()
            for name in sources:
                to = work / "src" / target
                if (source / name).is_dir():
                    shutil.copytree(source / name, to, dirs_exist_ok=True)
                else:
                    into = target == "." or target.endswith("/")
                    to = to / Path(name).name if into else to
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source / name, to)
                    if plain_torch and name.endswith("lock-cpu.txt"):
                        to.write_text(without_cpu_index(to.read_text()))
        elif one.name == "RUN":
            began = time.perf_counter()
            run = ["/bin/sh", "-c", here(one.rest)]
            subprocess.run(run, cwd=work / "src", env=environment, check=True)
            yield one.rest, time.perf_counter() - began


def passed_on() -> dict[str, str]:
    """How packages are reached from this machine, and nothing else of its environment."""
    names = re.compile(r"(?i)PIP_|SSL_|REQUESTS_|(https?|no)_proxy$")
    return {name: value for name, value in os.environ.items() if names.match(name)}


def without_cpu_index(text: str) -> str:
    """A lock file whose torch comes from the usual index, with the libraries that it wants."""
    text = text.replace(f"--extra-index-url {TORCH_INDEX}\n", "").replace("+cpu\n", "\n")
    cuda = (ROOT / "deploy" / "lock-cuda.txt").read_text().splitlines()
    more = [x for x in cuda if ONLY_CUDA.match(x.split("==")[0])]
    return text + "\n".join(more) + "\n"


def answer(url: str, key: str | None = None) -> int:
    """The status that a GET has for an answer; 0 for none."""
    request = urllib.request.Request(url)
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def serve(stage: Stage, work: Path, port: int) -> Iterator[tuple[str, bool]]:
    """Uses what was built as the image would; what was tried, and whether it went as it should."""
    environment = stage.environment | {
        "PATH": f"{work / 'venv' / 'bin'}:/usr/bin:/bin",
        "HOME": str(work / "cache"),
        "XDG_CACHE_HOME": str(work / "cache"),
        "HF_HOME": str(work / "cache" / "huggingface"),
        "MMSEARCH_LIBRARY": str(work / "library"),
        "MMSEARCH_PORT": str(port),
    }
    entry, arguments = stage.last("ENTRYPOINT").words(), stage.last("CMD").words()
    health = stage.last("HEALTHCHECK").words()
    url = f"http://127.0.0.1:{port}"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True)

    yield "serve without a library is refused", run(*entry, *arguments).returncode == 1
    pictures = ROOT / "data" / "postcards"
    made = run(*entry, "index", str(pictures), "--model", "tiny", "--progress", "none")
    yield "index", made.returncode == 0
    yield "serve without a key is refused", run(*entry, *arguments).returncode == 1
    key = run(*entry, "keys", "add", "check").stdout.strip()
    yield "keys add", key.startswith("mms_")
    yield "unhealthy before the start", run(*health).returncode != 0
    with subprocess.Popen([*entry, *arguments], env=environment, cwd="/") as service:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and answer(f"{url}/readyz", key) != 200:
            time.sleep(0.2)
        yield "ready", answer(f"{url}/readyz", key) == 200
        yield "healthy", run(*health).returncode == 0
        yield "search needs the key", answer(f"{url}/v1/search?q=red+kite") == 401
        yield "search", answer(f"{url}/v1/search?q=red+kite", key) == 200
        yield "the page", answer(url, key) == 200
        yield "metrics", answer(f"{url}/metrics", key) == 200
        service.send_signal(signal.SIGTERM)
        yield "SIGTERM ends it with 0", service.wait(60) == 0


def package_data(work: Path) -> list[str]:
    """Files of the two packages that the wheel lacks."""
    wheel = next((work / "dist").glob("*.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [file for top in ("mmsearch", "indexer") for file in (ROOT / top).rglob("*")]
    names = [f.relative_to(ROOT).as_posix() for f in files if f.is_file()]
    return [name for name in names if "__pycache__" not in name and name not in held]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--work", type=Path, help="an empty folder; kept")
    parser.add_argument("--plain-torch", action="store_true")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.lock:
        lock()
        return 0
    kept = asked.work or Path(tempfile.mkdtemp(prefix="mmsearch-image-"))
    kept.mkdir(parents=True, exist_ok=True)
    first, last = read(ROOT / "deploy" / f"Dockerfile.{asked.image}")
    steps, checks = [], []
    for command, seconds in build(first, kept, plain_torch=asked.plain_torch):
        steps.append({"run": command, "seconds": round(seconds, 1)})
        print(f"{seconds:7.1f} s  {command}", flush=True)
    lacking = package_data(kept)
    checks.append(("all files of the packages are in the wheel", not lacking))
    checks += serve(last, kept, asked.port)
    for what, well in checks:
        print(f"{'ok' if well else 'FAILED':>9}  {what}")
    used = subprocess.run(["du", "-sm", kept / "venv"], capture_output=True, text=True, check=True)
    megabytes = int(used.stdout.split()[0])
    print(f"{megabytes:,} MB in the venv; {kept}", *lacking, sep="\n")
    if asked.out is not None:
        report = {"image": asked.image, "plain_torch": asked.plain_torch, "steps": steps}
        report |= {"checks": dict(checks), "lacking": lacking, "megabytes": megabytes}
        asked.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(well for _, well in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
