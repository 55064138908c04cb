"""The main job, end to end: a row is committed, a signed POST arrives over TLS, and what came of it is in the database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import standardwebhooks
from aiohttp import web

from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import SEED_BODY, SEED_ROW, SEED_SENT, Shop, eventually


async def test_row_changes_arrive_as_the_documented_requests(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """INSERT is notification/create, sent_at set is notification/sent; the body is the documentation's, byte for byte."""
    for topic in ("notification/create", "notification/sent"):
        await shop.subscribe(topic, receiver.url + topic)
    async with running(configure(ca_file), dsn):
        await shop.connection.execute(SEED_ROW, shop.account_id)
        (create,) = await receiver.received(1)
        assert create.headers["X-BIS-Topic"] == "notification/create"
        assert b'"topic":"notification/create","timestamp":"2023-09-09T14:33:10Z"' in create.body
        await shop.connection.execute(SEED_SENT)
        _, sent = await receiver.received(2)
    assert sent.path == "/notification/sent"
    assert sent.body == SEED_BODY
    assert sent.headers["Content-Type"] == "application/json"
    assert await shop.statuses() == [("delivered", 1, 200, None)] * 2
    assert await shop.owed() == 0


async def test_sent_happens_once(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Taking sent_at back and setting it again is no second notification/sent; a row inserted as sent is one."""
    await shop.subscribe("notification/sent", receiver.url)
    async with running(configure(ca_file), dsn):
        await shop.connection.execute(SEED_ROW, shop.account_id)
        await shop.connection.execute(SEED_SENT)
        await shop.connection.execute("update bisd.notification set sent_at = null")
        await shop.connection.execute(SEED_SENT)
        await shop.connection.execute(
            "insert into bisd.notification (account_id, sku, sent_at) values ($1, 'last', now())", shop.account_id
        )
        await eventually(lambda: _contains(receiver, b'"sku":"last"'))
    assert len(receiver.requests) == 2


async def _contains(receiver: Receiver, part: bytes) -> bool:
    return any(part in got.body for got in receiver.requests)


async def test_signatures_verify_independently(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """X-BIS-Signature is what hmac and openssl compute; the webhook-* headers satisfy the Standard Webhooks library."""
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file), dsn):
        await shop.notify()
        (got,) = await receiver.received(1)
    expected = base64.b64encode(hmac.new(shop.key.encode(), got.body, hashlib.sha256).digest()).decode()
    assert got.headers["X-BIS-Signature"] == expected
    if shutil.which("openssl"):
        command = ["openssl", "dgst", "-sha256", "-hmac", shop.key, "-binary"]
        openssl = subprocess.run(command, input=got.body, capture_output=True, check=True)
        assert base64.b64encode(openssl.stdout).decode() == expected
    library = standardwebhooks.Webhook("whsec_" + base64.b64encode(shop.key.encode()).decode())
    assert library.verify(got.body, dict(got.headers))["notification_id"] == 1
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        library.verify(got.body.replace(b"customer1", b"customer2"), dict(got.headers))


async def test_retries_by_the_schedule(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """500, 500, 200: three POSTs of one id and the same bytes, after the configured waits; every attempt is on record."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500, 500]
    async with running(configure(ca_file), dsn):
        await shop.notify()
        first, second, third = await receiver.received(3)
    assert {got.id for got in receiver.requests} == {"evt_1"}
    assert len({got.body for got in receiver.requests}) == 1
    assert [got.headers["X-BIS-Attempt"] for got in receiver.requests] == ["1", "2", "3"]
    # Our clock is the database's as it was heard a moment ago; what it was late by, it may be early by.
    assert 0.29 <= second.at - first.at < 1.3
    assert 0.59 <= third.at - second.at < 1.6
    rows = await shop.connection.fetch("select number, verdict::text, status from bisd.attempt order by attempted_at")
    assert [tuple(row) for row in rows] == [(1, "retry", 500), (2, "retry", 500), (3, "delivered", 200)]
    assert await shop.statuses() == [("delivered", 3, 200, None)]
    assert webhook_id == 1


@pytest.mark.parametrize("status", [201, 204, 301, 404, 500])
async def test_only_200_is_success(status: int, shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Any other answer is a failure, is tried again, and fails in the end; a redirect is not followed."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [status] * 3
    receiver.headers = {"Location": receiver.url + "elsewhere"}
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await receiver.received(3)
    assert await shop.statuses() == [("failed", 3, status, "redirect" if status == 301 else "status")]
    assert {got.path for got in receiver.requests} == {"/"}


async def test_a_receiver_that_hangs(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """The timeout covers the whole attempt; meanwhile another webhook is served at once."""
    hanging = await shop.subscribe("notification/create", receiver.url + "hang")
    await shop.subscribe("notification/create", receiver.url + "well")
    forever = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/hang":
            await forever.wait()
        return web.Response()

    receiver.answer = answer
    async with running(configure(ca_file, timeout=timedelta(seconds=1.5)), dsn):
        await shop.notify()
        await receiver.received(4)
        well = [got for got in receiver.requests if got.path == "/well"]
        assert well[0].at - receiver.requests[0].at < 1.0
    forever.set()
    rows = await shop.connection.fetch("select code, total_ms from bisd.attempt where webhook_id = $1", hanging)
    assert {row["code"] for row in rows} == {"timeout"}
    # A timer of the loop counts from the beginning of its turn.
    assert all(1450 <= row["total_ms"] < 2500 for row in rows)


async def test_the_answer_is_kept_up_to_the_limit(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """The first bytes of a long answer are on record; what follows is not read, and the status stands."""
    await shop.subscribe("notification/create", receiver.url)

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"thanks " * 1_000_000)

    receiver.answer = answer
    async with running(configure(ca_file, max_response_bytes=70), dsn):
        await shop.notify()
        await receiver.received(1)
    assert await shop.connection.fetchval("select answer from bisd.attempt") == b"thanks " * 10
    assert await shop.statuses() == [("delivered", 1, 200, None)]


async def test_retry_after_moves_the_next_attempt(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A receiver that asks for two seconds gets them, though the schedule says less."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses, receiver.headers = [429], {"Retry-After": "2"}
    async with running(configure(ca_file), dsn):
        await shop.notify()
        first, second = await receiver.received(2)
    assert 2.0 <= second.at - first.at < 3.0


async def test_ten_thousand_in_one_statement(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A bulk INSERT arrives completely, each event once."""
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file, max_in_flight_per_webhook=64), dsn):
        await shop.notify(10_000)
        counts = await receiver.received_events(10_000)
    assert set(counts.values()) == {1}
    assert await shop.owed() == 0


async def test_large_bodies_are_held_a_few_at_a_time(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """300 bodies of a megabyte, owed to a receiver that does not answer yet: the daemon holds a few of them, and when it
    answers, all arrive whole."""
    for topic in ("a", "b", "c"):
        await shop.subscribe(topic, receiver.url)
        await shop.connection.execute(
            "select bisd.emit($1, $2, to_json(repeat('x', 1000000))) from generate_series(1, 100)", shop.account_id, topic
        )
    receiver.keep_bodies = False
    answering = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await answering.wait()
        return web.Response()

    receiver.answer = answer
    process = psutil.Process()
    before = process.memory_info().rss
    async with running(configure(ca_file, max_in_flight_per_webhook=2), dsn):
        await receiver.received(6)
        assert process.memory_info().rss - before < 150 << 20
        answering.set()
        await receiver.received(300, 60)
    assert set(receiver.ids().values()) == {1}
    assert {got.size for got in receiver.requests} == {1_000_002}


async def test_emitted_bytes_are_kept(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Any topic, any JSON: order, spaces, duplicate keys, huge numbers and lone surrogates arrive as they were given."""
    body = '{"b": 1,  "a":\t[1e400, 12345678901234567890123], "b": "\\ud800 é", "z": null}'
    await shop.subscribe("order/paid", receiver.url)
    async with running(configure(ca_file), dsn):
        event_id = await shop.connection.fetchval("select bisd.emit($1, 'order/paid', $2::text::json)", shop.account_id, body)
        (got,) = await receiver.received(1)
    assert got.body == body.encode()
    assert got.id == f"evt_{event_id}"


async def test_plans_without_webhooks_get_nothing(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A small account's webhook is owed nothing; from the plan's change on it is."""
    await shop.connection.execute("update bisd.account set plan = 'small'")
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file), dsn):
        await shop.notify()
        assert await shop.owed() == 0
        await shop.connection.execute("update bisd.account set plan = 'enterprise'")
        await shop.notify()
        (got,) = await receiver.received(1)
    assert got.id == "evt_2"


async def test_switching_reaches_a_running_daemon(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What a switched-off webhook is owed is held; switched on, with another URL, it goes there."""
    webhook_id = await shop.subscribe("notification/create", receiver.url + "old")
    receiver.statuses = [500]
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await receiver.received(1)
        await shop.connection.execute("select bisd.disable_webhook($1)", webhook_id)
        await eventually(lambda: _has_state(shop, "held"))
        await shop.connection.execute("update bisd.webhook set url = $1", receiver.url + "new")
        await shop.connection.execute("select bisd.enable_webhook($1)", webhook_id)
        await receiver.received(2)
    assert [got.path for got in receiver.requests] == ["/old", "/new"]
    assert await shop.statuses() == [("delivered", 2, 200, None)]


async def _has_state(shop: Shop, state: str) -> bool:
    return [row[:2] for row in await shop.statuses()] == [(state, 1)]


async def test_what_outlives_its_time_expires(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A delivery that waited too long is settled as expired, without a POST; one whose webhook was switched on since is not."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    await shop.subscribe("notification/create", receiver.url + "resumed")
    await shop.notify()
    await shop.connection.execute("update bisd.delivery set owed_since = now() - interval '1 hour'")
    await shop.connection.execute("update bisd.webhook set resumed_at = now() - interval '2 hours' where id = $1", webhook_id)
    async with running(configure(ca_file, expires_after=timedelta(minutes=30)), dsn):
        await eventually(lambda: _nothing_owed(shop))
    assert await shop.statuses() == [("expired", 0, None, None), ("delivered", 1, 200, None)]
    assert [got.path for got in receiver.requests] == ["/resumed"]


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


@pytest.mark.parametrize(
    ("url", "code"),
    [("https://10.1.2.3/", "refused_url"), ("http://example.com/", "refused_url"), ("https://localhost:1/", "refused_url")],
)
async def test_addresses_inside_are_refused(url: str, code: str, shop: Shop, ca_file: Path, dsn: str) -> None:
    """What is not globally routable, or not HTTPS, is refused at once and never tried again."""
    config = configure(ca_file)
    await shop.subscribe("notification/create", url)
    async with running(replace(config, egress=replace(config.egress, allow=[])), dsn):
        await shop.notify()
        await eventually(lambda: _nothing_owed(shop))
    assert await shop.statuses() == [("refused", 0, None, code)]


async def test_a_delivery_without_its_event_strands_nobody(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """An event deleted by hand: its delivery is settled as refused, and the thousand around it arrive."""
    await shop.subscribe("notification/create", receiver.url)
    await shop.notify(1_000)
    await shop.connection.execute("delete from bisd.event where id = 10")
    async with running(configure(ca_file), dsn):
        await receiver.received_events(999)
        await eventually(lambda: _nothing_owed(shop))
        async with shop.connection.transaction():
            await shop.notify(2)
            await shop.connection.execute("delete from bisd.event where id = 1001")
        await receiver.received_events(1_000)
        await eventually(lambda: _nothing_owed(shop))
    rows = await shop.connection.fetch("select event_id, verdict::text, code from bisd.attempt where verdict <> 'delivered'")
    assert [tuple(row) for row in rows] == [(10, "refused", "event_gone"), (1001, "refused", "event_gone")]


async def test_a_plan_that_changes_reaches_a_running_daemon(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What a plan includes is data: taken out, its webhooks' deliveries are held; put back, they go out."""
    await shop.subscribe("notification/create", receiver.url)
    await shop.notify(3)
    await shop.connection.execute("update bisd.plan set webhooks = false where name = 'medium'")
    async with running(configure(ca_file), dsn):
        assert {row[0] for row in await shop.statuses()} == {"held"}
        await shop.connection.execute("update bisd.plan set webhooks = true where name = 'medium'")
        await receiver.received(3)


async def test_owed_again_while_it_is_being_sent(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A row that is replaced while its POST is under way is sent again, without a restart and without waiting for others."""
    await shop.subscribe("notification/create", receiver.url)
    answered = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await answered.wait()
        return web.Response()

    receiver.answer = answer
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await receiver.received(1)
        await shop.connection.execute("delete from bisd.delivery")
        await shop.connection.execute(
            "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, attempts) "
            "select 1, id, created_at, octet_length(body::text), 7 from bisd.event"
        )
        answered.set()
        await receiver.received(2)
        await eventually(lambda: _nothing_owed(shop))
    assert [got.headers["X-BIS-Attempt"] for got in receiver.requests] == ["1", "8"]
