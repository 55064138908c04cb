"""A primary and the standby that is to take over from it, as a daemon sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg

from bisd import db
from tests.support.cluster import Standby
from tests.support.link import Link
from tests.support.postgres import Server


class Pair:
    """A primary, its standby, and the lines that a daemon has to both of them."""

    def __init__(self, primary: Server, standby: Standby, name: str) -> None:
        self.primary = primary
        self.standby = standby
        self.name = name
        self.first, self.second = Link(primary.dsn(name)), Link(standby.dsn(name))

    def again(self) -> Pair:
        """The same, on lines of its own."""
        return Pair(self.primary, self.standby, self.name)

    async def start(self) -> None:
        await self.first.start()
        await self.second.start()

    async def stop(self) -> None:
        await self.first.stop()
        await self.second.stop()

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@{self.first.address},{self.second.address}/{self.name}"

    async def take_over(self) -> float:
        """The standby is the primary: since when."""
        await asyncio.to_thread(self.standby.promote)
        return monotonic()

    @asynccontextmanager
    async def asked(self, server: Server | Standby) -> AsyncIterator[db.Connection]:
        connection = await asyncpg.connect(server.dsn(self.name))
        yield connection
        await connection.close()

    async def kept(self) -> set[int]:
        """The sales that the new primary knows of."""
        async with self.asked(self.standby) as connection:
            return {row[0] for row in await connection.fetch("select (body->>'sale')::bigint from bisd.event")}

    async def nothing_owed(self) -> bool:
        async with self.asked(self.standby) as connection:
            return bool(await connection.fetchval("select count(*) = 0 from bisd.delivery"))

    async def attempts(self, server: Server | Standby) -> int:
        async with self.asked(server) as connection:
            return int(await connection.fetchval("select count(*) from bisd.attempt"))
