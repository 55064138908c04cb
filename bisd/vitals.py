"""Vitals: whether the daemon lives, whether it is ready, and what it holds at this moment.

To live is a matter of the process: its event loop turns and its loops go on, whether there is a database or not. To be ready
is to deliver: connected, listening, with shards of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bisd import __version__, migrate
from bisd.clock import Clock
from bisd.delivery.lane import STATES
from bisd.delivery.writeback import Writeback
from bisd.fleet import is_sure
from bisd.intake import Intake
from bisd.lanes import Lanes
from bisd.metrics import Metrics
from bisd.worker import Workers

# Others end when they have done what there was to do.
_ENDLESS = ("intake", "writeback", "housekeeping", "vigil")
# So many steps of the vigil are remembered: ten seconds.
_REMEMBERED = 20
# Seconds. A loop that turns says so after every statement, and a statement ends within ten, with an answer or without.
_STALLED = 90.0
_MOST_LAG = 5.0


class Condition(NamedTuple):
    """Why something is not so: no reason, it is. `facts` are for whoever wants to know more."""

    reasons: list[str]
    facts: dict[str, object]


class Vitals:
    """Of the parts of one daemon. Also a collector of prometheus_client."""

    def __init__(self, lanes: Lanes, intake: Intake, writeback: Writeback, clock: Clock, metrics: Metrics) -> None:
        self._lanes = lanes
        self._intake = intake
        self._writeback = writeback
        self._clock = clock
        self._metrics = metrics
        self._workers: Workers | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._schema: int | None = None
        self._stopping = False
        self._told = 0
        self._lags: deque[float] = deque([0.0], _REMEMBERED)

    def begin(self, workers: Workers, loops: Iterable[asyncio.Task[None]]) -> None:
        """The database has the schema of this version, and from here on these loops run."""
        self._workers = workers
        self._loops = [task for task in loops if task.get_name() in _ENDLESS]
        self._schema = migrate.known()[-1].number

    def stop(self) -> None:
        """The daemon is stopping: its loops end as they should, and nothing new is sent."""
        self._stopping = True

    def lagged(self, seconds: float) -> None:
        """The event loop was late by so much."""
        self._lags.append(seconds)
        self._metrics.lagged(seconds)

    def stalled(self) -> list[str]:
        """The loops that have not turned for too long, though they should have. Housekeeping sleeps for an hour, and every
        statement of its ends by a timeout."""
        turning = (("intake", self._intake.still()), ("writeback", self._writeback.still()))
        return [name for name, seconds in turning if seconds > _STALLED]

    def alive(self) -> Condition:
        """Whether the event loop turns and every loop goes on."""
        loops = {task.get_name(): not task.done() for task in self._loops}
        lag = max(self._lags)
        reasons = [f"the loop {name} has ended" for name, runs in loops.items() if not runs and not self._stopping]
        if loops and not self._stopping:
            reasons += [f"the loop {name} has not turned for {_STALLED:.0f} s" for name in self.stalled()]
        if lag > _MOST_LAG:
            reasons.append(f"the event loop was busy for {lag:.1f} s")
        return Condition(reasons, {"version": __version__, "loops": loops, "lag_seconds": round(lag, 3)})

    def status(self, seconds: float) -> str:
        """One line, of the last so many seconds. The backlog is what is in memory; + says that the table holds more."""
        delivered = self._metrics.delivered
        rate, self._told = (delivered - self._told) / seconds, delivered
        in_flight = 0 if self._workers is None else len(self._workers)
        unwritten = len(self._writeback)
        if self._stopping:
            return f"stopping, {in_flight} in flight, {unwritten} to be written"
        if refusal := self._refusal():
            return f"{refusal}; {unwritten} to be written"
        if not self._intake.ready.is_set():
            return f"waiting for the database, {unwritten} to be written"
        count = self._lanes.count()
        backlog = f"{count.held + in_flight}{'+' if count.more else ''}"
        return f"delivering {rate:.0f}/s, {count.lanes['parked']} parked, backlog {backlog}"

    def ready(self) -> Condition:
        """Whether it delivers."""
        fleet, silence = self._intake.fleet, self._clock.silence()
        connected = fleet is not None and is_sure(self._clock)
        listening = self._intake.ready.is_set()
        shards = 0 if fleet is None else len(fleet.held)
        reasons = []
        if self._schema is None:
            reasons.append("no database with the schema of this version has answered yet")
        elif fleet is None:
            reasons.append("there is no connection to the database")
        elif not connected:
            reasons.append(f"the database has not answered for {silence:.0f} s")
        elif not listening:
            reasons.append("it does not listen yet, or has not looked yet")
        elif shards == 0:
            reasons.append("no shard is ours: other daemons hold all of them")
        if refusal := self._refusal():
            reasons.append(refusal)
        if self._stopping:
            reasons.append("it is stopping")
        return Condition(reasons, {
            "version": __version__, "schema": self._schema, "connected": connected, "listening": listening,
            "shards": shards, "members": 0 if fleet is None else fleet.members,
        })  # fmt: skip

    def _refusal(self) -> str | None:
        """What the database has to say to what we ask of it, if it is not ours any more."""
        refusal = self._intake.trouble.refusal or self._writeback.trouble.refusal
        if refusal is None:
            return None
        return f"the database refuses what we ask of it ({refusal}): `bisd check` says what differs"

    def collect(self) -> Iterator[Metric]:
        """As they are now."""
        count, outage, workers, fleet = self._lanes.count(), self._lanes.outage, self._workers, self._intake.fleet
        busy, idle, most = (0, 0, 0) if workers is None else (len(workers), workers.idle, workers.most)
        lanes = GaugeMetricFamily("bisd_lanes", "Lanes, by how their webhooks are doing.", labels=["state"])
        for state in STATES:
            lanes.add_metric([state], count.lanes[state])
        yield lanes
        for name, says, value in (
            ("bisd_ready", "Whether it delivers, as /readyz says.", not self.ready().reasons),
            ("bisd_in_flight", "Requests in flight.", busy),
            ("bisd_in_flight_limit", "As many may be: max_in_flight.", most),
            ("bisd_workers", "Workers, those that wait for something to send included.", busy + idle),
            ("bisd_held", "Deliveries that lanes hold in memory, those in flight not counted.", count.held),
            ("bisd_unwritten", "Outcomes that wait to be written back.", len(self._writeback)),
            ("bisd_shards", "Shards that are ours, of 64.", 0 if fleet is None else len(fleet.held)),
            ("bisd_members", "Daemons that share the database, this one included.", 0 if fleet is None else fleet.members),
            ("bisd_outage", "Whether all lanes wait, because the fault is ours.", outage.lasts),
        ):
            yield GaugeMetricFamily(name, says, value)
        yield CounterMetricFamily("bisd_outages", "Faults of our own that made all lanes wait.", outage.number)
