"""The database fails under a daemon that delivers: it goes on by itself, soon, and nothing that was committed is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic

import asyncpg
import pytest
from aiohttp import web

from tests.support.cluster import kill_backend
from tests.support.daemon import Process
from tests.support.link import Link
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.sales import Sales, selling
from tests.support.shop import Shop, eventually

# Seconds before a fault of which something may not be on disk: a batch's linger, and three times wal_writer_delay.
_UNFLUSHED = 1.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    """One to be broken: each test leaves it well."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture
async def dsn(cluster: Server) -> str:
    return await cluster.create()


@pytest.fixture
async def link(dsn: str) -> AsyncIterator[Link]:
    link = Link(dsn)
    await link.start()
    yield link
    await link.stop()


@pytest.fixture
async def daemon(link: Link, ca_file: Path, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Process]:
    """There is always something in flight; it ends in order."""
    receiver.answer = _slowly
    daemon = Process(tmp_path, link.dsn, ca_file, BISD_DELIVERY_MAX_IN_FLIGHT="32")
    await daemon.start()
    yield daemon
    try:
        assert 0 == await daemon.stop()
    finally:
        await daemon.kill()
        assert "internal_fault" not in daemon.log


async def _slowly(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.02)
    return web.Response()


async def _says(daemon: Process, *words: str) -> bool:
    return any(all(word in line for word in words) for line in daemon.log.splitlines())


async def _settled(shop: Shop, dsn: str) -> None:
    """Everything is written. The shop's own connection may be gone."""
    if shop.connection.is_closed():
        shop.connection = await asyncpg.connect(dsn)
    await eventually(lambda: _nothing_owed(shop))


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _goes_on(what: str, sales: Sales, failed_at: float, well_at: float, most: float) -> None:
    """What was committed since all was well again arrives within `most` seconds, and then all that ever was; and what came
    twice was in flight, or not on disk, when the database failed."""
    seconds = await sales.fresh(well_at)
    await sales.all_arrive()
    repeated = sales.repeated()
    print(f"\n{what}: delivers after {seconds:.2f} s; of {len(sales.committed)} sales {len(repeated)} came again")
    assert seconds < most
    assert [] == [at for at in repeated if at < failed_at - _UNFLUSHED]


@pytest.mark.parametrize("mode", ["fast", "immediate", "crash"])
async def test_the_server_goes_and_comes_back(
    mode: str, cluster: Server, shop: Shop, dsn: str, receiver: Receiver, daemon: Process
) -> None:
    """Stopped in order, at once, or gone as at a power cut, with hundreds owed: two seconds after it is back at most, what is
    committed then is delivered."""
    async with selling(shop, dsn, receiver) as sales:
        await sales.sell(shop.connection, 300)
        await receiver.received(100)
        failed_at = monotonic()
        await asyncio.to_thread(*((cluster.crash,) if mode == "crash" else (cluster.stop, mode)))
        await eventually(lambda: _says(daemon, "database_lost", "intake"))
        await asyncio.to_thread(cluster.start)
        await _goes_on(mode, sales, failed_at, monotonic(), 2.0)
    await _settled(shop, dsn)


_SESSIONS = {
    "listening": "application_name like 'bisd %'",
    "writing": "application_name = 'bisd' and query like '%A batch of verdicts%'",
}


@pytest.mark.parametrize("session", ["listening", "writing"])
async def test_a_session_is_ended(session: str, shop: Shop, dsn: str, receiver: Receiver, daemon: Process) -> None:
    """By an administrator: the one that listens, or the one that writes."""
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(100)
        failed_at = monotonic()
        ended = await shop.connection.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            f"where datname = current_database() and {_SESSIONS[session]}"
        )
        assert 1 == ended
        await _goes_on(f"{session} session ended", sales, failed_at, failed_at, 2.0)
        await eventually(lambda: _says(daemon, "database_lost", "intake" if session == "listening" else "writeback"))
    await _settled(shop, dsn)


async def test_a_process_of_the_server_is_killed(shop: Shop, dsn: str, receiver: Receiver, daemon: Process) -> None:
    """As the kernel does it when memory runs out: the server ends every session, and recovers."""
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(100)
        failed_at = monotonic()
        kill_backend(await shop.connection.fetchval("select pid from pg_stat_activity where application_name like 'bisd %'"))
        await eventually(lambda: _says(daemon, "database_lost", "intake"))
        await _goes_on("backend killed", sales, failed_at, failed_at, 3.0)
    await _settled(shop, dsn)


async def test_a_primary_that_takes_no_writes(
    cluster: Server, shop: Shop, dsn: str, receiver: Receiver, daemon: Process
) -> None:
    """As one that was demoted: what was sent is written once it takes writes again, and nothing is sent twice."""
    async with selling(shop, dsn, receiver) as sales:
        await sales.sell(shop.connection, 300)
        await receiver.received(100)
        failed_at = monotonic()
        await cluster.set(default_transaction_read_only="on")
        await eventually(lambda: _says(daemon, "database_lost", "writeback"))
        await cluster.set(default_transaction_read_only="off")
        await _goes_on("read only", sales, failed_at, monotonic(), 2.0)
        assert [] == sales.repeated()
    await _settled(shop, dsn)
