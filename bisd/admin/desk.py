"""Sessions of the database for the HTTP face: few, and none of the daemon's own, so that whoever asks much keeps no delivery
waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from bisd import db
from bisd.errors import DatabaseAwayError, NotGrantedError
from bisd.sessions import Sessions

_SIZE = 3
# Seconds: for a session that is free, and for the answer of one.
_PATIENCE = 2.0
ANSWERED_WITHIN = 3.0


class Desk:
    """Opens a session when one is asked for, and outlives a database that goes away. Use as an asynchronous context manager."""

    def __init__(self, connect: Callable[[], Awaitable[db.Connection]]) -> None:
        self._sessions = Sessions(connect, _SIZE, db.set_up_to_be_asked, _PATIENCE)

    async def __aenter__(self) -> Desk:
        await self._sessions.__aenter__()
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self._sessions.__aexit__(*fault)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[db.Connection]:
        """One session, for questions and orders that take moments. Raises DatabaseAwayError where there is none or it takes too
        long, and NotGrantedError where its role may not."""
        try:
            async with self._sessions.borrow() as connection:
                yield connection
        except asyncpg.InsufficientPrivilegeError as fault:
            raise NotGrantedError(reason=fault.args[0]) from None
        except db.TRANSIENT as fault:
            raise DatabaseAwayError(reason=type(fault).__name__) from None
