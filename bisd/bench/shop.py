"""The application, in an open loop: what it inserts when does not depend on what has arrived.

    python -m bisd.bench.shop '{"dsn": ..., "statement": ..., "rate": ..., "seconds": ..., "accounts": ...}'

Prints, as JSON, for each notification the account, its id, when it was to be inserted, and when its commit returned.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import asyncpg
import uvloop

_CONNECTIONS = 8
_HEAD_START = 0.2

Order = tuple[int, float]
Sold = tuple[int, int, float, float]


async def sell(dsn: str, statement: str, rate: float, seconds: float, accounts: int) -> list[Sold]:
    """An order whose time has come waits, if it must, for a connection: that wait is counted, not left out."""
    orders: asyncio.Queue[Order | None] = asyncio.Queue()
    sold: list[Sold] = []
    connections = [await asyncpg.connect(dsn) for _ in range(_CONNECTIONS)]

    async def work(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        insert = await connection.prepare(statement)
        while (order := await orders.get()) is not None:
            account = 1 + order[0] % accounts
            sold.append((account, await insert.fetchval(account), order[1], time.time()))
        await connection.close()

    clock = threading.Thread(target=_tick, args=(asyncio.get_running_loop(), orders, rate, max(1, round(rate * seconds))))
    clock.start()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(work(connection))
    clock.join()
    return sold


def _tick(loop: asyncio.AbstractEventLoop, orders: asyncio.Queue[Order | None], rate: float, number: int) -> None:
    """Gives the orders out when it is their time. In a thread: an event loop's timers are whole milliseconds."""
    began = time.time() + _HEAD_START
    for one in range(number):
        intended = began + one / rate
        time.sleep(max(0.0, intended - time.time()))
        loop.call_soon_threadsafe(orders.put_nowait, (one, intended))
    for _ in range(_CONNECTIONS):
        loop.call_soon_threadsafe(orders.put_nowait, None)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(sell(**json.loads(sys.argv[1])))))
