"""Writeback: attempts and verdicts into PostgreSQL, many in one statement.

What is not written exists only in memory, so nothing here is ever given up: while the database is away, outcomes wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container
from time import monotonic
from typing import assert_never

import asyncpg

from bisd import db, log
from bisd.health import Report
from bisd.model import Answer, Code, Delivered, Fault, NoResponse, Outcome, Refusal, Response, shard_of

_BATCH = 500
_LINGER = 0.040
_LOCATION = 200
# So many reports, each a round trip, follow a batch while the next one waits already.
_TOLD = 50
_PUT_OFF = 1.0
# A shard waits for what is to be said of it, until that has been tried so many times.
_TRIES = 3
# So many wait at most, and what was in flight: that much a crash would repeat.
_MOST = 10_000


class Writeback:
    """Collects outcomes and settles them.

    `written` is told what is in the database: the outcomes of a batch, and which deliveries (webhook id, event id) of it the
    fence kept as they were, because another owner has dealt with them; and how many seconds the statement took. `is_sure` is
    asked whether our shards are still ours. `full`: so much waits to be written that nothing more should be sent.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[db.Connection]],
        written: Callable[[list[Outcome], set[tuple[int, int]], float], None],
        is_sure: Callable[[], bool],
    ) -> None:
        self.full = False
        self._connect = connect
        self._written = written
        self._is_sure = is_sure
        self._connection: db.Connection | None = None
        self._outliving = db.outliving(self._lose, db.ANY)
        self._waiting: list[Outcome] = []
        self._writing = 0
        self._reports: dict[int, Report] = {}
        self._put_off: dict[int, Report] = {}
        self._tried: Counter[int] = Counter()
        self._saying: int | None = None
        self._refused: set[int] = set()
        self._later: asyncio.TimerHandle | None = None
        self.trouble = db.Trouble("writeback")
        self._idle = True
        self._turned_at = monotonic()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._log = log.get()

    def __len__(self) -> int:
        """How many outcomes are not in the database yet."""
        return len(self._waiting) + self._writing

    def still(self) -> float:
        """For how many seconds it has tried nothing, though something waits."""
        return 0.0 if self._idle else monotonic() - self._turned_at

    def add(self, outcome: Outcome) -> None:
        self._waiting.append(outcome)
        self.full = len(self._waiting) + self._writing >= _MOST
        self._none.clear()
        self._some.set()

    def report(self, report: Report) -> None:
        """What is to be said of a webhook, after what came of its deliveries. The newest counts."""
        self._put_off.pop(report.webhook_id, None)
        self._reports[report.webhook_id] = report
        self._none.clear()
        self._some.set()

    @property
    def telling(self) -> Collection[int]:
        """The webhooks of which something is still to be said, and has not been tried too often."""
        patient = {one for one in self._put_off if self._tried[one] < _TRIES}
        return self._reports.keys() | patient | ({self._saying} if self._saying is not None else set())

    def forget(self, shards: Container[int]) -> None:
        """Of their webhooks nothing is said any more of what is known now: others may know better, or the row is read again."""
        for reports in (self._reports, self._put_off):
            for webhook_id in [one for one in reports if shard_of(one) in shards]:
                del reports[webhook_id]
                self._tried.pop(webhook_id, None)
        if not (self._waiting or self._writing or self._reports):
            self._none.set()

    async def drained(self) -> None:
        """Waits until every outcome that was added is in the database, and every report has been tried."""
        await self._none.wait()

    async def run(self) -> None:
        """Writes for as long as it is not cancelled; cancel it only when it is drained."""
        try:
            while True:
                self._idle = True
                await self._some.wait()
                self._idle = False
                self._turned_at = monotonic()
                if len(self._waiting) < _BATCH:
                    await asyncio.sleep(_LINGER)
                await self._settle()
        finally:
            if self._connection is not None:
                self._connection.terminate()

    async def _settle(self) -> None:
        batch = self._waiting[:_BATCH]
        del self._waiting[:_BATCH]
        self._writing = len(batch)
        rows: list[asyncpg.Record] = []
        seconds = 0.0
        columns = list(zip(*map(_row, batch), strict=True))
        async for attempt in self._outliving:
            with attempt:
                self._turned_at = monotonic()
                if self._connection is None:
                    self._connection = await self._connect()
                if batch:
                    began = monotonic()
                    rows = await self._connection.fetch(db.query("settle"), *columns)
                    seconds = monotonic() - began
        self.trouble.end()
        self._writing = 0
        self.full = len(self._waiting) >= _MOST
        fenced = {(row["webhook_id"], row["event_id"]) for row in rows}
        if fenced:
            self._log.warning(log.Event.WRITEBACK_FENCED, count=len(fenced))
        self._written(batch, fenced, seconds)
        if self._reports:
            await self._tell()
        if not self._waiting and not self._reports:
            self._some.clear()
            self._none.set()

    async def _tell(self) -> None:
        """Outcomes are in the database: now what is to be said of webhooks, each for itself, and not so much at once that
        outcomes would wait for it. What cannot be said now, as somebody else is changing the row, is said a moment later."""
        for number, webhook_id in enumerate(list(self._reports)):
            if number >= _TOLD and self._waiting:
                break
            if self._connection is None or not self._is_sure():  # whoever owns them now may say how they do
                self._put_off |= self._reports
                self._reports.clear()
                break
            report = self._reports.get(webhook_id)
            if report is None:
                continue  # forgotten meanwhile
            told = await self._say(self._connection, report)
            if told and report.deactivate is not None:
                self._log.warning(log.Event.WEBHOOK_DEACTIVATED, webhook_id=webhook_id, reason=report.deactivate)
            if self._reports.get(webhook_id) is report:  # there is nothing newer to say
                del self._reports[webhook_id]
                if told:
                    self._tried.pop(webhook_id, None)
                else:
                    self._put_off[webhook_id] = report
                    self._tried[webhook_id] += 1
        if self._put_off and self._later is None:
            self._later = asyncio.get_running_loop().call_later(_PUT_OFF, self._tell_again)

    async def _say(self, connection: db.Connection, report: Report) -> bool:
        """Whether it is said. The log is told once what the database refuses: others need not suffer from it."""
        self._turned_at = monotonic()
        self._saying = webhook_id = report.webhook_id
        try:
            told = bool(await connection.fetchval(db.query("report"), *_report(report)))
            self._refused.discard(webhook_id)
            return told
        except db.TRANSIENT as fault:
            self._lose(fault)
        except asyncpg.PostgresError as fault:
            if webhook_id not in self._refused:
                self._refused.add(webhook_id)
                error = type(fault).__name__
                self._log.error(log.Event.REPORT_REFUSED, webhook_id=webhook_id, error=error, reason=str(fault.args[0]))
        finally:
            self._saying = None
        return False

    def _tell_again(self) -> None:
        put_off, self._put_off, self._later = self._put_off, {}, None
        for report in put_off.values():
            if report.webhook_id not in self._reports:
                self.report(report)

    def _lose(self, fault: BaseException) -> None:
        self.trouble.begin(fault)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _row(outcome: Outcome) -> tuple[object, ...]:
    """The parameters of queries/settle.sql for one outcome."""
    delivery, attempted_at, answer, verdict = outcome
    owed = outcome.owed()
    return (
        delivery.webhook_id,
        delivery.event_id,
        delivery.event_created_at,
        delivery.attempts,
        owed.due_at if owed is not None else None,
        verdict.word,
        delivery.attempts + 1 if isinstance(answer, Response | NoResponse) else None,
        attempted_at,
        *_columns(answer, isinstance(verdict, Delivered)),
        delivery.test,
        delivery.due_at,
    )


def _report(report: Report) -> tuple[object, ...]:
    """The parameters of queries/report.sql."""
    return (report.webhook_id, *report.standing, report.deactivates_at, report.deactivate, report.last_error)


def _columns(answer: Answer | None, taken: bool) -> tuple[object, ...]:
    """Status, code, five timings, answer, whether it was sent twice, and where a redirect led."""
    match answer:
        case Response(status=status, body=body, timings=timings, resent=resent):
            code = None if taken else Code.REDIRECT if 300 <= status < 400 else Code.STATUS
            return status, code, *timings, body or None, resent, _location(answer) if code is Code.REDIRECT else None
        case NoResponse(code=code, timings=timings, resent=resent):
            return None, code, *timings, None, resent, None
        case Refusal(code=code) | Fault(code=code):
            return None, code, None, None, None, None, None, None, False, None
        case None:
            return None, None, None, None, None, None, None, None, False, None
        case _:
            assert_never(answer)


def _location(response: Response) -> str | None:
    """As a person may read it: shortened, and nothing in it that a terminal obeys."""
    return None if response.location is None else ascii(response.location)[1:-1][:_LOCATION]
