"""The application: writers that insert notifications and mark them as sent, in transactions of their own, each commit noted.

It speaks to the database directly, and outlives it: what it was not told the end of is doubtful.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import count
from time import monotonic

from bisd import db
from tests.torture.ledger import Happening, Ledger

CREATE, SENT = "notification/create", "notification/sent"
# Seconds. Nobody waits for a server that has fallen silent for longer.
_PATIENCE = 5.0
_LARGE = 150_000
_INSERT = """
    insert into bisd.notification (id, account_id, customer_email, product_title)
    select n, $2, 'customer' || n || '@example.com', case when n = any ($3::bigint[]) then repeat('tea ', $4) else 'Tea' end
    from unnest($1::bigint[]) n
"""
_MARK = "update bisd.notification set sent_at = now() where id = any ($1::bigint[])"
_OWED = "select webhook_id, event_id from bisd.delivery where txid = pg_current_xact_id()"


class Application:
    """`rate`: transactions a second of each writer, about; `connect` opens a session of its own, wherever the primary is."""

    def __init__(
        self, ledger: Ledger, connect: Callable[[], asyncio.Future[db.Connection]], rng: random.Random, rate: float = 20.0
    ) -> None:
        self.rate = rate
        self._working = 0
        self._resting = False
        self._ledger = ledger
        self._connect = connect
        self._rng = rng
        self._numbers = count(1)

    async def write(self, account_id: int, most: int = 8) -> None:
        """One writer, until cancelled: up to `most` notifications in a transaction, of which some are taken back."""
        connection: db.Connection | None = None
        unmarked: list[int] = []
        try:
            while True:
                await asyncio.sleep(self._rng.expovariate(self.rate))
                if self._resting:
                    continue
                self._working += 1
                try:
                    if connection is None or connection.is_closed():
                        connection = await self._connect()
                    unmarked = await self._transact(connection, account_id, most, unmarked)
                except db.ANY:
                    if connection is not None:
                        connection.terminate()
                        connection = None
                finally:
                    self._working -= 1
        finally:
            if connection is not None:
                connection.terminate()

    async def rest(self) -> None:
        """From now on nothing is written; returns when nothing is under way any more."""
        self._resting = True
        while self._working:
            await asyncio.sleep(0.01)

    async def _transact(self, connection: db.Connection, account_id: int, most: int, unmarked: list[int]) -> list[int]:
        """Inserts some, or marks those that were inserted before; those that are to be marked next."""
        numbers = [] if unmarked else [next(self._numbers) for _ in range(self._rng.randint(1, most))]
        happenings: list[Happening] = [(n, SENT) for n in unmarked] or [(n, CREATE) for n in numbers]
        taken_back = self._rng.random() < 0.1
        transaction = connection.transaction()
        async with asyncio.timeout(_PATIENCE):
            await transaction.start()
            if unmarked:
                await connection.execute(_MARK, unmarked)
            else:
                large = [n for n in numbers if self._rng.random() < 0.01]
                await connection.execute(_INSERT, numbers, account_id, large, _LARGE // 4)
            owed = await connection.fetch(_OWED)
            if taken_back:
                self._ledger.undone.update(happenings)
                await transaction.rollback()
                return []
            self._ledger.doubtful.update(happenings)
            await transaction.commit()
        now = monotonic()
        self._ledger.doubtful.difference_update(happenings)
        self._ledger.committed.update(dict.fromkeys(happenings, now))
        self._ledger.owed.update({(row[0], row[1]): now for row in owed})
        return numbers if self._rng.random() < 0.3 else []
