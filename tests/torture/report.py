"""What came of the rounds, for people: a line for each, and a table of faults."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.torture.round import Result


@dataclass
class Row:
    """One kind of fault: how often, what it cost."""

    trials: int = 0
    repeats: int = 0
    most: int = 0
    recovered: list[float] = field(default_factory=list)


def line(result: Result) -> str:
    """A round, and all that is wrong with it."""
    repeats = sum(fault.repeats for fault in result.faults)
    said = (
        f"{result.profile} seed {result.seed}: {len(result.faults)} faults, {result.events} events, {result.deliveries} "
        f"deliveries, {result.requests} requests, {repeats} repeats, {len(result.wrong)} wrong"
    )
    return "\n".join([said, *(f"  {sentence}" for sentence in [*result.notes, *result.wrong[:20]])])


def record(file: Path, result: Result) -> None:
    """Adds a round to a file."""
    faults = [{"name": f.name, "repeats": f.repeats, "recovered": f.recovered} for f in result.faults]
    entry = {"profile": result.profile, "seed": result.seed, "events": result.events, "deliveries": result.deliveries,
             "requests": result.requests, "wrong": result.wrong, "faults": faults}  # fmt: skip
    with file.open("a") as lines:
        lines.write(json.dumps(entry) + "\n")


def rows(results: Iterable[Result]) -> dict[str, Row]:
    """By the name of the fault."""
    found: dict[str, Row] = {}
    for fault in (fault for result in results for fault in result.faults):
        row = found.setdefault(fault.name, Row())
        row.trials += 1
        row.repeats += fault.repeats
        row.most = max(row.most, fault.repeats)
        if fault.recovered is not None:
            row.recovered.append(fault.recovered)
    return found


def table(rows: dict[str, Row]) -> str:
    """In Markdown; seconds from the end of the fault until all its steady webhooks were delivered to again."""
    lines = ["| fault | trials | repeats, most at once | delivering again: median, longest |", "|---|---|---|---|"]
    for name, row in sorted(rows.items()):
        times = f"{median(row.recovered):.2f} s, {max(row.recovered):.2f} s" if row.recovered else "-"
        lines.append(f"| {name} | {row.trials} | {row.repeats}, {row.most} | {times} |")
    return "\n".join(lines)
