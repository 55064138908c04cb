"""Metrics: what happened, in plain numbers, and as Prometheus reads it.

A delivery costs less than a tenth of a millisecond in all, so nothing is done for each: a batch of the write-back is counted
at once, and families and labels are made when somebody asks for them. Labels are from fixed sets: there are as many series
with ten thousand webhooks as with one. No id, name, address or text of anybody's is in them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import compress
from operator import attrgetter, eq, itemgetter, sub
from time import time
from typing import get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from bisd import __version__
from bisd.clock import ticks
from bisd.model import Code, Delivered, NoResponse, Outcome, Response, Timings, Verdict

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
_WAITS = (*_SECONDS[:13], 30.0, 60.0, 300.0, 1800.0, 7200.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
_timings, _due_at, _created_at = attrgetter("timings"), attrgetter("due_at"), attrgetter("event_created_at")
_answer, _verdict, _first = attrgetter("answer"), attrgetter("verdict"), itemgetter(0)
_POSTED = (Response, NoResponse)
_VERDICTS: tuple[type[Verdict], ...] = get_args(Verdict)
# Code and class of status, of every attempt that there can be. What was not POSTed has no status.
_ATTEMPTS = (
    ("taken", "2xx"),
    (Code.REDIRECT.value, "3xx"),
    *((Code.STATUS.value, status) for status in ("1xx", "2xx", "4xx", "5xx", "other")),
    *((code.value, "none") for code in Code if code not in (Code.REDIRECT, Code.STATUS)),
)
# Who opens sessions.
_SESSIONS = ("start", "intake", "writeback", "pool", "http")


class Histogram:
    """How many values were at most each of `bounds`. `times`: values come so many times as large as they are shown."""

    __slots__ = ("_bounds", "_names", "_times", "_below", "_count", "_sum")

    def __init__(self, bounds: Sequence[float], times: float = 1.0) -> None:
        self._bounds = [bound * times for bound in bounds]
        self._names = [str(float(bound)) for bound in bounds]
        self._times = times
        self._below = [0] * len(bounds)
        self._count = 0
        self._sum = 0.0

    def observe(self, values: list[float]) -> None:
        """Counts all of them, and sorts the list for that."""
        if values:
            values.sort()
            below = self._below
            for place, bound in enumerate(self._bounds):
                below[place] += bisect_right(values, bound)
            self._count += len(values)
            self._sum += sum(values)

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> HistogramMetricFamily:
        buckets = [*zip(self._names, self._below, strict=True), ("+Inf", self._count)]
        family.add_metric(labels, buckets, self._sum / self._times)
        return family


class Metrics:
    """One daemon's. `registry` is what is shown; whoever has gauges adds a collector of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(support_collectors_without_names=True)
        self.arrivals = 0
        self.bells = 0
        self._fenced: Counter[type[Verdict]] = Counter()
        self._verdicts: Counter[type[Verdict]] = Counter()
        self._answers: Counter[int | Code] = Counter()
        self._phases = [Histogram(_SECONDS, 1000.0) for _ in Timings._fields]
        self._waiting = Histogram(_WAITS)
        self._event_to_send = Histogram(_WAITS)
        self._looks = Histogram(_SECONDS)
        self._writebacks = Histogram(_SECONDS)
        self._batches = Histogram(_SIZES)
        self._lag = Histogram(_SECONDS)
        self._connects = {(what, result): 0 for what in _SESSIONS for result in ("ok", "failed")}
        self._reloads = {"ok": 0, "failed": 0}
        self._reloaded = True
        self.registry.register(self)
        for collector in (OwnProcess, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def written(self, outcomes: Sequence[Outcome], fenced: set[tuple[int, int]], seconds: float) -> None:
        """A batch is in the database, which took so long; the fence kept these (webhook id, event id) as they were."""
        self._writebacks.observe([seconds])
        self._batches.observe([float(len(outcomes))])
        self._verdicts.update(map(type, map(_verdict, outcomes)))
        if fenced:
            kept = [one for one in outcomes if (one.delivery.webhook_id, one.delivery.event_id) in fenced]
            self._fenced.update(map(type, map(_verdict, kept)))
        # The first field of every answer is its status or its code.
        self._answers.update(map(_first, filter(None, map(_answer, outcomes))))
        if posts := [outcome for outcome in outcomes if isinstance(outcome[2], _POSTED)]:
            self._posted(posts)

    def _posted(self, posts: Sequence[Outcome]) -> None:
        """Times. What is done for each is done in C, which takes half of what a loop would."""
        deliveries, sent, answers, _ = zip(*posts, strict=True)
        for phase, took in zip(self._phases, zip(*map(_timings, answers), strict=True), strict=True):
            phase.observe([milliseconds for milliseconds in took if milliseconds is not None])
        due = list(map(_due_at, deliveries))
        waited = list(map(timedelta.total_seconds, map(sub, sent, due)))
        # Due when it happened: a first attempt, at what no replay, retry or switch put off.
        self._event_to_send.observe(list(compress(waited, map(eq, due, map(_created_at, deliveries)))))
        self._waiting.observe(waited)

    def looked(self, seconds: float, arrivals: int) -> None:
        """A look ended, which took so long and found so many deliveries."""
        self._looks.observe([seconds])
        self.arrivals += arrivals

    def lagged(self, seconds: float) -> None:
        """A timer of the loop rang so much too late."""
        self._lag.observe([seconds])

    def connected(self, what: str, done: bool) -> None:
        """A session was opened, or could not be."""
        self._connects[what, "ok" if done else "failed"] += 1

    @property
    def delivered(self) -> int:
        """So many deliveries were taken, and are written back."""
        return self._verdicts[Delivered] - self._fenced[Delivered]

    def reloaded(self, ok: bool) -> None:
        """The configuration was read again, and is in force, or was refused."""
        self._reloads["ok" if ok else "failed"] += 1
        self._reloaded = ok

    def collect(self) -> Iterator[Metric]:
        """As a collector of prometheus_client."""
        yield from self._of_deliveries()
        yield from self._of_the_database()
        lag = HistogramMetricFamily("bisd_loop_lag_seconds", "How late timers ring: how long the event loop was busy.")
        yield self._lag.add_to(lag)
        reloads = CounterMetricFamily("bisd_config_reloads", "Configurations read again, by result.", labels=["result"])
        for result, number in self._reloads.items():
            reloads.add_metric([result], number)
        yield reloads
        yield GaugeMetricFamily(
            "bisd_config_last_reload_successful", "Whether the configuration that was read last is in force.", self._reloaded
        )
        build = GaugeMetricFamily("bisd_build_info", "Always 1; which version this is.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _of_deliveries(self) -> Iterator[Metric]:
        deliveries = CounterMetricFamily("bisd_deliveries", "Verdicts on deliveries, written back.", labels=["verdict"])
        for verdict in _VERDICTS:
            deliveries.add_metric([verdict.word], self._verdicts[verdict] - self._fenced[verdict])
        yield deliveries
        attempts = CounterMetricFamily(
            "bisd_attempts", "Attempts by what came of them: taken, or why not; and class of status.", labels=["code", "status"]
        )
        for labels, number in self._by_code().items():
            attempts.add_metric(labels, number)
        yield attempts
        phases = HistogramMetricFamily(
            "bisd_attempt_seconds",
            "What an attempt took: resolving; connecting; the handshake of TLS; from its beginning to the status; in all.",
            labels=["phase"],
        )
        for phase, histogram in zip(Timings._fields, self._phases, strict=True):
            histogram.add_to(phases, phase)
        yield phases
        waiting = HistogramMetricFamily("bisd_waiting_seconds", "From when an attempt was due until it began.")
        yield self._waiting.add_to(waiting)
        whole = HistogramMetricFamily(
            "bisd_event_to_send_seconds", "From the beginning of an event's transaction until its first attempt began."
        )
        yield self._event_to_send.add_to(whole)

    def _by_code(self) -> dict[tuple[str, str], int]:
        """Attempts by code and class of status."""
        numbers = dict.fromkeys(_ATTEMPTS, 0)
        for answer, number in self._answers.items():
            if isinstance(answer, Code):
                numbers[answer.value, "none"] += number
            else:
                status = f"{answer // 100}xx" if 100 <= answer < 600 else "other"
                numbers[Code.REDIRECT.value if status == "3xx" else Code.STATUS.value, status] += number
        # What was taken is what was delivered; its status is 200 to 299.
        taken = numbers["taken", "2xx"] = self._verdicts[Delivered]
        numbers[Code.STATUS.value, "2xx"] -= taken
        return numbers

    def _of_the_database(self) -> Iterator[Metric]:
        yield self._looks.add_to(HistogramMetricFamily("bisd_look_seconds", "What a look for arrivals took."))
        yield CounterMetricFamily("bisd_arrivals", "Deliveries that looks have found.", self.arrivals)
        yield CounterMetricFamily("bisd_bells", "Bells that were heard.", self.bells)
        yield self._writebacks.add_to(HistogramMetricFamily("bisd_writeback_seconds", "What writing a batch took."))
        sizes = HistogramMetricFamily("bisd_writeback_batch_deliveries", "How many deliveries a batch has.")
        yield self._batches.add_to(sizes)
        yield CounterMetricFamily(
            "bisd_writeback_fenced", "Deliveries that another owner had dealt with.", self._fenced.total()
        )
        connects = CounterMetricFamily(
            "bisd_database_connects", "Sessions opened, or not to be had, by what they are for.", labels=["what", "result"]
        )
        for labels, number in self._connects.items():
            connects.add_metric(labels, number)
        yield connects


class OwnProcess(ProcessCollector):
    """Where /proc shows nothing but processes, prometheus_client finds no time of boot, and tells nothing at all."""

    def _boot_time(self) -> float:
        return time() - ticks()
