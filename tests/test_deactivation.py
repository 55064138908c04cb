"""What becomes of a webhook that keeps failing: it is parked, its owner is warned, it is switched off; and how it goes on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from bisd.config import Config, DeactivationConfig
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


def _config(ca_file: Path, min_attempts: int = 8, failing_for: float = 0.001, wait: float = 0.05, **delivery: object) -> Config:
    """Deactivates after so many failures, as good as at once; tries again after `wait` seconds, for ever."""
    config = configure(ca_file, **delivery)
    return replace(
        config,
        retry=replace(config.retry, schedule=[timedelta(seconds=wait)], max_attempts=1000),
        deactivation=DeactivationConfig(timedelta(seconds=failing_for), min_attempts),
    )


async def _health(shop: Shop, webhook_id: int) -> asyncpg.Record:
    row: asyncpg.Record | None = await shop.connection.fetchrow(
        "select * from bisd.webhook_health where webhook_id = $1", webhook_id
    )
    assert row is not None
    return row


async def _is(shop: Shop, webhook_id: int, state: str) -> bool:
    return str((await _health(shop, webhook_id))["state"]) == state


async def _news(shop: Shop) -> list[str]:
    """What the application was told, in order."""
    rows = await shop.connection.fetch("select topic from bisd.webhook_event order by event_id")
    return [row["topic"].removeprefix("webhook/") for row in rows]


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _owes(shop: Shop, number: int) -> bool:
    return await shop.owed() == number


async def test_fifty_failures_at_once_are_one_deactivation(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """50 deliveries in flight are answered 500 at the same moment: the webhook is switched off once, and one event says so."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    await shop.subscribe("webhook/deactivated", receiver.url + "owner")
    together = asyncio.Barrier(50)
    failing = False

    async def answer(request: web.Request) -> web.StreamResponse:
        if not failing or request.path == "/owner":
            await asyncio.sleep(0.1)  # beside which it is no delay that a busy machine makes
            return web.Response()
        await together.wait()
        return web.Response(status=500)

    receiver.answer = answer
    async with running(_config(ca_file, 20, wait=60, max_in_flight_per_webhook=64), dsn):
        await shop.notify(1_600)  # so that it may have 50 in flight
        await receiver.received(1_600)
        await eventually(lambda: _nothing_owed(shop))
        failing = True
        await shop.notify(50)
        await receiver.received(1_651)
        await eventually(lambda: _counts(shop, webhook_id, 50))
    assert (await _news(shop)).count("deactivated") == 1
    assert [got.path for got in receiver.requests].count("/owner") == 1
    assert await shop.statuses() == [("delivered", 1, 200, None)] * 1_600 + [("held", 1, 500, "status")] * 50 + [
        ("delivered", 1, 200, None)
    ]


async def _counts(shop: Shop, webhook_id: int, failed: int) -> bool:
    return bool(
        failed
        == await shop.connection.fetchval(
            "select count(*) from bisd.attempt where webhook_id = $1 and verdict <> 'delivered'", webhook_id
        )
    )


async def test_the_owner_is_warned_and_then_told(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Warnings at 50 and 75 %, then the deactivation: each an event with the reason in plain words, which the account's other
    webhooks receive."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    await shop.connection.execute("select bisd.set_webhook($1, $2)", webhook_id, '{"description": "CRM"}')
    for topic in ("webhook/failing", "webhook/deactivated"):
        await shop.subscribe(topic, receiver.url + topic)
    receiver.answer = _fail_at("/")
    async with running(_config(ca_file), dsn):
        await shop.notify()
        await receiver.received(8 + 3)
    assert [got.headers["X-BIS-Attempt"] for got in receiver.requests if got.path == "/"] == [str(n) for n in range(1, 9)]
    first, second, last = [json.loads(got.body) for got in receiver.requests if got.path != "/"]
    assert [(told["topic"], told["failures"]) for told in (first, second, last)] == [
        ("webhook/failing", 4), ("webhook/failing", 6), ("webhook/deactivated", 8),
    ]  # fmt: skip
    assert list(last) == [
        "webhook_id", "topic", "timestamp", "webhook", "note", "failing_since", "failures", "deactivates_at",
    ]  # fmt: skip
    assert (last["webhook_id"], last["webhook"]) == (webhook_id, {"topic": "notification/create", "description": "CRM"})
    assert first["note"] == (
        f"failing since {first['failing_since']}: 4 attempts, the last one with status 500; "
        f"without a success it is deactivated at {first['deactivates_at']}"
    )
    assert last["note"] == (
        f"deactivated at {last['timestamp']}: no success since {last['failing_since']}, "
        "8 attempts failed, the last one with status 500"
    )
    health = await _health(shop, webhook_id)
    assert (health["state"], health["note"], health["backlog"], health["streak"]) == ("deactivated", last["note"], 1, 8)


def _fail_at(path: str, status: int = 500) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status if request.path == path else 200)

    return answer


async def test_the_application_hears(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """With the application's few rights: LISTEN bisd_webhook is told of the deactivation, and bisd.webhook_event has it."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [410]
    heard: asyncio.Queue[str] = asyncio.Queue()
    application = await asyncpg.connect(dsn)
    await application.execute("set role bisd_app")
    await application.add_listener("bisd_webhook", lambda *notification: heard.put_nowait(notification[-1]))
    async with running(_config(ca_file), dsn):
        await shop.notify()
        async with asyncio.timeout(20):
            news = json.loads(await heard.get())
        assert news == {"webhook_id": webhook_id, "topic": "webhook/deactivated"}
        row = await application.fetchrow("select webhook_id, account_id, topic, body::text from bisd.webhook_event")
        assert row is not None
        assert tuple(row)[:3] == (webhook_id, shop.account_id, "webhook/deactivated")
        assert json.loads(row["body"])["note"].endswith(": its receiver answered 410, gone for good")
    await application.close()
    assert heard.empty()


async def test_a_webhook_is_not_told_of_itself(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Of two webhooks for webhook/failing one fails: the other receives both warnings, it is not owed them itself."""
    failing = await shop.subscribe("webhook/failing", receiver.url + "failing")
    await shop.subscribe("webhook/failing", receiver.url + "well")
    receiver.answer = _fail_at("/failing")
    async with running(_config(ca_file), dsn):
        await shop.connection.execute("select bisd.emit($1, 'webhook/failing', '{}')", shop.account_id)
        await eventually(lambda: _is(shop, failing, "deactivated"))
        await eventually(lambda: _came(receiver, "/well", 3))
    told = [json.loads(got.body) for got in receiver.requests if got.path == "/well"]
    assert [body.get("webhook_id") for body in told] == [None, failing, failing]
    assert await shop.connection.fetch("select event_id from bisd.delivery where webhook_id = $1", failing) == [(1,)]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_gone_deactivates_at_once(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, by_hand: bool) -> None:
    """410 is enough, once; the row says why, and what is owed is held; whether it was switched on by bisd.enable_webhook or in
    the table."""
    webhook_id = await shop.subscribe("notification/create", receiver.url, enable=not by_hand)
    if by_hand:
        await shop.connection.execute("update bisd.webhook set enabled = true where id = $1", webhook_id)
    receiver.statuses = [410]
    async with running(_config(ca_file, min_attempts=1000, failing_for=86_400), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, webhook_id, "deactivated"))
        await shop.notify()
        await _marker(shop, receiver)
    assert [got.path for got in receiver.requests] == ["/", "/marker"]
    assert await shop.connection.fetchval("select off_reason from bisd.webhook where id = $1", webhook_id) == "gone"
    assert await shop.statuses() == [("held", 1, 410, "status"), ("delivered", 1, 200, None)]


async def _marker(shop: Shop, receiver: Receiver) -> None:
    """Something that arrives later than all that was to arrive."""
    await shop.subscribe("marker", receiver.url + "marker")
    await shop.connection.execute("select bisd.emit($1, 'marker', '{}')", shop.account_id)
    await eventually(lambda: _came(receiver, "/marker"))


async def _came(receiver: Receiver, path: str, number: int = 1) -> bool:
    return [got.path for got in receiver.requests].count(path) >= number


async def test_a_success_in_time_prevents_it(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Seven failures of eight, a success, and again: never deactivated. After a warning the owner is told of the recovery;
    where there was no warning, of nothing."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500] * 7 + [200] + [500] * 7 + [200] + [500] * 3 + [200]
    async with running(_config(ca_file), dsn):
        for requests in (8, 16, 20):
            await shop.notify()
            await receiver.received(requests)
            await eventually(lambda: _nothing_owed(shop))
    assert await _news(shop) == ["failing", "failing", "recovered"] * 2
    health = await _health(shop, webhook_id)
    assert (health["state"], health["streak"], health["failing_since"]) == ("well", 0, None)
    assert health["success_rate"] == 0.15


async def test_not_before_its_time(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """However many attempts failed, a webhook is deactivated only when nothing was taken for failing_for."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.answer = _fail_at("/")
    async with running(_config(ca_file, 2, failing_for=1.5), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, webhook_id, "deactivated"))
    assert receiver.requests[-1].at - receiver.requests[0].at >= 1.4


async def test_our_own_faults_never_count(shop: Shop, ca_file: Path, dsn: str) -> None:
    """What we refuse to send is not the receiver's failure: nobody is warned, parked or deactivated."""
    webhook_id = await shop.subscribe("notification/create", "https://localhost:1/")
    config = _config(ca_file, 2)
    async with running(replace(config, egress=replace(config.egress, allow=[])), dsn):
        for _ in range(3):
            await shop.notify(10)
            await eventually(lambda: _nothing_owed(shop))
    assert await shop.statuses() == [("refused", 0, None, "refused_url")] * 30
    assert await _news(shop) == []
    assert await _is(shop, webhook_id, "well")


async def test_held_deliveries_resume(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Switched on again, all that was held goes out at once: what would have been tried in an hour, and what is older than
    deliveries live."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.answer = _fail_at("/", 410)
    await shop.notify(20)
    async with running(_config(ca_file, wait=3600), dsn):
        await eventually(lambda: _is(shop, webhook_id, "deactivated"))
        await eventually(lambda: _counts(shop, webhook_id, len(receiver.requests)))
        assert await shop.owed() == 20
        await shop.connection.execute("update bisd.delivery set owed_since = now() - interval '40 days'")
        receiver.answer = None
        await shop.connection.execute("select bisd.enable_webhook($1)", webhook_id)
        await eventually(lambda: _nothing_owed(shop))
    assert {row[0] for row in await shop.statuses()} == {"delivered"}
    assert (await _health(shop, webhook_id))["state"] == "well"
    assert await _news(shop) == ["deactivated"]


async def test_held_deliveries_are_discarded_on_demand(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Switched on with 'discard', nothing of what was held is sent: it is cancelled, and what happens from then on arrives."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [410]
    async with running(_config(ca_file), dsn):
        await shop.notify()
        await eventually(lambda: _is(shop, webhook_id, "deactivated"))
        await shop.connection.execute("select bisd.enable_webhook($1, 'discard')", webhook_id)
        await shop.notify()
        await receiver.received(2)
    assert [got.id for got in receiver.requests] == ["evt_1", "evt_3"]
    assert await shop.statuses() == [("cancelled", 1, 410, "status"), ("delivered", 1, 200, None)]


async def test_a_restart_in_the_middle_changes_nothing(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """The count goes on from the history: eight failures in all, whoever saw them, two warnings and one deactivation."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.answer = _fail_at("/")
    config = _config(ca_file, wait=0.3)
    async with running(config, dsn):
        await shop.notify()
        await eventually(lambda: _warned(shop))
    assert len(receiver.requests) < 8
    async with running(config, dsn):
        await eventually(lambda: _is(shop, webhook_id, "deactivated"))
    async with running(config, dsn):
        await _marker(shop, receiver)
    assert [got.path for got in receiver.requests] == ["/"] * 8 + ["/marker"]
    assert await _news(shop) == ["failing", "failing", "deactivated"]


async def _warned(shop: Shop) -> bool:
    return "failing" in await _news(shop)


async def test_a_parked_webhook_drains_without_a_burst(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """10,000 owed to a receiver that fails: a few requests and then one probe from time to time, over a restart too, while the
    others are served; when it recovers, all arrive, at a rate that grows."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    await shop.subscribe("other", receiver.url + "other")
    receiver.answer = _fail_at("/")
    config = _config(ca_file, 1000, 86_400, wait=3600, max_in_flight_per_webhook=64)
    await shop.notify(10_000)
    async with running(config, dsn):
        await eventually(lambda: _is(shop, webhook_id, "parked"))
        parked = await _health(shop, webhook_id)
        assert f"; parked, next probe at {parked['next_probe_at']:%Y-%m-%dT%H:%M:%SZ}" in parked["note"]
        assert (parked["backlog"], parked["success_rate"]) == (10_000, 0.0)
        for _ in range(100):
            await shop.connection.execute("select bisd.emit($1, 'other', '{}')", shop.account_id)
        await eventually(lambda: _came(receiver, "/other", 100), 3)
        await eventually(lambda: _probed(shop, webhook_id))
    tried = _at(receiver, "/")
    assert len(tried) <= 12
    async with running(config, dsn):
        await _marker(shop, receiver)
        assert len(_at(receiver, "/")) <= len(tried) + 1
        assert await shop.connection.fetchval("select count(*) from bisd.delivery where attempts = 0") >= 9_985
        receiver.answer = None
        await eventually(lambda: _is(shop, webhook_id, "well"))
        recovered = len(tried)
        # What was tried before waits for its hour.
        await shop.connection.execute("select bisd.retry(event_id, webhook_id) from bisd.delivery where attempts > 0")
        await eventually(lambda: _nothing_owed(shop), 60)
    arrived = _at(receiver, "/")[recovered:]
    assert len(arrived) <= 10_001
    within = {seconds: sum(at < arrived[0] + seconds for at in arrived) for seconds in (1, 3, 5)}
    assert within[1] <= 60 and within[3] <= 400 and within[5] <= 1_600, within


def _at(receiver: Receiver, path: str) -> list[float]:
    """When the requests for this path came."""
    return [got.at for got in receiver.requests if got.path == path]


async def _probed(shop: Shop, webhook_id: int) -> bool:
    return bool(await shop.connection.fetchval("select probes > 0 from bisd.webhook where id = $1", webhook_id))


async def test_one_poison_body_parks_nothing(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A body that is answered 500 ten times in a row, while nothing else is sent, does not park its webhook: the others go at
    once."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500 if request.headers["webhook-id"] == "evt_1" else 200)

    receiver.answer = answer
    async with running(_config(ca_file, 1000, 86_400), dsn):
        await shop.notify()
        await receiver.received(10)
        assert await _is(shop, webhook_id, "well") or await _is(shop, webhook_id, "failing")
        assert await shop.connection.fetchval("select next_probe_at from bisd.webhook") is None
        await shop.notify(500)
        await receiver.received_events(501, 5)
        await eventually(lambda: _owes(shop, 1))
    assert await shop.connection.fetchval("select next_probe_at from bisd.webhook") is None
    assert receiver.ids()["evt_1"] >= 10
