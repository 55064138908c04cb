"""What an operator may do. Each function is one of SQL's functions of the same name; what those refuse is raised as
RequestRefusedError, with their reason and hint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256

import asyncpg

from bisd import db
from bisd.errors import BodyInvalidError, RequestRefusedError

_REFUSED = "BISD0"
_NO_JSON = (
    asyncpg.InvalidTextRepresentationError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.StatementTooComplexError,
)
# What the text of a table's name can be wrong with.
_UNKNOWN = (
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidNameError,
    asyncpg.PostgresSyntaxError,
    asyncpg.FeatureNotSupportedError,
)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as fault:
        if fault.sqlstate != _REFUSED:
            raise
        hint = f" {fault.hint}" if fault.hint else ""
        raise RequestRefusedError(reason=f"{str(fault.args[0]).removeprefix('bisd: ')}.{hint}") from None


async def create_account(connection: db.Connection, name: str, plan: str) -> tuple[int, str]:
    """The new account's id and API key."""
    with _refusals():
        row = await connection.fetchrow(db.query("create_account"), name, plan)
    assert row is not None
    return row["id"], row["api_key"]


async def create_webhook(connection: db.Connection, account_id: int, topic: str, url: str) -> int:
    """The new webhook's id; it is switched off."""
    with _refusals():
        return int(await connection.fetchval(db.query("create_webhook"), account_id, topic, url))


async def rotate_key(connection: db.Connection, account_id: int, overlap: timedelta) -> str:
    """The new API key; the one before it signs too until `overlap` has passed."""
    with _refusals():
        return str(await connection.fetchval(db.query("rotate_key"), account_id, overlap))


async def create_token(
    connection: db.Connection, account_id: int, description: str, expires_at: datetime | None
) -> tuple[int, str]:
    """The new token's id, and the token, which is told this once."""
    with _refusals():
        row = await connection.fetchrow(db.query("create_token"), account_id, description, expires_at)
    assert row is not None
    return row["id"], row["token"]


async def revoke_token(connection: db.Connection, token_id: int) -> None:
    with _refusals():
        await connection.execute(db.query("revoke_token"), token_id)


async def use_token(connection: db.Connection, token: str) -> int | None:
    """The account that a token opens; None if it opens nothing, or nothing any more."""
    found: int | None = await connection.fetchval(db.query("use_token"), sha256(token.encode()).digest())
    return found


async def set_plan(connection: db.Connection, account_id: int, plan: str) -> None:
    with _refusals():
        await connection.execute(db.query("set_plan"), account_id, plan)


async def lock_webhook(connection: db.Connection, webhook_id: int) -> str:
    """It stays as it is until the transaction ends; its tag, which changes with any of its settings."""
    with _refusals():
        return str(await connection.fetchval(db.query("lock_webhook"), webhook_id))


async def set_webhook(connection: db.Connection, webhook_id: int, settings: Mapping[str, object]) -> None:
    """Changes what `settings` names, of url, description, max_in_flight, rate, ordered, headers, filter."""
    with _refusals():
        await connection.execute(db.query("set_webhook"), webhook_id, json.dumps(settings))


async def enable_webhook(connection: db.Connection, webhook_id: int, held: str = "resume") -> None:
    """`held` says what becomes of what was held for it: 'resume' or 'discard'."""
    with _refusals():
        await connection.execute(db.query("enable_webhook"), webhook_id, held)


async def disable_webhook(connection: db.Connection, webhook_id: int) -> None:
    with _refusals():
        await connection.execute(db.query("disable_webhook"), webhook_id)


async def remove_webhook(connection: db.Connection, webhook_id: int) -> None:
    """Cancels what it is owed."""
    with _refusals():
        await connection.execute(db.query("remove_webhook"), webhook_id)


async def send_test(connection: db.Connection, webhook_id: int) -> int:
    """The test event's id."""
    with _refusals():
        return int(await connection.fetchval(db.query("send_test"), webhook_id))


async def retry(connection: db.Connection, event_id: int, webhook_id: int | None, account_id: int | None = None) -> int:
    """To how many webhooks the event is due now; None: to all that it was ever owed to. `account_id`: of this
    account alone."""
    with _refusals():
        return int(await connection.fetchval(db.query("retry"), event_id, webhook_id, account_id))


async def cancel(connection: db.Connection, event_id: int, webhook_id: int | None, account_id: int | None = None) -> int:
    """To how many webhooks the event is not owed any more; None: to any. `account_id`: of this account alone."""
    with _refusals():
        return int(await connection.fetchval(db.query("cancel"), event_id, webhook_id, account_id))


async def replay(
    connection: db.Connection,
    webhook_id: int,
    since: datetime,
    until: datetime | None,
    only_failed: bool,
    per_second: float,
) -> int:
    """How many deliveries are owed again, of what happened from `since` until before `until` (None: now)."""
    given = (webhook_id, since, until, only_failed, per_second)
    with _refusals():
        return int(await connection.fetchval(db.query("replay"), *given))


async def cancel_replay(connection: db.Connection, webhook_id: int) -> int:
    """How many deliveries of replays were taken back."""
    with _refusals():
        return int(await connection.fetchval(db.query("cancel_replay"), webhook_id))


async def emit(connection: db.Connection, account_id: int, topic: str, body: str, source: str = "the body") -> int:
    """The event's id. Raises BodyInvalidError for what is not JSON."""
    with _refusals():
        try:
            return int(await connection.fetchval(db.query("emit"), account_id, topic, body))
        except _NO_JSON as fault:
            reason = (fault.detail or fault.args[0]).rstrip(".")
            raise BodyInvalidError(source=source, reason=reason) from None


@contextmanager
def _no_table(table: str) -> Iterator[None]:
    try:
        with _refusals():
            yield
    except _UNKNOWN:
        raise RequestRefusedError(reason=f"there is no table {table}. Name it as in SQL: shop.orders") from None
    except asyncpg.LockNotAvailableError:
        raise RequestRefusedError(reason=f"{table} is in use by a transaction that has not ended. Try again") from None


async def attach(
    connection: db.Connection,
    table: str,
    topic: str,
    on_event: str,
    account: str,
    columns: list[str] | None = None,
    body: str | None = None,
    condition: str | None = None,
    strict: bool = False,
) -> None:
    """Events out of `table`, which is named as in SQL; `account`, `body` and `condition` are expressions."""
    with _no_table(table):
        await connection.execute(db.query("attach"), table, topic, on_event, account, columns, body, condition, strict)


async def detach(connection: db.Connection, table: str, topic: str | None = None) -> None:
    with _no_table(table):
        await connection.execute(db.query("detach"), table, topic)
