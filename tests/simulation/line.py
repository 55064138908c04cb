"""The line between a daemon and the server: it takes time, may grow slow or silent, and an end of it may be gone.

`Connection` is as much of asyncpg's as the daemon uses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import asyncpg

from bisd import db
from tests.simulation.database import Backend
from tests.simulation.statements import Database
from tests.simulation.timeline import Loop, Timeline

# As bisd.db and bisd.fleet set up a daemon's sessions: seconds.
PATIENCE = 10.0
SILENCE = 8.0
# By then the server's kernel has given up a client that acknowledges nothing.
UNACKNOWLEDGED = 13.0

_STATEMENTS = {
    db.query(name): name
    for name in (
        *("restamp", "snapshot", "join_fleet", "leave_fleet", "beat", "look", "overflow", "take_shards", "release_shards"),
        *("owing", "tests", "refill", "webhooks", "settle", "report"),
    )
}


class Line:
    """One daemon's. `slow`: seconds that everything takes longer, either way."""

    def __init__(
        self,
        timeline: Timeline,
        database: Database,
        loop: Loop,
        chance: random.Random,
        stride: float,
        ended: Callable[[str, bool], None],
    ) -> None:
        self.slow = 0.0
        self.timeline = timeline
        self.database = database
        self.loop = loop
        self.stride = stride
        self.ended = ended
        self.open: list[Connection] = []
        self.down = False
        self._chance = chance

    def latency(self) -> float:
        return self._chance.uniform(0.0002, 0.002) + self.slow * self._chance.random()

    async def connect(self, what: str) -> Connection:
        """Raises OSError while the server is down."""
        await asyncio.sleep(3 * self.latency())
        if self.down:
            raise ConnectionRefusedError
        connection = Connection(self, what)
        self.open.append(connection)
        return connection

    def ring_fleet(self) -> None:
        """As in another session."""
        if not self.down:
            self.timeline.after(2 * self.latency(), self.database.ring_fleet)

    def cut(self, what: str | None = None, *, silently: bool) -> None:
        """Its connections end at the server; or nothing comes through any more, and neither end is told."""
        for connection in [one for one in self.open if what is None or one.what == what]:
            if silently:
                connection.silent = True
            else:
                self.ended(connection.what, False)
                self.database.close(connection.backend)


class Connection:
    def __init__(self, line: Line, what: str) -> None:
        self.what = what
        self.silent = False
        self.backend = Backend(what, self._hear, self._hang_up)
        line.database.backends.append(self.backend)
        self._line = line
        self._timeline = line.timeline
        self._listener: Callable[..., None] | None = None
        self._ended: Callable[..., None] | None = None
        self._lost = False
        self._asking: asyncio.Future[Any] | None = None
        self._watched = False

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        found: list[Any] = await self._ask(statement, arguments)
        return found

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        return await self._ask(statement, arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        return await self._ask(statement, arguments)

    async def execute(self, statement: str, *arguments: Any) -> None:
        await self._ask(statement, arguments)

    async def add_listener(self, _channel: str, listener: Callable[..., None]) -> None:
        self._listener = listener
        await self._ask(None, ())

    def add_termination_listener(self, listener: Callable[..., None]) -> None:
        self._ended = listener

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109  (asyncpg's signature)
        self.terminate()

    def terminate(self) -> None:
        if not self._lost:
            self._lost = True
            self._line.open.remove(self)
            if not self.silent:
                self._timeline.after(self._line.latency(), self._line.database.close, self.backend)

    async def _ask(self, statement: str | None, arguments: tuple[Any, ...]) -> Any:
        if self._lost:
            raise asyncpg.InterfaceError("connection is closed")
        asking = self._asking = self._line.loop.create_future()
        if self.silent or self._line.slow:
            self._timeline.after(PATIENCE, self._give_up, asking)
        if not self.silent:
            self._timeline.after(self._line.latency(), self._arrive, statement, arguments, asking, self._timeline.now)
        return await asking

    def _arrive(self, statement: str | None, arguments: tuple[Any, ...], asking: asyncio.Future[Any], asked_at: float) -> None:
        if self.silent:
            self._timeline.at(asked_at + PATIENCE, self._give_up, asking)
        elif self.backend.alive:
            answer = None
            if statement is None:
                self.backend.listens = True
            else:
                answer = getattr(self._line.database, _STATEMENTS[statement])(self.backend, *arguments)
            self.backend.asked_at = self._timeline.now
            if self.backend.member and not self._watched:
                self._watched = True
                self._timeline.after(SILENCE * self._line.stride, self._watch)
            self._timeline.after(self._line.latency(), self._answer, answer, asking, asked_at)

    def _answer(self, answer: Any, asking: asyncio.Future[Any], asked_at: float) -> None:
        if self.silent:
            self.backend.unread = isinstance(answer, list) and len(answer) > 2
            self._timeline.at(asked_at + PATIENCE, self._give_up, asking)
        elif not asking.done():
            asking.set_result(answer)

    def _give_up(self, asking: asyncio.Future[Any]) -> None:
        if not asking.done():
            asking.set_exception(TimeoutError())

    def _watch(self) -> None:
        """The server ends a member that asks nothing (idle_session_timeout), or that takes nothing."""
        if not self.backend.alive:
            return
        patience = (UNACKNOWLEDGED if self.backend.unread else SILENCE) * self._line.stride
        if self._timeline.now - self.backend.asked_at < patience - 1e-6:
            self._timeline.at(self.backend.asked_at + patience, self._watch)
        else:
            self._line.ended(self.what, True)
            self._line.database.close(self.backend)

    def _hear(self, says: str) -> None:
        if not self.silent:
            self._timeline.after(self._line.latency(), self._ring, says)

    def _ring(self, says: str) -> None:
        if not self._lost and not self.silent and self._listener is not None:
            self._line.loop.call_soon(self._listener, self, 0, "bisd", says)

    def _hang_up(self) -> None:
        if not self.silent:
            self._timeline.after(self._line.latency(), self._lose)

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self._line.open.remove(self)
            if self._ended is not None:
                self._line.loop.call_soon(self._ended, self)
        if self._asking is not None and not self._asking.done():
            self._asking.set_exception(asyncpg.ConnectionDoesNotExistError("connection was closed"))
