"""An application that sells all the time, whatever becomes of its database, and a ledger of what it was told is committed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg

from bisd import db
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

_SELL = "select bisd.emit($1, 'order/paid', json_build_object('sale', sale)) from generate_series($2::bigint, $3) sale"


class Sales:
    """Each sale is an event with a number of its own as the body: ids may come twice where a standby takes over."""

    def __init__(self, dsn: str, account_id: int, receiver: Receiver, webhooks: int) -> None:
        self.committed: dict[int, float] = {}
        self.dsn = dsn
        self._account_id = account_id
        self._receiver = receiver
        self._webhooks = webhooks
        self.last = 0
        self._read = 0
        self._arrivals: dict[tuple[str, int], list[float]] = {}

    async def sell(self, connection: db.Connection, number: int = 1) -> None:
        """So many, in one transaction."""
        first, self.last = self.last + 1, self.last + number
        await connection.execute(_SELL, self._account_id, first, first + number - 1, timeout=10)
        self.committed |= dict.fromkeys(range(first, first + number), monotonic())

    async def run(self) -> None:
        """Until cancelled. A sale of which it does not know whether it is committed is none, though it may arrive."""
        connection: db.Connection | None = None
        try:
            while True:
                try:
                    if connection is None or connection.is_closed():
                        connection = await asyncpg.connect(self.dsn, timeout=2, target_session_attrs="read-write")
                    await self.sell(connection)
                except db.ANY:
                    if connection is not None:
                        connection.terminate()
                await asyncio.sleep(0.01)
        finally:
            if connection is not None:
                connection.terminate()

    def arrivals(self) -> dict[tuple[str, int], list[float]]:
        """When each sale has come to each webhook."""
        for got in self._receiver.requests[self._read :]:
            self._arrivals.setdefault((got.path, json.loads(got.body)["sale"]), []).append(got.at)
            self._read += 1
        return self._arrivals

    def missing(self) -> set[int]:
        """Sales that are committed, and have not arrived at every webhook."""
        arrivals = self.arrivals()
        paths = [f"/{number}" for number in range(self._webhooks)]
        return {sale for sale in self.committed if any((path, sale) not in arrivals for path in paths)}

    async def all_arrive(self, seconds: float = 20.0) -> None:
        """Waits until everything has that is committed by now."""
        await eventually(self._is_complete, seconds)

    async def _is_complete(self) -> bool:
        return not self.missing()

    async def fresh(self, since: float, seconds: float = 20.0) -> float:
        """Waits until something has arrived that was committed after `since`: after how many seconds it did."""

        async def arrived() -> bool:
            return bool(self._fresh(since))

        await eventually(arrived, seconds)
        return min(self._fresh(since)) - since

    def _fresh(self, since: float) -> list[float]:
        return [times[0] for (_, sale), times in self.arrivals().items() if self.committed.get(sale, 0.0) > since]

    def repeated(self) -> list[float]:
        """When that was sent for the first time which was sent again: once for each time more."""
        return [times[0] for times in self.arrivals().values() for _ in times[1:]]


@asynccontextmanager
async def selling(shop: Shop, dsn: str, receiver: Receiver, webhooks: int = 3) -> AsyncIterator[Sales]:
    """A hundred sales in a second, at most, to so many webhooks; until the block ends."""
    for path in range(webhooks):
        await shop.subscribe("order/paid", f"{receiver.url}{path}")
    sales = Sales(dsn, shop.account_id, receiver, webhooks)
    task = asyncio.create_task(sales.run())
    try:
        await eventually(lambda: _any(sales))
        yield sales
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _any(sales: Sales) -> bool:
    return bool(sales.committed)
