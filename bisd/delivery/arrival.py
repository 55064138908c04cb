"""Arrival: which deliveries, and which changes of webhooks, have become visible since the last look.

Exact by snapshots: every row that becomes visible is reported by exactly one look, whatever the order of ids, times and
commits. When to look is decided here too: the bell is a hint, the look is the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from bisd import db
from bisd.clock import ticks
from bisd.model import Delivery, Members

_SWEEP = 1.0
_SOON = 0.002
_LINGER = 0.060
# Of the transactions of so many seconds one rings, as bisd.ring has it.
_SLOT = 0.005
# The columns of look.sql before those of a delivery.
_DELIVERY = 6


class Snapshot(NamedTuple):
    """A pg_snapshot: transactions before `xmin` have ended, those from `xmax` on had not begun."""

    text: str
    xmin: int
    xmax: int

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        xmin, xmax, _ = text.split(":")
        return cls(text, int(xmin), int(xmax))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What one look found. `overflowed`: more than it reads at once arrived, since these due times, for these webhooks; then
    `deliveries` and `tests` are empty, and the lanes read their table again from there. `members`: if they were to be
    counted."""

    deliveries: list[Delivery]
    tests: list[Delivery]
    changed: list[int]
    overflowed: dict[int, datetime]
    members: Members | None = None


class Arrival:
    """Looks, over one connection. `shards` is a mask: bit n for shard n. `hear` is told what time the database has, and when it
    was asked."""

    def __init__(
        self, connection: db.Connection, hear: Callable[[datetime, float], None], most: int = 1000, most_octets: int = 8 << 20
    ) -> None:
        self._connection = connection
        self._hear = hear
        self._most = most
        self._most_octets = most_octets
        self.snapshot = Snapshot("1:1:", 1, 1)

    async def begin(self) -> None:
        """From here on everything is reported. Call after LISTEN, and before reading what is owed already."""
        asked_at = ticks()
        row = await self._connection.fetchrow(db.query("snapshot"))
        assert row is not None
        self._hear(row["looked_at"], asked_at)
        self.snapshot = Snapshot.parse(row["snapshot"])

    async def look(self, shards: int, unread: timedelta | None = None) -> Arrivals:
        """`unread`: the fleet is counted as well, and members are ended that have taken no answer for so long."""
        asked_at = ticks()
        arguments = (self.snapshot.text, shards, self._most, self._most_octets, unread)
        first, *rows = await self._connection.fetch(db.query("look"), *arguments)
        self._hear(first["looked_at"], asked_at)
        members = None if unread is None else Members(first["members"], first["free"], first["evicted"])
        deliveries = [Delivery(*row[_DELIVERY:]) for row in rows]
        if len(deliveries) >= self._most or sum(one.size for one in deliveries) >= self._most_octets:
            return await self._overflow(shards, members)
        self.snapshot = Snapshot.parse(first["snapshot"])
        tests = [delivery for delivery in deliveries if delivery.test]
        if tests:
            deliveries = [delivery for delivery in deliveries if not delivery.test]
        return Arrivals(deliveries, tests, first["changed"], {}, members)

    async def _overflow(self, shards: int, members: Members | None) -> Arrivals:
        """Asks again from the same snapshot: what came between the two statements is in the second one's answer."""
        first, *rows = await self._connection.fetch(db.query("overflow"), self.snapshot.text, shards)
        self.snapshot = Snapshot.parse(first["snapshot"])
        earliest = {row["webhook_id"]: row["due_at"] for row in rows}
        return Arrivals([], [], first["changed"], earliest, members)


class Cadence:
    """When to look next. Pure: times are seconds of any one clock.

    A transaction that skipped the bell did so within a slot of one that rang, so it was under way when that slot was over at
    the latest: look on until all that were then have ended, less and less often. And linger: some that ring are rolled back.
    Then sleep until the bell or the sweep.
    """

    def __init__(self) -> None:
        self._rung_at = float("-inf")
        self._until_xmin: int | None = 0

    def rung(self, now: float) -> None:
        """The bell was heard; a look tells which transactions to wait for, once the slot is over."""
        self._rung_at = now
        self._until_xmin = None

    def wait(self, snapshot: Snapshot, began: float, now: float) -> float:
        """Seconds from a look that began at `began`, and took `snapshot`, until the next one, unless the bell comes first."""
        if self._until_xmin is None and began - self._rung_at >= _SLOT:
            self._until_xmin = snapshot.xmax
        age = now - self._rung_at
        if self._until_xmin is None or snapshot.xmin < self._until_xmin or age < _LINGER:
            return min(max(_SOON, age / 4), _SWEEP)
        return _SWEEP
