"""Recall over k, drawn. Sole owner of matplotlib, which need not be installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmsearch.errors import MmsearchError, QueryError, StoreError
from mmsearch.evaluate import Ranks

#: Endings of the files that can be drawn.
ENDINGS = (".png", ".svg")
_MOST = 100
_TICKS = (1, 2, 5, 10, 20, 50, 100)


def check(file: Path) -> None:
    """Raises QueryError when `file` could not be drawn: before the work, not after it."""
    if file.suffix.lower() not in ENDINGS:
        raise QueryError(f"{file} cannot be drawn: its name must end in {' or '.join(ENDINGS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise MmsearchError(
            "--plot needs matplotlib, which is not installed: pip install 'mmsearch[plot]'"
        ) from exc
    if not file.parent.is_dir():
        raise QueryError(f"{file} cannot be drawn: there is no folder {file.parent}")


def draw(file: Path, title: str, ranks: Mapping[str, Ranks]) -> None:
    """Draws any-hit and true recall at k = 1 to 100 for each direction into a PNG or SVG file.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: that keeps figures, and may want a screen.
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for number, (direction, of) in enumerate(ranks.items()):
        ks = range(1, min(_MOST, of.corpus) + 1)
        colour = f"C{number}"
        axis.plot(ks, [of.any_hit(k) for k in ks], color=colour, label=f"{direction}: any hit")
        axis.plot(
            ks, [of.true_recall(k) for k in ks], "--", color=colour,
            label=f"{direction}: true recall",
        )  # fmt: skip
    # Names are no formulas, whatever dollars they have.
    axis.set_title(title, parse_math=False)
    axis.set(xlabel="k", ylabel="share of the queries, or of their answers")
    axis.set(xscale="log", ylim=(0, 1.02))
    axis.set_xticks(_TICKS, [str(k) for k in _TICKS])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    try:
        figure.savefig(file, dpi=120)
    except OSError as exc:
        raise StoreError(f"{file} cannot be written: {exc.strerror or exc}") from exc
