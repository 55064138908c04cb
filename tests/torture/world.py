"""The world of one round: a shop with writers, merchants, and a fleet, on a database of its own; and how a round ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import trustme

from bisd import db
from bisd.model import SHARDS, shard_of
from tests.support.link import Link
from tests.support.pair import Pair
from tests.support.postgres import Server
from tests.torture.application import CREATE, SENT, Application
from tests.torture.checker import Terms
from tests.torture.facts import Facts, read
from tests.torture.ledger import Fault, Ledger
from tests.torture.merchants import MOODS, Merchants
from tests.torture.seat import MAX_ATTEMPTS, TIMEOUT, Line, Seat

# Webhooks by name: topic, and the mood that their merchant is always in (None: it changes).
_WEBHOOKS: dict[str, tuple[str, str | None]] = {
    **{f"well{n}": (CREATE, "well") for n in range(5)},
    **{f"sent{n}": (SENT, "well") for n in range(2)},
    "slow0": (CREATE, "slow"),
    "slow1": (SENT, "slow"),
    "flaky0": (CREATE, "flaky"),
    "flaky1": (CREATE, "flaky"),
    "moody0": (CREATE, None),
    "moody1": (SENT, None),
    "hostile0": (CREATE, "hanging"),
    "switched0": (CREATE, "well"),
    "switched1": (SENT, "flaky"),
}
_ORDERED: dict[str, tuple[str, str | None]] = {"ordered0": (CREATE, "flaky"), "ordered1": (CREATE, "well")}
_SHOPS = {"shop": _WEBHOOKS, "small": _ORDERED}
_NUMBER = len(_WEBHOOKS) + len(_ORDERED)
_HOLDERS = """
    select split_part(a.application_name, ' ', 2)::int, array_agg(l.objid::int)
    from pg_locks l join pg_stat_activity a using (pid)
    where l.locktype = 'advisory' and l.classid = 1651143524 and l.objid < 64 and a.application_name like 'bisd %'
      and l.database = (select oid from pg_database where datname = current_database())
    group by 1
"""
_SESSIONS = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'bisd%'"
_SETTLED_WITHIN = 90.0
_HEALED_WITHIN = 15.0
# Transactions a second of each writer.
_RATE = 6.0


@dataclass
class World:
    """`accounts` and `webhooks`: ids by name. `holders`: of each shard the process that was last seen to hold it. `wrong`: a
    sentence for everything that is not as it should be; `notes`: for what is, and worth telling. `moods`: those that come over
    merchants who are moody."""

    seed: int
    server: Server
    dsn: str
    ledger: Ledger
    merchants: Merchants
    application: Application
    seats: list[Seat]
    links: list[Link]
    rng: random.Random
    accounts: dict[str, int] = field(default_factory=dict)
    webhooks: dict[str, int] = field(default_factory=dict)
    holders: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    only: str | None = None
    moods: Sequence[str] = MOODS

    async def connect(self) -> db.Connection:
        return await asyncpg.connect(self.dsn, timeout=5)

    def held(self, pid: int) -> frozenset[int]:
        """The shards that this process is known to hold."""
        return frozenset(shard for shard, holder in self.holders.items() if holder == pid)

    def fault(self, name: str, *, cuts: bool, pid: int) -> Fault:
        """One that begins now, and concerns this process."""
        return self.ledger.strike(Fault(name, cuts, pid=pid, touched=self.steady(self.held(pid))))

    def steady(self, shards: frozenset[int] = frozenset(range(SHARDS))) -> list[int]:
        """The webhooks of these shards to which nothing ever happens: by them one can tell that somebody delivers."""
        steady = [id for name, id in self.webhooks.items() if name.startswith(("well", "sent"))]
        return [id for id in steady if shard_of(id) in shards]

    def terms(self) -> Terms:
        subscriptions = {
            self.webhooks[name]: (self.accounts[shop], topic)
            for shop, webhooks in _SHOPS.items()
            for name, (topic, _) in webhooks.items()
        }
        return Terms(
            subscriptions,
            constant=frozenset(id for name, id in self.webhooks.items() if not name.startswith(("switched", "hostile"))),
            ordered=frozenset(self.webhooks[name] for name in _ORDERED),
            max_attempts=MAX_ATTEMPTS,
            timeout=TIMEOUT,
        )

    async def populate(self) -> None:
        """Two shops: one with many writers, and one with a single one, whose webhooks are ordered."""
        connection = await self.connect()
        try:
            for shop, webhooks in _SHOPS.items():
                [(account_id, key)] = await connection.fetch("select * from bisd.create_account($1, 'large')", shop)
                self.accounts[shop] = account_id
                for name, (topic, mood) in webhooks.items():
                    # Far enough apart that every daemon gets some.
                    number = len(self.webhooks)
                    await connection.execute(f"alter table bisd.webhook alter id restart with {64 + 64 * number // _NUMBER}")
                    id = await connection.fetchval(
                        "select bisd.create_webhook($1, $2, $3)", account_id, topic, self.merchants.url(name)
                    )
                    await connection.execute("update bisd.webhook set ordered = $2 where id = $1", id, shop == "small")
                    await connection.execute("select bisd.enable_webhook($1)", id)
                    self.webhooks[name] = self.merchants.names[name] = id
                    self.merchants.keys[name] = key
                    self.merchants.moods[name] = mood or "well"
        finally:
            await connection.close()

    async def watch_shards(self) -> None:
        """Who holds what, several times a second, until cancelled."""
        connection: db.Connection | None = None
        try:
            while True:
                try:
                    connection = connection or await self.connect()
                    for pid, shards in await connection.fetch(_HOLDERS, timeout=2):
                        self.holders.update(dict.fromkeys(shards, pid))
                except db.ANY:
                    if connection is not None:
                        connection.terminate()
                        connection = None
                await asyncio.sleep(0.2)
        finally:
            if connection is not None:
                connection.terminate()

    async def settle(self) -> Facts:
        """No faults any more: everything that is owed gets its end, and nothing is left over. Notes what is wrong."""
        self.merchants.calm()
        await self.application.rest()
        connection = await self.connect()
        try:
            await self._resume(connection)
            try:
                async with asyncio.timeout(_SETTLED_WITHIN):
                    while await connection.fetchval("select count(*) from bisd.delivery"):
                        await asyncio.sleep(0.05)
                    await self._shared_out(connection)
            except TimeoutError:
                self.wrong.append(f"after {_SETTLED_WITHIN:g} s without faults something is owed, or shards are not held")
            for seat in self.seats:
                await self._is_clean(seat)
            for seat in self.seats:
                status = await asyncio.wait_for(seat.daemon.stop(), 60)
                if status != 0:
                    self.wrong.append(f"{seat.name} was told to stop, and ended with {status}")
                self.wrong += [f"{seat.name} logged {line}" for line in _faults(seat.daemon.log)]
            if sessions := await connection.fetchval(_SESSIONS):
                self.wrong.append(f"{sessions} sessions of daemons are left, and none of them runs")
            return await read(connection)
        finally:
            connection.terminate()

    async def _resume(self, connection: db.Connection) -> None:
        """Whatever is switched off, or waits for a probe, goes on."""
        for id in await connection.fetch("select id from bisd.webhook where removed_at is null"):
            await connection.execute("select bisd.enable_webhook($1)", id[0])

    async def _shared_out(self, connection: db.Connection) -> None:
        """Waits until the daemons that live hold all shards, each its share."""
        pids = {seat.daemon.pid for seat in self.seats}
        share = -(-64 // len(pids))
        while True:
            held = {pid: len(shards) for pid, shards in await connection.fetch(_HOLDERS)}
            if held.keys() == pids and sum(held.values()) == 64 and max(held.values()) == share:
                return
            await asyncio.sleep(0.05)

    async def _is_clean(self, seat: Seat) -> None:
        """Nothing is in flight, held or unwritten in a daemon to which nothing is owed."""
        names = ("bisd_in_flight", "bisd_held", "bisd_unwritten", "bisd_outage")
        left: dict[str, float] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while True:
                    samples = await seat.samples()
                    left = {name: samples[name] for name in names if samples[name]}
                    if not left:
                        return
                    await asyncio.sleep(0.1)
        self.wrong.append(f"{seat.name} holds on to {left}")


def _faults(log: str) -> list[str]:
    """Lines in which a daemon says that the fault is its own."""
    return [line[:300] for line in log.splitlines() if "internal_fault" in line or "Traceback" in line]


def recover(world: World, fault: Fault) -> float | None:
    """Seconds from the end of a fault until every steady webhook that it touched had got something that was committed since."""
    if fault.ended is None or not fault.touched:
        return None
    first: dict[int, float] = {}
    for request in reversed(world.ledger.requests):
        if request.at < fault.ended:
            break
        if request.pair[0] in fault.touched and world.ledger.owed.get(request.pair, 0.0) >= fault.ended:
            first[request.pair[0]] = request.at
    return max(first.values()) - fault.ended if first.keys() == set(fault.touched) else None


async def recovered(world: World, fault: Fault) -> None:
    """Waits until it has healed, or has had the time for it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_HEALED_WITHIN):
            while recover(world, fault) is None:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def opened(
    seed: int, server: Server, authority: trustme.CA, ca_file: Path, directory: Path, seats: int, pair: Pair | None = None
) -> AsyncIterator[World]:
    """A world at work: three writers in one shop and one in the other, and as many daemons, all ready; each on a line of its
    own to the server, or to both of a pair."""
    rng = random.Random(seed)
    dsn = await server.create() if pair is None else server.dsn(pair.name)
    ledger = Ledger()
    merchants = Merchants(authority, ledger, TIMEOUT, random.Random(rng.random()))
    links = [Link(dsn) for _ in range(seats)] if pair is None else []
    lines: Sequence[Line] = links if pair is None else [pair.again() for _ in range(seats)]
    places = [Seat(f"daemon{number}", directory, line, ca_file) for number, line in enumerate(lines)]

    def connect() -> asyncio.Future[db.Connection]:
        return asyncio.ensure_future(world.connect())

    application = Application(ledger, connect, random.Random(rng.random()), _RATE)
    world = World(seed, server, dsn, ledger, merchants, application, places, links, rng)
    await merchants.start()
    try:
        await world.populate()
        for seat in places:
            await seat.open()
            await seat.sit()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(application.write(world.accounts["shop"])) for _ in range(3)]
            tasks.append(group.create_task(application.write(world.accounts["small"], 2)))
            tasks.append(group.create_task(world.watch_shards()))
            yield world
            for task in tasks:
                task.cancel()
    finally:
        for seat in places:
            await seat.close()
        await merchants.stop()
