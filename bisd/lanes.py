"""Lanes: all lanes of this daemon, and whose turn it is. Pure and synchronous; times are the database's and are passed in.

What is read from the table is as old as its snapshot. A delivery that was written back while the reading was under way may
be in it in its old state: `begin_read` starts a list of those, and what is on it, with the same due time, is passed over.

Tests go past the lanes: at once and once, whether their webhook is switched on or not.

Receivers that hang hold what they were given until the timeout. So of all that may be in flight, lanes of which nothing has
been heard for a while get a part at most, and beyond one each a small part: the others always find room.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from bisd.delivery.lane import END, Key, Lane, Window
from bisd.health import Limits, Report
from bisd.model import Delivery, Took, Webhook, shard_of
from bisd.pace import Outage
from bisd.turns import Turns

# Of what may be in flight: for one each of the lanes in doubt, and for more than one.
_DOUBTED = 0.8
_DOUBTED_TWICE = 0.05
# Whoever sends himself a thousand tests has no right to a thousand connections.
_TESTS_AT_ONCE = 32
# So many timers of lanes may be out of date, and as many as there are lanes.
_TIMERS = 1000


class Turn(NamedTuple):
    """A delivery whose turn it is, the webhook it goes to, and the time it was given out."""

    webhook: Webhook
    delivery: Delivery
    now: datetime


class Count(NamedTuple):
    """Lanes by state, how many deliveries they hold that are not in flight, and whether the table holds more."""

    lanes: Counter[str]
    held: int
    more: bool


class Lanes:
    """Those with something to send take turns, one delivery each."""

    def __init__(
        self,
        ceiling: int,
        limits: Limits,
        window: int = 1000,
        budget: int = 20_000,
        octets: int = 32 << 20,
        in_flight: int = 50_000,
    ) -> None:
        """`ceiling`: at most so many in flight to one webhook; `in_flight`: to all. `window`, `budget` and `octets` bound what
        is held: deliveries of one lane, and deliveries and octets of all."""
        self._ceiling = ceiling
        self._limits = limits
        self._most = window
        self._budget = Window(budget, octets)
        self._flying = 0
        self.window = Window(window, octets)
        self._lanes: dict[int, Lane] = {}
        self._turns: Turns[Lane] = Turns()
        self._doubted = 0
        self._holding_back = False
        self._bound(in_flight)
        self._aside: dict[int, Lane] = {}
        self._aside_twice: dict[int, Lane] = {}
        self._timers: list[tuple[datetime, int]] = []
        self._hungry: dict[int, Lane] = {}
        self._settled: dict[tuple[int, int], datetime] = {}
        self.outage = Outage()
        self._tests: deque[tuple[Webhook, Delivery]] = deque()
        self._testing: dict[int, int] = {}

    def limit(self, ceiling: int, limits: Limits, in_flight: int) -> None:
        """The configuration was changed: these hold from now on, for the lanes that exist too."""
        self._ceiling = ceiling
        self._limits = limits
        self._bound(in_flight)
        for lane in self._lanes.values():
            lane.limit(ceiling, limits)
        for aside in (self._aside, self._aside_twice):
            while aside:  # whom there is still no room for is set aside again when its turn comes
                self._recall(aside.popitem()[1])

    def _bound(self, in_flight: int) -> None:
        self._most_doubted = max(1, int(in_flight * _DOUBTED))
        self._most_doubted_twice = int(in_flight * _DOUBTED_TWICE)

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._lanes.values())

    def count(self) -> Count:
        """Looks at every lane: for who asks now and then."""
        lanes = self._lanes.values()
        return Count(Counter([lane.state for lane in lanes]), sum(map(len, lanes)), any(lane.horizon < END for lane in lanes))

    @property
    def starving(self) -> bool:
        """Whether a lane wants a refill."""
        return bool(self._hungry)

    def known(self, webhook_id: int) -> bool:
        """Whether it has a lane that is open: a closed one that waits for a write-back takes nothing."""
        lane = self._lanes.get(webhook_id)
        return lane is not None and lane.webhook.live

    def put(self, webhook: Webhook, horizon: Key) -> None:
        """Opens a lane for a webhook, or tells its lane that it was changed."""
        lane = self._lanes.get(webhook.id)
        if lane is not None:
            lane.change(webhook, self._ceiling)
            if webhook.live or not self._drop(lane):
                self._feed(lane)
        elif webhook.live:
            share = self._turns.share(webhook.account_id)
            lane = self._lanes[webhook.id] = Lane(webhook, self._ceiling, self._limits, horizon, share)
            # Fewer, the more lanes there are: so that memory is bounded.
            deliveries, octets = (budget // len(self._lanes) for budget in self._budget)
            self.window = Window(max(2, min(self._most, deliveries)), max(1 << 16, octets))
            self._feed(lane)

    def hold_back(self, shards: frozenset[int], now: datetime) -> set[int]:
        """These shards are to be closed: the lanes in them that may keep us waiting, and those that are parked, send nothing
        more. Answers the shards where one still does, whose other lanes go on meanwhile. Others are held back no more."""
        waiting: set[int] = set()
        if shards or self._holding_back:
            for lane in self._lanes.values():
                shard, was = shard_of(lane.webhook.id), lane.held_back
                slow = shard in shards and lane.is_slow(now)
                lane.held_back = slow and (was or lane.in_flight > 0 or lane.state == "parked")
                if slow and lane.in_flight:
                    waiting.add(shard)
                if was and not lane.held_back:
                    self._feed(lane)
        self._holding_back = bool(shards)
        return waiting

    def lose(self, shards: frozenset[int]) -> None:
        """The rows of their webhooks are about to be read: of what is in flight nothing is reported any more."""
        for lane in self._lanes.values() if shards else ():
            if shard_of(lane.webhook.id) in shards:
                lane.lose()

    def close(self, shards: Iterable[int], *, lost: bool = False) -> set[int]:
        """Forgets the lanes of these shards; answers the shards in which something is still busy, until it is written. `lost`:
        they may be somebody else's already."""
        closing = set(shards)
        for webhook, delivery in [test for test in self._tests if shard_of(test[0].id) in closing]:
            self._tests.remove((webhook, delivery))
            self._testing.pop(delivery.event_id)
        busy = closing & {shard_of(webhook_id) for webhook_id in self._testing.values()}
        for lane in [lane for lane in self._lanes.values() if shard_of(lane.webhook.id) in closing]:
            lane.change(lane.webhook._replace(live=False), self._ceiling)
            self._hungry.pop(lane.webhook.id, None)
            if lost:
                lane.lose()
            if not self._drop(lane):
                busy.add(shard_of(lane.webhook.id))
        return busy

    def untold(self, shards: Iterable[int]) -> list[Report]:
        """What the database does not know yet of webhooks that fail, before these shards are left to somebody else."""
        leaving = set(shards)
        reports = (lane.untold() for lane in self._lanes.values() if shard_of(lane.webhook.id) in leaving)
        return [report for report in reports if report is not None]

    def forgive(self, outage: timedelta, now: datetime) -> None:
        """For so long the fault was ours: it is held against nobody."""
        for lane in self._lanes.values():
            lane.forgive(outage, now)

    def test(self, webhook: Webhook, delivery: Delivery) -> None:
        """A test that is to go at once; one that is under way is passed over."""
        if delivery.event_id not in self._testing and not self._is_stale(delivery):
            self._testing[delivery.event_id] = webhook.id
            self._tests.append((webhook, delivery))

    def begin_read(self) -> None:
        """A look or a refill is about to begin."""
        self._settled.clear()

    def arrive(self, deliveries: Iterable[Delivery]) -> None:
        """Hands what a look found to its lanes; those of webhooks without a lane are passed over."""
        window = self.window
        for delivery in deliveries:
            lane = self._lanes.get(delivery.webhook_id)
            if lane is None:
                continue
            if self._is_stale(delivery):
                self._reread_if_moved(lane, delivery)
            else:
                lane.arrive(delivery, window)
            self._feed(lane)

    def reread(self, webhook_id: int, due_at: datetime) -> None:
        """What its lane knows from `due_at` on is not all there is: the table is read again from there."""
        lane = self._lanes.get(webhook_id)
        if lane is not None:
            lane.reread(due_at)
            self._feed(lane)

    def hungry(self, most: int) -> list[tuple[Lane, int]]:
        """Lanes to refill, and how many deliveries each should get: in all about `most`."""
        chosen: list[tuple[Lane, int]] = []
        window, total = self.window, 0
        while self._hungry and total < most:
            lane = self._hungry.pop(next(iter(self._hungry)))
            if room := lane.ask(window):
                chosen.append((lane, room))
                total += room
        return chosen

    def refill(self, asked: Iterable[tuple[Lane, int]], rows: Iterable[Delivery]) -> None:
        """Hands what a refill read to the lanes it was read for."""
        by_lane: dict[int, list[Delivery]] = {}
        for delivery in rows:
            by_lane.setdefault(delivery.webhook_id, []).append(delivery)
        for lane, room in asked:
            read = by_lane.get(lane.webhook.id, [])
            for delivery in lane.refill(read, Window(room, self.window.octets), self._is_stale):
                self._reread_if_moved(lane, delivery)
            self._feed(lane)

    def next(self, now: datetime) -> Turn | None:
        """Whose turn it is: the lanes that are ready, in a circle; nobody's while too many octets are in flight."""
        self._ring(now)
        if self._tests and len(self._testing) - len(self._tests) < _TESTS_AT_ONCE:
            return Turn(*self._tests.popleft(), now)
        while self._turns and self._flying < 2 * self._budget.octets:
            if not self.outage.quiet and not self.outage.permits(now):
                return None
            lane = self._turns.take()
            if lane.in_doubt(now) and self._set_aside(lane):
                continue
            lane.queued = False
            delivery = lane.next(now)
            if delivery is not None:
                self._give(lane, delivery, now)
                return Turn(lane.webhook, delivery, now)
            self._sleep(lane, now)
            if self._aside:
                self._doubt(lane)  # the room that it leaves is the next one's
        return None

    def due(self) -> datetime | None:
        """When `next` has something again that it has not now."""
        due = self._timers[0][0] if self._timers else None
        return (self.outage.resumes_at if self._turns else None) or due

    def finish(self, delivery: Delivery, took: Took, now: datetime, error: str, seconds: float = 0.0) -> Report | None:
        """An attempt ended, as in Lane.finish; a test counts for nothing."""
        if delivery.test:
            return None
        self._flying -= delivery.size
        lane = self._lanes[delivery.webhook_id]
        report = lane.finish(delivery, took, now, error, seconds)
        if lane.doubted:
            self._doubt(lane)
        self._feed(lane)
        return report

    def written(self, delivery: Delivery, owed: Delivery | None) -> None:
        """The outcome is in the database: `owed` as it says now, or settled."""
        self._settled[delivery.webhook_id, delivery.event_id] = delivery.due_at
        if delivery.test:
            self._testing.pop(delivery.event_id, None)
            return
        lane = self._lanes[delivery.webhook_id]
        lane.written(delivery, owed, self.window)
        if not lane.webhook.live:
            self._drop(lane)
        self._feed(lane)

    def _give(self, lane: Lane, delivery: Delivery, now: datetime) -> None:
        """The lane's turn has come."""
        self._flying += delivery.size
        self._turns.charge(lane.share, delivery.size)
        if lane.doubtful:
            self._doubt(lane)
        if not self.outage.quiet:
            self.outage.sent(now)
        self._feed(lane)

    def _set_aside(self, lane: Lane) -> bool:
        """Whether a lane in doubt may have nothing more in flight now: it waits until others, or it, have answered."""
        aside, most = (self._aside_twice, self._most_doubted_twice) if lane.in_flight else (self._aside, self._most_doubted)
        if lane.doubted != lane.in_flight:
            self._doubt(lane)
        if self._doubted < most:
            return False
        aside[lane.webhook.id] = lane
        return True

    def _doubt(self, lane: Lane) -> None:
        """Counts what a lane in doubt has in flight; whom there is room for now gets in line again."""
        doubted = lane.in_flight if lane.doubtful else 0
        self._doubted += doubted - lane.doubted
        lane.doubted = doubted
        own = self._aside_twice.pop(lane.webhook.id, None)
        for aside, most in ((self._aside, self._most_doubted), (self._aside_twice, self._most_doubted_twice)):
            room = most - self._doubted
            while aside and room > 0:
                room -= self._recall(aside.pop(next(iter(aside))))
        if own is not None:  # last: others have waited longer
            self._recall(own)

    def _recall(self, lane: Lane) -> bool:
        """Whether it is in line again: it may have nothing to send any more."""
        lane.queued = False
        self._feed(lane)
        return lane.queued

    def _feed(self, lane: Lane) -> None:
        """Puts a lane in line, for a turn and for a refill, if it wants one."""
        if not lane.queued and lane.sendable():
            lane.queued = True
            self._turns.add(lane, lane.share)
        if lane.horizon < END and lane.room(self.window):
            self._hungry[lane.webhook.id] = lane

    def _sleep(self, lane: Lane, now: datetime) -> None:
        """The lane wakes when its first delivery is due; one that has its limit in flight wakes when an attempt ends."""
        due = lane.due()
        if due is not None and due > now and (lane.timer is None or due < lane.timer):
            lane.timer = due
            heappush(self._timers, (due, lane.webhook.id))
            if len(self._timers) > 2 * len(self._lanes) + _TIMERS:
                self._timers = [(one.timer, one.webhook.id) for one in self._lanes.values() if one.timer is not None]
                heapify(self._timers)

    def _ring(self, now: datetime) -> None:
        while self._timers and self._timers[0][0] <= now:
            due, webhook_id = heappop(self._timers)
            lane = self._lanes.get(webhook_id)
            if lane is not None and lane.timer == due:
                lane.timer = None
                self._feed(lane)

    def _drop(self, lane: Lane) -> bool:
        if lane.busy:
            return False
        self._lanes.pop(lane.webhook.id, None)
        return True

    def _is_stale(self, delivery: Delivery) -> bool:
        """What was read may be from before an outcome was written that came in while it was read: it is not taken."""
        return (delivery.webhook_id, delivery.event_id) in self._settled

    def _reread_if_moved(self, lane: Lane, delivery: Delivery) -> None:
        """Stale, but due at another time than it was taken for: somebody has made it due again, before it was written or
        since. Only the table knows, by the next read."""
        if self._settled[lane.webhook.id, delivery.event_id] != delivery.due_at and not lane.knows(delivery):
            lane.reread(delivery.due_at)
