"""Trains `tiny` from nothing and writes its folder; README.md beside this file says how and why.

    .venv/bin/python data/tiny/train.py
    .venv/bin/python data/tiny/train.py --minutes-text 2 --minutes-pictures 5   # a trial

Killed and started again, it goes on from the last checkpoint in its work folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.multiprocessing as mp
from model import MODEL_CFG
from open_clip.model import CLIP
from pictures import Shared, train_pictures
from progress import Log
from teacher import Teacher, train_teacher
from texts import train_texts
from validate import validate_teacher

ROOT = Path(__file__).resolve().parents[2]
# Tensors of a step are large and short-lived; glibc would give each back to the system and fault it
# in again. Read at process start, hence the exec in main().
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "200000000",
}


def work(rank: int, args: argparse.Namespace, shared: Shared, teacher: Teacher) -> None:
    """One training process. On two cores rank 0 begins with the pictures while rank 1 learns the
    texts; then both train the pictures. One thread each: two threads that wait for one another at
    every operator lose far more to a busy neighbour than two processes that do not."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed * 100 + rank)
    log = Log(args.work / "log.jsonl")
    clip = CLIP(**MODEL_CFG).to(args.device)
    if rank == args.ranks - 1:
        train_texts(args, clip, teacher, log)
    train_pictures(args, shared, clip, teacher, rank, log)


def main() -> None:
    """Parses the arguments and runs the training processes."""
    if any(k not in os.environ for k in _MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | _MALLOC)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / ".train" / "tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "mmsearch/encode/models/tiny")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ranks", type=int, default=0, help="processes; 0: 2 on CPU, 1 on GPU")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--minutes-teacher", type=float, default=8.0)
    parser.add_argument("--minutes-texts", type=float, default=60.0)
    parser.add_argument("--minutes-pictures", type=float, default=145.0)
    parser.add_argument("--lr-teacher", type=float, default=3e-3)
    parser.add_argument("--lr-texts", type=float, default=2e-3)
    parser.add_argument("--lr-pictures", type=float, default=2e-3)
    parser.add_argument("--bank", type=int, default=24_000, help="scenes the teacher learns from")
    parser.add_argument("--others", type=int, default=700, help="more scenes a step, undescribed")
    parser.add_argument("--pairs-texts", type=int, default=64, help="described pairs a text step")
    parser.add_argument("--batch", type=int, default=128, help="pictures a step")
    parser.add_argument("--reuse", type=float, default=3.5, help="uses of a drawn picture")
    parser.add_argument("--workers", type=int, default=1, help="drawing processes")
    parser.add_argument("--weight-apart", type=float, default=8.0)
    parser.add_argument("--weight-slots", type=float, default=0.5)
    parser.add_argument("--weight-twins", type=float, default=3.0)
    parser.add_argument("--out-every", type=float, default=20.0, help="minutes; 0: at the end")
    parser.add_argument("--pool", type=int, default=24_000, help="pictures kept")
    args = parser.parse_args()
    args.ranks = args.ranks or (1 if args.device == "cuda" else 2)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    visual = CLIP(**MODEL_CFG).visual.to(args.device, memory_format=torch.channels_last)
    shared = Shared(visual).to(args.device)
    path = args.work / "pictures.pt"
    if path.exists():
        shared.load_state_dict(torch.load(path, weights_only=True)["shared"])
    torch.set_num_threads(args.threads)
    log = Log(args.work / "log.jsonl")
    teacher = train_teacher(args, log, lambda t: validate_teacher(t, args.device))
    if args.ranks == 1:
        work(0, args, shared, teacher)
    else:
        shared.share_memory()
        # Not daemons: each has a drawing process of its own.
        mp.start_processes(work, (args, shared, teacher), args.ranks, start_method="spawn")


if __name__ == "__main__":
    main()
