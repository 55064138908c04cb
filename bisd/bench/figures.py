"""What a scenario finds out: named figures with units, which the table, the JSON and the plot all show."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Figures = dict[str, float | None]

# Every figure there is, and its unit. "each" is per delivery (or per insert, where inserts are counted).
UNITS = {
    "deliveries": "/s",
    "bare": "/s",
    "ratio": "",
    "to_20": "",
    "sustained": "/s",
    "in_flight": "at once",
    "inserts": "/s",
    "to_bare": "",
    "to_no_bell": "",
    "to_naive": "",
    "to_one": "",
    "p50": "ms",
    "p95": "ms",
    "p99": "ms",
    "max": "ms",
    "p99_ratio": "",
    "commit_p50": "ms",
    "commit_p99": "ms",
    "insert_p50": "ms",
    "insert_p99": "ms",
    "page_p50": "ms",
    "page_max": "ms",
    "repeats": "",
    "start": "ms",
    "cpu": "us each",
    "bare_cpu": "us each",
    "postgres_cpu": "us each",
    "statements": "each",
    "wal": "bytes each",
    "dead_rows": "each",
    "statement_rate": "/s",
    "cpu_share": "% of a core",
    "postgres_share": "% of a core",
    "resident": "MB",
    "growth": "MB",
}


class Point(NamedTuple):
    """One second of a run: the latencies of what was intended in it, in ms."""

    second: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Row:
    """One case of a scenario. A figure is None where it could not be measured."""

    scenario: str
    case: str
    figures: Figures
    points: list[Point] = field(default_factory=list)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that at least so many percent do not exceed (nearest rank). `ordered` ascends, and is not empty."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def spread(waits: Iterable[float]) -> Figures:
    """p50, p95, p99 and max of waits in seconds, in ms."""
    ordered = sorted(wait * 1000 for wait in waits)
    figures: Figures = {f"p{percent}": percentile(ordered, percent) for percent in (50, 95, 99)}
    return figures | {"max": ordered[-1]}


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of each figure over the rounds; None where a round could not measure it."""
    middle: Figures = {}
    for name in rounds[0]:
        values = [value for one in rounds if (value := one[name]) is not None]
        middle[name] = statistics.median(values) if len(values) == len(rounds) else None
    return middle


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
