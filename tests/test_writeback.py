"""Writeback: outcomes first, and what is to be said of webhooks never so that they would wait for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from bisd import db
from bisd.delivery.writeback import Writeback
from bisd.health import Report
from bisd.model import WELL, Delivered, Delivery, Outcome, Response, Timings
from tests.support.shop import Shop


async def test_reports_do_not_hold_up_outcomes(shop: Shop, dsn: str) -> None:
    """Of three hundred reports not one comes before an outcome that is there already, and fifty before the next one that comes;
    all of them have been made when it is drained."""
    webhook_id = await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify(2)
    rows = await shop.connection.fetch("select event_id, event_created_at, due_at from bisd.delivery order by 1")
    left: list[int] = []

    def outcome(number: int) -> Outcome:
        event_id, created_at, due_at = rows[number]
        delivery = Delivery(webhook_id, event_id, created_at, created_at, due_at, 0, "notification/create", b"{}", 2)
        answer = Response(200, None, b"", Timings(None, None, None, 1.0, 1.0))
        return Outcome(delivery, datetime.now(UTC), answer, Delivered())

    def written(outcomes: list[Outcome], _fenced: set[tuple[int, int]], _seconds: float) -> None:
        if outcomes:
            left.append(len(writeback._reports))
            if len(left) == 1:
                writeback.add(outcome(1))

    writeback = Writeback(lambda: db.connect(dsn), written)
    for number in range(300):
        writeback.report(Report(webhook_id + number, WELL, None, None, ""))
    writeback.add(outcome(0))
    running = asyncio.create_task(writeback.run())
    await writeback.drained()
    running.cancel()
    assert [300, 250] == left
    assert 0 == await shop.owed()
