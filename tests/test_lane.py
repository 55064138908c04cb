"""The lane: what is owed is sent in its turn, once at a time, and nothing of it is ever lost from sight.

The state machine plays the rest of bisd around the real lanes: the table, the looks and refills of intake.py, the sends and
write-backs of worker.py and writeback.py. As in the daemon, looks and refills never overlap; all else goes on all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bisd.delivery.lane import BEGINNING, END, Lane, Lanes
from bisd.model import SHARDS, Delivery, Webhook

START = datetime(2026, 1, 1, tzinfo=UTC)
CEILING, WINDOW, BUDGET = 3, 4, 20
IDS = (1, 2, 65)  # 1 and 65 share a shard

Key = tuple[int, int]


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def webhook(number: int, *, live: bool = True, most: int | None = None) -> Webhook:
    return Webhook(number, 1, "https://example.com/", "k" * 16, None, None, most, live)


def delivery(webhook_id: int, event_id: int, due: float = 0) -> Delivery:
    """Due so many seconds after START."""
    due_at = START + seconds(due)
    return Delivery(webhook_id, event_id, START, due_at, due_at, 0, "t", b"{}", 2)


class Table:
    """What PostgreSQL would hold: the deliveries owed, the webhooks, and since which commit each has been as it is."""

    def __init__(self) -> None:
        self.webhooks = {number: webhook(number) for number in IDS}
        self.rows: dict[Key, Delivery] = {}
        self.commits = 0
        self._arrived: dict[Key, int] = {}
        self._changed: dict[int, int] = {}

    def put(self, row: Delivery) -> None:
        """Inserts, or updates with a new transaction id ('deliver now'): either way it arrives."""
        self.commits += 1
        self._arrived[row.webhook_id, row.event_id] = self.commits
        self.rows[row.webhook_id, row.event_id] = row

    def change(self, row: Webhook) -> None:
        self.commits += 1
        self._changed[row.id] = self.commits
        self.webhooks[row.id] = row

    def settle(self, row: Delivery, due_at: datetime | None) -> None:
        """queries/settle.sql: the transaction id stays, so this arrives nowhere."""
        key = row.webhook_id, row.event_id
        if due_at is None:
            del self.rows[key]
        else:
            self.rows[key] = self.rows[key]._replace(attempts=row.attempts + 1, due_at=due_at)

    def since(self, commit: int) -> tuple[list[Delivery], set[int]]:
        rows = [row for key, row in self.rows.items() if self._arrived[key] > commit]
        return rows, {number for number, at in self._changed.items() if at > commit}

    def refill(self, asked: Iterable[tuple[Lane, int]]) -> list[Delivery]:
        """queries/refill.sql"""
        found: list[Delivery] = []
        for lane, room in asked:
            owed = [(row.due_at, row.event_id, row) for row in self.rows.values() if row.webhook_id == lane.webhook.id]
            found += [row for *key, row in sorted(owed) if tuple(key) >= lane.horizon][:room]
        return found


class Sent(NamedTuple):
    delivery: Delivery
    due_at: datetime | None = None  # when it is owed again, once it is settled


class LaneMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is sent twice, before its time, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(CEILING, WINDOW, BUDGET)
        self.table = Table()
        self.now = START
        self.looked = self.events = 0
        self.connected = True
        self.reading: Callable[[], None] | None = None
        self.told: dict[int, Webhook] = {}
        self.flying, self.finished, self.settled = list[Sent](), list[Sent](), list[Sent]()
        self.delivered: set[Key] = set()

    @rule(number=st.sampled_from(IDS), due=st.lists(st.integers(-20, 20), min_size=1, max_size=12))
    def insert(self, number: int, due: list[int]) -> None:
        if self.table.webhooks[number].live:
            for offset in due:
                self.events += 1
                due_at = self.now + seconds(offset)
                self.table.put(Delivery(number, self.events, START, min(self.now, due_at), due_at, 0, "t", b"{}", 2))

    @precondition(lambda self: self.table.rows)
    @rule(data=st.data())
    def deliver_now(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.table.rows)))
        row = self.table.rows[key]
        if key not in self._busy_keys():  # what is being sent at this moment may as well keep its next due time
            self.table.put(row._replace(due_at=min(row.due_at, self.now)))

    @rule(number=st.sampled_from(IDS), live=st.booleans(), most=st.sampled_from((None, 1, 2)))
    def change_webhook(self, number: int, live: bool, most: int | None) -> None:
        self.table.change(webhook(number, live=live, most=most))

    @rule(by=st.sampled_from((0.5, 1, 7, 30)))
    def advance(self, by: float) -> None:
        self.now += seconds(by)

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        """The first snapshot, then lanes for what is owed."""
        self.connected = True
        self.looked = self.table.commits
        for number in sorted({webhook_id for webhook_id, _ in self.table.rows}):
            self._put(self.table.webhooks[number], BEGINNING)

    @precondition(lambda self: self.connected)
    @rule()
    def lose_connection(self) -> None:
        self.connected = False
        self.reading = None
        self.told.clear()
        busy = {sent.delivery.webhook_id % SHARDS for sent in self._busy()}
        assert busy == self.lanes.close(range(SHARDS))

    @precondition(lambda self: self.connected and self.reading is None)
    @rule(overflows=st.booleans())
    def begin_look(self, overflows: bool) -> None:
        self.lanes.begin_read()
        rows, changed = self.table.since(self.looked)
        self.looked = self.table.commits

        def apply() -> None:
            arrived = {row.webhook_id for row in rows}
            for number in sorted(changed | {number for number in arrived if not self.lanes.known(number)}):
                self._put(self.table.webhooks[number], BEGINNING if number in changed else END)
            self.lanes.arrive([] if overflows else rows)
            for number in sorted(arrived if overflows else ()):
                self.lanes.reread(number, min(row.due_at for row in rows if row.webhook_id == number))

        self.reading = apply

    @precondition(lambda self: self.connected and self.reading is None)
    @rule()
    def begin_refill(self) -> None:
        asked = self.lanes.hungry(1000)
        self.lanes.begin_read()
        rows = self.table.refill(asked)
        self.reading = lambda: self.lanes.refill(asked, rows)

    @precondition(lambda self: self.reading is not None)
    @rule()
    def end_reading(self) -> None:
        reading, self.reading = self.reading, None
        if reading is not None:
            reading()

    @rule(most=st.integers(1, 4))
    def send(self, most: int) -> None:
        for _ in range(most):
            turn = self.lanes.next(self.now)
            if turn is None:
                break
            sent = turn.delivery
            key = sent.webhook_id, sent.event_id
            assert key not in self.delivered
            assert key not in self._busy_keys()
            assert (self.table.rows[key].attempts, True) == (sent.attempts, sent.due_at <= self.now)
            assert (self.told.get(sent.webhook_id), True) == (turn.webhook, turn.webhook.live)
            self.flying.append(Sent(sent))
            assert self._in_flight(sent.webhook_id) <= (turn.webhook.max_in_flight or CEILING)

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 100), wait=st.sampled_from((None, None, 0, 5, 60)))
    def finish(self, which: int, wait: int | None) -> None:
        """An attempt ended; the receiver took it, or it is to be tried again after `wait` seconds."""
        sent = self.flying.pop(which % len(self.flying))
        self.lanes.finish(sent.delivery, wait is None)
        self.finished.append(sent._replace(due_at=None if wait is None else self.now + seconds(wait)))

    @precondition(lambda self: self.finished)
    @rule()
    def settle(self) -> None:
        """The write-back is committed; the daemon has not heard so yet."""
        sent = self.finished.pop(0)
        self.table.settle(sent.delivery, sent.due_at)
        if sent.due_at is None:
            self.delivered.add((sent.delivery.webhook_id, sent.delivery.event_id))
        self.settled.append(sent)

    @precondition(lambda self: self.settled)
    @rule(fenced=st.booleans())
    def hear(self, fenced: bool) -> None:
        """The daemon hears what was written; `fenced`: an answer was lost, and the repeated batch changed nothing."""
        sent = self.settled.pop(0)
        if fenced:
            self.lanes.written(sent.delivery, None)
            self.lanes.reread(sent.delivery.webhook_id, sent.delivery.owed_since)
        else:
            self.lanes.written(sent.delivery, sent.due_at)

    @invariant()
    def memory_is_bounded(self) -> None:
        for number, lane in self.lanes._lanes.items():
            retried = sum(row.webhook_id == number and row.attempts > 0 for row in self.table.rows.values())
            assert len(lane) <= 2 * WINDOW + retried

    @precondition(lambda self: self.connected)
    @rule()
    def catch_up(self) -> None:
        """When everything has been looked at and read, a webhook with nothing in flight has nothing due."""
        self._catch_up()
        idle = {number for number, row in self.told.items() if row.live and not self._in_flight(number)}
        late = {key for key, row in self.table.rows.items() if row.due_at <= self.now and key[0] in idle}
        assert set() == late - self._busy_keys()

    def teardown(self) -> None:
        """Nothing is lost: whatever went before, everything owed to live webhooks is delivered in the end."""
        if not self.connected:
            self.connect()
        for _ in range(len(self.table.rows) * 2 + 5):
            self.now += seconds(100)
            self._catch_up()
            while self._busy():
                self._write_back(None)
        assert [] == [key for key in self.table.rows if self.table.webhooks[key[0]].live]
        assert (0, False) == (self.lanes.in_flight, self.lanes.starving)

    def _catch_up(self) -> None:
        self.end_reading()
        self._look()
        self.send(1000)
        while self.lanes.starving:
            self._refill()
            self.send(1000)

    def _look(self) -> None:
        self.begin_look(False)
        self.end_reading()

    def _refill(self) -> None:
        self.begin_refill()
        self.end_reading()

    def _write_back(self, wait: int | None) -> None:
        """Ends one attempt and all that follows from it; or what is left of one."""
        if self.flying:
            self.finish(0, wait)
        if self.finished:
            self.settle()
        if self.settled:
            self.hear(False)

    def _put(self, row: Webhook, horizon: tuple[datetime, int]) -> None:
        self.told[row.id] = row
        self.lanes.put(row, horizon)

    def _busy(self) -> list[Sent]:
        return self.flying + self.finished + self.settled

    def _busy_keys(self) -> set[Key]:
        return {(sent.delivery.webhook_id, sent.delivery.event_id) for sent in self._busy()}

    def _in_flight(self, number: int) -> int:
        return sum(sent.delivery.webhook_id == number for sent in self.flying)


LaneMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.pytestmark = [pytest.mark.timeout(600)]  # to find the shortest way to a fault takes its time


def lanes_with(*rows: Delivery) -> Lanes:
    """Lanes that have taken these deliveries as they arrived."""
    lanes = Lanes(ceiling=8, window=2000)
    for number in {row.webhook_id for row in rows}:
        lanes.put(webhook(number), END)
    lanes.arrive(rows)
    return lanes


def test_lanes_take_turns() -> None:
    """Ten lanes that owe two deliveries are not behind one that owes a thousand: each has its turn in the first round."""
    thousand = [delivery(100, event) for event in range(1, 1001)]
    lanes = lanes_with(*thousand, *(delivery(number, event) for number in range(1, 11) for event in (1, 2)))
    turns = [lanes.next(START) for _ in range(11)]
    assert [*range(1, 11), 100] == sorted(turn.webhook.id for turn in turns if turn is not None)


def test_order_is_by_due_time_and_nothing_goes_before() -> None:
    """What is due first goes first, in whatever order it came, ties by id; the lanes say when there is something again."""
    due = {5: -1, 1: -2, 4: -3, 3: -3, 7: -2.5, 9: 10}
    lanes = lanes_with(*(delivery(1, event, offset) for event, offset in due.items()))
    turns = [lanes.next(START) for _ in range(5)]
    assert [3, 4, 7, 1, 5] == [turn.delivery.event_id for turn in turns if turn is not None]
    assert (None, START + seconds(10)) == (lanes.next(START + seconds(9.999999)), lanes.due())
    assert (webhook(1), delivery(1, 9, 10)) == (lanes.next(START + seconds(10)) or ())[:2]


@pytest.mark.parametrize(
    ("taken", "most", "limit"),
    [([], None, 8), ([], 5, 5), ([False], None, 4), ([False] * 99, None, 1), ([False, False, False, True], None, 2),
     ([True] * 8, None, 9), ([True] * 17, None, 10), ([True] * 1000, None, 32)],
)  # fmt: skip
def test_limit_grows_on_success_and_halves_on_failure(taken: list[bool], most: int | None, limit: int) -> None:
    """By one for every window that was taken, up to the ceiling or the webhook's own; never below one."""
    lane = Lane(webhook(1, most=most), 32, END)
    for event in range(len(taken) + 100):
        lane.hold(delivery(1, event))
    for one in taken:
        assert lane.next(START) is not None
        lane.finish(one)
    while lane.next(START):
        pass
    assert limit == lane.in_flight


def test_what_is_due_does_not_wait_behind_retries() -> None:
    """A window full of deliveries that are due again later does not keep in the table what is due now."""
    daemon = LaneMachine()
    daemon.insert(1, [0] * 20)
    daemon._catch_up()
    while daemon.flying:
        daemon._write_back(60)
        daemon._catch_up()
    assert [1] * 20 == [row.attempts for row in daemon.table.rows.values()]
    daemon.insert(1, [0])
    daemon.begin_look(True)
    daemon.catch_up()


def test_what_the_fence_kept_is_read_again_even_while_a_refill_is_under_way() -> None:
    """A write-back repeated after a lost answer changes nothing: only the table knows when it is owed again."""
    daemon = LaneMachine()
    daemon.insert(1, [0] * 5)
    daemon.lose_connection()
    daemon.connect()
    daemon._refill()
    daemon.send(2)
    daemon.finish(0, 1)
    daemon.settle()
    daemon.begin_refill()
    daemon.hear(True)
    daemon.teardown()
    assert {} == daemon.table.rows


def test_what_arrives_while_a_closed_lane_waits_for_its_last_write_back_is_sent() -> None:
    """The database was lost with an answer on the way, and the webhook owed nothing when lanes were opened anew."""
    daemon = LaneMachine()
    daemon.insert(1, [0])
    daemon._catch_up()
    daemon.finish(0, None)
    daemon.settle()
    daemon.lose_connection()
    daemon.connect()
    daemon.insert(1, [0])
    daemon._look()
    daemon.teardown()
    assert {} == daemon.table.rows


@pytest.mark.parametrize("read", ["look", "refill"])
def test_what_was_read_before_it_was_written_back_is_not_sent_again(read: str) -> None:
    """A look or a refill is as old as its snapshot: what was delivered since then is in it, and is passed over."""
    daemon = LaneMachine()
    daemon.insert(1, [0])
    daemon.lose_connection()
    daemon.connect()
    daemon.insert(1, [0])  # the refill finds it before a look does
    daemon._refill()
    daemon.send(2)
    if read == "refill":
        daemon.change_webhook(1, True, None)  # which reads everything again
        daemon._look()
    daemon.begin_look(False) if read == "look" else daemon.begin_refill()
    for _ in range(2):
        daemon._write_back(None)
    daemon.end_reading()
    daemon.send(2)
    assert [] == daemon.flying
