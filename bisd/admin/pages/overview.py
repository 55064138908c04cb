"""The operator's own pages: all of it at a glance, and the accounts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from bisd import insight
from bisd.admin.pages import charts
from bisd.admin.pages.site import Asked, go

# How long each span is, and how long a step of it.
_SPANS = {
    "hour": (timedelta(hours=1), timedelta(minutes=1)),
    "day": (timedelta(days=1), timedelta(minutes=30)),
    "week": (timedelta(days=7), timedelta(hours=4)),
}
_SERIES = {"delivered": ["delivered"], "retried": ["retried"], "failed": ["failed"], "dropped": ["dropped"]}
_MISSED = {name: names for name, names in _SERIES.items() if name != "delivered"}
_PERCENTILES = {"p50": 0, "p95": 1, "p99": 2}
_LISTED = 100


async def start(asked: Asked) -> web.StreamResponse:
    """Whoever has pages of one account only gets there."""
    if asked.viewer.account_id is not None:
        return go(f"/accounts/{asked.viewer.account_id}/webhooks")
    span = asked.request.query.get("span", "hour")
    length, step = _SPANS.get(span, _SPANS["hour"])
    number = round(length / step)
    now = datetime.now(UTC)
    since = now - timedelta(seconds=now.timestamp() % step.total_seconds()) - (number - 1) * step
    async with asked.site.desk.connection() as connection:
        status: dict[str, Any] = await insight.status(connection)
        rows = await insight.history(connection, since, step)
    course = charts.steps(rows, since, step, number)
    recent = status["recent"]
    tried = recent["delivered"] + recent["failed"]
    due_since = status["backlog"]["due_since"]
    return asked.render(
        "overview.html",
        here="overview",
        follow="/live",
        fleet=status,
        rate=recent["delivered"] / max(1.0, recent["seconds"]),
        failed_share=recent["failed"] / tried if tried else None,
        late=(status["at"] - due_since).total_seconds() if due_since is not None else None,
        spans=list(_SPANS),
        span=span if span in _SPANS else "hour",
        step=step,
        course=course,
        any=bool(rows),
        exact=all(row["exact"] for row in rows),
        **_drawn(course),
    )


def _drawn(course: list[charts.Step]) -> dict[str, Any]:
    """The three charts, and what they say in a sentence."""
    shapes, top = charts.columns(course, _SERIES)
    missed, most_missed = charts.columns(course, _MISSED)
    lines, longest = charts.lines(course, {name: _percentile(place) for name, place in _PERCENTILES.items()})
    return {
        "throughput": {"shapes": shapes, "top": top},
        "failures": {"shapes": missed, "top": most_missed},
        "latency": {"lines": lines, "top": longest},
        "total": sum(step.number(*_SERIES) for step in course),
        "missed": sum(step.number(*_MISSED) for step in course),
    }


def _percentile(place: int) -> charts.Reading:
    def read(row: charts.Row) -> float | None:
        took: list[float | None] = row["took_ms"] or []
        return took[place] if place < len(took) else None

    return read


async def accounts(asked: Asked) -> web.StreamResponse:
    after = asked.request.query.get("after", "0")
    begin = int(after) if after.isascii() and after.isdigit() and len(after) < 19 else 0
    async with asked.site.desk.connection() as connection:
        rows = await insight.accounts(connection, begin, _LISTED + 1)
    following = rows[_LISTED - 1]["id"] if len(rows) > _LISTED else None
    return asked.render("accounts.html", here="accounts", rows=rows[:_LISTED], next=following)


async def first_page(asked: Asked) -> web.StreamResponse:
    return go(f"{asked.base}/webhooks")
