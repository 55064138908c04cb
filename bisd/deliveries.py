"""Deliveries by what happened to them last, page by page. Those that were tried are found by their attempts, those that were
not by what is owed; of an account or a webhook by its index, of all by the order in which they were written. Each look is
bounded, whatever there is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from bisd import db
from bisd.errors import CursorInvalidError
from bisd.listing import Cursor, Entry, Page, Place, Stream, merge

STATES = ("pending", "retrying", "held", "delivered", "failed", "expired", "cancelled", "refused")
_OWED = ("pending", "retrying", "held")
# So much is looked at for a page: attempts, each with what came after it; of an account, whose webhooks share them, three times
# what is shown, and no fewer than the second; and what can be told apart row by row.
_LOOKED_TRIED = 500
_LOOKED_TRIED_OF_ACCOUNT = 150
_LOOKED = 3000
_MOST_IDENTIFIER = 2**63 - 1
_LATEST: Place = ("9999-01-01T00:00:00+00:00", _MOST_IDENTIFIER, _MOST_IDENTIFIER)


@dataclass(frozen=True)
class Wanted:
    """Which deliveries; None: whichever. `account_id` is that of who asks, None for the operator. `since` and `until` bound
    when it was tried last; of one that was not tried when its event happened."""

    account_id: int | None = None
    webhook_id: int | None = None
    topic: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fits(self, row: Any) -> bool:
        """Of the deliveries of one event, which may be looked at each."""
        at = row["settled_at"] or row["created_at"]
        return (
            self.webhook_id in (None, row["webhook_id"])
            and self.topic in (None, row["topic"])
            and self.state in (None, row["state"])
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )

    @property
    def is_narrow(self) -> bool:
        return self.account_id is not None or self.webhook_id is not None


async def look(connection: db.Connection, wanted: Wanted, after: Cursor | None, most: int) -> Page:
    """Raises CursorInvalidError for a cursor of another listing."""
    places = after.places if after is not None else ((), ())
    if len(places) != 2:
        raise CursorInvalidError
    tried, owed = places
    try:
        streams = [
            await _tried(connection, wanted, tried, most) if tried is not None and wanted.state not in _OWED else Stream(),
            await _owed(connection, wanted, owed, most) if owed is not None and wanted.state in (None, *_OWED) else Stream(),
        ]
    except (asyncpg.DataError, asyncpg.PostgresError, ValueError, TypeError) as fault:
        if after is None or (isinstance(fault, asyncpg.PostgresError) and not (fault.sqlstate or "").startswith("22")):
            raise
        raise CursorInvalidError from None
    entries, following = merge(streams, most)
    rows = await connection.fetch(
        db.query("deliveries"),
        [entry.event_id for entry in entries],
        [entry.webhook_id for entry in entries],
        wanted.account_id,
        wanted.state,
    )
    return Page([dict(row) for row in rows], following)


async def _tried(connection: db.Connection, wanted: Wanted, place: Place, most: int) -> Stream:
    verdict = wanted.state
    bounds = (wanted.since, wanted.until)
    if not wanted.is_narrow:
        part, row = place or (None, None)
        looked = max(_LOOKED_TRIED, most)
        rows = await connection.fetch(
            db.query("tried_deliveries_of_all"), part, row, verdict, verdict is not None, *bounds, looked, wanted.topic, most
        )
        is_all = len(rows) < most and (not rows or rows[-1]["event_id"] is not None)
        return _by_place(rows, ("at_part", "at_place"), place, is_all)
    at, event_id, webhook_id = place or _LATEST
    before = (datetime.fromisoformat(str(at)), event_id, webhook_id)
    scope = (wanted.account_id, wanted.webhook_id, wanted.topic)
    looked = max(_enough(wanted, most) if verdict in (None, "delivered") else _LOOKED, most + 1)
    rows = await connection.fetch(
        db.query("tried_deliveries"), *scope, verdict, verdict is not None, *bounds, *before, looked, most + 1
    )
    return _by_key(rows, ("at", "event_id", "webhook_id"), ("looked_at", "looked_event", "looked_webhook"), place, most)


def _enough(wanted: Wanted, most: int) -> int:
    if wanted.webhook_id is not None:
        return _LOOKED_TRIED
    return min(_LOOKED_TRIED, max(_LOOKED_TRIED_OF_ACCOUNT, 3 * most))


async def _owed(connection: db.Connection, wanted: Wanted, place: Place, most: int) -> Stream:
    bounds = (wanted.since, wanted.until)
    if not wanted.is_narrow:
        txid, row = place or (None, None)
        rows = await connection.fetch(
            db.query("owed_deliveries_of_all"), wanted.state, *bounds, wanted.topic, txid, row, _LOOKED
        )
        return _by_place(rows, ("at_txid", "at_place"), place, len(rows) < _LOOKED)
    event_id, webhook_id = place or (_MOST_IDENTIFIER, _MOST_IDENTIFIER)
    scope = (wanted.account_id, wanted.webhook_id, wanted.topic)
    looked = max(_LOOKED, most + 1)
    rows = await connection.fetch(
        db.query("owed_deliveries"), *scope, wanted.state, *bounds, event_id, webhook_id, looked, most + 1
    )
    return _by_key(rows, ("event_id", "webhook_id"), ("looked_event", "looked_webhook"), place, most)


def _by_place(rows: list[Any], names: tuple[str, str], begin: Place, is_all: bool) -> Stream:
    """Of rows that all bear a place, and a delivery if it fits: it goes on behind the last one."""
    found = [_entry(row, names) for row in rows if row["event_id"] is not None]
    return Stream(begin, deque(found), None if is_all else _place(rows[-1], names))


def _by_key(rows: list[Any], names: tuple[str, ...], looked: tuple[str, ...], begin: Place, most: int) -> Stream:
    """Of rows that fit, with how far it was looked in each: it goes on there, or behind the last one if there are too many."""
    found = [_entry(row, names) for row in rows if row["event_id"] is not None]
    if len(found) > most:
        return Stream(begin, deque(found[:most]), found[most - 1].place)
    return Stream(begin, deque(found), None if rows[0][looked[0]] is None else _place(rows[0], looked))


def _entry(row: Any, place: tuple[str, ...]) -> Entry:
    return Entry(row["at"], row["event_id"], row["webhook_id"], _place(row, place))


def _place(row: Any, names: tuple[str, ...]) -> Place:
    values = (row[name] for name in names)
    return tuple(value.isoformat() if isinstance(value, datetime) else value for value in values)
