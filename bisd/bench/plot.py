"""The plot: latency over time, and throughput by scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bisd.bench.figures import UNITS, Row

ENDINGS = (".png", ".svg")
_THROUGHPUT = ("deliveries", "inserts", "sustained")


def plot(rows: Sequence[Row], file: Path) -> None:
    """Writes what there is of the two, as PNG or SVG by the file's ending. Raises OSError if it cannot be written."""
    from matplotlib.figure import Figure

    timed = [row for row in rows if row.points]
    counted = [(row, name, value) for row in rows for name, value in _throughput(row)]
    figure = Figure(figsize=(12, 4.5 + 0.28 * len(counted)), layout="constrained")
    axes = figure.subplots(2, 1, height_ratios=[4, max(1.0, 0.28 * len(counted))])
    for row in timed:
        seconds = [point.second for point in row.points]
        [line] = axes[0].plot(seconds, [point.p50 for point in row.points], label=f"{row.scenario} {row.case}, p50")
        axes[0].plot(seconds, [point.p99 for point in row.points], color=line.get_color(), linestyle=":", label="p99")
    axes[0].set(title="Latency over time", xlabel="s", ylabel="ms", yscale="log" if timed else "linear")
    if timed:
        axes[0].legend(fontsize="x-small", ncols=2)
    labels = [f"{row.scenario} {row.case}" + (f" ({name})" if name != "deliveries" else "") for row, name, _ in counted]
    bars = axes[1].barh(range(len(counted)), [value for *_, value in counted])
    axes[1].bar_label(bars, fmt="{:,.0f}", padding=3, fontsize="x-small")
    axes[1].set_yticks(range(len(counted)), labels, fontsize="x-small")
    axes[1].invert_yaxis()
    axes[1].set(title="Throughput by scenario", xlabel=UNITS["deliveries"])
    figure.savefig(file)


def _throughput(row: Row) -> list[tuple[str, float]]:
    """The first of a row's figures that is one: the others are made of the same."""
    return [(name, value) for name in _THROUGHPUT if (value := row.figures.get(name)) is not None][:1]
