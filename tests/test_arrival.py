"""Arrival: exact under any order of commits, whatever the statistics say."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bisd import db
from bisd.clock import Clock
from bisd.delivery.arrival import Arrival, Arrivals
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

ALL_SHARDS = -1
Connect = Callable[[], Awaitable[db.Connection]]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[db.Connection]:
    connection = await db.connect(dsn, db.DAEMON)
    yield connection
    await connection.close()


async def _arrival(connection: db.Connection, most: int = 1000, most_octets: int = 1 << 20) -> Arrival:
    arrival = Arrival(connection, Clock().hear, most, most_octets)
    await arrival.begin()
    return arrival


@pytest.mark.parametrize("seed", range(3))
async def test_every_row_is_seen_exactly_once(seed: int, shop: Shop, connect: Connect, connection: db.Connection) -> None:
    """Eight writers, transactions of random length that overlap, commit in any order, or roll back, with savepoints: looks
    taken meanwhile report every committed delivery once, and no other."""
    await shop.subscribe("notification/create", "https://example.com/")
    arrival = await _arrival(connection)
    chance = random.Random(seed)
    committed: set[int] = set()
    seen: Counter[int] = Counter()
    writing = True

    async def write(writer: random.Random) -> None:
        session = await connect()
        for _ in range(40):
            transaction = session.transaction()
            await transaction.start()
            events = []
            for _ in range(writer.randrange(1, 4)):
                events.append(await session.fetchval("select bisd.emit($1, 'notification/create', '{}')", shop.account_id))
                try:
                    async with session.transaction():
                        await session.execute("select bisd.emit($1, 'notification/create', '{}')", shop.account_id)
                        raise _UndoError
                except _UndoError:
                    pass
                await asyncio.sleep(writer.random() * 0.004)
            if writer.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed.update(events)

    async def look() -> None:
        while writing:
            seen.update(delivery.event_id for delivery in (await arrival.look(ALL_SHARDS)).deliveries)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(write(random.Random(chance.random())) for _ in range(8)))
    writing = False
    await looking
    seen.update(delivery.event_id for delivery in (await arrival.look(ALL_SHARDS)).deliveries)
    assert seen == Counter(committed)


class _UndoError(Exception):
    """Takes a savepoint back."""


async def test_an_overlapping_transaction_arrives_when_it_commits(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, connect: Connect
) -> None:
    """One transaction inserts first and commits last, after another's rows have been delivered: nothing is lost or twice."""
    await shop.subscribe("notification/create", receiver.url)
    slow = await connect()
    async with running(configure(ca_file), dsn):
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute("select bisd.emit($1, 'notification/create', '{\"slow\":true}')", shop.account_id)
        await shop.notify(5)
        await receiver.received(5)
        await transaction.commit()
        counts = await receiver.received_events(6)
    assert counts == Counter({f"evt_{number}": 1 for number in range(1, 7)})


async def test_a_transaction_that_skipped_the_bell_is_heard_soon(
    shop: Shop, dsn: str, receiver: Receiver, ca_file: Path, connect: Connect
) -> None:
    """A transaction that comes right after one that rang rings no bell. Whether it ends at once or is still running when the
    bell of the other is heard, it arrives soon after its commit all the same, not with the sweep."""
    await shop.subscribe("notification/create", receiver.url)
    ringer = await connect()
    loop = asyncio.get_running_loop()
    waits: list[float] = []
    sent = 0
    async with running(configure(ca_file), dsn):
        while len(waits) < 16:
            async with shop.connection.transaction():
                await shop.connection.execute("select pg_current_xact_id()")
                await ringer.execute(_INSERT)
                await shop.connection.execute(_INSERT)
                skipped = "yes" != await shop.connection.fetchval("select current_setting('bisd.rung', true)")
                if len(waits) % 2:
                    await asyncio.sleep(0.03)  # the transaction goes on
            committed_at = loop.time()
            sent += 2
            await receiver.received(sent)
            if skipped:
                waits.append(loop.time() - committed_at)
    assert sorted(waits)[12] < 0.2


_INSERT = "insert into bisd.notification (account_id) values (1)"


@pytest.mark.parametrize(("most", "most_octets"), [(10, 1 << 20), (1000, 20)], ids=["deliveries", "octets"])
async def test_more_than_a_look_reads(most: int, most_octets: int, shop: Shop, connection: db.Connection) -> None:
    """A look that comes back full names the webhooks and the earliest due time instead; the next one starts after it."""
    first = await shop.subscribe("a", "https://example.com/")
    second = await shop.subscribe("b", "https://example.com/")
    arrival = await _arrival(connection, most, most_octets)
    async with shop.connection.transaction():
        for topic, number in (("a", 3), ("b", 30)):
            for _ in range(number):
                await shop.connection.execute("select bisd.emit($1, $2, '{}')", shop.account_id, topic)
    due_at = await shop.connection.fetchval("select min(due_at) from bisd.delivery")
    assert await arrival.look(ALL_SHARDS) == Arrivals([], [], [], {first: due_at, second: due_at})
    assert await arrival.look(ALL_SHARDS) == Arrivals([], [], [], {})


async def test_as_many_webhooks_as_deliveries(shop: Shop, connection: db.Connection) -> None:
    """5,000 webhooks that are switched on, each of which is owed something in the same transaction, cost what they are: what
    was changed is told once, not with every row."""
    arrival = await _arrival(connection)
    async with shop.connection.transaction():
        await shop.connection.execute(
            "insert into bisd.webhook (account_id, topic, url, enabled) "
            "select 1, 'a', 'https://example.com/', true from generate_series(1, 5000)"
        )
        await shop.connection.execute("select bisd.emit(1, 'a', '{}')")
    async with asyncio.timeout(3):
        arrivals = await arrival.look(ALL_SHARDS)
    assert (5000, 5000) == (len(arrivals.changed), len(arrivals.overflowed))


async def test_changes_of_webhooks_arrive(shop: Shop, connection: db.Connection) -> None:
    """Switching, another URL, another key and another plan are reported once each, of our shards only."""
    webhook_id = await shop.subscribe("a", "https://example.com/")
    arrival = await _arrival(connection)
    for change in (
        "select bisd.disable_webhook(1)",
        "update bisd.webhook set url = 'https://example.com/new'",
        "update bisd.account set plan = 'small'",
        "update bisd.account set api_key = bisd.new_api_key()",
    ):
        await shop.connection.execute(change)
        assert (await arrival.look(ALL_SHARDS)).changed == [webhook_id]
        assert (await arrival.look(ALL_SHARDS)).changed == []
    await shop.connection.execute("select bisd.enable_webhook(1)")
    assert (await arrival.look(1 << 5)).changed == []


async def test_a_restored_dump_is_stamped_anew(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Rows with transaction ids of another cluster's future are sent once, and do not arrive for ever."""
    await shop.subscribe("notification/create", receiver.url)
    await shop.notify(3)
    await shop.connection.execute("update bisd.delivery set txid = '9000000000000'")
    async with running(configure(ca_file), dsn):
        await receiver.received(3)
        await eventually(lambda: _nothing_owed(shop))
    assert set(receiver.ids().values()) == {1}


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _plan(connection: db.Connection, name: str, *arguments: object) -> str:
    rows = await connection.fetch("explain (analyze, costs off) " + db.query(name), *arguments)
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_plans_do_not_depend_on_statistics(analyzed: bool, shop: Shop, connection: db.Connection) -> None:
    """With 20,000 owed and no statistics, or fresh ones, every query of the hot path goes by its index."""
    await shop.subscribe("notification/create", "https://example.com/")
    await connection.execute("alter table bisd.delivery set (autovacuum_enabled = off)")
    await shop.notify(20_000)
    arrival = await _arrival(connection)
    await shop.notify(3)
    tests = {await shop.connection.fetchval("select bisd.send_test(1)") for _ in range(2)}
    if analyzed:
        await connection.execute("analyze bisd.delivery, bisd.event, bisd.webhook")
    look = await _plan(connection, "look", arrival.snapshot.text, ALL_SHARDS, 1000, 1 << 20, None)
    assert "Seq Scan" not in look
    assert look.count("using delivery_arrival") == 2
    overflow = await _plan(connection, "overflow", arrival.snapshot.text, ALL_SHARDS)
    assert "Seq Scan" not in overflow
    horizon = await connection.fetchval("select min(due_at) from bisd.delivery")
    for ordered, index in ((False, "delivery_lane"), (True, "delivery_pkey")):
        refill = await _plan(connection, "refill", [1], [horizon], [0], [10], 1 << 20, [ordered])
        assert "Seq Scan" not in refill
        assert "Sort" not in refill
        assert [index] == [line.partition(" using ")[2].split()[0] for line in _scans_of_delivery(refill)]
        assert max(_rows_of_delivery(refill)) <= 11  # the sum of octets reads one ahead
    owed = await _plan(connection, "tests", ALL_SHARDS)
    assert "Seq Scan" not in owed
    assert _rows_of_delivery(owed) == [len(tests)]
    assert "Seq Scan on delivery" not in await _plan(connection, "owing", ALL_SHARDS)
    assert max(_rows_of_delivery(look)) <= 5


@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_long_failure_is_counted_by_index_and_no_further_than_asked(
    analyzed: bool, shop: Shop, connection: db.Connection
) -> None:
    """To know how often a webhook has failed, 1,000 of the 10,000 attempts behind it are read, and none of anybody else's,
    with no statistics or fresh ones."""
    await connection.execute("alter table bisd.attempt_default set (autovacuum_enabled = off)")
    for topic in ("a", "b"):
        await shop.subscribe(topic, "https://example.com/")
    await shop.connection.execute(_FAILURES)
    if analyzed:
        await connection.execute("analyze bisd.attempt, bisd.webhook, bisd.account")
    row = (await connection.fetch(db.query("webhooks"), [1]))[0]
    plan = await _plan(connection, "webhooks", [1])
    assert row["failures"] == 1000
    assert "Seq Scan" not in plan
    attempts = [line for line in plan.splitlines() if " on attempt" in line]
    assert [] == [line for line in attempts if "webhook_id_attempted_at_idx on " not in line]
    assert 1000 <= sum(_rows(attempts)) <= 1000 + 2  # a merge, and a window, read a row ahead


# Two webhooks' attempts of two days, all failed. Tests and what was put off count for nothing, and there are some.
_FAILURES = """
    with failed as (
        insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, due_at, test)
        select n, 1 + n % 2, now() - n * interval '8 s', now(), case when n % 7 > 0 then 1 end, 'retry', 500, now(), n % 5 = 0
        from generate_series(1, 20000) n
    )
    update bisd.webhook set resumed_at = now() - interval '9 days', failing_since = now() - interval '2 days', failures = 3
"""


def _scans_of_delivery(plan: str) -> list[str]:
    """The scans of the table that were carried out."""
    return [line for line in plan.splitlines() if " on delivery" in line and "never executed" not in line]


def _rows_of_delivery(plan: str) -> list[int]:
    """How many rows each scan of the table delivered."""
    return _rows(_scans_of_delivery(plan))


def _rows(scans: list[str]) -> list[int]:
    return [int(float(line.split("rows=")[1].split()[0].rstrip(")"))) for line in scans if "rows=" in line]


async def test_a_transaction_left_open_costs_the_look_nothing(shop: Shop, connect: Connect, connection: db.Connection) -> None:
    """Rows that came and went since a transaction was left open are not walked by looks."""
    await shop.subscribe("notification/create", "https://example.com/")
    pin = await connect()
    transaction = pin.transaction()
    await transaction.start()
    await pin.execute("select pg_current_xact_id()")
    for _ in range(20):
        await shop.notify(500)
        await shop.connection.execute("delete from bisd.delivery")
    arrival = await _arrival(connection)
    await shop.notify(2)
    rows = await connection.fetch(
        "explain (analyze, buffers, costs off) " + db.query("look"), arrival.snapshot.text, ALL_SHARDS, 1000, 1 << 20, None
    )
    # 10,000 dead entries lie on some 130 pages; what has just arrived lies on a few.
    assert _pages_touched([row[0] for row in rows]) < 40


def _pages_touched(plan: list[str]) -> int:
    """Buffers of the whole plan: the first line that counts them."""
    counts = next(line for line in plan if "Buffers:" in line)
    return sum(int(part.split("=")[1]) for part in counts.split() if "=" in part)
