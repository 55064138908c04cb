"""Sessions of the database for the HTTP face: few, and none of the daemon's own, so that whoever asks much keeps no delivery
waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from bisd import db
from bisd.errors import BisdError, DatabaseAwayError, NotGrantedError
from bisd.sessions import Sessions

_SIZE = 4
# Seconds: for a session that is free; for all that is asked of it, and for what may take longer at most.
_PATIENCE = 2.0
ANSWERED_WITHIN = 3.0
LONGEST = 60.0
# Of what may take that long, and of answers to tests that are waited for: whoever asks for much leaves sessions to others.
_LONG_AT_ONCE = 2
_WAITING_AT_ONCE = 10


class Desk:
    """Opens a session when one is asked for, and outlives a database that goes away. Use as an asynchronous context manager."""

    def __init__(self, connect: Callable[[], Awaitable[db.Connection]]) -> None:
        self._sessions = Sessions(connect, _SIZE, _PATIENCE)
        self._long = asyncio.Semaphore(_LONG_AT_ONCE)
        self.waiting = asyncio.Semaphore(_WAITING_AT_ONCE)

    async def __aenter__(self) -> Desk:
        await self._sessions.__aenter__()
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self._sessions.__aexit__(*fault)

    @asynccontextmanager
    async def connection(self, patience: float = ANSWERED_WITHIN) -> AsyncIterator[db.Connection]:
        """One session, for questions and orders that take moments; seconds, with more `patience`. Raises DatabaseAwayError
        where there is none or it takes too long, and NotGrantedError where its role may not."""
        refused: BisdError | None = None
        try:
            borrowed = self._sessions.borrow(within=patience if patience > ANSWERED_WITHIN else None)
            async with self._turn(patience), borrowed as connection, asyncio.timeout(patience):
                try:
                    yield connection
                except BisdError as fault:  # the session has done nothing wrong, and is lent again
                    refused = fault
        except asyncpg.InsufficientPrivilegeError as fault:
            raise NotGrantedError(reason=fault.args[0]) from None
        except db.TRANSIENT as fault:
            raise DatabaseAwayError(reason=type(fault).__name__) from None
        if refused is not None:
            raise refused

    @asynccontextmanager
    async def _turn(self, patience: float) -> AsyncIterator[None]:
        """Raises TimeoutError where too many others take long."""
        if patience <= ANSWERED_WITHIN:
            yield
            return
        async with asyncio.timeout(_PATIENCE):
            await self._long.acquire()
        try:
            yield
        finally:
            self._long.release()
