"""What every scenario works with, and the measurement that most of them make: so many are owed, until none is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import time

from bisd import db
from bisd.bench import measures
from bisd.bench.cluster import Base, Cluster, require
from bisd.bench.figures import Figures
from bisd.bench.processes import Daemon, asked, daemons
from bisd.bench.receivers import Receivers

_POLL = 0.02
# As slow as this no run that is worth its name is: it has come to a halt.
_LEAST_PER_SECOND = 20
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Rig:
    """`scale` multiplies sizes and durations; `tell` hears what is being done."""

    directory: Path
    cluster: Cluster
    receivers: Receivers
    scale: float
    rounds: int
    tell: Callable[[str], None]

    def size(self, number: int, least: int = 100) -> int:
        return max(least, round(number * self.scale))

    def seconds(self, number: float, least: float = 1.0) -> float:
        return max(least, number * self.scale)

    def turns(self, what: str) -> Iterator[int]:
        for number in range(1, self.rounds + 1):
            self.tell(f"{what}, round {number} of {self.rounds}")
            yield number

    @asynccontextmanager
    async def base(self, accounts: int) -> AsyncIterator[Base]:
        """A database with so many accounts, and no webhooks."""
        async with self.cluster.database() as base:
            await base.open_accounts(accounts)
            yield base

    def daemons(self, base: Base, number: int = 1, /, **settings: int | str) -> AbstractAsyncContextManager[list[Daemon]]:
        return daemons(self.directory, base.dsn, self.receivers.ca_file, number, settings)

    @property
    def face(self) -> Path:
        """Where the daemon that has pages listens."""
        return self.directory / "face"

    def daemon_with_pages(self, base: Base) -> AbstractAsyncContextManager[list[Daemon]]:
        return daemons(self.directory, base.dsn, self.receivers.ca_file, 1, {}, self.face)

    async def bare(self, url: str, number: int, webhooks: int, in_flight: int) -> Figures:
        """The ceiling, in a process of its own."""
        question = {"url": url, "number": number, "webhooks": webhooks, "in_flight": in_flight}
        answer: Figures = await asked("bisd.bench.ceiling", question | {"ca_file": str(self.receivers.ca_file)})
        return answer


async def drained(rig: Rig, base: Base, number: int, webhooks: int, **settings: int | str) -> Figures:
    """So many deliveries to the webhooks from 1 on are owed already when a daemon is started: what it does and costs until
    all are written back. Its time begins with its first POST, its costs when it is ready."""
    since = await base.owe(number, 1, webhooks)
    await base.vacuum()
    dead = await measures.dead_rows(base)
    async with rig.daemons(base, **settings) as running:
        before = await measures.usage(base, running)
        began, ended = await until_drained(base, since, number, webhooks)
        after = await measures.usage(base, running)
        resident = measures.resident(running)
    return {
        "deliveries": number / (ended - began),
        **after.each(before, number),
        "dead_rows": (await measures.dead_rows(base) - dead) / number,
        "resident": resident,
        "start": (began - running[0].spawned) * 1000,
    }


async def until_drained(base: Base, since: datetime, number: int, last: int, first: int = 1) -> tuple[float, float]:
    """Waits until nothing is owed to the webhooks from `first` to `last`; when the first was sent, and all were written.

    Raises BenchFailedError unless exactly so many were delivered since."""
    try:
        async with asyncio.timeout(_PATIENCE + number / _LEAST_PER_SECOND):
            while await base.connection.fetchval(db.query("bench_owed"), first, last) is not None:
                await asyncio.sleep(_POLL)
    except TimeoutError:
        require(False, "the daemon does not deliver what is owed")
    ended = time()
    settled = await base.connection.fetchrow(db.query("bench_settled"), since, first, last)
    assert settled is not None
    require(settled["delivered"] == number, f"{number} were owed, {settled['delivered']} were delivered")
    return settled["began"].timestamp(), ended


async def until_shared(base: Base, running: Sequence[Daemon]) -> None:
    """Waits until each of the daemons holds as many shards as the others."""
    share = [64 // len(running)] * len(running)
    try:
        async with asyncio.timeout(_PATIENCE):
            while [row["held"] for row in await base.connection.fetch(db.query("bench_shards"))] != share:
                await asyncio.sleep(_POLL)
    except TimeoutError:
        require(False, "the daemons do not divide the shards among them")
