"""Writeback: outcomes first, and then what is to be said of webhooks, so that neither waits for the other."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from time import monotonic

import asyncpg
import pytest

from bisd import db, log
from bisd.delivery.writeback import Writeback
from bisd.health import Report
from bisd.model import WELL, Delivered, Delivery, Outcome, Response, Standing, Timings
from tests.support.shop import Shop


async def test_reports_do_not_hold_up_outcomes(shop: Shop, dsn: str) -> None:
    """Of three hundred reports not one comes before an outcome that is there already, and fifty before the next one that comes;
    when no outcome waits, all of the others are made at once."""
    webhook_id = await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify(2)
    rows = await shop.connection.fetch("select event_id, event_created_at, due_at from bisd.delivery order by 1")
    left: list[int] = []

    def outcome(number: int) -> Outcome:
        event_id, created_at, due_at = rows[number]
        delivery = Delivery(webhook_id, event_id, created_at, created_at, due_at, 0, "notification/create", b"{}", 2)
        answer = Response(200, None, b"", Timings(None, None, None, 1.0, 1.0))
        return Outcome(delivery, datetime.now(UTC), answer, Delivered())

    def written(_outcomes: list[Outcome], _fenced: set[tuple[int, int]], _seconds: float) -> None:
        left.append(len(writeback.telling))
        if len(left) == 1:
            writeback.add(outcome(1))

    writeback = Writeback(lambda: db.connect(dsn), written, lambda: True)
    for number in range(300):
        writeback.report(Report(webhook_id + number, WELL, None, None, ""))
    writeback.add(outcome(0))
    running = asyncio.create_task(writeback.run())
    await writeback.drained()
    running.cancel()
    assert [300, 250] == left
    assert 0 == await shop.owed()


async def test_what_cannot_be_said_now_is_said_once_a_second(shop: Shop, dsn: str) -> None:
    """However much else there is to be said while the row is locked; and in the end it is said."""
    webhook_id = await shop.subscribe("notification/create", "https://example.com/")
    tried: list[float] = []

    def asked(query: asyncpg.connection.LoggedQuery) -> None:
        if query.query == db.query("report") and query.args[0] == webhook_id:
            tried.append(monotonic())

    async def connect() -> db.Connection:
        connection = await db.connect(dsn)
        connection.add_query_logger(asked)
        return connection

    writeback = Writeback(connect, lambda *_: None, lambda: True)
    running = asyncio.create_task(writeback.run())
    async with shop.connection.transaction():
        await shop.connection.execute("select from bisd.webhook where id = $1 for update", webhook_id)
        writeback.report(_failing(webhook_id))
        while len(tried) < 3:
            writeback.report(Report(webhook_id + 1, WELL, None, None, ""))
            await writeback.drained()
    assert tried[2] - tried[0] > 1.9
    while await shop.connection.fetchval("select failing_since is null from bisd.webhook where id = $1", webhook_id):
        await asyncio.sleep(0)
    running.cancel()


async def test_what_can_never_be_said_keeps_nothing_back(shop: Shop, dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A report that the database refuses keeps no other back, ends no session, however often tried. It is logged once."""
    log.configure("warning", "json")
    first, second = [await shop.subscribe("notification/create", "https://example.com/") for _ in range(2)]
    tried = Counter[str]()

    def asked(query: asyncpg.connection.LoggedQuery) -> None:
        tried[query.args[-1]] += query.query == db.query("report")

    async def connect() -> db.Connection:
        tried["sessions"] += 1
        connection = await db.connect(dsn)
        connection.add_query_logger(asked)
        return connection

    writeback = Writeback(connect, lambda *_: None, lambda: True)
    writeback.report(_failing(first)._replace(last_error="\0"))
    writeback.report(_failing(second))
    running = asyncio.create_task(writeback.run())
    while tried["\0"] < 3:
        await asyncio.sleep(0)
    running.cancel()
    assert {"\0": 3, "500": 1, "sessions": 1} == tried
    standing = dict(await shop.connection.fetch("select id, failing_since is null from bisd.webhook"))
    assert {first: True, second: False} == standing
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [("report_refused", first)] == [(line["event"], line["webhook_id"]) for line in lines]
    assert first not in writeback.telling


async def test_what_is_being_said_is_known_to_be(shop: Shop, dsn: str) -> None:
    """A report that was forgotten on its way, as a session was lost, may still be taken: until that is known, its
    row is not to be read."""
    webhook_id = await shop.subscribe("notification/create", "https://example.com/")
    writeback = Writeback(lambda: db.connect(dsn), lambda *_: None, lambda: True)
    running = asyncio.create_task(writeback.run())
    async with shop.connection.transaction():
        await shop.connection.execute("lock table bisd.webhook")
        writeback.report(_failing(webhook_id))
        while not await shop.connection.fetchval("select count(*) from pg_locks where not granted"):
            await asyncio.sleep(0)
        writeback.forget(range(64))
        assert {webhook_id} == set(writeback.telling)
    while writeback.telling:
        await asyncio.sleep(0)
    running.cancel()
    assert not await shop.connection.fetchval("select failing_since is null from bisd.webhook where id = $1", webhook_id)


def _failing(webhook_id: int) -> Report:
    now = datetime.now(UTC)
    return Report(webhook_id, Standing(now, 3, 0, None, 0), now + timedelta(days=5), None, "500")
