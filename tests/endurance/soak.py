"""A service under mixed load for a while: no request may fail, and memory must not grow.

Clients in this process ask by words (many of them new, some asked before), upload pictures, ask for
captions, thumbnails and originals, and hang up now and then; one more uploads a picture to be kept,
looks for it, deletes it and sees it gone, while another follows the indexing. Meanwhile a process
of its own writes: it adds pictures, changes and deletes some, and moves the library to another
model half way. All that is answered with anything but what the request deserves counts as failed; a
503 that names the limit is counted by itself, as is a 404 or 410 of a picture that the writer has
just deleted.

    python tests/endurance/soak.py [--minutes 30] [--clients 8] [--workers 1] [--out FILE]

Memory is that of the service's process and its workers, read every second. After the warm-up (a
fifth of the time) a straight line is laid through it: what it grows in an hour, and the median of
the last tenth against that of the first tenth after the warm-up. Exit code 1 when a request failed,
or that has grown by more than a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from collection import encoded, run, save_model, write, write_captions  # noqa: E402

from mmsearch.serve.keys import Keys, keys_path  # noqa: E402

#: How much memory may have grown from after the warm-up to the end.
GROWTH = 0.10
_FIRST = 200
_PAUSE_S = 2.0
_BETWEEN_CHANGES_S = 20.0
#: Cosine of a picture with itself, through vectors of half precision.
_SAME = 0.99
_WARM_UP = 0.2
_WORDS = ("waves", "colours", "a sea of red", "green at night", "two lines", "the blue one", "calm")

_SERVE = """
import sys
import torch
import mmsearch
from mmsearch.serve import run
from mmsearch.serve.logs import configure
from mmsearch.settings import Settings

torch.set_num_threads(1)
configure("json", sys.stderr)
with mmsearch.open(sys.argv[1], device="cpu") as library:
    run(library, Settings(), port=0, on_ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


# --- the writer -----------------------------------------------------------------------------------


def writer(library: Path, folder: Path, other: str, seconds: float) -> None:
    """Adds, changes and deletes until the time is over; half way the model is changed."""
    import torch

    from indexer.ingest import Options, index
    from indexer.models import Models
    from mmsearch.errors import LibraryLockedError

    torch.set_num_threads(1)
    rng = random.Random(7)
    models = Models()
    began = time.monotonic()
    model: str | None = None
    done: Counter[str] = Counter()
    number = _FIRST
    while (spent := time.monotonic() - began) < seconds:
        if model is None and spent > seconds / 2:
            model = other
            done["switches"] += 1
        there = sorted(folder.glob("*/*.png"))
        for path in rng.sample(there, min(10, max(0, len(there) - _FIRST))):
            path.unlink()
            done["deleted"] += 1
        for path in rng.sample(there, 3):
            if path.exists():
                write(path, encoded(rng.randrange(1 << 30)))
                done["changed"] += 1
        for _ in range(12):
            name = folder / f"{number // 100:04}" / f"{number:06}.png"
            write(name, encoded(number))
            write(name.with_suffix(".txt"), f"picture {number} of waves".encode())
            number += 1
            done["added"] += 1
        report = None
        while report is None:
            try:
                report = index(
                    library, [folder], options=Options(model=model, device="cpu", dtype="fp32"),
                    models=models,
                )  # fmt: skip
            except LibraryLockedError:  # what came over HTTP is being read
                time.sleep(_PAUSE_S)
        assert not report.stopped
        done["runs"] += 1
        time.sleep(_PAUSE_S)
    sys.stdout.write(json.dumps(done))


# --- the clients ----------------------------------------------------------------------------------


class Load:
    """Threads that ask, what they were answered, and what they should not have been."""

    def __init__(self, url: str, clients: int, key: str) -> None:
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": {"Authorization": f"Bearer {key}"},
        }
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.models: set[str] = set()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]
        self._threads += [threading.Thread(target=work) for work in (self._change, self._follow)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int) -> None:
        rng = random.Random(seed)
        kinds = (self._text, self._upload, self._captions, self._look, self._similar, self._leave)
        weights = (10, 2, 1, 6, 2, 1)
        with httpx.Client(**self._options, timeout=60) as client:
            while not self._end.is_set():
                kind = rng.choices(kinds, weights)[0]
                try:
                    kind(client, rng)
                except (httpx.HTTPError, LookupError, ValueError) as exc:
                    self._failed(f"{kind.__name__}: {exc!r}")
                time.sleep(rng.random() * 0.05)

    def _check(
        self, what: str, answer: httpx.Response, *, wanted: int = 200, may_be_gone: bool = False
    ) -> bool:
        status = answer.status_code
        with self._lock:
            self.answered[f"{what} {status}"] += 1
        if status == 503 and "retry-after" in answer.headers and "overloaded" in answer.text:
            return False
        if may_be_gone and status in (404, 410):
            return False
        if status != wanted:
            self._failed(f"{what}: {status} {answer.text[:300]}")
            return False
        return True

    def _failed(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)

    def _text(self, client: httpx.Client, rng: random.Random) -> list[dict[str, Any]]:
        text = rng.choice(_WORDS)
        if rng.random() < 0.7:
            text = f"{text} {rng.randrange(1 << 30)}"
        where = "/v1/texts/search" if rng.random() < 0.3 else "/v1/search"
        answer = client.get(where, params={"q": text, "k": rng.choice((5, 20, 50))})
        if not self._check("text", answer):
            return []
        body = answer.json()
        with self._lock:
            self.models.add(body["model"])
        if not body["hits"] and not body["cut"]:
            self._failed(f"text: nothing found for {text!r}: {body}")
        return list(body["hits"]) if where == "/v1/search" else []

    def _picture(self, rng: random.Random) -> dict[str, bytes]:
        return {"file": encoded(rng.randrange(1 << 30) if rng.random() < 0.7 else rng.randrange(9))}

    def _upload(self, client: httpx.Client, rng: random.Random) -> None:
        self._check("upload", client.post("/v1/search/image", files=self._picture(rng)))

    def _captions(self, client: httpx.Client, rng: random.Random) -> None:
        self._check("captions", client.post("/v1/captions", files=self._picture(rng)))

    def _look(self, client: httpx.Client, rng: random.Random) -> None:
        for hit in self._text(client, rng)[:3]:
            for kind in ("thumbnail", "file"):
                answer = client.get(hit["urls"][kind])
                self._check(kind, answer, may_be_gone=True)

    def _similar(self, client: httpx.Client, rng: random.Random) -> None:
        for hit in self._text(client, rng)[:1]:
            self._check("similar", client.get(hit["urls"]["similar"]), may_be_gone=True)

    def _leave(self, client: httpx.Client, rng: random.Random) -> None:
        """Asks, and does not wait for the answer."""
        try:
            client.get("/v1/search", params={"q": f"gone {rng.random()}"}, timeout=0.001)
        except httpx.TimeoutException:
            with self._lock:
                self.answered["hung up"] += 1

    def _change(self) -> None:
        """Keeps a picture, finds it, deletes it, and looks whether it is gone; again and again."""
        rng = random.Random(-1)
        with httpx.Client(**self._options, timeout=120) as client:
            while not self._end.wait(_BETWEEN_CHANGES_S):
                try:
                    self._keep_and_delete(client, {"file": encoded(rng.randrange(1 << 30))})
                except (httpx.HTTPError, LookupError, ValueError) as exc:
                    self._failed(f"a change: {exc!r}")

    def _keep_and_delete(self, client: httpx.Client, picture: dict[str, bytes]) -> None:
        answer = client.post("/v1/images", files=picture, data={"text": "kept"})
        if not self._check("keep", answer, wanted=202) or not self._is_over(client):
            return
        answer = client.post("/v1/search/image", files=picture, data={"k": 5})
        if not self._check("find", answer):
            return
        hits = answer.json()["hits"]
        if not hits or hits[0]["score"] < _SAME:
            self._failed(f"what was kept is not found: {hits[:1]}")
            return
        place = f"/v1/images/{hits[0]['id']}"
        if self._check("delete", client.delete(place), wanted=202) and self._is_over(client):
            self._check("deleted", client.get(place), wanted=404)

    def _is_over(self, client: httpx.Client) -> bool:
        """Waits until nothing is being read any more. False: the load ends, or it failed."""
        while not self._end.wait(0.5):
            now = client.get("/v1/index").json()
            if now["running"] is None and not now["queued"]:
                if now["last"]["state"] != "done":
                    self._failed(f"a run: {now['last']}")
                return bool(now["last"]["state"] == "done")
        return False

    def _follow(self) -> None:
        """Reads the events of the indexing until the end."""
        with (
            httpx.Client(**self._options, timeout=60) as client,
            client.stream("GET", "/v1/index/events") as events,
        ):
            for line in events.iter_lines():
                if line.startswith("event:"):
                    with self._lock:
                        self.answered["events"] += 1
                if self._end.is_set():
                    return

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(120)


# --- the run --------------------------------------------------------------------------------------


def workers_of(pid: int) -> list[int]:
    """Its worker processes; not the runs that index."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (thread / "children").read_text().split()
    workers = []
    for one in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes():
                workers.append(int(one))
    return workers


def memory(pid: int) -> float:
    """The resident memory that is the process's own, MB: mapped files come and go."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def judged(times: list[float], sizes: list[float], seconds: float) -> dict[str, float]:
    """How memory went after the warm-up."""
    after = [i for i, at in enumerate(times) if at > _WARM_UP * seconds]
    part = max(1, len(after) // 8)
    begin = statistics.median(sizes[i] for i in after[:part])
    end = statistics.median(sizes[i] for i in after[-part:])
    slope = np.polyfit([times[i] for i in after], [sizes[i] for i in after], 1)[0]
    return {
        "first_mb": sizes[0],
        "after_warm_up_mb": begin,
        "end_mb": end,
        "growth": end / begin - 1,
        "slope_mb_per_hour": float(slope) * 3600,
    }


def prepare(root: Path) -> str:
    """A library of some pictures; the name of another model."""
    folder = root / "photos"
    for n in range(_FIRST):
        write(folder / f"{n // 100:04}" / f"{n:06}.png", encoded(n))
    pairs = [(f"{n // 100:04}/{n:06}.png", f"picture {n} of waves") for n in range(0, _FIRST, 2)]
    captions = write_captions(folder / "captions.jsonl", pairs)
    run(root / "library", folder, captions=[captions], model=save_model(root / "first"))
    return save_model(root / "second", seed=1, dim=32)


def soak(root: Path, seconds: float, clients: int, workers: int, log: Path) -> dict[str, Any]:
    """The whole of it, with its figures."""
    other = prepare(root)
    key = Keys(keys_path(root / "library", None)).add("soak", "write")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MMSEARCH_WORKERS": str(workers),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    start: Callable[..., subprocess.Popen[str]] = lambda *args, **more: subprocess.Popen(  # noqa: E731
        [sys.executable, *args], stdout=subprocess.PIPE, text=True, env=environment, **more
    )
    with (
        log.open("w") as lines,
        start("-c", _SERVE, str(root / "library"), stderr=lines) as service,
    ):
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        load = Load(url, clients, key)
        writing = start(
            __file__, "--write", str(root / "library"), str(root / "photos"), other, str(seconds)
        )
        times: list[float] = []
        sizes: list[float] = []
        began = time.monotonic()
        while (spent := time.monotonic() - began) < seconds and service.poll() is None:
            times.append(spent)
            sizes.append(sum(map(memory, [service.pid, *workers_of(service.pid)])))
            time.sleep(1)
        written, _ = writing.communicate(timeout=600)
        shown = {"Authorization": f"Bearer {key}"}
        metrics = httpx.get(f"{url}/metrics", headers=shown, timeout=60).text
        load.stop()
        service.terminate()
        ended = service.stdout.read().strip()
        service.wait(60)
    failed = list(load.wrong)
    if writing.returncode or ended != "ended" or service.returncode:
        failed.append(f"the writer: {writing.returncode}; the service: {service.returncode}")
    return {
        "minutes": seconds / 60,
        "clients": clients,
        "workers": workers,
        "answered": dict(sorted(load.answered.items())),
        "failed": failed,
        "models": sorted(load.models),
        "written": json.loads(written or "{}"),
        "memory": judged(times, sizes, seconds),
        "memory_mb": [round(size, 1) for size in sizes[:: max(1, len(sizes) // 200)]],
        "metrics": {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("mmsearch_encode_") and "_bucket" not in line
        },
        "log_errors": sum('"level": "error"' in line for line in log.open()),
    }


def main() -> int:
    if sys.argv[1:2] == ["--write"]:
        library, folder, other, seconds = sys.argv[2:]
        writer(Path(library), Path(folder), other, float(seconds))
        return 0
    parser = argparse.ArgumentParser(description="A service under load for a while")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="as of mmsearch serve")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    parser.add_argument("--log", type=Path, help="keep the service's log lines here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        log = options.log or root / "service.log"
        found = soak(root, options.minutes * 60, options.clients, options.workers, log)
    about = found["memory"]
    say = sys.stdout.write
    say(f"{found['minutes']:g} minutes, {found['clients']} clients, {found['workers']} worker(s)\n")
    for what, number in found["answered"].items():
        say(f"  {what:20} {number:>8,}\n")
    say(f"  written meanwhile: {found['written']}\n")
    say(f"  models that answered: {len(found['models'])}; errors logged: {found['log_errors']}\n")
    say(f"  failed requests: {len(found['failed'])}\n")
    for line in found["failed"][:10]:
        say(f"    {line}\n")
    say(
        f"  memory: {about['after_warm_up_mb']:.0f} MB after the warm-up, {about['end_mb']:.0f} MB "
        f"at the end ({about['growth']:+.1%}), {about['slope_mb_per_hour']:+.0f} MB an hour\n"
    )
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if not found["failed"] and about["growth"] <= GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
