"""What an operator may do. Each function is one of SQL's functions of the same name; what those refuse is raised as
RequestRefusedError, with their reason and hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from bisd import db
from bisd.errors import BodyInvalidError, RequestRefusedError

_REFUSED = "BISD0"
_NO_JSON = (
    asyncpg.InvalidTextRepresentationError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.StatementTooComplexError,
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


async def enable_webhook(connection: db.Connection, webhook_id: int) -> None:
    with _refusals():
        await connection.execute(db.query("enable_webhook"), webhook_id)


async def disable_webhook(connection: db.Connection, webhook_id: int) -> None:
    with _refusals():
        await connection.execute(db.query("disable_webhook"), webhook_id)


async def emit(connection: db.Connection, account_id: int, topic: str, body: str, source: str = "the body") -> int:
    """The event's id. Raises BodyInvalidError for what is not JSON."""
    with _refusals():
        try:
            return int(await connection.fetchval(db.query("emit"), account_id, topic, body))
        except _NO_JSON as fault:
            reason = (fault.detail or fault.args[0]).rstrip(".")
            raise BodyInvalidError(source=source, reason=reason) from None
