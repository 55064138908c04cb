"""What goes on at the same time: locks, restarts and commands hold up nobody else, lose nothing, and break no promise."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from bisd import db
from bisd.config import Config, DeactivationConfig
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

Connect = Callable[[], Awaitable[db.Connection]]


async def _state(shop: Shop, state: str) -> bool:
    return bool(await shop.connection.fetchval("select state = $1 from bisd.webhook_health where webhook_id = 1", state))


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


def _patient(ca_file: Path, seconds: float, attempts: int) -> Config:
    deactivation = DeactivationConfig(failing_for=timedelta(seconds=seconds), min_attempts=attempts)
    config = replace(configure(ca_file), deactivation=deactivation)
    return replace(config, retry=replace(config.retry, max_attempts=1000))


async def test_a_locked_row_holds_up_nobody_else(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, connect: Connect
) -> None:
    """While somebody's transaction holds a failing webhook's row, others are retried in time and written back, and the daemon
    can be stopped; when the row is free, the next daemon says what there is to say."""
    await shop.subscribe("a", receiver.url + "bad")
    await shop.subscribe("b", receiver.url + "well")

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500 if request.path == "/bad" else receiver.statuses.pop(0) if receiver.statuses else 200)

    receiver.answer = answer
    receiver.statuses = [500, 500]
    holder = await connect()
    config = _patient(ca_file, 1, 6)
    async with running(config, dsn):
        locked = holder.transaction()
        await locked.start()
        await holder.execute('select bisd.set_webhook(1, \'{"description": "held"}\')')
        await shop.connection.execute("select bisd.emit(1, 'a', to_json(n)) from generate_series(1, 6) n")
        await eventually(lambda: _tried(shop, 6))
        await shop.connection.execute("select bisd.emit(1, 'b', '{}')")
        async with asyncio.timeout(5):
            await eventually(lambda: _delivered(shop, 2, 3))
        began = time.monotonic()
    assert time.monotonic() - began < 10
    await locked.rollback()
    async with running(config, dsn):
        await eventually(lambda: _state(shop, "deactivated"))
    assert 1 == await shop.connection.fetchval("select count(*) from bisd.webhook_event where topic = 'webhook/deactivated'")


async def _tried(shop: Shop, number: int) -> bool:
    return int(await shop.connection.fetchval("select count(*) from bisd.attempt where webhook_id = 1")) >= number


async def _delivered(shop: Shop, webhook_id: int, number: int) -> bool:
    query = "select number from bisd.attempt where webhook_id = $1 and verdict = 'delivered'"
    return await shop.connection.fetchval(query, webhook_id) == number


async def test_commands_at_once_do_not_wait_for_each_other_in_a_circle(shop: Shop, connect: Connect) -> None:
    """Whatever is asked of the same webhooks and account by many at once: each is carried out, one after the other."""
    for topic in ("a", "b"):
        await shop.subscribe(topic, "https://example.com/")
    await shop.connection.execute("select bisd.emit(1, t, '{}') from unnest(array['a', 'b']) t, generate_series(1, 200)")
    commands = [
        "enable_webhook({w})",
        "enable_webhook({w}, 'discard')",
        "disable_webhook({w})",
        'set_webhook({w}, \'{{"url": "https://example.com/{n}"}}\')',
        "cancel({n}, {w})",
        "retry({n}, {w})",
        "replay({w}, now() - interval '1 hour', null, false)",
        "cancel_replay({w})",
        "rotate_key(1, '1 hour')",
    ]
    connections = [await connect() for _ in commands]

    async def repeat(connection: db.Connection, command: str) -> int:
        for number in range(1, 41):
            await connection.fetch("select bisd." + command.format(n=number, w=1 + number % 2))
        return 40

    done = await asyncio.gather(*map(repeat, connections, commands))
    assert [40] * len(commands) == done


async def test_a_ramp_outlasts_a_restart(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A webhook that was parked with thousands owed recovers, and the daemon is restarted at that moment: still no burst."""
    await shop.subscribe("a", receiver.url)
    receiver.statuses = [500] * 5
    await shop.connection.execute("select bisd.emit(1, 'a', to_json(n)) from generate_series(1, 5000) n")
    config = configure(ca_file, max_in_flight_per_webhook=4)
    async with running(config, dsn):
        await eventually(lambda: _recovered(shop))
    before = len(receiver.requests)
    began = time.monotonic()
    async with running(config, dsn):
        await receiver.received(before + 20)
    later = [got.at for got in receiver.requests[before:]]
    assert len(later) <= 10 * 2 ** (time.monotonic() - began + 2) + 10


async def _recovered(shop: Shop) -> bool:
    return await shop.connection.fetchval("select recovered_at from bisd.webhook") is not None


@pytest.mark.parametrize("attempts", [1, 3])
async def test_retry_of_what_is_being_sent_sends_it_again(
    attempts: int, shop: Shop, receiver: Receiver, ca_file: Path, dsn: str
) -> None:
    """Asked for while an attempt is under way, in the middle of the schedule or at its end: when that fails, the next one
    follows at once."""
    await shop.subscribe("a", receiver.url)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        if len(receiver.requests) == attempts:
            asked.set()
            await answered.wait()
        return web.Response(status=500 if len(receiver.requests) <= attempts else 200)

    receiver.answer = answer
    config = configure(ca_file)
    schedule = (
        [timedelta(milliseconds=100), timedelta(milliseconds=100), timedelta(hours=1)]
        if attempts == 3
        else [timedelta(hours=1)]
    )
    async with running(replace(config, retry=replace(config.retry, schedule=schedule)), dsn):
        await shop.connection.execute("select bisd.emit(1, 'a', '{}')")
        await asked.wait()
        assert await shop.connection.fetchval("select bisd.retry(1, 1)")
        answered.set()
        await receiver.received(attempts + 1)
    assert ["delivered"] == [row[0] for row in await shop.statuses()]
    assert {"evt_1"} == set(receiver.ids())


async def test_a_replay_keeps_its_pace_over_a_pause(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Replayed while the webhook is off, and switched on when all of it is due: it goes out as slowly as was asked, and at most
    half as fast as the webhook's rate, so that what happens meanwhile overtakes it."""
    await shop.subscribe("a", receiver.url)
    await shop.connection.execute("select bisd.disable_webhook(1)")
    await shop.connection.execute("select bisd.emit(1, 'a', to_json(n)) from generate_series(1, 300) n")
    await shop.connection.execute("select bisd.set_webhook(1, '{\"rate\": 40}')")
    assert 300 == await shop.connection.fetchval("select bisd.replay(1, now() - interval '1 hour', null, false)")
    spread = "select extract(epoch from max(due_at) - min(due_at))::float8 from bisd.delivery"
    assert 14.9 < await shop.connection.fetchval(spread) < 15.0
    await shop.connection.execute("update bisd.delivery set due_at = due_at - interval '1 hour'")
    async with running(configure(ca_file), dsn):
        await shop.connection.execute("select bisd.enable_webhook(1)")
        fresh = await shop.connection.fetchval("select bisd.emit(1, 'a', '{}')")
        began = time.monotonic()
        async with asyncio.timeout(10):
            await eventually(lambda: _came(receiver, fresh))
        assert len(receiver.requests) <= (time.monotonic() - began) * 20 + 10


async def _came(receiver: Receiver, event_id: int) -> bool:
    return f"evt_{event_id}" in receiver.ids()


async def test_time_in_which_no_daemon_ran_counts_for_nothing(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A webhook fails a little, then no daemon runs for a day: it is not deactivated for that day."""
    await shop.subscribe("a", receiver.url)
    receiver.statuses = [500] * 1000
    config = _patient(ca_file, 3600, 5)
    async with running(config, dsn):
        await shop.connection.execute("select bisd.emit(1, 'a', to_json(n)) from generate_series(1, 5) n")
        await eventually(lambda: _state(shop, "parked"))
    await shop.connection.execute("update bisd.pulse set at = at - interval '1 day'")
    await shop.connection.execute(
        "update bisd.webhook set failing_since = failing_since - interval '1 day', "
        "resumed_at = resumed_at - interval '2 days', deactivates_at = deactivates_at - interval '1 day', next_probe_at = now()"
    )
    came = len(receiver.requests)
    async with running(config, dsn):
        await receiver.received(came + 1)
    assert await _state(shop, "parked")
    since = await shop.connection.fetchval("select extract(epoch from now() - failing_since)::float8 from bisd.webhook")
    assert since < 120


async def test_daemons_that_restart_often_deactivate_too(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """A daemon that stops hands on what it knows, however short its life."""
    await shop.subscribe("a", receiver.url)
    receiver.statuses = [500] * 1000
    config = _patient(ca_file, 3, 5)
    await shop.connection.execute("select bisd.emit(1, 'a', '{}')")
    while not await _state(shop, "deactivated"):
        before = len(receiver.requests)
        assert before < 40
        async with running(config, dsn):
            await receiver.received(before + 1)


async def test_a_plan_that_comes_back_says_so(shop: Shop) -> None:
    """What the row said of its failures goes with them."""
    await shop.subscribe("a", "https://example.com/")
    await shop.connection.execute("update bisd.webhook set failing_since = now(), failures = 3, note = 'failing since ...'")
    for plan in ("small", "large"):
        await shop.connection.execute("select bisd.set_plan(1, $1)", plan)
    row = await shop.connection.fetchrow("select state, failing_since, left(note, 18) from bisd.webhook_health")
    assert ("well", None, "in the plan since ") == tuple(row or ())


async def test_partitions_are_not_dropped_by_an_unknown_time(shop: Shop) -> None:
    """A time that is null drops nothing."""
    for parent in ("event", "attempt"):
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await shop.connection.execute("select bisd.drop_partitions($1, null)", parent)
        assert "BISD0" == refusal.value.sqlstate


async def test_live_is_what_the_switch_and_the_plan_say(shop: Shop, connect: Connect) -> None:
    """Owners switch webhooks and change plans while plans gain and lose webhooks, from eight sessions at once: nobody is ended
    by a deadlock, and in the end a webhook is live if it is switched on and its account's plan has webhooks, and no other."""
    for _ in range(2):
        account = await shop.connection.fetchval("select id from bisd.create_account('another', 'medium')")
        await shop.connection.execute(
            "select bisd.create_webhook($1, 'a', 'https://example.com/') from generate_series(1, 4)", account
        )
    acts = ["select bisd.enable_webhook($1)", "select bisd.disable_webhook($1)"]
    acts += [f"select bisd.set_plan(1 + $1 % 3, '{plan}')" for plan in ("small", "medium", "large")]
    acts += [f"update bisd.plan set webhooks = {value} where name <> 'small' and $1 > 0" for value in ("true", "false")]
    acts += ["select bisd.rotate_key(1 + $1 % 3, '0')"]

    async def act(number: int) -> None:
        connection, dice = await connect(), random.Random(number)
        for _ in range(60):
            await connection.execute(dice.choice(acts), dice.randrange(1, 9))

    await asyncio.gather(*(act(number) for number in range(8)))
    rows = await shop.connection.fetch(
        "select w.live, w.enabled and p.webhooks as said from bisd.webhook w "
        "join bisd.account a on a.id = w.account_id join bisd.plan p on p.name = a.plan"
    )
    assert [row["said"] for row in rows] == [row["live"] for row in rows]
    assert len(rows) == 8
