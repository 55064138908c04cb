"""Seals the API keys that the database holds in plain, and those under earlier master keys anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import asyncpg

from bisd import db
from bisd.errors import KeyUnreadableError
from bisd.keyring import Keyring

_SEALED_AT_ONCE = 500
# Below every master key's id lies '', for keys in plain; above every one lies nothing.
_LOWEST_ID, _HIGHEST_ID = "0", "~"


@dataclass(frozen=True, slots=True)
class Sealing:
    """How many keys were sealed, and the ids of the accounts that have one that cannot be opened, which was left."""

    keys: int
    unreadable: list[int]


class _Account:
    """One account's keys as they were read, and as they will be."""

    def __init__(self, row: asyncpg.Record, keyring: Keyring) -> None:
        self.id: int = row["id"]
        self.read: tuple[str, str | None] = row["api_key"], row["previous_api_key"]
        self.unreadable = False
        self.sealed = tuple(self._sealed(text, keyring) for text in self.read)
        self.number = sum(old != new for old, new in zip(self.read, self.sealed, strict=True))

    def _sealed(self, text: str | None, keyring: Keyring) -> str | None:
        if text is None or keyring.is_current(text):
            return text
        try:
            return keyring.seal(self.id, keyring.open(self.id, text))
        except KeyUnreadableError:
            self.unreadable = True
            return text


async def seal_accounts(
    connection: db.Connection, keyring: Keyring, progress: Callable[[int], object] | None = None, *, rewrap: bool = True
) -> Sealing:
    """Seals the keys that are in plain; with `rewrap` also those under other master keys than the current one, anew.

    Each batch is a statement of its own, and changes only what is as it was read: this may be killed and run again, or run
    several times at once; a rotation meanwhile stands, and its key is sealed in turn. `progress` hears after every batch how
    many keys it sealed. Raises ConfigurationError if there is no master key.
    """
    current = keyring.require_master()
    below, above = (current, current) if rewrap else (_LOWEST_ID, _HIGHEST_ID)
    keys, unreadable, overtaken = 0, set[int](), True
    while overtaken:
        overtaken, cursor = False, ("", 0)
        while rows := await connection.fetch(db.query("unsealed"), below, above, *cursor, _SEALED_AT_ONCE):
            cursor = rows[-1]["sealed_under"], rows[-1]["id"]
            accounts = [_Account(row, keyring) for row in rows]
            unreadable |= {account.id for account in accounts if account.unreadable}
            changing = [account for account in accounts if account.number]
            sealed = await _write(connection, changing)
            overtaken |= len(sealed) < len(changing)
            done = sum(account.number for account in changing if account.id in sealed)
            keys += done
            if progress is not None:
                progress(done)
    return Sealing(keys, sorted(unreadable))


async def seal_account(connection: db.Connection, keyring: Keyring, account_id: int) -> None:
    """Seals one account's keys, in the transaction that made them: they are never stored in plain."""
    row = await connection.fetchrow(db.query("show_account"), account_id, None)
    assert row is not None
    await _write(connection, [_Account(row, keyring)])


async def _write(connection: db.Connection, accounts: list[_Account]) -> set[int]:
    """The ids of the accounts that were still as they were read."""
    if not accounts:
        return set()
    rows = await connection.fetch(
        db.query("seal_keys"),
        [account.id for account in accounts],
        *([_digest(account.read[column]) for account in accounts] for column in (0, 1)),
        *([account.sealed[column] for account in accounts] for column in (0, 1)),
    )
    return {row[0] for row in rows}


def _digest(text: str | None) -> bytes | None:
    return sha256(text.encode()).digest() if text is not None else None
