"""Writeback: attempts and verdicts into PostgreSQL, many in one statement.

What is not written exists only in memory, so nothing here is ever given up: while the database is away, outcomes wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import assert_never

import asyncpg

from bisd import db, log
from bisd.health import Report
from bisd.model import Answer, Fault, NoResponse, Outcome, Refusal, Response, Timings

_BATCH = 500
_LINGER = 0.020


class Writeback:
    """Collects outcomes and settles them.

    `written` is told what is in the database: the outcomes of a batch, and which deliveries (webhook id, event id) of it the
    fence kept as they were, because another owner has dealt with them.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[db.Connection]],
        written: Callable[[list[Outcome], set[tuple[int, int]]], None],
    ) -> None:
        self._connect = connect
        self._written = written
        self._connection: db.Connection | None = None
        self._waiting: list[Outcome] = []
        self._reports: list[Report] = []
        self._lost = False
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._log = log.get()

    def add(self, outcome: Outcome) -> None:
        self._waiting.append(outcome)
        self._none.clear()
        self._some.set()

    def report(self, report: Report) -> None:
        """What is to be said of a webhook, after what came of its deliveries."""
        self._reports.append(report)
        self._none.clear()
        self._some.set()

    async def drained(self) -> None:
        """Waits until everything that was added is in the database."""
        await self._none.wait()

    async def run(self) -> None:
        """Writes for as long as it is not cancelled; cancel it only when it is drained."""
        try:
            while True:
                await self._some.wait()
                if len(self._waiting) < _BATCH:
                    await asyncio.sleep(_LINGER)
                await self._settle()
        finally:
            if self._connection is not None:
                self._connection.terminate()

    async def _settle(self) -> None:
        batch, reports = self._waiting[:_BATCH], self._reports
        del self._waiting[:_BATCH]
        self._reports = []
        rows: list[asyncpg.Record] = []
        async for attempt in db.outliving(self._lose):
            with attempt:
                if self._connection is None:
                    self._connection = await self._connect()
                if reports:
                    rows = await _write_both(self._connection, batch, reports)
                else:
                    rows = await _write(self._connection, batch)
        self._lost = False
        if not self._waiting and not self._reports:
            self._some.clear()
            self._none.set()
        for report in reports:
            if report.deactivate is not None:
                self._log.warning(log.Event.WEBHOOK_DEACTIVATED, webhook_id=report.webhook_id, reason=report.deactivate)
        fenced = {(row["webhook_id"], row["event_id"]) for row in rows}
        if fenced:
            self._log.warning(log.Event.WRITEBACK_FENCED, count=len(fenced))
        self._written(batch, fenced)

    def _lose(self, fault: BaseException) -> None:
        if not self._lost:
            self._lost = True
            self._log.warning(log.Event.DATABASE_LOST, error=type(fault).__name__, what="writeback")
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _write(connection: db.Connection, batch: list[Outcome]) -> list[asyncpg.Record]:
    """The deliveries that the fence kept as they were."""
    return await connection.fetch(db.query("settle"), *zip(*map(_row, batch), strict=True))


async def _write_both(connection: db.Connection, batch: list[Outcome], reports: list[Report]) -> list[asyncpg.Record]:
    """In one transaction: what a webhook's row says of its failures must fit the attempts that are on record."""
    async with connection.transaction():
        rows = await _write(connection, batch) if batch else []
        await connection.execute(db.query("report"), *zip(*map(_report, reports), strict=True))
    return rows


def _row(outcome: Outcome) -> tuple[object, ...]:
    """The parameters of queries/settle.sql for one outcome."""
    delivery, attempted_at, answer, verdict = outcome
    posted, status, code, timings, body = _columns(answer)
    owed = outcome.owed()
    return (
        delivery.webhook_id,
        delivery.event_id,
        delivery.event_created_at,
        delivery.attempts,
        owed.due_at if owed is not None else None,
        verdict.word,
        delivery.attempts + 1 if posted else None,
        attempted_at,
        status,
        code,
        *timings,
        body,
        delivery.test,
    )


def _report(report: Report) -> tuple[object, ...]:
    """The parameters of queries/report.sql for one webhook."""
    return (report.webhook_id, *report.standing, report.deactivates_at, report.deactivate, report.last_error)


def _columns(answer: Answer | None) -> tuple[bool, int | None, str | None, Timings | tuple[None, ...], bytes | None]:
    """Whether there was a POST, and its status, code, timings and answer."""
    match answer:
        case Response(status=status, body=body, timings=timings):
            return True, status, None, timings, body or None
        case NoResponse(code=code, timings=timings):
            return True, None, code, timings, None
        case Refusal(code=code) | Fault(code=code):
            return False, None, code, (None,) * 4, None
        case None:
            return False, None, None, (None,) * 4, None
        case _:
            assert_never(answer)
