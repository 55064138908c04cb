"""Which of several servers is the primary: the one that takes writes, on the newest timeline.

All are asked at once, so that one whose host has gone without a word keeps nobody from the others. A standby that is promoted
begins the next timeline. A former primary that comes back, and takes writes as if nothing had been, is still on its old one.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from bisd.dsn import servers

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_Asking: TypeAlias = "list[asyncio.Future[tuple[int, Connection]]]"

# Seconds: for one to answer, and for the others once one has.
_PATIENCE = 5.0
_GRACE = 1.0
# What a server says that could be reached: that tells more than that another one could not.
_REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


class Primary:
    """Of the servers that a DSN names. `timeline`: the statement that asks one for its own."""

    def __init__(self, dsn: str, timeline: str) -> None:
        self._dsn = dsn
        self._ask = timeline
        self._newest = 0
        self._sessions: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    async def connect(self, **options: Any) -> Connection:
        """A session; with what asyncpg.connect takes besides. Whoever has seen a timeline never goes back to an older one, and
        what sessions there are on one end: no outcome is written to another server than the one that was read from. Raises
        what asyncpg.connect raises, and ValueError for a DSN that is none."""
        options |= {"timeout": _PATIENCE, "target_session_attrs": SessionAttribute.read_write}
        named = servers(self._dsn)
        if len(named) < 2:
            return await asyncpg.connect(self._dsn, **options)
        asking: _Asking = [asyncio.ensure_future(self._session(host, port, options)) for host, port in named]
        chosen: Connection | None = None
        try:
            await _answers(asking)
            chosen = self._choose(asking)
        finally:
            for one in asking:
                one.cancel()
            await asyncio.wait(asking)
            for _, session in _found(asking):
                if session is not chosen:
                    session.terminate()
        return chosen

    async def _session(self, host: str, port: int | None, options: dict[str, Any]) -> tuple[int, Connection]:
        connection = await asyncpg.connect(self._dsn, host=host.strip("[]"), port=port, **options)
        with ExitStack() as failing:
            failing.callback(connection.terminate)
            try:
                timeline = int(await connection.fetchval(self._ask, timeout=_PATIENCE))
            except asyncpg.PostgresError:
                timeline = 0  # it is none of PostgreSQL's own, and has no timelines
            failing.pop_all()
        return timeline, connection

    def _choose(self, asking: _Asking) -> Connection:
        timeline, chosen = max(_found(asking), key=lambda found: found[0], default=(0, None))
        if chosen is None:
            raise _fault(asking)
        if timeline < self._newest:
            raise asyncpg.TargetServerAttributeNotMatched("a former primary takes writes, and the newer one does not answer")
        self._sessions[chosen] = self._newest = timeline
        for session, older in list(self._sessions.items()):
            if older < timeline:
                session.terminate()
        return chosen


async def _answers(asking: _Asking) -> None:
    """Waits for all of them; once there is a session, for a moment only."""
    pending = set(asking)
    while pending:
        grace = _GRACE if _found(asking) else None
        done, pending = await asyncio.wait(pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return


def _found(asking: _Asking) -> list[tuple[int, Connection]]:
    return [one.result() for one in asking if one.done() and not one.cancelled() and one.exception() is None]


def _fault(asking: _Asking) -> BaseException:
    """Why there is none."""
    faults = [fault for one in asking if (fault := one.exception()) is not None]
    return next((fault for fault in faults if isinstance(fault, _REFUSALS)), faults[0])
