"""The life of an account and its webhooks under a running daemon: keys rotate, plans change, webhooks are switched, tested and
removed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
import standardwebhooks
from aiohttp import web

from bisd import db
from bisd.config import Config, DeactivationConfig
from tests.support.daemon import configure, running
from tests.support.receiver import Got, Receiver
from tests.support.shop import Shop, eventually

Connect = Callable[[], Awaitable[db.Connection]]


_HOLD_AND_RESUME = [
    ("select bisd.set_plan(1, 'small')", "select bisd.set_plan(1, 'medium')"),
    ("update bisd.plan set webhooks = false", "update bisd.plan set webhooks = true"),
]


def _sign(key: str, body: bytes) -> str:
    return base64.b64encode(hmac.new(key.encode(), body, hashlib.sha256).digest()).decode()


def _verifies(got: Got, key: str) -> bool:
    """Whether the Standard Webhooks library takes it with this key."""
    library = standardwebhooks.Webhook("whsec_" + base64.b64encode(key.encode()).decode())
    try:
        library.verify(got.body, dict(got.headers))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


async def _rotate(shop: Shop, overlap: timedelta) -> str:
    return str(await shop.connection.fetchval("select bisd.rotate_key($1, $2)", shop.account_id, overlap))


async def _call(shop: Shop, function: str, webhook_id: int) -> object:
    return await shop.connection.fetchval(f"select bisd.{function}($1)", webhook_id)


async def _health(shop: Shop, webhook_id: int) -> asyncpg.Record:
    row: asyncpg.Record | None = await shop.connection.fetchrow(
        "select * from bisd.webhook_health where webhook_id = $1", webhook_id
    )
    assert row is not None
    return row


async def _owes(shop: Shop, number: int) -> bool:
    return await shop.owed() == number


async def _attempted(shop: Shop, number: int) -> bool:
    return bool(await shop.connection.fetchval("select count(*) from bisd.attempt where number is not null") == number)


async def test_rotation_while_retries_are_under_way(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A delivery that was first sent under the old key is retried under the new one: from the rotation on a receiver verifies
    with either key, after the overlap with the new one alone."""
    await shop.subscribe("notification/create", receiver.url)
    config = configure(ca_file)
    config = replace(config, retry=replace(config.retry, schedule=[timedelta(milliseconds=100)], max_attempts=1000))
    failing = True

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500 if failing else 200)

    receiver.answer = answer
    async with running(config, dsn):
        await shop.notify()
        await receiver.received(2)
        key = await _rotate(shop, timedelta(seconds=1))
        await eventually(lambda: _last_has(receiver, "X-BIS-Signature-Previous"))
        await eventually(lambda: _last_lacks(receiver, "X-BIS-Signature-Previous"))
        failing = False
        await eventually(lambda: _owes(shop, 0))
    before, after = receiver.requests[0], receiver.requests[-1]
    overlapping = [got for got in receiver.requests if "X-BIS-Signature-Previous" in got.headers]
    assert len({(got.id, got.body) for got in receiver.requests}) == 1
    assert [got.headers["X-BIS-Signature"] for got in (before, after)] == [
        _sign(shop.key, before.body),
        _sign(key, before.body),
    ]
    assert {got.headers["X-BIS-Signature"] for got in overlapping} == {_sign(key, before.body)}
    assert {got.headers["X-BIS-Signature-Previous"] for got in overlapping} == {_sign(shop.key, before.body)}
    assert [_verifies(got, shop.key) for got in (before, *overlapping, after)] == [True, *[True] * len(overlapping), False]
    assert [_verifies(got, key) for got in (before, *overlapping, after)] == [False, *[True] * len(overlapping), True]


async def _last_has(receiver: Receiver, header: str) -> bool:
    return header in receiver.requests[-1].headers


async def _last_lacks(receiver: Receiver, header: str) -> bool:
    return header not in receiver.requests[-1].headers


async def test_two_keys_overlap_never_three(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Rotated twice, the first key has ended; without overlap, only the newest is left. Keys are random, with a prefix."""
    await shop.subscribe("notification/create", receiver.url)
    keys = [shop.key]
    async with running(configure(ca_file), dsn):
        for number, overlap in enumerate((timedelta(hours=1), timedelta(hours=1), timedelta(0)), 1):
            keys.append(await _rotate(shop, overlap))
            await shop.notify()
            await receiver.received(number)
    assert [[_verifies(got, key) for key in keys] for got in receiver.requests] == [
        [True, True, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]
    assert "X-BIS-Signature-Previous" not in receiver.requests[2].headers
    assert len(set(keys)) == 4
    assert {(key[:4], len(key)) for key in keys} == {("bis_", 68)}


async def test_a_plan_without_webhooks_holds_and_says_so(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Down to small, what is owed is held, no event is owed any more, and webhook_health says why; back up, it goes on."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500]
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await receiver.received(1)
        await shop.connection.execute("select bisd.set_plan($1, 'small')", shop.account_id)
        await shop.notify()
        await eventually(lambda: _attempted(shop, 1))
        assert await shop.statuses() == [("held", 1, 500, "status")]
        health = await _health(shop, webhook_id)
        assert (health["state"], health["note"]) == ("not in plan", "the plan small has no webhooks")
        with pytest.raises(asyncpg.PostgresError, match=f"the plan of account {shop.account_id} has no webhooks"):
            await _call(shop, "send_test", webhook_id)
        await shop.connection.execute("select bisd.set_plan($1, 'large')", shop.account_id)
        await receiver.received(2)
        await shop.notify()
        await receiver.received(3)
    assert [got.id for got in receiver.requests] == ["evt_1", "evt_1", "evt_3"]
    assert (await _health(shop, webhook_id))["note"].startswith("in the plan since ")


async def test_what_a_plan_held_has_its_full_time_again(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """However long it was held: when the plan has webhooks again, by the account's change or the plan's, it goes out."""
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file), dsn):
        for number, (hold, resume) in enumerate(_HOLD_AND_RESUME, 1):
            await shop.connection.execute(hold)
            await shop.connection.execute(
                "with event as (insert into bisd.event (account_id, topic, body) values (1, 'x', '{}') returning *) "
                "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, owed_since, due_at) "
                "select 1, id, created_at, 2, now() - interval '9 days', now() - interval '9 days' from event"
            )
            await shop.connection.execute(resume)
            await receiver.received(number)
    assert [("delivered", 1, 200, None)] * 2 == await shop.statuses()


async def test_a_webhook_is_switched_under_a_running_daemon(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Created switched off: owed nothing. On: owed. Off by its owner, with a retry in a moment: held. On again: sent."""
    webhook_id = await shop.subscribe("notification/create", receiver.url, enable=False)
    config = configure(ca_file)
    async with running(replace(config, retry=replace(config.retry, schedule=[timedelta(seconds=1)])), dsn):
        await shop.notify()
        assert (await _health(shop, webhook_id))["state"] == "off"
        await _call(shop, "enable_webhook", webhook_id)
        receiver.statuses = [500]
        await shop.notify()
        await receiver.received(1)
        await eventually(lambda: _attempted(shop, 1))
        await _call(shop, "disable_webhook", webhook_id)
        health = await _health(shop, webhook_id)
        assert (health["state"], health["note"].split(" at ")[0], health["backlog"]) == ("off", "switched off by its owner", 1)
        await shop.subscribe("other", receiver.url + "other")
        for n in range(2, 5):  # its retry comes due meanwhile
            await shop.connection.execute("select pg_sleep(0.5), bisd.emit($1, 'other', '{}')", shop.account_id)
            await receiver.received(n)
        assert [got.path for got in receiver.requests] == ["/", "/other", "/other", "/other"]
        await _call(shop, "enable_webhook", webhook_id)
        await receiver.received(5)
    assert [got.id for got in receiver.requests if got.path == "/"] == ["evt_2", "evt_2"]


async def test_a_removed_webhook_is_gone(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What it is owed is cancelled and never sent, what it did is remembered; no function knows it any more."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [200, 500]
    async with running(configure(ca_file), dsn):
        for number in (1, 2):
            await shop.notify()
            await receiver.received(number)
            await eventually(lambda expected=number: _attempted(shop, expected))  # type: ignore[misc]
        await _call(shop, "remove_webhook", webhook_id)
        await shop.notify()
        other = await shop.subscribe("notification/create", receiver.url + "other")
        await shop.notify()
        await receiver.received(3)
    assert [got.path for got in receiver.requests] == ["/", "/", "/other"]
    assert await shop.statuses() == [("delivered", 1, 200, None), ("cancelled", 1, 500, "status"), ("delivered", 1, 200, None)]
    assert await shop.connection.fetchval("select array_agg(webhook_id) from bisd.webhook_health") == [other]
    for call in ("enable_webhook(1)", "disable_webhook(1)", "remove_webhook(1)", "set_webhook(1, '{}')", "send_test(1)",
                 "replay(1, now() - interval '1 h', now(), false)", "cancel_replay(1)"):  # fmt: skip
        with pytest.raises(asyncpg.PostgresError, match="there is no webhook 1") as refusal:
            await shop.connection.execute(f"select bisd.{call}")
        assert refusal.value.sqlstate == "BISD0"
    assert await shop.connection.fetchval("select array[bisd.retry(2, 1), bisd.cancel(2, 1)]") == [False, False]


async def test_removed_while_an_attempt_is_under_way(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """The answer that comes after the removal is on record, and that is all: nothing is tried again, nobody stumbles."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    removed = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            await removed.wait()
        return web.Response(status=500)

    receiver.answer = answer
    async with running(configure(ca_file), dsn):
        await shop.notify(3)
        await receiver.received(3)
        await _call(shop, "remove_webhook", webhook_id)
        removed.set()
        await eventually(lambda: _attempted(shop, 3))
        other = await shop.subscribe("notification/create", receiver.url + "other")
        await shop.notify()
        await receiver.received(3 + 3)
        await eventually(lambda: _owes(shop, 0))
    assert other == webhook_id + 1
    assert await shop.statuses() == [("cancelled", 1, 500, "status")] * 3 + [("failed", 3, 500, "status")]


async def test_the_row_of_a_webhook_outlasts_its_history(shop: Shop, connect: Connect) -> None:
    """It cannot be deleted by hand; it goes when retention has passed since its removal. What a transaction owed it that was
    still open when it was removed is cancelled too."""
    webhook_id = await shop.subscribe("notification/create", "https://example.com/")
    with pytest.raises(asyncpg.PostgresError, match="cannot be deleted as a row") as refusal:
        await shop.connection.execute("delete from bisd.webhook")
    assert refusal.value.sqlstate == "BISD0"
    assert (refusal.value.hint or "").startswith("select bisd.remove_webhook(1) ")
    slow = await connect()
    async with slow.transaction():
        await slow.execute("select bisd.emit($1, 'notification/create', '{}')", shop.account_id)
        await _call(shop, "remove_webhook", webhook_id)
    assert await shop.connection.fetchval("select bisd.forget_webhooks(now() - interval '1 day')") == 0
    assert await shop.statuses() == [("cancelled", 0, None, None)]
    assert await shop.connection.fetchval("select bisd.forget_webhooks(now())") == 1
    assert await shop.connection.fetchval("select count(*) from bisd.webhook") == 0
    assert await shop.owed() == 0


def _strict(ca_file: Path) -> Config:
    """Deactivates after the first failure that counts."""
    return replace(configure(ca_file), deactivation=DeactivationConfig(timedelta(milliseconds=1), 1))


@pytest.mark.parametrize("state", ["enabled", "off", "parked"])
async def test_a_test_is_sent_once_and_counts_for_nothing(
    state: str, shop: Shop, receiver: Receiver, ca_file: Path, dsn: str
) -> None:
    """Switched on, off or parked: one POST at once, to this webhook alone; answered 500, twice, it is not tried again, and how
    the webhook is doing is what it was. The answer is on record."""
    webhook_id = await shop.subscribe("notification/sent", receiver.url, enable=state != "off")
    await shop.subscribe("notification/sent", receiver.url + "other")
    if state == "parked":
        await shop.connection.execute(
            "update bisd.webhook set failing_since = now(), next_probe_at = now() + interval '1 hour' where id = 1"
        )
    async with running(_strict(ca_file), dsn):
        await shop.connection.execute("select bisd.emit($1, 'notification/sent', '{}')", shop.account_id)
        usual = 2 if state == "enabled" else 1
        await eventually(lambda: _attempted(shop, usual))
        before = await _health(shop, webhook_id)
        receiver.statuses = [500, 500]
        for number in (1, 2):
            event_id = await _call(shop, "send_test", webhook_id)
            await eventually(lambda expected=usual + number: _attempted(shop, expected))  # type: ignore[misc]
        await shop.connection.execute("select bisd.emit($1, 'notification/sent', '{}')", shop.account_id)
        await eventually(lambda: _attempted(shop, 2 * usual + 2))
    test = receiver.requests[usual + 1]
    assert [got.id for got in receiver.requests].count(f"evt_{event_id}") == 1
    assert (test.path, test.headers["X-BIS-Topic"], test.headers["X-BIS-Attempt"]) == ("/", "notification/sent", "1")
    assert _verifies(test, shop.key)
    row = await shop.connection.fetchrow(
        "select number, verdict::text, status, test from bisd.attempt where event_id = $1 and webhook_id = $2",
        event_id,
        webhook_id,
    )
    assert row == (1, "failed", 500, True)
    after = await _health(shop, webhook_id)
    assert after["success_rate"] == (1.0 if state == "enabled" else None)
    assert after["backlog"] == (2 if state == "parked" else 0)
    assert (after["state"], after["streak"], after["note"]) == (before["state"], before["streak"], before["note"])
    assert await shop.connection.fetch("select * from bisd.webhook_event") == []


async def test_the_body_of_a_test_is_the_documented_one(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """The topic's body with sample values, keys in the documented order, "test":true after them; compact, as it is signed."""
    for topic in ("notification/create", "notification/sent", "order/paid"):
        await _call(shop, "send_test", await shop.subscribe(topic, receiver.url))
    async with running(configure(ca_file), dsn):
        await receiver.received(3)
    bodies = {got.headers["X-BIS-Topic"]: got.body for got in receiver.requests}
    for topic in ("notification/create", "notification/sent"):
        body = json.loads(bodies[topic])
        assert list(body) == [
            "notification_id", "topic", "timestamp", "channel", "customer", "quantity_required", "customer_language",
            "customer_utc_offset", "created_at", "product", "test",
        ]  # fmt: skip
        assert (body["topic"], body["notification_id"], body["test"]) == (topic, 12345, True)
        assert list(body["product"]) == ["product_id", "product_title", "variant_id", "variant_title", "sku"]
    assert list(json.loads(bodies["order/paid"])) == ["topic", "timestamp", "test"]
    for content in bodies.values():
        assert json.dumps(json.loads(content), separators=(",", ":")).encode() == content


async def test_a_test_asked_for_while_the_daemon_is_down(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """It goes when the daemon starts, once; and a second start sends nothing."""
    webhook_id = await shop.subscribe("notification/sent", receiver.url, enable=False)
    event_id = await _call(shop, "send_test", webhook_id)
    await shop.subscribe("marker", receiver.url + "marker")
    for number in (2, 3):
        async with running(configure(ca_file), dsn):
            await shop.connection.execute("select bisd.emit($1, 'marker', '{}')", shop.account_id)
            await receiver.received(number)
    assert receiver.ids() == {f"evt_{event_id}": 1, "evt_2": 1, "evt_3": 1}


async def test_more_tests_than_one_look_reads(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """1,200 tests asked for in one transaction all arrive, each once."""
    await shop.subscribe("notification/sent", receiver.url, enable=False)
    async with running(configure(ca_file), dsn):
        await shop.connection.execute("select bisd.send_test(1) from generate_series(1, 1200)")
        counts = await receiver.received_events(1_200)
        await eventually(lambda: _owes(shop, 0))
    assert set(counts.values()) == {1}
    assert await shop.connection.fetchval("select count(*) from bisd.attempt where test and verdict = 'delivered'") == 1_200
