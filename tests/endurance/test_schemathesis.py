"""schemathesis over the OpenAPI document, against a real process: every phase, every check.

Two minutes long, so it runs only where schemathesis is installed.
schemathesis.toml says which statuses a request that is well-formed may get. The same requests each
time, as far as it gets: SCHEMATHESIS_SEED draws others, SCHEMATHESIS_SECONDS lets it get further.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from collection import encoded, run, write, write_captions

from mmsearch.serve.keys import Keys, keys_path

CONFIG = Path(__file__).with_name("schemathesis.toml")
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "100")
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")
SERVE = """
import sys
import mmsearch
from mmsearch.serve import access, run
from mmsearch.settings import Settings

# It tries many wrong keys, and wants to be told 401 each time.
access._WRONG_AT_ONCE = 10**6
with mmsearch.open(sys.argv[1], device="cpu") as library:
    run(library, Settings(), port=0, on_ready=lambda url: print(url, flush=True))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"
)
def test_the_service_does_what_its_document_says(tmp_path: Path, model: str) -> None:
    for seed in range(5):
        write(tmp_path / "photos" / f"{seed}.png", encoded(seed))
    write_captions(tmp_path / "photos" / "captions.jsonl", [("0.png", "the first picture")])
    run(tmp_path / "library", tmp_path / "photos", model=model)
    key = Keys(keys_path(tmp_path / "library", None)).add("all", "write")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path / "library")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MMSEARCH_DEVICE": "cpu"},
    ) as service:
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
                *("run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
                # A stream without an end.
                *("--exclude-path", "/v1/index/events"),
                # Most texts are no part of a path, which the name of a model is.
                *("--suppress-health-check", "filter_too_much"),
                *("--max-time", SECONDS, "--request-timeout", "90", "--continue-on-failure"),
                *("--seed", SEED),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        service.terminate()
        assert service.wait(60) == 0
    assert done.returncode == 0, done.stdout[-10_000:]
