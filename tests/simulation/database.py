"""What PostgreSQL holds, in memory: the tables, the transactions that make it visible, and what people may change in it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from bisd.model import WELL, Delivery, Webhook

START = datetime(2026, 1, 1, tzinfo=UTC)
Key = tuple[int, int]
"""Webhook id, event id."""


class Record(dict[str, Any]):
    """A row that is asked by name."""

    __slots__ = ()


@dataclass(slots=True)
class Row:
    """What is owed: `owed_at` since when it has been this one, `changed_at` when anybody but its daemon changed it."""

    delivery: Delivery
    txid: int
    replayed: bool
    owed_at: float
    changed_at: float


@dataclass(slots=True)
class Hook:
    """A row of `webhook`; `changed_at` when its owner or the system changed it last."""

    webhook: Webhook
    txid: int = 0
    enabled: bool = True
    recovered_at: datetime | None = None
    changed_at: float = 0.0


class Attempt(NamedTuple):
    at: datetime
    number: int | None
    verdict: str
    test: bool


@dataclass(slots=True, eq=False)
class Backend:
    """The server's side of a session. `hear` is told what a bell says, `lost` that the session was ended."""

    name: str
    hear: Callable[[str], None]
    lost: Callable[[], None]
    listens: bool = False
    member: bool = False
    alive: bool = True
    unread: bool = False
    asked_at: float = 0.0
    shards: set[int] = field(default_factory=set)


class Transaction:
    """One of the application's: what it inserts becomes visible when it commits, if it does."""

    def __init__(self, database: Tables) -> None:
        self._database = database
        self._began = database.now()
        self._rows: list[Row] = []
        self._rings = False
        self.txid = database.begin()

    def emit(self, account_id: int) -> None:
        """An event, owed to every webhook of the account that is live now."""
        database = self._database
        database.events += 1
        for hook in database.hooks.values():
            if hook.webhook.account_id == account_id and hook.webhook.live:
                delivery = database.owed(hook.webhook.id, database.events, self._began, self._began, 0)
                self._rows.append(Row(delivery, self.txid, False, 0.0, 0.0))
                self._rings = self._rings or database.rings(self.txid)

    def commit(self) -> None:
        self._database.end(self.txid, self._rows, self._rings)

    def roll_back(self) -> None:
        self._database.end(self.txid, [], False)


class Tables:
    """`time` tells the seconds since START; `stride`: how much slower than in reality daemons tend to their work."""

    def __init__(
        self, time: Callable[[], float], chance: random.Random, stride: float, deny: Callable[[str, str], None]
    ) -> None:
        self.rows: dict[Key, Row] = {}
        self.hooks: dict[int, Hook] = {}
        self.attempts: defaultdict[Key, list[Attempt]] = defaultdict(list)
        self.backends: list[Backend] = []
        self.events = 0
        self.bytes = 10
        self.settling: Callable[[Row, Attempt, datetime | None], None] = lambda *_: None
        self.fenced: Callable[[Key, Attempt, Row | None], None] = lambda *_: None
        self.reporting: Callable[[Backend, int], None] = lambda *_: None
        self._time = time
        self._chance = chance
        self._stride = stride
        self._deny = deny
        self._next_txid = 100
        self._running: set[int] = set()
        self._stamped: defaultdict[int, list[Key]] = defaultdict(list)
        self._changed: defaultdict[int, list[int]] = defaultdict(list)
        self._tried: defaultdict[int, list[Attempt]] = defaultdict(list)
        self._pulse = 0.0
        self._mark = (-1, -1)

    def now(self) -> datetime:
        return START + timedelta(seconds=self._time())

    def begin(self) -> int:
        self._next_txid += 1
        self._running.add(self._next_txid - 1)
        return self._next_txid - 1

    def end(self, txid: int, rows: Iterable[Row], rings: bool) -> None:
        self._running.discard(txid)
        for row in rows:
            self._put(row)
        if rings:
            self._ring()

    def rings(self, txid: int) -> bool:
        """bisd.ring: one in 5 ms does."""
        slot = int(self._time() * 200)
        if self._mark[0] == slot and self._mark[1] != txid:
            return False
        self._mark = slot, txid
        return True

    def owed(
        self, webhook_id: int, event_id: int, created_at: datetime, due_at: datetime, attempts: int, test: bool = False
    ) -> Delivery:
        body = b'{"n":%d}' % event_id
        return Delivery(webhook_id, event_id, created_at, due_at, due_at, attempts, "topic", body, self.bytes, test)

    def close(self, backend: Backend) -> None:
        """The session ends: its locks are free."""
        if backend.alive:
            backend.alive = False
            backend.shards.clear()
            self.backends.remove(backend)
            backend.lost()

    def owner(self, shard: int) -> Backend | None:
        return next((backend for backend in self.backends if shard in backend.shards), None)

    def _put(self, row: Row) -> None:
        key = row.delivery.webhook_id, row.delivery.event_id
        row.changed_at = self._time()
        if key not in self.rows:
            row.owed_at = row.changed_at
        self.rows[key] = row
        self._stamped[row.txid].append(key)

    def ring_fleet(self) -> None:
        self._ring("fleet")

    def _ring(self, says: str = "") -> None:
        for backend in self.backends:
            if backend.listens:
                backend.hear(says)

    def _stamp(self) -> int:
        self._next_txid += 1
        return self._next_txid - 1

    def _change(self, hook: Hook, webhook: Webhook) -> None:
        """The triggers stamp_webhook and webhooks_changed."""
        hook.webhook = webhook
        hook.txid = self._stamp()
        hook.changed_at = self._time()
        self._changed[hook.txid].append(webhook.id)
        self._ring()

    def _record(self, key: Key, attempt: Attempt) -> None:
        known = self.attempts[key]
        if all(attempt.at != other.at for other in known):
            known.append(attempt)
            self._tried[key[0]].append(attempt)

    def _of(self, webhook_id: int) -> list[Row]:
        return [row for key, row in self.rows.items() if key[0] == webhook_id]

    # What operators and owners may do.

    def retry(self, webhook_id: int, event_id: int) -> None:
        row = self.rows.get((webhook_id, event_id))
        if row is not None and row.delivery.test:
            return
        if row is not None:
            row.delivery = row.delivery._replace(due_at=self.now())
            row.txid = self._stamp()
            self._put(row)
        elif any(not attempt.test for attempt in self.attempts[webhook_id, event_id]):
            delivery = self.owed(webhook_id, event_id, START, self.now(), 0)
            self._put(Row(delivery, self._stamp(), False, 0.0, 0.0))
        self._ring()

    def cancel(self, webhook_id: int, event_id: int) -> None:
        row = self.rows.pop((webhook_id, event_id), None)
        if row is not None:
            self._record((webhook_id, event_id), Attempt(self.now(), None, "cancelled", row.delivery.test))
            hook = self.hooks[webhook_id]
            self._change(hook, hook.webhook)

    def enable(self, webhook_id: int, discard: bool) -> None:
        hook, now = self.hooks[webhook_id], self.now()
        rows = self._of(webhook_id)
        for row in rows if discard else ():
            key = webhook_id, row.delivery.event_id
            del self.rows[key]
            self._record(key, Attempt(now, None, "cancelled", row.delivery.test))
        rows = self._of(webhook_id)
        spread = [row for row in rows if row.replayed and row.delivery.attempts == 0]
        first = min((row.delivery.due_at for row in spread), default=now)
        for row in spread if first < now else ():
            row.delivery = row.delivery._replace(due_at=row.delivery.due_at + (now - first))
            row.changed_at = self._time()
        for row in rows:
            if row.delivery.due_at > now and row not in spread:
                row.delivery = row.delivery._replace(due_at=now)
                row.txid = self._stamp()
                self._put(row)
        hook.enabled = True
        hook.recovered_at = None
        self._change(hook, hook.webhook._replace(live=True, resumed_at=now, standing=WELL))

    def disable(self, webhook_id: int) -> None:
        hook = self.hooks[webhook_id]
        hook.enabled = False
        self._change(hook, hook.webhook._replace(live=False, standing=WELL))

    def set_webhook(self, webhook_id: int, **settings: Any) -> None:
        hook = self.hooks[webhook_id]
        self._change(hook, hook.webhook._replace(**settings))

    def replay(self, webhook_id: int, per_second: float) -> None:
        webhook, now = self.hooks[webhook_id].webhook, self.now()
        txid = self._stamp()
        known = sorted({key[1] for key, attempts in self.attempts.items() if key[0] == webhook_id and not attempts[0].test})
        pace = per_second if webhook.rate is None else min(per_second, webhook.rate / 2)
        for number, event_id in enumerate(one for one in known if (webhook_id, one) not in self.rows):
            due_at = now + timedelta(seconds=0 if webhook.ordered else number / pace)
            self._put(Row(self.owed(webhook_id, event_id, START, due_at, 0), txid, True, 0.0, 0.0))
        self._ring()

    def send_test(self, webhook_id: int) -> None:
        self.events += 1
        now = self.now()
        self._put(Row(self.owed(webhook_id, self.events, now, now, 0, test=True), self._stamp(), False, 0.0, 0.0))
        self._ring()
