"""What came of the rounds, for people: a line for each, and a table of faults."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.torture.ledger import Fault
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
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")


def recorded(file: Path) -> list[Result]:
    """All rounds that a file has."""
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [Result(**entry | {"faults": [Fault(**fault) for fault in entry["faults"]]}) for entry in entries]


def table(results: Iterable[Result]) -> str:
    """In Markdown, by what a fault's name begins with; seconds from the end of the fault until all of the steady webhooks that
    it touched were delivered to again, where no other fault came in between."""
    rows: dict[str, Row] = {}
    for result in results:
        for fault in result.faults:
            row = rows.setdefault(fault.name.partition(":")[0], Row())
            row.trials += 1
            row.repeats += fault.repeats
            row.most = max(row.most, fault.repeats)
            if fault.recovered is not None and not any(_overlap(fault, other) for other in result.faults if other is not fault):
                row.recovered.append(fault.recovered)
    lines = ["| fault | trials | repeats, most at once | delivering again: times, median, longest |", "|---|---|---|---|"]
    for name, row in sorted(rows.items()):
        times = f"{len(row.recovered)}, {median(row.recovered):.1f} s, {max(row.recovered):.1f} s" if row.recovered else "-"
        lines.append(f"| {name} | {row.trials} | {row.repeats}, {row.most} | {times} |")
    return "\n".join(lines)


def _overlap(fault: Fault, other: Fault) -> bool:
    """Whether one of them began before the other had healed."""
    return fault.began <= _healed(other) and other.began <= _healed(fault)


def _healed(fault: Fault) -> float:
    return (fault.began if fault.ended is None else fault.ended) + (fault.recovered or 0.0)
