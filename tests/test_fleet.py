"""The fleet: who owns which shard, what a death costs, and what nobody loses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest
import trustme
from aiohttp import web

from bisd import db
from bisd.delivery import arrival
from bisd.delivery.arrival import Arrival
from bisd.fleet import UNREAD, Fleet, Tending, mask
from bisd.service import Service
from tests.support.daemon import Process, configure, running
from tests.support.link import Link
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

pytestmark = pytest.mark.alone

Connect = Callable[[], Awaitable[db.Connection]]


@dataclass
class Member:
    """A daemon, as far as the fleet is concerned."""

    fleet: Fleet
    arrival: Arrival

    async def tend(self, unread: timedelta = UNREAD) -> Tending:
        arrivals = await self.arrival.look(0, unread)
        assert arrivals.members is not None
        return await self.fleet.tend(arrivals.members)


@pytest.fixture
async def member(dsn: str) -> AsyncIterator[Callable[[], asyncio.Future[Member]]]:
    """Makes members of the fleet, each on a session of its own."""
    connections: list[db.Connection] = []

    async def make() -> Member:
        connection = await db.connect(dsn, db.DAEMON)
        connections.append(connection)
        member = Member(Fleet(connection), Arrival(connection, lambda *_: None))
        await member.fleet.join()
        return member

    yield make
    for connection in connections:
        await connection.close()


async def test_one_holds_all_two_share(member: Callable[[], asyncio.Future[Member]]) -> None:
    """One daemon holds all 64; a second one takes its half as the first lets it go; a third brings them to thirds."""
    first = await member()
    await first.tend()
    assert first.fleet.held == frozenset(range(64))
    second = await member()
    assert (await second.tend()).taken == frozenset()
    surplus = (await first.tend()).surplus
    assert len(surplus) == 32
    await first.fleet.release(surplus)
    await second.tend()
    assert (first.fleet.held | second.fleet.held, first.fleet.held & second.fleet.held) == (frozenset(range(64)), frozenset())
    # A shop with ten webhooks has work for both.
    assert [len(one.fleet.held & frozenset(range(1, 11))) for one in (first, second)] == [5, 5]
    third = await member()
    for one in (first, second):
        await one.fleet.release((await one.tend()).surplus)
    await third.tend()
    assert [len(one.fleet.held) for one in (first, second, third)] == [22, 22, 20]


@pytest.mark.parametrize("shards", [[], [0], [63], [0, 63], list(range(64)), [1, 5, 62]])
def test_mask_is_a_signed_64_bit_number(shards: list[int]) -> None:
    """Bit n for shard n, in what SQL's bigint can hold."""
    bits = mask(shards)
    assert -(2**63) <= bits < 2**63
    assert [shard for shard in range(64) if bits >> shard & 1] == shards


async def test_a_member_that_stops_reading_is_ended(member: Callable[[], asyncio.Future[Member]], connect: Connect) -> None:
    """A member that is stuck in the middle of an answer is a member no longer, however patient the server is; while it may yet
    read on it stays, and so does one that is idle."""
    watcher, stuck, shop = await member(), await connect(), await connect()
    await member()
    await stuck.execute("select pg_advisory_lock_shared(1651143524, 64)")
    asking = asyncio.ensure_future(stuck.fetchval("select repeat('x', 100000000), pg_sleep(0.2)"))
    await asyncio.sleep(0.1)  # it has been asked; asyncpg reads on when it asks
    stuck._transport.pause_reading()  # type: ignore[attr-defined]
    await eventually(lambda: _writes(shop, stuck.get_server_pid()))
    await watcher.tend(timedelta(hours=1))
    assert watcher.fleet.members == 3
    await watcher.tend(timedelta(0))
    await eventually(lambda: _counts(watcher, 2))
    stuck.terminate()
    assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], db.TRANSIENT)


async def _counts(member: Member, number: int) -> bool:
    await member.tend()
    return member.fleet.members == number


async def _writes(connection: db.Connection, pid: int) -> bool:
    return bool(await connection.fetchval("select wait_event = 'ClientWrite' from pg_stat_activity where pid = $1", pid))


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


async def test_shards_change_hands_at_once(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes, lets shards go or leaves says so: the others wait for no turn of theirs to count again."""
    monkeypatch.setattr("bisd.intake._TEND_EVERY", 3600.0)
    await _webhooks(shop, receiver.url, 20)
    async with running(configure(ca_file), dsn):
        await eventually(lambda: _is(_held(dsn), [64]))
        async with running(configure(ca_file), dsn):
            await eventually(lambda: _is(_held(dsn), [32, 32]))
        await eventually(lambda: _is(_held(dsn), [64]))
        await shop.notify()
        await eventually(lambda: _is_zero(shop))
    assert 20 == len(receiver.requests)


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
        await asyncio.to_thread(server.remove)


async def test_a_session_that_is_ended_is_replaced_at_once(
    shop: Shop, ca_file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the daemon would have slept: until it knows, it sends what may be somebody else's by then."""
    monkeypatch.setattr(arrival, "_SWEEP", 3600.0)
    async with running(configure(ca_file), dsn) as service:
        await eventually(lambda: _sleeps(service))
        before = await _members(shop)
        await shop.connection.execute("select pg_terminate_backend($1)", before[0])
        await eventually(lambda: _is_another(shop, before))
        assert [] == [member for member in await _members(shop) if member in before]


async def _members(shop: Shop) -> list[int]:
    """Which processes of the server serve the fleet's sessions."""
    rows = await shop.connection.fetch(
        "select pid from pg_locks where locktype = 'advisory' and classid = 1651143524 and objid = 64 "
        "and database = (select oid from pg_database where datname = current_database())"
    )
    return [row["pid"] for row in rows]


async def _sleeps(service: Service) -> bool:
    return service._intake.still() > 0.5


async def _is_another(shop: Shop, before: list[int]) -> bool:
    now = await _members(shop)
    return len(now) == 1 and now != before


async def test_of_several_hosts_it_works_with_the_one_that_takes_writes(
    server: Server, dsn: str, shop: Shop, receiver: Receiver, ca_file: Path
) -> None:
    """A DSN that names two servers, the first of which can only be read: the daemon delivers what the second one owes."""
    standby = await asyncio.to_thread(Server)
    try:
        connection = await asyncpg.connect(standby.dsn("postgres"))
        await connection.execute("alter system set default_transaction_read_only = on")
        await connection.execute("select pg_reload_conf()")
        await connection.execute("set default_transaction_read_only = off")
        await connection.execute(f"create database {urlsplit(dsn).path[1:]} template bisd_template")
        await connection.close()
        await shop.subscribe("notification/create", receiver.url)
        hosts = ",".join(parse_qs(urlsplit(one).query)["host"][0] for one in (standby.dsn("postgres"), dsn))
        async with running(configure(ca_file), urlunsplit(urlsplit(dsn)._replace(query=urlencode({"host": hosts})))):
            await shop.notify()
            await receiver.received(1)
            await eventually(lambda: _is_zero(shop))
    finally:
        await asyncio.to_thread(standby.remove)
    assert await shop.statuses() == [("delivered", 1, 200, None)]


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


async def test_whoever_stops_leaves_what_is_idle_to_others(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Two of three are told to stop while eight receivers keep them waiting: they take no shard of each other, and all but
    those eight get what happens next, each once, from the third, while the two still wait."""
    await _paths(shop, receiver.url, 28)
    goes_on = _hangs(receiver)
    config = configure(ca_file, timeout=timedelta(seconds=20))
    async with running(config, dsn), running(config, dsn) as first, running(config, dsn) as second:
        await eventually(lambda: _is(_held(dsn), [20, 22, 22]))
        await shop.notify()
        await receiver.received(28)
        first.stop()
        second.stop()
        await shop.notify()
        await eventually(lambda: _well(receiver, 40))
        *left, held = await _held(dsn)
        assert (2, True, True) == (len(left), sum(left) <= 8, held >= 56)
        goes_on.set()
        await eventually(lambda: _is_zero(shop))
    assert 56 == len(receiver.requests) == _pairs(receiver)


async def test_who_comes_and_goes_waits_for_nobody_that_rings(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, connect: Connect, server: Server
) -> None:
    """While a commit of the application's waits for a standby that is away, and has the lock of all that ring, a daemon comes,
    another one is stopped, and what is under way is not sent again."""
    await _webhooks(shop, receiver.url, 1)
    watcher, goes_on, waits = await connect(), asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await goes_on.wait()
        return web.Response()

    async def sell() -> int:
        number = 0
        while not waits.is_set():
            await shop.notify()
            number += 1
        return number

    receiver.answer = answer
    async with running(configure(ca_file, timeout=timedelta(seconds=40)), dsn) as first:
        await shop.notify()
        await receiver.received(1)
        await server.set(synchronous_standby_names="nobody")
        try:
            selling = asyncio.ensure_future(sell())
            await eventually(lambda: _waits_for_a_standby(watcher))
            waits.set()
            async with running(configure(ca_file), dsn):
                first.stop()
                await eventually(lambda: _is(_held(dsn), [1, 63]))
                goes_on.set()
                await eventually(lambda: _is(_held(dsn), [64]))
                await server.set(synchronous_standby_names="")
                sold = await selling
                await eventually(lambda: _is_zero(shop))
        finally:
            await server.set(synchronous_standby_names="")
    assert 1 + sold == len(receiver.requests) == _pairs(receiver)


async def _waits_for_a_standby(connection: db.Connection) -> bool:
    return bool(await connection.fetchval("select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep'"))


@pytest.mark.parametrize("answered_before", [False, True])
async def test_a_slow_receiver_keeps_nobody_of_its_shard_waiting(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, answered_before: bool
) -> None:
    """A second daemon joins while one receiver in each of twenty shards does not answer, whether it has never done so, or was
    quick until now: another one in the same shard gets what happens meanwhile, each once; and when they have answered, those
    shards are shared as well."""
    for number in range(20):
        for id, path in ((number + 1, number), (number + 65, number + 20)):
            await shop.connection.execute(f"alter table bisd.webhook alter id restart with {id}")
            await shop.subscribe("notification/create", f"{receiver.url}{path}")
    rounds = 3 if answered_before else 2
    config = configure(ca_file, timeout=timedelta(seconds=40))
    async with running(config, dsn):
        if answered_before:
            await shop.notify()
            await eventually(lambda: _is_zero(shop))
        goes_on = _hangs(receiver)
        await shop.notify()
        await receiver.received(40 * (rounds - 1))
        async with running(config, dsn):
            await eventually(lambda: _is(_held(dsn), [22, 42]))
            await shop.notify()
            await eventually(lambda: _well(receiver, 20 * rounds), 5)
            assert [22, 42] == await _held(dsn)
            goes_on.set()
            await eventually(lambda: _is(_held(dsn), [32, 32]))
            await eventually(lambda: _is_zero(shop))
    assert 40 * rounds == len(receiver.requests) == _pairs(receiver)


def _hangs(receiver: Receiver) -> asyncio.Event:
    """From path 20 on it does not answer until this is set."""
    goes_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if int(request.path[1:]) >= 20:
            await goes_on.wait()
        return web.Response()

    receiver.answer = answer
    return goes_on


async def _well(receiver: Receiver, number: int) -> bool:
    return len([got for got in receiver.requests if int(got.path[1:]) < 20]) == number


def _pairs(receiver: Receiver) -> int:
    """How many deliveries have arrived, repeats not counted."""
    return len({(got.path, got.id) for got in receiver.requests})


async def _paths(shop: Shop, url: str, number: int) -> None:
    """So many webhooks, that can be told apart by what they receive."""
    for path in range(number):
        await shop.subscribe("notification/create", f"{url}{path}")


async def _slowly(_: web.Request) -> web.StreamResponse:
    """So that there is always something in flight."""
    await asyncio.sleep(0.05)
    return web.Response()


async def _arrived(receiver: Receiver, number: int) -> bool:
    return _pairs(receiver) == number


async def test_a_daemon_that_hangs_is_replaced(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path) -> None:
    """SIGSTOP of one of two under load: within 15 seconds everything has arrived by the other one. When it goes on, it sends
    nothing of what it held, writes down what was in flight without changing anything, and is a member again."""
    victim, survivor = await _two_under_load(shop, receiver, ca_file, tmp_path, dsn, dsn)
    victim.suspend()
    before = await _all_arrives(shop, receiver)
    victim.resume()
    await eventually(lambda: _is(_held(dsn), [32, 32]))
    assert [await victim.stop(), await survivor.stop()] == [0, 0]
    print(f"repeated {before - 6_400}, after it went on {len(receiver.requests) - before}")
    assert before - 6_400 <= 24 + 500  # in flight, or not written yet
    assert len(receiver.requests) - before <= 8  # a handshake that was under way goes on
    assert "writeback_fenced" in victim.log
    assert await _delivered(shop) == len(receiver.requests)


async def test_a_silent_line_deposes_its_daemon(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path
) -> None:
    """The line of one of two daemons to the database goes silent without an end: it stops sending before the other one has
    its shards, within 15 seconds. When the line is back, what it sent meanwhile is written down, and changes nothing."""
    link = Link(dsn)
    await link.start()
    victim, survivor = await _two_under_load(shop, receiver, ca_file, tmp_path, link.dsn, dsn)
    frozen_at = time.monotonic()
    link.freeze()
    before = await _all_arrives(shop, receiver)
    link.thaw()
    await eventually(lambda: _is(_held(dsn), [32, 32]))
    assert [await victim.stop(), await survivor.stop()] == [0, 0]
    await link.stop()
    first, again = dict[tuple[str, str], float](), list[tuple[float, float]]()
    for got in receiver.requests:
        if first.setdefault((got.path, got.id), got.at) < got.at:
            again.append((first[got.path, got.id] - frozen_at, got.at - frozen_at))
    print(f"repeated {len(again)}, first sent until {max(again)[0]:.1f} s, again from {min(at for _, at in again):.1f} s on")
    assert max(again)[0] < 4.6 < min(at for _, at in again)
    assert len(receiver.requests) == before
    assert await _delivered(shop) == len(receiver.requests)


async def _two_under_load(
    shop: Shop, receiver: Receiver, ca_file: Path, tmp_path: Path, dsn_of_one: str, dsn: str
) -> tuple[Process, Process]:
    """Two daemons in the middle of 6,000 deliveries to 20 webhooks, their connections open. The first has 24 in flight, and
    seconds to go with what it holds."""
    await _paths(shop, receiver.url, 20)
    receiver.answer = _slowly
    one = Process(
        tmp_path, dsn_of_one, ca_file, "one", BISD_DELIVERY_MAX_IN_FLIGHT="24", BISD_DELIVERY_MAX_IN_FLIGHT_PER_WEBHOOK="24"
    )
    other = Process(tmp_path, dsn, ca_file, "other", BISD_DELIVERY_MAX_IN_FLIGHT="128")
    await one.start()
    await other.start()
    await eventually(lambda: _is(_held(dsn), [32, 32]))
    await shop.notify(300)
    await receiver.received(2_000)
    return one, other


async def _all_arrives(shop: Shop, receiver: Receiver) -> int:
    """Within 15 seconds, what happens now too. How many requests it took."""
    async with asyncio.timeout(15):
        await shop.notify(20)
        await eventually(lambda: _arrived(receiver, 6_400))
        await eventually(lambda: _is_zero(shop))
    return len(receiver.requests)


async def _delivered(shop: Shop) -> int:
    return int(await shop.connection.fetchval("select count(*) from bisd.attempt where verdict = 'delivered'"))


async def test_hand_over_without_a_gap(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """While events come all the time, a second daemon joins and leaves again: each event arrives once, and none waits for two
    rounds of tending."""
    webhooks, committed = 20, dict[str, float]()
    await _paths(shop, receiver.url, webhooks)
    loop = asyncio.get_running_loop()
    going = True

    async def sell() -> None:
        while going:
            await shop.notify()
            committed[f"evt_{len(committed) + 1}"] = loop.time()
            await asyncio.sleep(0.02)

    async with running(configure(ca_file), dsn):
        selling = asyncio.ensure_future(sell())
        async with running(configure(ca_file), dsn):
            await eventually(lambda: _is(_held(dsn), [32, 32]))
            await receiver.received(len(receiver.requests) + 500)
        await eventually(lambda: _is(_held(dsn), [64]))
        await receiver.received(len(receiver.requests) + 500)
        going = False
        await selling
        await receiver.received(webhooks * len(committed))
    assert len(receiver.requests) == _pairs(receiver) == webhooks * len(committed)
    waited = sorted(got.at - committed[got.id] for got in receiver.requests)
    print(f"{len(committed)} events, the slowest {waited[-1]:.3f} s")
    assert waited[-1] < 3.0
