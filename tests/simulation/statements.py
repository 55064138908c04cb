"""The statements of bisd/sql/queries that a daemon's sessions ask, over the tables in memory.

Each is a method of the same name, which takes what the file takes and answers what it answers, in one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from bisd.model import SHARDS, Standing, shard_of
from tests.simulation.database import Attempt, Backend, Hook, Record, Row, Tables


class Database(Tables):
    def restamp(self, _: Backend) -> Any:
        return 0

    def snapshot(self, _: Backend) -> Any:
        return Record(snapshot=self._snapshot(), looked_at=self.now())

    def join_fleet(self, backend: Backend, _name: str, _silence: str) -> Any:
        backend.member = True

    def leave_fleet(self, backend: Backend) -> Any:
        backend.member = False

    def beat(self, _: Backend) -> Any:
        silence, self._pulse = self._time() - self._pulse, self._time()
        if silence <= 90.0 * self._stride:
            return 0
        for hook in self.hooks.values():
            standing = hook.webhook.standing
            if standing.failing_since is not None and hook.enabled:
                since = min(standing.failing_since + timedelta(seconds=silence), self.now())
                hook.webhook = hook.webhook._replace(standing=standing._replace(failing_since=since))
        return silence

    def look(self, backend: Backend, last: str, mask: int, most: int, octets: int, unread: timedelta | None) -> list[Any]:
        since = list(self._since(last))
        first = Record(snapshot=self._snapshot(), looked_at=self.now(), changed=self._changes(since, mask))
        if unread is not None:
            first.update(self._members(backend, unread.total_seconds()))
        found: list[Any] = []
        so_far = 0
        for row in self._arrived(since, mask):
            if len(found) >= most or so_far >= octets:
                break
            found.append((None,) * 6 + tuple(row.delivery))
            so_far += row.delivery.size
        return [first, *found]

    def overflow(self, _: Backend, last: str, mask: int) -> list[Any]:
        since = list(self._since(last))
        earliest: dict[int, datetime] = {}
        for row in self._arrived(since, mask):
            webhook_id, due_at = row.delivery.webhook_id, row.delivery.due_at
            earliest[webhook_id] = min(due_at, earliest.get(webhook_id, due_at))
        first = Record(snapshot=self._snapshot(), changed=self._changes(since, mask))
        return [first, *(Record(webhook_id=webhook_id, due_at=due_at) for webhook_id, due_at in earliest.items())]

    def take_shards(self, backend: Backend, shards: list[int]) -> list[Any]:
        taken = [shard for shard in shards if self.owner(shard) is None]
        backend.shards.update(taken)
        return [Record(shard=shard) for shard in taken]

    def release_shards(self, backend: Backend, shards: list[int]) -> Any:
        if not backend.shards.issuperset(shards):
            self._deny("ownership", f"{backend.name} lets go of shards that are not its own")
        backend.shards.difference_update(shards)

    def owing(self, _: Backend, mask: int) -> list[Any]:
        owing = sorted({webhook_id for webhook_id, _ in self.rows if mask >> shard_of(webhook_id) & 1})
        return [Record(webhook_id=webhook_id) for webhook_id in owing]

    def tests(self, _: Backend, mask: int) -> list[Any]:
        return [
            row.delivery for row in self.rows.values() if row.delivery.test and mask >> shard_of(row.delivery.webhook_id) & 1
        ]

    def refill(
        self,
        _: Backend,
        ids: list[int],
        due: list[datetime],
        events: list[int],
        rooms: list[int],
        octets: int,
        ordered: list[bool],
    ) -> list[Any]:
        found: list[Any] = []
        for webhook_id, due_at, event_id, room, in_line in zip(ids, due, events, rooms, ordered, strict=True):
            keyed = [
                ((due_at if in_line else row.delivery.due_at, row.delivery.event_id), row.delivery)
                for row in self._of(webhook_id)
                if not row.delivery.test
            ]
            so_far = 0
            for _key, delivery in sorted(one for one in keyed if one[0] >= (due_at, event_id))[:room]:
                if so_far < octets:
                    found.append(delivery)
                so_far += delivery.size
        return found

    def webhooks(self, _: Backend, ids: list[int]) -> list[Any]:
        return [self._webhook(self.hooks[webhook_id]) for webhook_id in ids]

    def settle(self, _: Backend, *columns: Sequence[Any]) -> list[Any]:
        kept: list[Any] = []
        for one in zip(*columns, strict=True):
            webhook_id, event_id, _created, attempts, due_at, verdict, number, attempted_at = one[:8]
            test, was_due = one[18], one[19]
            key = webhook_id, event_id
            attempt = Attempt(attempted_at, number, verdict, test)
            row = self.rows.get(key)
            if row is None or row.delivery.attempts != attempts:
                kept.append(Record(webhook_id=webhook_id, event_id=event_id))
                self.fenced(key, attempt, row)
            else:
                self.settling(row, attempt, due_at)
                as_read = row.delivery.due_at == was_due
                if due_at is None and (as_read or verdict in ("delivered", "refused") or test):
                    del self.rows[key]
                else:
                    row.delivery = row.delivery._replace(
                        attempts=0 if due_at is None else attempts if number is None else number,
                        due_at=due_at if as_read else row.delivery.due_at,
                    )
            self._record(key, attempt)
        return kept

    def report(self, backend: Backend, webhook_id: int, *said: Any) -> bool:
        self.reporting(backend, webhook_id)
        standing, deactivate = Standing(*said[:5]), said[6]
        hook = self.hooks[webhook_id]
        known = hook.webhook
        if self._chance.random() < 0.1:
            return False  # somebody else is changing the row
        since = standing.failing_since
        if not hook.enabled or (
            known.standing.failing_since is None if since is None else known.resumed_at is not None and since < known.resumed_at
        ):
            return True
        if deactivate is not None:
            hook.enabled = False
            self._change(hook, known._replace(live=False, standing=standing._replace(next_probe_at=None)))
        else:
            if since is None and known.standing.next_probe_at is not None:
                hook.recovered_at = self.now()
            hook.webhook = known._replace(standing=standing)
        return True

    def _snapshot(self) -> str:
        running = sorted(self._running)
        return f"{running[0] if running else self._next_txid}:{self._next_txid}:{','.join(map(str, running))}"

    def _since(self, last: str) -> Iterable[int]:
        """Transactions that were under way at that snapshot or had not begun, and have ended."""
        _, xmax, running = last.split(":")
        for txid in (*map(int, filter(None, running.split(","))), *range(int(xmax), self._next_txid)):
            if txid not in self._running:
                yield txid

    def _arrived(self, since: Iterable[int], mask: int) -> Iterable[Row]:
        for txid in since:
            for key in self._stamped.get(txid, ()):
                row = self.rows.get(key)
                if row is not None and row.txid == txid and mask >> shard_of(key[0]) & 1:
                    yield row

    def _changes(self, since: Iterable[int], mask: int) -> list[int]:
        return [
            webhook_id
            for txid in since
            for webhook_id in self._changed.get(txid, ())
            if self.hooks[webhook_id].txid == txid and mask >> shard_of(webhook_id) & 1
        ]

    def _members(self, backend: Backend, unread: float) -> Record:
        members = [one for one in self.backends if one.member]
        held = set().union(*(one.shards for one in members))
        stuck = [one for one in members if one.unread and one is not backend and one.asked_at < self._time() - unread]
        for one in stuck:
            self.close(one)
        free = [shard for shard in range(SHARDS) if shard not in held]
        return Record(members=len(members), free=free, evicted=len(stuck))

    def _webhook(self, hook: Hook) -> tuple[Any, ...]:
        """A row of queries/webhooks.sql: how often it has failed is counted anew."""
        webhook, now = hook.webhook, self.now()
        standing = webhook.standing
        tried = [attempt for attempt in self._tried[webhook.id] if attempt.number is not None and not attempt.test]
        sent_at = max((attempt.at for attempt in tried), default=None) if webhook.rate is not None else None
        if standing.failing_since is not None:
            tried = sorted(one for one in tried if webhook.resumed_at is None or one.at >= webhook.resumed_at)
            taken = [one.at for one in tried if one.verdict == "delivered"]
            failures = len([one for one in tried if not taken or one.at > taken[-1]])
            succeeded = [at for at in taken if at > standing.failing_since]
            standing = standing._replace(
                failing_since=max([standing.failing_since, *succeeded]),
                failures=failures if succeeded else max(standing.failures, failures),
            )
        recovered_at = hook.recovered_at
        if recovered_at is not None and recovered_at <= now - timedelta(seconds=10):
            recovered_at = None
        return (*webhook[:10], None, webhook.resumed_at, recovered_at, sent_at, *standing)
