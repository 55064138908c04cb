"""Backlog: what is owed to the webhooks of our shards, asked now and then.

Every daemon asks for its own, so that the sum over all of them is what is owed, and none asks for what another one knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from prometheus_client.core import GaugeMetricFamily, Metric

from bisd import db, log
from bisd.fleet import mask
from bisd.sessions import Sessions

# Seconds, and so many times what it took to ask.
_EVERY = 15.0
_REST = 100.0
# So many are counted of each state; more show as so many.
_COUNTED = 10_000
_STATES = ("well", "failing", "parked", "held")
_UNKNOWN = float("nan")


class Backlog:
    """A collector of prometheus_client: what it has not been told yet is not a number."""

    def __init__(
        self,
        sessions: Sessions,
        shards: Callable[[], Iterable[int]],
        ready: asyncio.Event,
        every: float = _EVERY,
    ) -> None:
        """`ready` is set when there are shards; from then on it asks, `every` so many seconds."""
        self._sessions = sessions
        self._ready = ready
        self._every = every
        self._shards = shards
        self._seen: dict[str, tuple[float, float, float]] = dict.fromkeys(_STATES, (_UNKNOWN,) * 3)
        self._estimate = _UNKNOWN
        self._asked_at = _UNKNOWN
        self._lost = False
        self._log = log.get()

    async def run(self) -> None:
        """Until cancelled. While nobody answers, what was seen last stands, and grows older."""
        await self._ready.wait()
        while True:
            began = monotonic()
            try:
                async with self._sessions.borrow() as connection:
                    await self._ask(connection)
                self._lost = False
            except db.ANY as fault:
                if not self._lost:
                    self._lost = True
                    self._log.warning(log.Event.BACKLOG_UNKNOWN, error=type(fault).__name__)
            await asyncio.sleep(max(self._every, _REST * (monotonic() - began)))

    async def _ask(self, connection: db.Connection) -> None:
        rows = await connection.fetch(db.query("backlog"), mask(self._shards()), _COUNTED)
        self._asked_at = monotonic()
        self._estimate = rows[0]["estimate"]
        self._seen = {row["state"]: (row["owed"], row["webhooks"], row["due_for"]) for row in rows}

    def collect(self) -> Iterator[Metric]:
        age = monotonic() - self._asked_at
        owed = GaugeMetricFamily(
            "bisd_backlog", f"Deliveries owed to webhooks of our shards; counted up to {_COUNTED}.", labels=["state"]
        )
        webhooks = GaugeMetricFamily("bisd_backlog_webhooks", "Webhooks of our shards that owe something.", labels=["state"])
        oldest = GaugeMetricFamily("bisd_backlog_oldest_seconds", "For how long the oldest has been due.", labels=["state"])
        for state, (number, owing, due_for) in self._seen.items():
            owed.add_metric([state], number)
            webhooks.add_metric([state], owing)
            oldest.add_metric([state], due_for + age if due_for else 0.0)
        yield from (owed, webhooks, oldest)
        yield GaugeMetricFamily("bisd_backlog_estimate", "Deliveries owed by all, as the last ANALYZE found.", self._estimate)
        yield GaugeMetricFamily("bisd_backlog_age_seconds", "How long ago the backlog was asked for.", age)
