"""What anyone may ask: read only, without bodies."""

from __future__ import annotations

import asyncio
import contextlib

from bisd import db
from bisd.errors import NotFoundError
from bisd.model import SHARDS

# So many are counted; more are estimated, by what the last ANALYZE found.
_COUNTED = 10_000
_LISTED = 10

Row = dict[str, object]
Rows = list[Row]


async def accounts(connection: db.Connection) -> Rows:
    return [dict(row) for row in await connection.fetch(db.query("list_accounts"))]


async def webhooks(connection: db.Connection, account_id: int | None = None) -> Rows:
    return [dict(row) for row in await connection.fetch(db.query("list_webhooks"), account_id)]


async def account(connection: db.Connection, account_id: int) -> Row:
    """With its keys as they are stored: whoever shows this decides about them. Raises NotFoundError."""
    row = await connection.fetchrow(db.query("show_account"), account_id)
    if row is None:
        raise NotFoundError(kind="account", key=account_id, listing="bisd account list")
    return dict(row)


async def webhook(connection: db.Connection, webhook_id: int) -> Row:
    """Its settings, and how it is doing. Raises NotFoundError."""
    row = await connection.fetchrow(db.query("show_webhook"), webhook_id)
    if row is None:
        raise NotFoundError(kind="webhook", key=webhook_id, listing="bisd webhook list")
    return dict(row)


async def status(connection: db.Connection) -> Row:
    """All of it at a glance: `daemons` (name, since, shards), `unowned` shards, `backlog` (owed, whether that is exact, to how
    many webhooks, since when the oldest is due), what came of the attempts of the `recent` seconds, `webhooks` by state, and
    those that have been `failing` for longest; and the database's time, `at` which that was."""
    members = [dict(row) for row in await connection.fetch(db.query("status_members"))]
    owned = {shard for member in members for shard in member["shards"]}
    backlog = await connection.fetchrow(db.query("status_backlog"), _COUNTED)
    recent = await connection.fetchrow(db.query("status_recent"))
    assert backlog is not None and recent is not None
    return {
        "at": recent["at"],
        "daemons": members,
        "unowned": sorted(set(range(SHARDS)) - owned),
        "backlog": dict(backlog),
        "recent": {name: recent[name] for name in ("seconds", "delivered", "failed")},
        "webhooks": {row["state"]: row["webhooks"] for row in await connection.fetch(db.query("status_webhooks"))},
        "failing": [dict(row) for row in await connection.fetch(db.query("status_failing"), _LISTED)],
    }


async def answer(connection: db.Connection, event_id: int, patience: float) -> Row | None:
    """The first attempt at an event, waited for; None: there was none within `patience` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while True:
                rows = await connection.fetch(db.query("list_attempts"), event_id)
                if rows:
                    return dict(rows[0])
                await asyncio.sleep(0.05)
    return None


async def replaying(connection: db.Connection, webhook_id: int) -> int:
    """How many deliveries of replays to this webhook are still to go."""
    return int(await connection.fetchval(db.query("replaying"), webhook_id))


async def deliveries(connection: db.Connection, webhook_id: int | None, state: str | None, most: int) -> Rows:
    """The newest first, as in bisd.delivery_status."""
    return [dict(row) for row in await connection.fetch(db.query("list_deliveries"), webhook_id, state, most)]


async def delivery(connection: db.Connection, event_id: int) -> tuple[Rows, Rows]:
    """An event's deliveries and their attempts. Raises NotFoundError if nothing was owed for it."""
    found = [dict(row) for row in await connection.fetch(db.query("show_delivery"), event_id)]
    if not found:
        raise NotFoundError(kind="delivery of event", key=event_id, listing="bisd delivery list")
    return found, [dict(row) for row in await connection.fetch(db.query("list_attempts"), event_id)]


async def keys(connection: db.Connection) -> dict[str, int]:
    """How many API keys, previous ones among them, are sealed under which master key's id; '' for those in plain."""
    return {row["key_id"]: row["keys"] for row in await connection.fetch(db.query("count_keys"))}


async def attachments(connection: db.Connection) -> Rows:
    """Every attachment, with the number of events that it could not make."""
    return [dict(row) for row in await connection.fetch(db.query("list_attachments"))]
