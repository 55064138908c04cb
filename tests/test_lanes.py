"""The lanes: what is owed is sent in its turn, once at a time, and nothing of it is ever lost from sight.

The state machine plays the rest of bisd around the real lanes: the table, the looks and refills of intake.py, the sends and
write-backs of worker.py and writeback.py. As in the daemon, looks and refills never overlap; all else goes on all the time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bisd.delivery.lane import BEGINNING, END
from bisd.health import Limits, Report
from bisd.lanes import Lanes, Turn
from bisd.model import SHARDS, WELL, Delivery, Took, Webhook
from tests.support.table import START, Key, Table, seconds

CEILING, WINDOW, BUDGET = 3, 4, 20
TESTS_AT_ONCE = 32
LIMITS = Limits(failing_for=seconds(60), min_attempts=7)
IDS = (1, 2, 65)  # 1 and 65 share a shard
# A timer that is late by so much is made up for.
LATE = seconds(0.020)
RAMP = seconds(9)


class Sent(NamedTuple):
    delivery: Delivery
    began: datetime
    took: Took = Took.UNKNOWN
    owed: Delivery | None = None  # as it is owed from then on, once it is finished
    report: Report | None = None

    @property
    def key(self) -> Key:
        return self.delivery.webhook_id, self.delivery.event_id

    def failed_at(self) -> datetime | None:
        counts = self.took in (Took.NO, Took.GONE) and not self.delivery.test
        return self.began if counts else None


class LaneMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is sent twice, before its time or its turn, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(CEILING, LIMITS, WINDOW, BUDGET)
        self.table = Table(IDS)
        self.now = START
        self.looked = self.applied = self.events = 0
        self.connected = True
        self.reading: Callable[[], None] | None = None
        self.told: dict[int, Webhook] = {}
        self.flying, self.finished, self.settled = list[Sent](), list[Sent](), list[Sent]()
        self.done: set[Key] = set()
        # What the lanes have said of their webhooks since they were opened: when a parked one is probed, who is given up.
        self.parked: dict[int, datetime] = {}
        self.over: set[int] = set()
        self.former: set[Key] = set()
        self.ramping: dict[int, datetime] = {}
        self.sent_at: dict[int, datetime] = {}

    @rule(number=st.sampled_from(IDS), due=st.lists(st.integers(-20, 20), min_size=1, max_size=12))
    def insert(self, number: int, due: list[int]) -> None:
        if self.table.webhooks[number].live:
            for offset in due:
                self.events += 1
                due_at = self.now + seconds(offset)
                self.table.put(Delivery(number, self.events, START, min(self.now, due_at), due_at, 0, "t", b"{}", 2))

    @rule(number=st.sampled_from(IDS))
    def insert_test(self, number: int) -> None:
        """bisd.send_test: whether it is switched on or not."""
        self.events += 1
        self.table.put(Delivery(number, self.events, START, self.now, self.now, 0, "t", b"{}", 2, test=True))

    @precondition(lambda self: any(not row.test for row in self.table.rows.values()))
    @rule(data=st.data())
    def deliver_now(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, row in self.table.rows.items() if not row.test)))
        row = self.table.rows[key]
        self.now += seconds(0.001)
        # What is being sent at this moment may as well keep its next due time.
        if key not in {sent.key for sent in self.flying + self.finished}:
            self.table.put(row._replace(due_at=min(row.due_at, self.now)))

    @rule(
        number=st.sampled_from(IDS),
        live=st.sampled_from((True, True, True, True, False)),
        most=st.sampled_from((None, 1, 2)),
        ordered=st.booleans(),
        rate=st.sampled_from((None, None, 0.25, 5.0)),
    )
    def change_webhook(self, number: int, live: bool, most: int | None, ordered: bool, rate: float | None) -> None:
        """By its owner; or its account's plan has webhooks no more, or has them again."""
        changed = self.table.webhooks[number]._replace(max_in_flight=most, ordered=ordered, rate=rate)
        deactivated = not changed.live and changed.standing != WELL
        self.table.change(changed._replace(live=live and not deactivated))

    @rule(number=st.sampled_from(IDS))
    def switch_on(self, number: int) -> None:
        self.now += seconds(0.001)
        self.table.switch_on(number, self.now)

    @rule(by=st.sampled_from((0.5, 1, 7, 30)))
    def advance(self, by: float) -> None:
        self.now += seconds(by)

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        """The first snapshot, then lanes for what is owed, and the tests."""
        self.connected = True
        self.looked = self.applied = self.table.commits
        for number in sorted({webhook_id for webhook_id, _ in self.table.rows}):
            self._put(number, BEGINNING)
        self.lanes.begin_read()
        tests = self.table.tests()
        self.reading = lambda: self._test(tests)

    @precondition(lambda self: self.connected)
    @rule()
    def lose_connection(self) -> None:
        self.connected = False
        self.reading = None
        self.told.clear()
        self.over |= self.lanes._lanes.keys()
        busy = {sent.delivery.webhook_id % SHARDS for sent in self._busy()}
        assert busy == self.lanes.close(range(SHARDS), lost=True)

    @precondition(lambda self: self.connected and self.reading is None)
    @rule(overflows=st.booleans())
    def begin_look(self, overflows: bool) -> None:
        self.lanes.begin_read()
        found, changed = self.table.since(self.looked)
        rows = [row for row in found if not row.test]
        tests = [row for row in found if row.test]
        self.looked = self.table.commits

        def apply() -> None:
            arrived = {row.webhook_id for row in rows}
            for number in sorted(changed | {number for number in arrived if not self.lanes.known(number)}):
                self._put(number, BEGINNING if number in changed else END)
            self.lanes.arrive([] if overflows else rows)
            if overflows:
                self.lanes.begin_read()
            self._test(self.table.tests() if overflows else tests)
            for number in sorted(arrived if overflows else ()):
                self.lanes.reread(number, min(row.due_at for row in rows if row.webhook_id == number))
            self.applied = self.looked

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
            sent = Sent(turn.delivery, self.now)
            assert sent.key not in self.done | self._busy_keys()
            assert (self.table.rows[sent.key].attempts, True) == (sent.delivery.attempts, sent.delivery.due_at <= self.now)
            if not sent.delivery.test:
                self._may_go(turn)
                self.sent_at[turn.webhook.id] = self.now
            self.flying.append(sent)

    def _may_go(self, turn: Turn) -> None:
        """Its webhook is as it was last told, and takes one more now."""
        webhook, sent, now = turn
        number, in_flight = webhook.id, self._in_flight(webhook.id)
        assert (self.told.get(number), True, False) == (webhook, webhook.live, number in self.over)
        assert in_flight < (1 if webhook.ordered else webhook.max_in_flight or CEILING)
        if number in self.parked:
            assert (0, True) == (in_flight, self.parked[number] <= now)
        if webhook.rate is not None and number in self.sent_at:
            assert self.sent_at[number] + seconds(1 / webhook.rate) - LATE <= now
        if webhook.ordered:
            assert [] == [event_id for event_id in self._in_line(number) if event_id < sent.event_id]

    @precondition(lambda self: self.flying)
    @rule(
        which=st.integers(0, 100),
        end=st.sampled_from((*["taken"] * 5, *["retry"] * 5, *["gave up", "postponed", "refused"] * 2, "gone")),
        wait=st.sampled_from((0, 5, 60)),
    )
    def finish(self, which: int, end: str, wait: int) -> None:
        """An attempt ended, one way or another; a test is not sent again whatever came of it."""
        sent = self.flying.pop(which % len(self.flying))
        due_at = self.now + seconds(wait)
        owed: Delivery | None = None
        if end in ("retry", "gone") and not sent.delivery.test:
            owed = sent.delivery._replace(attempts=sent.delivery.attempts + 1, due_at=due_at)
        elif end == "postponed" and not sent.delivery.test:
            owed = sent.delivery._replace(due_at=due_at + seconds(30))
        took = {"taken": Took.YES, "gone": Took.GONE, "postponed": Took.OURS, "refused": Took.UNKNOWN}.get(end, Took.NO)
        report = self.lanes.finish(sent.delivery, took, self.now, end)
        self.finished.append(sent._replace(took=took, owed=owed, report=report))
        if not sent.delivery.test and sent.key not in self.former:
            self._note(sent.delivery.webhook_id, took, report)

    def _note(self, number: int, took: Took, report: Report | None) -> None:
        if took is Took.YES and number not in self.over and number in self.parked:
            del self.parked[number]
            self.ramping[number] = self.now + RAMP
        if report is not None and report.standing.next_probe_at is not None:
            self.parked[number] = report.standing.next_probe_at
        if report is not None and report.deactivate is not None:
            assert number not in self.over
            self.over.add(number)

    @precondition(lambda self: self.finished)
    @rule()
    def settle(self) -> None:
        """The write-back is committed; the daemon has not heard so yet."""
        sent = self.finished.pop(0)
        self.table.settle(sent.delivery, sent.owed, sent.failed_at())
        if sent.report is not None:
            self.table.report(sent.report)
        if sent.owed is None:
            self.done.add(sent.key)
        self.settled.append(sent)

    @precondition(lambda self: self.settled)
    @rule(fenced=st.booleans())
    def hear(self, fenced: bool) -> None:
        """The daemon hears what was written; `fenced`: an answer was lost, and the repeated batch changed nothing."""
        sent = self.settled.pop(0)
        self.former.discard(sent.key)
        if fenced:
            self.lanes.written(sent.delivery, None)
            self.lanes.reread(sent.delivery.webhook_id, sent.delivery.owed_since)
        else:
            self.lanes.written(sent.delivery, sent.owed)

    @precondition(lambda self: self.connected)
    @rule(
        ends=st.lists(st.sampled_from(("retry", "retry", "retry", "taken", "postponed")), min_size=1, max_size=6),
        by=st.sampled_from((0.05, 1, 10)),
        whole=st.booleans(),
    )
    def weather(self, ends: list[str], by: float, whole: bool) -> None:
        """For a while all that is sent ends the same way, and is written back or not yet."""
        for end in ends:
            self.now += seconds(by)
            self._catch_up()
            while self.flying:
                self._write_back(end) if whole else self.finish(0, end, 0)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert [] == [number for number, lane in self.lanes._lanes.items() if len(lane) > 2 * WINDOW]

    @precondition(lambda self: self.connected)
    @rule()
    def catch_up(self) -> None:
        """When everything has been looked at and read, no test waits while there is room for it, and a webhook with nothing in
        flight has nothing due, unless it is to go slowly: then there is a timer that says when it goes on."""
        self._catch_up()
        waiting = {(row.webhook_id, row.event_id) for row in self.table.tests()} - self._busy_keys()
        assert not waiting or sum(sent.delivery.test for sent in self._busy()) == TESTS_AT_ONCE
        idle = [
            row for number, row in self.told.items() if row.live and number not in self.over and not self._in_flight(number)
        ]
        for webhook in idle:
            line = self._in_line(webhook.id)
            if webhook.ordered:  # one after the other; and what has failed holds up the line until it is written
                held_up = any(sent.delivery.webhook_id == webhook.id and sent.took is not Took.YES for sent in self._busy())
                line = [] if held_up else line[:1]
            rows = [self.table.rows[webhook.id, event_id] for event_id in line]
            late = [row for row in rows if row.due_at <= self.now and (webhook.id, row.event_id) not in self._busy_keys()]
            if webhook.rate is not None or webhook.id in self.parked or self.now < self.ramping.get(webhook.id, START):
                assert not late or (self.lanes.due() or END[0]) <= self.now + seconds(300)
            else:
                assert [] == late

    def teardown(self) -> None:
        """Nothing is lost: whatever went before, everything owed to live webhooks is delivered in the end, and every test."""
        if not self.connected:
            self.connect()
        for _ in range(len(self.table.rows) * 2 + 9):
            self.now += seconds(100)
            self._catch_up()
            while self._busy():
                self._write_back("taken")
        assert [] == [key for key, row in self.table.rows.items() if row.test or self.table.webhooks[key[0]].live]
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

    def _write_back(self, end: str, wait: int = 0) -> None:
        """Ends one attempt and all that follows from it; or what is left of one."""
        if self.flying:
            self.finish(0, end, wait)
        if self.finished:
            self.settle()
        if self.settled:
            self.hear(False)

    def _put(self, number: int, horizon: tuple[datetime, int]) -> None:
        """A lane that is new, or was closed, or whose webhook was switched on anew, begins with what the row says; when it sent
        last, it knows."""
        row, lane = self.table.webhook(number), self.lanes._lanes.get(number)
        if lane is None or lane.webhook.resumed_at != row.resumed_at or (row.live and not lane.webhook.live):
            for state in (self.parked, self.ramping):
                state.pop(number, None)
            self.over.discard(number)
            self.former |= {sent.key for sent in self._busy() if sent.delivery.webhook_id == number}
            if row.standing.next_probe_at is not None:
                self.parked[number] = row.standing.next_probe_at
        if lane is None or lane.webhook.rate != row.rate:
            self.sent_at.pop(number, None)
        self.told[number] = row
        self.lanes.put(row, horizon)

    def _test(self, tests: list[Delivery]) -> None:
        for test in tests:
            self.lanes.test(self.table.webhook(test.webhook_id), test)

    def _in_line(self, number: int) -> list[int]:
        """The events that are owed as far as has been looked, without those that were taken and will be settled."""
        taken = {sent.key for sent in self._busy() if sent.took is Took.YES}
        owed = ((row.webhook_id, row.event_id) for row in self.table.owed(number))
        return sorted(key[1] for key in owed if key not in taken and self.table.inserted[key] <= self.applied)

    def _busy(self) -> list[Sent]:
        return self.flying + self.finished + self.settled

    def _busy_keys(self) -> set[Key]:
        return {sent.key for sent in self._busy()}

    def _in_flight(self, number: int) -> int:
        return sum(sent.delivery.webhook_id == number and not sent.delivery.test for sent in self.flying)


LaneMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60)
TestLaneMachine = pytest.mark.timeout(600)(LaneMachine.TestCase)  # to find the shortest way to a fault takes its time
