"""Whatever happens to folders and to their library, in any order: searches are those of one clean
run over what the folders hold in the end.

A state machine (Hypothesis) adds, changes, renames, moves, copies, deletes and brings back files,
unplugs folders, indexes all or a part, kills the indexing with SIGKILL, switches to another model
and back, moves the library, and looks at it with a reader that stays open. Prints a table, and
writes it as JSON.

    python tests/endurance/interleavings.py --examples 300 --steps 40 --out result.json

The rules are in interleaving_folders.py and interleaving_machine.py.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # forked runs must not inherit the threads of a parallel region

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).parents[1]))

from collection import save_model
from interleaving_machine import Interleavings
from interleaving_runs import Forks


def prepare(work: Path) -> None:
    """Gives the machine its models, its place and the process that starts the runs."""
    import torch

    for name in [name for name in os.environ if name.startswith("MMSEARCH_")]:
        del os.environ[name]
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    torch.set_num_threads(1)
    models = work / "models"
    Interleavings.models = (
        save_model(models / "first"),
        save_model(models / "second", seed=1, dim=32),
    )
    Interleavings.work = work
    Interleavings.forks = Forks(Interleavings.models)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=30, help="steps of an example, at most")
    parser.add_argument("--seed", type=int, help="another one than the always same")
    parser.add_argument("--no-shrink", action="store_true", help="show a difference as it came")
    parser.add_argument("--out", type=Path, help="where to write the table as JSON")
    given = parser.parse_args()
    profile = settings(
        max_examples=given.examples,
        stateful_step_count=given.steps,
        derandomize=given.seed is None,
        deadline=None,
        database=None,
        phases=[Phase.generate] + [Phase.shrink] * (not given.no_shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mmsearch-interleavings-") as folder:
        prepare(Path(folder))
        machine = Interleavings
        if given.seed is not None:
            machine = hypothesis.seed(given.seed)(machine)
        run_state_machine_as_test(machine, settings=profile)
    # Hypothesis ends with an exception at the first difference.
    table = dict(Interleavings.done) | {
        "differences": 0,
        "seconds": round(time.monotonic() - started, 1),
    }
    for what, number in table.items():
        sys.stdout.write(f"{what:24}{number:>10,}\n")
    if given.out is not None:
        given.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
