"""Again, or no more: retry, cancel, replay. What is sent again is the same event: the same webhook-id, the same bytes."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from bisd.config import Config
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


def _patient(ca_file: Path) -> Config:
    """Waits an hour before it tries again."""
    config = configure(ca_file)
    return replace(config, retry=replace(config.retry, schedule=[timedelta(hours=1)]))


async def _owes(shop: Shop, number: int) -> bool:
    return await shop.owed() == number


async def _is(shop: Shop, event_id: int, state: str) -> bool:
    query = "select state from bisd.delivery_status where event_id = $1"
    return bool(await shop.connection.fetchval(query, event_id) == state)


async def _now(shop: Shop) -> datetime:
    now = await shop.connection.fetchval("select clock_timestamp()")
    assert isinstance(now, datetime)
    return now


async def _retry(shop: Shop, event_id: int, webhook_id: int) -> bool:
    return bool(await shop.connection.fetchval("select bisd.retry($1, $2)", event_id, webhook_id))


async def _cancel(shop: Shop, event_id: int, webhook_id: int) -> bool:
    return bool(await shop.connection.fetchval("select bisd.cancel($1, $2)", event_id, webhook_id))


async def _replay(
    shop: Shop, webhook_id: int, since: datetime, until: datetime | None = None, failed: bool = False, rate: float = 1000
) -> int:
    query = "select bisd.replay($1, $2, $3, $4, $5)"
    return int(await shop.connection.fetchval(query, webhook_id, since, until, failed, rate))


async def test_a_failed_delivery_goes_again(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Retried after it was given up: another POST with the same id and the same bytes, its attempts counted from 1 again."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500, 500, 500]
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, 1, "failed"))
        assert await _retry(shop, 1, webhook_id)
        await receiver.received(4)
        await eventually(lambda: _is(shop, 1, "delivered"))
        assert await _retry(shop, 1, webhook_id)
        await receiver.received(5)
    assert len({(got.id, got.body) for got in receiver.requests}) == 1
    assert [got.headers["X-BIS-Attempt"] for got in receiver.requests] == ["1", "2", "3", "1", "1"]
    assert await shop.statuses() == [("delivered", 1, 200, None)]
    assert await shop.connection.fetchval("select count(*) from bisd.attempt") == 5


async def test_a_waiting_delivery_goes_now(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Due in an hour, retried: it goes at once, as its second attempt."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500]
    async with running(_patient(ca_file), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, 1, "retrying"))
        assert await _retry(shop, 1, webhook_id)
        await receiver.received(2)
        await eventually(lambda: _is(shop, 1, "delivered"))
    assert [got.headers["X-BIS-Attempt"] for got in receiver.requests] == ["1", "2"]


async def test_what_is_unknown_is_not_retried_or_cancelled(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """False: an event there is not, one that was never owed; cancelling what is settled; retrying at a removed webhook."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    other = await shop.subscribe("notification/sent", receiver.url)
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, 1, "delivered"))
        for event, webhook in ((99, webhook_id), (1, other), (1, 99)):
            assert not await _retry(shop, event, webhook)
            assert not await _cancel(shop, event, webhook)
        assert not await _cancel(shop, 1, webhook_id)
        await shop.connection.execute("select bisd.remove_webhook($1)", webhook_id)
        assert not await _retry(shop, 1, webhook_id)
    assert len(receiver.requests) == 1
    assert await shop.owed() == 0


async def test_what_is_cancelled_is_not_sent(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Cancelled while it waits to be tried again: no further POST, its attempts are remembered; the next event goes."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500]
    config = configure(ca_file)
    async with running(replace(config, retry=replace(config.retry, schedule=[timedelta(seconds=1)])), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, 1, "retrying"))
        assert await _cancel(shop, 1, webhook_id)
        assert not await _cancel(shop, 1, webhook_id)
        requests, would_be_due = 1, time.monotonic() + 1.5
        while time.monotonic() < would_be_due:
            await shop.notify()
            requests += 1
            await receiver.received(requests)
    assert receiver.ids()["evt_1"] == 1
    assert (await shop.statuses())[0] == ("cancelled", 1, 500, "status")


async def test_an_answer_on_its_way_counts(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Cancelled while its POST is under way: nothing goes wrong, the answer is on record, and there is no further attempt."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    cancelled = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers["webhook-id"] == "evt_1":
            await cancelled.wait()
            return web.Response(status=503)
        return web.Response()

    receiver.answer = answer
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await receiver.received(1)
        assert await _cancel(shop, 1, webhook_id)
        cancelled.set()
        await eventually(lambda: _answered(shop, 503))
        await shop.notify()
        await receiver.received(2)
    assert [got.id for got in receiver.requests] == ["evt_1", "evt_2"]
    assert await shop.statuses() == [("cancelled", 1, 503, "status"), ("delivered", 1, 200, None)]


async def _answered(shop: Shop, status: int) -> bool:
    return bool(await shop.connection.fetchval("select exists (select from bisd.attempt where status = $1)", status))


async def test_a_window_is_replayed(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """All that happened from one time until before another goes again, as it was, and nothing else; asked for twice before it
    is sent, it is owed once."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    times = []
    async with running(configure(ca_file), dsn):
        for _ in range(3):
            times.append(await _now(shop))
            await shop.notify(10)
        await receiver.received(30)
        await eventually(lambda: _owes(shop, 0))
        async with shop.connection.transaction():
            assert await _replay(shop, webhook_id, times[1], times[2]) == 10
            assert await _replay(shop, webhook_id, times[1], times[2]) == 0
        await receiver.received(40)
        await eventually(lambda: _owes(shop, 0))
        assert await _replay(shop, webhook_id, times[2]) == 10
        await receiver.received(50)
    counts = receiver.ids()
    assert [counts[f"evt_{number}"] for number in range(1, 31)] == [1] * 10 + [2] * 20
    assert len({(got.id, got.body) for got in receiver.requests}) == 30


async def test_only_what_failed_is_replayed(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Of twelve, what failed, expired and was refused goes again; what was taken, and what was cancelled, does not."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    since = await _now(shop)
    async with running(configure(ca_file), dsn):
        await shop.notify(12)
        await receiver.received(12)
        await eventually(lambda: _owes(shop, 0))
        await shop.connection.execute(
            "update bisd.attempt set verdict = (array['failed', 'expired', 'refused', 'cancelled'])[event_id]::bisd.verdict "
            "where event_id <= 4"
        )
        assert await _replay(shop, webhook_id, since, failed=True) == 3
        await receiver.received(15)
        await eventually(lambda: _owes(shop, 0))
        assert await _replay(shop, webhook_id, since, failed=True) == 0
    assert sorted(receiver.ids().items()) == sorted({f"evt_{n}": 2 if n <= 3 else 1 for n in range(1, 13)}.items())


async def test_what_was_missed_is_replayed(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What happened while the webhook was switched off was kept, and a replay sends it, as far as its filter lets it pass."""
    webhook_id = await shop.subscribe("order/paid", receiver.url, enable=False)
    since = await _now(shop)
    async with running(configure(ca_file), dsn):
        await shop.connection.execute(
            "select bisd.emit($1, 'order/paid', json_build_object('n', n)) from generate_series(1, 20) n", shop.account_id
        )
        await shop.connection.execute("select bisd.send_test($1)", webhook_id)  # not an event to replay
        await receiver.received(1)
        await shop.connection.execute("select bisd.set_webhook($1, $2)", webhook_id, json.dumps({"filter": "$.n > 15"}))
        await shop.connection.execute("select bisd.enable_webhook($1)", webhook_id)
        await eventually(lambda: _owes(shop, 0))
        assert await _replay(shop, webhook_id, since) == 5
        await receiver.received(6)
    assert sorted(json.loads(got.body)["n"] for got in receiver.requests[1:]) == [16, 17, 18, 19, 20]


async def test_a_replay_is_paced_and_can_be_taken_back(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Of 5,000 replayed at 100 per second, a few go while a fresh event overtakes the rest; the rest is taken back."""
    webhook_id = await shop.subscribe("notification/create", receiver.url, enable=False)
    since = await _now(shop)
    await shop.notify(5_000)
    await shop.connection.execute("select bisd.enable_webhook($1)", webhook_id)
    async with running(configure(ca_file), dsn):
        began = time.monotonic()
        assert await _replay(shop, webhook_id, since, rate=100) == 5_000
        await receiver.received(50)
        await shop.notify()
        await eventually(lambda: _got(receiver, "evt_5001"))
        overtaken = 5_000 - len(receiver.requests)
        cancelled = await shop.connection.fetchval("select bisd.cancel_replay($1)", webhook_id)
        took = time.monotonic() - began
        for number in range(5_002, 5_012):  # while the next hundred would have had their turn
            await shop.connection.execute("select pg_sleep(0.1)")
            await shop.notify()
            await eventually(lambda name=f"evt_{number}": _got(receiver, name))  # type: ignore[misc]
    sent = len(receiver.requests) - 11
    assert overtaken > 2_500
    assert 50 <= sent <= 100 * took + 50
    assert 5_000 - cancelled <= sent <= 5_000 - cancelled + 20  # what was under way when it was cancelled
    assert set(receiver.ids().values()) == {1}


async def test_a_replay_that_failed_resumes_at_once(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Switched on again, what a replay owed and what was tried already goes now; what has its turn later keeps it."""
    webhook_id = await shop.subscribe("notification/create", receiver.url, enable=False)
    since = await _now(shop)
    await shop.notify(2)
    await shop.connection.execute("select bisd.enable_webhook($1)", webhook_id)
    receiver.statuses = [410]
    async with running(_patient(ca_file), dsn):
        assert await _replay(shop, webhook_id, since, rate=0.001) == 2
        await eventually(lambda: _is(shop, 1, "held"))
        await shop.connection.execute("select bisd.enable_webhook($1)", webhook_id)
        await eventually(lambda: _is(shop, 1, "delivered"))
    assert receiver.ids() == {"evt_1": 2}
    assert await shop.statuses() == [("delivered", 2, 200, None), ("pending", 0, None, None)]


async def _got(receiver: Receiver, name: str) -> bool:
    return name in receiver.ids()


async def test_a_hundred_thousand_are_replayed_in_one_call(shop: Shop) -> None:
    """100,000 in one statement, failed ones only, in seconds; taking them back is as quick."""
    webhook_id = await shop.subscribe("notification/create", "https://example.com/", enable=False)
    since = await _now(shop)
    await shop.notify(100_000)
    await shop.connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status) "
        "select id, $1, created_at, created_at, 1, 'failed', 500 from bisd.event",
        webhook_id,
    )
    async with asyncio.timeout(20):
        assert await _replay(shop, webhook_id, since, failed=True) == 100_000
    last = await shop.connection.fetchval("select max(due_at) - min(due_at) from bisd.delivery")
    assert last == timedelta(seconds=99.999)
    async with asyncio.timeout(10):
        assert await shop.connection.fetchval("select bisd.cancel_replay($1)", webhook_id) == 100_000


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("select bisd.replay(99, now() - interval '1 h', now(), false)", "there is no webhook 99"),
        ("select bisd.replay(1, now(), now() - interval '1 h', false)", "nothing can have happened from"),
        ("select bisd.replay(1, null, now(), false)", "nothing can have happened from no known time"),
        ("select bisd.replay(1, now() + interval '1 h', null, false)", "nothing can have happened from"),
        ("select bisd.replay(1, now() - interval '1 h', now(), false, 0)", "cannot send 0 per second"),
        ("select bisd.replay(1, now() - interval '1 h', now(), false, 'nan')", "cannot send NaN per second"),
        ("select bisd.replay(1, now() - interval '1 h', now(), false, null)", "cannot send an unknown number per second"),
        ("select bisd.cancel_replay(99)", "there is no webhook 99"),
    ],
)
async def test_a_replay_is_refused_with_a_reason(call: str, reason: str, shop: Shop) -> None:
    """A time that is none, a rate that is none, a webhook that is none."""
    await shop.subscribe("notification/create", "https://example.com/")
    with pytest.raises(asyncpg.PostgresError, match=reason) as refusal:
        await shop.connection.execute(call)
    assert refusal.value.sqlstate == "BISD0"
