"""What the benchmarks have in common: medians, bars, tables, JSON, plots, whole processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is held against: at least (`more`) or at most `wanted`."""

    wanted: float
    more: bool = True

    def reached(self, value: float) -> bool:
        return value >= self.wanted if self.more else value <= self.wanted

    def __str__(self) -> str:
        return f"{'>=' if self.more else '<='} {self.wanted:g}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table. `value` is None for what could not be measured; `shown` says why."""

    name: str
    value: float | None
    shown: str
    bar: Bar | None = None

    @property
    def missed(self) -> bool:
        return self.bar is not None and (self.value is None or not self.bar.reached(self.value))


@dataclass(slots=True)
class Table:
    """Figures of one run: printed as they come, kept for the JSON, held against their bars."""

    title: str
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f"\n{self.title}", flush=True)

    def add(
        self,
        name: str,
        value: float | None,
        unit: str = "",
        *,
        form: str = ",.2f",
        bar: Bar | None = None,
        note: str = "",
    ) -> None:
        """A figure and, where there is one, what came of its bar. note: instead of no figure."""
        shown = f"{value:{form}} {unit}".strip() if value is not None else "-"
        line = Line(name, value, f"{shown}  {note}".strip() if note else shown, bar)
        self.lines.append(line)
        verdict = f"  {bar}  {'MISSED' if line.missed else 'reached'}" if bar else ""
        print(f"  {name:<58} {shown:>14}{verdict}{'  ' + note if note else ''}", flush=True)

    @property
    def reached(self) -> bool:
        return not any(line.missed for line in self.lines)


def finish(tables: Sequence[Table], out: Path | None, more: Mapping[str, Any] | None = None) -> int:
    """Says what was missed, writes the JSON, and gives the exit code."""
    missed = [f"{table.title}: {line.name}" for table in tables for line in table.lines
              if line.missed]  # fmt: skip
    print(f"\n{'every bar is reached' if not missed else 'MISSED:'}")
    for name in missed:
        print(f"  {name}")
    if out:
        found = {"machine": machine(), "tables": [asdict(table) for table in tables]}
        out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found | dict(more or {}) | {"missed": missed}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")
    return 1 if missed else 0


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = ""
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else ""
    return {
        "cpus": os.cpu_count(),
        "cpu": model,
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
    }


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The median time that `work` takes, of so many."""
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that ended. peak_bytes: the most memory it held at once, as of its last 50 ms.

    The kernel's own ru_maxrss will not do: it counts the memory of the process that forked, too.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str
    stderr: str
    code: int


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    limit_s: float = 600,
) -> Ran:
    """Runs a command to its end, the clock from before its start. SystemExit if it fails.

    Its modules are kept compiled, as those of an installed package are, whatever this process does.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""} | dict(env or {}),
        cwd=cwd,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[bytes] = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))  # type: ignore[union-attr]
        reader.start()
        ended = threading.Event()
        peaks = [0]
        watcher = threading.Thread(target=_watch, args=(process, ended, peaks, began + limit_s))
        watcher.start()
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        reader.join()
    ran = Ran(
        took,
        usage.ru_utime + usage.ru_stime,
        max(peaks),
        output.decode(errors="replace"),
        b"".join(errors).decode(errors="replace"),
        process.returncode,
    )
    if check and ran.code:
        shown = " ".join(str(part) for part in command)
        raise SystemExit(f"{shown} ended with {ran.code}:\n{ran.stderr[-4000:]}")
    return ran


def _watch(
    process: subprocess.Popen[bytes], ended: threading.Event, peaks: list[int], until: float
) -> None:
    """Appends the peak memory of a process every 50 ms, and kills it when its time is up."""
    while not ended.wait(0.05):
        peaks.append(peak_bytes(process.pid))
        if time.perf_counter() > until:
            process.kill()


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory that a process held at once; 0 where that cannot be told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) * 1024 if peaks else 0


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The b of value = a · size^b, by least squares over the logarithms."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def plot(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    log: bool = True,
) -> None:
    """Lines through points, as PNG or whatever the name ends with; without matplotlib, nothing."""
    pyplot = _pyplot()
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def bar_plot(path: Path, groups: Mapping[str, Mapping[str, float]]) -> None:
    """A panel of bars for each title, as PNG or whatever the name ends with."""
    pyplot = _pyplot()
    if pyplot is None:
        return
    height = 1 + sum(1 + 0.3 * len(values) for values in groups.values())
    figure, panels = pyplot.subplots(
        len(groups),
        figsize=(9, height),
        layout="constrained",
        squeeze=False,
        height_ratios=[1 + len(values) for values in groups.values()],
    )
    for axes, (title, values) in zip(panels[:, 0], groups.items(), strict=True):
        shown = axes.barh(list(values), list(values.values()))
        axes.bar_label(shown, fmt="%.3g", padding=3)
        axes.margins(x=0.1)
        axes.invert_yaxis()
        axes.set_title(title, fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plotted(path: Path, tables: Sequence[Table]) -> None:
    """Every table as a panel of bars: what was measured of it, in its order."""
    groups = {
        table.title: {line.name.strip(): line.value for line in table.lines if line.value}
        for table in tables
    }
    bar_plot(path, {title: values for title, values in groups.items() if values})


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed (pip install mmsearch[plot])")
        return None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
