"""kill -9 at random moments of an indexing run: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from collection import encoded, found, same, titled, write, write_captions

KILLS = 20
SEED = 2026


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kill") / "photos"
    for n in range(100):
        write(root / str(n % 3) / f"{n:03}.png", encoded(n))
    for n in range(10):
        write(root / f"said{n}.jpg", titled(200 + n, f"what picture {n} says"))
        write(root / f"said{n}.txt", f"what stands beside {n}".encode())
        write(root / f"copy{n}.png", encoded(n))
        write(root / f"bad{n}.jpg", b"no picture")
    for archive in range(2):
        with zipfile.ZipFile(root / f"{archive}.zip", "w") as file:
            for n in range(10):
                file.writestr(f"in/{n}.png", encoded(300 + 10 * archive + n))
    lines = [(f"{n:03}.png", f"line {n} of the captions") for n in range(100)]
    write_captions(root / "captions.jsonl", [*lines, ("absent.png", "of nothing"), (None, "free")])
    return root


@pytest.mark.slow
def test_kill_at_random_moments(photos: Path, tmp_path: Path, model: str) -> None:
    driver = Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, driver, photos, tmp_path, model, str(KILLS), str(SEED)],
        capture_output=True,
        text=True,
        timeout=280,
        # Forked children must not inherit the threads of a parallel region.
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    document = json.loads(done.stdout)
    clean, story = document["clean"], document["story"]
    assert (clean["images"], clean["texts"]) == (130, 122)
    assert sum(run["killed"] for run in story) == KILLS
    in_the_middle = 0
    for run in story:
        assert run["problems"] == [], run
        assert run["lost"] == [], run
        assert run["lost_places"] == [], run
        in_the_middle += run["killed"] and 0 < run["after"] < 252
        if not run["killed"]:
            # What was committed is not encoded again, and all that was missing is.
            encoded_now = run["report"]["images"] + run["report"]["texts"]
            assert (run["before"] + encoded_now, run["after"]) == (252, 252), run
    assert in_the_middle >= 3
    queries = ["line 7 of the captions", "waves"]
    expected = found(tmp_path / "clean", photos, queries)
    assert len(expected[0]) == 130
    assert sum(len(captions) for _, captions in expected[0]) == 120
    finished = {run["library"] for run in story if not run["killed"]}
    for library in sorted(finished):
        assert same(found(tmp_path / library, photos, queries), expected), library
    assert story[-1]["library"] in finished
