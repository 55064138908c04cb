"""The witness: sees every turn, every POST, every answer and every write-back, and knows what may not be.

What happens twice, or out of turn, needs a fault that explains it: of the daemon that sent it the first time, and since then.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bisd import fleet
from bisd.delivery.lane import END
from bisd.lanes import Turn
from bisd.model import WELL, Answer, Fault, NoResponse, Refusal, Response, shard_of
from bisd.worker import is_sure
from tests.simulation.database import START, Attempt, Backend, Key, Row

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon
    from tests.simulation.world import World

_TESTS_AT_ONCE = 32
# A timer that is late by so much is made up for; and a daemon's clock is behind by what the answer took.
_LATE = 0.020 + 0.005
# A daemon's clock is behind by what the last answer took: now more, now less.
_MOMENT = timedelta(milliseconds=5)
# In seconds: a change is known to its daemon by then, if nothing is amiss.
_KNOWN = 3.0


class Violation(Exception):
    """`promise`, in a word, was broken: `what` happened."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


@dataclass(eq=False, slots=True)
class Flight:
    """One POST."""

    daemon: Daemon
    number: int
    began: float
    test: bool
    ended: float | None = None
    answer: Answer | None = None
    fenced: bool = False

    @property
    def taken(self) -> bool:
        return isinstance(self.answer, Response) and self.answer.status == 200

    @property
    def explained(self) -> bool:
        """Whether what is done again after it has a fault to explain that."""
        return self.fenced or self.daemon.fault_until >= self.began


class Witness:
    def __init__(self, world: World) -> None:
        self.violation: Violation | None = None
        self.redue: set[Key] = set()
        """What was ever made due by hand: it may begin anew."""
        self._world = world
        self._flights: defaultdict[Key, list[Flight]] = defaultdict(list)
        self._in_flight: defaultdict[Daemon, Counter[bool]] = defaultdict(Counter)
        self._posted: dict[int, Flight] = {}
        self._passed: defaultdict[Daemon, Counter[int]] = defaultdict(Counter)
        self._turns: dict[tuple[Daemon, Key], Turn] = {}
        self._could: defaultdict[Daemon, set[int]] = defaultdict(set)
        """What could be sent to, when it was looked at last, and has not been since."""

    def deny(self, promise: str, what: str) -> None:
        if self.violation is None:
            self.violation = Violation(promise, f"{what} (at {self._world.timeline.now:.4f})")
            self._world.note("VIOLATION", self.violation)

    def turned(self, daemon: Daemon, turn: Turn, now: datetime) -> None:
        """A daemon's lanes gave out a delivery."""
        webhook, delivery, _ = turn
        key = delivery.webhook_id, delivery.event_id
        self._world.note("turn", daemon.name, key, delivery.attempts)
        self._turns[daemon, key] = turn
        if delivery.test:
            return
        if delivery.due_at > now:
            self.deny("schedule", f"{key} goes before it is due")
        self._could[daemon].discard(webhook.id)
        lane = daemon.lanes._lanes[webhook.id]
        plan = self._world.plan
        most = 1 if webhook.ordered else webhook.max_in_flight or plan.ceiling
        if not webhook.live:
            self.deny("held", f"{key} goes to a webhook that is switched off")
        if lane.in_flight > most:
            self.deny("limit", f"{lane.in_flight} in flight to webhook {webhook.id}, which takes {most}")
        if len(lane) > 2 * plan.window or lane._octets > 2 * plan.octets + delivery.size:
            self.deny("window", f"the lane of webhook {webhook.id} holds {len(lane)}")
        if lane.state == "parked" and (lane.in_flight > 1 or (lane._health.probe_at or now) > now):
            self.deny("parked", f"{key} is no probe")
        if webhook.ordered:
            self._in_order(daemon, key)
        self._fair(daemon, webhook.id)

    def _pace(self, key: Key, flight: Flight) -> None:
        """Whoever sent last: a fault may have kept that from the database. And an answer that a fault has made late leaves its
        daemon's clock behind until the next one."""
        hook = self._world.database.hooks[key[0]]
        rate, last = hook.webhook.rate, self._posted.get(key[0])
        self._posted[key[0]] = flight
        known = max(hook.changed_at, flight.daemon.fault_until, 0.0) < flight.began - _KNOWN * self._world.plan.stride
        posted = (
            last is not None and not last.explained and not flight.explained and not isinstance(last.answer, Refusal | Fault)
        )
        if rate is not None and last is not None and posted and known and flight.began < last.began + 1 / rate - _LATE:
            self.deny("rate", f"webhook {key[0]} gets more than {rate} a second")

    def _in_order(self, daemon: Daemon, key: Key) -> None:
        """Whatever its daemon has looked at that comes before it was sent and taken, or is settled."""
        now = self._world.timeline.now
        since = now - _KNOWN * self._world.plan.stride
        if max(daemon.fault_until, daemon.started_at) > since:
            return
        for other, row in self._world.database.rows.items():
            if other[0] == key[0] and other[1] < key[1] and row.changed_at < since and not row.delivery.test:
                flights = self._flights[other]
                written = flights and flights[-1].ended is not None and flights[-1].daemon is daemon
                if not (written and self._settles(flights[-1])):
                    self.deny("order", f"{key} goes before event {other[1]}")

    def _settles(self, flight: Flight) -> bool:
        return flight.taken or isinstance(flight.answer, Refusal)

    def _fair(self, daemon: Daemon, webhook_id: int) -> None:
        """Who is in line with something that is due gets a turn when all accounts have had as many as his own has lanes; more,
        where bodies are long."""
        lanes, passed = daemon.lanes, self._passed[daemon]
        passed[webhook_id] = 0
        accounts = Counter(lane.webhook.account_id for lane in lanes._lanes.values())
        bound = (len(accounts) + 1) * (max(accounts.values()) + 1) * (1 + self._world.plan.bytes // 16_384)
        for number, lane in lanes._lanes.items():
            is_due = (lane.due() or END[0]) <= daemon.clock.now()
            waits = lane.queued and is_due and number not in lanes._aside and number not in lanes._aside_twice
            passed[number] = passed[number] + 1 if waits and number != webhook_id else 0
            if passed[number] > bound:
                self.deny("fair", f"{passed[number]} others were sent while webhook {number} was in line")

    def sent(self, daemon: Daemon, key: Key, number: int, body: bytes) -> Flight:
        """A POST begins."""
        world = self._world
        now = world.timeline.now
        flights = self._flights[key]
        flight = Flight(daemon, number, now, self._turns[daemon, key].delivery.test)
        self._world.note("sent", daemon.name, key, number)
        in_flight = self._in_flight[daemon]
        in_flight[flight.test] += 1
        if in_flight.total() > world.plan.most or in_flight[True] > _TESTS_AT_ONCE:
            self.deny("limit", f"{daemon.name} has {in_flight.total()} in flight")
        if body != b'{"n":%d}' % key[1]:
            self.deny("body", f"{key} is sent as {body!r}")
        self._owned(daemon, key)
        if not flight.test:
            self._pace(key, flight)
        row = world.database.rows.get(key)
        if flights and not flight.explained:
            self._once(key, flights, number, row)
        if row is not None:
            self._as_owed(daemon, key, row, number)
        flights.append(flight)
        return flight

    def _owned(self, daemon: Daemon, key: Key) -> None:
        """Its shard is held by the daemon's session; or the server has ended that a moment ago, through no fault of its own."""
        owner = self._world.database.owner(shard_of(key[0]))
        if not any(connection.backend is owner for connection in daemon.line.open if owner is not None):
            lost = self._world.timeline.now - daemon.ended_at
            if lost > fleet._SURE + 0.1:
                self.deny("owner", f"{daemon.name} sends {key}, whose shard is not its own")

    def _once(self, key: Key, flights: list[Flight], number: int, row: Row | None) -> None:
        for other in flights[-4:]:
            if other.ended is None and not other.explained and not other.daemon.stopping.is_set():
                self.deny("twice", f"{key} is under way already")
        last = flights[-1]
        anew = row is not None and row.owed_at >= last.began
        if last.explained or anew or last.ended is None or (row is None and self._was_cancelled(key, last)):
            return
        if self._settles(last):
            self.deny("repeat", f"{key} was settled already")
        elif isinstance(last.answer, Response | NoResponse) and number != last.number + 1:
            due_anew = key in self.redue or self._world.database.hooks[key[0]].webhook.resumed_at is not None
            if number != 1 or not due_anew:
                self.deny("count", f"{key} was attempt {last.number}, and now is {number}")

    def _was_cancelled(self, key: Key, last: Flight) -> bool:
        """It was owed again, and that was taken back, a moment ago."""
        attempts = self._world.database.attempts[key]
        return any(one.verdict == "cancelled" and (one.at - START).total_seconds() > last.began for one in attempts)

    def _as_owed(self, daemon: Daemon, key: Key, row: Row, number: int) -> None:
        since = self._world.timeline.now - _KNOWN * self._world.plan.stride
        hook = self._world.database.hooks[key[0]]
        if max(row.changed_at, hook.changed_at, daemon.fault_until, daemon.started_at) > since:
            return
        if row.delivery.due_at > self._world.database.now() and row.delivery.attempts + 1 == number and not row.delivery.test:
            self.deny("schedule", f"{key} is not due")
        if not hook.webhook.live and not row.delivery.test:
            self.deny("held", f"webhook {key[0]} has been switched off for long")

    def ended(self, flight: Flight) -> None:
        """It was answered; or it was cut short, and has no answer."""
        flight.ended = self._world.timeline.now
        self._in_flight[flight.daemon][flight.test] -= 1
        self._world.note("ended", flight.daemon.name, flight.number, flight.answer)

    def settling(self, row: Row, attempt: Attempt, due_at: datetime | None) -> None:
        """A write-back: what it says is what happened."""
        delivery = row.delivery
        key = delivery.webhook_id, delivery.event_id
        self._world.note("settle", key, attempt.number, attempt.verdict, due_at)
        flights = [
            flight for flight in self._flights[key] if flight.ended is not None and flight.number == delivery.attempts + 1
        ]
        if attempt.number is not None and not flights:
            self.deny("history", f"{key} has an attempt that was never made")
        plan = self._world.plan
        match attempt.verdict:
            case "delivered":
                right = any(flight.taken for flight in flights)
            case "failed" if not attempt.test:
                right = attempt.number is not None and attempt.number >= plan.retry.max_attempts
            case "expired":
                right = self._may_expire(row, attempt)
            case "refused":
                right = any(isinstance(flight.answer, Refusal) for flight in flights)
            case "postponed":
                right = any(isinstance(flight.answer, Fault) for flight in flights)
            case "retry":
                right = due_at is not None and self._waits(attempt, due_at - attempt.at, any(one.explained for one in flights))
            case _:
                right = attempt.test
        if not right:
            self.deny("verdict", f"{key} is settled as {attempt.verdict}, attempt {attempt.number}")

    def fenced(self, key: Key, attempt: Attempt, row: Row | None) -> None:
        """A write-back that changed nothing: somebody else has dealt with the delivery, which a fault or a person explains."""
        flights = self._flights[key]
        by_hand = row is None or (flights and row.changed_at >= flights[-1].began)
        if not by_hand and not any(flight.explained for flight in flights):
            self.deny("fence", f"{key} was kept as it is by the fence, attempt {attempt.number}")
        for flight in flights:
            flight.fenced = flight.fenced or flight.number == attempt.number

    def reporting(self, backend: Backend, webhook_id: int) -> None:
        """How a webhook is doing is told by whoever has its shard, unless a fault has taken that from it not long ago: the next
        owner goes by what has been told."""
        owner = self._world.database.owner(shard_of(webhook_id))
        for daemon in self._world.daemons:
            backends = [connection.backend for connection in daemon.line.open]
            well = daemon.fault_until < self._world.timeline.now - 20 * self._world.plan.stride
            if backend in backends and owner not in (None, *backends) and well:
                self.deny("told", f"{daemon.name} says how webhook {webhook_id} is doing, whose shard is not its own")

    def _longest(self) -> timedelta:
        retry = self._world.plan.retry
        wait = (retry.max if retry.base is not None else max(retry.schedule)) * (1 + retry.jitter)
        return max(wait, retry.max_retry_after) + timedelta(seconds=1)

    def _may_expire(self, row: Row, attempt: Attempt) -> bool:
        ends = row.delivery.owed_since + self._world.plan.delivery.expires_after
        spent = self._world.database.now() - attempt.at
        # It may be expired when it is put off beyond its end, by the schedule or by a fault of ours.
        ahead = max(self._longest(), timedelta(seconds=61)) + spent
        return attempt.at + ahead >= ends

    def _waits(self, attempt: Attempt, wait: timedelta, roughly: bool) -> bool:
        """By the schedule, and no longer than that and what was asked for; the attempt itself took a while. `roughly`: its line
        was slow, and with it what it knows of the database's clock."""
        retry, spent = self._world.plan.retry, self._world.database.now() - attempt.at
        number = attempt.number or 1
        if retry.base is not None:
            least = min(retry.base * retry.factor ** min(number - 1, 30), retry.max)
        else:
            least = retry.schedule[min(number, len(retry.schedule)) - 1]
        most = max(least * (1 + retry.jitter), retry.max_retry_after) + timedelta(seconds=0.2)
        return number < retry.max_attempts and (roughly or least - _MOMENT <= wait <= most + spent)

    def watch(self, daemon: Daemon) -> None:
        """Nothing that can be sent now stays where it is while there is room, and nobody has forgotten to wake up for it."""
        if not daemon.alive or daemon.stopping.is_set() or daemon.workers is None:
            return
        if daemon.died_of is not None:
            self.deny("fault", f"{daemon.name} has died of {daemon.died_of!r}")
        lanes = daemon.lanes
        known, self._could[daemon] = self._could[daemon], set()
        busy = len(daemon.workers) >= daemon.workers.most or lanes._flying >= 2 * lanes._budget.octets
        if (
            busy
            or not lanes.outage.quiet
            or not is_sure(daemon.clock)
            or daemon.fault_until >= self._world.timeline.now - 20 * self._world.plan.stride
        ):
            return
        can = {
            number
            for number, lane in lanes._lanes.items()
            if number not in lanes._aside and number not in lanes._aside_twice
            if lane.sendable() and (lane.due() or END[0]) <= daemon.clock.now()
        }
        for number in can & known:
            self.deny("forgotten", f"webhook {number} could be sent to, and nobody does")
        self._could[daemon] = can

    def is_over(self) -> bool:
        """Nothing is owed that could be sent, and nothing is under way."""
        database = self._world.database
        owed = any(row.delivery.test or database.hooks[key[0]].webhook.live for key, row in database.rows.items())
        return not owed and not database._running and all(self._is_quiet(daemon) for daemon in self._world.daemons)

    def _is_quiet(self, daemon: Daemon) -> bool:
        busy = daemon.lanes._testing or len(daemon.writeback) or any(lane.busy for lane in daemon.lanes._lanes.values())
        return daemon.stopped or (daemon.alive and not busy)

    def end(self) -> None:
        """When all has long been well."""
        database = self._world.database
        for key, row in database.rows.items():
            if row.delivery.test or database.hooks[key[0]].webhook.live:
                self.deny("loss", f"{key} is still owed, due at {row.delivery.due_at}")
        for key, attempts in database.attempts.items():
            if key not in database.rows and all(attempt.verdict in ("retry", "postponed") for attempt in attempts):
                self.deny("loss", f"{key} has gone, and nothing says why")
        for daemon in self._world.daemons:
            pending = daemon.writeback._reports.keys() | daemon.writeback._put_off
            for number, lane in daemon.lanes._lanes.items() if daemon.alive else ():
                failing = database.hooks[number].webhook.standing.failing_since
                if lane.webhook.live and failing is not None and lane._health._told == WELL and number not in pending:
                    self.deny(
                        "standing", f"webhook {number} is said to fail since {failing}, and {daemon.name} knows nothing of it"
                    )

    def ends_clean(self, daemon: Daemon) -> None:
        """Nothing of what there was is left in it."""
        lanes = daemon.lanes
        busy = [number for number, lane in lanes._lanes.items() if lane.busy or lane.in_flight]
        left = (busy, lanes.in_flight, lanes._flying, lanes._doubted, len(lanes._testing), len(daemon.writeback))
        if left != ([], 0, 0, 0, 0, 0):
            self.deny("quiet", f"{daemon.name} still has (busy, in flight, octets, doubted, tests, unwritten) {left}")
