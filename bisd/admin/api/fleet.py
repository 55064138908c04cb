"""/status and /history: how all of it is doing, and was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPMethod, HTTPStatus
from typing import Annotated

from pydantic import Field

from bisd import insight
from bisd.admin.api.operation import Answer, Ask, Operation, Who
from bisd.admin.api.values import Duration, Given, Moment, Number, Shown
from bisd.admin.problem import ProblemError

_MOST_STEPS = 200


class Daemon(Shown):
    """`shards`: which of the 64 are its own."""

    name: str | None
    since: datetime | None
    shards: list[int]


class Backlog(Shown):
    """How many deliveries are owed, counted or (not `exact`) estimated; since when the oldest of those that are due has
    been."""

    owed: int
    exact: bool
    webhooks: int
    due_since: datetime | None


class Recent(Shown):
    """What came of the attempts of the last so many seconds."""

    seconds: float
    delivered: int
    failed: int


class Failing(Shown):
    id: int
    account_id: int
    failures: int
    failing_since: datetime
    next_probe_at: datetime | None
    deactivates_at: datetime | None
    note: str


class Status(Shown):
    """`unowned`: shards without a daemon. `webhooks`: how many are in which state. `failing`: those that have for longest."""

    at: datetime
    daemons: list[Daemon]
    unowned: list[int]
    backlog: Backlog
    recent: Recent
    webhooks: dict[str, int]
    failing: list[Failing]


class Step(Shown):
    """`took_ms`: half of the answers, 95 and 99 of 100 took so long at most; null if there were none. `exact`: every attempt
    was counted, none estimated or left out."""

    at: datetime
    exact: bool
    delivered: int
    retried: int
    failed: int
    dropped: int
    took_ms: list[float] | None


class History(Shown):
    """Steps without an attempt are left out."""

    since: datetime
    step_seconds: float
    steps: list[Step]


class HistoryWanted(Given):
    """Left out, `since` is a day ago."""

    since: Moment | None = None
    step: Annotated[Duration, Field(json_schema_extra={"default": "1h"})] = timedelta(hours=1)
    account_id: Number | None = None


async def _status(ask: Ask[None, None]) -> Answer:
    return Answer(Status.model_validate(await insight.status(ask.connection)))


async def _history(ask: Ask[HistoryWanted, None]) -> Answer:
    account_id = await ask.account(ask.query.account_id)
    now, step = datetime.now(UTC), ask.query.step
    since = ask.query.since or now - timedelta(days=1)
    if step < timedelta(seconds=1) or (now - since) / step > _MOST_STEPS:
        says = f"A step is a second or more, and there are {_MOST_STEPS} at most: ask for longer ones, or since a later time."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, says)
    rows = await insight.history(ask.connection, since, step, account_id)
    steps = [Step.model_validate(row) for row in rows]
    return Answer(History(since=since, step_seconds=step.total_seconds(), steps=steps))


OPERATIONS = [
    Operation(
        HTTPMethod.GET, "/status", "showStatus", "Daemons and their shards, what is owed, the last minute, webhooks that fail.",
        "fleet", Who.OPERATOR, _status, Status,
    ),
    Operation(
        HTTPMethod.GET, "/history", "showHistory",
        "What came of attempts over time, and how long they took. Of a long history a part is read: then it is estimated.",
        "fleet", Who.ACCOUNT, _history, History, query=HistoryWanted,
    ),
]  # fmt: skip
