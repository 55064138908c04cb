"""Charts as shapes that an SVG draws: places in a box that is as wide as there are steps, and a hundred high. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

HEIGHT = 100.0
# Of a step, in the box.
WIDTH = 10.0
_GAP = 1.0
# A row of the history, and what a chart reads of one.
Row = Mapping[str, Any]
Reading = Callable[[Row], float | None]
# What an attempt's time is made of, in the order in which it passes.
PHASES = ("dns", "connect", "tls", "wait", "read")


class Shape(NamedTuple):
    """A rectangle of a series."""

    series: str
    x: float
    y: float
    width: float
    height: float


class Line(NamedTuple):
    """A series; each part of it is the points of a polyline, broken where there is nothing."""

    series: str
    parts: list[str]


class Step(NamedTuple):
    """What the history says of one step of time; None where nothing was tried."""

    at: datetime
    row: Row | None

    def number(self, *names: str) -> int:
        return sum(self.row[name] for name in names) if self.row is not None else 0


def steps(rows: Sequence[Row], since: datetime, step: timedelta, number: int) -> list[Step]:
    """One for each step since then, of the history's rows, which leave out those in which there was nothing."""
    found = {round((row["at"] - since) / step): row for row in rows}
    return [Step(since + place * step, found.get(place)) for place in range(number)]


def columns(course: Sequence[Step], series: Mapping[str, Sequence[str]]) -> tuple[list[Shape], int]:
    """Stacked columns, a series of each of which is the sum of some of a row's numbers; and what full height stands for."""
    top = max([sum(step.number(*names) for names in series.values()) for step in course] + [1])
    shapes = []
    for place, step in enumerate(course):
        y = HEIGHT
        for name, names in series.items():
            height = step.number(*names) / top * HEIGHT
            y -= height
            if height:
                shapes.append(Shape(name, place * WIDTH + _GAP, round(y, 2), WIDTH - 2 * _GAP, round(height, 2)))
    return shapes, top


def lines(course: Sequence[Step], series: Mapping[str, Reading]) -> tuple[list[Line], float]:
    """A line for each series, of what it makes of a row; and what the full height stands for."""
    values = {name: [of(step.row) if step.row is not None else None for step in course] for name, of in series.items()}
    top = max([value for those in values.values() for value in those if value is not None] + [1.0])
    return [Line(name, _parts(those, top)) for name, those in values.items()], top


def _parts(values: Sequence[float | None], top: float) -> list[str]:
    parts: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            parts.append([])
        else:
            y = round(HEIGHT - value / top * HEIGHT, 2)
            parts[-1].append(f"{place * WIDTH:g},{y:g} {(place + 1) * WIDTH:g},{y:g}")
    return [" ".join(part) for part in parts if part]


def phases(attempt: Row, longest: float) -> list[Shape]:
    """How an attempt passed its time, side by side, in a box of which `longest` milliseconds are the width of a hundred."""
    total = attempt["total_ms"]
    if not total or longest <= 0:
        return []
    parts = durations(attempt)
    shapes, x = [], 0.0
    for phase in PHASES:
        width = parts[phase] / longest * 100
        if width:
            shapes.append(Shape(phase, round(x, 3), 0.0, round(width, 3), HEIGHT))
        x += width
    return shapes


def durations(attempt: Row) -> dict[str, float]:
    """Milliseconds of each phase. Until the status came is told from the beginning on; where none came, all the rest was
    waited."""
    total = attempt["total_ms"] or 0.0
    dns, connect, tls = (attempt[f"{name}_ms"] or 0.0 for name in ("dns", "connect", "tls"))
    until = attempt["first_byte_ms"] if attempt["first_byte_ms"] is not None else total
    wait = max(0.0, until - dns - connect - tls)
    return {"dns": dns, "connect": connect, "tls": tls, "wait": wait, "read": max(0.0, total - until)}
