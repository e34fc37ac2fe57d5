"""A server and a writer at once: no request fails, and what is committed is found soon after."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from collection import encoded, run, write
from serve_library import SERVE

from mmsearch.library import Library

ROUNDS, A_ROUND = 12, 20
#: The promise is 2 s, which pytest -s shows; here it only has to come true.
_DEADLINE_S = 60


class Clients:
    """Threads that ask all the time, and what they were told that no client should be."""

    def __init__(self, url: str, threads: int) -> None:
        self.url = url
        self.asked = 0
        self.wrong: list[str] = []
        #: What models answered each client, one after the other.
        self.models: list[list[str]] = [[] for _ in range(threads)]
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            turn = 0
            while not self._end.is_set() and not self.wrong:
                turn += 1
                try:
                    # What numbers name would come first, whatever its score.
                    words = {"q": f"waves {number} {turn % 7}", "words": False}
                    answer = client.get("/v1/search", params=words | {"k": 40})
                    self._check(number, answer)
                    if turn % 3 == 0:
                        image_id = answer.json()["hits"][0]["id"]
                        similar = client.get(f"/v1/images/{image_id}/similar", params={"k": 5})
                        # A picture may be deleted between the two questions.
                        if similar.status_code != 404:
                            self._check(number, similar)
                except (httpx.HTTPError, LookupError, ValueError, AssertionError) as exc:
                    self.wrong.append(repr(exc))

    def _check(self, number: int, answer: httpx.Response) -> None:
        self.asked += 1
        assert answer.status_code == 200, answer.text
        body = answer.json()
        hits = body["hits"]
        assert hits, body
        assert len({hit["id"] for hit in hits}) == len(hits)
        scores = [hit["score"] for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert all(hit["path"] and hit["name"] and hit["width"] == 40 for hit in hits)
        models = self.models[number]
        if not models or models[-1] != body["model"]:
            models.append(body["model"])

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(_DEADLINE_S)


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path, model: str) -> Iterator[str]:
    folder = tmp_path / "photos"
    for n in range(10):
        write(folder / f"first{n}.png", encoded(n))
    run(tmp_path / "library", folder, model=model)
    command = [sys.executable, "-c", SERVE, str(tmp_path / "library"), "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MMSEARCH_WORKERS": str(request.param)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def shown(client: httpx.Client) -> set[str]:
    """Paths of all pictures that the server finds, below the folder."""
    answer = client.get("/v1/search", params={"q": "waves", "k": 1000})
    assert answer.status_code == 200, answer.text
    return {hit["path"].partition("/photos/")[2] for hit in answer.json()["hits"]}


def seen_at(client: httpx.Client, told: dict[str, Any], other: str) -> float:
    """When an answer first shows what the driver told of."""
    names = set(told["names"])
    deadline = time.time() + _DEADLINE_S
    while True:
        if told["step"] == "switched":
            done = client.get("/v1/search", params={"q": "waves"}).json()["model"] == other
        elif told["step"] == "deleted":
            done = not names & shown(client)
        else:
            done = names <= shown(client)
        if done:
            return time.time()
        assert time.time() < deadline, f"never seen: {told}"


def metrics(client: httpx.Client) -> str:
    return client.get("/metrics").text


@pytest.mark.slow
def test_commits_are_seen_and_no_request_fails(
    server: str, tmp_path: Path, other_model: str
) -> None:
    driver = Path(__file__).with_name("indexing_driver.py")
    arguments = [tmp_path / "library", tmp_path / "photos", other_model, ROUNDS, A_ROUND]
    waits: dict[str, list[float]] = {}
    encoded_in_all = 0
    clients = Clients(server, threads=2)
    try:
        with (
            httpx.Client(base_url=server, timeout=60) as client,
            subprocess.Popen(
                [sys.executable, driver, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            ) as writer,
        ):
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
            for line in writer.stdout:
                told = json.loads(line)
                encoded_in_all += told["encoded"]
                seen = seen_at(client, told, other_model)
                waits.setdefault(told["step"], []).append(seen - told["at"])
                writer.stdin.write("\n")
                writer.stdin.flush()
            assert writer.wait(_DEADLINE_S) == 0
            deadline = time.time() + _DEADLINE_S
            while not clients.wrong and min(map(len, clients.models)) < 2:
                assert time.time() < deadline, clients.models
                time.sleep(0.01)
            final = shown(client)
            # Also in the service's own process, where workers answer.
            found = re.search(r'_vectors{modality="image",state="found"} ([\d.]+)', metrics(client))
            assert found is None or float(found[1]) == len(final)
    finally:
        clients.stop()
    assert clients.wrong == []
    assert clients.asked > 20
    assert all(len(models) == 2 for models in clients.models), clients.models
    assert [len(waits[step]) for step in ("added", "deleted", "switched")] == [ROUNDS + 1, 1, 1]
    assert len(final) == 10 + ROUNDS * A_ROUND - ROUNDS + 5
    assert encoded_in_all == ROUNDS * A_ROUND + (10 + ROUNDS * A_ROUND - ROUNDS) + 5
    with Library(tmp_path / "library", device="cpu") as lib:
        assert lib.status().images == len(final)
    lines = [f"{clients.asked} answers to others meanwhile; from commit to answer, in seconds:"]
    for step, seconds in waits.items():
        middle = sorted(seconds)[len(seconds) // 2]
        lines.append(
            f"  {step:9} {len(seconds)} times, median {middle:.2f}, most {max(seconds):.2f}"
        )
    sys.stdout.write("\n".join(["", *lines, ""]))  # shown by pytest -s
