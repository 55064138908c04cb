"""The fleet: who owns which shard, what a death costs, and what nobody loses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
import trustme

from bisd import db
from bisd.fleet import Fleet, mask
from tests.support.daemon import Process, configure, running
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


@pytest.fixture
async def member(dsn: str) -> AsyncIterator[Callable[[], asyncio.Future[Fleet]]]:
    """Makes members of the fleet, each on a session of its own."""
    connections: list[db.Connection] = []

    async def make() -> Fleet:
        connection = await db.connect(dsn, daemon=True)
        connections.append(connection)
        fleet = Fleet(connection)
        await fleet.join()
        return fleet

    yield make
    for connection in connections:
        await connection.close()


async def test_one_holds_all_two_share(member: Callable[[], asyncio.Future[Fleet]]) -> None:
    """One daemon holds all 64; a second one takes its half as the first lets it go; a third brings them to thirds."""
    first = await member()
    await first.tend()
    assert first.held == frozenset(range(64))
    second = await member()
    assert (await second.tend()).taken == frozenset()
    surplus = (await first.tend()).surplus
    assert len(surplus) == 32
    await first.release(surplus)
    await second.tend()
    assert (first.held | second.held, first.held & second.held) == (frozenset(range(64)), frozenset())
    third = await member()
    for fleet in (first, second):
        await fleet.release((await fleet.tend()).surplus)
    await third.tend()
    assert [len(fleet.held) for fleet in (first, second, third)] == [22, 22, 20]


@pytest.mark.parametrize("shards", [[], [0], [63], [0, 63], list(range(64)), [1, 5, 62]])
def test_mask_is_a_signed_64_bit_number(shards: list[int]) -> None:
    """Bit n for shard n, in what SQL's bigint can hold."""
    bits = mask(shards)
    assert -(2**63) <= bits < 2**63
    assert [shard for shard in range(64) if bits >> shard & 1] == shards


async def _webhooks(shop: Shop, url: str, number: int) -> None:
    for _ in range(number):
        await shop.subscribe("notification/create", url)


async def _held(dsn: str) -> list[int]:
    """How many shards each session holds."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "select count(*) from pg_locks where locktype = 'advisory' and classid = 1651143524 and objid < 64 "
        "and database = (select oid from pg_database where datname = current_database()) group by pid order by 1"
    )
    await connection.close()
    return [row[0] for row in rows]


async def test_two_daemons_share_without_a_repeat(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """5,000 deliveries over 50 webhooks while a second daemon joins in the middle: every one arrives once."""
    await _webhooks(shop, receiver.url, 50)
    async with running(configure(ca_file), dsn):
        await shop.notify(50)
        await receiver.received(500)
        async with running(configure(ca_file), dsn):
            await shop.notify(50)
            await eventually(lambda: _is(_held(dsn), [32, 32]))
            await receiver.received(5_000, 60)
            await eventually(lambda: _is_zero(shop))
    assert len(receiver.requests) == 5_000
    rows = await shop.connection.fetch("select webhook_id, count(*), count(distinct event_id) from bisd.attempt group by 1")
    assert [tuple(row) for row in sorted(rows)] == [(webhook_id, 100, 100) for webhook_id in range(1, 51)]


async def _is(question: asyncio.Future[list[int]], answer: list[int]) -> bool:
    return await question == answer


async def _is_zero(shop: Shop) -> bool:
    return await shop.owed() == 0


async def test_a_killed_daemon_loses_nothing(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path) -> None:
    """kill -9 of one of two in the middle: the other has all 64 shards within seconds, every event arrives at every
    webhook, and what came twice is no more than was in flight or unwritten."""
    await _webhooks(shop, receiver.url, 20)
    victim, survivor = (Process(tmp_path, dsn, ca_file, name) for name in ("victim", "survivor"))
    await victim.start()
    await survivor.start()
    await eventually(lambda: _is(_held(dsn), [32, 32]))
    await shop.notify(200)
    await receiver.received(1_000)
    await victim.kill()
    killed_at = asyncio.get_running_loop().time()
    await eventually(lambda: _is(_held(dsn), [64]))
    assert asyncio.get_running_loop().time() - killed_at < 5
    await eventually(lambda: _is_zero(shop), 60)
    assert await survivor.stop() == 0
    pairs = await shop.connection.fetch("select distinct webhook_id, event_id from bisd.attempt where verdict = 'delivered'")
    assert len(pairs) == 4_000
    assert 4_000 <= len(receiver.requests) <= 4_000 + configure(ca_file).delivery.max_in_flight + 500


async def test_a_restarted_database_loses_nothing(authority: trustme.CA, ca_file: Path, receiver: Receiver) -> None:
    """PostgreSQL restarted under load, in order and as after a crash: the daemon outlives it, listens again, and delivers
    what was committed before, meanwhile and afterwards."""
    server = await asyncio.to_thread(Server)
    try:
        dsn = await server.create()
        shop = await Shop.open(dsn)
        await _webhooks(shop, receiver.url, 5)
        async with running(configure(ca_file), dsn):
            for number, mode in enumerate(("fast", "immediate"), start=1):
                await shop.notify(200)
                await receiver.received((number - 1) * 1_005 + 100)
                await asyncio.to_thread(server.restart, mode)
                back_at = asyncio.get_running_loop().time()
                shop.connection = await asyncpg.connect(dsn)
                await shop.notify(1)
                await receiver.received_events(number * 201)
                assert asyncio.get_running_loop().time() - back_at < 8
            await eventually(lambda: _is_zero(shop))
        pairs = await shop.connection.fetchval("select count(*) from bisd.delivery_status where state = 'delivered'")
        assert pairs == 2 * 201 * 5
        await shop.connection.close()
    finally:
        await asyncio.to_thread(server.stop)


async def test_sigterm_under_load_repeats_nothing(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path
) -> None:
    """SIGTERM in the middle: it exits with 0, what it sent is written, and the next one sends the rest once."""
    await _webhooks(shop, receiver.url, 10)
    daemon = Process(tmp_path, dsn, ca_file)
    await daemon.start()
    await shop.notify(200)
    await receiver.received(500)
    assert await daemon.stop() == 0
    assert len(receiver.requests) == 2_000 - await shop.owed()
    await daemon.start()
    await eventually(lambda: _is_zero(shop), 60)
    assert await daemon.stop() == 0
    assert len(receiver.requests) == 2_000
