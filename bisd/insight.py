"""What anyone may ask: read only. Every question about what belongs to an account takes the account that asks, None for the
operator: what is another's is not there."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta

from bisd import db
from bisd.deliveries import Wanted, look
from bisd.errors import NotFoundError
from bisd.listing import Cursor, Page, Row
from bisd.model import SHARDS

# So many are counted; more are estimated, by what the last ANALYZE found.
_COUNTED = 10_000
_LISTED = 10
# Pages of the history that are read for its course, or attempts of each webhook.
_PAGES_READ = 160
_ATTEMPTS_READ = 10_000
# What a glance looks at: webhooks, POSTs of each, deliveries that each is owed.
_GLANCED_WEBHOOKS = 200
_GLANCED_POSTS = 30
GLANCED_BACKLOG = 1000
# So much of what one webhook is owed does bisd.webhook_health count.
COUNTED_BACKLOG = 10_000

Rows = list[Row]


async def accounts(connection: db.Connection, after: int = 0, most: int | None = None) -> Rows:
    """In the order of their ids, those after `after`."""
    return [dict(row) for row in await connection.fetch(db.query("list_accounts"), after, most)]


async def webhooks(connection: db.Connection, account_id: int | None = None, after: int = 0, most: int | None = None) -> Rows:
    """In the order of their ids, those after `after`."""
    return [dict(row) for row in await connection.fetch(db.query("list_webhooks"), account_id, after, most)]


async def tokens(connection: db.Connection, account_id: int | None = None, after: int = 0, most: int | None = None) -> Rows:
    """In the order of their ids, those after `after`; what they are nobody knows but who was given them."""
    return [dict(row) for row in await connection.fetch(db.query("list_tokens"), account_id, after, most)]


async def account(connection: db.Connection, account_id: int, asked_by: int | None = None) -> Row:
    """With its keys as they are stored: whoever shows this decides about them. Raises NotFoundError."""
    row = await connection.fetchrow(db.query("show_account"), account_id, asked_by)
    if row is None:
        raise NotFoundError(kind="account", key=account_id, listing="bisd account list")
    return dict(row)


async def webhook(connection: db.Connection, webhook_id: int, account_id: int | None = None) -> Row:
    """Its settings, and how it is doing, its `backlog` counted up to COUNTED_BACKLOG; `tag` is another one whenever a setting
    is. Raises NotFoundError."""
    row = await connection.fetchrow(db.query("show_webhook"), webhook_id, account_id)
    if row is None:
        raise _no_webhook(webhook_id)
    return dict(row)


async def require_webhook(connection: db.Connection, webhook_id: int, account_id: int | None) -> None:
    """Raises NotFoundError."""
    if not await connection.fetchval(db.query("require_webhook"), webhook_id, account_id):
        raise _no_webhook(webhook_id)


async def require_token(connection: db.Connection, token_id: int, account_id: int | None) -> None:
    """Raises NotFoundError."""
    if not await connection.fetchval(db.query("require_token"), token_id, account_id):
        raise NotFoundError(kind="token", key=token_id, listing="bisd token list")


async def health(connection: db.Connection, webhook_id: int, account_id: int | None = None) -> Row:
    """How it is doing, in numbers and in words. Raises NotFoundError."""
    row = await connection.fetchrow(db.query("health"), webhook_id, account_id)
    if row is None:
        raise _no_webhook(webhook_id)
    return dict(row)


async def glance(connection: db.Connection, account_id: int) -> Rows:
    """The webhooks of an account, the first 200: state, `verdicts` of the last POSTs, the latest first, and `backlog`, counted
    up to GLANCED_BACKLOG."""
    arguments = (account_id, _GLANCED_WEBHOOKS, _GLANCED_POSTS, GLANCED_BACKLOG)
    return [dict(row) for row in await connection.fetch(db.query("glance"), *arguments)]


async def stamp(connection: db.Connection, account_id: int) -> str:
    """Another text than before once something has happened to what the account has."""
    return str(await connection.fetchval(db.query("stamp"), account_id, _GLANCED_WEBHOOKS))


def _no_webhook(webhook_id: int) -> NotFoundError:
    return NotFoundError(kind="webhook", key=webhook_id, listing="bisd webhook list")


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
                if rows := await attempts(connection, event_id):
                    return rows[0]
                await asyncio.sleep(0.05)
    return None


async def replaying(connection: db.Connection, webhook_id: int) -> int:
    """How many deliveries of replays to this webhook are still to go."""
    return int(await connection.fetchval(db.query("replaying"), webhook_id))


async def deliveries(
    connection: db.Connection,
    *,
    account_id: int | None = None,
    webhook_id: int | None = None,
    state: str | None = None,
    topic: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    event_id: int | None = None,
    after: Cursor | None = None,
    most: int = 50,
) -> Page:
    """As in bisd.delivery_status, those with which something happened last first, from `since` on and before `until`. What it
    costs does not depend on what there is: a page may have few rows, and go on all the same. Raises CursorInvalidError."""
    wanted = Wanted(account_id, webhook_id, topic, state, since, until)
    if event_id is None:
        return await look(connection, wanted, after, most)
    rows = await connection.fetch(db.query("show_delivery"), event_id, account_id)
    return Page([dict(row) for row in rows if wanted.fits(row)], None)


async def delivery(connection: db.Connection, event_id: int, account_id: int | None = None) -> tuple[Rows, Rows]:
    """An event's deliveries and their attempts. Raises NotFoundError if nothing was owed for it."""
    found = [dict(row) for row in await connection.fetch(db.query("show_delivery"), event_id, account_id)]
    if not found:
        raise NotFoundError(kind="delivery of event", key=event_id, listing="bisd delivery list")
    return found, await attempts(connection, event_id, account_id)


async def attempts(connection: db.Connection, event_id: int, account_id: int | None = None) -> Rows:
    """Of an event, in order."""
    return [dict(row) for row in await connection.fetch(db.query("list_attempts"), event_id, account_id)]


async def event(connection: db.Connection, event_id: int, account_id: int | None = None) -> Row:
    """With its body, as text. Raises NotFoundError."""
    row = await connection.fetchrow(db.query("show_event"), event_id, account_id)
    if row is None:
        raise NotFoundError(kind="event", key=event_id, listing="bisd delivery list")
    return dict(row)


async def history(connection: db.Connection, since: datetime, step: timedelta, account_id: int | None = None) -> Rows:
    """The course of the attempts, a row for each `step` in which there were any: `at`, how many were `delivered`, `retried`,
    `failed` and `dropped` (expired, refused, cancelled), what half, 95 and 99 of 100 took at most (`took_ms`), and whether that
    is `exact`. A bounded part of the history is read: of all webhooks a sample of each step, of an account the last of each."""
    if account_id is None:
        found = await connection.fetch(db.query("history"), since, step, _PAGES_READ)
    else:
        found = await connection.fetch(db.query("history_of_account"), account_id, since, step, _ATTEMPTS_READ)
    return [dict(row) for row in found]


async def keys(connection: db.Connection) -> dict[str, int]:
    """How many API keys, previous ones among them, are sealed under which master key's id; '' for those in plain."""
    return {row["key_id"]: row["keys"] for row in await connection.fetch(db.query("count_keys"))}


async def attachments(connection: db.Connection) -> Rows:
    """Every attachment, with the number of events that it could not make."""
    return [dict(row) for row in await connection.fetch(db.query("list_attachments"))]
