"""The primary is gone and a standby takes over: the daemon, whose DSN names both, follows by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest

from tests.support.daemon import Process
from tests.support.pair import Pair
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.sales import selling
from tests.support.shop import Shop, eventually


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    primary = await asyncio.to_thread(Server)
    name = urlsplit(await primary.create()).path[1:]
    standby = await asyncio.to_thread(primary.standby)
    pair = Pair(primary, standby, name)
    await pair.start()
    yield pair
    await pair.stop()
    await asyncio.to_thread(standby.remove)
    await asyncio.to_thread(primary.remove)


@pytest.fixture
async def dsn(pair: Pair) -> str:
    return pair.primary.dsn(pair.name)


@pytest.fixture
async def daemon(pair: Pair, ca_file: Path, tmp_path: Path) -> AsyncIterator[Process]:
    daemon = Process(tmp_path, pair.dsn, ca_file, BISD_DELIVERY_MAX_IN_FLIGHT="32")
    async with daemon.in_order():
        yield daemon


async def _says(daemon: Process, *words: str, times: int = 1) -> bool:
    return sum(all(word in line for word in words) for line in daemon.log.splitlines()) >= times


@pytest.mark.parametrize(
    "synchronous", [pytest.param(False, marks=pytest.mark.torture), True], ids=["asynchronous", "synchronous"]
)
async def test_a_standby_takes_over(synchronous: bool, pair: Pair, shop: Shop, receiver: Receiver, daemon: Process) -> None:
    """The primary is gone as at a power cut, under load. Within 10 seconds of the standby's promotion the same process delivers
    what happens there; what was replicated arrives, and where commits waited for that, everything."""
    if synchronous:
        await pair.primary.set(synchronous_standby_names="standby")
    await eventually(pair.primary.is_followed)
    async with selling(shop, pair.dsn, receiver) as sales:
        await sales.sell(shop.connection, 300)
        await receiver.received(100)
        await asyncio.to_thread(pair.primary.crash)
        promoted_at = await pair.take_over()
        seconds = await sales.fresh(promoted_at)
        lost = set(sales.committed) - await pair.kept()
        sales.committed = {sale: at for sale, at in sales.committed.items() if sale not in lost}
        await sales.all_arrive()
    print(f"\nstandby takes over: delivers after {seconds:.2f} s; {len(lost)} sales lost, {len(sales.repeated())} came again")
    assert seconds < 10
    assert lost == set() or not synchronous
    await eventually(pair.nothing_owed)


async def test_ids_that_come_twice(pair: Pair, shop: Shop, receiver: Receiver, daemon: Process) -> None:
    """What the standby never knew of is lost, its ids and transactions are given anew: what the daemon has still to write of
    the old ones settles nothing of the new ones, which arrive all."""
    async with selling(shop, pair.primary.dsn(pair.name), receiver, webhooks=1) as sales:
        await eventually(pair.primary.is_followed)
    await sales.all_arrive()
    await eventually(pair.primary.is_followed)
    await asyncio.to_thread(pair.standby.stop)
    await shop.connection.execute("begin; lock table bisd.attempt")
    async with pair.asked(pair.primary) as application:
        await sales.sell(application, 200)
    await sales.all_arrive()
    await asyncio.to_thread(pair.primary.crash)
    pair.second.refuse()
    await asyncio.to_thread(pair.standby.start)
    await pair.take_over()
    lost = set(sales.committed) - await pair.kept()
    async with pair.asked(pair.standby) as application:
        await sales.sell(application, 200)
    await pair.second.start()
    await sales.all_arrive()
    assert 200 == len(lost)
    await eventually(pair.nothing_owed)
    again = len(receiver.requests) - len({got.id for got in receiver.requests})
    print(f"\nids that come twice: {again} of 200")
    assert again > 100


@pytest.mark.torture
async def test_the_primary_is_gone_without_a_word(pair: Pair, shop: Shop, receiver: Receiver, daemon: Process) -> None:
    """Its host answers nothing any more, and refuses nothing: it is waited for no longer than for any answer, and does not keep
    anybody from the one that is named after it."""
    await eventually(pair.primary.is_followed)
    async with selling(shop, pair.primary.dsn(pair.name), receiver) as sales:
        await receiver.received(100)
    await sales.all_arrive()
    await eventually(pair.primary.is_followed)
    pair.first.freeze()
    failed_at = monotonic()
    await pair.take_over()
    async with pair.asked(pair.standby) as application:
        await sales.sell(application, 100)
    await sales.all_arrive(40)
    seconds = max(got.at for got in receiver.requests) - failed_at
    print(f"\ngone without a word: delivers after {seconds:.2f} s")
    assert seconds < 15
    await eventually(pair.nothing_owed)


@pytest.mark.torture
async def test_the_old_primary_strays(pair: Pair, shop: Shop, receiver: Receiver, daemon: Process) -> None:
    """It comes back and takes writes, as if nothing had been. Though it is named first, and for a while the only one that
    answers, nothing is read from it and nothing written there; nor by a daemon that starts then."""
    await eventually(pair.primary.is_followed)
    async with selling(shop, pair.dsn, receiver) as sales:
        await receiver.received(100)
        await asyncio.to_thread(pair.primary.crash)
        promoted_at = await pair.take_over()
        await sales.fresh(promoted_at)
        sales.dsn = pair.standby.dsn(pair.name)
        await asyncio.to_thread(pair.primary.start)
        strays = await pair.attempts(pair.primary)
        await asyncio.to_thread(pair.standby.stop, "fast")
        async with pair.asked(pair.primary) as stray:
            await sales.sell(stray, 100)
            wrong = set(range(sales.last - 99, sales.last + 1))
        await eventually(lambda: _says(daemon, "database_lost", "intake", times=2))
        await asyncio.to_thread(pair.standby.start)
        back_at = monotonic()
        seconds = await sales.fresh(back_at)
        assert 0 == await daemon.stop()
        await daemon.start()
        await sales.fresh(monotonic())
        for sale in set(sales.committed) - await pair.kept():
            sales.committed.pop(sale)
        await sales.all_arrive()
    print(f"\nthe old primary strays: delivers {seconds:.2f} s after the new one's restart")
    assert set() == wrong & {sale for _, sale in sales.arrivals()}
    assert strays == await pair.attempts(pair.primary)
    await eventually(pair.nothing_owed)
