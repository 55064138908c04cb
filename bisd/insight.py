"""What anyone may ask: read only, without keys and bodies."""

from __future__ import annotations

from bisd import db
from bisd.errors import NotFoundError

Rows = list[dict[str, object]]


async def accounts(connection: db.Connection) -> Rows:
    return [dict(row) for row in await connection.fetch(db.query("list_accounts"))]


async def webhooks(connection: db.Connection, account_id: int | None = None) -> Rows:
    return [dict(row) for row in await connection.fetch(db.query("list_webhooks"), account_id)]


async def deliveries(connection: db.Connection, webhook_id: int | None, state: str | None, most: int) -> Rows:
    """The newest first, as in bisd.delivery_status."""
    return [dict(row) for row in await connection.fetch(db.query("list_deliveries"), webhook_id, state, most)]


async def delivery(connection: db.Connection, event_id: int) -> tuple[Rows, Rows]:
    """An event's deliveries and their attempts. Raises NotFoundError if nothing was owed for it."""
    found = [dict(row) for row in await connection.fetch(db.query("show_delivery"), event_id)]
    if not found:
        raise NotFoundError(kind="delivery of event", key=event_id, listing="bisd delivery list")
    return found, [dict(row) for row in await connection.fetch(db.query("list_attempts"), event_id)]
