"""The database fails under a daemon that delivers: it goes on by itself, soon, and nothing that was committed is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from time import monotonic

import asyncpg
import pytest
from aiohttp import web

from bisd import db
from bisd.delivery import writeback
from bisd.service import Service
from tests.support.cluster import disk, fill, kill_backend
from tests.support.daemon import Process, configure, running
from tests.support.deployment import Deployment
from tests.support.link import Link
from tests.support.manager import Unit, manager
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.sales import Sales, selling
from tests.support.shop import Shop, eventually

pytestmark = pytest.mark.alone

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
    async with daemon.in_order():
        yield daemon


async def _slowly(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.02)
    return web.Response()


async def _says(daemon: Process, *words: str) -> bool:
    return any(all(word in line for word in words) for line in daemon.log.splitlines())


async def _settled(shop: Shop, dsn: str) -> None:
    """Everything is written. The shop's own connection may be gone, and the server may still recover."""
    if shop.connection.is_closed():
        async for attempt in db.outliving(lambda _: None):
            with attempt:
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


async def test_what_cannot_be_written_is_bounded(
    shop: Shop, dsn: str, receiver: Receiver, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written, though all can be read, and a thousand are owed: once enough outcomes wait nothing more is sent,
    or a crash would repeat it all. Then it goes on, and repeats nothing."""
    monkeypatch.setattr(writeback, "_MOST", 100)
    await shop.subscribe("notification/create", receiver.url)
    locking = await asyncpg.connect(dsn)
    async with running(configure(ca_file, max_in_flight=32), dsn) as daemon:
        async with locking.transaction():
            await locking.execute("lock table bisd.attempt in share mode")
            await shop.notify(1_000)
            await receiver.received(100)
            await eventually(lambda: _rests(daemon))
            sent = len(receiver.requests)
        await receiver.received_events(1_000)
        await eventually(lambda: _nothing_owed(shop))
    await locking.close()
    assert 100 <= sent <= 100 + 32
    assert 1_000 == len(receiver.requests)


async def _rests(daemon: Service) -> bool:
    return daemon.metrics.registry.get_sample_value("bisd_in_flight") == 0


@pytest.mark.parametrize("fault", ["reset", "half_close"])
async def test_lines_are_cut(fault: str, link: Link, shop: Shop, dsn: str, receiver: Receiver, daemon: Process) -> None:
    """Every line at once, by RST, or by a FIN while questions still pass."""
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(100)
        failed_at = monotonic()
        getattr(link, fault)()
        await _goes_on(fault, sales, failed_at, failed_at, 2.0)
        assert await _says(daemon, "database_lost", "intake")
    await _settled(shop, dsn)


async def test_the_database_is_refused(link: Link, shop: Shop, dsn: str, receiver: Receiver, daemon: Process) -> None:
    """Nobody listens for a while."""
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(100)
        failed_at = monotonic()
        link.refuse()
        link.reset()
        await eventually(lambda: _says(daemon, "database_lost", "intake"))
        await link.start()
        await _goes_on("refused", sales, failed_at, monotonic(), 2.0)
    await _settled(shop, dsn)


@pytest.mark.torture
@pytest.mark.parametrize("silent", [{}, {"questions": False}, {"answers": False}], ids=["both ways", "answers", "questions"])
async def test_lines_are_half_open(
    silent: dict[str, bool], link: Link, shop: Shop, dsn: str, receiver: Receiver, daemon: Process
) -> None:
    """Nothing passes any more on the lines that there are, or only one way, and none is closed; new ones would pass. It is
    found out as soon as an answer is overdue."""
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(100)
        failed_at = monotonic()
        link.freeze(**silent)
        link.strand()
        await _goes_on("half open", sales, failed_at, failed_at, 12.0)
        assert await _says(daemon, "database_lost", "intake")
    await _settled(shop, dsn)


@pytest.mark.torture
async def test_the_database_is_slow(
    link: Link, shop: Shop, dsn: str, receiver: Receiver, ca_file: Path, tmp_path: Path
) -> None:
    """Every answer comes half a second late: it delivers, seconds after the commit, and the watchdog hears of it as often as
    ever. No connection is given up, and what is sent is sent once."""
    deployment = Deployment(tmp_path / "slow.toml", ca_file, link.dsn)
    deployment.set("http", listen="off")
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file, WATCHDOG_USEC="900000") as unit:
            await said.hears("READY")
            link.delay(0.5)
            async with selling(shop, dsn, receiver) as sales:
                seconds = await sales.fresh(monotonic())
                await said.hears("WATCHDOG", len(said.named("WATCHDOG")) + 10)
            await sales.all_arrive()
            await eventually(lambda: _nothing_owed(shop))
            link.thaw()
            unit.send(signal.SIGTERM)
            assert 0 == await unit.ended()
        beats = [one.at for one in said.named("WATCHDOG")]
    apart = max(later - earlier for earlier, later in pairwise(beats))
    late = max(times[0] - sales.committed[sale] for (_, sale), times in sales.arrivals().items())
    print(
        f"\nslow: delivers after {seconds:.2f} s, the last {late:.2f} s after its commit; watchdog {apart:.2f} s apart at most"
    )
    assert apart < 0.9
    assert [] == sales.repeated()
    assert {"database_lost", "writeback_fenced", "stalled"}.isdisjoint(
        json.loads(line)["event"] for line in unit.log.splitlines()
    )


_LOCKS = {
    "deliveries": "lock table bisd.delivery in access exclusive mode",
    "webhooks": "lock table bisd.webhook in access exclusive mode",
    "delivery": "select from bisd.delivery limit 1 for update",
}


@pytest.mark.torture
@pytest.mark.parametrize("what", _LOCKS)
async def test_somebody_holds_a_lock(what: str, shop: Shop, dsn: str, receiver: Receiver, daemon: Process) -> None:
    """For six seconds, longer than the daemon waits for one: nothing is lost, and when it goes everything goes on. Where it is
    on one delivery, everything goes on meanwhile."""
    taken = asyncio.Event()

    async def when_locked(_: web.Request) -> web.StreamResponse:
        await taken.wait()
        return web.Response()

    receiver.answer = when_locked
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(3)
        failed_at = monotonic()
        async with shop.connection.transaction():
            await shop.connection.execute(_LOCKS[what])
            taken.set()
            if what == "delivery":
                assert await sales.fresh(monotonic()) < 1.0
            await shop.connection.execute("select pg_sleep(6)")
            meanwhile = len(receiver.requests)
        await _goes_on(f"lock on {what}", sales, failed_at, monotonic(), 2.0)
        print(f"{meanwhile} sent while it was held")
    await _settled(shop, dsn)
    assert [] == sales.repeated()


async def test_the_disk_of_the_database_is_full(receiver: Receiver, ca_file: Path, tmp_path: Path) -> None:
    """Not an octet is left: what was sent stays in memory until it can be written. Within 5 seconds of there being room, what
    is committed then is delivered, and nothing is sent twice."""
    with ExitStack() as ending:
        try:
            place = ending.enter_context(disk(160))
        except subprocess.CalledProcessError:
            pytest.skip("may not mount a disk")
        cluster = await asyncio.to_thread(Server, place, max_wal_size="48MB", min_wal_size="32MB")
        ending.callback(cluster.remove)
        dsn = await cluster.create()
        shop = await Shop.open(dsn)
        daemon = Process(tmp_path, dsn, ca_file, BISD_DELIVERY_MAX_IN_FLIGHT="32")
        await daemon.start()
        receiver.answer = _slowly
        async with selling(shop, dsn, receiver) as sales:
            await shop.connection.execute("select pg_switch_wal()")
            await sales.sell(shop.connection, 500)
            filling = fill(place)
            await eventually(lambda: _says(daemon, "database_lost", "DiskFullError"))
            filling.unlink()
            well_at = monotonic()
            await _goes_on("disk full", sales, well_at, well_at, 5.0)
        await _settled(shop, dsn)
        assert 0 == await daemon.stop()
        await shop.connection.close()
        assert [] == sales.repeated()
