"""What the database says in the end, as the checker holds it against the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from bisd import db
from tests.torture.ledger import Pair

Row = TypeVar("Row")

_EVENTS = """
    select id, (body->>'notification_id')::bigint as number, account_id, topic, convert_to(body::text, 'UTF8') as body
    from bisd.event
"""
_ATTEMPTS = """
    select webhook_id, event_id, extract(epoch from attempted_at)::float8 as at, number, verdict::text, status, resent
    from bisd.attempt
    order by attempted_at
"""
_STATES = "select webhook_id, event_id, state, attempts from bisd.delivery_status"


class Event(NamedTuple):
    number: int
    account_id: int
    topic: str
    digest: str


class Attempt(NamedTuple):
    """`at`: seconds of the epoch; `number`: None where there was no POST."""

    at: float
    number: int | None
    verdict: str
    status: int | None
    resent: bool


class State(NamedTuple):
    """`bisd.delivery_status`, of one delivery."""

    state: str
    attempts: int


@dataclass
class Facts:
    events: dict[int, Event] = field(default_factory=dict)
    attempts: dict[Pair, list[Attempt]] = field(default_factory=dict)
    states: dict[Pair, list[State]] = field(default_factory=dict)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def read(connection: db.Connection) -> Facts:
    """All of it, in one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        events = await connection.fetch(_EVENTS)
        attempts = await connection.fetch(_ATTEMPTS)
        states = await connection.fetch(_STATES)
    return Facts(
        {row["id"]: Event(row["number"], row["account_id"], row["topic"], digest(row["body"])) for row in events},
        _grouped((row[:2], Attempt(*row[2:])) for row in map(tuple, attempts)),
        _grouped((row[:2], State(*row[2:])) for row in map(tuple, states)),
    )


def _grouped(rows: Iterable[tuple[Pair, Row]]) -> dict[Pair, list[Row]]:
    groups: dict[Pair, list[Row]] = {}
    for pair, row in rows:
        groups.setdefault(pair, []).append(row)
    return groups
