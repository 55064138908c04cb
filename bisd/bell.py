"""The bell that members of the fleet ring for each other: one has come, or shards are free, so the others count again at once.

A NOTIFY waits for a lock that is global to the server, and whoever holds it may wait for a standby that is away. So it is a
hint that nobody waits for, in a session that owns nothing: where it is not heard, the next count finds out, two seconds later.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from bisd import db
from bisd.sessions import Sessions

_PATIENCE = 1.0


class Bell:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._wanted = asyncio.Event()

    def ring(self) -> None:
        """Soon: several who ask for it are one."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.toll()

    async def toll(self) -> None:
        """Now, if that is possible at once."""
        with suppress(*db.ANY):
            async with asyncio.timeout(_PATIENCE), self._sessions.borrow() as connection:
                await connection.execute(db.query("ring_fleet"))
