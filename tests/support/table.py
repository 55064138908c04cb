"""What PostgreSQL would hold, for lanes that do without one: what is owed, the webhooks, and which commit each is of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from bisd.delivery.lane import Lane
from bisd.health import Report
from bisd.model import WELL, Delivery, Webhook

START = datetime(2026, 1, 1, tzinfo=UTC)

# Webhook id, event id.
Key = tuple[int, int]


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def webhook(
    number: int, *, live: bool = True, most: int | None = None, ordered: bool = False, rate: float | None = None
) -> Webhook:
    return Webhook(number, 1, "https://example.com/", "k" * 16, None, None, most, live, ordered, rate)


def delivery(webhook_id: int, event_id: int, due: float = 0, attempts: int = 0) -> Delivery:
    """Due so many seconds after START."""
    due_at = START + seconds(due)
    return Delivery(webhook_id, event_id, START, due_at, due_at, attempts, "t", b"{}", 2)


class Table:
    """The deliveries owed, the webhooks, and since which commit each has been as it is."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.webhooks = {number: webhook(number) for number in numbers}
        self.rows: dict[Key, Delivery] = {}
        self.commits = 0
        self.inserted: dict[Key, int] = {}
        self._arrived: dict[Key, int] = {}
        self._changed: dict[int, int] = {}
        self._failed: list[tuple[int, datetime]] = []

    def put(self, row: Delivery) -> None:
        """Inserts, or updates with a new transaction id ('deliver now'): either way it arrives."""
        self.commits += 1
        key = row.webhook_id, row.event_id
        self.inserted.setdefault(key, self.commits)
        self._arrived[key] = self.commits
        self.rows[key] = row

    def change(self, row: Webhook) -> None:
        self.commits += 1
        self._changed[row.id] = self.commits
        self.webhooks[row.id] = row

    def switch_on(self, number: int, now: datetime) -> None:
        """bisd.enable_webhook"""
        for row in self.owed(number):
            if row.due_at > now:
                self.put(row._replace(due_at=now))
        self.change(self.webhooks[number]._replace(live=True, resumed_at=now, standing=WELL))

    def settle(self, row: Delivery, owed: Delivery | None, failed_at: datetime | None) -> None:
        """queries/settle.sql: the transaction id stays, so this arrives nowhere."""
        key = row.webhook_id, row.event_id
        if owed is None:
            del self.rows[key]
        else:
            self.rows[key] = self.rows[key]._replace(attempts=owed.attempts, due_at=owed.due_at)
        if failed_at is not None:
            self._failed.append((row.webhook_id, failed_at))

    def report(self, report: Report) -> None:
        """bisd.report"""
        known = self.webhooks[report.webhook_id]
        since = report.standing.failing_since
        if not known.live or (since is not None and known.resumed_at is not None and since < known.resumed_at):
            return
        if report.deactivate is None:
            self.webhooks[known.id] = known._replace(standing=report.standing)
        else:
            self.change(known._replace(live=False, standing=report.standing._replace(next_probe_at=None)))

    def webhook(self, number: int) -> Webhook:
        """queries/webhooks.sql: how often it has failed is counted anew."""
        row = self.webhooks[number]
        since = row.standing.failing_since
        if since is None:
            return row
        failures = sum(failed == number and at >= since for failed, at in self._failed)
        return row._replace(standing=row.standing._replace(failures=max(row.standing.failures, failures)))

    def since(self, commit: int) -> tuple[list[Delivery], set[int]]:
        """What a look finds: rows, and changed webhooks."""
        rows = [row for key, row in self.rows.items() if self._arrived[key] > commit]
        return rows, {number for number, at in self._changed.items() if at > commit}

    def refill(self, asked: Iterable[tuple[Lane, int]]) -> list[Delivery]:
        """queries/refill.sql"""
        found: list[Delivery] = []
        for lane, room in asked:
            ordered = lane.webhook.ordered
            owed = [((lane.horizon[0] if ordered else row.due_at, row.event_id), row) for row in self.owed(lane.webhook.id)]
            found += [row for key, row in sorted(owed) if key >= lane.horizon][:room]
        return found

    def owed(self, number: int) -> list[Delivery]:
        return [row for row in self.rows.values() if row.webhook_id == number and not row.test]

    def tests(self) -> list[Delivery]:
        return [row for row in self.rows.values() if row.test]
