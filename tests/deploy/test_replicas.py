"""deploy/scaling.md: copies of a library behind a proxy answer alike, whichever is asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from collection import encoded, run, write

from mmsearch.backup import backup
from mmsearch.serve.keys import Keys


@contextmanager
def served(library: Path, keys: Path) -> Iterator[str]:
    words = ["-m", "mmsearch", "-l", str(library), "serve", "--port", "0"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MMSEARCH_DEVICE": "cpu",
        "MMSEARCH_KEYS_FILE": str(keys),
    }
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        try:
            yield address[0]
        finally:
            process.terminate()


@pytest.mark.slow
def test_replicas_answer_alike(tmp_path: Path, model: str) -> None:
    for seed in range(6):
        write(tmp_path / "photos" / f"{seed}.png", encoded(seed))
    library = tmp_path / "library"
    run(library, tmp_path / "photos", model=model)
    keys = tmp_path / "keys.json"
    key = Keys(keys).add("someone", "read")
    copies = [tmp_path / "replica-1", tmp_path / "replica-2"]
    for copy in copies:
        backup(library, copy, with_index=True)
    with ExitStack() as stack:
        urls = [stack.enter_context(served(copy, keys)) for copy in copies]
        headers = {"Authorization": f"Bearer {key}"}
        answers = [
            httpx.get(f"{url}/v1/search?q=a+boat&k=6", headers=headers, timeout=60).json()["hits"]
            for url in urls
        ]
        assert [len(answer) for answer in answers] == [6, 6]
        assert answers[0] == answers[1]
        # A key counts at both; who signed in with a browser is known to that one alone.
        signed = httpx.post(
            f"{urls[0]}/v1/login", data={"key": key, "next": "/"}, headers={"Origin": urls[0]}
        )
        (cookie,) = (f"{name}={value}" for name, value in signed.cookies.items())
        known = [
            httpx.get(f"{url}/v1/status", headers={"Cookie": cookie}, timeout=60).status_code
            for url in urls
        ]
        assert known == [200, 401]
        # A picture found by one is shown by the other.
        id_ = answers[0][0]["id"]
        shown = [httpx.get(f"{url}/v1/images/{id_}/file", headers=headers) for url in urls]
        assert shown[0].content == shown[1].content != b""
