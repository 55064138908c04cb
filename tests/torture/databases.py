"""What befalls the database, and the lines that lead there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from bisd import db
from tests.support.cluster import kill_backend
from tests.support.pair import Pair
from tests.torture.ledger import Fault
from tests.torture.world import World, recovered

Strike = Callable[[World, random.Random], Awaitable[None]]
_OF_DAEMONS = """
    select pid from pg_stat_activity
    where datname = current_database() and application_name like 'bisd%' and pid <> pg_backend_pid()
"""
_LOCKS = (
    "lock table bisd.delivery in access exclusive mode",
    "lock table bisd.attempt in access exclusive mode",
    "lock table bisd.event in access exclusive mode",
    "lock table bisd.webhook in access exclusive mode",
    "select from bisd.webhook for update",
    "select from (select * from bisd.delivery limit 200) d for update",
)


@asynccontextmanager
async def _struck(world: World, name: str) -> AsyncIterator[Fault]:
    """A fault for as long as it lasts, which concerns everybody."""
    fault = world.ledger.strike(Fault(name, cuts=True, touched=world.steady()))
    yield fault
    fault.end()


@asynccontextmanager
async def _session(world: World) -> AsyncIterator[db.Connection]:
    connection = await world.connect()
    try:
        yield connection
    finally:
        connection.terminate()


async def stop(world: World, rng: random.Random) -> None:
    """Stopped as an operator does it, as a crash does, or by a power cut; away for a while, and back."""
    way = rng.choice(("fast", "immediate", "crash"))
    async with _struck(world, f"PostgreSQL stopped: {way}"):
        await (asyncio.to_thread(world.server.crash) if way == "crash" else asyncio.to_thread(world.server.stop, way))
        await asyncio.sleep(rng.choice((0.0, 0.5, 2.0, 5.0)))
        await asyncio.to_thread(world.server.start)


async def kill_session(world: World, rng: random.Random) -> None:
    """SIGKILL of a session of a daemon's: the server ends all sessions, and recovers."""
    async with _session(world) as connection:
        pids = [row[0] for row in await connection.fetch(_OF_DAEMONS)]
    async with _struck(world, "kill -9 of a backend"):
        kill_backend(rng.choice(pids))
        await _accepts(world)


async def end_session(world: World, rng: random.Random) -> None:
    """pg_terminate_backend of one or two sessions of daemons'."""
    async with _session(world) as connection, _struck(world, "session terminated"):
        pids = [row[0] for row in await connection.fetch(_OF_DAEMONS)]
        for pid in rng.sample(pids, min(len(pids), rng.randint(1, 2))):
            await connection.fetchval("select pg_terminate_backend($1)", pid)


async def read_only(world: World, rng: random.Random) -> None:
    """It takes no writes, as one that has been demoted."""
    async with _struck(world, "read-only"):
        await world.server.set(default_transaction_read_only="on")
        await asyncio.sleep(rng.uniform(0.5, 4))
        connection = await asyncpg.connect(world.server.dsn("postgres"))
        await connection.execute("set default_transaction_read_only = off")
        await connection.execute("alter system reset default_transaction_read_only")
        await connection.execute("select pg_reload_conf()")
        await connection.close()


async def silence(world: World, rng: random.Random) -> None:
    """A line falls silent: both ways, or one; for less or for longer than a shard is held by somebody who says nothing."""
    link = rng.choice(world.links)
    questions, answers = rng.choice(((True, True), (True, False), (False, True)))
    way = "both ways" if questions and answers else "to the server" if questions else "from the server"
    async with _struck(world, f"line silent, {way}"):
        link.freeze(questions=questions, answers=answers)
        await asyncio.sleep(rng.choice((1.0, 5.0, 13.0)))
        link.thaw()


async def slow(world: World, rng: random.Random) -> None:
    """Every answer of the database is half a second late."""
    async with _struck(world, "every answer 0.5 s late"):
        for link in world.links:
            link.delay(0.5)
        await asyncio.sleep(rng.uniform(2, 6))
        for link in world.links:
            link.thaw()


async def cut(world: World, rng: random.Random) -> None:
    """RST on every line, or FIN from the server's side on each while it still listens."""
    way = rng.choice(("reset", "half closed"))
    async with _struck(world, f"line {way}"):
        link = rng.choice(world.links)
        link.reset() if way == "reset" else link.half_close()


async def refuse(world: World, rng: random.Random) -> None:
    """RST on every line, and no new ones for a while."""
    async with _struck(world, "connections refused"):
        link = rng.choice(world.links)
        link.refuse()
        link.reset()
        await asyncio.sleep(rng.uniform(0.5, 4))
        await link.start()


async def lock(world: World, rng: random.Random) -> None:
    """Somebody holds locks on tables or rows, for less or for longer than a daemon waits."""
    async with _session(world) as connection, _struck(world, "locks held"), connection.transaction():
        await connection.execute(rng.choice(_LOCKS))
        await asyncio.sleep(rng.choice((0.5, 2.0, 7.0)))


async def fail_over(pair: Pair, world: World, _: int) -> None:
    """The primary is lost as by a power cut, and the standby takes over, for which commits of the application have waited."""
    await pair.primary.set(synchronous_standby_names="standby")
    await asyncio.sleep(world.rng.uniform(2, 5))
    async with _struck(world, "failover to a standby"):
        await asyncio.to_thread(pair.primary.crash)
        await asyncio.sleep(world.rng.uniform(0, 3))
        await pair.take_over()
        world.dsn = pair.standby.dsn(pair.name)
    await recovered(world, world.ledger.faults[-1])


async def _accepts(world: World) -> None:
    """Waits until it takes connections again."""
    while True:
        try:
            async with _session(world) as connection:
                await connection.fetchval("select 1")
                return
        except db.ANY:
            await asyncio.sleep(0.02)


STRIKES: tuple[Strike, ...] = (stop, kill_session, end_session, read_only, silence, slow, cut, refuse, lock, stop, end_session)
