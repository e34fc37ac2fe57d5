"""Draws log.jsonl of a training run: losses, the slot head's shares, held-out recall."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def plot(log: Path, out: Path) -> None:
    """Three panels over the minutes of each stage, from `log` (JSON lines) into `out` (PNG)."""
    lines = [json.loads(x) for x in log.read_text().splitlines()]
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), constrained_layout=True)
    _curves(axes[0], lines, ("to_pictures", "to_texts", "to_scenes", "slots", "apart", "twins"))
    axes[0].set(title="losses", yscale="log")
    _curves(axes[1], lines, ("kind", "colour", "count", "size"))
    axes[1].set(title="slot head: share right (training pictures)", ylim=(0, 1))
    recall = ("en_train", "en_test", "zh_train", "zh_test", "top5", "i2t")
    _curves(axes[2], lines, recall)
    _curves(axes[2], lines, tuple(f"texts_{r}" for r in recall), dashed=True)
    axes[2].set(title="held-out: top hit right (texts: the teacher's scenes)", ylim=(0, 1))
    for axis in axes:
        axis.set_xlabel("minutes of the stage")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(out, dpi=90)


def _curves(
    axis: plt.Axes, lines: list[dict[str, float]], names: tuple[str, ...], dashed: bool = False
) -> None:
    for stage in ("texts", "pictures"):
        for name in names:
            points = [
                (line["seconds"] / 60, line[name])
                for line in lines
                if line.get("stage") == stage and name in line and "seconds" in line
            ]
            # A stage begun anew starts its clock again: what came before is another story.
            begins = [i for i in range(1, len(points)) if points[i][0] < points[i - 1][0] / 2]
            points = points[begins[-1] if begins else 0 :]
            if points:
                style = "--" if dashed or stage != "pictures" else "-"
                axis.plot(
                    *zip(*points, strict=True), style, label=f"{stage}: {name}", linewidth=1.2
                )


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
