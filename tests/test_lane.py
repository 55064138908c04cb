"""A lane by example: order, turns, limits, the line of an ordered webhook, probes, tests. In any order: test_lanes."""

from __future__ import annotations

import pytest

from bisd.delivery.lane import BEGINNING, END, Key, Lane, Window
from bisd.health import Limits
from bisd.lanes import Lanes
from bisd.model import Delivery, Outcome, Retry, Standing, Took, Webhook
from bisd.turns import Share
from bisd.worker import hear
from tests.support.table import START, delivery, seconds, webhook
from tests.test_lanes import LaneMachine

LIMITS = Limits(failing_for=seconds(3600), min_attempts=10)


def lanes_with(*rows: Delivery, like: Webhook | None = None) -> Lanes:
    """Lanes that have taken these deliveries as they arrived."""
    lanes = Lanes(ceiling=8, limits=LIMITS, window=2000)
    for number in {row.webhook_id for row in rows}:
        lanes.put((like or webhook(number))._replace(id=number), END)
    lanes.arrive(rows)
    return lanes


def sent(lanes: Lanes, at: float = 0) -> list[int]:
    """The events that go, so many seconds after START, until none does."""
    events = []
    while (turn := lanes.next(START + seconds(at))) is not None:
        events.append(turn.delivery.event_id)
    return events


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
    assert [3, 4, 7, 1, 5] == sent(lanes)
    assert (None, START + seconds(10)) == (lanes.next(START + seconds(9.999999)), lanes.due())
    assert (webhook(1), delivery(1, 9, 10)) == (lanes.next(START + seconds(10)) or ())[:2]


def test_order_of_an_ordered_lane_is_by_event() -> None:
    """One at a time, by event id, whatever is due when and came when; one that is not due yet holds up those behind it."""
    due = {5: -1, 1: -2, 4: -3, 3: 10, 7: -9}
    lanes = lanes_with(*(delivery(1, event, offset) for event, offset in due.items()), like=webhook(1, ordered=True))
    assert [1] == sent(lanes)
    lanes.finish(delivery(1, 1, -2), Took.YES, START, "")
    assert ([], START + seconds(10)) == (sent(lanes, 9.999999), lanes.due())
    order = []
    while events := sent(lanes, 10):
        order += events
        lanes.finish(delivery(1, events[0], due[events[0]]), Took.YES, START + seconds(10), "")
    assert [3, 4, 5, 7] == order


@pytest.mark.parametrize("took", [Took.NO, Took.UNKNOWN, Took.OURS])
def test_what_fails_holds_up_an_ordered_lane_until_it_goes_again(took: Took) -> None:
    """While its failure is being written back, and until its next due time: what comes after it waits behind it."""
    first = delivery(1, 1)
    lanes = lanes_with(first, delivery(1, 2), like=webhook(1, ordered=True))
    assert [1] == sent(lanes)
    lanes.finish(first, took, START, "status 500")
    assert [] == sent(lanes, 1)
    lanes.written(first, first._replace(attempts=1, due_at=START + seconds(5)))
    assert ([], START + seconds(5), [1]) == (sent(lanes, 4.9), lanes.due(), sent(lanes, 5))


def test_what_is_given_up_lets_an_ordered_lane_go_on() -> None:
    """When it is written that it is settled, and not before."""
    first = delivery(1, 1)
    lanes = lanes_with(first, delivery(1, 2), like=webhook(1, ordered=True))
    assert [1] == sent(lanes)
    lanes.finish(first, Took.NO, START, "status 500")
    assert [] == sent(lanes, 1)
    lanes.written(first, None)
    assert [2] == sent(lanes, 1)


def test_switching_on_does_not_let_an_ordered_lane_pass_what_has_failed() -> None:
    """The owner switches it on anew while a failure is being written back: the line is held up all the same."""
    first, second = delivery(1, 1), delivery(1, 2)
    lanes = lanes_with(first, second, like=webhook(1, ordered=True))
    assert [1] == sent(lanes)
    lanes.finish(first, Took.NO, START, "status 500")
    lanes.put(webhook(1, ordered=True)._replace(resumed_at=START + seconds(1)), END)
    lanes.refill(lanes.hungry(1000), [first, second])
    assert [] == sent(lanes, 1)
    lanes.written(first, first._replace(attempts=1))
    lanes.refill(lanes.hungry(1000), [first._replace(attempts=1), second])
    assert [1] == sent(lanes, 1)


@pytest.mark.parametrize(
    ("taken", "most", "limit"),
    [([], None, 8), ([], 5, 5), ([False], None, 4), ([False] * 4, None, 1), ([False, False, False, True], None, 2),
     ([True] * 8, None, 9), ([True] * 17, None, 10), ([True] * 1000, None, 32)],
)  # fmt: skip
def test_limit_grows_on_success_and_halves_on_failure(taken: list[bool], most: int | None, limit: int) -> None:
    """By one for every window that was taken, up to the ceiling or the webhook's own; never below one."""
    lane = Lane(webhook(1, most=most), 32, LIMITS, END, Share())
    for event in range(len(taken) + 100):
        lane.hold(delivery(1, event))
    for one in taken:
        attempted = lane.next(START)
        assert attempted is not None
        lane.finish(attempted, Took.YES if one else Took.NO, START, "")
    while lane.next(START):
        pass
    assert limit == lane.in_flight


@pytest.mark.parametrize(("own", "ordered", "limit"), [(None, False, 8), (3, False, 3), (20, False, 8), (20, True, 1)])
def test_limit_is_the_webhook_s_own(own: int | None, ordered: bool, limit: int) -> None:
    """Where it has one, instead of the configured ceiling; an ordered webhook gets one at a time."""
    lanes = lanes_with(*(delivery(1, event) for event in range(50)), like=webhook(1, most=own, ordered=ordered))
    assert limit == len(sent(lanes))


def lane_with(*rows: Delivery, horizon: Key = BEGINNING, like: Webhook | None = None) -> Lane:
    """A lane that holds these."""
    lane = Lane(like or webhook(1), 8, LIMITS, horizon, Share())
    for row in rows:
        lane.hold(row)
    return lane


def some(number: int, size: int = 1, first: int = 1) -> list[Delivery]:
    """One due after the other."""
    return [delivery(1, event, event)._replace(size=size) for event in range(first, first + number)]


@pytest.mark.parametrize(
    ("held", "size", "window", "room"),
    [
        (0, 1, Window(100, 1000), 101),
        (50, 1, Window(100, 1000), 51),
        (51, 1, Window(100, 1000), 0),
        (10, 50, Window(100, 1000), 91),
        (10, 51, Window(100, 1000), 0),
        (10, 50, Window(100, 1001), 91),
        (10, 50, Window(100, 999), 0),
        (4, 1, Window(8, 1000), 5),
        (3, 1, Window(7, 1000), 4),
        (4, 1, Window(7, 1000), 0),
        (1, 1, Window(2, 1000), 1),
    ],
)
def test_a_lane_reads_when_its_window_is_half_empty(held: int, size: int, window: Window, room: int) -> None:
    """By number and by octets; then as many as there is room for, and one more to know whether that was all, unless the window
    is small. Never where there is nothing more, or nothing to be sent."""
    assert room == lane_with(*some(held, size)).room(window)
    assert 0 == lane_with(*some(held, size), horizon=END).room(window)
    idle = lane_with(*some(held, size))
    idle.webhook = webhook(1, live=False)
    assert 0 == idle.room(window)


def test_octets_are_of_what_is_held() -> None:
    """Whatever comes, is due anew with another body, goes, is left to the table, or is forgotten."""
    window = Window(100, 1000)

    def is_half_full(lane: Lane, octets: int) -> bool:
        return lane.room(Window(100, 2 * octets)) > 0 and lane.room(Window(100, 2 * octets - 1)) == 0

    lane = lane_with(*some(3, 100), horizon=(START + seconds(8), 0))
    assert is_half_full(lane, 300)
    lane.hold(delivery(1, 2, -1)._replace(size=150))
    assert is_half_full(lane, 350)
    lane.hold(delivery(1, 2, -1)._replace(size=999))  # the same, as far as a lane can tell
    assert is_half_full(lane, 350)
    assert lane.next(START) is not None
    assert is_half_full(lane, 200)
    lane.arrive(delivery(1, 9, 9)._replace(size=40), window)  # beyond what has been read
    assert is_half_full(lane, 200)
    lane.reread(START + seconds(3))
    assert (1, True) == (len(lane), is_half_full(lane, 100))
    lane.forget()
    assert (0, BEGINNING) == (len(lane), lane.horizon)
    lane.hold(delivery(1, 4, 4)._replace(size=100))
    assert is_half_full(lane, 100)


@pytest.mark.parametrize(
    ("size", "window", "most", "kept"),
    [(1, Window(10, 1000), 20, 10), (50, Window(100, 500), 20, 10), (50, Window(100, 549), 21, 10),
     (50, Window(10, 550), 20, 10), (1000, Window(10, 400), 0, 1)],
)  # fmt: skip
def test_a_lane_that_holds_twice_its_window_leaves_half_to_the_table(size: int, window: Window, most: int, kept: int) -> None:
    """What is due last, from which on it is read again; one is kept, however large."""
    lane = lane_with(horizon=END)
    rows = some(max(most, 1), size)
    for row in rows if most else []:
        lane.arrive(row, window)
    assert (most, END) == (len(lane), lane.horizon)
    for row in some(1 if most else 2, size, most + 1):
        lane.arrive(row, window)
    assert (kept, (START + seconds(kept + 1), kept + 1)) == (len(lane), lane.horizon)
    order = []
    while (sent := lane.next(START + seconds(1000))) is not None:
        order.append(sent.event_id)
        lane.finish(sent, Took.YES, START, "")
    assert list(range(1, kept + 1)) == order


def test_octets_under_way_are_bounded() -> None:
    """Nothing more goes while twice as many as may be held are under way; what ends makes room for as many."""
    lanes = Lanes(ceiling=8, limits=LIMITS, octets=100)
    rows = [delivery(number, number)._replace(size=67) for number in range(1, 9)]
    for number in range(1, 9):
        lanes.put(webhook(number), END)
    lanes.arrive(rows)
    assert [1, 2, 3] == sent(lanes)
    lanes.finish(rows[0], Took.YES, START, "")
    assert [4] == sent(lanes)
    for row in rows[1:3]:
        lanes.finish(row, Took.YES, START, "")
    assert [5, 6] == sent(lanes)


def test_a_refill_is_of_about_as_much_as_is_asked_for() -> None:
    """Lanes in turn, until their room together is enough; the others are hungry still."""
    lanes = Lanes(ceiling=8, limits=LIMITS, window=10)
    for number in range(1, 6):
        lanes.put(webhook(number), BEGINNING)
    assert [(1, 11), (2, 11), (3, 11)] == [(lane.webhook.id, room) for lane, room in lanes.hungry(23)]
    assert lanes.starving
    assert [(4, 11), (5, 11)] == [(lane.webhook.id, room) for lane, room in lanes.hungry(22)]
    assert not lanes.starving


@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_read_again_is_read_from_there(ordered: bool) -> None:
    """By due time, the event with the lowest id among them included; an ordered lane, which goes by ids, from its beginning."""
    lane = lane_with(*some(3), horizon=END, like=webhook(1, ordered=ordered))
    lane.reread(START + seconds(2))
    assert (BEGINNING if ordered else (START + seconds(2), 0)) == lane.horizon
    assert (0 if ordered else 1) == len(lane)


def test_what_is_read_again_and_again_leaves_nothing_behind() -> None:
    """Neither where the order is kept, nor in the timers of lanes that wait for what is due ever sooner."""
    lane = lane_with(*some(1), horizon=END, like=webhook(1, ordered=True))
    for _ in range(100):
        lane.refill(some(100), Window(1000, 1000), lambda _: False)
        lane.reread(START)
    assert len(lane._order) <= 100
    lanes = Lanes(ceiling=8, limits=LIMITS, window=10)
    lanes.put(webhook(1), END)
    for number in range(1, 5000):
        lanes.arrive([delivery(1, number, 10_000 - number)])
        assert [] == sent(lanes)
    assert len(lanes._timers) < 1100


def test_what_the_fence_kept_is_read_again_from_when_it_was_due() -> None:
    """A replay is owed from a later time on, and may be made due before."""
    lanes = Lanes(ceiling=8, limits=LIMITS, window=10)
    lanes.put(webhook(1), END)
    owed = delivery(1, 1)._replace(owed_since=START + seconds(3600))
    lanes.arrive([owed])
    assert [1] == sent(lanes)
    lanes.finish(owed, Took.NO, START, "status 500")
    hear(lanes, [Outcome(owed, START, None, Retry(START + seconds(5)))], {(1, 1)})
    ((lane, _),) = lanes.hungry(1)
    assert lane.horizon <= (owed.due_at, 0)


@pytest.mark.parametrize(
    ("rows", "octets", "horizon"),
    [(5, 1000, END), (6, 1000, (START + seconds(6), 7)), (5, 500, (START + seconds(5), 6)), (5, 501, END)],
)
def test_a_refill_knows_whether_that_was_all(rows: int, octets: int, horizon: Key) -> None:
    """Fewer rows and fewer octets than were asked for: that was all. Otherwise it goes on after the last."""
    lane = lane_with()
    lane.ask(Window(6, octets))
    lane.refill(some(rows, 100), Window(6, octets), lambda _: False)
    assert (horizon, rows) == (lane.horizon, len(lane))


def test_a_parked_lane_sends_one_probe_on_a_growing_interval() -> None:
    """One at a time, after one second, two, four: what is due waits unspent, and the lanes know when to wake."""
    lanes = lanes_with(*(delivery(1, event) for event in range(1, 1001)))
    for event in sent(lanes):
        lanes.finish(delivery(1, event), Took.NO, START, "status 500")
        lanes.written(delivery(1, event), delivery(1, event, 3600, attempts=1))
    at = 0.0
    for wait in (1, 2, 4, 8, 16):
        assert ([], START + seconds(at + wait)) == (sent(lanes, at + wait - 0.001), lanes.due())
        at += wait
        (probe,) = sent(lanes, at)
        lanes.finish(delivery(1, probe), Took.NO, START + seconds(at), "status 500")
        lanes.written(delivery(1, probe), delivery(1, probe, 3600, attempts=1))


def test_a_probe_that_says_nothing_is_repeated_after_as_long_again() -> None:
    """A fault of our own came between: it is neither tried again at once, nor with a longer wait."""
    like = webhook(1)._replace(standing=Standing(START, 8, 0, START, 3))
    lanes = lanes_with(*(delivery(1, event) for event in range(1, 9)), like=like)
    at = 0.0
    for _ in range(3):
        (probe,) = sent(lanes, at)
        lanes.finish(delivery(1, probe), Took.OURS, START + seconds(at), "network")
        lanes.written(delivery(1, probe), delivery(1, probe, at + 3600))
        at += 8
        assert [] == sent(lanes, at - 0.001)
    assert 1 == len(sent(lanes, at))


def test_what_was_not_asked_is_no_probe() -> None:
    """A parked lane full of deliveries that have lapsed: they are settled one after the other, and the first one that is sent
    is the probe."""
    like = webhook(1)._replace(standing=Standing(START, 8, 0, START, 8))
    lanes = lanes_with(*(delivery(1, event) for event in range(1, 7)), like=like)
    for event in range(1, 6):
        assert [event] == sent(lanes)
        lanes.finish(delivery(1, event), Took.UNKNOWN, START, "")
        lanes.written(delivery(1, event), None)
    assert [6] == sent(lanes)
    lanes.finish(delivery(1, 6), Took.NO, START, "timeout")
    lanes.arrive([delivery(1, 7)])
    assert [] == sent(lanes, 299)


def test_a_probe_is_what_has_been_tried_least() -> None:
    """A body that this receiver cannot digest, and is due first, does not speak for all the others."""
    poison = delivery(1, 1, -100, attempts=7)
    like = webhook(1)._replace(standing=Standing(START, 5, 0, START, 0))
    lanes = lanes_with(poison, delivery(1, 2, -50, attempts=1), delivery(1, 4, -30), delivery(1, 3, -40), like=like)
    assert [3] == sent(lanes)


def test_a_change_does_not_let_a_parked_lane_go() -> None:
    """Another rate, another limit: the probe has its time all the same."""
    like = webhook(1)._replace(standing=Standing(START, 5, 0, START + seconds(10), 0))
    lanes = lanes_with(delivery(1, 1), like=like)
    for changed in (like._replace(rate=100.0), like._replace(rate=None, max_in_flight=7)):
        lanes.put(changed, END)
        lanes.refill(lanes.hungry(1000), [delivery(1, 1)])
        assert ([], [1]) == (sent(lanes, 9.999), sent(lanes, 10) if changed.max_in_flight else [1])


def test_probes_are_no_faster_than_the_rate() -> None:
    """Once in ten seconds is once in ten seconds, parked or not."""
    like = webhook(1, rate=0.1)._replace(standing=Standing(START, 5, 0, START, 0))
    lanes = lanes_with(delivery(1, 1), delivery(1, 2), like=like)
    assert [1] == sent(lanes)
    lanes.finish(delivery(1, 1), Took.NO, START, "status 500")
    assert ([], [2]) == (sent(lanes, 9.9), sent(lanes, 10))


@pytest.mark.parametrize("took", list(Took))
def test_a_deactivated_lane_sends_nothing_whatever_is_still_on_its_way(took: Took) -> None:
    """One answered 410; what comes back afterwards changes nothing, until the webhook is switched on anew."""
    rows = [delivery(1, event) for event in range(1, 11)]
    lanes = lanes_with(*rows)
    assert 8 == len(sent(lanes))
    report = lanes.finish(rows[0], Took.GONE, START, "status 410")
    assert "gone" == (report.deactivate if report is not None else None)
    for row in rows[1:8]:
        assert lanes.finish(row, took, START, "") is None
    assert [] == sent(lanes, 1e6)
    for row in rows[:8]:
        lanes.written(row, None)
    lanes.put(webhook(1)._replace(live=False), END)
    lanes.put(webhook(1)._replace(resumed_at=START + seconds(9)), BEGINNING)
    lanes.refill(lanes.hungry(1000), rows[8:])
    assert [9, 10] == sent(lanes, 10)


def test_what_was_sent_before_it_was_switched_on_says_nothing_of_it() -> None:
    """It got a new URL because the old one is gone: the 410 that is on its way from there does not switch it off again."""
    rows = [delivery(1, event) for event in range(1, 11)]
    lanes = lanes_with(*rows)
    assert 8 == len(sent(lanes))
    lanes.put(webhook(1)._replace(resumed_at=START + seconds(1)), END)
    assert [None] * 8 == [lanes.finish(row, Took.GONE, START + seconds(2), "status 410") for row in rows[:8]]
    for row in rows[:8]:
        lanes.written(row, row._replace(attempts=1))
    lanes.begin_read()
    lanes.refill(lanes.hungry(1000), [*(row._replace(attempts=1) for row in rows[:8]), *rows[8:]])
    assert [1, 2, 3, 4, 5, 6, 7, 8] == sent(lanes, 2)


@pytest.mark.parametrize("live", [True, False])
def test_a_test_goes_at_once_and_once(live: bool) -> None:
    """Past a lane that has its limit in flight, or to a webhook that is switched off; seen again, it is passed over."""
    lanes = lanes_with(*(delivery(1, event) for event in range(1, 20)))
    assert 8 == len(sent(lanes))
    test = delivery(1, 99)._replace(test=True)
    for _ in range(2):
        lanes.test(webhook(1, live=live), test)
    assert ((webhook(1, live=live), test, START), []) == (lanes.next(START), sent(lanes))
    lanes.test(webhook(1, live=live), test)
    assert ([], None) == (sent(lanes), lanes.finish(test, Took.GONE, START, "status 410"))
    lanes.begin_read()
    lanes.written(test, None)
    lanes.test(webhook(1, live=live), test)  # as it was read before it was written
    assert [] == sent(lanes)


def test_a_shard_is_not_let_go_while_a_test_is_on_its_way() -> None:
    """Its next owner would send it again; one that has not been sent yet is left to the next owner."""
    lanes = Lanes(ceiling=8, limits=LIMITS)
    tests = [delivery(number, 100 + number)._replace(test=True) for number in (1, 2)]
    lanes.test(webhook(1), tests[0])
    assert [101] == sent(lanes)
    lanes.test(webhook(2), tests[1])
    assert ({1}, []) == (lanes.close(range(64)), sent(lanes))
    lanes.finish(tests[0], Took.YES, START, "")
    lanes.written(tests[0], None)
    assert set() == lanes.close(range(64))


def test_lanes_that_are_closed_leave_nothing_behind() -> None:
    """A thousand webhooks, switched on and off one after the other, leave the memory they had to the next one."""
    lanes = Lanes(ceiling=8, limits=LIMITS, window=2000)
    for number in range(1, 1001):
        lanes.put(webhook(number), END)
        lanes.put(webhook(number, live=False), END)
    lanes.put(webhook(1001), END)
    assert 2000 == lanes.window.deliveries


@pytest.mark.parametrize("how", ["deliver_now", "switch_on"])
def test_what_is_made_due_while_its_failure_is_written_back_is_due_at_once(how: str) -> None:
    """The write-back said in an hour; the owner, in the same moment and after it: now."""
    daemon = LaneMachine()
    daemon.insert(1, [0])
    daemon._catch_up()
    daemon.finish(0, "retry", 3600)
    daemon.settle()
    if how == "switch_on":
        daemon.switch_on(1)
    else:
        daemon.now += seconds(1)
        daemon.table.put(daemon.table.rows[1, 1]._replace(due_at=daemon.now))
    daemon._catch_up()
    daemon.hear(False)
    daemon._catch_up()
    assert [(1, 1)] == [sent.key for sent in daemon.flying]


def test_what_is_due_does_not_wait_behind_retries() -> None:
    """A window full of deliveries that are due again later does not keep in the table what is due now."""
    daemon = LaneMachine()
    daemon.insert(1, [0] * 20)
    daemon._catch_up()
    while daemon.flying:
        daemon._write_back("postponed", 60)
        daemon._catch_up()
    assert [START + seconds(90)] * 20 == [row.due_at for row in daemon.table.rows.values()]
    daemon.insert(1, [0])
    daemon.begin_look(True)
    daemon.catch_up()


def test_what_the_fence_kept_is_read_again_even_while_a_refill_is_under_way() -> None:
    """A write-back repeated after a lost answer changes nothing: only the table knows when it is owed again."""
    daemon = LaneMachine()
    daemon.insert(1, [0] * 5)
    daemon.lose_connection()
    daemon.connect()
    daemon.end_reading()
    daemon._refill()
    daemon.send(2)
    daemon.finish(0, "retry", 1)
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
    daemon.finish(0, "taken", 0)
    daemon.settle()
    daemon.lose_connection()
    daemon.connect()
    daemon.insert(1, [0])
    daemon._catch_up()
    daemon.teardown()
    assert {} == daemon.table.rows


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("read", ["look", "refill"])
def test_what_was_read_before_it_was_written_back_is_not_sent_again(read: str, moved: bool) -> None:
    """A look or a refill is as old as its snapshot: what was delivered since then is in it, and is passed over, even if it had
    been made due anew meanwhile."""
    daemon = LaneMachine()
    daemon.insert(1, [0])
    daemon.lose_connection()
    daemon.connect()
    daemon.end_reading()
    daemon.insert(1, [0])  # the refill finds it before a look does
    daemon._refill()
    daemon.send(2)
    if read == "refill":
        daemon.change_webhook(1, True, None, False, None)  # which reads everything again
        daemon._look()
    if moved:
        for row in list(daemon.table.rows.values()):
            daemon.table.put(row._replace(due_at=row.due_at - seconds(0.001)))
    daemon.begin_look(False) if read == "look" else daemon.begin_refill()
    for _ in range(2):
        daemon._write_back("taken")
    daemon.end_reading()
    daemon.send(2)
    assert [] == daemon.flying
