"""Lane: what of one webhook may go now. Pure and synchronous; times are the database's and are passed in.

A lane is the line of one webhook's deliveries. It holds a bounded window of them, ordered by due time, over the table that
holds them all. Its horizon says what it knows: every owed delivery before it is held or busy (in flight, or not yet written
back); what lies beyond is only in the table, and a refill reads it from there. So an arrival beyond the horizon can be
ignored, and one before it is a late commit that must be taken.

An ordered lane is a line by event id instead: the first one goes or waits until it is due, and the others wait behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import NamedTuple, assert_never

from bisd.health import Health, Limits, Report
from bisd.model import Delivery, Took, Webhook
from bisd.pace import Pace
from bisd.turns import Share

# Seconds without an answer, at least, after which a receiver is in doubt; and so many times what it took on average.
_PATIENCE = 2.0
_PATIENCE_TIMES = 3
# Seconds that an attempt takes, on average, which others should not be kept waiting for.
_SLOW = 0.5
_NOT_SMALL = 8
# Due time (in an ordered lane: always the same) and event id.
Key = tuple[datetime, int]

STATES = ("well", "failing", "parked")
BEGINNING: Key = (datetime(1970, 1, 1, tzinfo=UTC), 0)
END: Key = (datetime(9999, 1, 1, tzinfo=UTC), 0)


class Window(NamedTuple):
    """How much of its line a lane holds, about: deliveries, and octets of their bodies."""

    deliveries: int
    octets: int


class Lane:
    """One webhook's line."""

    # `share`: its account's; `doubtful`: as in_doubt answered last; `doubted`: how many of those in flight count as such;
    # `held_back`: nothing more goes for now.
    __slots__ = (
        "webhook",
        "horizon",
        "queued",
        "timer",
        "in_flight",
        "share",
        "doubtful",
        "doubted",
        "held_back",
        "_heard_at",
        "_sent_at",
        "_pace",
        "_health",
        "_limits",
        "_probe",
        "_held",
        "_octets",
        "_left",
        "_order",
        "_busy",
        "_again",
        "_halted",
        "_former",
    )

    def __init__(self, webhook: Webhook, ceiling: int, limits: Limits, horizon: Key, share: Share[Lane]) -> None:
        self.webhook = webhook
        self.horizon = horizon
        self.share = share
        self.doubtful = True
        self.doubted = 0
        self.held_back = False
        self._heard_at = self._sent_at = BEGINNING[0]
        self.queued = False
        self.timer: datetime | None = None
        self.in_flight = 0
        self._limits = limits
        self._held: dict[int, Delivery] = {}
        self._octets = 0
        self._left: Key = END
        self._order: list[Key] = []
        self._busy: dict[int, datetime] = {}
        self._again: dict[int, datetime] = {}
        self._halted: set[int] = set()
        self._begin(ceiling)

    def _begin(self, ceiling: int) -> None:
        """How fast it goes, and how it is doing, as its webhook's row says."""
        webhook = self.webhook
        self._pace = Pace(_ceiling(webhook, ceiling), webhook.rate)
        self._health = Health(webhook.id, self._limits, webhook.standing)
        self._probe: int | None = None
        # What was sent before says nothing of how it is now: it may have gone to another URL.
        self._former = set(self._busy)
        self._pace.sent(max(self._sent_at, webhook.sent_at or self._sent_at))
        if self._health.probe_at is not None:
            self._pace.park(self._health.probe_at)
        elif webhook.recovered_at is not None:
            self._pace.ramp(webhook.recovered_at)

    def change(self, webhook: Webhook, ceiling: int) -> None:
        """The webhook was changed: what is held is forgotten and read again, under the new settings. One that was switched on
        anew, or was closed, begins anew."""
        anew = webhook.resumed_at != self.webhook.resumed_at or (webhook.live and not self.webhook.live)
        self.webhook = webhook
        if anew:
            self._begin(ceiling)
        else:
            self._pace.change(_ceiling(webhook, ceiling), webhook.rate)
            if self._health.probe_at is not None and not self._health.over:
                self._pace.park(self._health.probe_at)
        self.forget()

    def limit(self, ceiling: int, limits: Limits) -> None:
        """The configuration was changed. What is held stays."""
        self._limits = limits
        self._health.change(limits)
        self._pace.change(_ceiling(self.webhook, ceiling), self.webhook.rate)

    def lose(self) -> None:
        """Its shard may be somebody else's, or its row is about to be read: what is still in flight says nothing of how it is
        doing."""
        self._health.over = True

    def forget(self) -> None:
        """What is held may not be ours any more; what is busy stays known, so that it is not sent twice."""
        self._held.clear()
        self._octets = 0
        self._order.clear()
        self.horizon = BEGINNING

    def hold(self, delivery: Delivery) -> None:
        """Takes a delivery; one that is busy, or held already with the same due time, is passed over. With another due time
        than it was taken for, the one that is busy has been made due again: that is looked into when it is written."""
        if not self.webhook.live:
            return
        taken = self._busy.get(delivery.event_id)
        if taken is not None:
            if taken != delivery.due_at:
                self._again[delivery.event_id] = delivery.due_at
            return
        known = self._held.get(delivery.event_id)
        if known is None or known.due_at != delivery.due_at:
            self._held[delivery.event_id] = delivery
            self._octets += delivery.size - (known.size if known is not None else 0)
            heappush(self._order, self._key(delivery))

    def knows(self, delivery: Delivery) -> bool:
        """Whether it is held or busy, with this due time."""
        held = self._held.get(delivery.event_id)
        return delivery.due_at == (held.due_at if held is not None else self._busy.get(delivery.event_id))

    def arrive(self, delivery: Delivery, window: Window) -> None:
        """Takes what a look found or what is to be retried; beyond the horizon it is left to the table."""
        key = self._key(delivery)
        if key >= self.horizon:
            self._leave(key)
        else:
            self.hold(delivery)
            if len(self._held) > 2 * window.deliveries or self._octets > 2 * window.octets:
                self._trim(window)

    def refill(self, rows: Sequence[Delivery], asked: Window, stale: Callable[[Delivery], bool]) -> list[Delivery]:
        """Takes what a refill read from the horizon on; `asked` is how much it would have read. Answers what is stale of it."""
        if len(rows) < asked.deliveries and sum(delivery.size for delivery in rows) < asked.octets:
            self.horizon = END
        else:
            due_at, event_id = self._key(rows[-1])
            self.horizon = (due_at, event_id + 1)
        passed_over = []
        for delivery in rows:
            if stale(delivery):
                passed_over.append(delivery)
            else:
                self.hold(delivery)
        # What was left to the table since may not have been there yet when it was read.
        self._lower(self._left)
        return passed_over

    def reread(self, due_at: datetime) -> None:
        """There is more from `due_at` on than is known here: a refill reads it."""
        self._lower(BEGINNING if self.webhook.ordered else (due_at, 0))

    def ask(self, window: Window) -> int:
        """How many deliveries the refill that now begins should read."""
        self._left = END
        return self.room(window)

    def room(self, window: Window) -> int:
        """How many deliveries to read: none, unless there may be more and the window is half empty; then one more than there is
        room for, so that it is known whether they were all, unless the window is so small that this would be much."""
        if self.horizon >= END or not self.webhook.live:
            return 0
        if len(self._held) > window.deliveries // 2 or self._octets > window.octets // 2:
            return 0
        return window.deliveries - len(self._held) + (window.deliveries >= _NOT_SMALL)

    def next(self, now: datetime) -> Delivery | None:
        """The delivery that may go now."""
        due = self.due()
        if due is None or due > now or not self.sendable():
            return None
        event_id = self._order[0][1]
        if self._health.probe_at is not None:
            event_id = self._probe = event_id if self.webhook.ordered else self._least_tried(now, event_id)
        else:
            heappop(self._order)
        delivery = self._held.pop(event_id)
        self._busy[event_id] = delivery.due_at
        self._octets -= delivery.size
        if self.in_flight == 0:
            self._heard_at = now
        self.in_flight += 1
        self._sent_at = now
        self._pace.sent(now)
        return delivery

    def sendable(self) -> bool:
        """Whether a due delivery could go: something is held, fewer are in flight than may be, nothing holds up the line."""
        return (
            bool(self._held)
            and self.in_flight < self._pace.limit
            and not self.held_back
            and not (self._halted and self.webhook.ordered)
        )

    def in_doubt(self, now: datetime) -> bool:
        """Whether its receiver has taken nothing yet, or nothing for too long while something was under way."""
        if self.in_flight and not self.doubtful:
            silent = (now - self._heard_at).total_seconds()
            self.doubtful = silent > _PATIENCE and silent > _PATIENCE_TIMES * self._pace.latency
        return self.doubtful

    def is_slow(self, now: datetime) -> bool:
        """Whether what it sends may take long to end."""
        return self.in_doubt(now) or self._pace.latency > _SLOW

    def due(self) -> datetime | None:
        """When the first delivery held may go."""
        order, held, ordered = self._order, self._held, self.webhook.ordered
        while order:
            due_at, event_id = order[0]
            delivery = held.get(event_id)
            if delivery is not None and (ordered or delivery.due_at == due_at):
                not_before = self._pace.not_before
                return delivery.due_at if not_before is None or not_before <= delivery.due_at else not_before
            heappop(order)
        return None

    def finish(self, delivery: Delivery, took: Took, now: datetime, error: str, seconds: float = 0.0) -> Report | None:
        """An attempt ended at `now` after `seconds`, with `error`, a status or code, if it was not taken. Answers what is to be
        reported."""
        self.in_flight -= 1
        probe = self._probe == delivery.event_id
        if probe:
            self._probe = None
        if took is Took.YES:
            self.doubtful = False
            self._heard_at = now
        else:
            self._halted.add(delivery.event_id)  # an ordered lane waits until it is known when it goes again
        if self._health.over or delivery.event_id in self._former:
            return None
        match took:
            case Took.YES:
                self._pace.taken(seconds)
                return None if self._health.failing_since is None else self._recover(now)
            case Took.NO | Took.GONE:
                self._pace.failed()
                report = self._health.fail(delivery.event_id, now, error, gone=took is Took.GONE, probe=probe)
                if report is not None and report.deactivate is not None:
                    self._pace.stop()
                    return report
            case Took.UNKNOWN:
                report = None  # and if it was the probe, the next one may go: this one never went
            case Took.OURS:
                report = None
                if probe:
                    self._health.spare(now)
            case _:
                assert_never(took)
        if self._health.probe_at is not None:
            self._pace.park(self._health.probe_at)
        return report

    def untold(self) -> Report | None:
        """What is to be reported before somebody else takes this lane."""
        return self._health.untold()

    def forgive(self, outage: timedelta, now: datetime) -> None:
        """For so long the fault was ours."""
        self._health.forgive(outage, now)

    def _recover(self, now: datetime) -> Report | None:
        if self._health.probe_at is not None:
            self._pace.ramp(now)
        return self._health.succeed()

    def written(self, delivery: Delivery, owed: Delivery | None, window: Window) -> None:
        """The outcome is in the database: `owed` as it says now, or settled."""
        self._busy.pop(delivery.event_id, None)
        self._halted.discard(delivery.event_id)
        self._former.discard(delivery.event_id)
        again = self._again.pop(delivery.event_id, None)
        if again is not None:
            self.reread(again)
        if owed is not None:
            self.arrive(owed, window)

    @property
    def busy(self) -> bool:
        return bool(self._busy)

    @property
    def state(self) -> str:
        """One of STATES, as bisd.webhook_health has them."""
        return (
            "parked" if self._health.probe_at is not None else "failing" if self._health.failing_since is not None else "well"
        )

    def __len__(self) -> int:
        return len(self._held)

    def _leave(self, key: Key) -> None:
        """What is owed from `key` on is for a refill to read: the next one, if one is under way."""
        self.horizon = min(self.horizon, key)
        self._left = min(self._left, key)

    def _lower(self, key: Key) -> None:
        """Lowers the horizon, and lets go of what is held beyond it: it must not keep out what is due before it."""
        if key < self.horizon:
            for delivery in [delivery for delivery in self._held.values() if self._key(delivery) >= key]:
                self._octets -= self._held.pop(delivery.event_id).size
            self._order = sorted(map(self._key, self._held.values()))
        self._leave(key)

    def _trim(self, window: Window) -> None:
        """Leaves what is due last to the table; keeps one at least."""
        keys = sorted(map(self._key, self._held.values()))
        while len(keys) > 1 and (len(keys) > window.deliveries or self._octets > window.octets):
            last = keys.pop()
            self._octets -= self._held.pop(last[1]).size
            self._leave(last)
        self._order = keys

    def _key(self, delivery: Delivery) -> Key:
        return (BEGINNING[0] if self.webhook.ordered else delivery.due_at, delivery.event_id)

    def _least_tried(self, now: datetime, first: int) -> int:
        """What to probe with: a body that this receiver cannot digest would tell nothing of the others."""
        due = [one for one in self._held.values() if one.due_at <= now]
        return min(due, key=lambda one: (one.attempts, one.due_at, one.event_id)).event_id if due else first


def _ceiling(webhook: Webhook, ceiling: int) -> int:
    return 1 if webhook.ordered else webhook.max_in_flight or ceiling
