"""Whatever happens to folders and their library, in whatever order, searches are those of one clean
run: a short run of tests/endurance/interleavings.py, always the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A longer run for the curious: MMSEARCH_LONG=1.
EXAMPLES, STEPS = (300, 40) if os.environ.get("MMSEARCH_LONG") else (12, 14)

pytestmark = pytest.mark.timeout(0 if os.environ.get("MMSEARCH_LONG") else 600)


@pytest.mark.slow
def test_any_interleaving(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "endurance" / "interleavings.py"
    out = tmp_path / "table.json"
    numbers = ["--examples", str(EXAMPLES), "--steps", str(STEPS)]
    done = subprocess.run(
        [sys.executable, script, *numbers, "--out", out],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    table = json.loads(out.read_text())
    assert table["differences"] == 0
    assert table["checks"] >= EXAMPLES
    # It is not always the same few things that happen.
    for what in (
        "kills",
        "unmount",
        "rename",
        "delete",
        "index all",
        "switch asked",
        "tell",
        "takeout",
    ):
        assert table.get(what, 0) > 0, table
