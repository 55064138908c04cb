"""Lanes: what may go now. Pure and synchronous; times are the database's and are passed in.

A lane is the line of one webhook's deliveries. It holds a bounded window of them, ordered by due time, over the table that
holds them all. Its horizon says what it knows: every owed delivery before it is held or busy (in flight, or not yet written
back); what lies beyond is only in the table, and a refill reads it from there. So an arrival beyond the horizon can be
ignored, and one before it is a late commit that must be taken.

What is read from the table is as old as its snapshot. A delivery that was written back while the reading was under way may
be in it in its old state: `begin_read` starts a list of those, and what is on it, with the same due time, is passed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import NamedTuple

from bisd.model import Delivery, Webhook, shard_of

Key = tuple[datetime, int]

BEGINNING: Key = (datetime(1970, 1, 1, tzinfo=UTC), 0)
END: Key = (datetime(9999, 1, 1, tzinfo=UTC), 0)
_FIRST_LIMIT = 8


class Window(NamedTuple):
    """How much of its line a lane holds, about: deliveries, and octets of their bodies."""

    deliveries: int
    octets: int


class Lane:
    """One webhook's line."""

    __slots__ = (
        "webhook",
        "horizon",
        "queued",
        "timer",
        "in_flight",
        "_ceiling",
        "_limit",
        "_held",
        "_octets",
        "_left",
        "_order",
        "_busy",
        "_again",
    )

    def __init__(self, webhook: Webhook, ceiling: int, horizon: Key) -> None:
        self.webhook = webhook
        self.horizon = horizon
        self.queued = False
        self.timer: datetime | None = None
        self.in_flight = 0
        self._ceiling = webhook.max_in_flight or ceiling
        self._limit: float = min(_FIRST_LIMIT, self._ceiling)
        self._held: dict[int, Delivery] = {}
        self._octets = 0
        self._left: Key = END
        self._order: list[Key] = []
        self._busy: dict[int, datetime] = {}
        self._again: dict[int, datetime] = {}

    def change(self, webhook: Webhook, ceiling: int) -> None:
        """The webhook was changed: what is held is forgotten and read again, under the new settings."""
        self.webhook = webhook
        self._ceiling = webhook.max_in_flight or ceiling
        self._limit = min(self._limit, self._ceiling)
        self.forget()

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
            heappush(self._order, (delivery.due_at, delivery.event_id))

    def arrive(self, delivery: Delivery, window: Window) -> None:
        """Takes what a look found or what is to be retried; beyond the horizon it is left to the table."""
        key = (delivery.due_at, delivery.event_id)
        if key >= self.horizon:
            self._leave(key)
        else:
            self.hold(delivery)
            if len(self._held) > 2 * window.deliveries or self._octets > 2 * window.octets:
                self._trim(window)

    def refill(self, rows: Sequence[Delivery], asked: Window, stale: Callable[[Delivery], bool]) -> None:
        """Takes what a refill read from the horizon on; `asked` is how much it would have read."""
        if len(rows) < asked.deliveries and sum(delivery.size for delivery in rows) < asked.octets:
            self.horizon = END
        else:
            self.horizon = (rows[-1].due_at, rows[-1].event_id + 1)
        for delivery in rows:
            if not stale(delivery):
                self.hold(delivery)
        # What was left to the table since may not have been there yet when it was read.
        self._lower(self._left)

    def reread(self, due_at: datetime) -> None:
        """There is more from `due_at` on than is known here: a refill reads it."""
        self._lower((due_at, 0))

    def ask(self, window: Window) -> int:
        """How many deliveries the refill that now begins should read."""
        self._left = END
        return self.room(window)

    def room(self, window: Window) -> int:
        """How many deliveries there is room for: none, unless there may be more and the window is half empty."""
        if self.horizon >= END or not self.webhook.live:
            return 0
        if len(self._held) > window.deliveries // 2 or self._octets > window.octets // 2:
            return 0
        return window.deliveries - len(self._held)

    def next(self, now: datetime) -> Delivery | None:
        """The delivery that may go now."""
        due = self.due()
        if due is None or due > now or not self.sendable():
            return None
        due, event_id = heappop(self._order)
        self._busy[event_id] = due
        self.in_flight += 1
        delivery = self._held.pop(event_id)
        self._octets -= delivery.size
        return delivery

    def sendable(self) -> bool:
        """Whether a due delivery could go: something is held, and fewer are in flight than may be."""
        return bool(self._held) and self.in_flight < self._limit

    def due(self) -> datetime | None:
        """When the first delivery held is due."""
        order, held = self._order, self._held
        while order:
            due_at, event_id = order[0]
            delivery = held.get(event_id)
            if delivery is not None and delivery.due_at == due_at:
                return due_at
            heappop(order)
        return None

    def finish(self, taken: bool) -> None:
        """An attempt ended. The limit grows by one for every window that was taken, and halves when one was not."""
        self.in_flight -= 1
        if taken:
            self._limit = min(self._ceiling, self._limit + 1.0 / self._limit)
        else:
            self._limit = max(1.0, self._limit / 2)

    def written(self, delivery: Delivery, due_at: datetime | None, window: Window) -> None:
        """The outcome is in the database: settled, or owed again at `due_at`."""
        self._busy.pop(delivery.event_id, None)
        again = self._again.pop(delivery.event_id, None)
        if again is not None:
            self.reread(again)
        if due_at is not None:
            self.arrive(delivery._replace(attempts=delivery.attempts + 1, due_at=due_at), window)

    @property
    def busy(self) -> bool:
        return bool(self._busy)

    def __len__(self) -> int:
        return len(self._held)

    def _leave(self, key: Key) -> None:
        """What is owed from `key` on is for a refill to read: the next one, if one is under way."""
        self.horizon = min(self.horizon, key)
        self._left = min(self._left, key)

    def _lower(self, key: Key) -> None:
        """Lowers the horizon, and lets go of what is held beyond it: it must not keep out what is due before it."""
        if key < self.horizon:
            for due_at, event_id in [key_held for key_held in self._order if key_held >= key]:
                delivery = self._held.get(event_id)
                if delivery is not None and delivery.due_at == due_at:
                    self._octets -= self._held.pop(event_id).size
        self._leave(key)

    def _trim(self, window: Window) -> None:
        """Leaves what is due last to the table; keeps one at least."""
        keys = sorted((delivery.due_at, delivery.event_id) for delivery in self._held.values())
        while len(keys) > 1 and (len(keys) > window.deliveries or self._octets > window.octets):
            last = keys.pop()
            self._octets -= self._held.pop(last[1]).size
            self._leave(last)
        self._order = keys


class Turn(NamedTuple):
    """A delivery whose turn it is, the webhook it goes to, and the time it was given out."""

    webhook: Webhook
    delivery: Delivery
    now: datetime


class Lanes:
    """All lanes of this daemon. Those with something to send take turns, one delivery each."""

    def __init__(self, ceiling: int, window: int = 256, budget: int = 20_000, octets: int = 32 << 20) -> None:
        self._ceiling = ceiling
        self._most = window
        self._budget = Window(budget, octets)
        self._flying = 0
        self.window = Window(window, octets)
        self._lanes: dict[int, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._timers: list[tuple[datetime, int]] = []
        self._hungry: dict[int, Lane] = {}
        self._settled: dict[tuple[int, int], datetime] = {}

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._lanes.values())

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
            lane = self._lanes[webhook.id] = Lane(webhook, self._ceiling, horizon)
            # Fewer, the more lanes there are: so that memory is bounded.
            deliveries, octets = (budget // len(self._lanes) for budget in self._budget)
            self.window = Window(max(4, min(self._most, deliveries)), max(1 << 16, octets))
            self._feed(lane)

    def close(self, shards: Iterable[int]) -> set[int]:
        """Forgets the lanes of these shards; answers the shards in which something is still busy, until it is written."""
        closing, busy = set(shards), set()
        for lane in [lane for lane in self._lanes.values() if shard_of(lane.webhook.id) in closing]:
            lane.change(lane.webhook._replace(live=False), self._ceiling)
            self._hungry.pop(lane.webhook.id, None)
            if not self._drop(lane):
                busy.add(shard_of(lane.webhook.id))
        return busy

    def begin_read(self) -> None:
        """A look or a refill is about to begin."""
        self._settled.clear()

    def arrive(self, deliveries: Iterable[Delivery]) -> None:
        """Hands what a look found to its lanes; those of webhooks without a lane are passed over."""
        window = self.window
        for delivery in deliveries:
            lane = self._lanes.get(delivery.webhook_id)
            if lane is not None and not self._is_stale(delivery):
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
            lane.refill(by_lane.get(lane.webhook.id, []), Window(room, self.window.octets), self._is_stale)
            self._feed(lane)

    def next(self, now: datetime) -> Turn | None:
        """Whose turn it is: the lanes that are ready, in a circle; nobody's while too many octets are in flight."""
        self._ring(now)
        while self._ready and self._flying < 2 * self._budget.octets:
            lane = self._ready.popleft()
            lane.queued = False
            delivery = lane.next(now)
            if delivery is not None:
                self._flying += delivery.size
                self._feed(lane)
                return Turn(lane.webhook, delivery, now)
            self._sleep(lane, now)
        return None

    def due(self) -> datetime | None:
        """When `next` has something again that it has not now."""
        return self._timers[0][0] if self._timers else None

    def finish(self, delivery: Delivery, taken: bool) -> None:
        self._flying -= delivery.size
        lane = self._lanes[delivery.webhook_id]
        lane.finish(taken)
        self._feed(lane)

    def written(self, delivery: Delivery, due_at: datetime | None) -> None:
        self._settled[delivery.webhook_id, delivery.event_id] = delivery.due_at
        lane = self._lanes[delivery.webhook_id]
        lane.written(delivery, due_at, self.window)
        if not lane.webhook.live:
            self._drop(lane)
        self._feed(lane)

    def _feed(self, lane: Lane) -> None:
        """Puts a lane in line, for a turn and for a refill, if it wants one."""
        if not lane.queued and lane.sendable():
            lane.queued = True
            self._ready.append(lane)
        if lane.horizon < END and lane.room(self.window):
            self._hungry[lane.webhook.id] = lane

    def _sleep(self, lane: Lane, now: datetime) -> None:
        """The lane wakes when its first delivery is due; one that has its limit in flight wakes when an attempt ends."""
        due = lane.due()
        if due is not None and due > now and (lane.timer is None or due < lane.timer):
            lane.timer = due
            heappush(self._timers, (due, lane.webhook.id))

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
        return self._settled.get((delivery.webhook_id, delivery.event_id)) == delivery.due_at
