"""What the application does: rows, in transactions of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

# The example of the documentation, and the body it must give.
SEED_ROW = """
    insert into bisd.notification (id, account_id, channel, customer_email, quantity_required, customer_language,
                                   customer_utc_offset, product_id, product_title, variant_id, variant_title, created_at)
    values (12345, $1, 'email', '[email protected]', 1, 'en-GB', 14400, 8339067207909, 'Black Tea', 44211925318693, 'Small',
            '2023-09-09T14:33:10Z')
"""
SEED_SENT = "update bisd.notification set sent_at = '2023-09-11T12:13:45Z' where id = 12345"
SEED_BODY = (
    b'{"notification_id":12345,"topic":"notification/sent","timestamp":"2023-09-11T12:13:45Z","channel":"email",'
    b'"customer":{"email":"[email protected]","sms":null},"quantity_required":1,"customer_language":"en-GB",'
    b'"customer_utc_offset":14400,"created_at":"2023-09-09T14:33:10Z","product":{"product_id":8339067207909,'
    b'"product_title":"Black Tea","variant_id":44211925318693,"variant_title":"Small","sku":null}}'
)


class Shop:
    """A connection of the application, and an account with a key."""

    def __init__(self, connection: asyncpg.Connection[Any], account_id: int, key: str) -> None:
        self.connection = connection
        self.account_id = account_id
        self.key = key

    @classmethod
    async def open(cls, dsn: str, plan: str = "medium") -> Shop:
        connection = await asyncpg.connect(dsn)
        row = await connection.fetchrow("select * from bisd.create_account('Tea Shop', $1)", plan)
        return cls(connection, row["id"], row["api_key"])

    async def subscribe(self, topic: str, url: str, enable: bool = True) -> int:
        webhook_id: int = await self.connection.fetchval("select bisd.create_webhook($1, $2, $3)", self.account_id, topic, url)
        if enable:
            await self.connection.execute("select bisd.enable_webhook($1)", webhook_id)
        return webhook_id

    async def notify(self, number: int = 1) -> None:
        """So many customers wait, in one statement."""
        await self.connection.execute(
            "insert into bisd.notification (account_id, customer_email) "
            "select $1, 'customer' || i || '@example.com' from generate_series(1, $2::int) i",
            self.account_id,
            number,
        )

    async def owed(self) -> int:
        return int(await self.connection.fetchval("select count(*) from bisd.delivery"))

    async def statuses(self) -> list[tuple[Any, ...]]:
        """(state, attempts, last_status, last_error) of every delivery, by event."""
        rows = await self.connection.fetch(
            "select state, attempts, last_status, last_error from bisd.delivery_status order by event_id, webhook_id"
        )
        return [tuple(row) for row in rows]


async def eventually(question: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Asks until the answer is yes: for what nothing announces."""
    async with asyncio.timeout(seconds):
        while not await question():
            await asyncio.sleep(0.01)
