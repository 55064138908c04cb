"""Housekeeping: a day without a partition fails nobody's insert and is mended; nothing is deleted row by row; one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from bisd import db
from tests.support.daemon import configure, running
from tests.support.postgres import Server
from tests.support.shop import Shop, eventually

Connect = Callable[[], Awaitable[db.Connection]]
# Of both tables, by the day (0: today), as when no daemon has run for long.
_FORGET = """
    do $$ declare part text; begin
        for part in select c.oid::regclass from pg_class c where c.relname ~ '^(event|attempt)_[0-9]{8}$' loop
            execute format('drop table %s', part);
        end loop;
    end $$
"""


async def _days(shop: Shop, table: str) -> list[tuple[str, int]]:
    """The partitions that hold something, today's called so."""
    rows = await shop.connection.fetch(
        f"select replace(tableoid::regclass::text, to_char(now() at time zone 'UTC', 'YYYYMMDD'), 'today'), count(*) "
        f"from bisd.{table} group by 1 order by 1"
    )
    return [(row[0], row[1]) for row in rows]


async def test_a_daemon_mends_every_day(shop: Shop, ca_file: Path, dsn: str) -> None:
    """What came today and on days long past while there was no partition leaves the default one as soon as a daemon runs; what
    is past its retention goes with its partition."""
    await shop.connection.execute(_FORGET)
    await shop.notify(3)
    await shop.connection.execute(
        "insert into bisd.event (account_id, topic, body, created_at) "
        "select 1, 'a', '{}', now() - n * interval '1 day' from generate_series(1, 40) n, generate_series(1, 2)"
    )
    assert await _days(shop, "event") == [("bisd.event_default", 83)]
    async with running(configure(ca_file), dsn):
        await eventually(lambda: _number(shop, 30))
    assert ("bisd.event_today", 3) in await _days(shop, "event")
    assert {number for name, number in await _days(shop, "event") if name != "bisd.event_today"} == {2}
    assert await shop.connection.fetchval("select count(*) from bisd.event_default") == 0


async def _number(shop: Shop, days: int) -> bool:
    """Whether that many past days are kept, besides today."""
    found = await _days(shop, "event")
    return len(found) == days + 1 or len(found) == days


async def test_mending_today_fails_nobody(shop: Shop, connect: Connect) -> None:
    """Four writers go on while today's partitions are made and what the default one holds moves: each insert succeeds, none
    waits long, and every row is there once, in today's partition."""
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.connection.execute(_FORGET)
    await shop.notify(20_000)
    loop = asyncio.get_running_loop()
    written, longest, going = 20_000, 0.0, True

    async def write(connection: db.Connection) -> None:
        nonlocal written, longest
        while going:
            began = loop.time()
            await connection.execute("insert into bisd.notification (account_id) select 1 from generate_series(1, 10)")
            longest = max(longest, loop.time() - began)
            written += 10

    writing = [asyncio.ensure_future(write(await connect())) for _ in range(4)]
    try:
        made = await (await connect()).fetchval("select bisd.make_partitions(7)")
        before = written
        await eventually(lambda: _more(lambda: written > before))
    finally:
        going = False
        await asyncio.gather(*writing)
    assert made == 16
    assert await _days(shop, "event") == [("bisd.event_today", written)]
    assert await shop.connection.fetchval("select count(distinct id) from bisd.event") == written
    assert await shop.owed() == written
    print(f"{written} written, the longest insert took {longest:.3f} s")
    assert longest < 2


async def _more(said: Callable[[], bool]) -> bool:
    return said()


async def test_mending_hides_nothing(shop: Shop, connect: Connect) -> None:
    """Whoever asks for the first time, while what the default partition holds is about to be in another one, is told all of it:
    a daemon that found a delivery without its event would give it up."""
    await shop.connection.execute(_FORGET)
    await shop.notify(1_000)
    mending, asking = await connect(), await connect()
    moving = mending.transaction()
    await moving.start()
    await mending.execute("select bisd.make_partitions(7)")
    answer = asyncio.ensure_future(asking.fetchval("select count(*) from bisd.event"))
    await eventually(lambda: _waits(shop, asking))
    await moving.commit()
    assert await answer == 1_000


async def _waits(shop: Shop, connection: db.Connection) -> bool:
    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
    return bool(await shop.connection.fetchval(query, connection.get_server_pid()))


async def test_one_at_a_time(shop: Shop, connect: Connect) -> None:
    """Five daemons that tend partitions at once make each of them once, and drop each of them once."""
    await shop.connection.execute(_FORGET)
    made = await asyncio.gather(*[(await connect()).fetchval("select bisd.make_partitions(7)") for _ in range(5)])
    assert sorted(made) == [0, 0, 0, 0, 16]
    queries = [(await connect()).fetch("select bisd.drop_partitions('event', now() + interval '30 d')") for _ in range(5)]
    assert sorted(map(len, await asyncio.gather(*queries))) == [0, 0, 0, 0, 8]


async def test_an_index_comes_with_its_partition(shop: Shop) -> None:
    """A partition has the indexes of its table before it is attached, under their usual names: nobody waits for them."""
    await shop.connection.execute(_FORGET)
    await shop.connection.fetchval("select bisd.make_partitions(0)")
    names = await shop.connection.fetch(
        "select regexp_replace(indexrelid::regclass::text, '[0-9]{8}', 'day') from pg_index "
        "where indrelid::regclass::text ~ '(event|attempt)_[0-9]{8}$' order by 1"
    )
    assert [row[0] for row in names] == [
        "bisd.attempt_day_pkey", "bisd.attempt_day_webhook_id_attempted_at_idx", "bisd.event_day_id_idx", "bisd.event_day_pkey",
    ]  # fmt: skip
    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await shop.connection.execute("drop index bisd." + (await _an_index(shop)))


async def _an_index(shop: Shop) -> str:
    return str(await shop.connection.fetchval("select relname from pg_class where relname ~ '^attempt_[0-9]{8}_webhook'"))


def test_what_is_owed_stays_small() -> None:
    """200,000 deliveries go through their table while nothing is vacuumed but by autovacuum, as the schema has it for this
    table: at no time does it take a fifth of the room that so many take, indexes and all."""
    # It looks for tables to vacuum once a second instead of once a minute: what then becomes one is as shipped.
    server = Server(autovacuum="on", autovacuum_naptime="1s")
    try:
        sizes = asyncio.run(_churn(server))
    finally:
        server.remove()
    assert max(sizes) < 40 * sizes[0] / 5, sizes


async def _churn(server: Server) -> list[int]:
    """The size of the table, in octets, with each 5,000 of 200,000 that are made and deleted."""
    shop = await Shop.open(await server.create())
    await shop.subscribe("notification/create", "https://example.com/")
    sizes = []
    for number in range(40):
        await shop.notify(5_000)
        sizes.append(await shop.connection.fetchval("select pg_total_relation_size('bisd.delivery')"))
        await shop.connection.execute("delete from bisd.delivery")
        await shop.connection.execute("select pg_stat_force_next_flush()")
        if number % 4 == 3:
            await eventually(lambda: _is_vacuumed(shop))
    await shop.connection.close()
    return sizes


async def _is_vacuumed(shop: Shop) -> bool:
    """Whether fewer rows are dead than make autovacuum come."""
    return bool(
        await shop.connection.fetchval(
            "select n_dead_tup < 5000 from pg_stat_user_tables where relid = 'bisd.delivery'::regclass"
        )
    )
