"""Sessions of the database that are needed for a moment: a bounded number at once, and kept open for a moment longer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import asyncpg

from bisd import db

_PATIENCE = 5.0
# Longer than from one look at the backlog to the next.
_KEPT = 20.0


class Sessions:
    """At most `size` at once, besides those that listen and write back. Use as an asynchronous context manager."""

    def __init__(self, connect: Callable[[], Awaitable[db.Connection]], size: int, patience: float = _PATIENCE) -> None:
        self._connect = connect
        self._size = size
        self._patience = patience
        self._pool: asyncpg.Pool[asyncpg.Record]

    async def __aenter__(self) -> Sessions:
        self._pool = asyncpg.create_pool(
            connect=self._open,
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=_KEPT,
            reset=_as_it_is,
            record_class=asyncpg.Record,
        )
        await self._pool
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.terminate()

    async def _open(self, *_: object, **__: object) -> db.Connection:
        return await self._connect()

    @asynccontextmanager
    async def borrow(self, within: float | None = None) -> AsyncIterator[db.Connection]:
        """One session, as it was at its beginning, in which statements may take so many seconds, if that is said. Raises
        TimeoutError if none becomes free, and what connecting raises."""
        async with self._pool.acquire(timeout=self._patience) as connection:
            again = False
            try:
                if within is not None:
                    await connection.execute(db.query("patience"), f"{within}s", timeout=self._patience)
                yield cast(db.Connection, connection)  # it passes on whatever a connection is asked for
                again = within is None
            finally:
                if not again:  # nobody waits to find out whether it can be, and none is lent that was changed
                    connection.terminate()


async def _as_it_is(_: object) -> None:
    """A session that is lent again has nothing to be reset: a page is one statement, not three."""
